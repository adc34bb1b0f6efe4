/** Names of resources: what the sentinels answer, and how packets to such an answer reach a gateway (tunnel spec 11, 12.6). */
import { describe, expect, it } from "vitest"
import type { DnsResource, Resource } from "../../../src/protocol/portal/types.ts"
import {
  type ControlEvent,
  isControlPacket,
  makeControlPacket,
  readControlEvent
} from "../../../src/protocol/tunnel/controlPacket.ts"
import { ip } from "../../../src/protocol/wire/address.ts"
import { udpPacket } from "../../../src/protocol/wire/udp.ts"
import { back, ClientHarness, clientWith, via } from "./client.ts"
import {
  addresses,
  answerTo,
  ask,
  dnsResource,
  outsideQueries,
  payloadOf,
  PORT,
  records,
  replies,
  SENTINEL,
  upstreamAnswer
} from "./dns.ts"
import {
  cidr,
  CLIENT_4,
  CLIENT_6,
  type Gateway,
  gateway,
  grant,
  init,
  internet,
  site2,
  tcpPort,
  udpPort
} from "./fixtures.ts"
import { icmpError, parsed, ping, summary, tcp, udp } from "./packets.ts"

const g1 = gateway(1)
const g2 = gateway(2, site2.id)
const corp = dnsResource(1, "*.corp.test")

const client = (...resources: ReadonlyArray<Resource>): ClientHarness => {
  const client = clientWith(...resources)
  client.core.setSystemResolvers([ip("192.0.2.53")])
  client.events()
  return client
}
/** The first address of a name, of the family. */
const addressOf = (c: ClientHarness, name: string, type: "A" | "AAAA" = "A"): string => {
  const [address] = addresses(answerTo(c, name, { type }))
  if (address === undefined) throw new Error(`${name} has no address`)
  return address
}
/** Control packets that gateways got since, and how many other packets. */
const delivered = (c: ClientHarness) => {
  const bytes = c.deliveries()
  const control = bytes.filter((each) => isControlPacket(parsed(each.bytes))).map(({ bytes, peer }) => ({
    peer,
    event: readControlEvent(parsed(bytes))
  }))
  return { control, packets: bytes.length - control.length }
}
const status = (resource: Resource, domain: string, status: "Active" | "Inactive" = "Active"): Uint8Array =>
  makeControlPacket({ _tag: "DomainStatus", resource: resource.id, domain, status })
const assigned = (resource: Resource, domain: string, proxyIps: ReadonlyArray<string>): ControlEvent => ({
  _tag: "AssignedIps",
  resource: resource.id,
  domain,
  proxyIps: proxyIps.map((text) => ip(text))
})
const proxies4 = (first: number) => [0, 1, 2, 3].map((i) => `100.96.0.${first + i}`)
const proxies6 = (first: number) => [0, 1, 2, 3].map((i) => `fd00:2021:1111:8000::${first + i}`)

/** Access is granted and the connection is up; what was sent for that is forgotten. */
const connect = (c: ClientHarness, resource: Resource, to: string, via: Gateway = g1): void => {
  c.connect(resource.id, to, via)
  c.events()
}
/** The gateway knows the name. */
const ready = (c: ClientHarness, resource: DnsResource, name: string, via: Gateway = g1): string => {
  const address = addressOf(c, name)
  connect(c, resource, address, via)
  c.fromPeer(via.id, status(resource, name))
  c.sent()
  return address
}

describe("a name of a resource", () => {
  it("is answered with addresses of the client's own, and asks nobody", () => {
    const c = client(corp)
    const reply = answerTo(c, "Wiki.corp.test")
    expect(reply).toMatchObject({
      from: SENTINEL,
      port: PORT,
      message: {
        id: 0x1234,
        rcode: "NOERROR",
        flag_qr: true,
        flag_aa: false,
        flag_tc: false,
        flag_rd: true,
        flag_ra: false,
        questions: [{ name: "Wiki.corp.test", type: "A", class: "IN" }],
        authorities: [],
        additionals: []
      }
    })
    expect(records(reply)).toEqual(proxies4(1).map((address) => `Wiki.corp.test 1 A ${address}`))
    expect(addresses(answerTo(c, "wiki.CORP.test", { type: "AAAA" }))).toEqual(proxies6(0).map((text) => ip(text)))
    expect([outsideQueries(c), c.intents()]).toEqual([[], []])
  })
  it("has no address if the pattern is none, and that is told", () => {
    const broken = dnsResource(1, "a**.test")
    const c = clientWith()
    c.core.setSystemResolvers([ip("192.0.2.53")])
    c.events()
    c.push({ _tag: "ResourceCreatedOrUpdated", resource: broken })
    expect(c.events()).toContainEqual({ _tag: "UnusablePattern", resourceId: broken.id })
    ask(c, "ab.test")
    expect(outsideQueries(c)).toHaveLength(1)
  })
  it("is not listed in the cache: it can change at any time", () => {
    const c = client(corp)
    answerTo(c, "a.corp.test")
    c.push({ _tag: "ResourceDeleted", id: corp.id })
    ask(c, "a.corp.test")
    expect([replies(c), outsideQueries(c).length]).toEqual([[], 1])
  })
  it("has a name for its addresses, also when the resource is gone", () => {
    const c = client(corp)
    answerTo(c, "Wiki.corp.test")
    c.push({ _tag: "ResourceDeleted", id: corp.id })
    expect(records(answerTo(c, "2.0.96.100.in-addr.arpa", { type: "PTR" }))).toEqual([
      "2.0.96.100.in-addr.arpa 1 PTR Wiki.corp.test"
    ])
  })
  it("has the addresses that it had in the session before", () => {
    const before = client(corp)
    answerTo(before, "a.corp.test")
    answerTo(before, "b.corp.test")
    const after = new ClientHarness(before.core.savedNames())
    after.push(init([corp]))
    after.core.setSystemResolvers([ip("192.0.2.53")])
    after.events()
    expect(after.fromTun(udp(via("100.96.0.5")))).toBeUndefined()
    expect(after.intents()).toEqual([corp.id])
    expect(addresses(answerTo(after, "b.corp.test"))).toEqual(proxies4(5))
    expect(addresses(answerTo(after, "c.corp.test"))).toEqual(proxies4(9))
  })
})

describe("a packet to an address of a name", () => {
  it("asks for the name's resource, and goes on when the gateway knows the name", () => {
    const c = client(corp)
    const to = addressOf(c, "Wiki.corp.test")
    expect(c.fromTun(udp(via(to), 443))).toBeUndefined()
    expect(c.intents()).toEqual([corp.id])
    c.push(grant(corp.id, g1))
    expect(delivered(c)).toEqual({ control: [], packets: 0 })
    c.node.establish(g1.id)
    c.nudge()
    // In the case of the first query, and only once although two packets ask for it.
    expect(delivered(c)).toEqual({
      control: [{
        peer: g1.id,
        event: assigned(corp, "Wiki.corp.test", [...proxies4(1), ...proxies6(0)].map((x) => ip(x)))
      }],
      packets: 0
    })
    expect(c.fromTun(tcp(via(to), 80))).toBeUndefined()
    expect(c.fromPeer(g1.id, status(corp, "wiki.corp.test"))).toBeUndefined()
    expect(c.sent().map(summary)).toEqual([`${CLIENT_4} > ${to} protocol 17`, `${CLIENT_4} > ${to} protocol 6`])
    expect(c.fromTun(ping(via(to)))).toBeDefined()
  })
  it("comes back from it, and from no other gateway", () => {
    const c = client(corp, cidr(2, "10.0.0.0/8", { sites: [site2] }))
    const to = ready(c, corp, "a.corp.test")
    c.connect(cidr(2, "10.0.0.0/8").id, "10.0.0.1", g2)
    c.dropped()
    expect(c.fromPeer(g1.id, udp(back(to)))).toBeDefined()
    expect(c.fromPeer(g2.id, udp(back(to)))).toBeUndefined()
    expect(c.fromPeer(g1.id, udp(back("100.96.0.77")))).toBeUndefined()
    expect(c.dropped()).toEqual({ "not-allowed": 2 })
  })
  it("is refused at once if the filters say so", () => {
    const c = client(dnsResource(1, "*.corp.test", { filters: [tcpPort(443)] }))
    const to = addressOf(c, "a.corp.test")
    expect(c.fromTun(udp(via(to), 443))).toBeUndefined()
    expect(c.toTun().map(summary)).toEqual([`${to} > ${CLIENT_4} protocol 1 type 3 code 13`])
    expect(c.intents()).toEqual([])
    c.fromTun(tcp(via(to), 443))
    expect(c.intents()).toEqual([corp.id])
  })
  it("goes to the resource that permits it, else to the most specific, else to the larger id", () => {
    const exact = dnsResource(1, "a.corp.test", { filters: [tcpPort(443)] })
    const star = dnsResource(2, "*.corp.test", { filters: [udpPort(53)] })
    const starToo = dnsResource(3, "*.corp.test", { filters: [udpPort(53)] })
    const c = client(exact, star, starToo)
    const to = addressOf(c, "a.corp.test")
    const asks = (packet: Uint8Array) => {
      c.advance(3000)
      c.fromTun(packet)
      return c.intents()
    }
    expect(asks(tcp(via(to), 443))).toEqual([exact.id])
    expect(asks(udp(via(to), 53))).toEqual([starToo.id])
    expect(asks(tcp(via(to), 80))).toEqual([])
    c.push({ _tag: "ResourceDeleted", id: starToo.id })
    expect(asks(udp(via(to), 53))).toEqual([star.id])
  })
  it("goes to a resource that serves the family only", () => {
    const four = dnsResource(1, "a.corp.test", { ipStack: "ipv4_only" })
    const six = dnsResource(2, "*.corp.test", { ipStack: "ipv6_only" })
    const c = client(four, six)
    const [to4, to6] = [addressOf(c, "a.corp.test"), addressOf(c, "a.corp.test", "AAAA")]
    c.fromTun(udp(via(to4)))
    expect(c.intents()).toEqual([four.id])
    c.fromTun(udp(via(to6)))
    expect(c.intents()).toEqual([six.id])
    for (const [resource, of, proxies] of [[four, g1, proxies4(1)], [six, g2, proxies6(0)]] as const) {
      c.push(grant(resource.id, of))
      c.node.establish(of.id)
      c.nudge()
      expect(delivered(c).control).toEqual([{ peer: of.id, event: assigned(resource, "a.corp.test", proxies) }])
    }
  })
  it("has no way if no resource is behind it any more, but for the Internet resource", () => {
    const c = client(corp, internet(7))
    const to = addressOf(c, "a.corp.test")
    c.push({ _tag: "ResourceDeleted", id: corp.id })
    c.fromTun(udp(via(to)))
    c.fromTun(udp(via("100.96.0.99")))
    expect([c.dropped(), c.intents()]).toEqual([{ "unknown-resource": 2 }, []])
    c.core.setInternetResourceState(true, c.now)
    c.fromTun(udp(via(to)))
    expect(c.intents()).toEqual([internet(7).id])
  })
  it("finds its resource again that comes back without another query", () => {
    const c = client(corp)
    const to = ready(c, corp, "a.corp.test")
    c.push({ _tag: "ResourceDeleted", id: corp.id })
    c.push({ _tag: "ResourceCreatedOrUpdated", resource: corp })
    c.fromTun(udp(via(to)))
    expect(c.intents()).toEqual([corp.id])
  })
  it("asks again when the gateway prohibits what was granted", () => {
    const c = client(corp)
    const to = ready(c, corp, "a.corp.test")
    const sent = c.fromTun(udp(via(to)))
    if (sent === undefined) throw new Error("not sent")
    expect(c.fromPeer(g1.id, icmpError(sent))).toBeDefined() // the application hears of it too
    expect(c.intents()).toEqual([corp.id])
  })
})

describe("the gateway's part (tunnel spec 11)", () => {
  it("is told again after 2 s while it says nothing, and packets wait, 32 of them", () => {
    const c = client(corp)
    const to = addressOf(c, "a.corp.test")
    connect(c, corp, to)
    for (let i = 0; i < 40; i++) c.fromTun(udp(via(to), 1000 + i))
    expect(delivered(c)).toEqual({ control: [], packets: 0 })
    c.advance(1999)
    c.fromTun(udp(via(to), 2000))
    expect(delivered(c).control).toEqual([])
    c.advance(1)
    c.fromTun(udp(via(to), 2001))
    expect(delivered(c).control).toHaveLength(1)
    c.fromPeer(g1.id, status(corp, "a.corp.test"))
    const ports = c.sent().map((bytes) => parsed(bytes).destinationPort)
    expect([ports.length, ports.at(-1)]).toEqual([32, 2001])
  })
  it("is asked to look the name up again by every query, while packets go on", () => {
    const c = client(corp)
    const to = ready(c, corp, "a.corp.test")
    for (const type of ["A", "AAAA", "HTTPS"]) {
      c.advance(100)
      answerTo(c, "a.corp.test", { type })
      expect([type, delivered(c).control.length]).toEqual([type, 1])
      expect(c.fromTun(udp(via(to)))).toBeDefined()
      c.fromPeer(g1.id, status(corp, "a.corp.test"))
    }
    answerTo(c, "a.corp.test")
    answerTo(c, "a.corp.test")
    expect(delivered(c).control).toHaveLength(1) // it has not answered the first
    c.advance(2000)
    answerTo(c, "a.corp.test")
    expect(delivered(c).control).toHaveLength(1)
  })
  it("may fail, and then packets go to it all the same until the name is asked for again", () => {
    const c = client(corp)
    const to = addressOf(c, "a.corp.test")
    connect(c, corp, to)
    c.fromTun(udp(via(to)))
    c.fromPeer(g1.id, status(corp, "a.corp.test", "Inactive"))
    expect(delivered(c).packets).toBe(0) // those that waited are lost
    expect(c.fromTun(udp(via(to)))).toBeDefined()
    answerTo(c, "a.corp.test")
    expect(delivered(c).control).toHaveLength(1)
    expect(c.fromTun(udp(via(to)))).toBeUndefined()
    c.fromPeer(g1.id, status(corp, "a.corp.test"))
    expect(delivered(c).packets).toBe(1)
  })
  it("is set up for each name and each resource", () => {
    const two = dnsResource(2, "a.corp.test", { filters: [udpPort(53)], sites: [site2] })
    const c = client(corp, two)
    const [a, b] = [addressOf(c, "a.corp.test"), addressOf(c, "b.corp.test")]
    c.authorize(corp.id, b, g1)
    c.node.establish(g1.id)
    c.nudge()
    expect(delivered(c).control.map(({ event }) => event)).toMatchObject([
      { domain: "b.corp.test", resource: corp.id },
      { domain: "a.corp.test", resource: corp.id }
    ])
    c.fromTun(tcp(via(a), 80))
    c.fromTun(udp(via(a), 53))
    c.push(grant(two.id, g2))
    c.node.establish(g2.id)
    c.nudge()
    expect(delivered(c).control).toMatchObject([{ peer: g2.id, event: { domain: "a.corp.test", resource: two.id } }])
    c.fromPeer(g1.id, status(corp, "a.corp.test"))
    expect(c.fromTun(tcp(via(a), 80))).toBeDefined()
    expect(c.fromTun(udp(via(a), 53))).toBeUndefined()
    // Neither gateway speaks for the other, nor for another resource.
    c.fromPeer(g1.id, status(two, "a.corp.test"))
    c.fromPeer(g2.id, status(corp, "a.corp.test"))
    expect(c.fromTun(udp(via(a), 53))).toBeUndefined()
    c.fromPeer(g2.id, status(two, "a.corp.test"))
    expect(c.fromTun(udp(via(a), 53))).toBeDefined()
  })
  it("begins with the grant for names that were asked for before: who only receives sends no packet", () => {
    const c = client(corp, dnsResource(2, "other.test"))
    const [a, b] = [ready(c, corp, "a.corp.test"), addressOf(c, "b.corp.test")]
    addressOf(c, "other.test")
    c.sent()
    c.node.fail(g1.id)
    c.nudge()
    c.authorize(corp.id, b, g2)
    c.node.establish(g2.id)
    c.nudge()
    expect(delivered(c).control.map(({ event, peer }) => [peer, event])).toMatchObject([
      [g2.id, { domain: "b.corp.test", resource: corp.id }],
      [g2.id, { domain: "a.corp.test", resource: corp.id }]
    ])
    expect(c.fromPeer(g2.id, udp(back(a)))).toBeDefined()
  })
  it("begins with the grant for the 64 names that were asked for last", () => {
    const c = client(corp)
    for (let i = 0; i < 70; i++) addressOf(c, `n${i}.corp.test`)
    answerTo(c, "n3.corp.test", { type: "HTTPS" })
    c.sent()
    c.authorize(corp.id, addressOf(c, "n69.corp.test"), g1)
    c.node.establish(g1.id)
    c.nudge()
    const told = delivered(c).control.map(({ event }) => event._tag === "AssignedIps" ? event.domain : event._tag)
    expect(told).toHaveLength(64)
    expect(told).toEqual(expect.arrayContaining(["n3.corp.test", "n7.corp.test", "n69.corp.test"]))
    expect(told).not.toContain("n6.corp.test")
  })
  it("is forgotten with the gateway and with the resource", () => {
    const c = client(corp, dnsResource(2, "other.test"))
    const to = ready(c, corp, "a.corp.test")
    const other = ready(c, dnsResource(2, "other.test"), "other.test")
    c.push({ _tag: "ResourceDeleted", id: corp.id })
    c.dropped()
    expect(c.fromPeer(g1.id, udp(back(to)))).toBeUndefined()
    expect(c.fromPeer(g1.id, udp(back(other)))).toBeDefined()
    c.node.fail(g1.id)
    c.nudge()
    connect(c, dnsResource(2, "other.test"), other)
    expect(c.fromTun(udp(via(other)))).toBeUndefined() // told anew, and waiting
    c.fromPeer(g1.id, status(dnsResource(2, "other.test"), "other.test"))
    expect(c.sent().length).toBeGreaterThan(0)
  })
  it.each([
    ["of an unknown name", status(corp, "x.corp.test")],
    ["of an unknown resource", status(dnsResource(5, "x"), "a.corp.test")]
  ])("%s means nothing", (_, packet) => {
    const c = client(corp)
    ready(c, corp, "a.corp.test")
    c.dropped()
    expect(c.fromPeer(g1.id, packet)).toBeUndefined()
    expect(c.dropped()).toEqual({ "unexpected-control-packet": 1 })
  })
  it("keeps the connection as long as a resource needs it", () => {
    const c = client(corp, dnsResource(2, "other.test"))
    ready(c, corp, "a.corp.test")
    ready(c, dnsResource(2, "other.test"), "other.test")
    c.push({ _tag: "ResourceDeleted", id: corp.id })
    expect(c.node.goodbyes).toEqual([])
    c.push({ _tag: "ResourceDeleted", id: dnsResource(2, "other.test").id })
    expect(c.node.goodbyes).toEqual([g1.id])
  })
  it("is told as soon as the name is asked for, if it gives access already", () => {
    const c = client(corp)
    ready(c, corp, "a.corp.test")
    const b = addressOf(c, "b.corp.test")
    expect(delivered(c).control.map(({ event }) => event)).toMatchObject([{ domain: "b.corp.test" }])
    expect(c.fromTun(udp(via(b)))).toBeUndefined()
    c.fromPeer(g1.id, status(corp, "b.corp.test"))
    expect(delivered(c).packets).toBe(1)
  })
})

describe("what only the site knows: SRV and TXT", () => {
  const txt = { type: "TXT" } as const

  it("is asked of the gateway's resolver, over the family of the sentinel", () => {
    const c = client(corp)
    ready(c, corp, "a.corp.test")
    c.core.setSystemResolvers([ip("192.0.2.53"), ip("2001:db8::53")])
    for (
      const [sentinel, expected] of [
        ["100.100.111.2", `${CLIENT_4} > ${g1.ipv4} protocol 17`],
        [ip("fd00:2021:1111:8000:100:100:111:0"), `${CLIENT_6} > ${ip(g1.ipv6)} protocol 17`]
      ] as const
    ) {
      ask(c, "_ldap._tcp.corp.test", { type: "SRV" }, sentinel)
      ask(c, "a.corp.test", txt, sentinel)
      const sent = c.sent()
      // One label only: the other name is nobody's.
      expect(sent.map(summary)).toEqual([expected])
      expect(sent.map((bytes) => parsed(bytes).destinationPort)).toEqual([53_535])
    }
    expect(outsideQueries(c)).toHaveLength(2)
  })
  it("is answered by it, and kept", () => {
    const c = client(corp)
    ready(c, corp, "a.corp.test")
    ask(c, "a.corp.test", txt)
    const [query] = c.sent()
    if (query === undefined) throw new Error("not sent")
    const answer = upstreamAnswer(payloadOf(query).payload, [{ type: "TXT", name: "a.corp.test", ttl: 60, data: "hi" }])
    const reply = udpPacket({
      source: ip(g1.ipv4),
      sourcePort: 53_535,
      destination: ip(CLIENT_4),
      destinationPort: parsed(query).sourcePort
    }, answer)
    expect(c.fromPeer(g1.id, reply)).toBeUndefined()
    expect(replies(c).map((found) => records(found))).toEqual([["a.corp.test 60 TXT hi"]])
    ask(c, "a.corp.test", txt)
    expect([replies(c).length, c.sent().length]).toEqual([1, 0])
  })
  it("waits for access to the resource, whatever its filters, and asks at most every 2 s", () => {
    const c = client(dnsResource(1, "*.corp.test", { filters: [tcpPort(443)] }))
    ask(c, "a.corp.test", txt)
    ask(c, "b.corp.test", txt)
    expect(c.intents()).toEqual([corp.id])
    c.advance(2000)
    ask(c, "a.corp.test", txt)
    expect(c.intents()).toEqual([corp.id])
    c.push(grant(corp.id, g1))
    c.node.establish(g1.id)
    c.nudge()
    // The third is the same packet but for its port: all are asked.
    expect(c.sent().map((bytes) => parsed(bytes).destinationPort)).toEqual([53_535, 53_535, 53_535])
    expect(replies(c)).toEqual([])
    expect(c.status(corp.id)).toBe("Online")
  })
  it("fails when the resource goes or its site is offline", () => {
    for (
      const push of [
        { _tag: "ResourceDeleted", id: corp.id },
        { _tag: "AuthorizationCreationFailed", resourceId: corp.id, reason: "offline", violatedProperties: [] }
      ] as const
    ) {
      const c = client(corp)
      ask(c, "a.corp.test", txt)
      expect(replies(c)).toEqual([])
      c.push(push)
      expect(replies(c).map(({ message }) => message.rcode)).toEqual(["SERVFAIL"])
    }
  })
  it("is kept 128 times for a resource", () => {
    const c = client(corp)
    for (let i = 0; i < 130; i++) ask(c, `n${i}.corp.test`, txt)
    expect(c.dropped()).toEqual({ "buffer-full": 2 })
    c.push(grant(corp.id, g1))
    c.node.establish(g1.id)
    c.nudge()
    expect(c.sent()).toHaveLength(128)
  })
})
