/** What becomes of a packet from a gateway: every step of tunnel spec 9 that concerns CIDR and Internet resources. */
import { describe, expect, it } from "vitest"
import { Decapsulated } from "../../../src/protocol/node/types.ts"
import { makeControlPacket } from "../../../src/protocol/tunnel/controlPacket.ts"
import { back, clientWith, tags, via } from "./client.ts"
import { cidr, CLIENT_4, CLIENT_6, gateway, grant, internet, tcpPort, uuid } from "./fixtures.ts"
import { icmpError, other, ping, tcp, udp } from "./packets.ts"

const lan4 = cidr(1, "10.0.0.0/8")
const lan6 = cidr(2, "2001:db8::/32")
const g1 = gateway(1)

const connected = () => {
  const client = clientWith(lan4, lan6)
  client.connect(lan4.id, "10.0.0.1", g1)
  client.connect(lan6.id, "2001:db8::1", g1)
  client.dropped()
  return client
}

describe("a packet for the TUN device", () => {
  it("comes from a network that the gateway was granted for, unchanged", () => {
    const client = connected()
    for (const packet of [udp(back("10.0.0.1")), tcp(back("10.255.0.1")), ping(back("2001:db8:ffff::1"))]) {
      expect(client.fromPeer(g1.id, packet)).toEqual(packet)
    }
  })
  it("or from the gateway itself", () => {
    const client = connected()
    expect(client.fromPeer(g1.id, ping(back(g1.ipv4)))).toEqual(ping(back(g1.ipv4)))
    expect(client.fromPeer(g1.id, ping(back(g1.ipv6)))).toEqual(ping(back(g1.ipv6)))
  })
  it("whatever its destination and protocol are: that is the system's to judge", () => {
    const client = connected()
    const elsewhere = udp({ from: "10.0.0.1", to: "192.0.2.1" })
    expect(client.fromPeer(g1.id, elsewhere)).toEqual(elsewhere)
    expect(client.fromPeer(g1.id, other(back("10.0.0.1"), 47))).toEqual(other(back("10.0.0.1"), 47))
  })
  it("comes from anywhere for the Internet resource", () => {
    const client = clientWith(internet(9))
    client.core.setInternetResourceState(true, client.now)
    client.connect(uuid(9), "192.0.2.1", g1)
    expect(client.fromPeer(g1.id, udp(back("198.51.100.1")))).toBeDefined()
    expect(client.fromPeer(g1.id, udp(back("2001:db8::1")))).toBeDefined()
  })
})

describe("a packet that is dropped", () => {
  it("comes from an address that the gateway has no business with", () => {
    const client = connected()
    for (const from of ["192.0.2.1", "100.64.1.2", CLIENT_4, "2001:db9::1", CLIENT_6]) {
      expect(client.fromPeer(g1.id, udp(back(from)))).toBeUndefined()
    }
    expect(client.dropped()).toEqual({ "not-allowed": 5 })
  })
  it("comes from another gateway's network", () => {
    const client = clientWith(lan4, lan6)
    const g2 = gateway(2)
    client.connect(lan4.id, "10.0.0.1", g1)
    client.connect(lan6.id, "2001:db8::1", g2)
    expect(client.fromPeer(g2.id, udp(back("10.0.0.1")))).toBeUndefined()
    expect(client.fromPeer(g1.id, udp(back(g2.ipv4)))).toBeUndefined()
    expect(client.dropped()).toEqual({ "not-allowed": 2 })
  })
  it("comes from a network whose resource is gone, while another one of that network lets it through", () => {
    const client = clientWith(lan4, cidr(3, "10.0.0.0/8", { filters: [tcpPort(443)] }), lan6)
    client.connect(uuid(1), "10.0.0.1", g1)
    client.connect(lan6.id, "2001:db8::1", g1)
    client.fromTun(tcp(via("10.0.0.1"), 443))
    client.push(grant(uuid(3), g1))
    client.push({ _tag: "ResourceDeleted", id: uuid(1) })
    expect(client.fromPeer(g1.id, udp(back("10.0.0.1")))).toBeDefined()
    client.push({ _tag: "ResourceDeleted", id: uuid(3) })
    expect(client.fromPeer(g1.id, udp(back("10.0.0.1")))).toBeUndefined()
  })
  it("comes from a peer that we know nothing of", () => {
    const client = connected()
    expect(client.fromPeer(uuid(0xfff), udp(back("10.0.0.1")))).toBeUndefined()
    expect(client.dropped()).toEqual({ "no-peer-state": 1 })
  })
  it("is none", () => {
    const client = connected()
    expect(client.fromPeer(g1.id, Uint8Array.of(0x45, 0, 0))).toBeUndefined()
    expect(client.dropped()).toEqual({ "malformed-packet": 1 })
    client.node.inbound = Decapsulated.Dropped
    const bytes = new Uint8Array(4096)
    const { packet: { peer } } = client.core
    expect(peer).toBe(g1.id)
    expect(client.core.networkInput(undefined as never, undefined as never, 0, bytes, 0, 9, bytes, 64, 0)).toBe(false)
    expect(client.dropped()).toEqual({ "unreadable-datagram": 1 })
  })
})

describe("a control packet", () => {
  it("of goodbye ends all that hung on the gateway, without an answer", () => {
    const client = connected()
    expect(client.fromPeer(g1.id, makeControlPacket({ _tag: "Goodbye" }))).toBeUndefined()
    expect(client.node.hasConnection(g1.id)).toBe(false)
    expect(client.node.goodbyes).toEqual([])
    const events = client.events()
    expect(tags(events)).toEqual(["ResourcesUpdated", "PeerLost"])
    expect(client.status(lan4.id)).toBe("Unknown")
    expect(client.fromTun(udp(via("10.0.0.1")))).toBeUndefined()
    expect(client.intents()).toEqual([lan4.id])
  })
  it("that means nothing to a client changes nothing, and never reaches the TUN device", () => {
    const client = connected()
    const status = makeControlPacket({ _tag: "DomainStatus", resource: lan4.id, domain: "a.test", status: "Active" })
    const unknown = makeControlPacket({ _tag: "Goodbye" })
    unknown[40] = 77
    const short = makeControlPacket({ _tag: "Goodbye" }).slice(0, 47)
    short[5] = 7
    for (const packet of [status, unknown, short]) expect(client.fromPeer(g1.id, packet)).toBeUndefined()
    expect(client.dropped()).toEqual({ "unexpected-control-packet": 2, "malformed-control-packet": 1 })
    expect(client.events()).toEqual([])
    expect(client.fromTun(udp(via("10.0.0.1")))).toBeDefined()
  })
})

describe("a gateway that prohibits what was granted", () => {
  const refused = icmpError(udp(via("10.0.0.1")))

  it("makes the client ask again, at most every 2 s, and the application hears of it", () => {
    const client = connected()
    expect(client.fromPeer(g1.id, refused)).toEqual(refused)
    expect(client.fromPeer(g1.id, refused)).toEqual(refused)
    expect(client.intents()).toEqual([lan4.id])
    client.advance(1999)
    client.fromPeer(g1.id, refused)
    expect(client.intents()).toEqual([])
    client.advance(1)
    client.fromPeer(g1.id, refused)
    expect(client.intents()).toEqual([lan4.id])
  })
  it("asks no faster though each request is granted at once", () => {
    const client = connected()
    client.fromPeer(g1.id, refused)
    expect(client.intents()).toEqual([lan4.id])
    client.push(grant(lan4.id, g1))
    client.fromPeer(g1.id, refused)
    expect(client.intents()).toEqual([])
    expect(client.fromTun(udp(via("10.0.0.1")))).toBeDefined()
  })
  it("is not heard about other things", () => {
    const client = connected()
    const errors = [
      icmpError(udp(via("10.0.0.1")), "unreachable-net"),
      icmpError(udp({ from: "10.0.0.9", to: "10.0.0.1" })), // a failed packet that was not ours
      icmpError(udp({ from: "10.0.0.1", to: "192.0.2.1" })) // comes from no network of the gateway's
    ]
    for (const error of errors) client.fromPeer(g1.id, error)
    expect(client.intents()).toEqual([])
  })
  it("is not heard about a resource that another gateway serves", () => {
    const client = clientWith(lan4, lan6)
    const g2 = gateway(2)
    client.connect(lan4.id, "10.0.0.1", g1)
    client.connect(lan6.id, "2001:db8::1", g2)
    client.fromPeer(g1.id, icmpError(udp(via("2001:db8::1"))))
    client.fromPeer(g2.id, icmpError(udp(via("2001:db8::1"))))
    expect(client.intents()).toEqual([lan6.id])
  })
  it("moves the resource, if the portal says so", () => {
    const client = clientWith(lan4)
    const g2 = gateway(2)
    client.connect(lan4.id, "10.0.0.1", g1)
    client.fromPeer(g1.id, refused)
    expect(client.requests()).toEqual([
      { _tag: "RequestAuthorization", resourceId: lan4.id, connectedGatewayIds: [g1.id] }
    ])
    client.push(grant(lan4.id, g2))
    expect(client.node.goodbyes).toEqual([g1.id])
    client.node.establish(g2.id)
    client.nudge()
    expect(client.fromTun(udp(via("10.0.0.1")))).toBeDefined()
    expect(client.fromPeer(g2.id, udp(back("10.0.0.1")))).toBeDefined()
    expect(client.fromPeer(g1.id, udp(back("10.0.0.1")))).toBeUndefined()
    expect(client.status(lan4.id)).toBe("Online")
  })
})
