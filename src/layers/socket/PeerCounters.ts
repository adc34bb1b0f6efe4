import type { PeerSocketStats } from "../../services/PeerSocket.ts"

export type DropReason =
  /** There is no route to the destination, or the system says that it cannot be reached. */
  | "no-route"
  /** The destination's family has no socket, or the sockets are closed. */
  | "no-socket"
  | "send-error"
  | "receive-error"
  /** Larger than two peers ever send, or than the interface takes. */
  | "oversized"
  | "empty"
  | "source-port-0"
  | "no-local-address"
  /** Cut short, or with a segment size that cannot be. */
  | "malformed"
  | "queue-full"

/** What became of datagrams, counted. */
export class PeerCounters {
  received = 0
  receivedBytes = 0
  sent = 0
  sentBytes = 0
  readonly dropped: Record<DropReason, number> = {
    "no-route": 0,
    "no-socket": 0,
    "send-error": 0,
    "receive-error": 0,
    "oversized": 0,
    "empty": 0,
    "source-port-0": 0,
    "no-local-address": 0,
    "malformed": 0,
    "queue-full": 0
  }

  drop(reason: DropReason, datagrams = 1): void {
    this.dropped[reason] += datagrams
  }

  snapshot(): PeerSocketStats {
    return {
      received: this.received,
      receivedBytes: this.receivedBytes,
      sent: this.sent,
      sentBytes: this.sentBytes,
      dropped: { ...this.dropped }
    }
  }
}

/** The largest datagram between peers: 1280 of IP, 32 of WireGuard, 4 of channel data (connectivity spec 3.2). */
export const MAX_DATAGRAM = 1316

/** A line for the log from code that runs outside Effect; used for what happens once, not for each datagram. */
export type Report = (level: "Info" | "Warning", message: string, annotations: Record<string, unknown>) => void
