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

export class NetworkMonitorFailed extends Data.TaggedError("NetworkMonitorFailed")<{ readonly cause: unknown }> {}

export class NetworkChanges extends Context.Tag("firezone-headless-client/services/NetworkChanges")<NetworkChanges, {
  /** Every change that could move a route, at once and not debounced. Each run of the stream subscribes anew. */
  readonly changes: Stream.Stream<NetworkChange, NetworkMonitorFailed>
  /**
   * One element per roam: the egress routes of this machine are not what they were, and 500 ms were quiet. Changes that
   * leave every egress route as it was give none. Expensive work (session reset) hangs on this one.
   */
  readonly roams: Stream.Stream<void, NetworkMonitorFailed>
}>() {}
