import { assert, describe, it } from "@effect/vitest"
import * as Chunk from "effect/Chunk"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as Stream from "effect/Stream"
import * as TestClock from "effect/TestClock"
import * as SystemResolversHost from "../../../src/layers/dns/SystemResolversHost.ts"
import { ip, type IpAddress } from "../../../src/protocol/wire/address.ts"
import { SystemResolvers } from "../../../src/services/SystemResolvers.ts"

const [a, b] = [ip("192.0.2.1"), ip("192.0.2.2")]

describe("SystemResolvers", () => {
  it.effect("says what they are now, and every change within 5 s, but nothing twice", () => {
    let now: ReadonlyArray<IpAddress> = [a]
    let reads = 0
    const layer = SystemResolversHost.layerWith({
      read: () => {
        reads += 1
        return now
      }
    })
    return Effect.gen(function*() {
      const resolvers = yield* SystemResolvers
      assert.deepStrictEqual(yield* resolvers.current, [a])
      const following = yield* Effect.fork(Stream.runCollect(Stream.take(resolvers.changes, 4)))
      const steps: ReadonlyArray<ReadonlyArray<IpAddress>> = [[a], [a, b], [a, b], [b, a], []]
      for (const step of steps) {
        now = step
        yield* TestClock.adjust("5 seconds")
      }
      assert.deepStrictEqual(Chunk.toReadonlyArray(yield* Fiber.join(following)), [[a], [a, b], [b, a], []])
      assert.isAtLeast(reads, 5)
    }).pipe(Effect.provide(layer))
  })
})
