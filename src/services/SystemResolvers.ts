import * as Context from "effect/Context"
import type * as Effect from "effect/Effect"
import type * as Stream from "effect/Stream"
import type { IpAddress } from "../model/Route.ts"

/** The DNS servers that this system asks when no session points it at ours (host spec sections 12 and 14). */
export class SystemResolvers extends Context.Tag("firezone-headless-client/services/SystemResolvers")<SystemResolvers, {
  /** Read anew each time, in the system's order. Empty if there are none or the system does not tell. */
  readonly current: Effect.Effect<ReadonlyArray<IpAddress>>
  /** What they are now, then every change. Never ends. */
  readonly changes: Stream.Stream<ReadonlyArray<IpAddress>>
}>() {}
