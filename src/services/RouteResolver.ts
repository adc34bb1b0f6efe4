import * as Context from "effect/Context"
import * as Data from "effect/Data"
import type * as Effect from "effect/Effect"
import type { IpAddress, Route, RouteExplanation } from "../model/Route.ts"

/** There is no way to the destination outside the tunnel. */
export class NoRoute extends Data.TaggedError("NoRoute")<{
  readonly destination: IpAddress
  /** The system's own word for it, such as `ENETUNREACH`. */
  readonly reason: string
}> {
  override get message(): string {
    return `no route to ${this.destination} outside the tunnel (${this.reason})`
  }
}

/** The system could not be asked. */
export class RouteQueryFailed extends Data.TaggedError("RouteQueryFailed")<{
  readonly destination: IpAddress
  readonly cause: unknown
}> {
  override get message(): string {
    return `cannot look up the route to ${this.destination}`
  }
}

export type RouteError = NoRoute | RouteQueryFailed

/** Best route to a destination outside the tunnel, asked of the operating system each time (host spec section 11). */
export class RouteResolver extends Context.Tag("firezone-headless-client/services/RouteResolver")<RouteResolver, {
  readonly resolve: (destination: IpAddress) => Effect.Effect<Route, RouteError>
  /** The decision with every candidate and why the losers lost; for `route explain`. */
  readonly explain: (destination: IpAddress) => Effect.Effect<RouteExplanation, RouteQueryFailed>
}>() {}
