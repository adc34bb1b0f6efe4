/** Whom a client asks, and which names and addresses it has given to each other (tunnel spec 12.1 to 12.8). */
import type { Answer } from "./fate.ts"
import {
  compareSpecificity,
  type DnsResource,
  type Family,
  familyOf,
  isDoh,
  isSentinel,
  matches,
  proxiesOf,
  type Resource,
  reverseNameOf,
  sentinelsFor,
  supports,
  type Upstream
} from "./rules.ts"

const CANARY = "use-application-dns.net"
const SMALLEST_TTL = 5

/** A name of a DNS resource, in the case in which it was asked for first. */
export interface Named {
  readonly name: string
  readonly nth: number
  /** The patterns that it was assigned to, by resource. */
  readonly assigned: Map<string, string>
}

export interface DnsSettings {
  readonly do53: ReadonlyArray<string>
  readonly doh: ReadonlyArray<string>
  readonly searchDomain: string | undefined
}

/** What becomes of a query, before anybody else is asked. */
export type Verdict =
  | { readonly _tag: "answer"; readonly answer: Answer; readonly named?: Named | undefined }
  | { readonly _tag: "pool"; readonly pool: string }
  | { readonly _tag: "site"; readonly resource: DnsResource }
  | { readonly _tag: "upstream" }

export class NamesModel {
  readonly #resources: ReadonlyMap<string, Resource>
  /** Survives a restart of the client. */
  names: ReadonlyArray<Named> = []
  settings: DnsSettings = { do53: [], doh: [], searchDomain: undefined }
  system: ReadonlyArray<string> = []
  #mapping: ReadonlyArray<readonly [sentinel: string, upstream: Upstream]> = []
  #cache = new Map<string, { readonly data: ReadonlyArray<string>; readonly until: number }>()
  /** Devices that the portal has named. */
  readonly #devices = new Map<string, { readonly ipv4: string; readonly ipv6: string }>()
  /** How often the cache was emptied. */
  generation = 0

  constructor(resources: ReadonlyMap<string, Resource>) {
    this.#resources = resources
  }

  get mapping(): ReadonlyArray<readonly [sentinel: string, upstream: Upstream]> {
    return this.#mapping
  }

  /** 12.1 */
  get isCustom(): boolean {
    return this.settings.do53.length > 0 || this.settings.doh.length > 0
  }

  get #upstreams(): ReadonlyArray<Upstream> {
    const { do53, doh } = this.settings
    const chosen = do53.length > 0 ? do53 : doh.length > 0 ? doh : this.system
    return [...new Set(chosen)].filter((upstream) => isDoh(upstream) || !isSentinel(upstream))
  }

  /** 12.2 */
  update(): void {
    const upstreams = this.#upstreams
    if (upstreams.join() === this.#mapping.map(([, upstream]) => upstream).join()) return
    const sentinels = sentinelsFor(upstreams, this.#mapping.map(([sentinel]) => sentinel))
    this.#mapping = upstreams.map((upstream, i) => [sentinels[i] ?? "", upstream])
    this.flush()
  }

  upstreamAt(sentinel: string): Upstream | undefined {
    return this.#mapping.find(([address]) => address === sentinel)?.[1]
  }

  flush(): void {
    this.#cache.clear()
    this.generation += 1
  }

  /** A DNS resource has come: names that it had under another pattern are not its own any more (12.6). */
  resourceAdded(resource: Resource): void {
    for (const { assigned } of resource.type === "dns" ? this.names : []) {
      if (resource.type === "dns" && assigned.get(resource.id) !== resource.pattern) assigned.delete(resource.id)
    }
    if (resource.type === "dynamic_device_pool") return
    this.forgetPool(resource.id)
  }

  forgetPool(id: string): void {
    for (const key of [...this.#devices.keys()]) if (key.startsWith(`${id} `)) this.#devices.delete(key)
  }

  /** 12.7 */
  resolved(pool: string, name: string, device: { readonly ipv4: string; readonly ipv6: string }): void {
    this.#devices.set(`${pool} ${name.toLowerCase()}`, device)
  }

  named(name: string): Named | undefined {
    return this.names.find((each) => each.name.toLowerCase() === name.toLowerCase())
  }

  ownerOf(address: string): Named | undefined {
    return this.names.find(({ nth }) => proxiesOf(nth, familyOf(address)).includes(address))
  }

  /** The resources that a name's addresses lead to, of those that are there as they were when it was assigned. */
  resourcesOf({ assigned }: Named): ReadonlyArray<DnsResource> {
    return [...this.#resources.values()].filter((resource): resource is DnsResource =>
      resource.type === "dns" && assigned.get(resource.id) === resource.pattern
    )
  }

  /** 12.4, as far as the client knows by itself. */
  ask(name: string, type: string, now: number): Verdict {
    const cached = this.#cache.get(keyOf(name, type))
    if (cached !== undefined && now < cached.until) return answer(...cached.data)
    const pool = [...this.#resources.values()]
      .filter((each) => each.type === "dynamic_device_pool" && matches(each.pattern, name))
      .map(({ id }) => id).toSorted()[0]
    if (pool !== undefined) return this.#askPool(pool, name, type)
    if (name.toLowerCase() === CANARY) return { _tag: "answer", answer: { code: "NXDOMAIN", data: [] } }
    const matching = [...this.#resources.values()]
      .filter((each): each is DnsResource => each.type === "dns" && matches(each.pattern, name))
      .toSorted((a, b) => compareSpecificity(a.pattern, b.pattern) || (a.id < b.id ? 1 : -1))
    if (type === "PTR") {
      // Gateways are told of the name that was asked for (11.1), which this one is not.
      const named = this.names.find(({ nth }) =>
        [...proxiesOf(nth, 4), ...proxiesOf(nth, 6)].some((address) => reverseNameOf(address) === name.toLowerCase())
      )
      return named === undefined ? { _tag: "upstream" } : answer(named.name)
    }
    const [first] = matching
    if (first === undefined) return { _tag: "upstream" }
    if (type === "A") return this.#allocate(name, matching, 4)
    if (type === "AAAA") return this.#allocate(name, matching, 6)
    if (type === "HTTPS") return { ...answer(), named: this.named(name) }
    return type === "SRV" || type === "TXT" ? { _tag: "site", resource: first } : { _tag: "upstream" }
  }

  #askPool(pool: string, name: string, type: string): Verdict {
    if (type !== "A" && type !== "AAAA") return answer()
    const device = this.#devices.get(`${pool} ${name.toLowerCase()}`)
    if (device === undefined) return { _tag: "pool", pool }
    return answer(type === "A" ? device.ipv4 : device.ipv6)
  }

  #allocate(name: string, matching: ReadonlyArray<DnsResource>, family: Family): Verdict {
    const named = this.named(name) ?? { name, nth: this.names.length, assigned: new Map<string, string>() }
    if (!this.names.includes(named)) this.names = [...this.names, named]
    for (const { id, pattern } of matching) named.assigned.set(id, pattern)
    const isServed = matching.some(({ stack }) => supports(stack, family))
    return { ...answer(...isServed ? proxiesOf(named.nth, family) : []), named }
  }

  /** 12.8: an answer of somebody else's, whose question was asked in this generation of the cache. */
  heard(name: string, type: string, data: ReadonlyArray<string>, ttl: number, generation: number, now: number): void {
    if (generation !== this.generation || data.length === 0 || ttl < SMALLEST_TTL) return
    this.#cache.set(keyOf(name, type), { data, until: now + ttl * 1000 })
  }
}

const keyOf = (name: string, type: string): string => `${name.toLowerCase()} ${type}`

const answer = (...data: ReadonlyArray<string>): { readonly _tag: "answer"; readonly answer: Answer } => ({
  _tag: "answer",
  answer: { code: "NOERROR", data }
})
