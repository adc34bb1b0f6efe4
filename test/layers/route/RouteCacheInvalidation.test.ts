import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as TestClock from "effect/TestClock"
import * as RouteCacheInvalidation from "../../../src/layers/route/RouteCacheInvalidation.ts"
import * as RouteCacheLive from "../../../src/layers/route/RouteCacheLive.ts"
import { NetworkMonitorFailed } from "../../../src/services/NetworkChanges.ts"
import { RouteCache } from "../../../src/services/RouteCache.ts"
import { makeNetworkChangesDouble } from "../../support/NetworkChangesDouble.ts"
import { makeRouteResolverDouble } from "../../support/RouteResolverDouble.ts"

const turn = Effect.promise(() => new Promise<void>((resolve) => void setImmediate(resolve)))
const until = (holds: Effect.Effect<boolean>): Effect.Effect<void> =>
  Effect.gen(function*() {
    for (let tries = 0; tries < 1000; tries++) {
      if (yield* holds) return
      yield* turn
    }
    assert.fail("did not happen")
  })

describe("RouteCacheInvalidation", () => {
  it.effect("clears at the start, at each change, and after subscribing again (host 18.30)", () =>
    Effect.gen(function*() {
      const network = yield* makeNetworkChangesDouble
      const layer = RouteCacheInvalidation.layer.pipe(
        Layer.provideMerge(RouteCacheLive.layer),
        Layer.provide(makeRouteResolverDouble().layer),
        Layer.provide(network.layer)
      )
      yield* Effect.gen(function*() {
        const cache = yield* RouteCache
        const causes = Effect.map(cache.stats, ({ invalidations }) => invalidations)
        yield* until(Effect.map(causes, (by) => by["network-subscribed"] === 1))
        yield* network.change({ _tag: "Route", interfaceIndex: 2 })
        yield* network.change({ _tag: "Overrun" })
        yield* until(Effect.map(causes, (by) => by["network-route"] === 1 && by["overrun"] === 1))
        yield* network.change(new NetworkMonitorFailed({ cause: new Error("socket gone") }))
        yield* until(Effect.flatMap(TestClock.adjust("1 second"), () => Effect.succeed(network.subscriptions() === 2)))
        yield* until(Effect.map(causes, (by) => by["network-subscribed"] === 2))
        yield* network.change({ _tag: "Link" })
        yield* until(Effect.map(causes, (by) => by["network-link"] === 1))
      }).pipe(Effect.provide(layer))
    }))
})
