import * as Context from "effect/Context"
import * as Data from "effect/Data"
import * as Schedule from "effect/Schedule"
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

/**
 * When to run one of the streams again that failed: after longer and longer, and from the start again a minute after the
 * first failure, so that one that comes days later does not find us deaf for 30 s.
 */
export const resubscribe = Schedule.exponential("500 millis").pipe(
  Schedule.union(Schedule.spaced("30 seconds")),
  Schedule.resetAfter("1 minute")
)

export class NetworkChanges extends Context.Tag("firezone-headless-client/services/NetworkChanges")<NetworkChanges, {
  /** Every change that could move a route, at once and not debounced. Each run of the stream subscribes anew. */
  readonly changes: Stream.Stream<NetworkChange, NetworkMonitorFailed>
  /** Changes that leave every egress route as it was give none. Each run of the stream starts with what it finds. */
  readonly roams: Stream.Stream<Roam, NetworkMonitorFailed>
  /**
   * Our own tunnel may have lost its link state, an address, a route or a policy rule; by whose doing is not known. Each
   * run of the stream starts with an element, as what happened before is unknown.
   */
  readonly tunnelLosses: Stream.Stream<void, NetworkMonitorFailed>
}>() {}
