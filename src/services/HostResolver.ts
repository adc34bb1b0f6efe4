import * as Context from "effect/Context"
import * as Data from "effect/Data"
import type * as Effect from "effect/Effect"
import type { IpAddress, SocketAddress } from "../model/Route.ts"

/** No address for the host; trying again later may help. */
export class HostUnresolved extends Data.TaggedError("HostUnresolved")<{
  readonly host: string
  readonly reason: string
}> {
  override get message(): string {
    return `no address for ${this.host}: ${this.reason}`
  }
}

/**
 * Resolves the hosts that the client itself talks to, without the system's resolver: that one points at us while a
 * session runs (host spec section 14).
 */
export class HostResolver extends Context.Tag("firezone-headless-client/services/HostResolver")<HostResolver, {
  /**
   * Asks every server for A and AAAA over UDP, 2 s each; over TCP if that gave nothing and not all said NXDOMAIN. Sorted
   * (IPv4 first) and unique, then what the hosts file says. IP literals, in brackets or not, are their own answer.
   * Never empty. Keeps nothing.
   */
  readonly resolve: (host: string) => Effect.Effect<ReadonlyArray<IpAddress>, HostUnresolved>
  /** Replaces the servers; sentinels of our own are left out. */
  readonly setServers: (servers: ReadonlyArray<SocketAddress>) => Effect.Effect<void>
  /** Those that would be asked now. */
  readonly servers: Effect.Effect<ReadonlyArray<SocketAddress>>
}>() {}
