/** The gateway's core: tunnel spec 14 as far as CIDR and Internet resources go; names have tests of their own. */
import { describe, expect, it } from "vitest"
import type { GatewayPush, GatewayResource } from "../../../src/protocol/portal/types.ts"
import { makeControlPacket } from "../../../src/protocol/tunnel/controlPacket.ts"
import { formatNetwork, ip } from "../../../src/protocol/wire/address.ts"
import { network, tcpPort, udpPort, uuid } from "./fixtures.ts"
import { type Client, GatewayHarness, gatewayWith } from "./gateway.ts"
import { icmp, icmpError, other, ping, summary, tcp, udp } from "./packets.ts"

const GATEWAY_4 = "100.64.1.1"
const GATEWAY_6 = "fd00:2021:1111::1:1"

const lan: GatewayResource = { type: "cidr", id: uuid(1), name: "lan", address: network("10.0.0.0/8"), filters: [] }
const lan6: GatewayResource = { ...lan, id: uuid(2), address: network("2001:db8::/32") }
const internet: GatewayResource = { type: "internet", id: uuid(9) }

const alice = { id: uuid(0xc1), ipv4: "100.64.0.1", ipv6: "fd00:2021:1111::1" }
const bob = { id: uuid(0xc2), ipv4: "100.64.0.2", ipv6: "fd00:2021:1111::2" }

/** How the client is refused; `undefined` if the packet reaches the TUN device. */
const refusal = (gateway: GatewayHarness, client: Client, packet: Uint8Array): unknown => {
  const passed = gateway.fromPeer(client.id, packet)
  const answers = gateway.sent()
  if (passed === undefined) return { dropped: gateway.dropped(), answers: answers.map(summary) }
  expect(passed).toEqual(packet)
  expect(answers).toEqual([])
  return undefined
}

const initialised = (): GatewayHarness => gatewayWith({ ipv4: GATEWAY_4, ipv6: GATEWAY_6 })

const serving = (...resources: ReadonlyArray<GatewayResource>): GatewayHarness => {
  const gateway = initialised()
  for (const resource of resources) gateway.connect(alice, resource)
  return gateway
}

/** From a client to a place behind the gateway. */
const towards = (to: string, client = alice) => ({ from: to.includes(":") ? client.ipv6 : client.ipv4, to })
const back = (from: string, client = alice) => ({ from, to: from.includes(":") ? client.ipv6 : client.ipv4 })

describe("the set-up", () => {
  it("announces the addresses and both tunnel ranges, once", () => {
    const gateway = new GatewayHarness()
    const relay = { id: uuid(0x50), username: "u", password: "p" }
    const init: GatewayPush = {
      _tag: "GatewayInit",
      ipv4: ip(GATEWAY_4),
      ipv6: ip(GATEWAY_6),
      relays: [relay],
      authorizations: []
    }
    gateway.push(init)
    const [event, ...rest] = gateway.events()
    if (event?._tag !== "TunConfigUpdated") throw new Error("no configuration")
    expect({ ...event.config, routes: event.config.routes.map(formatNetwork) }).toEqual({
      ipv4: GATEWAY_4,
      ipv6: GATEWAY_6,
      routes: ["100.64.0.0/11", "fd00:2021:1111::/107"]
    })
    expect(rest).toEqual([])
    gateway.push(init)
    expect(gateway.events()).toEqual([])
    expect(gateway.node.updateRelays.mock.calls).toEqual([[[], [relay], gateway.now], [[], [relay], gateway.now]])
  })
})

describe("an authorization", () => {
  it("connects as the controlled side, and is confirmed before any candidate", () => {
    const gateway = initialised()
    gateway.node.events.push({ _tag: "NewIceCandidate", peer: alice.id, candidate: "candidate:1 1 udp 5 a" })
    gateway.grant(alice, lan)
    expect(gateway.node.requests[0]).toMatchObject({
      peer: alice.id,
      localCredentials: { username: "gateway" },
      remoteCredentials: { username: "client" },
      role: "controlled",
      profile: "server"
    })
    expect(gateway.requests()).toEqual([
      { _tag: "AuthorizationConfirmed", ref: `${alice.id} ${lan.id}` },
      { _tag: "BroadcastIceCandidates", clientIds: [alice.id], candidates: ["candidate:1 1 udp 5 a"] }
    ])
  })
  it("without a relay is not confirmed", () => {
    const gateway = initialised()
    gateway.node.hasRelays = false
    gateway.grant(alice, lan)
    expect(gateway.requests()).toEqual([{ _tag: "NoRelays" }])
    expect(gateway.core.status(gateway.now).clients).toEqual([])
  })
  it("given again replaces filters and expiry alone", () => {
    const gateway = serving(lan)
    gateway.grant(alice, { ...lan, address: network("192.0.2.0/24"), filters: [tcpPort(443)] } as GatewayResource)
    expect(refusal(gateway, alice, tcp(towards("10.0.0.1"), 443))).toBeUndefined()
    expect(refusal(gateway, alice, tcp(towards("10.0.0.1"), 80))).toMatchObject({ dropped: { prohibited: 1 } })
    expect(refusal(gateway, alice, tcp(towards("192.0.2.1"), 443))).toMatchObject({ dropped: { prohibited: 1 } })
  })
  it("moves a client that comes with other addresses", () => {
    const gateway = serving(lan)
    gateway.connect({ ...alice, ipv4: "100.64.0.77" }, lan)
    expect(gateway.fromTun(udp({ from: "10.0.0.1", to: "100.64.0.77" }))).toBeDefined()
    expect(gateway.fromTun(udp({ from: "10.0.0.1", to: alice.ipv4 }))).toBeUndefined()
  })
})

describe("a packet from a client", () => {
  it("reaches what it was granted, unchanged", () => {
    const gateway = serving(lan, lan6)
    for (const to of ["10.0.0.1", "2001:db8::1"]) {
      for (const packet of [udp(towards(to)), tcp(towards(to)), ping(towards(to)), other(towards(to), 47)]) {
        expect(refusal(gateway, alice, packet)).toBeUndefined()
      }
    }
  })
  it("reaches the gateway itself, whatever was granted", () => {
    const gateway = serving({ ...lan, filters: [tcpPort(443)] } as GatewayResource)
    expect(refusal(gateway, alice, ping(towards(GATEWAY_4)))).toBeUndefined()
    expect(refusal(gateway, alice, udp(towards(GATEWAY_6), 53_535))).toBeUndefined()
  })
  it("of another protocol, to another place or another client is prohibited, and the client told so", () => {
    const gateway = serving({ ...lan, filters: [tcpPort(443), udpPort(53, 60)] } as GatewayResource)
    expect(refusal(gateway, alice, udp(towards("10.0.0.1"), 60))).toBeUndefined()
    expect(refusal(gateway, alice, udp(towards("10.0.0.1"), 61))).toEqual({
      dropped: { prohibited: 1 },
      answers: ["10.0.0.1 > 100.64.0.1 protocol 1 type 3 code 13"]
    })
    expect(refusal(gateway, alice, ping(towards("10.0.0.1")))).toMatchObject({ dropped: { prohibited: 1 } })
    expect(refusal(gateway, alice, other(towards("10.0.0.1"), 47))).toMatchObject({ dropped: { prohibited: 1 } })
    expect(refusal(gateway, alice, tcp(towards("192.0.2.1"), 443))).toMatchObject({ dropped: { prohibited: 1 } })
    expect(refusal(gateway, alice, tcp(towards("2001:db8::1"), 443))).toEqual({
      dropped: { prohibited: 1 },
      answers: [`2001:db8::1 > ${alice.ipv6} protocol 58 type 1 code 1`]
    })
    expect(refusal(gateway, alice, ping(towards(bob.ipv4)))).toMatchObject({ dropped: { prohibited: 1 } })
  })
  it("with a source that is not the client's is prohibited through the client's own tunnel", () => {
    const gateway = serving(lan)
    expect(refusal(gateway, alice, udp({ from: bob.ipv4, to: "10.0.0.1" }))).toEqual({
      dropped: { "not-tunnel-source": 1 },
      answers: ["10.0.0.1 > 100.64.0.2 protocol 1 type 3 code 13"]
    })
  })
  it("that is an ICMP error, multicast, a strange control packet or none at all is dropped in silence", () => {
    const gateway = serving(lan)
    const drops = [
      [icmpError(udp({ from: "10.0.0.1", to: alice.ipv4 })), "outbound-icmp-error"],
      [icmp(towards("10.0.0.1"), 5), "outbound-icmp-error"],
      [udp(towards("224.0.0.1")), "multicast"],
      [udp(towards("ff02::1")), "multicast"],
      [
        makeControlPacket({ _tag: "DomainStatus", resource: lan.id, domain: "a", status: "Active" }),
        "unexpected-control-packet"
      ],
      [new Uint8Array(19), "malformed-packet"]
    ] as const
    for (const [packet, reason] of drops) {
      expect(refusal(gateway, alice, packet)).toEqual({ dropped: { [reason]: 1 }, answers: [] })
    }
  })
  it("of a client without a grant is dropped", () => {
    const gateway = serving(lan)
    expect(refusal(gateway, bob, udp(towards("10.0.0.1", bob)))).toEqual({
      dropped: { "no-peer-state": 1 },
      answers: []
    })
  })
  it("to a proxy address finds no translation", () => {
    const gateway = serving({ ...lan, address: network("100.96.0.0/11") } as GatewayResource)
    expect(refusal(gateway, alice, udp(towards("100.96.0.1")))).toEqual({
      dropped: { "unreachable-net": 1 },
      answers: ["100.96.0.1 > 100.64.0.1 protocol 1 type 3 code 0"]
    })
  })
})

describe("the Internet resource", () => {
  it("leads everywhere but to private and reserved addresses", () => {
    const gateway = serving(internet)
    for (const to of ["192.0.2.1", "8.8.8.8", "2001:db8::1", "2606:4700::1111"]) {
      expect(refusal(gateway, alice, udp(towards(to)))).toBeUndefined()
    }
    for (const to of ["10.0.0.1", "172.31.0.1", "192.168.0.1", "127.0.0.1", "169.254.1.1", "250.0.0.1"]) {
      expect(refusal(gateway, alice, udp(towards(to)))).toEqual({
        dropped: { "unreachable-net": 1 },
        answers: [`${to} > 100.64.0.1 protocol 1 type 3 code 0`]
      })
    }
    for (const to of ["::1", "fc00::1", "fe80::1"]) {
      expect(refusal(gateway, alice, udp(towards(to)))).toEqual({
        dropped: { "unreachable-net": 1 },
        answers: [`${to} > ${alice.ipv6} protocol 58 type 1 code 3`]
      })
    }
  })
  it("refuses IPv4-mapped addresses", () => {
    const gateway = serving(internet)
    const packet = udp(towards("2001:db8::1"))
    packet.fill(0, 24, 34)
    packet.fill(0xff, 34, 36)
    expect(refusal(gateway, alice, packet)).toMatchObject({ dropped: { "unreachable-net": 1 } })
  })
  it("leads to no other client, nor to names of earlier sessions", () => {
    const gateway = serving(internet)
    expect(refusal(gateway, alice, ping(towards(bob.ipv4)))).toMatchObject({ dropped: { prohibited: 1 } })
    expect(refusal(gateway, alice, ping(towards(bob.ipv6)))).toMatchObject({ dropped: { prohibited: 1 } })
    expect(refusal(gateway, alice, udp(towards("100.96.0.1")))).toMatchObject({ dropped: { prohibited: 1 } })
  })
  it("does not stand in the way of a private network that was granted beside it", () => {
    const gateway = serving(internet, { ...lan, filters: [tcpPort(443)] } as GatewayResource)
    expect(refusal(gateway, alice, tcp(towards("10.0.0.1"), 443))).toBeUndefined()
    expect(refusal(gateway, alice, tcp(towards("10.0.0.1"), 80))).toMatchObject({ dropped: { prohibited: 1 } })
    expect(refusal(gateway, alice, tcp(towards("192.168.0.1"), 443))).toMatchObject({
      dropped: { "unreachable-net": 1 }
    })
  })
})

describe("a packet to a client", () => {
  it("comes from where the client was let in, by source and source port", () => {
    const gateway = serving({ ...lan, filters: [udpPort(53)] } as GatewayResource)
    const answer = udp(back("10.0.0.1"), 40_000, "answer", 53)
    expect(gateway.fromTun(answer)).toEqual(answer)
    expect(gateway.fromTun(udp(back("10.0.0.1"), 53, "question", 40_000))).toBeUndefined()
    expect(gateway.fromTun(udp(back("192.0.2.1"), 40_000, "answer", 53))).toBeUndefined()
    expect(gateway.dropped()).toEqual({ "not-allowed": 2 })
  })
  it("or from the gateway, or is an ICMP error from anywhere but the tunnel", () => {
    const gateway = serving({ ...lan, filters: [tcpPort(443)] } as GatewayResource)
    expect(gateway.fromTun(ping(back(GATEWAY_4)))).toBeDefined()
    const router = icmpError(tcp(towards("10.0.0.1"), 443))
    router.set([192, 0, 2, 254], 12)
    expect(gateway.fromTun(router)).toBeDefined()
    router.set([100, 64, 0, 2], 12)
    expect(gateway.fromTun(router)).toBeUndefined()
    expect(gateway.dropped()).toEqual({ "not-allowed": 1 })
  })
  it("is for no other address, and never buffered", () => {
    const gateway = initialised()
    gateway.grant(alice, lan)
    expect(gateway.fromTun(udp(back("10.0.0.1")))).toBeUndefined()
    expect(gateway.fromTun(udp(back("10.0.0.1", bob)))).toBeUndefined()
    expect(gateway.fromTun(udp({ from: "10.0.0.1", to: "192.0.2.1" }))).toBeUndefined()
    expect(gateway.fromTun(new Uint8Array(3))).toBeUndefined()
    expect(gateway.dropped()).toEqual({ "not-connected": 1, "not-a-peer": 2, "malformed-packet": 1 })
    gateway.node.establish(alice.id)
    gateway.nudge()
    expect(gateway.sent()).toEqual([])
  })
  it("goes to each client by its own grants", () => {
    const gateway = serving(lan)
    gateway.connect(bob, lan6)
    expect(gateway.fromTun(udp(back("10.0.0.1")))).toBeDefined()
    expect(gateway.fromTun(udp(back("10.0.0.1", bob)))).toBeUndefined()
    expect(gateway.fromTun(udp(back("2001:db8::1", bob)))).toBeDefined()
  })
})

describe("the end of a grant", () => {
  it("comes at its time, each by itself, and the last one ends the connection with a goodbye", () => {
    const gateway = initialised()
    gateway.connect(alice, lan, { expiresAt: gateway.in(10) })
    gateway.connect(alice, lan6, { expiresAt: gateway.in(20) })
    gateway.connect(bob, lan)
    gateway.advance(9999)
    expect(refusal(gateway, alice, udp(towards("10.0.0.1")))).toBeUndefined()
    gateway.advance(1)
    expect(refusal(gateway, alice, udp(towards("10.0.0.1")))).toMatchObject({ dropped: { prohibited: 1 } })
    expect(refusal(gateway, alice, udp(towards("2001:db8::1")))).toBeUndefined()
    gateway.advance(10_000)
    expect(gateway.node.goodbyes).toEqual([alice.id])
    expect(gateway.events()).toMatchObject([{ _tag: "PeerLost", peer: alice.id }])
    expect(refusal(gateway, bob, udp(towards("10.0.0.1", bob)))).toBeUndefined()
    expect(gateway.core.pollTimeout()).toBeUndefined()
  })
  it("that was in the past comes at once, though the grant is confirmed", () => {
    const gateway = initialised()
    gateway.connect(bob, lan)
    gateway.grant(alice, lan, { expiresAt: 1 })
    expect(gateway.requests()).toHaveLength(1)
    gateway.advance(0)
    expect(gateway.core.status(gateway.now).clients.map(({ id }) => id)).toEqual([bob.id])
    expect(gateway.node.hasConnection(alice.id)).toBe(false)
  })
  it("is put off by the grant given again", () => {
    const gateway = initialised()
    gateway.connect(alice, lan, { expiresAt: gateway.in(10) })
    gateway.connect(alice, lan, { expiresAt: gateway.in(20) })
    gateway.advance(15_000)
    expect(refusal(gateway, alice, udp(towards("10.0.0.1")))).toBeUndefined()
  })
  it("comes when the portal rejects it", () => {
    const gateway = serving(lan, lan6)
    gateway.push({ _tag: "RejectAccess", clientId: alice.id, resourceId: lan.id })
    expect(refusal(gateway, alice, udp(towards("10.0.0.1")))).toMatchObject({ dropped: { prohibited: 1 } })
    gateway.push({ _tag: "RejectAccess", clientId: bob.id, resourceId: lan6.id })
    expect(gateway.node.goodbyes).toEqual([])
    gateway.push({ _tag: "RejectAccess", clientId: alice.id, resourceId: lan6.id })
    expect(gateway.node.goodbyes).toEqual([alice.id])
    expect(refusal(gateway, alice, udp(towards("10.0.0.1")))).toMatchObject({ dropped: { "no-peer-state": 1 } })
  })
  it("comes with a list that does not name it, which also moves the expiry of the others", () => {
    const gateway = serving(lan, lan6)
    gateway.connect(bob, lan)
    gateway.push({
      _tag: "GatewayInit",
      ipv4: ip(GATEWAY_4),
      ipv6: ip(GATEWAY_6),
      relays: [],
      authorizations: [
        { clientId: alice.id, resourceId: lan.id, expiresAt: gateway.in(5) },
        { clientId: uuid(0xc3), resourceId: lan.id, expiresAt: gateway.in(5) }
      ]
    })
    expect(gateway.core.status(gateway.now).clients).toEqual([{ id: alice.id, resources: [lan.id] }])
    expect(gateway.node.goodbyes).toEqual([bob.id])
    gateway.advance(5000)
    expect(gateway.node.goodbyes).toEqual([bob.id, alice.id])
  })
  it("of the Internet closes it, while networks stay", () => {
    const gateway = serving(lan, internet)
    gateway.push({ _tag: "RejectAccess", clientId: alice.id, resourceId: internet.id })
    expect(refusal(gateway, alice, udp(towards("192.0.2.1")))).toMatchObject({ dropped: { prohibited: 1 } })
    expect(refusal(gateway, alice, udp(towards("10.0.0.1")))).toBeUndefined()
  })
})

describe("an update of a resource", () => {
  it("replaces its filters for all clients, and is nothing for one that nobody has", () => {
    const gateway = serving(lan)
    gateway.connect(bob, lan)
    gateway.push({ _tag: "ResourceUpdated", resource: { ...lan, filters: [tcpPort(1)] } as GatewayResource })
    gateway.push({ _tag: "ResourceUpdated", resource: lan6 })
    gateway.push({ _tag: "ResourceUpdated", resource: { type: "internet", id: lan.id } })
    for (const client of [alice, bob]) {
      expect(refusal(gateway, client, udp(towards("10.0.0.1", client)))).toMatchObject({ dropped: { prohibited: 1 } })
      expect(refusal(gateway, client, tcp(towards("10.0.0.1", client), 1))).toBeUndefined()
    }
  })
})

describe("a connection", () => {
  it("that is lost leaves the grants to the client that comes back", () => {
    const gateway = serving(lan)
    gateway.node.fail(alice.id)
    gateway.nudge()
    expect(gateway.events()).toEqual([{ _tag: "PeerLost", peer: alice.id, reason: "no path works" }])
    expect(gateway.core.status(gateway.now).clients).toEqual([{ id: alice.id, resources: [lan.id] }])
    gateway.connect(alice, lan6)
    expect(refusal(gateway, alice, udp(towards("10.0.0.1")))).toBeUndefined()
  })
  it("that the client says goodbye to takes them with it", () => {
    const gateway = serving(lan)
    gateway.fromPeer(alice.id, makeControlPacket({ _tag: "Goodbye" }))
    expect(gateway.core.status(gateway.now).clients).toEqual([])
    expect(gateway.node.goodbyes).toEqual([])
    expect(gateway.node.hasConnection(alice.id)).toBe(false)
    expect(gateway.events()).toMatchObject([{ _tag: "PeerLost" }])
  })
  it("is told of once it is up", () => {
    const gateway = initialised()
    gateway.grant(alice, lan)
    gateway.events()
    gateway.node.establish(alice.id)
    gateway.nudge()
    expect(gateway.events()).toEqual([{ _tag: "PeerConnected", peer: alice.id }])
  })
  it("ends with the network, the grants do not", () => {
    const gateway = serving(lan)
    gateway.core.reset(gateway.now)
    expect(gateway.node.goodbyes).toEqual([])
    expect(gateway.events()).toMatchObject([{ _tag: "PeerLost" }])
    expect(gateway.core.status(gateway.now).clients).toHaveLength(1)
  })
})

it("holds candidates back while the portal is away", () => {
  const gateway = serving(lan)
  gateway.core.portalDisconnected(gateway.now)
  gateway.node.events.push(
    { _tag: "NewIceCandidate", peer: alice.id, candidate: "candidate:1 1 udp 5 a" },
    { _tag: "InvalidateIceCandidate", peer: alice.id, candidate: "candidate:2 1 udp 5 b" }
  )
  gateway.nudge()
  expect(gateway.events()).toEqual([])
  gateway.core.portalConnected(gateway.now)
  expect(gateway.requests().map(({ _tag }) => _tag)).toEqual([
    "BroadcastIceCandidates",
    "BroadcastInvalidatedIceCandidates"
  ])
})

it("passes on candidates and relays, and asks for relays", () => {
  const gateway = serving(lan)
  gateway.push({ _tag: "GatewayIceCandidates", clientId: alice.id, candidates: ["a"] })
  gateway.push({ _tag: "GatewayInvalidateIceCandidates", clientId: alice.id, candidates: ["b"] })
  gateway.push({ _tag: "RelaysPresence", disconnectedIds: ["r"], connected: [] })
  expect(gateway.node.addRemoteCandidate.mock.lastCall).toEqual([alice.id, "a", gateway.now])
  expect(gateway.node.removeRemoteCandidate.mock.lastCall).toEqual([alice.id, "b", gateway.now])
  expect(gateway.node.updateRelays.mock.lastCall).toEqual([["r"], [], gateway.now])
  gateway.node.events.push({ _tag: "NoRelays" })
  gateway.nudge()
  expect(gateway.requests()).toEqual([{ _tag: "NoRelays" }])
})

it("says goodbye to everybody in the end, then drops everything", () => {
  const gateway = serving(lan)
  gateway.connect(bob, lan)
  gateway.core.close(gateway.now)
  expect(gateway.node.goodbyes).toEqual([alice.id, bob.id])
  gateway.dropped()
  expect(gateway.fromTun(udp(back("10.0.0.1")))).toBeUndefined()
  expect(gateway.fromPeer(alice.id, udp(towards("10.0.0.1")))).toBeUndefined()
  expect(gateway.dropped()).toEqual({ closed: 2 })
  expect(gateway.events()).toEqual([])
  expect(gateway.core.pollTimeout()).toBeUndefined()
})
