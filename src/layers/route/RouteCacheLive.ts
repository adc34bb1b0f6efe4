import * as Cause from "effect/Cause"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Layer from "effect/Layer"
import * as Metric from "effect/Metric"
import * as MetricBoundaries from "effect/MetricBoundaries"
import * as MutableRef from "effect/MutableRef"
import * as Runtime from "effect/Runtime"
import type { IpAddress, Route } from "../../model/Route.ts"
import { RouteCache } from "../../services/RouteCache.ts"
import type { CachedRoute, RouteCacheEntry, RouteCacheStats } from "../../services/RouteCache.ts"
import type { RouteError } from "../../services/RouteResolver.ts"
import { RouteQueryFailed, RouteResolver } from "../../services/RouteResolver.ts"

export interface RouteCacheOptions {
  /** Destinations held, and lookups under way, at most. */
  readonly capacity: number
  /** How long a failure answers for its destination, so that a host without IPv6 is not asked for every packet. */
  readonly rememberFailuresMillis: number
}

const metrics = {
  hits: Metric.counter("firezone_route_cache_hits_total", {
    description: "Answers from the route cache",
    incremental: true
  }),
  misses: Metric.counter("firezone_route_cache_misses_total", {
    description: "Route lookups begun",
    incremental: true
  }),
  sharedWaits: Metric.counter("firezone_route_cache_shared_waits_total", {
    description: "Callers that joined a route lookup under way",
    incremental: true
  }),
  staleDiscarded: Metric.counter("firezone_route_cache_stale_discarded_total", {
    description: "Route lookups that ended after their generation",
    incremental: true
  }),
  evictions: Metric.counter("firezone_route_cache_evictions_total", {
    description: "Routes dropped for want of room",
    incremental: true
  }),
  invalidations: Metric.counter("firezone_route_cache_invalidations_total", {
    description: "Invalidations of the route cache, by cause",
    incremental: true
  }),
  size: Metric.gauge("firezone_route_cache_entries", { description: "Routes held" }),
  lookupSeconds: Metric.histogram(
    "firezone_route_cache_lookup_seconds",
    MetricBoundaries.exponential({ start: 4e-6, factor: 2, count: 16 }),
    "Time of a route lookup"
  )
}
const noTags: ReadonlyArray<never> = [] // one for all: the data plane updates without allocating

/** One destination in one generation: being looked up while `exit` is undefined. */
class Slot {
  readonly destination: IpAddress
  readonly generation: number
  newer: Slot | undefined
  older: Slot | undefined
  route: CachedRoute | undefined
  exit: Exit.Exit<CachedRoute, RouteError> | undefined
  /** Monotonic milliseconds. */
  endedAt = 0
  /** Invalidated: its answer goes to nobody. */
  abandoned = false
  readonly fibers = new Set<() => void>()
  readonly callbacks = new Set<() => void>()

  constructor(destination: IpAddress, generation: number) {
    this.destination = destination
    this.generation = generation
  }
}

/** The slots of one generation, the most recently used first. Replaced as a whole: old lookups cannot write to new slots. */
class Generation {
  readonly number: number
  readonly slots = new Map<IpAddress, Slot>()
  routes = 0
  newest: Slot | undefined
  oldest: Slot | undefined

  constructor(number: number) {
    this.number = number
  }

  add(slot: Slot): void {
    this.slots.set(slot.destination, slot)
    this.#link(slot)
  }

  remove(slot: Slot): void {
    if (this.slots.get(slot.destination) !== slot) return
    this.slots.delete(slot.destination)
    if (slot.route !== undefined) this.routes -= 1
    this.#unlink(slot)
  }

  touch(slot: Slot): void {
    if (this.newest === slot) return
    this.#unlink(slot)
    this.#link(slot)
  }

  /** The least recently used slot that is not being looked up. */
  evictable(): Slot | undefined {
    let slot = this.oldest
    while (slot !== undefined && slot.exit === undefined) slot = slot.newer
    return slot
  }

  #link(slot: Slot): void {
    slot.older = this.newest
    slot.newer = undefined
    if (this.newest === undefined) this.oldest = slot
    else this.newest.newer = slot
    this.newest = slot
  }

  #unlink(slot: Slot): void {
    if (slot.newer === undefined) this.newest = slot.older
    else slot.newer.older = slot.older
    if (slot.older === undefined) this.oldest = slot.newer
    else slot.older.newer = slot.newer
  }
}

const make = (options: RouteCacheOptions) =>
  Effect.gen(function*() {
    const resolver = yield* RouteResolver
    const clock = yield* Effect.clock
    const scope = yield* Effect.scope
    const runFork = Runtime.runFork(yield* Effect.runtime<never>())
    const nowMicros = (): number => Number(clock.unsafeCurrentTimeNanos() / 1000n)

    // A Ref that plain code can read: the data plane must not run an Effect for a hit.
    const current = MutableRef.make(new Generation(0))
    const counts = { hits: 0, misses: 0, sharedWaits: 0, staleDiscarded: 0, evictions: 0 }
    const invalidations = new Map<string, number>()
    let underWay = 0

    const count = (name: keyof typeof counts): void => {
      counts[name] += 1
      metrics[name].unsafeUpdate(1, noTags)
    }
    const countInvalidation = (cause: string): void => {
      invalidations.set(cause, (invalidations.get(cause) ?? 0) + 1)
      Metric.tagged(metrics.invalidations, "cause", cause).unsafeUpdate(1, noTags)
    }
    // Whoever watches them is to see zeros, not nothing.
    for (const name of Object.keys(counts) as ReadonlyArray<keyof typeof counts>) metrics[name].unsafeValue(noTags)
    metrics.size.unsafeValue(noTags)
    metrics.lookupSeconds.unsafeValue(noTags)
    const reportSize = (): void => metrics.size.unsafeUpdate(current.current.routes, noTags)

    // In a turn of its own: the caller of `peek` has not queued its datagram yet, and one that asks again each time it
    // is told "no" must not keep the event loop from running.
    const callLater = (callback: () => void): void => {
      setImmediate(callback)
    }
    const call = (callback: () => void): void => {
      try {
        callback()
      } catch (error) {
        callLater(() => {
          throw error // a bug of the caller's: not this fiber's, and not to be swallowed
        })
      }
    }

    /** Everybody who waits: fibers look again, callbacks are moved to the lookup that replaces this one. */
    const abandon = (slot: Slot): void => {
      slot.abandoned = true
      if (slot.exit !== undefined) return
      wake(slot.fibers)
      if (slot.callbacks.size === 0) return
      const successor = find(slot.destination)
      for (const callback of slot.callbacks) {
        if (successor === undefined || successor.exit !== undefined) callLater(callback)
        else successor.callbacks.add(callback)
      }
      slot.callbacks.clear()
    }
    const wake = (waiting: Set<() => void>): void => {
      const woken = [...waiting]
      waiting.clear()
      for (const callback of woken) call(callback)
    }

    const settle = (slot: Slot, exit: Exit.Exit<Route, RouteError>, began: number): void => {
      const now = nowMicros()
      underWay -= 1
      metrics.lookupSeconds.unsafeUpdate((now - began) / 1e6, noTags)
      if (slot.abandoned) return count("staleDiscarded")
      slot.endedAt = now / 1000
      if (Exit.isSuccess(exit)) {
        slot.route = { ...exit.value, generation: slot.generation }
        slot.exit = Exit.succeed(slot.route)
        current.current.routes += 1 // not abandoned, so it is of this generation
        reportSize()
      } else {
        slot.exit = Exit.failCause(exit.cause)
        // Else a bug in the resolver, or the end of this layer: nothing to remember.
        if (!Cause.isFailure(exit.cause)) current.current.remove(slot)
        if (Cause.isDie(exit.cause)) {
          runFork(
            Effect.logError("route lookup crashed", exit.cause).pipe(
              Effect.annotateLogs("service", "RouteCache")
            )
          )
        }
      }
      wake(slot.fibers)
      wake(slot.callbacks)
    }

    /** Begins a lookup that belongs to the layer: interrupting the caller that came first must not fail the others. */
    const start = (destination: IpAddress): Slot | undefined => {
      if (underWay >= options.capacity) return undefined
      count("misses")
      underWay += 1
      const generation = current.current
      const slot = new Slot(destination, generation.number)
      if (generation.slots.size >= options.capacity) {
        const evicted = generation.evictable()
        if (evicted !== undefined) {
          generation.remove(evicted)
          count("evictions")
        }
      }
      generation.add(slot)
      const began = nowMicros()
      // A resolver that answers at once has answered when `runFork` returns.
      runFork(resolver.resolve(destination), { scope }).addObserver((exit) => settle(slot, exit, began))
      return slot
    }

    /** The slot that answers for `destination` now or will; a failure that is too old is looked up again. */
    const find = (destination: IpAddress): Slot | undefined => {
      const generation = current.current
      const slot = generation.slots.get(destination)
      if (slot === undefined) return start(destination)
      generation.touch(slot)
      if (slot.exit === undefined) {
        count("sharedWaits")
        return slot
      }
      if (slot.route === undefined && nowMicros() / 1000 - slot.endedAt >= options.rememberFailuresMillis) {
        generation.remove(slot)
        return start(destination)
      }
      count("hits")
      return slot
    }

    const peek = (destination: IpAddress, onReady?: () => void): CachedRoute | undefined => {
      const generation = current.current
      const slot = generation.slots.get(destination)
      if (slot === undefined || slot.route === undefined) return peekMiss(destination, onReady)
      counts.hits += 1
      metrics.hits.unsafeUpdate(1, noTags)
      if (generation.newest !== slot) generation.touch(slot)
      return slot.route
    }
    const peekMiss = (destination: IpAddress, onReady: (() => void) | undefined): CachedRoute | undefined => {
      const slot = find(destination)
      if (slot?.route !== undefined) return slot.route
      if (onReady !== undefined) {
        if (slot === undefined || slot.exit !== undefined || slot.callbacks.size >= options.capacity) callLater(onReady)
        else slot.callbacks.add(onReady)
      }
      return undefined
    }

    const awaitExit = (slot: Slot): Effect.Effect<void> =>
      Effect.async<void>((resume) => {
        const woken = () => resume(Effect.void)
        if (slot.exit !== undefined || slot.abandoned) return woken()
        slot.fibers.add(woken)
        return Effect.sync(() => {
          slot.fibers.delete(woken)
        })
      })

    const get = (destination: IpAddress): Effect.Effect<CachedRoute, RouteError> =>
      Effect.suspend(() => {
        const slot = find(destination)
        if (slot === undefined) {
          return new RouteQueryFailed({ destination, cause: new Error("too many route lookups under way") })
        }
        if (slot.exit !== undefined) return slot.exit
        return Effect.flatMap(awaitExit(slot), () =>
          // The network may have changed between the answer and this turn.
          slot.exit === undefined || slot.abandoned || slot.generation !== current.current.number
            ? get(destination)
            : slot.exit)
      })

    const evict = (destination: IpAddress, cause: string): void => {
      countInvalidation(cause)
      const slot = current.current.slots.get(destination)
      if (slot === undefined) return
      current.current.remove(slot)
      reportSize()
      abandon(slot)
    }

    const invalidateAll = (cause: string): Effect.Effect<void> =>
      Effect.sync(() => {
        const ended = current.current
        MutableRef.set(current, new Generation(ended.number + 1))
        countInvalidation(cause)
        reportSize()
        for (const slot of ended.slots.values()) abandon(slot)
      })

    return RouteCache.of({
      get,
      peek,
      invalidateAll,
      invalidate: (destination, cause) => Effect.sync(() => evict(destination, cause)),
      evict,
      stats: Effect.sync((): RouteCacheStats => ({
        generation: current.current.number,
        size: current.current.routes,
        ...counts,
        invalidations: Object.fromEntries(invalidations)
      })),
      entries: Effect.sync(() => {
        const now = nowMicros() / 1000
        const entries: Array<RouteCacheEntry> = []
        for (let slot = current.current.newest; slot !== undefined; slot = slot.older) {
          if (slot.route !== undefined) entries.push({ ...slot.route, ageMillis: now - slot.endedAt })
        }
        return entries
      })
    })
  })

export const layerWith = (options: RouteCacheOptions) => Layer.scoped(RouteCache, make(options))
export const layer: Layer.Layer<RouteCache, never, RouteResolver> = layerWith({
  capacity: 4096,
  rememberFailuresMillis: 250
})
