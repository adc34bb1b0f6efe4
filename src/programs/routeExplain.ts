/** `route explain`: which way a packet leaves outside the tunnel, and why the other ways lost. */
import * as Console from "effect/Console"
import * as Effect from "effect/Effect"
import * as Either from "effect/Either"
import { isOurTable } from "../model/policyRouting.ts"
import type { IpAddress, RouteCandidate, RouteExplanation } from "../model/Route.ts"
import { RouteCache, type RouteCacheEntry } from "../services/RouteCache.ts"
import { type NoRoute, type RouteError, type RouteQueryFailed, RouteResolver } from "../services/RouteResolver.ts"

/** What the sockets would be told: the cache's answer, with its age. */
interface CacheFacts {
  readonly generation: number
  readonly routes: number
  readonly answer: Either.Either<RouteCacheEntry, RouteError>
}

const TABLE_NAMES: { readonly [table: number]: string } = { 253: "default", 254: "main", 255: "local" } // rtnetlink(7)

const tableName = (table: number): string =>
  TABLE_NAMES[table] ?? (isOurTable(table) ? `${table} (our own)` : String(table))

const lines = (explanation: RouteExplanation, cache: CacheFacts): ReadonlyArray<string> => {
  const { candidates } = explanation
  const width = Math.max(0, ...candidates.map(({ interfaceName }) => interfaceName.length))
  return [
    decisionWords(explanation),
    "",
    ...candidates.flatMap((candidate) => candidateLines(candidate, width)),
    ...(candidates.length === 0 ? ["  this machine has no interface that could be used"] : []),
    "",
    ...cacheLines(explanation, cache)
  ]
}

/** What the systems' words for "no" stand for, where they hide it (host spec section 11.5). */
const REASONS: { readonly [reason: string]: string } = {
  ENETUNREACH: "the routing tables have no entry for it",
  EHOSTUNREACH: "its only routes are of type unreachable, or lead into the tunnel",
  EACCES: "a route of type prohibit forbids it",
  EINVAL: "a route of type blackhole swallows it",
  broadcast: "it is a broadcast address",
  multicast: "it is a multicast address",
  ERROR_HOST_UNREACHABLE: "no adapter that is up has a route to it, other than the tunnel's"
}

const decisionWords = ({ chosen, destination, reason }: RouteExplanation): string => {
  if (chosen === undefined) {
    const gloss = REASONS[reason ?? ""]
    const why = reason === undefined
      ? "no interface has a route"
      : gloss === undefined
      ? reason
      : `${gloss} (${reason})`
    return `no way to ${destination} outside the tunnel: ${why}`
  }
  const way = chosen.nextHop === undefined ? "directly" : `by way of ${chosen.nextHop}`
  return `${destination} leaves through ${chosen.interfaceName} from ${chosen.source}, ${way}`
}

/** Why it lost stands first: the numbers behind it may be absent. */
const candidateLines = (candidate: RouteCandidate, width: number): ReadonlyArray<string> => {
  const { interfaceName, rejected } = candidate
  const route = routeWords(candidate)
  const name = `  ${interfaceName.padEnd(width)}  `
  if (rejected === undefined) return [`${name}CHOSEN: ${route}`]
  return [`${name}lost: ${rejected}`, ...(route === "" ? [] : [`${" ".repeat(name.length)}its route: ${route}`])]
}

const routeWords = ({ metric, nextHop, prefixLength, source, table }: RouteCandidate): string =>
  [
    source === undefined ? undefined : `from ${source}`,
    nextHop === undefined ? undefined : `next hop ${nextHop}`,
    prefixLength === undefined ? undefined : `prefix /${prefixLength}`,
    metric === undefined ? undefined : `metric ${metric}`,
    table === undefined ? undefined : `table ${tableName(table)}`
  ].filter((part) => part !== undefined).join(", ")

const cacheLines = ({ chosen }: RouteExplanation, cache: CacheFacts): ReadonlyArray<string> => {
  const entry = Either.getOrUndefined(cache.answer)
  const held = `route cache: generation ${cache.generation}, ${cache.routes} ${cache.routes === 1 ? "route" : "routes"}`
  const about = entry === undefined
    ? "none to this destination"
    : `this one looked up ${ageWords(entry.ageMillis)} ago: ${entry.interfaceName} from ${entry.source}`
  return [
    `${held}, ${about}`,
    ...(entry?.source === chosen?.source && entry?.interfaceIndex === chosen?.interfaceIndex
      ? []
      : ["ATTENTION: the cache and the system disagree. The network is changing: run this again"])
  ]
}

const ageWords = (millis: number): string =>
  millis < 1000 ? `${Math.round(millis)} ms` : `${Math.round(millis / 1000)} s`

const object = (explanation: RouteExplanation, cache: CacheFacts): unknown => ({
  ...explanation,
  chosen: explanation.chosen ?? null,
  cache: {
    generation: cache.generation,
    routes: cache.routes,
    entry: Either.getOrNull(cache.answer)
  }
})

const readCache = Effect.fnUntraced(function*(destination: IpAddress) {
  const cache = yield* RouteCache
  const got = yield* Effect.either(cache.get(destination))
  const { generation, size } = yield* cache.stats
  const entry = (yield* cache.entries).find((entry) => entry.destination === destination)
  const facts: CacheFacts = {
    generation,
    routes: size,
    // Forgotten since `get`: it is new then.
    answer: Either.map(got, (route) => entry ?? { ...route, ageMillis: 0 })
  }
  return facts
})

/**
 * Prints how a packet to `destination` leaves this machine outside the tunnel, every other way and why it lost, and what
 * the route cache holds; as lines for a person or as one JSON object. Fails with `NoRoute`, after printing, if there is
 * no way: a script can tell by the exit code.
 */
export const routeExplain = Effect.fn("routeExplain")(function*(
  destination: IpAddress,
  json: boolean
): Effect.fn.Return<void, NoRoute | RouteQueryFailed, RouteResolver | RouteCache> {
  const resolver = yield* RouteResolver
  const cache = yield* readCache(destination)
  const explanation = yield* resolver.explain(destination)
  yield* Console.log(json ? JSON.stringify(object(explanation, cache)) : lines(explanation, cache).join("\n"))
  if (Either.isLeft(cache.answer)) yield* cache.answer.left
})
