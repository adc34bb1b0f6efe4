/** Network changes that the test makes. */
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as PubSub from "effect/PubSub"
import * as Stream from "effect/Stream"
import type { NetworkChange, NetworkMonitorFailed, Roam } from "../../src/services/NetworkChanges.ts"
import { NetworkChanges } from "../../src/services/NetworkChanges.ts"

export interface NetworkChangesDouble {
  /** Reaches every subscriber of `changes`; a failure ends their streams. */
  readonly change: (change: NetworkChange | NetworkMonitorFailed) => Effect.Effect<void>
  /** Reaches every subscriber of `roams`. */
  readonly roam: (roam: Roam) => Effect.Effect<void>
  /** How often `changes` was subscribed to so far. */
  readonly subscriptions: () => number
  readonly layer: Layer.Layer<NetworkChanges>
}

export const makeNetworkChangesDouble: Effect.Effect<NetworkChangesDouble> = Effect.gen(function*() {
  const changes = yield* PubSub.unbounded<NetworkChange | NetworkMonitorFailed>()
  const roams = yield* PubSub.unbounded<Roam>()
  let subscriptions = 0
  const subscribed = Effect.map(PubSub.subscribe(changes), (queue) => {
    subscriptions += 1
    return Stream.fromQueue(queue).pipe(
      Stream.mapEffect((event) => event._tag === "NetworkMonitorFailed" ? Effect.fail(event) : Effect.succeed(event)),
      (later) => Stream.concat(Stream.succeed<NetworkChange>({ _tag: "Subscribed" }), later)
    )
  })
  return {
    change: (change) => Effect.asVoid(PubSub.publish(changes, change)),
    roam: (roam) => Effect.asVoid(PubSub.publish(roams, roam)),
    subscriptions: () => subscriptions,
    layer: Layer.succeed(
      NetworkChanges,
      NetworkChanges.of({
        changes: Stream.unwrapScoped(subscribed),
        roams: Stream.fromPubSub(roams),
        tunnelLosses: Stream.concat(Stream.void, Stream.never)
      })
    )
  }
})
