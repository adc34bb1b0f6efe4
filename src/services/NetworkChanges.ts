import * as Context from "effect/Context"
import * as Data from "effect/Data"
import type * as Stream from "effect/Stream"

/**
 * `Subscribed` comes first, and again after events were lost: what happened before is unknown. The others could have
 * moved a route. Our own tunnel's interface, tables and rules never cause one (host spec section 11.6).
 */
export type NetworkChange =
  | { readonly _tag: "Subscribed" }
  | { readonly _tag: "Link" | "Address" | "Route" | "Rule"; readonly interfaceIndex?: number | undefined }
  | { readonly _tag: "Overrun" }

/**
 * `Moving`: public destinations are not reached as they were, or the system has slept. What is sent from the old
 * addresses is lost at best, so nothing should be until the next element, which comes once the network was quiet for
 * 500 ms: `Moved` if it needs a session reset, `Stayed` if all is as it was.
 */
export type Roam =
  | { readonly _tag: "Moving" }
  | { readonly _tag: "Moved"; readonly reason: string }
  | { readonly _tag: "Stayed" }

export class NetworkMonitorFailed extends Data.TaggedError("NetworkMonitorFailed")<{ readonly cause: unknown }> {}

export class NetworkChanges extends Context.Tag("firezone-headless-client/services/NetworkChanges")<NetworkChanges, {
  /** Every change that could move a route, at once and not debounced. Each run of the stream subscribes anew. */
  readonly changes: Stream.Stream<NetworkChange, NetworkMonitorFailed>
  /** Changes that leave every egress route as it was give none. Each run of the stream starts with what it finds. */
  readonly roams: Stream.Stream<Roam, NetworkMonitorFailed>
}>() {}
