/** How traffic becomes an authorization and a connection: tunnel spec 8.3, 5.5 and 15. */
import { describe, expect, it } from "vitest"
import { clientWith, tags, via } from "./client.ts"
import { cidr, gateway, grant, init, internet, site1, site2, tcpPort, uuid } from "./fixtures.ts"
import { ping, summary, tcp, udp } from "./packets.ts"

const lan = cidr(1, "10.0.0.0/8")
const lab = cidr(2, "10.99.0.0/16")
const g1 = gateway(1)
const g2 = gateway(2)

describe("an intent", () => {
  it("is made by the first packet, and by later ones at most every 2 s", () => {
    const client = clientWith(lan)
    client.fromTun(udp(via("10.0.0.1")))
    client.fromTun(udp(via("10.0.0.2")))
    expect(client.intents()).toEqual([lan.id])
    client.advance(1999)
    client.fromTun(udp(via("10.0.0.1")))
    expect(client.intents()).toEqual([])
    client.advance(1)
    expect(client.intents()).toEqual([]) // no timer asks by itself
    client.fromTun(udp(via("10.0.0.1")))
    expect(client.intents()).toEqual([lan.id])
  })
  it("waits while the portal is away, and is made again when it is back, for a minute", () => {
    const client = clientWith(lan, lab)
    client.fromTun(udp(via("10.0.0.1")))
    client.core.portalDisconnected(client.now)
    client.core.portalConnected(client.now)
    expect(client.intents()).toEqual([])
    client.push(init([lan, lab]))
    expect(client.intents()).toEqual([lan.id])
    client.core.portalDisconnected(client.now)
    client.advance(1000)
    client.fromTun(udp(via("10.99.0.1")))
    expect(client.intents()).toEqual([])
    client.advance(59_500)
    client.push(init([lan, lab]))
    expect(client.intents()).toEqual([lab.id])
    // The cool-down has begun anew.
    client.fromTun(udp(via("10.99.0.1"), 7))
    expect(client.intents()).toEqual([])
  })
  it("is one for each resource", () => {
    const client = clientWith(lan, lab)
    client.fromTun(udp(via("10.0.0.1")))
    client.fromTun(udp(via("10.99.0.1")))
    expect(client.intents()).toEqual([lan.id, lab.id])
  })
  it("names the favourite gateway first, then connected ones, then by id", () => {
    const resources = [1, 2, 3, 4].map((number) => cidr(number, `10.${number}.0.0/16`))
    const client = clientWith(...resources)
    const gateways = [10, 20, 30, 40].map((number) => gateway(number))
    for (const [i, each] of gateways.entries()) client.connect(resources[i]?.id ?? "", `10.${i + 1}.0.1`, each)
    for (const each of gateways) if (each !== gateways[2]) client.node.fail(each.id)
    client.nudge()
    client.events()
    client.fromTun(udp(via("10.1.0.1")))
    expect(client.requests()).toEqual([{
      _tag: "RequestAuthorization",
      resourceId: uuid(1),
      connectedGatewayIds: [gateways[2], gateways[0], gateways[1], gateways[3]].map((each) => each?.id)
    }])
  })
})

describe("a grant", () => {
  it("connects as the controlling side with what the portal says, and releases the packets in order", () => {
    const client = clientWith(lan)
    const packets = [udp(via("10.0.0.1")), ping(via("10.0.0.2")), tcp(via("10.0.0.3"))]
    for (const packet of packets) client.fromTun(packet)
    client.push(grant(lan.id, g1))
    expect(client.node.requests).toEqual([{
      peer: g1.id,
      remoteKey: new Uint8Array(32).fill(1),
      presharedKey: new Uint8Array(32).fill(2),
      localCredentials: { username: "client", password: "client secret" },
      remoteCredentials: { username: "gateway", password: "gateway secret" },
      role: "controlling",
      profile: "client",
      iceless: false
    }])
    client.node.establish(g1.id)
    client.nudge()
    expect(client.sent()).toEqual(packets)
    expect(client.dropped()).toEqual({})
  })
  it("of a second resource uses the connection at once", () => {
    const client = clientWith(lan, lab)
    client.connect(lan.id, "10.0.0.1", g1)
    client.fromTun(udp(via("10.99.0.1")))
    client.push(grant(lab.id, g1))
    expect(client.sent().map(summary)).toEqual(["100.64.0.1 > 10.99.0.1 protocol 17"])
  })
  it("nobody asked for connects nothing", () => {
    const client = clientWith(lan)
    client.push(grant(lan.id, g1))
    client.push(grant(uuid(77), g1))
    expect(client.node.requests).toEqual([])
    expect(client.dropped()).toEqual({ "grant-without-request": 1, "grant-of-unknown-resource": 1 })
  })
  it("that comes twice changes nothing the second time", () => {
    const client = clientWith(lan)
    client.connect(lan.id, "10.0.0.1", g1)
    client.push(grant(lan.id, g2))
    expect(client.node.requests).toHaveLength(1)
    expect(client.dropped()).toEqual({ "grant-without-request": 1 })
  })
  it("of a resource that was removed meanwhile is not heeded", () => {
    const client = clientWith(lan)
    client.fromTun(udp(via("10.0.0.1")))
    client.push({ _tag: "ResourceDeleted", id: lan.id })
    client.push(grant(lan.id, g1))
    expect(client.node.requests).toEqual([])
    expect(client.dropped()).toEqual({ "not-authorized": 1, "grant-of-unknown-resource": 1 })
  })
  it("without a relay asks for relays and loses the packets; the next one asks again", () => {
    const client = clientWith(lan)
    client.node.hasRelays = false
    client.fromTun(udp(via("10.0.0.1")))
    client.fromTun(udp(via("10.0.0.2")))
    client.events()
    client.push(grant(lan.id, g1))
    expect(client.requests()).toEqual([{ _tag: "NoRelays" }])
    expect(client.dropped()).toEqual({ "no-relays": 2 })
    client.node.hasRelays = true
    client.fromTun(udp(via("10.0.0.1")))
    expect(client.requests()).toEqual([
      { _tag: "RequestAuthorization", resourceId: lan.id, connectedGatewayIds: [] }
    ])
    client.push(grant(lan.id, g1))
    client.node.establish(g1.id)
    client.nudge()
    expect(client.sent()).toHaveLength(1)
  })
  it("by a gateway with other addresses than before ends what it had been granted", () => {
    const client = clientWith(lan, lab)
    client.connect(lan.id, "10.0.0.1", g1)
    client.fromTun(udp(via("10.99.0.1")))
    client.push(grant(lab.id, { ...g1, ipv4: "100.64.1.77" }, {
      clientIceCredentials: { username: "other", password: "p" }
    }))
    client.node.establish(g1.id)
    client.nudge()
    expect(client.sent().map(summary)).toEqual(["100.64.0.1 > 10.99.0.1 protocol 17"])
    expect(client.fromPeer(g1.id, udp({ from: "10.0.0.1", to: "100.64.0.1" }))).toBeUndefined()
    expect(client.fromPeer(g1.id, udp({ from: "100.64.1.77", to: "100.64.0.1" }))).toBeDefined()
    expect(client.fromTun(udp(via("10.0.0.1")))).toBeUndefined()
    expect(client.intents()).toContain(lan.id)
  })
  it("in the mode that we did not offer fails like any connection", () => {
    const client = clientWith(lan)
    client.fromTun(udp(via("10.0.0.1")))
    client.events()
    client.push(grant(lan.id, g1, { useIceless: true }))
    expect(client.node.requests[0]?.iceless).toBe(true)
    client.node.fail(g1.id)
    client.nudge()
    expect(tags(client.events())).toEqual(["PeerLost"])
  })
})

describe("a denial", () => {
  const denied = (reason: string) =>
    ({ _tag: "AuthorizationCreationFailed", resourceId: lan.id, reason, violatedProperties: [] }) as const

  it("because all gateways are offline is told once, drops the packets, and does not keep traffic from asking", () => {
    const client = clientWith({ ...lan, sites: [site1, site2] })
    client.fromTun(udp(via("10.0.0.1")))
    client.events()
    client.push(denied("offline"))
    expect(tags(client.events())).toEqual(["ResourcesUpdated", "AllGatewaysOffline"])
    expect(client.status(lan.id)).toBe("Offline")
    expect(client.dropped()).toEqual({ "not-authorized": 1 })
    client.fromTun(udp(via("10.0.0.1")))
    expect(client.intents()).toEqual([lan.id])
    client.push(denied("offline"))
    expect(client.events()).toEqual([])
  })
  it("of another resource is forgotten when the site's gateway, still connected, is granted", () => {
    const other = cidr(2, "192.0.2.0/24")
    const client = clientWith(lan, other)
    client.connect(other.id, "192.0.2.1", g1)
    client.fromTun(udp(via("10.0.0.1")))
    client.push(denied("offline"))
    expect(client.status(other.id)).toBe("Offline")
    client.authorize(lan.id, "10.0.0.1", g1)
    expect(client.status(other.id)).toBe("Online")
  })
  it("is forgotten after 5 minutes, with exactly one update", () => {
    const client = clientWith(lan)
    client.push(denied("offline"))
    client.events()
    client.advance(299_999)
    expect(client.events()).toEqual([])
    client.advance(1)
    expect(tags(client.events())).toEqual(["ResourcesUpdated"])
    expect(client.status(lan.id)).toBe("Unknown")
    client.advance(300_000)
    expect(client.events()).toEqual([])
  })
  it("of a resource that is in use ends that use", () => {
    const client = clientWith(lan)
    client.connect(lan.id, "10.0.0.1", g1)
    client.push(denied("offline"))
    expect(client.node.goodbyes).toEqual([g1.id])
    expect(client.status(lan.id)).toBe("Offline")
    expect(client.fromTun(udp(via("10.0.0.1")))).toBeUndefined()
    expect(client.intents()).toEqual([lan.id])
  })
  it("because of versions is told once, and the packets go on waiting", () => {
    const client = clientWith(lan)
    client.fromTun(udp(via("10.0.0.1")))
    client.events()
    client.push(denied("version_mismatch"))
    client.push(denied("version_mismatch"))
    expect(client.events()).toEqual([{ _tag: "GatewayVersionMismatch", resourceId: lan.id }])
    client.push(grant(lan.id, g1))
    client.node.establish(g1.id)
    client.nudge()
    expect(client.sent()).toHaveLength(1)
  })
  it("for any other reason, or of a resource that is unknown, changes nothing", () => {
    const client = clientWith(lan)
    client.fromTun(udp(via("10.0.0.1")))
    client.events()
    client.push(denied("forbidden"))
    client.push({ ...denied("offline"), resourceId: uuid(99) })
    expect(client.events()).toEqual([])
    client.push(grant(lan.id, g1))
    expect(client.node.requests).toHaveLength(1)
  })
})

describe("candidates", () => {
  const text = (number: number, priority: number) =>
    `candidate:${number} 1 udp ${priority} 192.0.2.1 ${number} typ host`

  it("go out as one message per peer, highest priority first", () => {
    const client = clientWith(lan)
    client.authorize(lan.id, "10.0.0.1", g1)
    client.events()
    for (const [number, priority] of [[1, 10], [2, 30], [3, 20]] as const) {
      client.node.events.push({ _tag: "NewIceCandidate", peer: g1.id, candidate: text(number, priority) })
    }
    client.node.events.push({ _tag: "InvalidateIceCandidate", peer: g1.id, candidate: text(9, 1) })
    client.nudge()
    expect(client.requests()).toEqual([
      { _tag: "NewGatewayIceCandidates", gatewayId: g1.id, candidates: [text(2, 30), text(3, 20), text(1, 10)] },
      { _tag: "InvalidateGatewayIceCandidates", gatewayId: g1.id, candidates: [text(9, 1)] }
    ])
  })
  it("are held back while the portal is away, and those of a lost peer never sent", () => {
    const client = clientWith(lan, lab)
    client.authorize(lan.id, "10.0.0.1", g1)
    client.authorize(lab.id, "10.99.0.1", g2)
    client.events()
    client.core.portalDisconnected(client.now)
    client.node.events.push(
      { _tag: "NewIceCandidate", peer: g1.id, candidate: text(1, 10) },
      { _tag: "NewIceCandidate", peer: g1.id, candidate: text(2, 20) },
      { _tag: "InvalidateIceCandidate", peer: g1.id, candidate: text(2, 20) },
      { _tag: "NewIceCandidate", peer: g2.id, candidate: text(3, 30) }
    )
    client.node.fail(g2.id)
    client.nudge()
    expect(client.requests()).toEqual([])
    client.core.portalConnected(client.now)
    expect(client.requests()).toEqual([
      { _tag: "NewGatewayIceCandidates", gatewayId: g1.id, candidates: [text(1, 10)] }
    ])
  })
  it("of the gateway go to the node", () => {
    const client = clientWith(lan)
    client.push({ _tag: "IceCandidates", gatewayId: g1.id, candidates: ["a", "b"] })
    client.push({ _tag: "InvalidateIceCandidates", gatewayId: g1.id, candidates: ["a"] })
    expect(client.node.addRemoteCandidate.mock.calls.map(([, candidate]) => candidate)).toEqual(["a", "b"])
    expect(client.node.removeRemoteCandidate.mock.calls).toEqual([[g1.id, "a", client.now]])
  })
})

it("asks for relays when the node has run out of them", () => {
  const client = clientWith(lan)
  client.node.events.push({ _tag: "NoRelays" })
  client.nudge()
  expect(client.requests()).toEqual([{ _tag: "NoRelays" }])
})

describe("a connection", () => {
  it("puts its site online, and its end takes that back", () => {
    const client = clientWith(lan, cidr(3, "10.3.0.0/16", { sites: [site2] }))
    client.authorize(lan.id, "10.0.0.1", g1)
    client.events()
    client.node.establish(g1.id)
    client.nudge()
    const events = client.events()
    expect(events[0]).toMatchObject({
      _tag: "ResourcesUpdated",
      resources: [{ id: lan.id, status: "Online" }, { id: uuid(3), status: "Unknown" }]
    })
    expect(events.slice(1)).toEqual([{ _tag: "PeerConnected", peer: g1.id }])
    client.node.fail(g1.id)
    client.nudge()
    expect(client.events()).toMatchObject([
      { _tag: "ResourcesUpdated", resources: [{ status: "Unknown" }, { status: "Unknown" }] },
      { _tag: "PeerLost", peer: g1.id, reason: "no path works" }
    ])
  })
  it("that failed is asked for by the next packet, and is no favourite any more", () => {
    const client = clientWith(lan, lab)
    client.connect(lan.id, "10.0.0.1", g2)
    client.connect(lab.id, "10.99.0.1", g1)
    client.node.fail(g2.id)
    client.nudge()
    client.events()
    expect(client.fromTun(udp(via("10.0.0.1")))).toBeUndefined()
    expect(client.requests()).toEqual([
      { _tag: "RequestAuthorization", resourceId: lan.id, connectedGatewayIds: [g1.id, g2.id] }
    ])
  })
})

it("floods of traffic to many resources stay bounded", () => {
  const resources = Array.from({ length: 200 }, (_, i) => cidr(i + 1, `10.0.${i}.0/24`, { filters: [tcpPort(80)] }))
  const client = clientWith(...resources, internet(999))
  client.core.setInternetResourceState(true, client.now)
  for (let i = 0; i < 200; i++) {
    for (let host = 0; host < 30; host++) {
      client.fromTun(tcp(via(`10.0.${i}.${host}`), 80))
      client.fromTun(tcp(via(`10.0.${i}.${host}`), 81))
    }
  }
  for (let host = 0; host < 256; host++) client.fromTun(udp(via(`192.0.2.${host}`)))
  const dropped = client.dropped()
  expect(dropped["prohibited"]).toBe(6000)
  expect(dropped["tun-queue-full"]).toBe(6000 - 1024)
  expect(client.toTun()).toHaveLength(1024)
  expect(dropped["buffer-full"]).toBe(6256 - 4096)
  expect(client.intents()).toHaveLength(201)
})
