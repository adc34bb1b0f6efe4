import * as Context from "effect/Context"
import * as Data from "effect/Data"
import type * as Effect from "effect/Effect"
import type * as Either from "effect/Either"
import type { SocketAddress } from "../model/Route.ts"
import type { RouteError } from "./RouteResolver.ts"
import type { ConnectTimedOut, RoutingLoopPreventionFailed, SocketFailed } from "./SocketFactory.ts"

export class DnsTimedOut extends Data.TaggedError("DnsTimedOut")<{ readonly resolver: SocketAddress }> {
  override get message(): string {
    return `the DNS server ${this.resolver.text} did not answer in time`
  }
}

/** The answer was not one: too short, or the connection ended inside it. */
export class DnsMalformed extends Data.TaggedError("DnsMalformed")<{ readonly resolver: SocketAddress }> {
  override get message(): string {
    return `the DNS server ${this.resolver.text} sent something that is no answer`
  }
}

export type DnsSocketError =
  | DnsTimedOut
  | DnsMalformed
  | SocketFailed
  | RoutingLoopPreventionFailed
  | ConnectTimedOut
  | RouteError

/**
 * One exchange with a resolver outside the tunnel, from a socket and source port of its own (RFC 5452 section 9.2), with
 * the source address that the shared route cache names.
 */
export class DnsSocket extends Context.Tag("firezone-headless-client/services/DnsSocket")<DnsSocket, {
  /**
   * Sends `query` once and returns the first datagram from exactly `resolver` with the id and the question of the query;
   * others are ignored. `timeoutMillis` defaults to 5000.
   */
  readonly udp: (
    query: Uint8Array,
    resolver: SocketAddress,
    timeoutMillis?: number
  ) => Effect.Effect<Uint8Array, DnsSocketError>
  /**
   * The same without a time limit and without a fiber, for queries by the thousand. `onOutcome` is called once, after
   * the call has returned, unless the function that it returns is called before: that one ends the query.
   */
  readonly unsafeUdp: (
    query: Uint8Array,
    resolver: SocketAddress,
    onOutcome: (outcome: Either.Either<Uint8Array, DnsSocketError>) => void
  ) => () => void
  /** As `udp` over a TCP connection of its own, with the 2-byte length framing of RFC 7766. */
  readonly tcp: (
    query: Uint8Array,
    resolver: SocketAddress,
    timeoutMillis?: number
  ) => Effect.Effect<Uint8Array, DnsSocketError>
}>() {}
