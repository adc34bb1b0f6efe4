/** Peer sockets without a network: the test reads what was sent, and delivers what shall be received. */
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import type { SocketAddress } from "../../src/model/Route.ts"
import { type DatagramHandlers, PeerSocket, type PeerSockets } from "../../src/services/PeerSocket.ts"
import type { RoutingLoopPreventionFailed, SocketFailed } from "../../src/services/SocketFactory.ts"

export interface SentDatagram {
  readonly source: SocketAddress | undefined
  readonly destination: SocketAddress
  readonly ecn: number
  readonly bytes: Uint8Array
}

export interface PeerSocketDouble {
  /** What was flushed and not yet taken. */
  readonly sent: Array<SentDatagram>
  /** Called for each datagram flushed; replace it to connect two doubles. */
  onSent: (datagram: SentDatagram) => void
  /** Hands a batch to whoever has the sockets open; returns false if nobody has. */
  readonly deliver: (
    local: SocketAddress,
    from: SocketAddress,
    datagrams: ReadonlyArray<Uint8Array>,
    ecn?: number
  ) => boolean
  /** How many times the sockets were opened, and whether they are open. */
  opened: number
  readonly isOpen: () => boolean
  /** Fails the next `open`s. */
  failure: SocketFailed | RoutingLoopPreventionFailed | undefined
  port4: number | undefined
  port6: number | undefined
  /** Settable: what `blocked` says, of one family or of both. A change to false calls `onUnblocked`. */
  readonly setBlocked: (blocked: boolean, family?: 4 | 6) => void
  readonly layer: Layer.Layer<PeerSocket>
}

/** Free space around a delivered datagram, as the real sockets leave it. */
const ROOM = 64

export const makePeerSocketDouble = (): PeerSocketDouble => {
  let handlers: DatagramHandlers | undefined
  const blocked = { 4: false, 6: false }
  const open = (opening: DatagramHandlers) =>
    Effect.acquireRelease(
      Effect.suspend(() => {
        if (double.failure !== undefined) return Effect.fail(double.failure)
        handlers = opening
        double.opened += 1
        const queued: Array<SentDatagram & { readonly at: Uint8Array }> = []
        const counts = { received: 0, receivedBytes: 0, sent: 0, sentBytes: 0, dropped: { "no-socket": 0 } }
        const sockets: PeerSockets = {
          send: (source, destination, ecn, buffer, offset, length) => {
            if (handlers !== opening || (destination.family === 4 ? double.port4 : double.port6) === undefined) {
              counts.dropped["no-socket"] += 1
              return
            }
            // Copied in `flush` only, as the real ones do: a caller that overwrites its buffer too early is found out.
            const at = buffer.subarray(offset, offset + length)
            queued.push({ source, destination, ecn, bytes: at, at })
          },
          flush: () => {
            for (const { at, destination, ecn, source } of queued.splice(0)) {
              const datagram = { source, destination, ecn, bytes: at.slice() }
              counts.sent += 1
              counts.sentBytes += at.length
              double.sent.push(datagram)
              double.onSent(datagram)
            }
          },
          blocked: (family) => family === undefined ? blocked[4] || blocked[6] : blocked[family],
          port4: double.port4,
          port6: double.port6,
          stats: () => ({ ...counts, dropped: { ...counts.dropped } })
        }
        return Effect.succeed({ sockets, opening })
      }),
      () =>
        Effect.sync(() => {
          if (handlers === opening) handlers = undefined
        })
    ).pipe(Effect.map(({ sockets }) => sockets))

  const double: PeerSocketDouble = {
    sent: [],
    onSent: () => undefined,
    deliver: (local, from, datagrams, ecn = 0) => {
      if (handlers === undefined) return false
      for (const bytes of datagrams) {
        const buffer = new Uint8Array(ROOM + bytes.length + ROOM)
        buffer.set(bytes, ROOM)
        handlers.onDatagram(local, from, ecn, buffer, ROOM, bytes.length)
        buffer.fill(0xee) // used again by the real ones: a handler that keeps a reference is found out
      }
      handlers.onBatchEnd()
      return true
    },
    opened: 0,
    isOpen: () => handlers !== undefined,
    failure: undefined,
    port4: 52625,
    port6: 52625,
    setBlocked: (wanted, family) => {
      for (const each of family === undefined ? [4, 6] as const : [family]) {
        const was = blocked[each]
        blocked[each] = wanted
        if (was && !wanted) handlers?.onUnblocked?.()
      }
    },
    layer: Layer.sync(PeerSocket, () => PeerSocket.of({ open }))
  }
  return double
}
