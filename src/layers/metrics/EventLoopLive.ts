import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Schedule from "effect/Schedule"
import { type IntervalHistogram, monitorEventLoopDelay } from "node:perf_hooks"
import { EventLoop, type EventLoopLag } from "../../services/EventLoop.ts"

/** A timer of libuv's that runs no JavaScript. */
const RESOLUTION_MILLIS = 20
const WINDOW = "30 seconds"

const lagOf = (histogram: IntervalHistogram): EventLoopLag => {
  // What is recorded is the time between two ticks, which is the resolution when nothing holds them up.
  const late = (nanos: number): number =>
    histogram.count === 0 ? 0 : Math.max(0, nanos / 1e6 - RESOLUTION_MILLIS) / 1000
  return { p50: late(histogram.percentile(50)), p99: late(histogram.percentile(99)), max: late(histogram.max) }
}

/**
 * Two windows, half a period apart: the older one is told of, so that one that has just begun does not hide what was. Nobody
 * who reads takes anything away from another reader.
 */
export const layer: Layer.Layer<EventLoop> = Layer.scoped(
  EventLoop,
  Effect.gen(function*() {
    const open = Effect.acquireRelease(
      Effect.sync(() => {
        const histogram = monitorEventLoopDelay({ resolution: RESOLUTION_MILLIS })
        histogram.enable()
        return histogram
      }),
      (histogram) => Effect.sync(() => void histogram.disable())
    )
    let older = yield* open
    let newer = yield* open
    yield* Effect.sync(() => {
      older.reset()
      const next = older
      older = newer
      newer = next
    }).pipe(Effect.schedule(Schedule.spaced(WINDOW)), Effect.interruptible, Effect.forkScoped)
    return EventLoop.of({ lag: Effect.sync(() => lagOf(older)) })
  })
)
