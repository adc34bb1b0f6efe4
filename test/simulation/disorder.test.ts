import { assert, describe, it } from "@effect/vitest"
import * as fc from "fast-check"
import { NAT_KINDS } from "./nat.ts"
import { Portal } from "./Portal.ts"
import { FAIR, World } from "./World.ts"

const chapter = fc.record({
  weather: fc.record({
    loss: fc.double({ min: 0, max: 0.9, noNaN: true }),
    duplication: fc.double({ min: 0, max: 0.5, noNaN: true }),
    jitter: fc.integer({ min: 0, max: 500 })
  }),
  seconds: fc.integer({ min: 1, max: 40 }),
  happens: fc.constantFrom("nothing", "roam", "gateway roams", "relay lost", "introduced again", "forgotten")
})
const story = fc.record({
  seed: fc.nat(),
  client: fc.constantFrom(...NAT_KINDS),
  gateway: fc.constantFrom(...NAT_KINDS),
  chapters: fc.array(chapter, { minLength: 1, maxLength: 6 })
})

/** Bad networks and bad luck, then a good network for two minutes, and packets both ways. */
const play = ({ chapters, client, gateway, seed }: typeof story extends fc.Arbitrary<infer A> ? A : never): void => {
  const world = new World(seed)
  const left = world.host({ name: "client", nat: client })
  const right = world.host({ name: "gateway", nat: gateway })
  const portal = new Portal(world, left, right)
  portal.relays = [world.relay(), world.relay()]
  portal.isPersistent = true
  for (const host of [left, right]) host.useRelays(...portal.relays)
  portal.connect()
  const talk = (seconds: number): void => {
    for (let i = 0; i < seconds; i++) {
      if (!left.node.hasConnection(right.name) && i % 5 === 0) portal.connect()
      left.send(right, "from the client")
      right.send(left, "from the gateway")
      world.run(1000)
    }
  }
  for (const { happens, seconds, weather } of chapters) {
    world.weather = weather
    switch (happens) {
      case "roam":
      case "gateway roams": {
        const host = happens === "roam" ? left : right
        host.move()
        host.reset()
        host.useRelays(...portal.relays)
        break
      }
      case "relay lost": {
        const [old = "", ...others] = portal.relays
        portal.relays = [...others, world.relay()]
        world.kill(old)
        for (const host of [left, right]) host.changeRelays([old], portal.relays)
        break
      }
      case "introduced again":
        portal.connect()
        break
      case "forgotten":
        right.node.removeConnection(left.name)
        break
      case "nothing":
    }
    talk(seconds)
  }
  world.weather = FAIR
  talk(120)
  for (const [from, to] of [[left, right], [right, left]] as const) {
    const text = `to ${to.name} at last`
    from.send(to, text)
    world.run(200)
    assert.include(to.received, text)
  }
  for (const host of [left, right]) {
    for (const text of host.received) {
      assert.include(["from the client", "from the gateway", "to client at last", "to gateway at last"], text)
    }
  }
}

describe("whatever the network does", () => {
  it("two nodes are connected once it is good", () => {
    fc.assert(fc.property(story, play), { numRuns: 25 })
  })
})
