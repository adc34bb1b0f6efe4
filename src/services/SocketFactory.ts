import * as Context from "effect/Context"
import * as Data from "effect/Data"
import type * as Effect from "effect/Effect"
import type * as Either from "effect/Either"
import type * as Scope from "effect/Scope"
import type * as net from "node:net"
import type { SyscallError } from "../ffi/SyscallError.ts"
import type { IpAddress, SocketAddress } from "../model/Route.ts"
import type { RouteError } from "./RouteResolver.ts"

/** Our own packets would enter the tunnel again; retrying cannot help (host spec section 10.1). */
export class RoutingLoopPreventionFailed extends Data.TaggedError("RoutingLoopPreventionFailed")<{
  readonly cause: SyscallError
}> {
  override get message(): string {
    return `cannot keep our own packets out of the tunnel: ${this.cause.message}`
  }
}

export class SocketFailed extends Data.TaggedError("SocketFailed")<{
  /** What was tried, such as `bind 0.0.0.0:52625`. */
  readonly operation: string
  readonly cause: SyscallError
}> {
  override get message(): string {
    return `${this.operation}: ${this.cause.message}`
  }
}

export class ConnectTimedOut extends Data.TaggedError("ConnectTimedOut")<{ readonly remote: SocketAddress }> {
  override get message(): string {
    return `no answer from ${this.remote.text} within 5 s`
  }
}

export interface DescriptorOptions {
  /** Bytes asked of the kernel; it may clamp. */
  readonly sendBuffer?: number
  readonly receiveBuffer?: number
}

/** UDP and TCP sockets whose packets stay outside the tunnel (mark on Linux, pinned source on Windows). */
export class SocketFactory extends Context.Tag("firezone-headless-client/services/SocketFactory")<SocketFactory, {
  /**
   * A non-blocking, unconnected UDP socket bound to `local`; closed by the scope. IPv6 sockets are V6ONLY and prefer
   * stable source addresses.
   */
  readonly udp: (
    local: SocketAddress,
    options?: DescriptorOptions
  ) => Effect.Effect<number, SocketFailed | RoutingLoopPreventionFailed, Scope.Scope>
  /** As `udp` with the kernel's buffers, synchronously and by the thousand; the caller closes the descriptor. */
  readonly unsafeUdp: (
    local: SocketAddress
  ) => Either.Either<number, SocketFailed | RoutingLoopPreventionFailed>
  /**
   * Connects from the source that the route cache names, within 5 s, `TCP_NODELAY` on. The socket belongs to the caller,
   * who destroys it; interruption while connecting leaves nothing open. It can be interrupted even where the caller
   * cannot: call it there, or a socket that is ready at that moment is lost.
   */
  readonly tcp: (
    remote: SocketAddress
  ) => Effect.Effect<net.Socket, SocketFailed | RoutingLoopPreventionFailed | ConnectTimedOut | RouteError>
  /**
   * Destroys a socket that `tcp` made if the way to its remote no longer starts at its local address, as after a roam,
   * and returns whether it did. Nothing of it is sent any more where the system allows that (Linux): no goodbye could
   * arrive, and the other network need not see the address.
   */
  readonly abandonStranded: (socket: net.Socket) => Effect.Effect<boolean>
  /** The local address that a datagram to `destination` would be sent from. */
  readonly sourceFor: (destination: IpAddress) => Effect.Effect<IpAddress, RouteError>
}>() {}
