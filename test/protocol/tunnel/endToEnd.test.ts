/** Packets from a client's applications to hosts behind a gateway and back, through everything but sockets and devices. */
import { describe, expect, it } from "vitest"
import { back, via } from "./client.ts"
import { cidr, tcpPort } from "./fixtures.ts"
import { icmpError, ping, tcp, udp } from "./packets.ts"
import { World } from "./World.ts"

const lan4 = cidr(1, "10.0.0.0/8")
const lan6 = cidr(2, "2001:db8::/32")

/** Waits for a packet, and takes what has come by then. */
const arrived = (world: World, machine: "client" | "gateway", limit = 3000): ReadonlyArray<Uint8Array> => {
  world.runUntil(() => world[machine].received.length > 0, limit)
  return world[machine].received.splice(0)
}

/** The client has used `lan4` and is connected. */
const connected = (resources = [lan4, lan6]): World => {
  const world = new World(resources)
  world.client.send(udp(via("10.0.0.1")))
  expect(arrived(world, "gateway")).toEqual([udp(via("10.0.0.1"))])
  return world
}

describe("a client and a gateway", () => {
  it("carry the first packet, which nobody had asked for, and its answer", () => {
    const world = new World([lan4])
    world.client.send(ping(via("10.0.0.1")))
    expect(arrived(world, "gateway")).toEqual([ping(via("10.0.0.1"))])
    world.gateway.send(ping(back("10.0.0.1")))
    expect(arrived(world, "client")).toEqual([ping(back("10.0.0.1"))])
    expect(world.clientEvents.map(({ _tag }) => _tag)).toEqual([
      "TunConfigUpdated",
      "ResourcesUpdated",
      "ResourcesUpdated",
      "PeerConnected"
    ])
    expect(world.client.core.status(world.now)).toMatchObject({
      resources: [{ id: lan4.id, status: "Online" }],
      peers: [{ peer: world.gatewayDescription.id, state: "connected", path: { kind: "direct" } }],
      dropped: {}
    })
  })
  it.each([["10.0.0.1", 28], ["2001:db8::1", 48]])(
    "carry packets of all sizes to %s and back, unchanged and in order",
    (to, header) => {
      const world = new World([lan4, lan6])
      world.client.send(ping(via(to)))
      expect(arrived(world, "gateway")).toEqual([ping(via(to))])
      const sizes = Array.from({ length: (1280 - header) / 8 }, (_, i) => i * 8).concat(1280 - header)
      const there = sizes.map((size) => udp(via(to), 7, "x".repeat(size)))
      const answers = sizes.map((size) => udp(back(to), 7, "y".repeat(size)))
      for (const packet of there) world.client.send(packet)
      for (const packet of answers) world.gateway.send(packet)
      world.run(100)
      expect(arrived(world, "gateway")).toEqual(there)
      expect(arrived(world, "client")).toEqual(answers)
      expect(world.client.core.status(world.now).dropped).toEqual({})
      expect(world.gateway.core.status(world.now).dropped).toEqual({})
    }
  )
  it("lose nothing that is sent while the connection comes up", () => {
    const world = new World([lan4])
    const packets = Array.from({ length: 100 }, (_, i) => udp(via("10.0.0.1"), 1000 + i))
    for (const packet of packets) {
      world.client.send(packet)
      world.run(3)
    }
    world.run(2000)
    expect(arrived(world, "gateway")).toEqual(packets)
  })
  it("keep the connection through new sessions and idle times", () => {
    const world = connected()
    for (const pause of [...Array.from({ length: 80 }, () => 5000), 60_000, 170_000, 400_000]) {
      world.run(pause)
      world.client.send(udp(via("10.0.0.1"), 9, String(world.now)))
      expect(arrived(world, "gateway")).toEqual([udp(via("10.0.0.1"), 9, String(world.now - 10))])
    }
    expect(world.clientEvents.filter(({ _tag }) => _tag === "PeerLost")).toEqual([])
  })
})

describe("what must not pass", () => {
  it("does not: sources, places and ports that were not granted", () => {
    const world = connected([{ ...lan4, filters: [tcpPort(443)] }, cidr(3, "10.0.0.1/32")])
    world.client.send(udp(via("10.0.0.2"))) // the filters say no
    world.client.send(udp(via("192.0.2.1"))) // no resource
    world.client.send(udp({ from: "100.64.0.9", to: "10.0.0.1" })) // not ours
    world.gateway.send(udp(back("192.0.2.1")))
    world.gateway.send(udp({ from: "10.0.0.1", to: "100.64.0.9" }))
    world.run(1000)
    expect(world.gateway.received).toEqual([])
    expect(world.client.received).toEqual([icmpError(udp(via("10.0.0.2")))])
  })
})

describe("a grant that ends", () => {
  it("while another stands: the gateway prohibits, and the client gets it granted again", () => {
    const world = connected()
    world.client.send(ping(via("2001:db8::1")))
    expect(arrived(world, "gateway")).toHaveLength(1)
    world.run(3000)
    world.reject(lan4.id)
    world.client.send(udp(via("10.0.0.1")))
    expect(arrived(world, "client")).toEqual([icmpError(udp(via("10.0.0.1")))])
    world.run(500)
    world.client.send(udp(via("10.0.0.1")))
    expect(arrived(world, "gateway")).toEqual([udp(via("10.0.0.1"))])
  })
  it("as the last one: the gateway says goodbye, and the next packet connects again", () => {
    const world = new World([lan4])
    world.expiresAt = 1.7e9 + 60
    world.client.send(udp(via("10.0.0.1")))
    expect(arrived(world, "gateway")).toHaveLength(1)
    world.expiresAt = undefined
    world.run(60_000)
    expect(world.clientEvents.at(-1)).toEqual({
      _tag: "PeerLost",
      peer: world.gatewayDescription.id,
      reason: "the gateway said goodbye"
    })
    expect(world.client.core.status(world.now)).toMatchObject({ resources: [{ status: "Unknown" }], peers: [] })
    world.client.send(udp(via("10.0.0.1"), 2))
    expect(arrived(world, "gateway")).toEqual([udp(via("10.0.0.1"), 2)])
  })
})

it("a client that leaves says goodbye, and the gateway forgets it at once", () => {
  const world = connected()
  world.client.core.close(world.now)
  world.run(20)
  expect(world.gateway.core.status(world.now)).toMatchObject({ clients: [], peers: [] })
  expect(world.gatewayEvents.at(-1)).toEqual({
    _tag: "PeerLost",
    peer: world.clientId,
    reason: "the client said goodbye"
  })
})

it("a gateway that leaves says goodbye, and the client asks for another one", () => {
  const world = connected()
  world.gateway.core.close(world.now)
  world.run(20)
  expect(world.client.core.status(world.now).peers).toEqual([])
  world.client.send(udp(via("10.0.0.1")))
  world.run(0)
  expect(world.requests.at(-1)).toEqual({
    _tag: "RequestAuthorization",
    resourceId: lan4.id,
    connectedGatewayIds: [world.gatewayDescription.id]
  })
})

it("a client that moves to another network connects again with another key", () => {
  const world = connected()
  const { publicKey } = world.client.node
  world.roam("198.51.100.77")
  expect(world.client.node.publicKey).not.toEqual(publicKey)
  world.run(1000)
  world.client.send(tcp(via("10.0.0.1")))
  expect(arrived(world, "gateway")).toEqual([tcp(via("10.0.0.1"))])
  world.gateway.send(tcp(back("10.0.0.1")))
  expect(arrived(world, "client")).toEqual([tcp(back("10.0.0.1"))])
})

it("a client that only receives does so after it has moved to another network, without a packet of its own", () => {
  const world = connected()
  world.client.send(tcp(via("10.0.0.1")))
  expect(arrived(world, "gateway")).toEqual([tcp(via("10.0.0.1"))])
  world.roam("198.51.100.77")
  const roamedAt = world.now
  expect(world.runUntil(() =>
    world.gateway.core.status(world.now).peers.some(({ state }) => state !== "connecting") &&
    world.clientEvents.filter(({ _tag }) => _tag === "PeerConnected").length === 2, 1000)).toBe(true)
  expect(world.now - roamedAt).toBeLessThan(500)
  world.gateway.send(tcp(back("10.0.0.1")))
  expect(arrived(world, "client")).toEqual([tcp(back("10.0.0.1"))])
})

it("a client without relays asks for them, and then connects", () => {
  const world = new World([lan4], "gateway")
  world.client.send(udp(via("10.0.0.1"), 1))
  world.run(3000)
  expect(world.requests.map(({ _tag }) => _tag)).toEqual(["RequestAuthorization", "NoRelays"])
  expect(world.client.core.status(world.now).dropped).toEqual({ "no-relays": 1 })
  world.client.send(udp(via("10.0.0.1"), 2))
  expect(arrived(world, "gateway")).toEqual([udp(via("10.0.0.1"), 2)])
})
