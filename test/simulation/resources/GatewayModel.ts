/** What a gateway does with the packets of its clients (tunnel spec 14.2 to 14.7). */
import { dropped, type Fate, type Packet, prohibited, unreachable } from "./fate.ts"
import {
  best,
  contains,
  type DnsResource,
  familyOf,
  isProxy,
  isRefusedByInternet,
  isTunnel,
  lengthOf,
  matches,
  permits,
  type Protocol,
  type Resource,
  sorted,
  supports
} from "./rules.ts"

/** Milliseconds; a translation that nothing came back through lasts as long as the first. */
const UNCONFIRMED = 60_000
const IDLE = { tcp: 7_440_000, udp: 120_000, icmp: 120_000 } as const

/** A name that a client's addresses stand for. */
interface Name {
  /** As the client numbers them, IPv4 and IPv6. */
  readonly proxies: ReadonlyArray<string>
  hosts: ReadonlyArray<string>
  readonly resources: Map<string, DnsResource["stack"]>
}

interface Translation {
  readonly host: string
  last: number
  isConfirmed: boolean
}

class Client {
  readonly addresses: ReadonlyArray<string>
  readonly grants = new Map<string, Resource>()
  readonly names = new Map<string, Name>()
  readonly translations = new Map<string, Translation>()

  constructor(addresses: ReadonlyArray<string>) {
    this.addresses = addresses
  }
}

export class GatewayModel {
  readonly id: string
  readonly site: string
  readonly addresses: ReadonlyArray<string>
  readonly #clients = new Map<string, Client>()

  constructor(id: string, site: string, addresses: ReadonlyArray<string>) {
    this.id = id
    this.site = site
    this.addresses = addresses
  }

  knows(client: string): boolean {
    return this.#clients.has(client)
  }

  grants(client: string): ReadonlyArray<string> {
    return [...this.#clients.get(client)?.grants.keys() ?? []].sort()
  }

  grant(client: string, addresses: ReadonlyArray<string>, resource: Resource): void {
    const known = this.#clients.get(client) ?? new Client(addresses)
    this.#clients.set(client, known)
    known.grants.set(resource.id, resource)
  }

  /** Returns whether the client has nothing left here, and is told goodbye. */
  revoke(client: string, isOver: (resource: string) => boolean): boolean {
    const known = this.#clients.get(client)
    if (known === undefined) return false
    for (const id of [...known.grants.keys()]) if (isOver(id)) known.grants.delete(id)
    if (known.grants.size > 0) return false
    this.#clients.delete(client)
    return true
  }

  setFilters(resource: Resource): void {
    for (const { grants } of this.#clients.values()) {
      if (grants.get(resource.id)?.type === resource.type) grants.set(resource.id, resource)
    }
  }

  forget(client: string): void {
    this.#clients.delete(client)
  }

  restart(): void {
    this.#clients.clear()
  }

  /** 14.6: whether the gateway takes the name. */
  setUp(
    client: string,
    resource: DnsResource,
    name: string,
    proxies: ReadonlyArray<string>,
    hosts: ReadonlyArray<string>
  ): boolean {
    const known = this.#clients.get(client)
    const granted = known?.grants.get(resource.id)
    if (known === undefined || granted?.type !== "dns" || !matches(granted.pattern, name)) return false
    const before = known.names.get(name) ?? { proxies, hosts: [], resources: new Map() }
    // The client names the addresses of the resource's families, and of those alone it is said where they lead.
    const isNamed = (host: string): boolean => supports(resource.stack, familyOf(host))
    before.hosts = [...before.hosts.filter((host) => !isNamed(host)), ...hosts.filter(isNamed)]
    before.resources.set(resource.id, resource.stack)
    known.names.set(name, before)
    return true
  }

  receive(client: string, packet: Packet, now: number): Fate {
    const known = this.#clients.get(client)
    const { from, port, protocol, to } = packet
    if (known === undefined || protocol === "other") return dropped
    if (!known.addresses.includes(from)) return prohibited
    if (this.addresses.includes(to)) return { _tag: "delivered", at: this.id, to: [to] }
    if (isTunnel(to)) return prohibited
    const verdict = this.#classify(known, to, protocol, port)
    if (verdict !== undefined) return verdict
    return isProxy(to) ? this.#translate(known, packet, protocol, now) : { _tag: "delivered", at: this.id, to: [to] }
  }

  /** 14.4: why the packet is refused, if it is. */
  #classify({ grants, names }: Client, to: string, protocol: Protocol, port: number): Fate | undefined {
    const family = familyOf(to)
    const resources = [...grants.values()]
    const hasInternet = resources.some(({ type }) => type === "internet")
    if (hasInternet && !isProxy(to) && !isRefusedByInternet(to)) return undefined
    const name = [...names.values()].find(({ proxies }) => proxies.includes(to))
    const entry = best(
      resources.flatMap((resource) => {
        if (resource.type === "cidr" && contains(resource.network, to)) {
          return [{ id: resource.id, filters: resource.filters, prefix: lengthOf(resource.network) }]
        }
        const stack = name?.resources.get(resource.id)
        if (resource.type !== "dns" || stack === undefined || !supports(stack, family)) return []
        return [{ id: resource.id, filters: resource.filters, prefix: family === 4 ? 32 : 128 }]
      }),
      protocol,
      port
    )
    if (entry !== undefined) return permits(entry.filters, protocol, port) ? undefined : prohibited
    return hasInternet && !isProxy(to) ? unreachable : prohibited
  }

  /** 14.3 step 6 and 14.5. */
  #translate({ names, translations }: Client, packet: Packet, protocol: Protocol, now: number): Fate {
    const { ending, id, to } = packet
    const family = familyOf(to)
    const name = [...names.values()].find(({ proxies }) => proxies.includes(to))
    const hosts = sorted(name?.hosts ?? [], family)
    const proxies = sorted(name?.proxies ?? [], family)
    const host = hosts[proxies.indexOf(to) % hosts.length]
    if (host === undefined) return unreachable
    const key = `${protocol} ${id} ${to}`
    const before = translations.get(key)
    const age = now - (before?.last ?? Number.NEGATIVE_INFINITY)
    const certain = before?.isConfirmed === true ? IDLE[protocol] : UNCONFIRMED
    // Between the two times nobody can say from outside whether it was confirmed; ends are a second's work.
    const isKept = before !== undefined && age < certain
    const isOver = age > IDLE[protocol] + 1000
    const real = isKept ? before.host : host
    translations.set(key, { host: real, last: now, isConfirmed: ending === "reply" })
    const either = before === undefined || isOver || isKept ? [real] : [before.host, host]
    return { _tag: "delivered", at: this.id, to: either }
  }
}
