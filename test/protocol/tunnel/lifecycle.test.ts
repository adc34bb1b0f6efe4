/** Resources that come and go, the interface, roaming, the portal's absence, the end: tunnel spec 4, 5, 16 and 17. */
import { describe, expect, it } from "vitest"
import type { ClientPush, Resource } from "../../../src/protocol/portal/types.ts"
import { formatNetwork } from "../../../src/protocol/wire/address.ts"
import { ip } from "../../../src/protocol/wire/address.ts"
import { back, ClientHarness, clientWith, tags, via } from "./client.ts"
import { cidr, CLIENT_4, CLIENT_6, gateway, grant, init, internet, site2, tcpPort, uuid } from "./fixtures.ts"
import { udp } from "./packets.ts"

const lan = cidr(1, "10.0.0.0/8")
const lab = cidr(2, "10.99.0.0/16")
const g1 = gateway(1)
const g2 = gateway(2)

const STATIC_ROUTES = [
  "100.64.0.0/11",
  "fd00:2021:1111::/107",
  "100.96.0.0/11",
  "fd00:2021:1111:8000::/107",
  "100.100.111.0/24",
  "fd00:2021:1111:8000:100:100:111:0/120"
]

/** The routes of the latest configuration among the events. */
const routes = (client: ClientHarness): ReadonlyArray<string> | undefined => {
  const configs = client.events().flatMap((event) => event._tag === "TunConfigUpdated" ? [event.config] : [])
  return configs.at(-1)?.routes.map(formatNetwork)
}

describe("the interface", () => {
  it("has the portal's addresses, six routes and one for each network", () => {
    const client = new ClientHarness()
    client.push(init([lan, lab, cidr(3, "10.0.0.0/8"), cidr(4, "2001:db8::/32")]))
    const [first, second, ...rest] = client.events()
    if (first?._tag !== "TunConfigUpdated") throw new Error("no configuration")
    expect(first.config).toMatchObject({ ipv4: CLIENT_4, ipv6: CLIENT_6 })
    expect(first.config.dnsBySentinel.size).toBe(0)
    expect(first.config.routes.map(formatNetwork).sort()).toEqual(
      [...STATIC_ROUTES, "10.0.0.0/8", "10.99.0.0/16", "2001:db8::/32"].sort()
    )
    expect(second?._tag).toBe("ResourcesUpdated")
    expect(rest).toEqual([])
  })
  it("is announced only when it changes, and only as it is in the end", () => {
    const client = clientWith(lan)
    client.push(init([lan]))
    expect(client.events()).toEqual([])
    client.push({ _tag: "ResourceCreatedOrUpdated", resource: lab })
    client.push({ _tag: "ResourceDeleted", id: lab.id })
    expect(client.events()).toEqual([])
    client.push({ _tag: "ResourceCreatedOrUpdated", resource: lab })
    expect(tags(client.events())).toEqual(["TunConfigUpdated", "ResourcesUpdated"])
  })
  it("takes new addresses and the search domain", () => {
    const client = clientWith(lan)
    const config = { ipv4: ip("100.64.0.5"), ipv6: ip(CLIENT_6), upstreamDo53: [], upstreamDoh: [] }
    client.push({ _tag: "ConfigChanged", interface: { ...config, searchDomain: "corp.test" } })
    expect(client.events()).toMatchObject([
      { _tag: "TunConfigUpdated", config: { ipv4: "100.64.0.5", searchDomain: "corp.test" } }
    ])
  })
})

describe("the Internet resource", () => {
  it("is inactive until the user wants it, and then has the default routes", () => {
    const client = clientWith(internet(9))
    client.fromTun(udp(via("192.0.2.1")))
    expect(client.dropped()).toEqual({ "unknown-resource": 1 })
    client.core.setInternetResourceState(true, client.now)
    expect(routes(client)).toEqual([...STATIC_ROUTES, "0.0.0.0/0", "::/0"])
    client.core.setInternetResourceState(true, client.now)
    expect(client.events()).toEqual([])
    expect(client.core.status(client.now).internetResourceActive).toBe(true)
  })
  it("may be wanted before it is listed", () => {
    const client = new ClientHarness()
    client.core.setInternetResourceState(true, client.now)
    expect(client.events()).toEqual([])
    client.push(init([internet(9)]))
    expect(routes(client)).toContain("0.0.0.0/0")
  })
  it("switched off gives up its gateway, its routes and what waits for it", () => {
    const client = clientWith(internet(9))
    client.core.setInternetResourceState(true, client.now)
    client.connect(uuid(9), "192.0.2.1", gateway(1, site2.id))
    expect(client.status(uuid(9))).toBe("Online")
    client.core.setInternetResourceState(false, client.now)
    expect(client.node.goodbyes).toEqual([g1.id])
    expect(routes(client)).toEqual(STATIC_ROUTES)
    expect(client.status(uuid(9))).toBe("Unknown")
    client.fromTun(udp(via("192.0.2.1")))
    expect(client.dropped()).toEqual({ "unknown-resource": 1 })
  })
  it("removed and listed again comes back inactive", () => {
    const client = clientWith(internet(9))
    client.core.setInternetResourceState(true, client.now)
    client.events()
    client.push({ _tag: "ResourceDeleted", id: uuid(9) })
    client.push({ _tag: "ResourceCreatedOrUpdated", resource: internet(9) })
    expect(client.core.status(client.now).internetResourceActive).toBe(false)
    expect(routes(client)).toEqual(STATIC_ROUTES)
  })
})

describe("a resource that changes", () => {
  const update = (resource: Resource): ClientPush => ({ _tag: "ResourceCreatedOrUpdated", resource })

  it("in its name alone keeps its connection", () => {
    const client = clientWith(lan)
    client.connect(lan.id, "10.0.0.1", g1)
    client.push(update({ ...lan, name: "renamed", addressDescription: "the office" }))
    expect(client.events()).toMatchObject([
      { _tag: "ResourcesUpdated", resources: [{ name: "renamed", addressDescription: "the office", status: "Online" }] }
    ])
    expect(client.fromTun(udp(via("10.0.0.1")))).toBeDefined()
    expect(client.node.goodbyes).toEqual([])
  })
  it("in the order of its filters or the name of its site keeps it too", () => {
    const filtered = { ...lan, filters: [tcpPort(80), tcpPort(443)] }
    const client = clientWith(filtered)
    client.push(
      update({ ...filtered, filters: [tcpPort(443), tcpPort(80)], sites: [{ ...lan.sites[0], name: "x" }] as never })
    )
    expect(tags(client.events())).toEqual(["ResourcesUpdated"])
  })
  it.each([
    ["address", { ...lan, address: lab.address }],
    ["filters", { ...lan, filters: [tcpPort(443)] }],
    ["sites", { ...lan, sites: [site2] }]
  ])("in its %s starts over: goodbye, and the next packet asks", (_, changed) => {
    const client = clientWith(lan)
    client.connect(lan.id, "10.0.0.1", g1)
    client.push(update(changed))
    expect(client.node.goodbyes).toEqual([g1.id])
    expect(client.fromPeer(g1.id, udp(back("10.0.0.1")))).toBeUndefined()
    expect(client.status(lan.id)).toBe("Unknown")
  })
  it("into one of another type is another resource", () => {
    const client = clientWith(lan)
    client.push(update({ ...internet(1), id: lan.id }))
    expect(routes(client)).toEqual(STATIC_ROUTES)
    client.fromTun(udp(via("10.0.0.1")))
    expect(client.dropped()).toEqual({ "unknown-resource": 1 })
  })
})

describe("a resource that is removed", () => {
  it("leaves the gateway to the others, and the last one ends the connection", () => {
    const client = clientWith(lan, lab)
    client.connect(lan.id, "10.0.0.1", g1)
    expect(client.core.status(client.now).resources.map(({ gateway }) => gateway)).toEqual([g1.id, undefined])
    client.connect(lab.id, "10.99.0.1", g1)
    expect(client.core.status(client.now).resources.map(({ gateway }) => gateway)).toEqual([g1.id, g1.id])
    client.push({ _tag: "ResourceDeleted", id: lan.id })
    expect(client.node.goodbyes).toEqual([])
    expect(client.fromTun(udp(via("10.99.0.1")))).toBeDefined()
    expect(client.fromPeer(g1.id, udp(back("10.0.0.1")))).toBeUndefined()
    expect(client.status(lab.id)).toBe("Online")
    client.push({ _tag: "ResourceDeleted", id: lab.id })
    expect(client.node.goodbyes).toEqual([g1.id])
  })
  it("while its connection comes up leaves nothing behind, though the node says nothing", () => {
    const client = clientWith(lan)
    client.authorize(lan.id, "10.0.0.1", g1)
    client.push({ _tag: "ResourceDeleted", id: lan.id })
    expect(client.node.hasConnection(g1.id)).toBe(false)
    expect(tags(client.events())).toContain("PeerLost")
    client.push({ _tag: "ResourceCreatedOrUpdated", resource: lan })
    client.fromTun(udp(via("10.0.0.1")))
    expect(client.intents()).toEqual([lan.id])
  })
  it("twice, or though it never was, is nothing", () => {
    const client = clientWith(lan)
    client.push({ _tag: "ResourceDeleted", id: uuid(77) })
    client.push({ _tag: "ResourceDeleted", id: lan.id })
    client.push({ _tag: "ResourceDeleted", id: lan.id })
    expect(client.core.status(client.now).resources).toEqual([])
  })
})

describe("the full list", () => {
  it("repeated by the portal's return changes nothing about the data plane", () => {
    const client = clientWith(lan, lab)
    client.connect(lan.id, "10.0.0.1", g1)
    client.core.portalDisconnected(client.now)
    expect(client.fromTun(udp(via("10.0.0.1")))).toBeDefined()
    client.core.portalConnected(client.now)
    client.push(init([lan, lab]))
    expect(client.fromTun(udp(via("10.0.0.1")))).toBeDefined()
    expect(client.events()).toEqual([])
    expect(client.node.goodbyes).toEqual([])
  })
  it("removes what it does not name, and the state of sites that nobody uses", () => {
    const client = clientWith(lan, lab)
    client.connect(lan.id, "10.0.0.1", g1)
    client.push(init([lab]))
    expect(client.node.goodbyes).toEqual([g1.id])
    expect(client.core.status(client.now).resources.map(({ id }) => id)).toEqual([lab.id])
    client.push({ _tag: "AuthorizationCreationFailed", resourceId: lab.id, reason: "offline", violatedProperties: [] })
    client.push(init([]))
    client.push(init([lab]))
    expect(client.status(lab.id)).toBe("Unknown")
  })
  it("with an id twice keeps the last entry", () => {
    const client = clientWith(lan, { ...lab, id: lan.id })
    expect(client.core.status(client.now).resources.map(({ address }) => address)).toEqual(["10.99.0.0/16"])
    client.fromTun(udp(via("10.0.0.1")))
    expect(client.dropped()).toEqual({ "unknown-resource": 1 })
  })
  it("may hold the same network many times, and networks in networks", () => {
    const client = clientWith(lan, { ...lan, id: uuid(3) }, cidr(4, "10.0.0.1/32"), cidr(5, "0.0.0.0/0"))
    client.fromTun(udp(via("10.0.0.1")))
    client.fromTun(udp(via("10.0.0.2")))
    client.fromTun(udp(via("192.0.2.1")))
    expect(client.intents()).toEqual([uuid(4), uuid(3), uuid(5)])
  })
  it("hands the relays to the node", () => {
    const client = clientWith()
    const relay = { id: uuid(0x50), username: "u", password: "p" }
    client.push(init([], { relays: [relay] }))
    client.push({ _tag: "RelaysPresence", disconnectedIds: [uuid(0x51)], connected: [relay] })
    expect(client.node.updateRelays.mock.calls.slice(1)).toEqual([
      [[], [relay], client.now],
      [[uuid(0x51)], [relay], client.now]
    ])
  })
})

describe("the list of resources", () => {
  it("has no device pools in it, and pushes about clients that nobody knows change nothing", () => {
    const dns: Resource = {
      type: "dns",
      id: uuid(5),
      name: "wiki",
      address: "wiki.corp.test",
      sites: [],
      ipStack: "dual",
      filters: []
    }
    const pool: Resource = { type: "static_device_pool", id: uuid(6), name: "pool", devices: [], filters: [] }
    const client = clientWith(dns, pool)
    expect(client.core.status(client.now).resources).toMatchObject([{ type: "dns", address: "wiki.corp.test" }])
    client.push({ _tag: "RejectAccess", clientId: uuid(7), resourceId: uuid(6) })
    client.push({ _tag: "ClientIceCandidates", clientId: uuid(7), candidates: [] })
    client.push({ _tag: "ClientIceCandidateError", clientId: uuid(7), reason: "offline" })
    client.push({ _tag: "DeviceAccessDenied", reason: "forbidden", ipv4: ip("100.64.0.9") })
    expect([client.dropped(), client.events()]).toEqual([{}, []])
  })
})

describe("roaming", () => {
  it("ends every connection without a goodbye; traffic asks again, for the same gateway first", () => {
    const client = clientWith(lan, lab)
    client.connect(lan.id, "10.0.0.1", g2)
    client.connect(lab.id, "10.99.0.1", g1)
    client.advance(20_001)
    client.core.reset(client.now)
    expect(client.node.goodbyes).toEqual([])
    expect(tags(client.events())).toEqual(["ResourcesUpdated", "PeerLost", "PeerLost"])
    expect(client.status(lan.id)).toBe("Unknown")
    client.push(init([lan, lab]))
    expect(client.events()).toEqual([])
    expect(client.fromTun(udp(via("10.0.0.1")))).toBeUndefined()
    expect(client.requests()).toEqual([
      { _tag: "RequestAuthorization", resourceId: lan.id, connectedGatewayIds: [g2.id, g1.id] }
    ])
  })
  it("asks anew for what was in use, as soon as the portal and a relay are there", () => {
    const client = clientWith(lan, lab)
    client.connect(lan.id, "10.0.0.1", g2)
    client.connect(lab.id, "10.99.0.1", g1)
    client.fromTun(udp(via("10.99.0.1")))
    client.advance(15_000)
    client.fromTun(udp(via("10.0.0.1")))
    client.advance(5001)
    client.sent()
    client.core.reset(client.now)
    expect(tags(client.events())).toEqual(["ResourcesUpdated", "PeerLost", "PeerLost"])
    client.node.awaitsRelays = true
    client.core.portalConnected(client.now)
    client.push(init([lan, lab]))
    // What the portal granted now would find no relay.
    expect(client.intents()).toEqual([])
    client.node.awaitsRelays = false
    expect(client.intents()).toEqual([lan.id])
  })
  it("asks for nothing that it has kept", () => {
    const client = clientWith(lan)
    client.connect(lan.id, "10.0.0.1", g1)
    client.fromTun(udp(via("10.0.0.1")))
    client.node.keepsConnections = true
    client.core.reset(client.now)
    client.push(init([lan]))
    expect(client.events()).toEqual([])
    expect(client.fromTun(udp(via("10.0.0.1")))).toBeDefined()
  })
  it("heeds no grant that was meant for the old key", () => {
    const client = clientWith(lan)
    client.fromTun(udp(via("10.0.0.1")))
    client.events()
    client.core.reset(client.now)
    client.push(grant(lan.id, g1))
    expect(client.node.hasConnection(g1.id)).toBe(false)
    client.push(init([lan]))
    expect(client.intents()).toEqual([lan.id])
    client.push(grant(lan.id, g1))
    expect(client.node.hasConnection(g1.id)).toBe(true)
  })
  it("keeps the interface, the resources, the switch and what waits for a grant", () => {
    const client = clientWith(lan, internet(9))
    client.core.setInternetResourceState(true, client.now)
    client.fromTun(udp(via("10.0.0.1")))
    client.events()
    client.core.reset(client.now)
    expect(client.events()).toEqual([])
    client.push(init([lan, internet(9)]))
    client.fromTun(udp(via("10.0.0.2")))
    expect(client.intents()).toEqual([lan.id])
    client.push(grant(lan.id, g1))
    client.node.establish(g1.id)
    client.nudge()
    expect(client.sent()).toHaveLength(2)
    expect(client.core.status(client.now).internetResourceActive).toBe(true)
  })
  it("does first what is due", () => {
    const client = clientWith(lan)
    client.node.timeout = client.now
    client.core.reset(client.now)
    expect(client.node.handleTimeout.mock.calls).toEqual([[client.now]])
  })
  it("forgets datagrams that were to leave by the old path", () => {
    const client = clientWith(lan)
    client.authorize(lan.id, "10.0.0.1", g1)
    client.node.establish(g1.id)
    client.nudge()
    client.core.reset(client.now)
    expect(client.sent()).toEqual([])
  })
})

describe("the end", () => {
  it("says goodbye to every peer, then drops everything (host 18.37)", () => {
    const client = clientWith(lan, lab)
    client.connect(lan.id, "10.0.0.1", g1)
    client.connect(lab.id, "10.99.0.1", g2)
    client.core.close(client.now)
    client.core.close(client.now)
    expect(client.node.goodbyes).toEqual([g1.id, g2.id])
    expect(client.core.pollTransmit()).toBeDefined()
    expect(client.core.pollTransmit()).toBeDefined()
    expect(client.core.pollTransmit()).toBeUndefined()
    client.dropped()
    expect(client.fromTun(udp(via("10.0.0.1")))).toBeUndefined()
    expect(client.fromPeer(g1.id, udp(back("10.0.0.1")))).toBeUndefined()
    expect(client.dropped()).toEqual({ closed: 2 })
    client.push(init([lan]))
    client.core.reset(client.now)
    client.core.setInternetResourceState(true, client.now)
    client.core.handleTimeout(client.now)
    expect(client.core.pollTimeout()).toBeUndefined()
    expect(client.events()).toEqual([])
  })
})

it("waits for whoever is due first", () => {
  const client = clientWith(lan)
  expect(client.core.pollTimeout()).toBeUndefined()
  client.push({ _tag: "AuthorizationCreationFailed", resourceId: lan.id, reason: "offline", violatedProperties: [] })
  expect(client.core.pollTimeout()).toBe(client.now + 300_000)
  client.node.timeout = client.now + 10
  expect(client.core.pollTimeout()).toBe(client.now + 10)
})
