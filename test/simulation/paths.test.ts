import { assert, describe, it } from "@effect/vitest"
import { Encapsulated } from "../../src/protocol/node/types.ts"
import { isDirect, NAT_KINDS, type NatKind } from "./nat.ts"
import { Portal } from "./Portal.ts"
import { World } from "./World.ts"

/** A client and a gateway that know two relays and have just been introduced. */
const introduce = (client: NatKind, gateway: NatKind, options: { readonly ipv6?: boolean } = {}) => {
  const world = new World()
  const relays = [world.relay(), world.relay()]
  const left = world.host({ name: "client", nat: client, ...options })
  const right = world.host({ name: "gateway", nat: gateway, ...options })
  for (const host of [left, right]) host.useRelays(...relays)
  world.run(1000)
  const portal = new Portal(world, left, right)
  portal.connect()
  return { world, left, right, portal, relays }
}

describe("the path between every two kinds of network", () => {
  for (const client of NAT_KINDS) {
    for (const gateway of NAT_KINDS) {
      const direct = isDirect(client, gateway)
      it(`${client} to ${gateway}: ${direct ? "direct" : "relayed"}`, () => {
        const { left, relays, right, world } = introduce(client, gateway)
        world.run(110)
        left.send(right, "early") // there is no path yet
        const begun = world.now
        assert.isTrue(world.runUntil(() => right.received.length > 0, 5000), "nothing arrived")
        assert.isBelow(world.now - begun, 2000)
        right.send(left, "answer")
        assert.isTrue(world.runUntil(() => left.received.length > 0, 1000))
        assert.deepStrictEqual([left.received, right.received], [["answer"], ["early"]])

        // Better pairs may be found later; the tunnel moves without a new session.
        world.run(5000)
        const handshakeAge = left.status(right)?.handshakeAgeMillis ?? 0
        assert.isAbove(handshakeAge, 4000)
        const kinds = [left.status(right)?.path?.kind, right.status(left)?.path?.kind]
        if (direct) assert.deepStrictEqual(kinds, ["direct", "direct"])
        else for (const kind of kinds) assert.include(["relayed-by-us", "relayed-by-peer", "relayed-both"], kind)

        const relayed = () => relays.reduce((sum, id) => sum + world.relayedPackets(id), 0)
        const before = relayed()
        for (let i = 0; i < 100; i++) left.send(right, `bulk ${i}`)
        world.run(100)
        assert.strictEqual(right.received.length, 101)
        assert.strictEqual(right.received[100], "bulk 99")
        // Checks still go through relays now and then.
        if (direct) assert.isBelow(relayed() - before, 50)
        else assert.isAtLeast(relayed() - before, 100)
        for (const host of [left, right]) {
          assert.deepStrictEqual(host.events.map(({ _tag }) => _tag), ["ConnectionEstablished"])
        }
      })
    }
  }

  it("is direct over IPv6 where no address is translated", () => {
    const { left, right, world } = introduce("symmetric", "symmetric", { ipv6: true })
    world.run(5000)
    assert.strictEqual(left.status(right)?.path?.kind, "direct")
    assert.strictEqual(left.status(right)?.path?.remote.family, 6)
    assert.strictEqual(right.status(left)?.path?.kind, "direct")
  })
})

describe("an idle connection", () => {
  it("is checked rarely, and carries the next packet at once", () => {
    const { left, right, world } = introduce("home", "home")
    world.run(60_000)
    assert.deepStrictEqual([left.status(right)?.state, right.status(left)?.state], ["idle", "idle"])
    const waiting = Math.min(...[left, right].map((host) => host.nextTick())) - world.now
    assert.isAbove(waiting, 5000, "nothing to do for seconds")
    world.run(60_000)
    left.send(right, "good morning")
    world.run(15)
    assert.deepStrictEqual(right.received, ["good morning"])
    assert.deepStrictEqual([left.status(right)?.state, right.status(left)?.state], ["connected", "connected"])
  })

  it("makes a new session at once when the old one is too old to be sent on", () => {
    const { left, right, world } = introduce("home", "home")
    world.run(1000)
    world.run(171_000 - (left.status(right)?.handshakeAgeMillis ?? 0))
    assert.strictEqual(left.send(right, "lost"), Encapsulated.NoSession)
    world.run(100)
    assert.strictEqual(left.send(right, "hello"), Encapsulated.Sent)
    world.run(100)
    assert.deepStrictEqual(right.received, ["hello"])
  })

  it("lasts for hours on a relay", () => {
    const { left, right, world } = introduce("symmetric", "symmetric")
    world.run(3 * 3_600_000)
    left.send(right, "still there")
    world.run(100)
    assert.deepStrictEqual(right.received, ["still there"])
    assert.deepStrictEqual(left.events.map(({ _tag }) => _tag), ["ConnectionEstablished"])
  })
})
