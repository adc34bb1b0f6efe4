/** How often the tunnel's configuration is repaired and what is said of it, under virtual time. */
import { assert, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Logger from "effect/Logger"
import * as LogLevel from "effect/LogLevel"
import * as PubSub from "effect/PubSub"
import * as Stream from "effect/Stream"
import * as TestClock from "effect/TestClock"
import { describe } from "vitest"
import { repairAfter } from "../../../src/layers/tun/repairAfter.ts"
import { TunFailed } from "../../../src/services/TunDevice.ts"

const collect = (lines: Array<string>): Layer.Layer<never> =>
  Layer.merge(
    Logger.replace(
      Logger.defaultLogger,
      Logger.make(({ logLevel, message }) => void lines.push(`${logLevel.label} ${String(message)}`))
    ),
    Logger.minimumLogLevel(LogLevel.Debug)
  )

describe("repairAfter", () => {
  it.scoped("does not fight with somebody who takes everything away again, and tells it once", () => {
    const lines: Array<string> = []
    return Effect.gen(function*() {
      const losses = yield* PubSub.unbounded<void>()
      let repairs = 0
      yield* repairAfter(
        Stream.fromPubSub(losses),
        Effect.sync(() => {
          repairs += 1
          return ["1 route"]
        })
      )
      for (let millis = 0; millis < 60_000; millis += 1000) {
        yield* PubSub.publish(losses, undefined)
        yield* TestClock.adjust("1 second")
      }
      assert.isAtLeast(repairs, 3)
      assert.isAtMost(repairs, 4)
      assert.strictEqual(lines.filter((line) => line.startsWith("WARN")).length, 1)
      assert.strictEqual(lines.filter((line) => line.startsWith("DEBUG")).length, repairs - 1)
      yield* TestClock.adjust("1 hour")
      yield* PubSub.publish(losses, undefined)
      yield* TestClock.adjust("1 minute")
      assert.strictEqual(lines.filter((line) => line.startsWith("WARN")).length, 2)
    }).pipe(Effect.provide(collect(lines)))
  })

  it.scoped("says nothing and takes no rest when all is there", () => {
    const lines: Array<string> = []
    return Effect.gen(function*() {
      const losses = yield* PubSub.unbounded<void>()
      let looks = 0
      yield* repairAfter(
        Stream.fromPubSub(losses),
        Effect.sync(() => {
          looks += 1
          return []
        })
      )
      yield* TestClock.adjust(0)
      for (let i = 0; i < 3; i++) {
        yield* PubSub.publish(losses, undefined)
        yield* TestClock.adjust("1 second")
      }
      assert.strictEqual(looks, 3)
      assert.deepStrictEqual(lines, [])
    }).pipe(Effect.provide(collect(lines)))
  })

  it.scoped("tries again when a repair fails", () => {
    const lines: Array<string> = []
    return Effect.gen(function*() {
      let attempts = 0
      yield* repairAfter(
        Stream.concat(Stream.void, Stream.never),
        Effect.suspend(() => {
          attempts += 1
          return attempts < 3 ? new TunFailed({ step: "add address", cause: "busy" }) : Effect.succeed(["link state"])
        })
      )
      yield* TestClock.adjust("1 minute")
      assert.strictEqual(attempts, 3)
      assert.strictEqual(lines.filter((line) => line.startsWith("WARN")).length, 3)
    }).pipe(Effect.provide(collect(lines)))
  })
})
