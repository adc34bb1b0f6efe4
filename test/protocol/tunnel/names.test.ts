/**
 * Names from the application's query to the host behind the gateway: the cores of both, a resolver whose records change,
 * and hosts that answer. The probes of tunnel spec 20.1 as far as names go (P4 to P9, P11, P12; R8, R10, R11).
 */
import * as fc from "fast-check"
import { expect, it } from "vitest"
import type { GatewayResource } from "../../../src/protocol/portal/types.ts"
import { ip, type IpAddress, ipToBytes } from "../../../src/protocol/wire/address.ts"
import { IcmpError, parseIcmpError } from "../../../src/protocol/wire/icmp.ts"
import { setDestination, setDestinationPort, setSource, setSourcePort } from "../../../src/protocol/wire/ipEdit.ts"
import { clientWith, via } from "./client.ts"
import { addresses, answerTo, dnsResource } from "./dns.ts"
import { CLIENT_4, CLIENT_6, gateway as gatewayOf, grant, tcpPort, udpPort, uuid } from "./fixtures.ts"
import { gatewayWith } from "./gateway.ts"
import { icmpError, isIntact, parsed, ping, summary, tcp, udp } from "./packets.ts"

const client = { id: uuid(0xc1), ipv4: CLIENT_4, ipv6: CLIENT_6 }
const site = gatewayOf(1)
const resources = [
  dnsResource(1, "**.corp.test"),
  // More specific, but it permits less: it counts for what it permits.
  dnsResource(2, "db.corp.test", { filters: [tcpPort(443)] }),
  dnsResource(3, "web.test", { filters: [tcpPort(443), udpPort(1, 100)] })
]
const names = ["a.corp.test", "db.corp.test", "web.test"] as const
type Name = (typeof names)[number]
const kinds = ["tcp", "udp", "ping"] as const
type Kind = (typeof kinds)[number]
/** Of `web.test`, whose one resource has filters: where `probe` sends TCP and UDP. */
const isPermitted = (name: Name, kind: Kind): boolean => name !== "web.test" || kind === "tcp"

class World {
  readonly client = clientWith(...resources)
  readonly gateway = gatewayWith(site)
  /** What the resolver behind the gateway knows. */
  readonly records = new Map<string, ReadonlyArray<IpAddress>>()
  /** What it has told the gateway last. */
  readonly resolved = new Map<string, ReadonlyArray<IpAddress>>()
  readonly #arrived: Array<Uint8Array> = []
  readonly #received: Array<Uint8Array> = []

  constructor() {
    this.client.core.setSystemResolvers([ip("192.0.2.53")])
  }

  /** The addresses that the application is given. */
  ask(name: string, type: "A" | "AAAA"): ReadonlyArray<string> {
    const proxies = addresses(answerTo(this.client, name, { type }))
    this.settle()
    return proxies
  }

  /** What an application's packet leads to, here and behind the gateway. */
  send(
    packet: Uint8Array
  ): { readonly arrived: ReadonlyArray<Uint8Array>; readonly received: ReadonlyArray<Uint8Array> } {
    const sent = this.client.fromTun(packet)
    if (sent !== undefined) this.#toGateway(sent)
    this.settle()
    return { arrived: this.#arrived.splice(0), received: this.#received.splice(0) }
  }

  /** What the application gets of a packet from behind the gateway. */
  answer(packet: Uint8Array): ReadonlyArray<Uint8Array> {
    const sent = this.gateway.fromTun(packet)
    if (sent !== undefined) this.#toClient(sent)
    this.settle()
    return this.#received.splice(0)
  }

  wait(millis: number): void {
    this.client.advance(millis)
    this.gateway.advance(millis)
    this.settle()
  }

  settle(): void {
    for (let moves = 1; moves > 0;) {
      moves = 0
      // Set-ups of names go out with the time.
      this.client.core.handleTimeout(this.client.now)
      for (const event of this.client.events()) {
        if (event._tag !== "Request" || event.request._tag !== "RequestAuthorization") continue
        const { resourceId } = event.request
        this.gateway.grant(client, resources.find(({ id }) => id === resourceId) as GatewayResource)
        this.client.push(grant(resourceId, site))
        for (
          const { id, node } of [{ id: site.id, node: this.client.node }, { id: client.id, node: this.gateway.node }]
        ) {
          if (!node.isEstablished(id)) node.establish(id)
        }
        this.client.nudge()
        this.gateway.nudge()
        moves += 1
      }
      for (const event of this.gateway.events()) {
        if (event._tag !== "ResolveDomain") continue
        const hosts = this.records.get(event.domain) ?? []
        this.resolved.set(event.domain, hosts)
        this.gateway.core.domainResolved(event.domain, hosts, this.gateway.now)
        moves += 1
      }
      for (const packet of this.client.sent()) {
        this.#toGateway(packet)
        moves += 1
      }
      for (const packet of this.gateway.sent()) {
        this.#toClient(packet)
        moves += 1
      }
      this.#received.push(...this.client.toTun())
    }
  }

  #toGateway(packet: Uint8Array): void {
    const passed = this.gateway.fromPeer(client.id, packet)
    if (passed !== undefined) this.#arrived.push(passed)
  }

  #toClient(packet: Uint8Array): void {
    const passed = this.client.fromPeer(site.id, packet)
    if (passed !== undefined) this.#received.push(passed)
  }
}

const probe = (kind: Kind, to: string, port: number): Uint8Array => {
  if (kind === "ping") return ping(via(to), port)
  if (kind === "udp") return udp(via(to), 5000, `probe ${port}`, port)
  const packet = tcp(via(to), 443, 0x18, 7, `probe ${port}`)
  setSourcePort(parsed(packet), port)
  return packet
}

/** The other end's answer: everything turned round, the payload as it was. */
const reply = (packet: Uint8Array): Uint8Array => {
  const bytes = packet.slice()
  const view = parsed(bytes)
  const at = view.version === 4 ? 12 : 8
  const size = view.version === 4 ? 4 : 16
  const { destinationPort, sourcePort } = view
  setSource(view, packet.slice(at + size, at + 2 * size))
  setDestination(view, packet.slice(at, at + size))
  setSourcePort(view, destinationPort)
  setDestinationPort(view, sourcePort)
  return bytes
}

/** What the client's own or the gateway's refusal says, and about which packet. */
const refusal = (packets: ReadonlyArray<Uint8Array>) =>
  packets.map((bytes) => {
    const error = new IcmpError()
    if (!isIntact(bytes) || !parseIcmpError(parsed(bytes), error)) return summary(bytes)
    const { destination, sourcePort } = error.failed
    return { isProhibited: error.isProhibited, code: error.code, destination: [...destination], sourcePort }
  })

const hostSets = fc.subarray(["10.0.0.1", "10.0.0.2", "10.0.0.3", "2001:db8::1", "2001:db8::2"].map(ip))
const step = fc.oneof(
  {
    weight: 1,
    arbitrary: fc.record({ what: fc.constant("records" as const), name: fc.constantFrom(...names), hosts: hostSets })
  },
  { weight: 1, arbitrary: fc.record({ what: fc.constant("wait" as const), millis: fc.constantFrom(100, 1900, 2500) }) },
  { weight: 1, arbitrary: fc.record({ what: fc.constant("ask" as const), name: fc.constantFrom(...names) }) },
  {
    weight: 5,
    arbitrary: fc.record({
      what: fc.constant("probe" as const),
      name: fc.constantFrom(...names),
      type: fc.constantFrom("A" as const, "AAAA" as const),
      kind: fc.constantFrom(...kinds),
      nth: fc.nat(3),
      ending: fc.constantFrom("reply", "error")
    })
  }
)
type Step = typeof step extends fc.Arbitrary<infer S> ? S : never
type Probe = Extract<Step, { readonly what: "probe" }>

/** How a probe ended, and how it has to. */
const judge = (
  world: World,
  { ending, kind, name, nth, type }: Probe,
  proxies: ReadonlyArray<string>,
  port: number
) => {
  const proxy = proxies[nth] ?? ""
  const packet = probe(kind, proxy, port)
  const { arrived, received } = world.send(packet)
  const hosts = (world.resolved.get(name) ?? []).filter((host) => host.includes(":") === (type === "AAAA"))
  const host = hosts[nth % hosts.length]
  const refused = { destination: [...parsed(packet).destination], sourcePort: port }
  if (!isPermitted(name, kind)) {
    return {
      found: { arrived, refused: refusal(received) },
      expected: { arrived: [], refused: [{ ...refused, isProhibited: true, code: type === "A" ? 13 : 1 }] }
    }
  }
  if (host === undefined) {
    return {
      found: { arrived, refused: refusal(received) },
      expected: { arrived: [], refused: [{ ...refused, isProhibited: false, code: type === "A" ? 0 : 3 }] }
    }
  }
  const translated = packet.slice()
  setDestination(parsed(translated), ipToBytes(host))
  const [request = new Uint8Array(0)] = arrived
  const answered = { arrived: [translated], received: [] as ReadonlyArray<Uint8Array> }
  if (arrived.length !== 1) return { found: { arrived, received }, expected: answered }
  const back = ending === "reply"
    ? world.answer(reply(request))
    : refusal(world.answer(icmpError(request, "unreachable-net")))
  return {
    found: { arrived, received, back },
    expected: {
      ...answered,
      back: ending === "reply" ? [reply(packet)] : [{ ...refused, isProhibited: false, code: type === "A" ? 0 : 3 }]
    }
  }
}

/** What every step has led to, probes alone. */
const play = (first: ReadonlyArray<ReadonlyArray<IpAddress>>, steps: ReadonlyArray<Step>) => {
  const world = new World()
  /** Applications keep what they were told. */
  const known = new Map<string, ReadonlyArray<string>>()
  names.forEach((name, index) => world.records.set(name, first[index] ?? []))
  return steps.flatMap((each, index) => {
    switch (each.what) {
      case "records":
        world.records.set(each.name, each.hosts)
        return []
      case "wait":
        world.wait(each.millis)
        return []
      case "ask":
        world.ask(each.name, "A")
        return []
      case "probe": {
        const key = `${each.name} ${each.type}`
        const proxies = known.get(key) ?? world.ask(each.name, each.type)
        known.set(key, proxies)
        return [judge(world, each, proxies, 1000 + index)]
      }
    }
  })
}

it("every probe to a name ends as it has to, wherever the name leads by then", () => {
  fc.assert(
    fc.property(fc.tuple(hostSets, hostSets, hostSets), fc.array(step, { maxLength: 25 }), (first, steps) => {
      const outcomes = play(first, steps)
      expect(outcomes.map(({ found }) => found)).toEqual(outcomes.map(({ expected }) => expected))
    }),
    { numRuns: 200 }
  )
})
