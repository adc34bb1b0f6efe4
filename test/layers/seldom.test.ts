import { assert, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as HashMap from "effect/HashMap"
import * as Logger from "effect/Logger"
import * as Option from "effect/Option"
import * as TestClock from "effect/TestClock"
import { describe } from "vitest"
import { seldom } from "../../src/layers/seldom.ts"

describe("seldom", () => {
  it.effect("tells the first at once, then one a minute with the number of those left out", () => {
    const lines: Array<number> = []
    const logger = Logger.make<unknown, void>(({ annotations }) => {
      lines.push(Option.getOrElse(HashMap.get(annotations, "alsoSinceLast"), () => 0) as number)
    })
    return Effect.gen(function*() {
      const tell = seldom()
      const line = tell(Effect.logWarning("odd"))
      yield* line
      for (let i = 0; i < 590; i++) {
        yield* TestClock.adjust("100 millis")
        yield* line
      }
      assert.deepStrictEqual(lines, [0])
      yield* TestClock.adjust("1 second")
      yield* line
      yield* TestClock.adjust("2 minutes")
      yield* line
      assert.deepStrictEqual(lines, [0, 590, 0])
      // Each kind for itself.
      yield* seldom()(Effect.logWarning("other"))
      assert.lengthOf(lines, 4)
    }).pipe(Effect.provide(Logger.replace(Logger.defaultLogger, logger)))
  })
})
