import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
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
  const state = { egress: "eth", looked: 0, roams: 0 }
  const snapshot = Effect.sync(() => {
    state.looked += 1
    return state.egress
  })
  const fiber = yield* roamsOf(changes, snapshot).pipe(
    Stream.runForEach(() => Effect.sync(() => state.roams += 1)),
    Effect.forkScoped
  )
  yield* waitFor("the first look", () => state.looked === 1)
  return { state, fiber, network, change: Effect.zipRight(network.change({ _tag: "Route" }), settle) }
})

describe("roams", () => {
  it.scoped("tell of nothing while nothing moves", () =>
    Effect.gen(function*() {
      const { change, state } = yield* start
      yield* pass(60_000)
      assert.strictEqual(state.looked, 1) // nothing happened, nothing looked at
      yield* change
      yield* pass(10_000)
      assert.deepStrictEqual(state, { egress: "eth", looked: 2, roams: 0 })
    }))

  it.scoped("come when the egress is another one and 500 ms were quiet", () =>
    Effect.gen(function*() {
      const { change, state } = yield* start
      state.egress = "none"
      yield* change
      yield* pass(400)
      state.egress = "wifi"
      yield* change
      yield* pass(499)
      assert.strictEqual(state.roams, 0)
      yield* pass(1)
      assert.deepStrictEqual(state, { egress: "wifi", looked: 2, roams: 1 })
    }))

  it.scoped("do not come when all is as it was after the quiet", () =>
    Effect.gen(function*() {
      const { change, state } = yield* start
      state.egress = "none"
      yield* change
      yield* pass(100)
      state.egress = "eth"
      yield* change
      yield* pass(5000)
      assert.deepStrictEqual(state, { egress: "eth", looked: 2, roams: 0 })
    }))

  it.scoped("come after 5 s from a network that never gets quiet", () =>
    Effect.gen(function*() {
      const { change, state } = yield* start
      state.egress = "wifi"
      for (let millis = 0; millis < 5000; millis += 250) {
        yield* change
        yield* pass(250)
        assert.strictEqual(state.roams, 0)
      }
      yield* change
      assert.strictEqual(state.roams, 1)
    }))

  it.scoped("are at least 1 s apart, and the second sees where things ended", () =>
    Effect.gen(function*() {
      const { change, state } = yield* start
      state.egress = "wifi"
      yield* change
      yield* pass(500)
      assert.strictEqual(state.roams, 1)
      state.egress = "lte"
      yield* change
      yield* pass(999)
      assert.strictEqual(state.roams, 1)
      yield* pass(1)
      assert.strictEqual(state.roams, 2)
      yield* pass(10_000)
      assert.strictEqual(state.roams, 2)
    }))

  it.scoped("end as the changes end", () =>
    Effect.gen(function*() {
      const { fiber, network } = yield* start
      const failure = new NetworkMonitorFailed({ cause: new Error("gone") })
      yield* network.change(failure)
      assert.deepStrictEqual(yield* Fiber.await(fiber), Exit.fail(failure))
      const ended = Stream.runCollect(roamsOf(Stream.succeed({ _tag: "Subscribed" }), Effect.succeed("eth")))
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
