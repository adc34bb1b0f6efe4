import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as TestClock from "effect/TestClock"
import * as EventLoopLive from "../../../src/layers/metrics/EventLoopLive.ts"
import { EventLoop, type EventLoopLag } from "../../../src/services/EventLoop.ts"
import { waitFor } from "../../support/waitFor.ts"

const HITCH_MILLIS = 200
const hitch = (): void => {
  for (const end = performance.now() + HITCH_MILLIS; performance.now() < end;);
}

describe("the event loop's lag", () => {
  it.scoped("shows a hitch for 30 to 60 seconds to whoever asks, however often", () =>
    Effect.gen(function*() {
      const loop = yield* EventLoop
      let lag: EventLoopLag = { p50: 0, p99: 0, max: 0 }
      const look = (what: string, holds: () => boolean) =>
        waitFor(what, () => {
          lag = Effect.runSync(loop.lag)
          return holds()
        })
      const seesHitch = () => lag.max > (HITCH_MILLIS - 50) / 1000
      // The timers run, so that there is something to be late with.
      yield* Effect.promise(() => new Promise((resolve) => setTimeout(resolve, 100)))
      hitch()
      yield* look("the hitch", seesHitch)
      assert.isBelow(lag.max, 10)
      assert.isAtMost(lag.p50, lag.p99)
      assert.isAtMost(lag.p99, lag.max)
      yield* look("the hitch again", seesHitch)
      yield* TestClock.adjust("30 seconds")
      yield* look("the hitch in the window that began with it", seesHitch)
      // A busy machine may have hitches of its own, so the windows go on until there is one without.
      for (let windows = 0; seesHitch() && windows < 50; windows++) {
        yield* TestClock.adjust("30 seconds")
        lag = yield* loop.lag
      }
      assert.isFalse(seesHitch())
    }).pipe(Effect.provide(EventLoopLive.layer)))
})
