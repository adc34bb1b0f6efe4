/** A resolver whose answers the test sets; counts what it was asked. */
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import type { IpAddress, Route } from "../../src/model/Route.ts"
import { ip } from "../../src/protocol/wire/address.ts"
import { familyOf } from "../../src/protocol/wire/address.ts"
import type { RouteError } from "../../src/services/RouteResolver.ts"
import { NoRoute, RouteResolver } from "../../src/services/RouteResolver.ts"

/** A route via `interfaceName`, with plausible other fields. */
export const routeVia = (interfaceName: string, destination: IpAddress, fields: Partial<Route> = {}): Route => ({
  destination,
  source: familyOf(destination) === 4 ? ip("192.0.2.2") : ip("2001:db8::2"),
  interfaceIndex: 2,
  interfaceName,
  nextHop: familyOf(destination) === 4 ? ip("192.0.2.1") : ip("2001:db8::1"),
  prefixLength: 0,
  metric: 100,
  ...fields
})

export interface RouteResolverDouble {
  /** How often each destination was looked up. */
  readonly asked: Map<IpAddress, number>
  /** Answers for the next lookups; a test replaces it. By default every destination is behind `eth0`. */
  answer: (destination: IpAddress) => Effect.Effect<Route, RouteError>
  readonly layer: Layer.Layer<RouteResolver>
}

export const makeRouteResolverDouble = (
  answer: (destination: IpAddress) => Effect.Effect<Route, RouteError> = (destination) =>
    Effect.succeed(routeVia("eth0", destination))
): RouteResolverDouble => {
  const asked = new Map<IpAddress, number>()
  const double: RouteResolverDouble = {
    asked,
    answer,
    layer: Layer.succeed(
      RouteResolver,
      RouteResolver.of({
        resolve: (destination) =>
          Effect.suspend(() => {
            asked.set(destination, (asked.get(destination) ?? 0) + 1)
            return double.answer(destination)
          }),
        explain: (destination) =>
          double.answer(destination).pipe(
            Effect.map((chosen) => ({ destination, chosen, candidates: [chosen] })),
            Effect.catchTag("NoRoute", ({ reason }) =>
              Effect.succeed({ destination, chosen: undefined, reason, candidates: [] }))
          )
      })
    )
  }
  return double
}

/** No way to anywhere. */
export const noRoute = (destination: IpAddress): Effect.Effect<never, NoRoute> =>
  new NoRoute({ destination, reason: "ENETUNREACH" })
