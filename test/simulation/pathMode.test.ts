import { assert, describe, it } from "@effect/vitest"
import { CIPHER_HEADROOM, CIPHER_TAILROOM } from "../../src/protocol/crypto.ts"
import { Encapsulated } from "../../src/protocol/node/types.ts"
import type { Host } from "./Host.ts"
import { isDirect, NAT_KINDS, type NatKind } from "./nat.ts"
import { Portal } from "./Portal.ts"
import { World } from "./World.ts"

interface Options {
  readonly ipv6?: boolean
  readonly relays?: number
  readonly seed?: number
}

/** A client and a gateway that have just been introduced in path mode. */
const introduce = (client: NatKind, gateway: NatKind, { ipv6 = false, relays: count = 2, seed = 3 }: Options = {}) => {
  const world = new World(seed)
  const relays = Array.from({ length: count }, () => world.relay())
  const left = world.host({ name: "client", nat: client, ipv6 })
  const right = world.host({ name: "gateway", nat: gateway, ipv6 })
  for (const host of [left, right]) host.useRelays(...relays)
  world.run(1000)
  const portal = new Portal(world, left, right)
  portal.iceless = true
  portal.relays = relays
  portal.connect()
  return { world, left, right, portal, relays }
}

const connected = (client: NatKind, gateway: NatKind, options: Options = {}) => {
  const made = introduce(client, gateway, options)
  made.world.run(15_000)
  const { left, right, world } = made
  assert.isTrue(left.node.isEstablished(right.name) && right.node.isEstablished(left.name))
  assertPasses(world, left, right)
  assertPasses(world, right, left)
  return made
}

const assertPasses = (world: World, from: Host, to: Host, within = 1000): void => {
  const text = `${from.name} at ${world.now}`
  from.send(to, text)
  assert.isTrue(world.runUntil(() => to.received.includes(text), within), `${from.name} to ${to.name}`)
}

/** Sends a packet each way every 100 ms until one of each arrives; returns how long that took. */
const recovery = (world: World, left: Host, right: Host, limit: number): number => {
  const began = world.now
  const before = [left.received.length, right.received.length]
  while (world.now < began + limit) {
    left.send(right, `tick ${world.now}`)
    right.send(left, `tock ${world.now}`)
    world.run(100)
    if (left.received.length > (before[0] ?? 0) && right.received.length > (before[1] ?? 0)) return world.now - began
  }
  assert.fail(`no packets both ways within ${limit} ms`)
}

const handshakesOf = (host: Host, peer: Host, now: number): number =>
  now - (host.status(peer)?.handshakeAgeMillis ?? Number.NaN)

describe("the path between every two kinds of network, found inside the tunnel", () => {
  for (const client of NAT_KINDS) {
    for (const gateway of NAT_KINDS) {
      const direct = isDirect(client, gateway)
      it(`${client} to ${gateway}: ${direct ? "direct" : "relayed"}`, () => {
        const { left, relays, right, world } = introduce(client, gateway)
        world.run(110)
        left.send(right, "early")
        const began = world.now
        assert.isTrue(world.runUntil(() => right.received.length > 0, 5000), "nothing arrived")
        assert.isBelow(world.now - began, 1000)
        right.send(left, "answer")
        assert.isTrue(world.runUntil(() => left.received.length > 0, 1000))
        assert.deepStrictEqual([left.received, right.received], [["answer"], ["early"]])

        world.run(12_000)
        const kinds = [left.status(right)?.path?.kind, right.status(left)?.path?.kind]
        if (direct) assert.deepStrictEqual(kinds, ["direct", "direct"])
        else for (const kind of kinds) assert.include(["relayed-by-us", "relayed-by-peer", "relayed-both"], kind)
        const relayed = () => relays.reduce((sum, id) => sum + world.relayedPackets(id), 0)
        const before = relayed()
        for (let i = 0; i < 100; i++) left.send(right, `bulk ${i}`)
        world.run(100)
        assert.strictEqual(right.received[100], "bulk 99")
        if (direct) assert.strictEqual(relayed() - before, 0)
        else assert.isAtLeast(relayed() - before, 100)
        for (const host of [left, right]) {
          assert.deepStrictEqual(host.events.map(({ _tag }) => _tag), ["ConnectionEstablished"])
        }
      })
    }
  }

  it("is direct over IPv6 where no address is translated", () => {
    const { left, right } = connected("symmetric", "symmetric", { ipv6: true })
    for (const [host, peer] of [[left, right], [right, left]] as const) {
      assert.strictEqual(host.status(peer)?.path?.kind, "direct")
      assert.strictEqual(host.status(peer)?.path?.remote.family, 6)
    }
  })
})

describe("bad weather", () => {
  for (const [client, gateway] of [["home", "home"], ["relay-only", "symmetric"], ["none", "symmetric"]] as const) {
    it(`of a fifth lost, some doubled and all disordered lets ${client} and ${gateway} connect, and stay`, () => {
      for (let seed = 1; seed <= 3; seed++) {
        const { left, right, world } = introduce(client, gateway, { seed })
        world.weather = { loss: 0.2, duplication: 0.1, jitter: 30 }
        left.send(right, "first")
        assert.isBelow(recovery(world, left, right, 10_000), 10_000)
        let [sent, before] = [0, right.received.length]
        for (; sent < 600; sent++) {
          left.send(right, `${sent}`)
          world.run(200)
        }
        // Through two links, or four.
        assert.isAbove(right.received.length - before, sent * 0.4)
        assert.isFalse(left.events.some(({ _tag }) => _tag === "ConnectionFailed"))
      }
    })
  }
})

describe("a roam in path mode", () => {
  for (const [client, gateway] of [["home", "home"], ["symmetric", "home"], ["relay-only", "symmetric"]] as const) {
    it(`of a client behind ${client} keeps its key and its session`, () => {
      const { left, right, world } = connected(client, gateway)
      const { publicKey } = left.node
      const handshake = handshakesOf(left, right, world.now)
      for (let round = 0; round < 3; round++) {
        left.move()
        left.reset()
        assert.strictEqual(left.node.publicKey, publicKey)
        assert.isTrue(left.node.hasConnection(right.name))
        assert.strictEqual(left.send(right, `kept ${round}`), Encapsulated.StillConnecting)
        assert.isBelow(recovery(world, left, right, 5000), 1500)
        assert.include(right.received, `kept ${round}`, "what waited for the path has arrived")
        world.run(5000)
        assert.strictEqual(handshakesOf(left, right, world.now), handshake)
        assert.strictEqual(left.status(right)?.path?.kind === "direct", isDirect(client, gateway))
        assertPasses(world, left, right)
        assertPasses(world, right, left)
      }
      assert.isTrue(left.events.every(({ _tag }) => _tag === "ConnectionEstablished"))
    })
  }

  it("of the gateway's is no different", () => {
    const { left, right, world } = connected("home", "home")
    right.move()
    right.reset()
    assert.isBelow(recovery(world, left, right, 5000), 1500)
  })

  it("of both at once is survived, too", () => {
    const { left, right, world } = connected("home", "home")
    for (const host of [left, right]) {
      host.move()
      host.reset()
    }
    assert.isBelow(recovery(world, left, right, 5000), 1500)
  })

  it("after a long silence starts over: the peer may have forgotten", () => {
    const { left, portal, right, world } = connected("home", "home")
    left.isGone = true
    world.run(95_000)
    left.isGone = false
    left.move()
    left.reset()
    assert.deepStrictEqual(left.events.at(-1)?._tag, "ConnectionClosed")
    assert.isFalse(left.node.hasConnection(right.name))
    portal.connect()
    assert.isBelow(recovery(world, left, right, 10_000), 2500)
  })

  it("beside a connection in ICE mode takes a new key", () => {
    const { left, portal, relays, right, world } = connected("home", "home")
    const other = world.host({ name: "other", nat: "home" })
    other.useRelays(...relays)
    world.run(1000)
    new Portal(world, left, other).connect()
    world.run(2000)
    assert.isTrue(left.node.isEstablished("other"))
    const { publicKey } = left.node
    left.reset()
    assert.notDeepEqual(left.node.publicKey, publicKey)
    assert.isFalse(left.node.hasConnection(right.name) || left.node.hasConnection("other"))
    assert.isTrue(portal.iceless)
  })
})

describe("a relay's loss in path mode", () => {
  it("that the portal tells of moves the connection to another one", () => {
    const { left, relays, right, world } = connected("symmetric", "symmetric", { relays: 1 })
    const fresh = world.relay()
    world.kill(relays[0] ?? "")
    for (const host of [left, right]) host.changeRelays(relays, [fresh])
    assert.isBelow(recovery(world, left, right, 5000), 2000)
    assert.isAbove(world.relayedPackets(fresh), 0)
    assert.isTrue(left.events.every(({ _tag }) => _tag === "ConnectionEstablished"))
  })

  it("of which nobody tells is noticed by the tunnel", () => {
    const { left, portal, relays, right, world } = connected("relay-only", "symmetric")
    portal.isPersistent = true
    const used = left.status(right)?.path?.relay ?? relays[0] ?? ""
    world.kill(used)
    // Either by its keep-alive, or by the handshakes that are not answered.
    assert.isBelow(recovery(world, left, right, 150_000), 120_000)
  })

  it("does not matter to a direct path", () => {
    const { left, relays, right, world } = connected("home", "home")
    for (const host of [left, right]) host.changeRelays(relays, [])
    const before = right.received.length
    for (let i = 0; i < 60; i++) {
      left.send(right, "tick")
      world.run(1000)
    }
    assert.strictEqual(right.received.length - before, 60)
    assert.strictEqual(left.status(right)?.path?.kind, "direct")
  })
})

describe("a peer that vanishes in path mode", () => {
  it("is missed by whoever has something to say within 7 s and the 90 s of the handshake", () => {
    for (const [gone, waiting] of [["right", "left"], ["left", "right"]] as const) {
      const made = connected("home", "home")
      const [lost, other] = [made[gone], made[waiting]]
      lost.isGone = true
      const { now } = made.world
      for (let i = 0; i < 150 && other.node.hasConnection(lost.name); i++) {
        other.send(lost, "tick")
        made.world.run(1000)
      }
      const failure = other.events.find(({ _tag }) => _tag === "ConnectionFailed")
      assert.isAtMost((failure?.at ?? Number.POSITIVE_INFINITY) - now, 7000 + 90_000 + 1000)
      assert.isAtLeast((failure?.at ?? 0) - now, 90_000)
    }
  })

  it("is missed in silence, too: the path's keep-alive asks for it", () => {
    const { left, right, world } = connected("home", "home")
    right.isGone = true
    const { now } = world
    assert.isTrue(world.runUntil(() => !left.node.hasConnection(right.name), 300_000))
    assert.isAtMost(world.now - now, 25_000 + 7000 + 90_000 + 1000)
  })

  it("and was never there fails the connection after 10 s without candidates", () => {
    const { left, portal, right, world } = connected("home", "home")
    left.node.removeConnection(right.name)
    right.node.removeConnection(left.name)
    right.isGone = true
    right.onEvent = () => undefined
    portal.connect()
    const { now } = world
    assert.isTrue(world.runUntil(() => left.events.some(({ _tag }) => _tag === "ConnectionFailed"), 20_000))
    assert.strictEqual(world.now - now, 10_100)
  })
})

describe("the same introduction again in path mode", () => {
  it("goes on with the connection that is there, without a handshake", () => {
    const { left, portal, right, world } = connected("home", "home")
    world.run(20_000)
    const handshake = handshakesOf(left, right, world.now)
    portal.connect()
    world.run(1000)
    assertPasses(world, left, right)
    assert.strictEqual(handshakesOf(left, right, world.now), handshake)
    assert.deepStrictEqual(left.events.map(({ _tag }) => _tag), ["ConnectionEstablished"])
  })

  it("in the other mode makes another connection", () => {
    const { left, portal, right, world } = connected("home", "home")
    portal.iceless = false
    portal.connect()
    world.run(3000)
    assertPasses(world, left, right)
    assertPasses(world, right, left)
    assert.isBelow(left.status(right)?.handshakeAgeMillis ?? Number.POSITIVE_INFINITY, 3000)
  })

  it("connects a client that has forgotten to a gateway that has not", () => {
    const { left, portal, right, world } = connected("home", "home")
    left.node.removeConnection(right.name)
    portal.connect()
    assert.isBelow(recovery(world, left, right, 5000), 2000)
  })

  it("connects a gateway that has forgotten to a client that has not", () => {
    const { left, portal, right, world } = connected("home", "home")
    right.node.removeConnection(left.name)
    world.run(1000)
    portal.connect()
    // The client misses answers after 7 s.
    assert.isBelow(recovery(world, left, right, 20_000), 9000)
    assert.isTrue(left.events.every(({ _tag }) => _tag === "ConnectionEstablished"))
  })
})

describe("a quiet connection in path mode", () => {
  it("lasts for hours, on a probe every 25 s", () => {
    const { left, right, world } = connected("symmetric", "symmetric")
    world.run(60_000)
    assert.strictEqual(left.status(right)?.state, "idle")
    const before = world.emitted
    world.run(3 * 3_600_000)
    // Per 25 s and side a probe and its reply, over three links each; refreshes and handshakes are much rarer.
    assert.isBelow(world.emitted - before, 3 * 3600 / 25 * 2 * 12)
    assertPasses(world, left, right)
    assertPasses(world, right, left)
    assert.deepStrictEqual(left.events.map(({ _tag }) => _tag), ["ConnectionEstablished"])
  })
})

describe("copies of handshakes", () => {
  it("cost neither tunnel nor limiter anything: a hundred are taken in a second, and another peer's as well", () => {
    const { left, right, world } = introduce("none", "none")
    let initiation: Parameters<Host["onDatagram"]> | undefined
    right.onDatagram = (local, datagram) => {
      if (datagram.bytes[0] === 1 && datagram.bytes.length === 148) initiation ??= [local, datagram]
    }
    world.run(1000)
    assert.isTrue(left.node.isEstablished(right.name))
    const [local, datagram] = initiation ?? assert.fail("no initiation came directly")
    const before = world.emitted
    for (let i = 0; i < 500; i++) right.take(local, datagram.source, 0, datagram.bytes)
    assert.strictEqual(world.emitted - before, 500, "each is answered, not with a cookie")
    const buffer = new Uint8Array(CIPHER_HEADROOM + 64 + CIPHER_TAILROOM)
    assert.strictEqual(right.node.encapsulate("nobody", buffer, CIPHER_HEADROOM, 64, world.now), 3)
    assertPasses(world, left, right)
  })
})
