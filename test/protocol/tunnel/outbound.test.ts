/** What becomes of a packet from an application: every step of tunnel spec 8.1, and 8.4. */
import { describe, expect, it } from "vitest"
import { Encapsulated } from "../../../src/protocol/node/types.ts"
import { makeControlPacket } from "../../../src/protocol/tunnel/controlPacket.ts"
import { ClientHarness, clientWith, via } from "./client.ts"
import { cidr, CLIENT_4, CLIENT_6, gateway, grant, init, internet, tcpPort, udpPort, uuid } from "./fixtures.ts"
import { icmp, icmpError, other, ping, summary, tcp, udp } from "./packets.ts"

const lan4 = cidr(1, "10.0.0.0/8")
const lan6 = cidr(2, "2001:db8::/32")
const g1 = gateway(1)

/** Says why a client that knows both networks and is connected to neither refuses a packet. */
const refusal = (packet: Uint8Array): unknown => {
  const client = clientWith(lan4, lan6)
  expect(client.fromTun(packet)).toBeUndefined()
  expect(client.toTun()).toEqual([])
  expect(client.intents()).toEqual([])
  return client.dropped()
}

describe("a packet that never enters the tunnel", () => {
  it("is no packet at all", () => {
    expect(refusal(new Uint8Array(0))).toEqual({ "malformed-packet": 1 })
    expect(refusal(udp(via("10.0.0.1")).subarray(0, 27))).toEqual({ "malformed-packet": 1 })
    expect(refusal(udp(via("10.0.0.1"), 53, "x".repeat(1253)))).toEqual({ "malformed-packet": 1 })
  })
  it("1: looks like a control packet", () => {
    expect(refusal(makeControlPacket({ _tag: "Goodbye" }))).toEqual({ "unexpected-control-packet": 1 })
  })
  it("2: is for a multicast group", () => {
    expect(refusal(udp(via("224.0.0.251")))).toEqual({ "multicast": 1 })
    expect(refusal(udp(via("ff02::fb")))).toEqual({ "multicast": 1 })
  })
  it("3: comes before the portal has named our addresses", () => {
    const client = new ClientHarness()
    expect(client.fromTun(udp(via("10.0.0.1")))).toBeUndefined()
    expect(client.dropped()).toEqual({ "no-interface": 1 })
  })
  it("4: comes from an address that is not ours", () => {
    expect(refusal(udp({ from: "100.64.0.2", to: "10.0.0.1" }))).toEqual({ "not-tunnel-source": 1 })
    expect(refusal(udp({ from: "fd00:2021:1111::2", to: "2001:db8::1" }))).toEqual({ "not-tunnel-source": 1 })
  })
  it("5: is for ourselves", () => {
    expect(refusal(udp(via(CLIENT_4)))).toEqual({ "packet-to-self": 1 })
    expect(refusal(udp(via(CLIENT_6)))).toEqual({ "packet-to-self": 1 })
  })
  it("7: is for a sentinel that nobody answers at", () => {
    expect(refusal(udp(via("100.100.111.1"), 53))).toEqual({ "sentinel-without-dns": 1 })
    expect(refusal(udp(via("fd00:2021:1111:8000:100:100:111:0"), 53))).toEqual({ "sentinel-without-dns": 1 })
  })
  it("9: has no ports to decide by", () => {
    expect(refusal(other(via("10.0.0.1"), 47))).toEqual({ "unsupported-protocol": 1 })
    expect(refusal(icmp(via("10.0.0.1"), 13))).toEqual({ "unsupported-protocol": 1 })
    const error = icmpError(udp({ from: "10.0.0.1", to: CLIENT_4 }))
    expect(refusal(error)).toEqual({ "outbound-icmp-error": 1 })
    expect(refusal(icmpError(udp({ from: "2001:db8::1", to: CLIENT_6 })))).toEqual({ "outbound-icmp-error": 1 })
  })
  it("13: is refused by the resource's filters, and the application is told so", () => {
    const client = clientWith(cidr(1, "10.0.0.0/8", { filters: [tcpPort(443)] }))
    client.authorize(uuid(1), "10.0.0.1", g1) // nothing is asked for a packet that filters refuse
    expect(client.node.requests).toEqual([])
    expect(client.dropped()).toEqual({ "prohibited": 1, "grant-without-request": 1 })
    expect(client.toTun().map(summary)).toEqual(["10.0.0.1 > 100.64.0.1 protocol 1 type 3 code 13"])
  })
  it("14: is for no resource, which is silence", () => {
    expect(refusal(udp(via("192.0.2.1")))).toEqual({ "unknown-resource": 1 })
    expect(refusal(udp(via("2001:db9::1")))).toEqual({ "unknown-resource": 1 })
  })
})

describe("a packet for a gateway itself", () => {
  it("10: needs no resource, only a peer", () => {
    const client = clientWith(lan4)
    expect(client.fromTun(ping(via(g1.ipv4)))).toBeUndefined()
    expect(client.dropped()).toEqual({ "unknown-resource": 1 })
    client.connect(lan4.id, "10.0.0.1", g1)
    expect(client.fromTun(ping(via(g1.ipv4)))).toEqual(ping(via(g1.ipv4)))
    expect(client.fromTun(ping(via(g1.ipv6)))).toEqual(ping(via(g1.ipv6)))
  })
  it("never goes to the Internet, be it there or not", () => {
    const client = clientWith(internet(3))
    client.core.setInternetResourceState(true, client.now)
    client.connect(uuid(3), "192.0.2.1", g1)
    expect(client.fromTun(udp(via("100.64.0.77")))).toBeUndefined()
    expect(client.fromTun(udp(via("fd00:2021:1111::77")))).toBeUndefined()
    expect(client.dropped()).toEqual({ "unknown-resource": 2 })
  })
})

describe("a packet for a resource", () => {
  it("leaves unchanged, sealed in place, in both families", () => {
    const client = clientWith(lan4, lan6)
    client.connect(lan4.id, "10.0.0.1", g1)
    client.connect(lan6.id, "2001:db8::1", g1)
    for (const packet of [udp(via("10.9.9.9")), tcp(via("10.9.9.9")), ping(via("10.9.9.9"))]) {
      expect(client.fromTun(packet)).toEqual(packet)
    }
    for (const packet of [udp(via("2001:db8::9")), tcp(via("2001:db8::9")), ping(via("2001:db8::9"))]) {
      expect(client.fromTun(packet)).toEqual(packet)
    }
    expect(client.dropped()).toEqual({})
  })
  it("prefers the network that permits it, then the longer prefix, then the larger id", () => {
    const client = clientWith(
      cidr(1, "10.0.0.0/8"),
      cidr(2, "10.1.0.0/16", { filters: [tcpPort(443)] }),
      cidr(3, "10.1.2.0/24", { filters: [udpPort(53)] }),
      cidr(4, "10.1.2.0/24", { filters: [udpPort(53)] })
    )
    const asked = (packet: Uint8Array) => {
      client.fromTun(packet)
      client.now += 2000
      return client.intents()
    }
    expect(asked(udp(via("10.1.2.3"), 53))).toEqual([uuid(4)])
    expect(asked(tcp(via("10.1.2.3"), 443))).toEqual([uuid(2)])
    expect(asked(tcp(via("10.1.2.3"), 80))).toEqual([uuid(1)])
    expect(asked(ping(via("10.1.2.3")))).toEqual([uuid(1)])
  })
  it("takes the Internet only if no network holds the address", () => {
    const client = clientWith(internet(9), cidr(1, "10.0.0.0/8", { filters: [tcpPort(443)] }))
    client.core.setInternetResourceState(true, client.now)
    client.fromTun(udp(via("192.0.2.1")))
    client.fromTun(udp(via("10.0.0.1")))
    expect(client.intents()).toEqual([uuid(9)])
    expect(client.dropped()).toEqual({ "prohibited": 1 })
  })
  it("is lost, and counted, if the node cannot send it", () => {
    const client = clientWith(lan4)
    client.connect(lan4.id, "10.0.0.1", g1)
    const outcomes = [Encapsulated.Dropped, Encapsulated.NoSession, Encapsulated.UnknownConnection]
    for (const outcome of outcomes) {
      client.node.outcome = outcome
      expect(client.fromTun(udp(via("10.0.0.1")))).toBeUndefined()
    }
    expect(client.dropped()).toEqual({ "no-path": 1, "no-session": 1, "not-connected": 1 })
  })
})

describe("while the connection comes up", () => {
  const waiting = () => {
    const client = clientWith(lan4)
    client.authorize(lan4.id, "10.0.0.1", g1)
    return client
  }

  it("packets wait, and leave in their order when it is up", () => {
    const client = waiting()
    const packets = [1, 2, 3].map((number) => udp(via("10.0.0.1"), 5000 + number))
    for (const packet of packets) expect(client.fromTun(packet)).toBeUndefined()
    client.node.establish(g1.id)
    client.nudge()
    expect(client.sent()).toEqual([udp(via("10.0.0.1")), ...packets])
    expect(client.fromTun(udp(via("10.0.0.1")))).toEqual(udp(via("10.0.0.1")))
    expect(client.sent()).toEqual([])
  })
  it("at most 128 wait, the oldest go", () => {
    const client = waiting()
    for (let port = 1; port <= 130; port++) client.fromTun(udp(via("10.0.0.1"), port))
    expect(client.dropped()).toEqual({ "buffer-full": 3 })
    client.node.establish(g1.id)
    client.nudge()
    const sent = client.sent()
    expect(sent).toHaveLength(128)
    expect(sent[0]).toEqual(udp(via("10.0.0.1"), 3))
  })
  it("they are routed again: what was removed meanwhile leaks nothing", () => {
    const client = clientWith(lan4, lan6)
    client.authorize(lan4.id, "10.0.0.1", g1)
    client.fromTun(udp(via("2001:db8::1")))
    client.push(grant(lan6.id, g1))
    client.push({ _tag: "ResourceDeleted", id: lan4.id })
    client.node.establish(g1.id)
    client.nudge()
    expect(client.sent().map(summary)).toEqual([`${CLIENT_6} > 2001:db8::1 protocol 17`])
    expect(client.dropped()).toEqual({ "unknown-resource": 1 })
  })
  it("they are lost with the connection", () => {
    const client = waiting()
    client.node.fail(g1.id)
    client.nudge()
    expect(client.dropped()).toEqual({ "not-connected": 1 })
    expect(client.sent()).toEqual([])
  })
})

it("applies new addresses to the next packet", () => {
  const client = clientWith(lan4)
  client.connect(lan4.id, "10.0.0.1", g1)
  const moved = init([lan4])
  if (moved._tag !== "Init") throw new Error("no init")
  client.push({ _tag: "ConfigChanged", interface: { ...moved.init.interface, ipv4: "100.64.0.9" as never } })
  expect(client.fromTun(udp(via("10.0.0.1")))).toBeUndefined()
  expect(client.fromTun(udp({ from: "100.64.0.9", to: "10.0.0.1" }))).toBeDefined()
  expect(client.dropped()).toEqual({ "not-tunnel-source": 1 })
})
