/** A connection of ours whose peer is the test: it writes segments, and sees what comes back. */
import { TcpConnection, type TcpState } from "../../../src/protocol/tcp/TcpConnection.ts"
import type { TcpEnds } from "../../../src/protocol/wire/tcp.ts"
import { Ack, ends, Fin, parseSegment, reversed, type Seen, seen, Syn, write, type Written } from "./support.ts"

export const OURS = 1000
export const THEIRS = 5000
export const ENDS = ends("100.64.0.1", 50_000, "10.0.0.53", 53)
export const ENDS6 = ends("fd00::1", 50_000, "fd00::2", 53)

export class ByHand {
  readonly connection: TcpConnection
  readonly #ends: TcpEnds
  /** Our number of the SYN, and the peer's. */
  readonly ours: number
  readonly theirs: number
  now = 0

  constructor(connection: TcpConnection, of: TcpEnds = ENDS, ours: number = OURS, theirs: number = THEIRS) {
    this.connection = connection
    this.#ends = of
    this.ours = ours
    this.theirs = theirs
  }

  /** Numbers are as they stand in the packet. */
  raw(written: Written): ReadonlyArray<Seen> {
    this.connection.handleSegment(parseSegment(write(reversed(this.#ends), written)), this.now)
    return this.drain()
  }

  /** Numbers count from behind the SYNs; ACK is set. */
  tell({ acknowledgment, flags, sequence, ...rest }: Partial<Written>): ReadonlyArray<Seen> {
    return this.raw({
      flags: flags === undefined ? Ack : flags | Ack,
      sequence: this.theirs + 1 + (sequence ?? 0),
      acknowledgment: this.ours + 1 + (acknowledgment ?? 0),
      ...rest
    })
  }

  drain(): ReadonlyArray<Seen> {
    const all: Array<Seen> = []
    for (
      let packet = this.connection.pollPacket(this.now);
      packet !== undefined;
      packet = this.connection.pollPacket(this.now)
    ) {
      all.push(seen(packet))
      if (all.length > 1000) throw new Error("packets without end")
    }
    return all
  }

  /** Lets time pass, with all that happens by itself, which is what it returns. */
  pass(millis: number): ReadonlyArray<Seen & { readonly at: number }> {
    const end = this.now + millis
    const all: Array<Seen & { readonly at: number }> = []
    for (let at = this.connection.pollTimeout(); at !== undefined && at <= end; at = this.connection.pollTimeout()) {
      this.now = Math.max(this.now, at)
      this.connection.handleTimeout(this.now)
      for (const each of this.drain()) all.push({ ...each, at: this.now })
    }
    this.now = end
    this.connection.handleTimeout(this.now)
    for (const each of this.drain()) all.push({ ...each, at: this.now })
    return all
  }

  /** In short: flags, our number behind the SYN, the peer's, and how many bytes. */
  static brief(all: ReadonlyArray<Seen>, ours = OURS, theirs = THEIRS): ReadonlyArray<string> {
    return all.map(({ acknowledgment, flags, payload, sequence }) =>
      `${flags} ${(sequence - ours - 1) | 0} ${
        flags.includes("ACK") ? (acknowledgment - theirs - 1) | 0 : "-"
      } +${payload.length}`
    )
  }
}

export const { brief } = ByHand

export const connecting = (of: TcpEnds = ENDS, ours = OURS, theirs = THEIRS): ByHand =>
  new ByHand(TcpConnection.connect(of, ours | 0), of, ours, theirs)

export const accepting = (
  options: { readonly window?: number; readonly mss?: number; readonly ours?: number; readonly theirs?: number } = {}
): ByHand => {
  const { ours = OURS, theirs = THEIRS, ...rest } = options
  const syn = parseSegment(write(reversed(ENDS), { flags: Syn, sequence: theirs, mss: 1240, ...rest }))
  return new ByHand(TcpConnection.accept(ENDS, ours | 0, syn), ENDS, ours, theirs)
}

/** Accepted, with the handshake over and nothing to send. */
export const established = (options: Parameters<typeof accepting>[0] = {}): ByHand => {
  const peer = accepting(options)
  peer.drain()
  peer.tell({ window: options.window ?? 65_535 })
  return peer
}

/** How a connection comes into each of the states. */
export const inState: { readonly [state in TcpState]: () => ByHand } = {
  "syn-sent": () => {
    const peer = connecting()
    peer.drain()
    return peer
  },
  "syn-received": () => {
    const peer = accepting()
    peer.drain()
    return peer
  },
  established: () => established(),
  "fin-wait-1": () => {
    const peer = established()
    peer.connection.close()
    peer.drain()
    return peer
  },
  "fin-wait-2": () => {
    const peer = inState["fin-wait-1"]()
    peer.tell({ acknowledgment: 1 })
    return peer
  },
  "close-wait": () => {
    const peer = established()
    peer.tell({ flags: Fin })
    return peer
  },
  closing: () => {
    const peer = inState["fin-wait-1"]()
    peer.tell({ flags: Fin })
    return peer
  },
  "last-ack": () => {
    const peer = inState["close-wait"]()
    peer.connection.close()
    peer.drain()
    return peer
  },
  "time-wait": () => {
    const peer = inState["fin-wait-2"]()
    peer.tell({ flags: Fin, acknowledgment: 1 })
    return peer
  },
  closed: () => {
    const peer = established()
    peer.connection.abort()
    peer.drain()
    return peer
  }
}

export const bytes = (count: number, first = 0): Uint8Array => Uint8Array.from({ length: count }, (_, i) => first + i)
