import * as Context from "effect/Context"
import type * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import type { Upstream } from "../protocol/dns/upstreams.ts"
import type { OutsideQuery } from "../protocol/tunnel/ClientDns.ts"

/** An answer's bytes, or why there is none. */
export type ForwardOutcome = Uint8Array | "failed" | "timed-out"

export interface Forwarding {
  /**
   * Asks the query's upstream: a plain call, for queries by the thousand. The outcome comes once, after the call has
   * returned and within 5 s.
   */
  readonly forward: (query: OutsideQuery) => void
  /** Connects to those that need a connection, so that the first query need not fail; forgets all others. */
  readonly prepare: (upstreams: ReadonlyArray<Upstream>) => void
  /** The network changed: queries under way get no outcome, connections are made anew. */
  readonly reset: () => void
}

/**
 * Forwards queries to upstream resolvers outside the tunnel (tunnel spec 12.9): UDP and TCP with a socket for each, and
 * DNS over HTTPS with one connection for each URL.
 */
export class DnsForwarder extends Context.Tag("firezone-headless-client/services/DnsForwarder")<DnsForwarder, {
  /** The scope ends everything that is under way. */
  readonly open: (
    onOutcome: (id: number, outcome: ForwardOutcome) => void
  ) => Effect.Effect<Forwarding, never, Scope.Scope>
}>() {}
