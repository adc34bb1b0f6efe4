import { MAX_PACKET_LENGTH } from "../wire/ip.ts"
import { type TcpEnds, TcpFlag, tcpPacket, type TcpSegment } from "../wire/tcp.ts"
import { advance, distance } from "./sequence.ts"
import { TcpReceiver } from "./TcpReceiver.ts"
import { TcpSender } from "./TcpSender.ts"

/** RFC 9293 section 3.3.2. LISTEN is the owner's business. */
export type TcpState =
  | "syn-sent"
  | "syn-received"
  | "established"
  | "fin-wait-1"
  | "fin-wait-2"
  | "close-wait"
  | "closing"
  | "last-ack"
  | "time-wait"
  | "closed"

const HANDSHAKE_TIMEOUT = 10_000
/** For so long the peer may leave unacknowledged what waits for it, even if it says that it cannot (RFC 6429). */
const USER_TIMEOUT = 30_000
/** For the peer's FIN after our own was acknowledged. */
const FIN_TIMEOUT = 10_000
/** Twice the maximum segment lifetime: nothing lives for longer on the few links that we know. */
const TIME_WAIT = 10_000
/** Between answers to segments without payload that cannot be right, or two ends would go on for ever (RFC 5961 section 7). */
const CHALLENGE_INTERVAL = 500
/** Of acknowledgments that say the same. */
const MAX_REPEATED_ACKS = 8

const MAX_MSS = { 4: MAX_PACKET_LENGTH - 40, 6: MAX_PACKET_LENGTH - 60 } as const
/** Of a peer that does not say (RFC 9293 section 3.7.1). */
const DEFAULT_MSS = { 4: 536, 6: 1220 } as const
/** No link is that narrow: whoever asks for less wants us to send many packets. */
const MIN_MSS = 88
/** A message of the largest size behind its length. */
const RECEIVE_CAPACITY = 65_537

/**
 * One TCP connection (RFC 9293, with the cautions of RFC 5961), without options but the MSS and without urgent data.
 * Feed it the segments of its two ends; after every call drain `pollPacket`, then wait for `pollTimeout`. Once the state
 * is "closed" and `pollPacket` has nothing, nothing will come of it any more.
 */
export class TcpConnection {
  readonly #ends: TcpEnds
  readonly #sender: TcpSender
  readonly #receiver: TcpReceiver
  readonly #mss: { readonly max: number; readonly default: number }
  #state: TcpState
  #acksDue = 0
  /** Not earlier than this. */
  #nextChallenge = Number.NEGATIVE_INFINITY
  /** Outside of the stream: a reset. */
  #reply: Uint8Array | undefined
  /** The end of a state that ends by itself. */
  #deadline: number | undefined

  private constructor(ends: TcpEnds, initial: number, state: "syn-sent" | "syn-received") {
    const family = ends.destination.length === 4 ? 4 : 6
    this.#mss = { max: MAX_MSS[family], default: DEFAULT_MSS[family] }
    this.#ends = ends
    this.#sender = new TcpSender(initial, this.#mss.max)
    this.#receiver = new TcpReceiver(RECEIVE_CAPACITY, this.#mss.max)
    this.#state = state
  }

  /** An active OPEN; `initial` is a random number. */
  static connect(ends: TcpEnds, initial: number): TcpConnection {
    return new TcpConnection(ends, initial, "syn-sent")
  }

  /** What a SYN without ACK opens. Payload that came with it has to come again. */
  static accept(ends: TcpEnds, initial: number, syn: TcpSegment): TcpConnection {
    const connection = new TcpConnection(ends, initial, "syn-received")
    connection.#synchronize(syn)
    return connection
  }

  get state(): TcpState {
    return this.#state
  }

  /** Whether the handshake is still going on. */
  get isOpening(): boolean {
    return this.#state === "syn-sent" || this.#state === "syn-received"
  }

  /** Whether the peer has said all, and all of it can be read. */
  get isPeerFinished(): boolean {
    return this.#receiver.isFinished
  }

  /** Bytes that can be read. */
  get readable(): number {
    return this.#receiver.length
  }

  /** Bytes that the peer has not acknowledged, sent or not. */
  get unacknowledged(): number {
    return this.#sender.length
  }

  /** One of the readable bytes. */
  at(index: number): number {
    return this.#receiver.at(index)
  }

  /** Takes the first `end` readable bytes, and returns those from `start` on. */
  read(start: number, end: number): Uint8Array {
    const bytes = this.#receiver.take(start, end)
    if (this.#receiver.isReopened && this.#state !== "closed") this.#acksDue = Math.max(1, this.#acksDue)
    return bytes
  }

  /** Without a limit, and before the handshake is over as well. Not after `close`. */
  write(bytes: Uint8Array): void {
    this.#sender.write(bytes)
  }

  /** Ends the connection behind what was written. What the peer sends from now on is refused with a reset. */
  close(): void {
    switch (this.#state) {
      case "syn-sent":
        this.#state = "closed"
        return
      case "syn-received":
      case "established":
        this.#state = "fin-wait-1"
        return this.#sender.finish()
      case "close-wait":
        this.#state = "last-ack"
        return this.#sender.finish()
    }
  }

  /** Ends the connection with a reset, if the peer knows of it. */
  abort(): void {
    if (this.#state !== "syn-sent" && this.#state !== "time-wait" && this.#state !== "closed") {
      this.#reply = this.#packet(TcpFlag.Rst | TcpFlag.Ack, this.#sender.edge)
    }
    this.#state = "closed"
  }

  /** Whether a SYN that comes in TIME-WAIT may open a new connection (RFC 9293 section 3.10.7.4, RFC 6191). */
  isReplacedBy(segment: TcpSegment): boolean {
    return this.#state === "time-wait" && (segment.flags & (TcpFlag.Syn | TcpFlag.Ack | TcpFlag.Rst)) === TcpFlag.Syn &&
      distance(segment.sequence, this.#receiver.next) > 0
  }

  /** A segment of this connection's ends. */
  handleSegment(segment: TcpSegment, now: number): void {
    if (this.#state === "closed") return
    if (this.#state === "syn-sent") return this.#handleInSynSent(segment, now)
    if (!this.#isAcceptable(segment)) return this.#refuse(segment, now)
    if (segment.has(TcpFlag.Rst)) return this.#handleReset(segment, now)
    if (segment.has(TcpFlag.Syn)) return this.#challenge(now)
    if (!segment.has(TcpFlag.Ack)) return
    if (this.#state === "syn-received" && !this.#establish(segment)) return
    if (!this.#sender.isPlausible(segment.acknowledgment)) return this.#challenge(now)
    this.#sender.acknowledged(
      segment.sequence,
      segment.acknowledgment,
      segment.window,
      segment.length === 0,
      now
    )
    if (this.#sender.isFinAcknowledged) this.#finAcknowledged(now)
    if (segment.length > 0) this.#handleStream(segment, now)
  }

  handleTimeout(now: number): void {
    if (this.#state === "closed") return
    if (this.#deadline !== undefined && now >= this.#deadline) {
      this.#state = "closed"
      return
    }
    if (this.#sender.pollTimeout() === undefined) return
    if (now >= this.#sender.progressAt + this.#patience) return this.abort()
    this.#sender.handleTimeout(now)
  }

  pollTimeout(): number | undefined {
    if (this.#state === "closed") return undefined
    const retransmission = this.#sender.pollTimeout()
    if (retransmission === undefined) return this.#deadline
    const sending = Math.min(retransmission, this.#sender.progressAt + this.#patience)
    return this.#deadline === undefined ? sending : Math.min(sending, this.#deadline)
  }

  pollPacket(now: number): Uint8Array | undefined {
    const reply = this.#reply
    if (reply !== undefined) {
      this.#reply = undefined
      return reply
    }
    if (this.#state === "closed") return undefined
    // Each of them counts for the peer's fast retransmit, but not if it carries something.
    if (this.#acksDue > 1) {
      this.#acksDue -= 1
      return this.#packet(TcpFlag.Ack, this.#sender.edge)
    }
    if (this.#sender.poll(now)) {
      this.#acksDue = 0
      const { isFin, isPushed, isSyn, payload, sequence } = this.#sender.outgoing
      const flags = (isSyn ? TcpFlag.Syn : 0) | (isFin ? TcpFlag.Fin : 0) | (isPushed ? TcpFlag.Psh : 0) |
        (this.#state === "syn-sent" ? 0 : TcpFlag.Ack)
      return this.#packet(flags, sequence, payload)
    }
    if (this.#acksDue === 0) return undefined
    this.#acksDue = 0
    return this.#packet(TcpFlag.Ack, this.#sender.edge)
  }

  get #patience(): number {
    return this.isOpening ? HANDSHAKE_TIMEOUT : USER_TIMEOUT
  }

  /** Section 3.10.7.3. */
  #handleInSynSent(segment: TcpSegment, now: number): void {
    const hasAck = segment.has(TcpFlag.Ack)
    if (hasAck && !this.#sender.isNew(segment.acknowledgment)) {
      if (!segment.has(TcpFlag.Rst)) this.#reply = resetFor(this.#ends, segment)
      return
    }
    if (segment.has(TcpFlag.Rst)) {
      if (hasAck) this.#state = "closed"
      return
    }
    if (!segment.has(TcpFlag.Syn)) return
    this.#synchronize(segment)
    if (!hasAck) {
      // Both ends called at once: our SYN goes out again, now with an ACK.
      this.#state = "syn-received"
      this.#sender.repeatSyn()
      return
    }
    this.#state = "established"
    this.#sender.acknowledged(segment.sequence, segment.acknowledgment, segment.window, false, now)
    this.#acksDue = 1
  }

  #synchronize(syn: TcpSegment): void {
    this.#receiver.start(syn.sequence)
    this.#receiver.advertise()
    this.#sender.start(syn.sequence, syn.window)
    this.#sender.limitSegments(Math.max(MIN_MSS, syn.mss === 0 ? this.#mss.default : syn.mss))
  }

  /** The first check of section 3.10.7.4, generous to what stands at the very edge of a closed window. */
  #isAcceptable(segment: TcpSegment): boolean {
    const { next, window } = this.#receiver
    const start = distance(segment.sequence, next)
    if (start === 0) return true
    const { length } = segment
    return start > 0 ? start < window : length > 0 && start + length > 0
  }

  #refuse(segment: TcpSegment, now: number): void {
    if (segment.has(TcpFlag.Rst)) return
    const isSyn = (segment.flags & (TcpFlag.Syn | TcpFlag.Ack)) === TcpFlag.Syn
    if (this.#state === "syn-received" && isSyn) return this.#sender.repeatSyn()
    if (this.#state === "time-wait" && segment.has(TcpFlag.Fin)) this.#deadline = now + TIME_WAIT
    // A probe into our closed window, or a repetition: the peer waits for an answer.
    if (segment.length > 0) this.#acksDue = Math.max(1, this.#acksDue)
    else this.#challenge(now)
  }

  /** RFC 5961 section 3.2: only the exact number ends it. */
  #handleReset(segment: TcpSegment, now: number): void {
    if (segment.sequence === this.#receiver.next) this.#state = "closed"
    else this.#challenge(now)
  }

  #challenge(now: number): void {
    if (now < this.#nextChallenge) return
    this.#nextChallenge = now + CHALLENGE_INTERVAL
    this.#acksDue = Math.max(1, this.#acksDue)
  }

  /** Returns false if the segment does not acknowledge our SYN. */
  #establish(segment: TcpSegment): boolean {
    if (!this.#sender.isNew(segment.acknowledgment)) {
      this.#reply = resetFor(this.#ends, segment)
      return false
    }
    this.#state = "established"
    return true
  }

  #finAcknowledged(now: number): void {
    switch (this.#state) {
      case "fin-wait-1":
        this.#state = "fin-wait-2"
        this.#deadline = now + FIN_TIMEOUT
        return
      case "closing":
        return this.#waitForDuplicates(now)
      case "last-ack":
        this.#state = "closed"
    }
  }

  #waitForDuplicates(now: number): void {
    this.#state = "time-wait"
    this.#deadline = now + TIME_WAIT
  }

  /** Payload and FIN. */
  #handleStream(segment: TcpSegment, now: number): void {
    switch (this.#state) {
      case "established":
      case "fin-wait-1":
      case "fin-wait-2":
        break
      default:
        // After the peer's FIN nothing new can come, but it may not have heard that we know.
        this.#acksDue = Math.max(1, this.#acksDue)
        return
    }
    const { next } = this.#receiver
    const { payload, payloadLength, sequence } = segment
    const isNewData = payloadLength > 0 && distance(advance(sequence, payloadLength), next) > 0
    if (isNewData && this.#state !== "established") return this.abort()
    const isInOrder = this.#receiver.receive(sequence, segment.buffer, payload, payloadLength, segment.has(TcpFlag.Fin))
    // A gap is told for every segment that leaves it (RFC 5681 section 4.2).
    this.#acksDue = isInOrder ? Math.max(1, this.#acksDue) : Math.min(MAX_REPEATED_ACKS, this.#acksDue + 1)
    if (this.#receiver.isFinished) this.#peerFinished(now)
  }

  #peerFinished(now: number): void {
    switch (this.#state) {
      case "established":
        this.#state = "close-wait"
        return
      case "fin-wait-1":
        this.#state = "closing"
        return
      case "fin-wait-2":
        this.#waitForDuplicates(now)
    }
  }

  #packet(flags: number, sequence: number, payload?: Uint8Array): Uint8Array {
    return tcpPacket(this.#ends, {
      sequence,
      acknowledgment: (flags & TcpFlag.Ack) === 0 ? 0 : this.#receiver.next,
      flags,
      window: this.#receiver.advertise(),
      mss: (flags & TcpFlag.Syn) === 0 ? 0 : this.#mss.max
    }, payload)
  }
}

/** The reset for a segment that belongs to no connection (section 3.10.7.1); the segment is no reset itself. */
export const resetFor = (ends: TcpEnds, segment: TcpSegment): Uint8Array =>
  segment.has(TcpFlag.Ack)
    ? tcpPacket(ends, { sequence: segment.acknowledgment, acknowledgment: 0, flags: TcpFlag.Rst, window: 0, mss: 0 })
    : tcpPacket(ends, {
      sequence: 0,
      acknowledgment: advance(segment.sequence, segment.length),
      flags: TcpFlag.Rst | TcpFlag.Ack,
      window: 0,
      mss: 0
    })
