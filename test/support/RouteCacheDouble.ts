/** A route cache whose answers the test sets; counts what it was asked. */
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import { familyOf, ip, type IpAddress } from "../../src/protocol/wire/address.ts"
import { type CachedRoute, RouteCache } from "../../src/services/RouteCache.ts"
import { NoRoute } from "../../src/services/RouteResolver.ts"

export interface RouteCacheDouble {
  /** The source for a destination; by default its loopback address. `undefined`: there is no route. */
  source: (destination: IpAddress) => IpAddress | undefined
  /** While true, `peek` knows nothing and keeps the callbacks for `settle`. */
  unknown: boolean
  /** Sets `unknown` at the next eviction, as a cache does that has to look the route up again. */
  unknownOnceEvicted: boolean
  /** Ends the lookups that `peek` began: their callbacks run. */
  readonly settle: () => void
  /** Every call, in order. */
  readonly asked: Array<{ readonly by: "get" | "peek"; readonly destination: IpAddress }>
  readonly evicted: Array<{ readonly destination: IpAddress; readonly cause: string }>
  /** The causes of every `invalidateAll`, in order. */
  readonly invalidated: Array<string>
  readonly layer: Layer.Layer<RouteCache>
}

const loopback4 = ip("127.0.0.1")
const loopback6 = ip("::1")

export const makeRouteCacheDouble = (): RouteCacheDouble => {
  const routes = new Map<string, CachedRoute>()
  const callbacks = new Set<() => void>()
  const routeTo = (destination: IpAddress): CachedRoute | undefined => {
    const source = double.source(destination)
    if (source === undefined) return undefined
    const key = `${destination} ${source}`
    let route = routes.get(key)
    if (route === undefined) {
      route = {
        destination,
        source,
        interfaceIndex: 1,
        interfaceName: "lo",
        prefixLength: 0,
        metric: 0,
        generation: 0
      }
      routes.set(key, route)
    }
    return route
  }
  const evict = (destination: IpAddress, cause: string): void => {
    double.evicted.push({ destination, cause })
    if (double.unknownOnceEvicted) double.unknown = true
  }
  const double: RouteCacheDouble = {
    source: (destination) => familyOf(destination) === 4 ? loopback4 : loopback6,
    unknown: false,
    unknownOnceEvicted: false,
    settle: () => {
      const waiting = [...callbacks]
      callbacks.clear()
      for (const callback of waiting) callback()
    },
    asked: [],
    evicted: [],
    invalidated: [],
    layer: Layer.sync(RouteCache, () =>
      RouteCache.of({
        get: (destination) =>
          Effect.suspend(() => {
            double.asked.push({ by: "get", destination })
            const route = routeTo(destination)
            return route === undefined
              ? new NoRoute({ destination, reason: "ENETUNREACH" })
              : Effect.succeed(route)
          }),
        peek: (destination, onReady) => {
          double.asked.push({ by: "peek", destination })
          const route = double.unknown ? undefined : routeTo(destination)
          if (route === undefined && onReady !== undefined) {
            if (double.unknown) callbacks.add(onReady)
            else setImmediate(onReady)
          }
          return route
        },
        evict,
        invalidate: (destination, cause) => Effect.sync(() => evict(destination, cause)),
        invalidateAll: (cause) =>
          Effect.sync(() => {
            double.invalidated.push(cause)
            routes.clear()
          }),
        stats: Effect.succeed({
          generation: 0,
          size: 0,
          hits: 0,
          misses: 0,
          sharedWaits: 0,
          staleDiscarded: 0,
          evictions: 0,
          invalidations: {}
        }),
        entries: Effect.succeed([])
      }))
  }
  return double
}
