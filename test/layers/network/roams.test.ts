import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Queue from "effect/Queue"
import * as Stream from "effect/Stream"
import * as TestClock from "effect/TestClock"
import { egressSnapshot, roamsOf } from "../../../src/layers/network/roams.ts"
import { ip } from "../../../src/protocol/wire/address.ts"
import { NetworkChanges, NetworkMonitorFailed } from "../../../src/services/NetworkChanges.ts"
import { RouteResolver } from "../../../src/services/RouteResolver.ts"
import { makeNetworkChangesDouble } from "../../support/NetworkChangesDouble.ts"
import { makeRouteResolverDouble, noRoute, routeVia } from "../../support/RouteResolverDouble.ts"
import { waitFor } from "../../support/waitFor.ts"

/** All fibers get their turns; nothing here waits for anything but them and the clock. */
const settle = Effect.promise(async () => {
  for (let i = 0; i < 5; i++) await new Promise<void>((resolve) => void setImmediate(resolve))
})
const pass = (millis: number) => Effect.zipRight(TestClock.adjust(millis), settle)

const start = Effect.gen(function*() {
  const network = yield* makeNetworkChangesDouble
  const { changes } = yield* Effect.provide(NetworkChanges, network.layer)
  const state = { egress: "eth", looked: 0, roams: new Array<string>() }
  const snapshot = Effect.sync(() => {
    state.looked += 1
    return state.egress
  })
  const sleeps = yield* Queue.unbounded<void>()
  const hints = yield* Queue.unbounded<void>()
  const sources = { changes, sleeps: Stream.fromQueue(sleeps), hints: Stream.fromQueue(hints), snapshot }
  const fiber = yield* roamsOf(sources).pipe(
    Stream.runForEach((roam) =>
      Effect.sync(() => state.roams.push(roam._tag === "Moved" ? `Moved: ${roam.reason}` : roam._tag))
    ),
    Effect.forkScoped
  )
  yield* waitFor("the first look", () => state.looked === 1)
  return {
    state,
    fiber,
    network,
    change: Effect.zipRight(network.change({ _tag: "Route" }), settle),
    hint: Effect.zipRight(Queue.offer(hints, undefined), settle),
    sleep: Effect.zipRight(Queue.offer(sleeps, undefined), settle)
  }
})

const MOVED = "Moved: the network changed"
const SLEPT = "Moved: the system slept"

describe("roams", () => {
  it.scoped("tell of nothing while nothing moves", () =>
    Effect.gen(function*() {
      const { change, state } = yield* start
      yield* pass(60_000)
      assert.strictEqual(state.looked, 1) // nothing happened, nothing looked at
      yield* change
      yield* pass(10_000)
      assert.deepStrictEqual(state, { egress: "eth", looked: 2, roams: [] })
    }))

  it.scoped("begin at once when the egress is another one, and end when 500 ms were quiet", () =>
    Effect.gen(function*() {
      const { change, state } = yield* start
      state.egress = "none"
      yield* change
      assert.deepStrictEqual(state.roams, ["Moving"])
      yield* pass(400)
      state.egress = "wifi"
      yield* change
      yield* pass(499)
      assert.deepStrictEqual(state.roams, ["Moving"])
      yield* pass(1)
      assert.deepStrictEqual(state, { egress: "wifi", looked: 3, roams: ["Moving", MOVED] })
    }))

  it.scoped("begin with the change that moves the egress, not with those before it", () =>
    Effect.gen(function*() {
      const { change, state } = yield* start
      yield* change
      yield* pass(100)
      assert.deepStrictEqual(state.roams, [])
      state.egress = "wifi"
      yield* change
      assert.deepStrictEqual(state.roams, ["Moving"])
      yield* pass(500)
      assert.deepStrictEqual(state.roams, ["Moving", MOVED])
    }))

  it.scoped("say so when all is as it was after the quiet", () =>
    Effect.gen(function*() {
      const { change, state } = yield* start
      state.egress = "none"
      yield* change
      yield* pass(100)
      state.egress = "eth"
      yield* change
      yield* pass(5000)
      assert.deepStrictEqual(state, { egress: "eth", looked: 3, roams: ["Moving", "Stayed"] })
    }))

  it.scoped("end after 5 s in a network that never gets quiet", () =>
    Effect.gen(function*() {
      const { change, state } = yield* start
      state.egress = "wifi"
      for (let millis = 0; millis < 5000; millis += 250) {
        yield* change
        yield* pass(250)
        assert.deepStrictEqual(state.roams, ["Moving"])
      }
      yield* change
      assert.deepStrictEqual(state.roams, ["Moving", MOVED])
    }))

  it.scoped("end at least 1 s apart, and the second sees where things ended", () =>
    Effect.gen(function*() {
      const { change, state } = yield* start
      state.egress = "wifi"
      yield* change
      yield* pass(500)
      assert.deepStrictEqual(state.roams, ["Moving", MOVED])
      state.egress = "lte"
      yield* change
      yield* pass(999)
      assert.deepStrictEqual(state.roams, ["Moving", MOVED, "Moving"])
      yield* pass(1)
      assert.deepStrictEqual(state.roams, ["Moving", MOVED, "Moving", MOVED])
      yield* pass(10_000)
      assert.lengthOf(state.roams, 4)
    }))

  it.scoped("come of a sleep too, once with the changes that follow it", () =>
    Effect.gen(function*() {
      const { change, sleep, state } = yield* start
      yield* sleep
      assert.deepStrictEqual(state.roams, ["Moving"])
      yield* pass(300)
      state.egress = "wifi"
      yield* change
      yield* pass(500)
      assert.deepStrictEqual(state.roams, ["Moving", SLEPT])
      yield* pass(10_000)
      // The network is the old one this time.
      yield* sleep
      yield* pass(500)
      assert.deepStrictEqual(state.roams, ["Moving", SLEPT, "Moving", SLEPT])
      yield* change
      yield* pass(10_000)
      assert.lengthOf(state.roams, 4)
    }))

  it.scoped("come of a hint if the egress moved, and then once with the changes around it", () =>
    Effect.gen(function*() {
      const { change, hint, state } = yield* start
      yield* hint
      yield* pass(10_000)
      assert.deepStrictEqual(state, { egress: "eth", looked: 2, roams: [] })
      state.egress = "wifi"
      yield* hint
      assert.deepStrictEqual(state.roams, ["Moving"])
      yield* pass(100)
      yield* change
      yield* pass(100)
      yield* hint
      yield* pass(499)
      assert.deepStrictEqual(state.roams, ["Moving"])
      yield* pass(1)
      assert.deepStrictEqual(state.roams, ["Moving", MOVED])
      yield* hint
      yield* pass(10_000)
      assert.lengthOf(state.roams, 2)
    }))

  it.scoped("end as the changes end", () =>
    Effect.gen(function*() {
      const { fiber, network } = yield* start
      const failure = new NetworkMonitorFailed({ cause: new Error("gone") })
      yield* network.change(failure)
      assert.deepStrictEqual(yield* Fiber.await(fiber), Exit.fail(failure))
      const ended = Stream.runCollect(
        roamsOf({
          changes: Stream.succeed({ _tag: "Subscribed" }),
          sleeps: Stream.never,
          hints: Stream.never,
          snapshot: Effect.succeed("eth")
        })
      )
      assert.lengthOf(yield* ended, 0)
    }))
})

describe("egress snapshot", () => {
  const resolver = makeRouteResolverDouble()
  const snapshot = Effect.flatMap(RouteResolver, egressSnapshot).pipe(Effect.provide(resolver.layer))

  it.effect("differs when source, interface or next hop of either family do, and for nothing else", () =>
    Effect.gen(function*() {
      const before = yield* snapshot
      assert.strictEqual(yield* snapshot, before)
      assert.isAtLeast(new Set([...resolver.asked.keys()].map((probe) => probe.includes(":"))).size, 2)
      resolver.answer = (to) => Effect.succeed(routeVia("eth0", to, { metric: 5, table: 7, prefixLength: 8 }))
      assert.strictEqual(yield* snapshot, before)
      const others = [
        { source: ip("198.51.100.9") },
        { interfaceIndex: 3 },
        { nextHop: undefined }
      ]
      const seen = new Set([before])
      for (const fields of others) {
        resolver.answer = (to) => Effect.succeed(routeVia("eth0", to, fields))
        seen.add(yield* snapshot)
      }
      resolver.answer = (to) => to.includes(":") ? noRoute(to) : Effect.succeed(routeVia("eth0", to))
      seen.add(yield* snapshot)
      resolver.answer = noRoute
      seen.add(yield* snapshot)
      assert.strictEqual(seen.size, 6)
    }))
})
