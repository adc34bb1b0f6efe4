import * as Clock from "effect/Clock"
import * as Effect from "effect/Effect"

const PAUSE_MILLIS = 60_000

/** For one kind of line that somebody outside can cause as often as he likes: at most one a minute, the first at once. */
export const seldom = () => {
  let nextAt = Number.NEGATIVE_INFINITY
  let untold = 0
  /** The line is annotated with how many there were since the last one. */
  return (line: Effect.Effect<void>): Effect.Effect<void> =>
    Effect.flatMap(Clock.currentTimeMillis, (now) => {
      if (now < nextAt) {
        untold += 1
        return Effect.void
      }
      const more = untold
      nextAt = now + PAUSE_MILLIS
      untold = 0
      return more === 0 ? line : Effect.annotateLogs(line, "alsoSinceLast", more)
    })
}
