import { assert, describe, it } from "@effect/vitest"
import { RENEWAL_PAUSE } from "../../src/protocol/node/IceConnection.ts"
import type { Host } from "./Host.ts"
import type { NatKind } from "./nat.ts"
import { Portal } from "./Portal.ts"
import { World } from "./World.ts"

const connected = (client: NatKind, gateway: NatKind, relayCount = 1) => {
  const world = new World(7)
  const relays = Array.from({ length: relayCount }, () => world.relay())
  const left = world.host({ name: "client", nat: client })
  const right = world.host({ name: "gateway", nat: gateway })
  for (const host of [left, right]) host.useRelays(...relays)
  world.run(1000)
  const portal = new Portal(world, left, right)
  portal.relays = relays
  portal.connect()
  world.run(3000)
  assert.isTrue(left.node.isEstablished(right.name) && right.node.isEstablished(left.name))
  return { world, left, right, portal, relays }
}

/** Lets time pass with a packet from `from` to `to` every second. */
const talk = (world: World, from: Host, to: Host, seconds: number): void => {
  for (let i = 0; i < seconds && from.node.hasConnection(to.name); i++) {
    from.send(to, "tick")
    world.run(1000)
  }
}

const assertPasses = (world: World, from: Host, to: Host): void => {
  const text = `at ${world.now}`
  from.send(to, text)
  assert.isTrue(world.runUntil(() => to.received.includes(text), 1000), `${from.name} to ${to.name}`)
}

const failureOf = (host: Host) => host.events.find(({ _tag }) => _tag === "ConnectionFailed")

describe("a lost relay", () => {
  it("is replaced by the one that the portal names", () => {
    const { left, relays, right, world } = connected("symmetric", "symmetric")
    const [old = ""] = relays
    const fresh = world.relay()
    world.kill(old)
    for (const host of [left, right]) host.changeRelays([old], [fresh])
    world.run(5000)
    const before = world.relayedPackets(fresh)
    assertPasses(world, left, right)
    assertPasses(world, right, left)
    assert.isAtLeast(world.relayedPackets(fresh) - before, 2)
    for (const status of [left.status(right), right.status(left)]) {
      if (status?.path?.kind !== "relayed-by-peer") assert.strictEqual(status?.path?.relay, fresh)
    }
    world.run(60_000)
    assert.isUndefined(failureOf(left))
    assert.isUndefined(failureOf(right))
  })

  it("does not matter to a direct path", () => {
    const { left, relays, right, world } = connected("home", "home")
    for (const host of [left, right]) host.changeRelays(relays, [])
    talk(world, left, right, 60)
    assert.strictEqual(right.received.length, 60)
    assert.strictEqual(left.status(right)?.path?.kind, "direct")
  })

  it("of which nobody tells is noticed within 25 + 8.125 s of silence, and another one is asked for", () => {
    const { left, relays, right, world } = connected("home", "home")
    const fresh = world.relay()
    world.kill(relays[0] ?? "")
    const { now } = world
    const noticed = () => left.events.find(({ _tag }) => _tag === "NoRelays")
    assert.isTrue(world.runUntil(() => noticed() !== undefined, 120_000))
    // Checks through the relay, which still seem to leave, put its keep-alive off until they end.
    assert.isBelow((noticed()?.at ?? 0) - now, 16_500 + 25_000 + 8125 + 1000)
    left.changeRelays([], [fresh])
    world.run(2000)
    assertPasses(world, left, right)
    assert.isUndefined(failureOf(left))
  })

  it("under a relayed path fails the connection; the next one takes a relay that works", () => {
    const { left, portal, relays, right, world } = connected("relay-only", "symmetric", 2)
    portal.isPersistent = true
    world.kill(relays[0] ?? "")
    for (let i = 0; i < 180; i++) {
      left.send(right, "tick")
      world.run(1000)
    }
    assertPasses(world, left, right)
    assertPasses(world, right, left)
  })

  it("under a relayed path leads to another one as soon as the connection has failed", () => {
    const { left, portal, relays, right, world } = connected("relay-only", "home", 2)
    portal.isPersistent = true
    const used = left.status(right)?.path?.relay
    assert.include(relays, used)
    world.kill(used ?? "")
    // The pair dies, ICE has 2 s of grace; then as for any connection.
    for (let i = 0; i < 16.5 + 1.5 + 2 + 3; i++) {
      left.send(right, "tick")
      world.run(1000)
    }
    assertPasses(world, left, right)
    assertPasses(world, right, left)
  })
})

describe("a direct path that breaks", () => {
  const cut = (world: World, ...[one, other]: [Host, Host]): void => {
    world.isCut = (from, to) => (one.owns(from) && other.owns(to)) || (other.owns(from) && one.owns(to))
  }
  /** Until the first check is lost, until the sixth is, the next answer of another; the news; the next check. */
  const REPAIR_BOUND = 1500 + 5250 + 1500 + RENEWAL_PAUSE + 1500 + 1000

  /** How long it takes until packets have passed both ways, milliseconds. */
  const repair = (world: World, left: Host, right: Host, limit: number): number => {
    const begun = world.now
    const hasPassed = [left, right].map((host) => {
      const before = host.received.length
      return () => host.received.length > before
    })
    while (world.now - begun < limit && !hasPassed.every((passed) => passed())) {
      left.send(right, "there")
      right.send(left, "back")
      world.run(100)
    }
    return world.now - begun
  }

  /** What `host` tells its peer of its candidates from now on, in order and without repetitions. */
  const newsOf = (host: Host): ReadonlyArray<string> => {
    const news: Array<string> = []
    const { onEvent } = host
    host.onEvent = (event) => {
      if (event._tag.endsWith("IceCandidate") && news.at(-1) !== event._tag) news.push(event._tag)
      onEvent(event)
    }
    return news
  }

  it("is left for a relay by both sides within seconds, in the same connection", () => {
    for (const [client, gateway] of [["home", "home"], ["none", "home"], ["full-cone", "symmetric"]] as const) {
      const { left, right, world } = connected(client, gateway)
      assert.strictEqual(left.status(right)?.path?.kind, "direct")
      const news = newsOf(left)
      cut(world, left, right)
      assert.isBelow(repair(world, left, right, 60_000), REPAIR_BOUND, `${client} to ${gateway}`)
      talk(world, left, right, 60)
      assertPasses(world, left, right)
      assertPasses(world, right, left)
      assert.notStrictEqual(left.status(right)?.path?.kind, "direct")
      assert.deepStrictEqual(news, ["InvalidateIceCandidate", "NewIceCandidate"])
      assert.isUndefined(failureOf(left))
      assert.isUndefined(failureOf(right))
    }
  })

  it("for some seconds is taken again at once by both", () => {
    const { left, right, world } = connected("home", "home")
    cut(world, left, right)
    talk(world, left, right, 9)
    assert.notStrictEqual(left.status(right)?.path?.kind, "direct")
    world.isCut = () => false
    world.run(3000)
    for (const status of [left.status(right), right.status(left)]) assert.strictEqual(status?.path?.kind, "direct")
    assertPasses(world, left, right)
    assertPasses(world, right, left)
    assert.isUndefined(failureOf(left))
  })

  it("is not left while nobody is heard by another way either", () => {
    const { left, right, world } = connected("home", "home")
    const news = newsOf(left)
    right.isGone = true
    talk(world, left, right, 12)
    assert.strictEqual(left.status(right)?.path?.kind, "direct")
    assert.deepStrictEqual(news, [])
  })
})

describe("a peer that vanishes", () => {
  it("is missed by a busy client within the dead-pair timeout and the grace", () => {
    const { left, right, world } = connected("home", "home")
    talk(world, left, right, 5)
    right.isGone = true
    const { now } = world
    talk(world, left, right, 60)
    const failure = failureOf(left)
    assert.isAtMost((failure?.at ?? Number.POSITIVE_INFINITY) - now, 16_500 + 1500 + 2000 + 1000)
    assert.isAbove((failure?.at ?? 0) - now, 10_000)
    assert.isFalse(left.node.hasConnection(right.name))
  })

  it("is missed by an idle client within the idle schedule's timeout", () => {
    const { left, right, world } = connected("home", "home")
    world.run(60_000)
    assert.strictEqual(left.status(right)?.state, "idle")
    right.isGone = true
    const { now } = world
    assert.isTrue(world.runUntil(() => failureOf(left) !== undefined, 200_000))
    assert.isAtMost((failureOf(left)?.at ?? 0) - now, 100_000 + 25_000 + 2000)
  })

  it("is missed by a gateway with something to say when handshakes stay unanswered", () => {
    const { left, right, world } = connected("home", "home")
    left.isGone = true
    const { now } = world
    talk(world, right, left, 120)
    assert.isAtMost((failureOf(right)?.at ?? Number.POSITIVE_INFINITY) - now, 15_000 + 20_000 + 1000)
  })

  it("is missed by a silent gateway when nine minutes have brought no session", () => {
    const { left, right, world } = connected("home", "home")
    left.isGone = true
    const { now } = world
    assert.isTrue(world.runUntil(() => failureOf(right) !== undefined, 2_000_000))
    // Nothing else is lost on it: its own checks would go on for longer.
    assert.isAtMost((failureOf(right)?.at ?? 0) - now, 540_000)
  })

  it("and says goodbye is not waited for: one packet tells", () => {
    const { left, right, world } = connected("home", "symmetric")
    left.close(right)
    assert.deepStrictEqual(left.events.at(-1)?._tag, "ConnectionClosed")
    world.run(100)
    // It is the tunnel core that reads it; here it is a packet like any other, from :: to ::.
    assert.strictEqual(right.received.length, 1)
    assert.isFalse(left.node.hasConnection(right.name))
  })
})

describe("a peer that is not there", () => {
  it("fails the connection after ten seconds without candidates", () => {
    const { left, portal, right, world } = connected("home", "home")
    left.node.removeConnection(right.name)
    right.node.removeConnection(left.name)
    right.isGone = true
    right.onEvent = () => undefined
    portal.connect()
    const { now } = world
    assert.isTrue(world.runUntil(() => failureOf(left) !== undefined, 20_000))
    assert.strictEqual((failureOf(left)?.at ?? 0) - now, 10_100)
  })
})

describe("a roam", () => {
  it("closes what there was and connects anew under another key", () => {
    const { left, portal, right, world } = connected("home", "home")
    const oldKey = left.node.publicKey
    const oldRemote = right.status(left)?.path?.remote.text
    left.move()
    left.reset()
    assert.deepStrictEqual(left.events.at(-1)?._tag, "ConnectionClosed")
    assert.notDeepEqual(left.node.publicKey, oldKey)
    assert.isFalse(left.node.hasConnection(right.name))
    left.useRelays(...portal.relays) // the new key's user name
    world.run(1000)
    portal.connect()
    world.run(3000)
    assertPasses(world, left, right)
    assertPasses(world, right, left)
    assert.notStrictEqual(right.status(left)?.path?.remote.text, oldRemote)
    assert.strictEqual(left.status(right)?.path?.kind, "direct")
  })

  it("of the gateway is repaired by the client's next connection", () => {
    const { left, portal, right, world } = connected("symmetric", "symmetric")
    portal.isPersistent = true
    right.move()
    right.reset()
    right.useRelays(...portal.relays)
    talk(world, left, right, 60)
    world.run(5000)
    assertPasses(world, left, right)
    assertPasses(world, right, left)
  })
})

describe("the same introduction again", () => {
  it("goes on with the connection that is there", () => {
    const { left, portal, right, world } = connected("home", "home")
    world.run(30_000)
    const age = left.status(right)?.handshakeAgeMillis ?? 0
    portal.connect()
    world.run(1000)
    assertPasses(world, left, right)
    assert.deepStrictEqual(left.events.map(({ _tag }) => _tag), ["ConnectionEstablished"])
    assert.isBelow(left.status(right)?.handshakeAgeMillis ?? age, age, "and makes a new session")
  })

  it("connects a client that has forgotten to a gateway that has not", () => {
    const { left, portal, right, world } = connected("home", "home")
    left.node.removeConnection(right.name)
    portal.connect()
    world.run(3000)
    assertPasses(world, left, right)
    assertPasses(world, right, left)
  })

  it("connects a gateway that has forgotten to a client that has not", () => {
    const { left, portal, right, world } = connected("home", "home")
    right.node.removeConnection(left.name)
    world.run(1000)
    portal.connect()
    // A handshake was just made, hence the client is in no hurry; but it misses answers within 15 s.
    talk(world, left, right, 20)
    assertPasses(world, left, right)
    assertPasses(world, right, left)
    assert.isUndefined(failureOf(left))
  })
})
