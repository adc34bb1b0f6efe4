import { assert, it } from "@effect/vitest"
import * as Clock from "effect/Clock"
import * as Effect from "effect/Effect"
import * as TestClock from "effect/TestClock"
import { describe } from "vitest"
import { resubscribe } from "../../src/services/NetworkChanges.ts"

describe("resubscribe", () => {
  it.scoped("waits longer each time, and begins anew a minute after it began", () =>
    Effect.gen(function*() {
      const attempts: Array<number> = []
      yield* Effect.gen(function*() {
        attempts.push(yield* Clock.currentTimeMillis)
        if (attempts.length === 10) yield* Effect.sleep("61 seconds")
        return yield* Effect.fail("no more")
      }).pipe(Effect.retry(resubscribe), Effect.forkScoped)
      yield* TestClock.adjust("10 minutes")
      const waits = attempts.map((at, i) => at - (attempts[i - 1] ?? 0)).slice(1, 12)
      assert.deepStrictEqual(waits, [500, 1000, 2000, 4000, 8000, 16_000, 30_000, 500, 1000, 61_500, 1000])
    }))
})
