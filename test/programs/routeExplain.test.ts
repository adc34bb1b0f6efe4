import { assert, it } from "@effect/vitest"
import * as Console from "effect/Console"
import * as Effect from "effect/Effect"
import * as Either from "effect/Either"
import * as Layer from "effect/Layer"
import * as TestClock from "effect/TestClock"
import * as RouteCacheLive from "../../src/layers/route/RouteCacheLive.ts"
import { TABLES } from "../../src/model/policyRouting.ts"
import type { RouteCandidate, RouteExplanation } from "../../src/model/Route.ts"
import { routeExplain } from "../../src/programs/routeExplain.ts"
import { ip } from "../../src/protocol/wire/address.ts"
import { RouteCache } from "../../src/services/RouteCache.ts"
import { NoRoute, RouteQueryFailed, RouteResolver } from "../../src/services/RouteResolver.ts"
import { noRoute, routeVia } from "../support/RouteResolverDouble.ts"

const destination = ip("203.0.113.9")
const chosen = routeVia("eth0", destination, { table: 254 })
const losers: ReadonlyArray<RouteCandidate> = [
  {
    interfaceName: "wlan0",
    interfaceIndex: 3,
    source: ip("198.18.0.2"),
    prefixLength: 0,
    metric: 600,
    table: TABLES.internet.table,
    rejected: "its metric 600 is higher than the chosen 100"
  },
  { interfaceName: "tun-firezone", interfaceIndex: 4, rejected: "it is our own tunnel" }
]
const explanation: RouteExplanation = { destination, chosen, candidates: [chosen, ...losers] }
const nothing: RouteExplanation = { destination, chosen: undefined, reason: "ENETUNREACH", candidates: losers }

const layer = (resolver: RouteResolver["Type"]) =>
  Layer.provideMerge(RouteCacheLive.layer, Layer.succeed(RouteResolver, resolver))
const found: RouteResolver["Type"] = {
  resolve: () => Effect.succeed(chosen),
  explain: () => Effect.succeed(explanation)
}
const lost: RouteResolver["Type"] = { resolve: noRoute, explain: () => Effect.succeed(nothing) }

/** What the effect printed, and how it ended. */
const printed = <A, E, R>(effect: Effect.Effect<A, E, R>) =>
  Effect.gen(function*() {
    const output: Array<string> = []
    const console = yield* Console.consoleWith(Effect.succeed)
    const ended = yield* Effect.either(
      Effect.withConsole(effect, { ...console, log: (...args) => Effect.sync(() => void output.push(args.join(" "))) })
    )
    return { ended, text: output.join("\n") }
  })

it.effect("says the decision, every loser and why, and what the cache holds", () =>
  Effect.gen(function*() {
    const cache = yield* RouteCache
    yield* cache.invalidateAll("test")
    yield* cache.get(ip("192.0.2.1"))
    yield* cache.get(destination)
    yield* TestClock.adjust("90 seconds")
    const { ended, text } = yield* printed(routeExplain(destination, false))
    assert.deepStrictEqual(ended, Either.void)
    assert.strictEqual(
      text,
      `203.0.113.9 leaves through eth0 from 192.0.2.2, by way of 192.0.2.1

  eth0          CHOSEN: from 192.0.2.2, next hop 192.0.2.1, prefix /0, metric 100, table main
  wlan0         lost: its metric 600 is higher than the chosen 100
                its route: from 198.18.0.2, prefix /0, metric 600, table ${TABLES.internet.table} (our own)
  tun-firezone  lost: it is our own tunnel

route cache: generation 1, 2 routes, this one looked up 90 s ago: eth0 from 192.0.2.2`
    )
  }).pipe(Effect.provide(layer(found))))

it.effect("says so when the destination is on the link", () =>
  Effect.gen(function*() {
    const direct = routeVia("eth0", destination, { nextHop: undefined })
    const { text } = yield* printed(routeExplain(destination, false)).pipe(Effect.provide(layer({
      resolve: () => Effect.succeed(direct),
      explain: () => Effect.succeed({ destination, chosen: direct, candidates: [direct] })
    })))
    assert.include(text, "leaves through eth0 from 192.0.2.2, directly\n")
    assert.include(text, "CHOSEN: from 192.0.2.2, prefix /0, metric 100\n")
    assert.include(text, "looked up 0 ms ago")
  }))

it.effect("prints one JSON object", () =>
  Effect.gen(function*() {
    const { ended, text } = yield* printed(routeExplain(destination, true))
    assert.deepStrictEqual(ended, Either.void)
    assert.deepStrictEqual(JSON.parse(text), {
      destination,
      chosen,
      candidates: [chosen, ...losers],
      cache: { generation: 0, routes: 1, entry: { ...chosen, generation: 0, ageMillis: 0 } }
    })
  }).pipe(Effect.provide(layer(found))))

it.effect("without a way explains why, and fails for a script's sake", () =>
  Effect.gen(function*() {
    const { ended, text } = yield* printed(routeExplain(destination, false))
    assert.isTrue(Either.isLeft(ended) && ended.left instanceof NoRoute)
    assert.match(
      text,
      /^no way to 203\.0\.113\.9 outside the tunnel: the routing tables have no entry for it \(ENETUNREACH\)\n/
    )
    assert.include(text, "  tun-firezone  lost: it is our own tunnel\n")
    assert.match(text, /\nroute cache: generation 0, 0 routes, none to this destination$/)
    const json = yield* printed(routeExplain(destination, true))
    assert.isTrue(Either.isLeft(json.ended))
    assert.deepStrictEqual(JSON.parse(json.text), {
      destination,
      chosen: null,
      reason: "ENETUNREACH",
      candidates: losers,
      cache: { generation: 0, routes: 0, entry: null }
    })
  }).pipe(Effect.provide(layer(lost))))

it.effect("a machine without interfaces gets an answer too", () =>
  Effect.gen(function*() {
    const { text } = yield* printed(routeExplain(destination, false)).pipe(Effect.provide(layer({
      resolve: noRoute,
      explain: () => Effect.succeed({ destination, chosen: undefined, candidates: [] })
    })))
    assert.include(text, "no interface has a route")
    assert.include(text, "no interface that could be used")
  }))

it.effect("says so when cache and system disagree", () =>
  Effect.gen(function*() {
    const { text } = yield* printed(routeExplain(destination, false)).pipe(Effect.provide(layer({
      resolve: () => Effect.succeed(routeVia("wlan0", destination, { interfaceIndex: 3 })),
      explain: () => Effect.succeed(explanation)
    })))
    assert.include(text, "wlan0 from 192.0.2.2\nATTENTION")
  }))

it.effect("prints nothing when the system cannot be asked", () =>
  Effect.gen(function*() {
    const failed = new RouteQueryFailed({ destination, cause: new Error("no netlink") })
    const { ended, text } = yield* printed(routeExplain(destination, false)).pipe(
      Effect.provide(layer({ resolve: () => failed, explain: () => failed }))
    )
    assert.isTrue(Either.isLeft(ended) && ended.left instanceof RouteQueryFailed)
    assert.strictEqual(text, "")
  }))
