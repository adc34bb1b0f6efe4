import { assert, describe, it } from "@effect/vitest"
import * as Clock from "effect/Clock"
import * as Effect from "effect/Effect"
import * as Stream from "effect/Stream"
import * as TestClock from "effect/TestClock"
import { sleepsOf } from "../../../src/layers/network/sleeps.ts"

/** A wall clock that can be ahead of the one that timers follow, as it is after a suspension. */
const start = Effect.gen(function*() {
  const state = { ahead: 0, sleeps: 0 }
  const wallMillis = Effect.map(Clock.currentTimeMillis, (now) => now + state.ahead)
  yield* sleepsOf(wallMillis).pipe(
    Stream.runForEach(() => Effect.sync(() => state.sleeps += 1)),
    Effect.forkScoped
  )
  yield* TestClock.adjust("10 seconds")
  return state
})

describe("sleeps", () => {
  it.scoped("are none while time passes as it should", () =>
    Effect.gen(function*() {
      const state = yield* start
      yield* TestClock.adjust("2 minutes")
      assert.strictEqual(state.sleeps, 0)
    }))

  it.scoped("are seen within a second, each once", () =>
    Effect.gen(function*() {
      const state = yield* start
      for (let count = 1; count <= 3; count++) {
        state.ahead += 90_000
        yield* TestClock.adjust("1 seconds")
        assert.strictEqual(state.sleeps, count)
        yield* TestClock.adjust("1 minutes")
        assert.strictEqual(state.sleeps, count)
      }
    }))

  it.scoped("are longer than what our keep-alives leave silent", () =>
    Effect.gen(function*() {
      const state = yield* start
      state.ahead += 25_000
      yield* TestClock.adjust("1 seconds")
      assert.strictEqual(state.sleeps, 0)
      state.ahead += 25_001
      yield* TestClock.adjust("1 seconds")
      assert.strictEqual(state.sleeps, 1)
    }))

  it.scoped("are not what sets the clock back", () =>
    Effect.gen(function*() {
      const state = yield* start
      state.ahead -= 3_600_000
      yield* TestClock.adjust("10 seconds")
      assert.strictEqual(state.sleeps, 0)
      state.ahead += 26_000
      yield* TestClock.adjust("1 seconds")
      assert.strictEqual(state.sleeps, 1)
    }))
})
