/** Resolvers of a system that the test sets. */
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as PubSub from "effect/PubSub"
import * as Stream from "effect/Stream"
import type { IpAddress } from "../../src/model/Route.ts"
import { SystemResolvers } from "../../src/services/SystemResolvers.ts"

export interface SystemResolversDouble {
  /** Changes them, and tells whoever follows. */
  readonly set: (resolvers: ReadonlyArray<IpAddress>) => Effect.Effect<void>
  readonly layer: Layer.Layer<SystemResolvers>
}

export const makeSystemResolversDouble = (initial: ReadonlyArray<IpAddress> = []): SystemResolversDouble => {
  const changes = Effect.runSync(PubSub.unbounded<ReadonlyArray<IpAddress>>({ replay: 1 }))
  let now = initial
  const set = (resolvers: ReadonlyArray<IpAddress>): Effect.Effect<void> =>
    Effect.suspend(() => {
      now = resolvers
      return PubSub.publish(changes, resolvers)
    })
  Effect.runSync(set(initial))
  return {
    set,
    layer: Layer.sync(
      SystemResolvers,
      () => SystemResolvers.of({ current: Effect.sync(() => now), changes: Stream.fromPubSub(changes) })
    )
  }
}
