import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Stream from "effect/Stream"
import { NetworkChanges, NetworkMonitorFailed, resubscribe } from "../../services/NetworkChanges.ts"
import { RouteCache } from "../../services/RouteCache.ts"

const make = Effect.gen(function*() {
  const { changes } = yield* NetworkChanges // starts with `Subscribed`: what came before is unknown
  const cache = yield* RouteCache
  yield* changes.pipe(
    Stream.runForEach((change) =>
      Effect.zipRight(
        cache.invalidateAll(change._tag === "Overrun" ? "overrun" : `network-${change._tag.toLowerCase()}`),
        Effect.logDebug("routes forgotten").pipe(Effect.annotateLogs("change", change._tag))
      )
    ),
    Effect.zipRight(Effect.fail(new NetworkMonitorFailed({ cause: new Error("the stream of changes ended") }))),
    Effect.tapErrorCause((cause) => Effect.logWarning("network monitor failed, subscribing again", cause)),
    Effect.retry(resubscribe),
    Effect.annotateLogs("service", "RouteCacheInvalidation"),
    Effect.interruptible,
    Effect.forkScoped
  )
})

/** Not debounced: invalidating is free, a stale route is a black hole. Rebinding debounces for itself. */
export const layer: Layer.Layer<never, never, NetworkChanges | RouteCache> = Layer.scopedDiscard(make)
