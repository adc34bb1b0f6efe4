/** Client to client through device pools: tunnel spec 13, 6.3, 8.1 steps 9, 11 and 12, 9 steps 2 and 3, 15 and 16. */
import { describe, expect, it } from "vitest"
import type { ClientPush, Resource } from "../../../src/protocol/portal/types.ts"
import { makeControlPacket } from "../../../src/protocol/tunnel/controlPacket.ts"
import { ip } from "../../../src/protocol/wire/address.ts"
import { setSourcePort } from "../../../src/protocol/wire/ipEdit.ts"
import { back, clientWith, UNIX_EPOCH_MILLIS, via } from "./client.ts"
import { access, connectTo, device, establish, inboundAccess, poolOf } from "./devices.ts"
import { cidr, CLIENT_4, gateway, init, internet, tcpPort, udpPort, uuid } from "./fixtures.ts"
import { icmp, icmpError, isIntact, other, parsed, ping, tcp, udp } from "./packets.ts"

const d1 = device(1)
const d2 = device(2)
const pool = poolOf(1, [d1, d2])
const tcpOnly = poolOf(2, [d1], [tcpPort(443)])
const shared = uuid(9)
const goodbye = makeControlPacket({ _tag: "Goodbye" })

/** Addresses of devices that the portal is asked for. */
const asked = (client: ReturnType<typeof clientWith>): ReadonlyArray<unknown> =>
  client.requests().flatMap((request) =>
    request._tag === "RequestAuthorization" ? [[request.resourceId, request.ipv4 ?? request.ipv6]] : []
  )

/** The answer to a `tcp` packet to this port. */
const tcpFrom = (ends: Parameters<typeof tcp>[0], port: number): Uint8Array => {
  const bytes = tcp(ends, 40_000)
  setSourcePort(parsed(bytes), port)
  return bytes
}

const connected = (...resources: ReadonlyArray<Resource>) => {
  const client = clientWith(...resources)
  connectTo(client, d1)
  return client
}

/** The device may reach us, and is connected. */
const reachedBy = (filters: Parameters<typeof inboundAccess>[2] = [], expiresAt?: number) => {
  const client = clientWith()
  client.push(inboundAccess(d1, shared, filters, expiresAt))
  establish(client, d1)
  return client
}

describe("the way to a device", () => {
  it.each([["ipv4", d1.ipv4], ["ipv6", d1.ipv6]] as const)("is asked for by its exact %s address", (family, to) => {
    const client = clientWith(pool)
    expect(client.fromTun(udp(via(to)))).toBeUndefined()
    expect(client.requests()).toEqual([
      { _tag: "RequestAuthorization", resourceId: pool.id, connectedGatewayIds: [], [family]: to }
    ])
    expect(client.dropped()).toEqual({})
  })
  it("is asked for every 2 s at most, and for each address by itself", () => {
    const client = clientWith(pool)
    client.fromTun(udp(via(d1.ipv4)))
    client.fromTun(udp(via(d1.ipv6)))
    client.fromTun(udp(via(d2.ipv4)))
    expect(asked(client)).toEqual([[pool.id, d1.ipv4], [pool.id, d1.ipv6], [pool.id, d2.ipv4]])
    client.advance(1999)
    client.fromTun(udp(via(d1.ipv4), 1))
    expect(asked(client)).toEqual([])
    client.advance(1)
    client.fromTun(udp(via(d1.ipv4), 2))
    expect(asked(client)).toEqual([[pool.id, d1.ipv4]])
  })
  it("opens with the portal's word, and what has waited for either address goes first", () => {
    const client = clientWith(pool)
    const packets = [udp(via(d1.ipv4), 1), ping(via(d1.ipv6)), tcp(via(d1.ipv4), 443, 2)]
    for (const packet of packets) client.fromTun(packet)
    client.push(access(d1))
    expect(client.node.requests).toMatchObject([{ peer: d1.id, role: "controlling", profile: "device" }])
    expect(client.sent()).toEqual([])
    client.node.establish(d1.id)
    client.nudge()
    expect(client.deliveries()).toEqual([packets[0], packets[2], packets[1]].map((bytes) => ({ peer: d1.id, bytes })))
    expect(client.route(udp(via(d1.ipv4), 7))).toEqual({ peer: d1.id, bytes: udp(via(d1.ipv4), 7) })
    expect(client.events().filter(({ _tag }) => _tag.startsWith("Peer"))).toEqual([{
      _tag: "PeerConnected",
      peer: d1.id
    }])
    expect(client.dropped()).toEqual({})
  })
  it("needs no word for each family once the pool's member is authorised", () => {
    const client = connected(pool)
    expect(client.fromTun(udp(via(d1.ipv6)))).toEqual(udp(via(d1.ipv6)))
    expect(asked(client)).toEqual([])
  })
  it("is closed by the pool's filters: the application is told, the portal is not asked", () => {
    const client = clientWith(tcpOnly)
    const refused = udp(via(d1.ipv4), 443)
    expect(client.fromTun(refused)).toBeUndefined()
    expect(client.toTun()).toEqual([icmpError(refused)])
    expect([asked(client), client.dropped()]).toEqual([[], { prohibited: 1 }])
  })
  it("is of the pool that permits the packet, and each pool is authorised by itself", () => {
    const udpOnly = poolOf(3, [d1], [udpPort(53)])
    const client = clientWith(tcpOnly, udpOnly)
    client.fromTun(tcp(via(d1.ipv4), 443, 2))
    client.push(access(d1))
    establish(client, d1)
    expect(client.fromTun(tcp(via(d1.ipv4), 443))).toBeDefined()
    asked(client)
    expect(client.fromTun(udp(via(d1.ipv4), 53))).toBeUndefined()
    expect(asked(client)).toEqual([[udpOnly.id, d1.ipv4]])
  })
  it("comes before networks and the Internet, which never lead to a tunnel address", () => {
    const client = clientWith(cidr(5, "100.64.0.0/10"), internet(6), pool)
    client.core.setInternetResourceState(true, client.now)
    client.fromTun(udp(via(d1.ipv4)))
    expect(asked(client)).toEqual([[pool.id, d1.ipv4]])
    const alone = clientWith(internet(6))
    alone.core.setInternetResourceState(true, alone.now)
    alone.fromTun(udp(via(d1.ipv4)))
    expect([asked(alone), alone.dropped(), alone.toTun()]).toEqual([[], { "unknown-resource": 1 }, []])
  })
  it("does not exist for other protocols, nor for ICMP errors about nothing", () => {
    const client = connected(pool)
    expect(client.fromTun(other(via(d1.ipv4), 47))).toBeUndefined()
    expect(client.fromTun(icmpError(udp(back(d1.ipv4), 5000, "x", 9)))).toBeUndefined()
    expect(client.dropped()).toEqual({ "unsupported-protocol": 1, "outbound-icmp-error": 1 })
  })
  it("waits for relays to ask for, and asks for them when there are none", () => {
    const client = clientWith(pool)
    client.node.hasRelays = false
    client.fromTun(udp(via(d1.ipv4)))
    client.requests()
    client.push(access(d1))
    expect([client.requests(), client.dropped()]).toEqual([[{ _tag: "NoRelays" }], { "no-relays": 1 }])
  })
})

describe("what a device sends", () => {
  it("is delivered as an answer, whatever it was granted", () => {
    const client = connected(pool)
    expect(client.fromTun(udp(via(d1.ipv4), 53, "q", 1234))).toBeDefined()
    const answer = udp(back(d1.ipv4), 1234, "a", 53)
    expect(client.fromPeer(d1.id, answer)).toEqual(answer)
    client.fromPeer(d1.id, udp(back(d1.ipv4), 1235, "a", 53))
    client.fromPeer(d1.id, udp(back(d1.ipv4), 1234, "a", 54))
    expect(client.dropped()).toEqual({ prohibited: 2 })
  })
  it("is refused through the tunnel without a grant", () => {
    const client = connected(pool)
    for (const packet of [tcp(back(d1.ipv4), 22, 2), ping(back(d1.ipv6))]) {
      expect(client.fromPeer(d1.id, packet)).toBeUndefined()
      const [answer] = client.deliveries()
      expect(answer).toEqual({ peer: d1.id, bytes: icmpError(packet) })
      expect(isIntact(answer?.bytes ?? new Uint8Array())).toBe(true)
    }
  })
  it("passes its grant's filters, and its answers pass without a pool", () => {
    const client = reachedBy([tcpPort(22)])
    expect(client.node.requests).toMatchObject([{ peer: d1.id, role: "controlled", profile: "device" }])
    expect(client.fromTun(tcp(via(d1.ipv4), 22))).toBeUndefined()
    expect(client.dropped()).toEqual({ "unknown-resource": 1 })
    const syn = tcp(back(d1.ipv4), 22, 2)
    expect(client.fromPeer(d1.id, syn)).toEqual(syn)
    const answer = tcpFrom(via(d1.ipv4), 22)
    expect(client.route(answer)).toEqual({ peer: d1.id, bytes: answer })
    expect(client.fromPeer(d1.id, tcp(back(d1.ipv4), 23, 2))).toBeUndefined()
    expect(client.fromPeer(d1.id, udp(back(d1.ipv4), 22))).toBeUndefined()
    expect(client.dropped()).toEqual({ prohibited: 2 })
  })
  it("is measured by all its grants together", () => {
    const client = reachedBy([tcpPort(22)])
    client.push(inboundAccess(d1, uuid(10), [udpPort(53)]))
    expect(client.fromPeer(d1.id, udp(back(d1.ipv4), 53))).toBeDefined()
    expect(client.fromPeer(d1.id, tcp(back(d1.ipv4), 22))).toBeDefined()
    client.push(inboundAccess(d1, uuid(11)))
    expect(client.fromPeer(d1.id, ping(back(d1.ipv4)))).toBeDefined()
    expect(client.dropped()).toEqual({})
  })
  it("comes from the device's addresses and goes to ours, or nowhere", () => {
    const client = reachedBy()
    for (
      const packet of [
        udp(back(d2.ipv4)),
        udp({ from: d1.ipv4, to: d2.ipv4 }),
        udp({ from: d1.ipv4, to: "10.0.0.1" }),
        icmpError(udp(via(d2.ipv4)))
      ]
    ) expect(client.fromPeer(d1.id, packet)).toBeUndefined()
    expect([client.dropped(), client.deliveries(), client.toTun()]).toEqual([{ "not-allowed": 4 }, [], []])
  })
  it("is nothing if the device is unknown", () => {
    const client = clientWith(pool)
    client.fromPeer(d1.id, udp(back(d1.ipv4)))
    expect(client.dropped()).toEqual({ "no-peer-state": 1 })
  })
  it("makes us ask again when it is a refusal of what we believe to be granted", () => {
    const client = connected(tcpOnly, pool)
    const sent = udp(via(d1.ipv4), 53, "q", 1234)
    client.fromTun(sent)
    client.advance(2000)
    expect(client.fromPeer(d1.id, icmpError(sent, "unreachable-net"))).toBeDefined()
    expect(asked(client)).toEqual([])
    expect(client.fromPeer(d1.id, icmpError(sent))).toEqual(icmpError(sent))
    client.fromPeer(d1.id, icmpError(sent))
    expect(asked(client)).toEqual([[pool.id, d1.ipv4]])
    client.push(access(d1))
    expect([client.fromTun(sent), client.dropped()]).toEqual([sent, {}])
  })
  it("may be an ICMP error about a flow of ours or of its own, and no other", () => {
    const client = connected(pool)
    const sent = udp(via(d1.ipv4), 53, "q", 1234)
    client.fromTun(sent)
    expect(client.fromPeer(d1.id, icmpError(sent))).toEqual(icmpError(sent))
    for (const never of [udp(via(d1.ipv4), 53, "q", 1235), udp(via(d2.ipv4), 53, "q", 1234)]) {
      expect(client.fromPeer(d1.id, icmpError(never))).toBeUndefined()
    }
    expect(client.fromPeer(d1.id, icmp(back(d1.ipv4), 5))).toBeUndefined()
    expect([client.dropped(), client.deliveries()]).toEqual([{ "not-allowed": 3 }, []])
  })
})

describe("our ICMP errors", () => {
  it("reach a device about flows between us, in both directions", () => {
    const client = reachedBy()
    const request = udp(back(d1.ipv4), 53, "q", 1234)
    client.fromPeer(d1.id, request)
    expect(client.fromTun(icmpError(request))).toEqual(icmpError(request))
    expect(client.fromTun(icmpError(udp(back(d1.ipv4), 54, "q", 1234)))).toBeUndefined()
    expect(client.dropped()).toEqual({ "outbound-icmp-error": 1 })
  })
})

describe("a flow", () => {
  it.each([
    ["UDP", 120_000, (port: number) => udp(via(d1.ipv4), port, "q", 1234), udp(back(d1.ipv4), 1234, "a", 53)],
    ["ICMP", 120_000, () => ping(via(d1.ipv4), 7), ping(back(d1.ipv4), 7)],
    ["TCP", 7_440_000, (port: number) => tcp(via(d1.ipv4), port), tcpFrom(back(d1.ipv4), 53)]
  ])("of %s ends after %i ms without a packet from who opened it", (_, idle, request, answer) => {
    const client = connected(pool)
    client.fromTun(request(53))
    client.advance(idle - 1)
    expect(client.fromPeer(d1.id, answer)).toBeDefined()
    client.fromTun(request(53))
    client.advance(idle - 1)
    // An answer keeps nothing.
    expect(client.fromPeer(d1.id, answer)).toBeDefined()
    client.advance(1)
    expect(client.fromPeer(d1.id, answer)).toBeUndefined()
    expect(client.dropped()).toEqual({ prohibited: 1 })
  })
  it("that a device opened is kept by its packets, not by our answers", () => {
    const client = reachedBy()
    const request = udp(back(d1.ipv4), 53, "q", 1234)
    const answer = udp(via(d1.ipv4), 1234, "a", 53)
    client.fromPeer(d1.id, request)
    client.advance(119_999)
    client.fromPeer(d1.id, request)
    client.advance(119_999)
    expect(client.fromTun(answer)).toBeDefined()
    client.advance(1)
    expect(client.fromTun(answer)).toBeUndefined()
    expect(client.dropped()).toEqual({ "unknown-resource": 1 })
  })
  it("is forgotten when our addresses change", () => {
    const client = connected(pool)
    client.fromTun(udp(via(d1.ipv4), 53, "q", 1234))
    const config = { ipv4: ip("100.64.0.5"), ipv6: ip("fd00:2021:1111::5"), upstreamDo53: [], upstreamDoh: [] }
    client.push({ _tag: "ConfigChanged", interface: config })
    client.push({ _tag: "ConfigChanged", interface: { ...config, ipv4: ip(CLIENT_4) } })
    expect(client.fromPeer(d1.id, udp(back(d1.ipv4), 1234, "a", 53))).toBeUndefined()
  })
})

describe("what the portal changes", () => {
  const request = udp(back(d1.ipv4), 53)

  it("filters of a grant apply to flows that exist", () => {
    const client = reachedBy()
    expect(client.fromPeer(d1.id, request)).toBeDefined()
    client.push({ _tag: "ResourceFiltersUpdated", id: shared, filters: [tcpPort(53)] })
    expect(client.fromPeer(d1.id, request)).toBeUndefined()
    client.push({ _tag: "ResourceFiltersUpdated", id: shared, filters: [udpPort(53)] })
    expect(client.fromPeer(d1.id, request)).toBeDefined()
    client.push({ _tag: "ResourceFiltersUpdated", id: uuid(99), filters: [tcpPort(53)] })
    expect(client.fromPeer(d1.id, request)).toBeDefined()
  })
  it("a revoked grant cuts what the device opened; the connection and our flows stay", () => {
    const client = connected(pool)
    client.push(inboundAccess(d1, shared))
    client.fromTun(udp(via(d1.ipv4), 1, "q", 2))
    expect(client.fromPeer(d1.id, request)).toBeDefined()
    client.push({ _tag: "RejectAccess", clientId: d1.id, resourceId: shared })
    expect(client.fromPeer(d1.id, request)).toBeUndefined()
    expect(client.fromPeer(d1.id, udp(back(d1.ipv4), 2, "a", 1))).toBeDefined()
    expect(client.node.goodbyes).toEqual([])
  })
  it("a grant ends when it says, also on a reconnect of the portal", () => {
    const unix = (client: { readonly now: number }, seconds: number) =>
      Math.floor((UNIX_EPOCH_MILLIS + client.now) / 1000) + seconds
    const client = reachedBy([], unix({ now: 1_000_000 }, 10))
    client.advance(9_999)
    expect(client.fromPeer(d1.id, request)).toBeDefined()
    client.push(init([], {
      authorizations: [{ clientId: d1.id, resourceId: shared, expiresAt: unix({ now: 1_000_000 }, 20) }]
    }))
    client.advance(10_000)
    expect(client.fromPeer(d1.id, request)).toBeDefined()
    client.advance(1)
    expect(client.fromPeer(d1.id, request)).toBeUndefined()
    expect(client.node.isEstablished(d1.id)).toBe(true)
  })
  it("a grant that `init` does not list is gone", () => {
    const client = reachedBy()
    const other = { clientId: d2.id, resourceId: shared, expiresAt: 4e9 }
    client.push(init([], { authorizations: [other, { ...other, clientId: d1.id, resourceId: uuid(77) }] }))
    expect(client.fromPeer(d1.id, request)).toBeUndefined()
  })
  it("a grant that has ended before it comes permits nothing", () => {
    const client = reachedBy([], 1)
    client.advance(0)
    expect(client.fromPeer(d1.id, request)).toBeUndefined()
  })
  it("members that stay can be reached on; one that leaves can not", () => {
    const client = connected(pool)
    client.push({ _tag: "ResourceCreatedOrUpdated", resource: poolOf(1, [d1]) })
    expect(client.fromTun(udp(via(d1.ipv4)))).toBeDefined()
    client.push({ _tag: "ResourceCreatedOrUpdated", resource: poolOf(1, [d1], [udpPort(5000)]) })
    expect(client.fromTun(udp(via(d1.ipv4), 5000))).toBeDefined()
    expect(client.fromTun(udp(via(d1.ipv4), 5001))).toBeUndefined()
    expect(client.dropped()).toEqual({ prohibited: 1 })
    client.push({ _tag: "ResourceCreatedOrUpdated", resource: poolOf(1, []) })
    expect(client.fromTun(udp(via(d1.ipv4)))).toBeUndefined()
    expect([client.dropped(), asked(client)]).toEqual([{ "unknown-resource": 1 }, []])
    client.push({ _tag: "ResourceCreatedOrUpdated", resource: poolOf(1, [d1]) })
    client.fromTun(udp(via(d1.ipv4)))
    expect(asked(client)).toEqual([[pool.id, d1.ipv4]])
  })
  it("who waits for a member that has left, or for a pool that is gone, waits no more", () => {
    const client = clientWith(pool)
    client.fromTun(udp(via(d1.ipv4)))
    client.fromTun(udp(via(d2.ipv4)))
    client.push({ _tag: "ResourceCreatedOrUpdated", resource: poolOf(1, [d1]) })
    expect(client.dropped()).toEqual({ "not-authorized": 1 })
    client.push({ _tag: "ResourceDeleted", id: pool.id })
    expect(client.dropped()).toEqual({ "not-authorized": 1 })
    client.push(access(d1))
    establish(client, d1)
    expect([client.deliveries(), client.fromTun(udp(via(d1.ipv4)))]).toEqual([[], undefined])
  })
  it("a member that has moved has to be asked for again", () => {
    const client = connected(pool)
    const moved = { ...d1, ipv4: "100.64.2.77" }
    client.push({ _tag: "ResourceCreatedOrUpdated", resource: poolOf(1, [moved]) })
    client.fromTun(udp(via(moved.ipv4)))
    expect(asked(client)).toEqual([[pool.id, moved.ipv4]])
    client.push(access(moved))
    expect(client.events()).toMatchObject([{ _tag: "ResourcesUpdated" }, { _tag: "PeerLost", peer: d1.id }])
    expect(client.route(udp(via(moved.ipv4), 2))).toMatchObject({ peer: d1.id })
  })
})

describe("denial", () => {
  const denied = (ipv4: string | undefined, ipv6?: string): ClientPush => ({
    _tag: "DeviceAccessDenied",
    reason: "forbidden",
    ipv4: ipv4 === undefined ? undefined : ip(ipv4),
    ipv6: ipv6 === undefined ? undefined : ip(ipv6)
  })

  it("ends the wait for the addresses that it names", () => {
    const client = clientWith(pool)
    for (const to of [d1.ipv4, d1.ipv6, d2.ipv4]) client.fromTun(udp(via(to)))
    asked(client)
    client.push(denied(d1.ipv4))
    expect(client.dropped()).toEqual({ "not-authorized": 1 })
    client.push(denied(undefined, d1.ipv6))
    expect(client.dropped()).toEqual({ "not-authorized": 1 })
    client.fromTun(udp(via(d1.ipv4)))
    expect(asked(client)).toEqual([[pool.id, d1.ipv4]])
  })
  it("closes the connection, with a goodbye if it is up", () => {
    const client = connected(pool)
    client.push(denied(d1.ipv4, d1.ipv6))
    expect(client.node.goodbyes).toEqual([d1.id])
    expect(client.events()).toMatchObject([{ _tag: "ResourcesUpdated" }, { _tag: "PeerLost", peer: d1.id }])
    client.fromTun(udp(via(d1.ipv4)))
    expect(asked(client)).toEqual([[pool.id, d1.ipv4]])
  })
  it("in mid-connect leaves nothing that seems authorised", () => {
    const client = clientWith(pool)
    client.fromTun(udp(via(d1.ipv4)))
    client.push(access(d1))
    client.requests()
    client.push(denied(d1.ipv4))
    expect([client.node.hasConnection(d1.id), client.dropped()]).toEqual([false, { "not-connected": 1 }])
    client.advance(2000)
    client.fromTun(udp(via(d1.ipv4)))
    expect(asked(client)).toEqual([[pool.id, d1.ipv4]])
    client.push(access(d1))
    establish(client, d1)
    expect(client.fromTun(udp(via(d1.ipv4)))).toBeDefined()
  })
  it("of what no pool lists leaves a device alone that may reach us", () => {
    const client = reachedBy()
    client.push(denied(d1.ipv4, d1.ipv6))
    expect(client.fromPeer(d1.id, udp(back(d1.ipv4)))).toBeDefined()
  })
  it("of a device that is offline ends everything about it", () => {
    const client = connected(pool)
    client.fromTun(udp(via(d2.ipv4)))
    client.push({ _tag: "ClientIceCandidateError", clientId: d1.id, reason: "not_found" })
    expect(client.node.goodbyes).toEqual([])
    for (const { id } of [d1, d2]) client.push({ _tag: "ClientIceCandidateError", clientId: id, reason: "offline" })
    expect([client.node.goodbyes, client.dropped()]).toEqual([[d1.id], { "not-authorized": 1 }])
  })
})

describe("a connection to a device", () => {
  it("tells its candidates to the device, and hears those of it", () => {
    const client = clientWith(pool)
    client.fromTun(udp(via(d1.ipv4)))
    client.requests()
    client.push(access(d1))
    client.node.events.push({ _tag: "NewIceCandidate", peer: d1.id, candidate: "a" })
    client.nudge()
    client.node.events.push({ _tag: "InvalidateIceCandidate", peer: d1.id, candidate: "b" })
    client.nudge()
    expect(client.requests()).toEqual([
      { _tag: "NewClientIceCandidates", clientId: d1.id, candidates: ["a"] },
      { _tag: "InvalidateClientIceCandidates", clientId: d1.id, candidates: ["b"] }
    ])
    client.push({ _tag: "ClientIceCandidates", clientId: d1.id, candidates: ["c", "d"] })
    client.push({ _tag: "InvalidateClientIceCandidates", clientId: d1.id, candidates: ["c"] })
    expect(client.node.addRemoteCandidate.mock.calls.map(([peer, text]) => [peer, text])).toEqual([
      [d1.id, "c"],
      [d1.id, "d"]
    ])
    expect(client.node.removeRemoteCandidate.mock.lastCall?.slice(0, 2)).toEqual([d1.id, "c"])
  })
  it("waits for our relays, in the order in which the portal spoke of it", () => {
    const client = clientWith()
    client.node.awaitsRelays = true
    client.node.hasRelays = false
    client.push(inboundAccess(d1, shared))
    client.push({ _tag: "ClientIceCandidates", clientId: d1.id, candidates: ["a"] })
    expect([client.node.hasConnection(d1.id), client.requests()]).toEqual([false, []])
    client.node.awaitsRelays = false
    client.node.hasRelays = true
    client.nudge()
    expect(client.node.hasConnection(d1.id)).toBe(true)
    expect(client.node.addRemoteCandidate.mock.calls.map(([peer, text]) => [peer, text])).toEqual([[d1.id, "a"]])
    establish(client, d1)
    expect(client.fromPeer(d1.id, udp(back(d1.ipv4)))).toBeDefined()
  })
  it("does not wait for relays with what the portal said before it was away", () => {
    const client = clientWith()
    client.node.awaitsRelays = true
    client.push(inboundAccess(d1, shared))
    client.core.portalDisconnected(client.now)
    client.node.awaitsRelays = false
    client.core.portalConnected(client.now)
    client.push(init([]))
    expect(client.node.hasConnection(d1.id)).toBe(false)
  })
  it("holds its candidates while the portal is away", () => {
    const client = clientWith(pool)
    client.fromTun(udp(via(d1.ipv4)))
    client.push(access(d1))
    client.requests()
    client.core.portalDisconnected(client.now)
    client.node.events.push({ _tag: "NewIceCandidate", peer: d1.id, candidate: "a" })
    client.nudge()
    expect(client.requests()).toEqual([])
    client.core.portalConnected(client.now)
    expect(client.requests()).toMatchObject([{ _tag: "NewClientIceCandidates", candidates: ["a"] }])
  })
  it.each([
    ["a goodbye", (client: ReturnType<typeof clientWith>) => void client.fromPeer(d1.id, goodbye)],
    ["a failure", (client: ReturnType<typeof clientWith>) => {
      client.node.fail(d1.id)
      client.nudge()
    }]
  ])("ends with %s: flows, grants and authorisation with it", (_, end) => {
    const client = connected(pool)
    client.push(inboundAccess(d1, shared))
    client.fromTun(udp(via(d1.ipv4), 53, "q", 1234))
    end(client)
    expect(client.events()).toMatchObject([{ _tag: "ResourcesUpdated" }, { _tag: "PeerLost", peer: d1.id }])
    expect(client.fromPeer(d1.id, udp(back(d1.ipv4), 1234, "a", 53))).toBeUndefined()
    expect(client.dropped()).toEqual({ "no-peer-state": 1 })
    client.fromTun(udp(via(d1.ipv4)))
    expect(asked(client)).toEqual([[pool.id, d1.ipv4]])
  })
  it("knows no control packets but the goodbye", () => {
    const client = reachedBy()
    const status = { _tag: "DomainStatus", resource: shared, domain: "a.test", status: "Active" } as const
    client.fromPeer(d1.id, makeControlPacket(status))
    expect(client.dropped()).toEqual({ "unexpected-control-packet": 1 })
  })
  it("that is in use is asked for after a reset, when the portal is back", () => {
    const client = connected(pool)
    client.fromTun(udp(via(d1.ipv6)))
    client.core.reset(client.now)
    // To the old key.
    client.push(access(d1))
    expect([asked(client), client.node.hasConnection(d1.id)]).toEqual([[], false])
    client.core.portalConnected(client.now)
    client.push(init([pool]))
    expect(asked(client)).toEqual([[pool.id, d1.ipv6]])
    client.push(access(d1, { localIceCredentials: { username: "new", password: "new secret" } }))
    establish(client, d1)
    expect(client.fromTun(udp(via(d1.ipv4)))).toBeDefined()
  })
  it("is kept beside a gateway's, whose address needs no pool", () => {
    const lan = cidr(8, "10.0.0.0/8")
    const client = connected(pool, lan)
    const g1 = gateway(1)
    client.connect(lan.id, "10.0.0.1", g1)
    expect(client.route(udp(via("10.0.0.1")))?.peer).toBe(g1.id)
    expect(client.route(udp(via(g1.ipv4)))?.peer).toBe(g1.id)
    expect(client.route(udp(via(d1.ipv4)))?.peer).toBe(d1.id)
  })
  it("gets a goodbye at the end", () => {
    const client = connected(pool)
    client.core.close(client.now)
    expect(client.node.goodbyes).toEqual([d1.id])
  })
})

describe("the list of connected devices", () => {
  const told = (client: ReturnType<typeof clientWith>) =>
    client.events().flatMap((event) => event._tag === "ResourcesUpdated" ? [event.connectedDevices] : [])
  const alpha = { id: d1.id, name: "alpha", ipv4: ip(d1.ipv4), ipv6: ip(d1.ipv6) }
  const comesUp = (client: ReturnType<typeof clientWith>, { id }: typeof d1) => {
    client.node.establish(id)
    client.nudge()
  }

  it("has a device once its connection is up, with every static pool that lists it, and until it ends", () => {
    const client = clientWith({ ...pool, name: "b" }, { ...tcpOnly, name: "a" })
    client.events()
    client.fromTun(udp(via(d1.ipv4)))
    client.push(access(d1))
    expect(told(client)).toEqual([])
    comesUp(client, d1)
    expect(told(client)).toEqual([[{ ...alpha, pools: ["a", "b"] }]])
    client.node.fail(d1.id)
    client.nudge()
    expect(told(client)).toEqual([[]])
  })
  it("follows names and pools, without a word where nothing has changed", () => {
    const client = connected(pool)
    client.push(access(d1, { clientName: "renamed" }))
    expect(told(client)).toEqual([[{ ...alpha, name: "renamed", pools: [pool.name] }]])
    client.push(access(d1, { clientName: "renamed" }))
    expect(told(client)).toEqual([])
    client.push({ _tag: "ResourceCreatedOrUpdated", resource: { ...pool, name: "other" } })
    expect(told(client)).toEqual([[{ ...alpha, name: "renamed", pools: ["other"] }]])
    client.push({ _tag: "ResourceDeleted", id: pool.id })
    expect(told(client)).toEqual([[]])
  })
  it("has none that no static pool lists, such as one that reaches us", () => {
    const client = clientWith(poolOf(1, [d2]))
    client.push(inboundAccess(d1, shared))
    client.events()
    comesUp(client, d1)
    expect(told(client)).toEqual([])
    client.push({ _tag: "ResourceCreatedOrUpdated", resource: pool })
    expect(told(client)).toEqual([[{ ...alpha, pools: [pool.name] }]])
  })
  it("is in the order of names, then of ids", () => {
    const client = connected(pool)
    client.fromTun(udp(via(d2.ipv4)))
    client.push(access(d2, { clientName: "Zeta" }))
    comesUp(client, d2)
    expect(told(client).at(-1)?.map(({ name }) => name)).toEqual(["Zeta", "alpha"])
  })
  it("is empty after a reset until the connection is up again", () => {
    const client = connected(pool)
    client.core.reset(client.now)
    expect(told(client)).toEqual([[]])
  })
})
