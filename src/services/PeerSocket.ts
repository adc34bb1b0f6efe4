import * as Context from "effect/Context"
import type * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import type { SocketAddress } from "../model/Route.ts"
import type { Family } from "../protocol/wire/address.ts"
import type { RoutingLoopPreventionFailed, SocketFailed } from "./SocketFactory.ts"

export interface DatagramHandlers {
  /**
   * One datagram, at most 1316 bytes, `buffer[offset, offset + length)`, valid until the handler returns. `local` is the
   * address it was sent to (packet info) with our port. `ecn` is the two-bit field of the outer header. Must not throw.
   */
  readonly onDatagram: (
    local: SocketAddress,
    from: SocketAddress,
    ecn: number,
    buffer: Uint8Array,
    offset: number,
    length: number
  ) => void
  /** After each batch: flush what the datagrams caused. */
  readonly onBatchEnd: () => void
  /** A socket that was `blocked` is so no longer. */
  readonly onUnblocked?: (() => void) | undefined
}

export interface PeerSocketStats {
  readonly received: number
  readonly receivedBytes: number
  readonly sent: number
  readonly sentBytes: number
  /** Datagrams dropped, by reason: `no-route`, `no-socket`, `send-error`, `oversized`, `source-port-0`, `queue-full`, and so on. */
  readonly dropped: { readonly [reason: string]: number }
}

/** Open sockets; plain calls, no Effect, no allocation per datagram. */
export interface PeerSockets {
  /**
   * Queues one datagram for `flush`; the bytes must stay as they are until then. Without `source` the route cache names
   * it; if it does not know yet, the datagram is copied to a small bounded queue and leaves when it does. A send that fails because
   * its source is gone evicts that route, resolves again and retries once.
   */
  readonly send: (
    source: SocketAddress | undefined,
    destination: SocketAddress,
    ecn: number,
    buffer: Uint8Array,
    offset: number,
    length: number
  ) => void
  readonly flush: () => void
  /**
   * Whether the system's send buffer is full, of that family or of any. What is sent meanwhile goes to a bounded backlog
   * and is then dropped, so better read nothing that causes sending until `onUnblocked` (host spec section 10.4).
   */
  readonly blocked: (family?: Family) => boolean
  /** The bound port of each family; `undefined` where the family could not be bound. */
  readonly port4: number | undefined
  readonly port6: number | undefined
  readonly stats: () => PeerSocketStats
}

/** The peer-to-peer UDP sockets, one per family, batched and offloaded (host spec section 10.2). */
export class PeerSocket extends Context.Tag("firezone-headless-client/services/PeerSocket")<PeerSocket, {
  /** Binds port 52625, else any; a family that cannot be bound is missing, both missing is an error. */
  readonly open: (
    handlers: DatagramHandlers
  ) => Effect.Effect<PeerSockets, SocketFailed | RoutingLoopPreventionFailed, Scope.Scope>
}>() {}
