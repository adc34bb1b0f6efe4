import * as Context from "effect/Context"
import type * as Effect from "effect/Effect"
import type { IpAddress, Route } from "../model/Route.ts"
import type { RouteError } from "./RouteResolver.ts"

/** A cached route; `ageMillis` counts from when its lookup ended. */
export interface CachedRoute extends Route {
  readonly generation: number
}

export interface RouteCacheStats {
  /** How many `invalidateAll`s there were. */
  readonly generation: number
  readonly size: number
  readonly hits: number
  readonly misses: number
  /** Callers that joined a lookup already under way. */
  readonly sharedWaits: number
  /** Lookups that ended in a generation that was over, and were discarded. */
  readonly staleDiscarded: number
  readonly evictions: number
  readonly invalidations: { readonly [cause: string]: number }
}

export interface RouteCacheEntry extends CachedRoute {
  readonly ageMillis: number
}

/**
 * "Which local address reaches this destination outside the tunnel", shared by every socket and valid until the next
 * network change (design section 5, host spec section 11). At most 4096 entries, least recently used out.
 */
export class RouteCache extends Context.Tag("firezone-headless-client/services/RouteCache")<RouteCache, {
  /**
   * The route to `destination`, looked up at most once per generation however many fibers ask. Never returns a route
   * whose lookup began before the latest `invalidateAll`. Failures are remembered for 250 ms.
   */
  readonly get: (destination: IpAddress) => Effect.Effect<CachedRoute, RouteError>
  /**
   * For the data plane: the cached route or `undefined`, synchronously and without allocation on a hit. A miss starts
   * the lookup (once); `onReady`, if given, runs once that lookup has ended, well or not. Never throws.
   */
  readonly peek: (destination: IpAddress, onReady?: () => void) => CachedRoute | undefined
  /** Empties the cache. `cause` labels the count, such as `network-change`, `reset`, `overrun`. */
  readonly invalidateAll: (cause: string) => Effect.Effect<void>
  /** Drops one entry: for a send that failed because its source address is gone. */
  readonly invalidate: (destination: IpAddress, cause: string) => Effect.Effect<void>
  /** Synchronous `invalidate`, for the data plane. */
  readonly evict: (destination: IpAddress, cause: string) => void
  readonly stats: Effect.Effect<RouteCacheStats>
  readonly entries: Effect.Effect<ReadonlyArray<RouteCacheEntry>>
}>() {}
