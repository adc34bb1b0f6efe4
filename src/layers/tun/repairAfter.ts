import * as Clock from "effect/Clock"
import * as Effect from "effect/Effect"
import * as LogLevel from "effect/LogLevel"
import type * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import { type NetworkMonitorFailed, resubscribe } from "../../services/NetworkChanges.ts"
import type { TunFailed } from "../../services/TunDevice.ts"

/** A network manager that starts again takes things away one by one. */
const SETTLE = "500 millis"
/** Somebody who takes away again what was put back must not keep us busy. */
const PAUSE = "15 seconds"
/** The same loss is told again after so long without it. */
const TOLD_MILLIS = 10 * 60_000

/**
 * Runs `repair` some time after a loss while the scope lasts, and tells what it found missing. After a repair that found
 * something it rests; losses meanwhile count as one more. A repair that fails is tried again.
 */
export const repairAfter = (
  losses: Stream.Stream<void, NetworkMonitorFailed>,
  repair: Effect.Effect<ReadonlyArray<string>, TunFailed>
): Effect.Effect<void, never, Scope.Scope> =>
  Effect.suspend(() => {
    let told = ""
    let lastAt = Number.NEGATIVE_INFINITY
    const tell = (missing: ReadonlyArray<string>) =>
      Effect.flatMap(Clock.currentTimeMillis, (now) => {
        const what = missing.join(", ")
        const isNews = what !== told || now - lastAt > TOLD_MILLIS
        told = what
        lastAt = now
        return Effect.logWithLevel(
          isNews ? LogLevel.Warning : LogLevel.Debug,
          "somebody removed parts of the tunnel's network configuration, put back"
        ).pipe(Effect.annotateLogs("missing", what))
      })
    return losses.pipe(
      Stream.buffer({ capacity: 1, strategy: "sliding" }),
      Stream.mapEffect(() => Effect.delay(repair, SETTLE)),
      Stream.filter((missing) => missing.length > 0),
      Stream.runForEach((missing) => Effect.zipRight(tell(missing), Effect.sleep(PAUSE))),
      Effect.tapError((error) =>
        Effect.logWarning("cannot watch over the tunnel's network configuration, trying again").pipe(
          Effect.annotateLogs("error", error._tag === "TunFailed" ? error.message : String(error.cause))
        )
      ),
      Effect.retry(resubscribe),
      Effect.annotateLogs("module", "tun"),
      Effect.interruptible,
      Effect.forkScoped,
      Effect.asVoid
    )
  })
