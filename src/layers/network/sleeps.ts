import * as Clock from "effect/Clock"
import * as Effect from "effect/Effect"
import * as Schedule from "effect/Schedule"
import * as Stream from "effect/Stream"

const INTERVAL_MILLIS = 1000
/**
 * Silence that our own keep-alives allow themselves (connectivity spec 9.6, idle profile): what lives on the way, such as
 * the mappings of NATs, survives no shorter one for certain.
 */
const LONGEST_SILENCE_MILLIS = 25_000

/**
 * One element each time that this process did not run for more than 25 s, known by the wall clock: it goes on while the
 * system is suspended, when timers and the monotonic clock stand still. Whoever sets it forward gives one too, which costs
 * a reset and no more.
 */
export const sleepsOf = (wallMillis: Effect.Effect<number>): Stream.Stream<void> =>
  Stream.unwrap(Effect.map(wallMillis, (start) => {
    let last = start
    return Stream.repeatEffectWithSchedule(wallMillis, Schedule.spaced(INTERVAL_MILLIS)).pipe(
      Stream.filter((now) => {
        const passed = now - last
        last = now
        return passed > INTERVAL_MILLIS + LONGEST_SILENCE_MILLIS
      }),
      Stream.as(undefined)
    )
  }))

export const sleeps: Stream.Stream<void> = sleepsOf(Clock.currentTimeMillis)
