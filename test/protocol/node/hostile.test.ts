/** What an attacker may send a node that is connected: nothing changes, nothing grows. `npm run bench -- hostile` times it. */
import { assert, describe, it } from "@effect/vitest"
import { Decapsulated } from "../../../src/protocol/node/types.ts"
import { HANDSHAKES_PER_SECOND } from "../../../src/protocol/wireguard/RateLimiter.ts"
import { HostilePeer } from "../../support/HostilePeer.ts"

const MANY = 2000

/** What the node would tell others of itself. */
const visible = ({ node, now }: HostilePeer) => ({
  status: node.status(now),
  timeout: node.pollTimeout(),
  events: [] as ReadonlyArray<unknown>
})

describe("an attacker", () => {
  for (const name of new HostilePeer().attacks().keys()) {
    it(`changes nothing with ${name}`, () => {
      const world = new HostilePeer()
      const attack = world.attacks().get(name)
      if (attack === undefined) throw new Error(name)
      const before = visible(world)
      let answers = 0
      for (let i = 0; i < MANY; i++) {
        assert.notStrictEqual(world.take(attack(i)), Decapsulated.Packet)
        answers += world.sent().length
      }
      assert.deepStrictEqual({ ...visible(world), events: world.events() }, before)
      // A cookie for each that would cost us more to read, and nothing else.
      assert.strictEqual(answers, name === "initiations with the right MAC" ? MANY : 0)
      assert.strictEqual(world.honest(), Decapsulated.Packet, "the connection goes on")
    })
  }

  it("who floods with initiations has a hundred a second read, and pays for each other one", () => {
    const world = new HostilePeer()
    const attack = world.attacks().get("initiations with the right MAC")
    if (attack === undefined) throw new Error("unknown")
    for (let second = 1; second <= 3; second++) {
      world.now = second * 2000
      let answers = 0
      for (let i = 0; i < MANY; i++) {
        world.take(attack(i))
        for (const { length } of world.sent()) {
          answers += 1
          assert.isBelow(length, 148, "no more goes back than came")
        }
      }
      assert.strictEqual(answers, MANY - HANDSHAKES_PER_SECOND)
    }
  })
})
