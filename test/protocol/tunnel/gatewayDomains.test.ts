/** DNS resources at the gateway's core: tunnel spec 14.3 to 14.7. */
import * as fc from "fast-check"
import { describe, expect, it } from "vitest"
import type { Filter, GatewayResource } from "../../../src/protocol/portal/types.ts"
import { makeControlPacket, readControlEvent } from "../../../src/protocol/tunnel/controlPacket.ts"
import { ip, type IpAddress } from "../../../src/protocol/wire/address.ts"
import { network, tcpPort, udpPort, uuid } from "./fixtures.ts"
import { type Client, type GatewayHarness, gatewayWith } from "./gateway.ts"
import { icmpError, isIntact, other, parsed, ping, summary, tcp, udp } from "./packets.ts"

const alice = { id: uuid(0xc1), ipv4: "100.64.0.1", ipv6: "fd00:2021:1111::1" }
const bob = { id: uuid(0xc2), ipv4: "100.64.0.2", ipv6: "fd00:2021:1111::2" }

const dns = (id: number, address: string, filters: ReadonlyArray<Filter> = []): GatewayResource => ({
  type: "dns",
  id: uuid(id),
  name: address,
  address,
  filters
})
const wiki = dns(1, "wiki.test")
const wild = dns(2, "*.wild.test")
const lan: GatewayResource = { type: "cidr", id: uuid(8), name: "lan", address: network("10.0.0.0/8"), filters: [] }
const internet: GatewayResource = { type: "internet", id: uuid(9) }

const PROXY = "100.96.0.1"
const PROXY_6 = "fd00:2021:1111:8000::"
const HOST = "10.0.0.1"
const HOST_6 = "2001:db8::1"

/** The addresses of the client's `nth` name. */
const proxies = (nth = 0): ReadonlyArray<IpAddress> => [
  ...[1, 2, 3, 4].map((i) => ip(`100.96.0.${4 * nth + i}`)),
  ...[0, 1, 2, 3].map((i) => ip(`fd00:2021:1111:8000::${(4 * nth + i).toString(16)}`))
]

const serving = (...resources: ReadonlyArray<GatewayResource>): GatewayHarness => {
  const gateway = gatewayWith({ ipv4: "100.64.1.1", ipv6: "fd00:2021:1111::1:1" })
  for (const resource of resources) gateway.connect(alice, resource)
  return gateway
}

interface Wish {
  readonly client?: Client
  readonly proxyIps?: ReadonlyArray<IpAddress>
}

/** What the client sends, and what the gateway wants resolved. */
const assign = (
  gateway: GatewayHarness,
  resource: string,
  domain: string,
  { client = alice, proxyIps = proxies() }: Wish = {}
) => {
  expect(gateway.fromPeer(client.id, makeControlPacket({ _tag: "AssignedIps", resource, domain, proxyIps })))
    .toBeUndefined()
  return gateway.events().flatMap((event) => event._tag === "ResolveDomain" ? [event.domain] : [])
}

const resolve = (gateway: GatewayHarness, domain: string, ...hosts: ReadonlyArray<string>): void =>
  gateway.core.domainResolved(domain, hosts.map(ip), gateway.now)

/** What the gateway has told clients about names. */
const statuses = (gateway: GatewayHarness) =>
  gateway.deliveries().map(({ bytes, peer }) => {
    const event = readControlEvent(parsed(bytes))
    return event._tag === "DomainStatus"
      ? { peer, domain: event.domain, resource: event.resource, status: event.status }
      : event
  })

/** The whole conversation; the name is Active afterwards. */
const setUp = (
  gateway: GatewayHarness,
  resource: string,
  domain: string,
  hosts: ReadonlyArray<string>,
  wish: Wish = {}
) => {
  const { client = alice } = wish
  expect(assign(gateway, resource, domain, wish)).toEqual([domain])
  resolve(gateway, domain, ...hosts)
  expect(statuses(gateway)).toEqual([{ peer: client.id, domain, resource, status: "Active" }])
}

const towards = (to: string, client: Client = alice) => ({ from: to.includes(":") ? client.ipv6 : client.ipv4, to })

/** Who got the client's packet, or how the client was refused. */
const fate = (gateway: GatewayHarness, packet: Uint8Array, client: Client = alice): string => {
  const passed = gateway.fromPeer(client.id, packet)
  const answers = gateway.sent().map(summary)
  if (passed === undefined) return answers[0] ?? Object.keys(gateway.dropped()).join()
  expect(answers).toEqual([])
  expect(isIntact(passed)).toBe(true)
  return summary(passed)
}

describe("the set-up of a name", () => {
  it("resolves it and leads its addresses to the hosts", () => {
    const gateway = serving(wiki)
    setUp(gateway, wiki.id, "wiki.test", [HOST, HOST_6])
    expect(gateway.fromPeer(alice.id, tcp(towards(PROXY)))).toEqual(tcp(towards(HOST)))
    expect(gateway.fromPeer(alice.id, udp(towards(PROXY_6)))).toEqual(udp(towards(HOST_6)))
  })
  it("deals out hosts in turn, both sides in the order of their values", () => {
    const gateway = serving(wiki)
    setUp(gateway, wiki.id, "wiki.test", ["192.0.2.10", "10.0.0.2", "9.0.0.3", HOST_6], {
      proxyIps: proxies().toReversed()
    })
    expect([1, 2, 3, 4].map((i) => fate(gateway, tcp(towards(`100.96.0.${i}`))))).toEqual(
      ["9.0.0.3", "10.0.0.2", "192.0.2.10", "9.0.0.3"].map((host) => `100.64.0.1 > ${host} protocol 6`)
    )
    expect(fate(gateway, tcp(towards(`${PROXY_6}3`)))).toBe(`${alice.ipv6} > ${HOST_6} protocol 6`)
  })
  it("is Active without any address, and nothing gets through", () => {
    const gateway = serving(wiki)
    setUp(gateway, wiki.id, "wiki.test", [])
    expect(fate(gateway, tcp(towards(PROXY)))).toBe("100.96.0.1 > 100.64.0.1 protocol 1 type 3 code 0")
    expect(fate(gateway, tcp(towards(PROXY_6)))).toBe(`${PROXY_6} > ${alice.ipv6} protocol 58 type 1 code 3`)
  })
  it("with hosts of one family leaves the other unreachable", () => {
    const gateway = serving(wiki)
    setUp(gateway, wiki.id, "wiki.test", [HOST_6])
    expect(fate(gateway, ping(towards(PROXY)))).toBe("100.96.0.1 > 100.64.0.1 protocol 1 type 3 code 0")
    expect(gateway.dropped()).toEqual({ "unreachable-net": 1 })
    expect(fate(gateway, ping(towards(PROXY_6)))).toBe(`${alice.ipv6} > ${HOST_6} protocol 58 type 128 code 0`)
  })
  it("may come again, and refreshes the hosts for new sessions", () => {
    const gateway = serving(wiki)
    setUp(gateway, wiki.id, "wiki.test", [HOST])
    expect(fate(gateway, udp(towards(PROXY)))).toBe("100.64.0.1 > 10.0.0.1 protocol 17")
    setUp(gateway, wiki.id, "wiki.test", ["10.0.0.7"])
    expect(fate(gateway, udp(towards(PROXY)))).toBe("100.64.0.1 > 10.0.0.1 protocol 17")
    expect(fate(gateway, tcp(towards(PROXY)))).toBe("100.64.0.1 > 10.0.0.7 protocol 6")
  })
  it("resolves a name once for all who ask meanwhile, whatever its case", () => {
    const gateway = serving(wiki, dns(3, "**.test"))
    gateway.connect(bob, wiki)
    expect(assign(gateway, wiki.id, "wiki.test")).toEqual(["wiki.test"])
    expect(assign(gateway, wiki.id, "wiki.test")).toEqual([])
    expect(assign(gateway, uuid(3), "wiki.test")).toEqual([])
    expect(assign(gateway, wiki.id, "WIKI.test", { client: bob, proxyIps: proxies(5) })).toEqual([])
    resolve(gateway, "Wiki.Test", HOST)
    expect(statuses(gateway)).toEqual([
      { peer: alice.id, domain: "wiki.test", resource: wiki.id, status: "Active" },
      { peer: alice.id, domain: "wiki.test", resource: uuid(3), status: "Active" },
      { peer: bob.id, domain: "WIKI.test", resource: wiki.id, status: "Active" }
    ])
    expect(fate(gateway, tcp(towards("100.96.0.21", bob)), bob)).toBe("100.64.0.2 > 10.0.0.1 protocol 6")
    resolve(gateway, "wiki.test", "10.0.0.99")
    expect(statuses(gateway)).toEqual([])
    expect(fate(gateway, ping(towards(PROXY)))).toContain("> 10.0.0.1 ")
  })
  it("is Inactive at once, and resolves nothing, for a name of no granted DNS resource", () => {
    const gateway = serving(wild, lan, dns(4, "***.broken"))
    const refused = [
      [wiki.id, "wiki.test"],
      [lan.id, "wiki.test"],
      [wild.id, "a.b.wild.test"],
      [wild.id, "wiki.test"],
      [uuid(4), "a.broken"]
    ] as const
    for (const [resource, domain] of refused) {
      expect(assign(gateway, resource, domain)).toEqual([])
      expect(statuses(gateway)).toEqual([{ peer: alice.id, domain, resource, status: "Inactive" }])
    }
    expect(fate(gateway, tcp(towards(PROXY)))).toBe("100.96.0.1 > 100.64.0.1 protocol 1 type 3 code 13")
  })
  it("is Inactive after 10 s without an answer, and a late one is nothing", () => {
    const gateway = serving(wild)
    assign(gateway, wild.id, "a.wild.test")
    gateway.advance(5000)
    assign(gateway, wild.id, "b.wild.test", { proxyIps: proxies(1) })
    gateway.advance(4999)
    expect(statuses(gateway)).toEqual([])
    gateway.advance(1)
    expect(statuses(gateway)).toEqual([
      { peer: alice.id, domain: "a.wild.test", resource: wild.id, status: "Inactive" }
    ])
    resolve(gateway, "a.wild.test", HOST)
    resolve(gateway, "b.wild.test", HOST)
    expect(statuses(gateway)).toMatchObject([{ domain: "b.wild.test", status: "Active" }])
    expect(gateway.core.pollTimeout()).toBeUndefined()
  })
  it("is Inactive if the grant has ended meanwhile, and silent if the client has", () => {
    const gateway = serving(wiki, lan)
    assign(gateway, wiki.id, "wiki.test")
    gateway.push({ _tag: "RejectAccess", clientId: alice.id, resourceId: wiki.id })
    resolve(gateway, "wiki.test", HOST)
    expect(statuses(gateway)).toMatchObject([{ status: "Inactive" }])
    gateway.connect(alice, wiki)
    assign(gateway, wiki.id, "wiki.test")
    gateway.fromPeer(alice.id, makeControlPacket({ _tag: "Goodbye" }))
    resolve(gateway, "wiki.test", HOST)
    expect(gateway.sent()).toEqual([])
  })
  it("of addresses that stand for no names is refused in silence", () => {
    const gateway = serving(wiki)
    for (const strange of ["10.0.0.5", "100.64.0.9", "fd00:2021:1111::9", "::"]) {
      expect(assign(gateway, wiki.id, "wiki.test", { proxyIps: [...proxies().slice(1), ip(strange)] })).toEqual([])
    }
    expect(gateway.dropped()).toEqual({ "malformed-control-packet": 4 })
    expect(gateway.sent()).toEqual([])
  })
  it("goes no further when too many wait", () => {
    const gateway = serving(wild)
    for (let i = 0; i < 1000; i++) expect(assign(gateway, wild.id, `n${i}.wild.test`)).toHaveLength(1)
    expect(assign(gateway, wild.id, "more.wild.test")).toEqual([])
    expect(gateway.dropped()).toEqual({ "dns-overload": 1 })
    expect(assign(gateway, wild.id, "n7.wild.test")).toEqual([])
    resolve(gateway, "n7.wild.test")
    expect(assign(gateway, wild.id, "more.wild.test")).toHaveLength(1)
  })
})

describe("a client that has begun anew", () => {
  it("is noticed by an address that stands for another name now, and nothing of before holds", () => {
    const gateway = serving(wiki, wild)
    setUp(gateway, wiki.id, "wiki.test", [HOST])
    setUp(gateway, wild.id, "a.wild.test", ["10.0.0.2"], { proxyIps: proxies(1) })
    const before = gateway.fromPeer(alice.id, udp(towards(PROXY)))
    setUp(gateway, wild.id, "b.wild.test", ["10.0.0.3"])
    // A session from the same port would have stayed with its host.
    expect(before).toEqual(udp(towards(HOST)))
    expect(fate(gateway, udp(towards(PROXY)))).toBe("100.64.0.1 > 10.0.0.3 protocol 17")
    expect(fate(gateway, udp(towards("100.96.0.5")))).toBe("100.96.0.5 > 100.64.0.1 protocol 1 type 3 code 13")
  })
  it("is not mistaken for one that asks in another case", () => {
    const gateway = serving(wiki)
    setUp(gateway, wiki.id, "wiki.test", [HOST])
    fate(gateway, udp(towards(PROXY)))
    setUp(gateway, wiki.id, "WIKI.test", ["10.0.0.2"])
    expect(fate(gateway, udp(towards(PROXY)))).toBe("100.64.0.1 > 10.0.0.1 protocol 17")
  })
})

describe("what a client may send to a name", () => {
  it("is what the filters of its resource permit, beside those of networks", () => {
    const gateway = serving(dns(1, "wiki.test", [tcpPort(443)]), lan)
    setUp(gateway, wiki.id, "wiki.test", [HOST])
    expect(fate(gateway, tcp(towards(PROXY), 443))).toBe("100.64.0.1 > 10.0.0.1 protocol 6")
    expect(fate(gateway, tcp(towards(PROXY), 80))).toBe("100.96.0.1 > 100.64.0.1 protocol 1 type 3 code 13")
    expect(fate(gateway, ping(towards(PROXY)))).toBe("100.96.0.1 > 100.64.0.1 protocol 1 type 3 code 13")
    expect(fate(gateway, tcp(towards(HOST), 80))).toBe("100.64.0.1 > 10.0.0.1 protocol 6")
  })
  it("is what any of two resources permits that share an address, each for as long as it is granted", () => {
    const other = dns(3, "**.test", [udpPort(53)])
    const gateway = serving(dns(1, "wiki.test", [tcpPort(443)]), other)
    setUp(gateway, wiki.id, "wiki.test", [HOST])
    expect(fate(gateway, udp(towards(PROXY), 53))).toContain("code 13")
    setUp(gateway, other.id, "wiki.test", [HOST])
    expect(fate(gateway, udp(towards(PROXY), 53))).toBe("100.64.0.1 > 10.0.0.1 protocol 17")
    expect(fate(gateway, tcp(towards(PROXY), 443))).toBe("100.64.0.1 > 10.0.0.1 protocol 6")
    gateway.push({ _tag: "RejectAccess", clientId: alice.id, resourceId: wiki.id })
    expect(fate(gateway, tcp(towards(PROXY), 443))).toContain("code 13")
    expect(fate(gateway, udp(towards(PROXY), 53))).toBe("100.64.0.1 > 10.0.0.1 protocol 17")
  })
  it("follows an update of the filters", () => {
    const gateway = serving(wiki)
    setUp(gateway, wiki.id, "wiki.test", [HOST])
    gateway.push({ _tag: "ResourceUpdated", resource: dns(1, "wiki.test", [udpPort(1)]) })
    expect(fate(gateway, tcp(towards(PROXY)))).toContain("code 13")
    expect(fate(gateway, udp(towards(PROXY), 1))).toContain("> 10.0.0.1")
  })
  it("holds again, without another set-up, once the resource is granted again and still has the name", () => {
    const gateway = serving(wiki, lan)
    setUp(gateway, wiki.id, "wiki.test", [HOST])
    gateway.push({ _tag: "RejectAccess", clientId: alice.id, resourceId: wiki.id })
    expect(fate(gateway, tcp(towards(PROXY)))).toContain("code 13")
    gateway.connect(alice, dns(1, "docs.test"))
    expect(fate(gateway, tcp(towards(PROXY)))).toContain("code 13")
    gateway.push({ _tag: "RejectAccess", clientId: alice.id, resourceId: wiki.id })
    gateway.connect(alice, wiki)
    expect(fate(gateway, tcp(towards(PROXY)))).toBe("100.64.0.1 > 10.0.0.1 protocol 6")
  })
  it("is nothing of another client's names", () => {
    const gateway = serving(wiki)
    gateway.connect(bob, wiki)
    setUp(gateway, wiki.id, "wiki.test", [HOST])
    expect(fate(gateway, tcp(towards(PROXY, bob)), bob)).toBe("100.96.0.1 > 100.64.0.2 protocol 1 type 3 code 13")
  })
  it("has to have a port", () => {
    const gateway = serving(wiki)
    setUp(gateway, wiki.id, "wiki.test", [HOST])
    expect(fate(gateway, other(towards(PROXY), 47))).toBe("unsupported-protocol")
  })
  it("does not depend on the Internet resource, which leads to no names", () => {
    const gateway = serving(wiki, internet)
    setUp(gateway, wiki.id, "wiki.test", [HOST])
    expect(fate(gateway, tcp(towards(PROXY)))).toBe("100.64.0.1 > 10.0.0.1 protocol 6")
    expect(fate(gateway, tcp(towards("100.96.0.99")))).toBe("100.96.0.99 > 100.64.0.1 protocol 1 type 3 code 13")
    expect(fate(gateway, tcp(towards(HOST)))).toBe("10.0.0.1 > 100.64.0.1 protocol 1 type 3 code 0")
  })
})

describe("what comes back", () => {
  const answer = udp({ from: HOST, to: alice.ipv4 }, 40_000, "answer", 53)
  const translated = udp({ from: PROXY, to: alice.ipv4 }, 40_000, "answer", 53)

  it("comes from the address that the client has asked", () => {
    const gateway = serving(wiki)
    setUp(gateway, wiki.id, "wiki.test", [HOST])
    expect(gateway.fromTun(answer)).toBeUndefined()
    expect(fate(gateway, udp(towards(PROXY), 53))).toContain("> 10.0.0.1")
    expect(gateway.fromTun(answer)).toEqual(translated)
  })
  it("is not let through any more once the client may not ask", () => {
    const gateway = serving(wiki, lan)
    setUp(gateway, wiki.id, "wiki.test", [HOST])
    fate(gateway, udp(towards(PROXY), 53))
    gateway.push({ _tag: "RejectAccess", clientId: alice.id, resourceId: wiki.id })
    expect(gateway.fromTun(answer)).toBeUndefined()
    expect(gateway.dropped()).toEqual({ "not-allowed": 1 })
  })
  it("too late is dropped, though a network with the host is granted too", () => {
    const gateway = serving(wiki, lan)
    setUp(gateway, wiki.id, "wiki.test", [HOST])
    fate(gateway, udp(towards(PROXY), 53))
    gateway.advance(59_000)
    expect(gateway.fromTun(answer)).toEqual(translated)
    gateway.advance(119_000)
    expect(gateway.fromTun(answer)).toEqual(translated)
    gateway.advance(120_000)
    expect(gateway.fromTun(answer)).toBeUndefined()
    expect(gateway.dropped()).toEqual({ "expired-translation": 1 })
    // Nothing is left that would wake it.
    expect(gateway.core.pollTimeout()).toBeUndefined()
    expect(gateway.fromTun(udp({ from: "10.0.0.2", to: alice.ipv4 }, 40_000, "answer", 53))).toBeDefined()
  })
  it("as an ICMP error of a router quotes what the client has sent", () => {
    const gateway = serving(wiki)
    setUp(gateway, wiki.id, "wiki.test", [HOST])
    const sent = gateway.fromPeer(alice.id, udp(towards(PROXY), 53)) ?? new Uint8Array(0)
    const error = icmpError(sent, "unreachable-net")
    error.set([10, 9, 9, 9], 12)
    const received = gateway.fromTun(error) ?? new Uint8Array(0)
    expect(summary(received)).toBe("100.96.0.1 > 100.64.0.1 protocol 1 type 3 code 0")
    expect(received.slice(40, 52)).toEqual(udp(towards(PROXY), 53).slice(12, 24))
  })
})

/** Where the names of the last test are; only those of granted resources may be reached. */
const places: { readonly [domain: string]: ReadonlyArray<string> } = {
  "wiki.test": ["192.0.2.1", "2001:db8::1"],
  "a.wild.test": ["192.0.2.2"],
  "evil.test": ["192.0.2.66", "2001:db8::66"],
  "a.b.wild.test": ["192.0.2.66"]
}
const anywhere = fc.constantFrom(
  ...[PROXY, "100.96.0.2", PROXY_6, "10.0.0.1", "192.0.2.66", "100.64.0.2", "127.0.0.1", "2001:db8::66"].map(ip)
)
const assignment = fc.record({
  resource: fc.constantFrom(wiki.id, wiki.id, wild.id, lan.id),
  domain: fc.constantFrom("WIKI.test", ...Object.keys(places)),
  proxyIps: fc.oneof(fc.constant(proxies()), fc.array(anywhere, { minLength: 4, maxLength: 4 }))
})
const sending = fc.record({ to: anywhere, make: fc.constantFrom(udp, tcp, ping) })

it("whatever a client says and sends, it reaches nothing but hosts of names that it was granted", () => {
  fc.assert(
    fc.property(
      fc.array(fc.oneof(assignment, sending, fc.uint8Array({ maxLength: 80 })), { maxLength: 30, size: "max" }),
      (steps) => {
        const gateway = serving(wiki, wild)
        const reached = steps.flatMap((each) => {
          const packet = each instanceof Uint8Array
            ? other({ from: "::", to: "::" }, 0xff, Uint8Array.from(each))
            : "make" in each
            ? each.make(towards(each.to))
            : makeControlPacket({ _tag: "AssignedIps", ...each })
          const passed = gateway.fromPeer(alice.id, packet)
          for (const event of gateway.events()) {
            if (event._tag === "ResolveDomain") {
              resolve(gateway, event.domain, ...places[event.domain.toLowerCase()] ?? [])
            }
          }
          gateway.sent()
          return passed === undefined ? [] : [summary(passed).split(" ")[2] ?? ""]
        })
        const allowed = ["192.0.2.1", "2001:db8::1", "192.0.2.2", "100.64.1.1"]
        expect(reached.filter((host) => !allowed.includes(host))).toEqual([])
      }
    ),
    { numRuns: 500 }
  )
})
