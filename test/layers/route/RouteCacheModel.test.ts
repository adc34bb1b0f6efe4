/** The cache against its contract, with invalidations racing lookups in every order, in virtual time. */
import * as Cause from "effect/Cause"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import type * as Fiber from "effect/Fiber"
import * as Layer from "effect/Layer"
import * as ManagedRuntime from "effect/ManagedRuntime"
import * as TestClock from "effect/TestClock"
import * as TestContext from "effect/TestContext"
import * as FastCheck from "fast-check"
import { assert, describe, it } from "vitest"
import * as RouteCacheLive from "../../../src/layers/route/RouteCacheLive.ts"
import type { IpAddress, Route } from "../../../src/model/Route.ts"
import { ip } from "../../../src/protocol/wire/address.ts"
import type { CachedRoute } from "../../../src/services/RouteCache.ts"
import { RouteCache } from "../../../src/services/RouteCache.ts"
import type { RouteError } from "../../../src/services/RouteResolver.ts"
import { NoRoute } from "../../../src/services/RouteResolver.ts"
import { makeRouteResolverDouble, routeVia } from "../../support/RouteResolverDouble.ts"

const CAPACITY = 3
const REMEMBER_MILLIS = 250
const destinations = ["192.0.2.1", "192.0.2.2", "2001:db8::1", "2001:db8::2"].map(ip)

const settled = async () => {
  for (let i = 0; i < 3; i++) await new Promise<void>((resolve) => void setImmediate(resolve))
}

interface Lookup {
  readonly destination: IpAddress
  readonly answer: Deferred.Deferred<Route, RouteError>
  /** The invalidations of its destination, and of everything, before it began. */
  readonly began: number
  readonly generation: number
  endedAt: number | undefined
}

/** The cache under test, and what the contract says about it, kept without the cache. */
class World {
  readonly lookups: Array<Lookup> = []
  readonly callers: Array<
    { fiber: Fiber.RuntimeFiber<CachedRoute, RouteError>; ended: boolean; interrupted: boolean }
  > = []
  readonly told: Array<number> = []
  readonly violations: Array<string> = []
  readonly invalidated = new Map<IpAddress, number>()
  generation = 0
  now = 0
  stale = 0
  perhapsStale = 0
  readonly #runtime: ManagedRuntime.ManagedRuntime<RouteCache, never>

  constructor() {
    const resolver = makeRouteResolverDouble((destination) =>
      Effect.flatMap(Deferred.make<Route, RouteError>(), (answer) => {
        if (this.underWay().some((other) => other.destination === destination && this.#isCurrent(other))) {
          this.violations.push(`two lookups of ${destination} at a time`)
        }
        const began = this.invalidated.get(destination) ?? 0
        this.lookups.push({ destination, answer, began, generation: this.generation, endedAt: undefined })
        return Deferred.await(answer)
      })
    )
    const layer = RouteCacheLive.layerWith({ capacity: CAPACITY, rememberFailuresMillis: REMEMBER_MILLIS })
    this.#runtime = ManagedRuntime.make(
      Layer.provideMerge(Layer.provide(layer, resolver.layer), TestContext.TestContext) as Layer.Layer<RouteCache>
    )
  }

  underWay(): ReadonlyArray<Lookup> {
    return this.lookups.filter(({ endedAt }) => endedAt === undefined)
  }

  run<A>(use: (cache: typeof RouteCache.Service) => Effect.Effect<A>): Promise<A> {
    return this.#runtime.runPromise(Effect.flatMap(RouteCache, use))
  }

  async get(destination: IpAddress): Promise<void> {
    const fiber = this.#runtime.runFork(Effect.flatMap(RouteCache, (cache) => cache.get(destination)))
    const caller = { fiber, ended: false, interrupted: false }
    this.callers.push(caller)
    fiber.addObserver((exit) => {
      caller.ended = true
      if (!caller.interrupted) this.#check(destination, exit)
    })
    await settled()
  }

  async peek(destination: IpAddress): Promise<void> {
    await this.run((cache) =>
      Effect.map(cache.entries, (entries) => {
        const entry = entries.find((other) => other.destination === destination)
        const index = this.told.push(0) - 1
        const route = cache.peek(destination, () => {
          this.told[index] = (this.told[index] ?? 0) + 1
        })
        if (route !== undefined) {
          this.told[index] = 1
          this.#check(destination, Exit.succeed(route))
        } else if (entry !== undefined) {
          this.violations.push(`peek missed ${destination}, which is there`)
        }
      })
    )
    await settled()
  }

  /** Ends one of the lookups under way. */
  async end(choice: number, well: boolean): Promise<void> {
    const underWay = this.underWay()
    const lookup = underWay[choice % underWay.length]
    if (lookup === undefined) return
    lookup.endedAt = this.now
    if (!this.#isCurrent(lookup)) this.stale += 1
    const { answer, destination } = lookup
    const id = this.lookups.indexOf(lookup)
    await this.#runtime.runPromise(
      well
        ? Deferred.succeed(answer, routeVia("eth0", destination, { metric: id }))
        : Deferred.fail(answer, new NoRoute({ destination, reason: String(id) }))
    )
    await settled()
  }

  /** Ends a lookup and, so many microtasks later, invalidates: the answer is on its way to those who wait. */
  async race(choice: number, microtasks: number, all: boolean): Promise<void> {
    const underWay = this.underWay()
    const lookup = underWay[choice % underWay.length]
    const cache = await this.run(Effect.succeed)
    if (lookup !== undefined) {
      lookup.endedAt = this.now
      if (this.#isCurrent(lookup)) this.perhapsStale += 1
      else this.stale += 1
      const route = routeVia("eth0", lookup.destination, { metric: this.lookups.indexOf(lookup) })
      Deferred.unsafeDone(lookup.answer, Effect.succeed(route))
    }
    for (let i = 0; i < microtasks; i++) await Promise.resolve()
    if (all) {
      this.generation += 1
      for (const destination of destinations) this.#invalidated(destination)
      Effect.runSync(cache.invalidateAll("network-change"))
    } else if (lookup !== undefined) {
      this.#invalidated(lookup.destination)
      cache.evict(lookup.destination, "send-failed")
    }
    await settled()
  }

  async interrupt(choice: number): Promise<void> {
    const waiting = this.callers.filter(({ ended }) => !ended)
    const caller = waiting[choice % waiting.length]
    if (caller === undefined) return
    caller.interrupted = true
    caller.fiber.unsafeInterruptAsFork(caller.fiber.id())
    await settled()
  }

  async invalidateAll(): Promise<void> {
    this.generation += 1
    for (const destination of destinations) this.#invalidated(destination)
    await this.run((cache) => cache.invalidateAll("network-change"))
    await settled()
  }

  async evict(destination: IpAddress): Promise<void> {
    this.#invalidated(destination)
    await this.run((cache) => Effect.sync(() => cache.evict(destination, "send-failed")))
    await settled()
  }

  async pass(millis: number): Promise<void> {
    this.now += millis
    await this.#runtime.runPromise(TestClock.adjust(millis))
  }

  async assertSound(): Promise<void> {
    assert.deepStrictEqual(this.violations, [])
    const [stats, entries] = await this.run((cache) => Effect.all([cache.stats, cache.entries]))
    assert.strictEqual(stats.size, entries.length)
    assert.isAtMost(stats.size, CAPACITY)
    assert.strictEqual(stats.generation, this.generation)
    assert.strictEqual(stats.misses, this.lookups.length)
    assert.isTrue(entries.every((entry) => entry.generation === this.generation))
    assert.isAtLeast(stats.staleDiscarded, this.stale)
    assert.isAtMost(stats.staleDiscarded, this.stale + this.perhapsStale)
  }

  async finish(): Promise<void> {
    while (this.underWay().length > 0) await this.end(0, true)
    await this.assertSound()
    assert.isTrue(this.callers.every(({ ended }) => ended), "a caller waits for ever")
    assert.deepStrictEqual(this.told.filter((times) => times !== 1), [], "not told exactly once")
    await this.#runtime.dispose()
  }

  #invalidated(destination: IpAddress): void {
    this.invalidated.set(destination, (this.invalidated.get(destination) ?? 0) + 1)
  }

  #isCurrent(lookup: Lookup): boolean {
    return lookup.began === (this.invalidated.get(lookup.destination) ?? 0)
  }

  #check(destination: IpAddress, exit: Exit.Exit<CachedRoute, RouteError>): void {
    if (Exit.isSuccess(exit)) {
      const lookup = this.lookups[exit.value.metric]
      if (lookup?.destination !== destination) this.violations.push(`an answer for another destination`)
      else if (!this.#isCurrent(lookup)) this.violations.push(`a stale answer for ${destination}`)
      else if (lookup.generation !== exit.value.generation) this.violations.push("an answer of another generation")
      return
    }
    const error = Cause.squash(exit.cause) as RouteError
    if (error._tag === "RouteQueryFailed") {
      if (this.underWay().length < CAPACITY) this.violations.push("refused although there was room")
      return
    }
    const lookup = this.lookups[Number(error.reason)]
    if (lookup === undefined || !this.#isCurrent(lookup)) this.violations.push(`a stale failure of ${destination}`)
    else if (this.now - (lookup.endedAt ?? 0) >= REMEMBER_MILLIS) this.violations.push("a failure remembered too long")
  }
}

class Step implements FastCheck.AsyncCommand<object, World> {
  readonly #name: string
  readonly #run: (world: World) => Promise<void>
  constructor(name: string, run: (world: World) => Promise<void>) {
    this.#name = name
    this.#run = run
  }
  check(): boolean {
    return true
  }
  async run(_: object, world: World): Promise<void> {
    await this.#run(world)
    await world.assertSound()
  }
  toString(): string {
    return this.#name
  }
}

const destination = FastCheck.constantFrom(...destinations)
const choice = FastCheck.nat(10)
const steps = [
  destination.map((to) => new Step(`get ${to}`, (world) => world.get(to))),
  destination.map((to) => new Step(`peek ${to}`, (world) => world.peek(to))),
  choice.map((n) => new Step(`end well ${n}`, (world) => world.end(n, true))),
  choice.map((n) => new Step(`end badly ${n}`, (world) => world.end(n, false))),
  FastCheck.tuple(choice, FastCheck.nat(6), FastCheck.boolean()).map(([n, microtasks, all]) =>
    new Step(
      `end ${n}, invalidate${all ? " all" : ""} ${microtasks} microtasks later`,
      (world) => world.race(n, microtasks, all)
    )
  ),
  choice.map((n) => new Step(`interrupt ${n}`, (world) => world.interrupt(n))),
  FastCheck.constant(new Step("invalidate all", (world) => world.invalidateAll())),
  destination.map((to) => new Step(`evict ${to}`, (world) => world.evict(to))),
  FastCheck.constantFrom(1, 100, 250).map((millis) => new Step(`pass ${millis} ms`, (world) => world.pass(millis)))
]

describe("RouteCache", () => {
  it("keeps its contract whatever the order of lookups, invalidations and interruptions", async () => {
    await FastCheck.assert(
      FastCheck.asyncProperty(FastCheck.commands(steps, { size: "large", maxCommands: 60 }), async (commands) => {
        const world = new World()
        await FastCheck.asyncModelRun(() => ({ model: {}, real: world }), commands)
        await world.finish()
      }),
      { numRuns: 150 }
    )
  }, 60_000)
})
