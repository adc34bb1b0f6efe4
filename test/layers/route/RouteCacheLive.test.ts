import { assert, describe, it } from "@effect/vitest"
import * as Cause from "effect/Cause"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Layer from "effect/Layer"
import * as Metric from "effect/Metric"
import * as Option from "effect/Option"
import * as Queue from "effect/Queue"
import * as Ref from "effect/Ref"
import * as Scope from "effect/Scope"
import * as TestClock from "effect/TestClock"
import * as RouteCacheLive from "../../../src/layers/route/RouteCacheLive.ts"
import type { IpAddress, Route } from "../../../src/model/Route.ts"
import { ip } from "../../../src/protocol/wire/address.ts"
import { RouteCache } from "../../../src/services/RouteCache.ts"
import type { RouteError } from "../../../src/services/RouteResolver.ts"
import { RouteResolver } from "../../../src/services/RouteResolver.ts"
import { makeRouteResolverDouble, noRoute, routeVia } from "../../support/RouteResolverDouble.ts"

const there = ip("203.0.113.7")
const turn = Effect.promise(() => new Promise<void>((resolve) => void setImmediate(resolve)))

/** Waits for the fact, not for a time. */
const eventually = <A>(actual: Effect.Effect<A>, expected: A): Effect.Effect<void> =>
  Effect.gen(function*() {
    for (let tries = 0; tries < 1000; tries++) {
      if ((yield* actual) === expected) return
      yield* turn
    }
    assert.strictEqual(yield* actual, expected)
  })

/** A resolver whose lookups the test ends one by one. */
const makeStepwise = () => {
  const lookups: Array<{ destination: IpAddress; answer: Deferred.Deferred<Route, RouteError>; interrupted: boolean }> =
    []
  const double = makeRouteResolverDouble((destination) =>
    Effect.gen(function*() {
      const lookup = { destination, answer: yield* Deferred.make<Route, RouteError>(), interrupted: false }
      lookups.push(lookup)
      return yield* Effect.onInterrupt(Deferred.await(lookup.answer), () =>
        Effect.sync(() => {
          lookup.interrupted = true
        }))
    })
  )
  return {
    lookups,
    begun: Effect.sync(() => lookups.length),
    answer: (index: number, interfaceName: string) => {
      const lookup = lookups[index]
      assert.isDefined(lookup)
      return Deferred.succeed(lookup.answer, routeVia(interfaceName, lookup.destination))
    },
    fail: (index: number) => {
      const lookup = lookups[index]
      assert.isDefined(lookup)
      return Deferred.complete(lookup.answer, noRoute(lookup.destination))
    },
    layer: double.layer
  }
}
const provideCache = <A, E>(
  body: Effect.Effect<A, E, RouteCache>,
  resolver: Layer.Layer<RouteResolver>,
  options = { capacity: 4096, rememberFailuresMillis: 250 }
): Effect.Effect<A, E> => Effect.provide(body, Layer.provide(RouteCacheLive.layerWith(options), resolver))

describe("get", () => {
  it.effect("hands out no route looked up before an invalidation (host 18.24)", () =>
    Effect.gen(function*() {
      const calls = yield* Ref.make(0)
      const answers = yield* Queue.unbounded<string>()
      const resolver = Layer.mock(RouteResolver, {
        resolve: (to) =>
          Effect.zipRight(
            Ref.update(calls, (n) => n + 1),
            Effect.map(answers.take, (name) => routeVia(name, to))
          )
      })
      yield* provideCache(
        Effect.gen(function*() {
          const cache = yield* RouteCache
          const asker = yield* Effect.fork(cache.get(there))
          yield* eventually(Ref.get(calls), 1)
          yield* cache.invalidateAll("network-change")
          yield* answers.offerAll(["stale", "fresh"])
          const route = yield* Fiber.join(asker)
          assert.strictEqual(route.interfaceName, "fresh")
          assert.strictEqual(route.generation, 1)
          assert.strictEqual((yield* cache.get(there)).interfaceName, "fresh")
          yield* eventually(Effect.map(cache.stats, (stats) => stats.staleDiscarded), 1)
        }),
        resolver
      )
    }))

  it.effect("looks up once for all who ask at that moment", () =>
    Effect.gen(function*() {
      const resolver = makeStepwise()
      yield* provideCache(
        Effect.gen(function*() {
          const cache = yield* RouteCache
          const askers = yield* Effect.forkAll(Array.from({ length: 1000 }, () => cache.get(there)))
          yield* eventually(Effect.map(cache.stats, (stats) => stats.sharedWaits), 999)
          yield* resolver.answer(0, "eth0")
          const routes = yield* Fiber.join(askers)
          assert.strictEqual(new Set(routes).size, 1)
          assert.strictEqual(yield* resolver.begun, 1)
          const stats = yield* cache.stats
          assert.deepInclude(stats, { misses: 1, hits: 0, size: 1, generation: 0 })
        }),
        resolver.layer
      )
    }))

  it.effect("does not fail the others when the caller that came first is interrupted", () =>
    Effect.gen(function*() {
      const resolver = makeStepwise()
      yield* provideCache(
        Effect.gen(function*() {
          const cache = yield* RouteCache
          const first = yield* Effect.fork(cache.get(there))
          yield* eventually(resolver.begun, 1)
          const second = yield* Effect.fork(cache.get(there))
          yield* eventually(Effect.map(cache.stats, (stats) => stats.sharedWaits), 1)
          yield* Fiber.interrupt(first)
          yield* resolver.answer(0, "eth0")
          assert.strictEqual((yield* Fiber.join(second)).interfaceName, "eth0")
          assert.strictEqual(yield* resolver.begun, 1)
        }),
        resolver.layer
      )
    }))

  it.effect("answers without waiting for a lookup that an invalidation made worthless", () =>
    Effect.gen(function*() {
      const resolver = makeStepwise()
      yield* provideCache(
        Effect.gen(function*() {
          const cache = yield* RouteCache
          const asker = yield* Effect.fork(cache.get(there))
          yield* eventually(resolver.begun, 1)
          yield* cache.invalidate(there, "send-failed")
          yield* eventually(resolver.begun, 2)
          yield* resolver.answer(1, "fresh")
          assert.strictEqual((yield* Fiber.join(asker)).interfaceName, "fresh")
          yield* resolver.answer(0, "stale")
          yield* eventually(Effect.map(cache.stats, (stats) => stats.staleDiscarded), 1)
          assert.strictEqual((yield* cache.get(there)).interfaceName, "fresh")
        }),
        resolver.layer
      )
    }))

  it.effect("remembers a failure for 250 ms (host 18.22)", () =>
    Effect.gen(function*() {
      const resolver = makeRouteResolverDouble(noRoute)
      yield* provideCache(
        Effect.gen(function*() {
          const cache = yield* RouteCache
          for (let i = 0; i < 3; i++) {
            assert.strictEqual((yield* Effect.flip(cache.get(there)))._tag, "NoRoute")
          }
          assert.isUndefined(cache.peek(there))
          yield* TestClock.adjust("249 millis")
          yield* Effect.flip(cache.get(there))
          assert.strictEqual(resolver.asked.get(there), 1)
          yield* TestClock.adjust("1 millis")
          resolver.answer = (to) => Effect.succeed(routeVia("eth0", to))
          assert.strictEqual((yield* cache.get(there)).interfaceName, "eth0")
          assert.strictEqual(resolver.asked.get(there), 2)
          assert.strictEqual((yield* cache.stats).size, 1)
        }),
        resolver.layer
      )
    }))

  it.effect("forgets a failure at an invalidation", () =>
    Effect.gen(function*() {
      const resolver = makeRouteResolverDouble(noRoute)
      yield* provideCache(
        Effect.gen(function*() {
          const cache = yield* RouteCache
          yield* Effect.flip(cache.get(there))
          resolver.answer = (to) => Effect.succeed(routeVia("wifi", to))
          yield* cache.invalidateAll("network-change")
          assert.strictEqual((yield* cache.get(there)).interfaceName, "wifi")
        }),
        resolver.layer
      )
    }))

  it.effect("passes a bug of the resolver on to those who wait, and does not remember it", () =>
    Effect.gen(function*() {
      const resolver = makeRouteResolverDouble(() => Effect.die(new Error("bug")))
      yield* provideCache(
        Effect.gen(function*() {
          const cache = yield* RouteCache
          const exit = yield* Effect.exit(cache.get(there))
          assert.isTrue(Exit.isFailure(exit) && Cause.isDie(exit.cause))
          assert.isUndefined(cache.peek(there))
          assert.strictEqual(resolver.asked.get(there), 2)
        }),
        resolver.layer
      )
    }))

  it.effect("ends those who wait, and the lookup, with the layer", () =>
    Effect.gen(function*() {
      const resolver = makeStepwise()
      const scope = yield* Scope.make()
      const context = yield* Layer.buildWithScope(Layer.provide(RouteCacheLive.layer, resolver.layer), scope)
      const cache = yield* Effect.provide(RouteCache, context)
      const asker = yield* Effect.fork(cache.get(there))
      yield* eventually(resolver.begun, 1)
      yield* Scope.close(scope, Exit.void)
      assert.isTrue(Exit.isInterrupted(yield* Fiber.await(asker)))
      assert.isTrue(resolver.lookups[0]?.interrupted)
    }))

  it.effect("refuses more lookups at a time than it can hold", () =>
    Effect.gen(function*() {
      const resolver = makeStepwise()
      yield* provideCache(
        Effect.gen(function*() {
          const cache = yield* RouteCache
          const askers = yield* Effect.forEach(["10.0.0.1", "10.0.0.2"], (to) => Effect.fork(cache.get(ip(to))))
          yield* eventually(resolver.begun, 2)
          assert.strictEqual((yield* Effect.flip(cache.get(there)))._tag, "RouteQueryFailed")
          yield* resolver.answer(0, "eth0")
          yield* resolver.answer(1, "eth0")
          yield* Effect.forEach(askers, Fiber.join)
          const late = yield* Effect.fork(cache.get(there))
          yield* eventually(resolver.begun, 3)
          yield* resolver.answer(2, "eth0")
          yield* Fiber.join(late)
        }),
        resolver.layer,
        { capacity: 2, rememberFailuresMillis: 250 }
      )
    }))
})

describe("peek", () => {
  it.effect("answers at once when the resolver does", () =>
    Effect.gen(function*() {
      const resolver = makeRouteResolverDouble()
      yield* provideCache(
        Effect.gen(function*() {
          const cache = yield* RouteCache
          const route = cache.peek(there)
          assert.strictEqual(route?.interfaceName, "eth0")
          assert.strictEqual(cache.peek(there), route)
          assert.strictEqual(resolver.asked.get(there), 1)
          assert.deepInclude(yield* cache.stats, { misses: 1, hits: 1 })
        }),
        resolver.layer
      )
    }))

  it.effect("starts one lookup on a miss and tells each who asked, once", () =>
    Effect.gen(function*() {
      const resolver = makeStepwise()
      yield* provideCache(
        Effect.gen(function*() {
          const cache = yield* RouteCache
          const told: Array<string> = []
          const one = () => void told.push(`one ${cache.peek(there)?.interfaceName}`)
          const two = () => void told.push("two")
          assert.isUndefined(cache.peek(there, one))
          assert.isUndefined(cache.peek(there, one))
          assert.isUndefined(cache.peek(there, two))
          assert.isUndefined(cache.peek(there))
          const asker = yield* Effect.fork(cache.get(there))
          yield* eventually(Effect.map(cache.stats, (stats) => stats.sharedWaits), 4)
          assert.deepStrictEqual(told, [])
          yield* resolver.answer(0, "eth0")
          yield* Fiber.join(asker)
          assert.deepStrictEqual(told, ["one eth0", "two"])
          assert.strictEqual(yield* resolver.begun, 1)
        }),
        resolver.layer
      )
    }))

  it.effect("tells after a failure too, also when it is only remembered, but never before it returns", () =>
    Effect.gen(function*() {
      const resolver = makeRouteResolverDouble(noRoute)
      yield* provideCache(
        Effect.gen(function*() {
          const cache = yield* RouteCache
          let told = 0
          for (let round = 1; round <= 2; round++) {
            assert.isUndefined(cache.peek(there, () => void told++))
            assert.strictEqual(told, round - 1)
            yield* eventually(Effect.sync(() => told), round)
          }
          assert.strictEqual(resolver.asked.get(there), 1)
        }),
        resolver.layer
      )
    }))

  it.effect("tells when the new generation has an answer, if the network changed meanwhile", () =>
    Effect.gen(function*() {
      const resolver = makeStepwise()
      yield* provideCache(
        Effect.gen(function*() {
          const cache = yield* RouteCache
          const told: Array<string | undefined> = []
          cache.peek(there, () => void told.push(cache.peek(there)?.interfaceName))
          yield* cache.invalidateAll("network-change")
          assert.strictEqual(yield* resolver.begun, 2)
          yield* resolver.answer(0, "stale")
          yield* eventually(Effect.map(cache.stats, (stats) => stats.staleDiscarded), 1)
          assert.deepStrictEqual(told, [])
          yield* resolver.answer(1, "fresh")
          yield* eventually(Effect.sync(() => told.length), 1)
          assert.deepStrictEqual(told, ["fresh"])
        }),
        resolver.layer
      )
    }))
})

describe("bookkeeping", () => {
  it.effect("drops the least recently used", () =>
    Effect.gen(function*() {
      const resolver = makeRouteResolverDouble()
      const [a, b, c, d] = [ip("10.0.0.1"), ip("10.0.0.2"), ip("10.0.0.3"), ip("10.0.0.4")] as const
      yield* provideCache(
        Effect.gen(function*() {
          const cache = yield* RouteCache
          for (const to of [a, b, c]) yield* cache.get(to)
          cache.peek(a)
          yield* cache.get(d)
          assert.deepStrictEqual((yield* cache.entries).map((entry) => entry.destination), [d, a, c])
          assert.deepInclude(yield* cache.stats, { size: 3, evictions: 1 })
          yield* cache.get(b)
          assert.strictEqual(resolver.asked.get(b), 2)
        }),
        resolver.layer,
        { capacity: 3, rememberFailuresMillis: 250 }
      )
    }))

  it.effect("knows each entry's age and generation, and counts invalidations by cause", () =>
    Effect.gen(function*() {
      const resolver = makeRouteResolverDouble()
      yield* provideCache(
        Effect.gen(function*() {
          const cache = yield* RouteCache
          yield* cache.invalidateAll("reset")
          yield* cache.invalidateAll("network-change")
          yield* cache.get(there)
          yield* TestClock.adjust("3 seconds")
          yield* cache.get(ip("2001:db8::1"))
          const [younger, older] = yield* cache.entries
          assert.deepInclude(older, { destination: there, ageMillis: 3000, generation: 2 })
          assert.deepInclude(younger, { ageMillis: 0, generation: 2 })
          cache.evict(there, "send-failed")
          yield* cache.invalidate(there, "send-failed")
          assert.isUndefined((yield* cache.entries)[1])
          const stats = yield* cache.stats
          assert.deepStrictEqual(stats.invalidations, { "reset": 1, "network-change": 1, "send-failed": 2 })
          assert.strictEqual(stats.size, 1)
        }),
        resolver.layer
      )
    }))

  it.effect("feeds the metrics", () =>
    Effect.gen(function*() {
      const resolver = makeRouteResolverDouble()
      const value = (name: string, cause?: string) =>
        Effect.map(Metric.snapshot, (pairs) => {
          const found = pairs.find(({ metricKey }) =>
            metricKey.name === name && (cause === undefined || metricKey.tags.some((tag) => tag.value === cause))
          )
          return Number((found?.metricState as { count?: number } | undefined)?.count ?? 0)
        })
      yield* provideCache(
        Effect.gen(function*() {
          const cache = yield* RouteCache
          const names = ["firezone_route_cache_hits_total", "firezone_route_cache_misses_total"]
          const before = yield* Effect.forEach(names, (name) => value(name))
          cache.peek(there)
          cache.peek(there)
          yield* cache.get(there)
          yield* cache.invalidateAll("metrics-test")
          const after = yield* Effect.forEach(names, (name) => value(name))
          assert.deepStrictEqual(after.map((count, i) => count - (before[i] ?? 0)), [2, 1])
          assert.strictEqual(yield* value("firezone_route_cache_invalidations_total", "metrics-test"), 1)
        }),
        resolver.layer
      )
    }))

  it.effect("asks nobody twice: two users of the layer share one cache (host 18.23)", () =>
    Effect.gen(function*() {
      const resolver = makeRouteResolverDouble()
      yield* provideCache(
        Effect.gen(function*() {
          const [one, two] = [yield* RouteCache, yield* RouteCache]
          yield* one.get(there)
          assert.isTrue(Option.isSome(Option.fromNullable(two.peek(there))))
          assert.strictEqual(resolver.asked.get(there), 1)
        }),
        resolver.layer
      )
    }))
})
