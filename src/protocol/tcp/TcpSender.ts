import { ByteQueue } from "./ByteQueue.ts"
import { CongestionWindow } from "./CongestionWindow.ts"
import { RetransmissionTimeout } from "./RetransmissionTimeout.ts"
import { advance, distance } from "./sequence.ts"

/** So many duplicates of an acknowledgment mean a loss (RFC 5681 section 3.2). */
const DUPLICATES = 3

/** What is to be sent next, after a `poll` that returned true. */
export interface Outgoing {
  sequence: number
  isSyn: boolean
  isFin: boolean
  /** Nothing more is waiting behind it. */
  isPushed: boolean
  /** A view, valid until the next change. */
  payload: Uint8Array
}

const NOTHING = new Uint8Array(0)

/**
 * The sending half of a connection: SYN, bytes and FIN in one space of sequence numbers, sent within the windows of the
 * peer and of the network, and again when they seem lost. After a time-out it begins anew at the oldest byte.
 */
export class TcpSender {
  readonly outgoing: Outgoing = { sequence: 0, isSyn: false, isFin: false, isPushed: false, payload: NOTHING }
  readonly #queue = new ByteQueue()
  readonly #timeout = new RetransmissionTimeout()
  readonly #initial: number
  #mss: number
  #congestion: CongestionWindow
  /** SND.UNA, SND.NXT and the furthest that SND.NXT ever was. */
  #unacknowledged: number
  #next: number
  #furthest: number
  /** SND.WND and SND.WL1, and the largest window that there was. SND.WL2 would always be behind SND.UNA. */
  #window = 0
  #windowSequence = 0
  #maxWindow = 0
  #isSynAcknowledged = false
  #isSynRepeated = false
  #isFinishing = false
  #isFinSent = false
  #duplicates = 0
  /** Fast recovery lasts until this is acknowledged. */
  #recovery: number | undefined
  /** Acknowledgments up to here cannot begin a recovery: they may be for what was sent twice (RFC 6582 section 4). */
  #recovered: number
  #isRetransmitDue = false
  /** One segment goes out, however small the window is: a repetition, or a question whether it has opened. */
  #isForced = false
  /** What is being timed, and since when. */
  #timedEnd: number | undefined
  #timedSince = 0
  #deadline: number | undefined
  #isIdle = true
  #progressAt = 0

  constructor(initial: number, mss: number) {
    this.#initial = initial
    this.#unacknowledged = initial
    this.#next = initial
    this.#furthest = initial
    this.#recovered = initial
    this.#mss = mss
    this.#congestion = new CongestionWindow(mss)
  }

  /** Where a segment without anything stands: behind what was sent, but not beyond the window, or it would be refused. */
  get edge(): number {
    const limit = advance(this.#unacknowledged, this.#window)
    return this.#isSynAcknowledged && distance(this.#furthest, limit) > 0 ? limit : this.#furthest
  }

  /** Bytes that the peer has not acknowledged, sent or not. */
  get length(): number {
    return this.#queue.length
  }

  get isFinAcknowledged(): boolean {
    return this.#isFinSent && this.#unacknowledged === this.#furthest
  }

  /** Since when something has been waiting for the peer, who has not moved. Means something while `pollTimeout` does. */
  get progressAt(): number {
    return this.#progressAt
  }

  write(bytes: Uint8Array): void {
    this.#queue.append(bytes)
  }

  /** A FIN goes behind what was written. */
  finish(): void {
    this.#isFinishing = true
  }

  /** The peer takes no larger segments. */
  limitSegments(mss: number): void {
    if (mss >= this.#mss) return
    this.#mss = mss
    this.#congestion = new CongestionWindow(mss)
  }

  /** Sends the SYN again at once, if it still matters. */
  repeatSyn(): void {
    if (this.#isSynAcknowledged || this.#next === this.#initial) return
    this.#next = this.#initial
    this.#isSynRepeated = true
    this.#timedEnd = undefined
  }

  /** The window of the peer's SYN. */
  start(sequence: number, window: number): void {
    this.#windowSequence = sequence
    this.#window = window
    this.#maxWindow = window
  }

  /** Whether SEG.ACK is of something that was sent and new: what a handshake waits for. */
  isNew(acknowledgment: number): boolean {
    return distance(acknowledgment, this.#unacknowledged) > 0 && distance(acknowledgment, this.#furthest) <= 0
  }

  /** Whether an acknowledgment can be from this connection (RFC 5961 section 5.2). */
  isPlausible(acknowledgment: number): boolean {
    return distance(acknowledgment, this.#furthest) <= 0 &&
      distance(acknowledgment, this.#unacknowledged) >= -this.#maxWindow
  }

  /** Takes a plausible acknowledgment. `isBare`: the segment occupies no sequence numbers. */
  acknowledged(sequence: number, acknowledgment: number, window: number, isBare: boolean, now: number): void {
    const count = distance(acknowledgment, this.#unacknowledged)
    if (count > 0) {
      this.#advance(acknowledgment, count, now)
    } else if (count === 0 && isBare && window === this.#window && this.#furthest !== acknowledgment) {
      this.#duplicate()
    }
    if (count < 0 || distance(sequence, this.#windowSequence) < 0) return
    this.#window = window
    this.#maxWindow = Math.max(this.#maxWindow, window)
    this.#windowSequence = sequence
  }

  /** Whether there is something to send now, described by `outgoing`; it counts as sent. */
  poll(now: number): boolean {
    if (!this.#isSynAcknowledged) return this.#pollSyn(now)
    if (this.#isRetransmitDue) return this.#retransmit(now)
    if (this.isFinAcknowledged) return false
    const offset = distance(this.#next, this.#unacknowledged)
    const unsent = this.#queue.length - offset
    // The FIN has been sent if `unsent` is negative.
    if (unsent < 0 || unsent === 0 && !this.#isFinishing) return false
    const room = Math.min(this.#window, this.#congestion.size) - offset
    const length = Math.min(unsent, this.#mss, this.#isForced ? Math.max(1, room) : room)
    if (!this.#isForced && !this.#isWorthSending(length, unsent, room)) {
      // Nobody may ever tell that the window has opened.
      if (offset === 0 && this.#deadline === undefined) this.#arm(now)
      return false
    }
    this.#isForced = false
    this.#describe(this.#next, offset, length, this.#isFinishing && length === unsent)
    this.#sent(now, advance(this.#next, length + (this.outgoing.isFin ? 1 : 0)))
    return true
  }

  /** Does nothing before the deadline. */
  handleTimeout(now: number): void {
    if (this.#deadline === undefined || now < this.#deadline) return
    this.#deadline = undefined
    this.#timedEnd = undefined
    this.#timeout.backOff()
    const underWay = distance(this.#furthest, this.#unacknowledged)
    if (!this.#isSynAcknowledged) this.#isSynRepeated = true
    else if (this.#window > 0 && underWay > 0) this.#congestion.timedOut(underWay)
    this.#isForced = true
    this.#next = this.#unacknowledged
    this.#recovery = undefined
    this.#recovered = this.#furthest
    this.#isRetransmitDue = false
    this.#duplicates = 0
  }

  pollTimeout(): number | undefined {
    return this.#deadline
  }

  #pollSyn(now: number): boolean {
    if (this.#next !== this.#initial) return false
    this.#describe(this.#initial, 0, 0, false)
    this.outgoing.isSyn = true
    this.#sent(now, advance(this.#initial, 1))
    return true
  }

  /** The oldest segment once more. */
  #retransmit(now: number): boolean {
    this.#isRetransmitDue = false
    const sent = Math.min(this.#queue.length, distance(this.#furthest, this.#unacknowledged))
    const length = Math.min(this.#mss, sent)
    this.#timedEnd = undefined
    this.#describe(this.#unacknowledged, 0, length, this.#isFinSent && length === this.#queue.length)
    this.#deadline = now + this.#timeout.current
    return true
  }

  /** Not with a small segment while a larger one is possible soon (RFC 9293 section 3.8.6.2.1, without Nagle's wait). */
  #isWorthSending(length: number, unsent: number, room: number): boolean {
    if (room <= 0) return false
    return length === this.#mss || length === unsent || 2 * length >= this.#maxWindow
  }

  #describe(sequence: number, offset: number, length: number, isFin: boolean): void {
    const { outgoing } = this
    outgoing.sequence = sequence
    outgoing.isSyn = false
    outgoing.isFin = isFin
    outgoing.isPushed = length > 0 && offset + length === this.#queue.length
    outgoing.payload = this.#queue.view(offset, offset + length)
  }

  #sent(now: number, next: number): void {
    if (distance(next, this.#furthest) > 0) {
      if (this.#timedEnd === undefined && this.#next === this.#furthest) {
        this.#timedEnd = next
        this.#timedSince = now
      }
      this.#furthest = next
    }
    if (this.outgoing.isFin) this.#isFinSent = true
    this.#next = next
    if (this.#deadline === undefined) this.#arm(now)
  }

  #arm(now: number): void {
    if (this.#isIdle) this.#progressAt = now
    this.#isIdle = false
    this.#deadline = now + this.#timeout.current
  }

  #advance(acknowledgment: number, count: number, now: number): void {
    if (!this.#isSynAcknowledged) {
      this.#isSynAcknowledged = true
      this.#isForced = false
      this.#unacknowledged = advance(this.#initial, 1)
      if (this.#isSynRepeated) this.#timeout.fallBack()
    }
    this.#measure(acknowledgment, now)
    this.#queue.discard(Math.min(distance(acknowledgment, this.#unacknowledged), this.#queue.length))
    this.#unacknowledged = acknowledgment
    if (distance(this.#next, acknowledgment) < 0) this.#next = acknowledgment
    this.#progressAt = now
    this.#duplicates = 0
    this.#isRetransmitDue = false
    this.#recover(acknowledgment, count)
    this.#isIdle = acknowledgment === this.#furthest
    this.#deadline = this.#isIdle ? undefined : now + this.#timeout.current
  }

  #measure(acknowledgment: number, now: number): void {
    if (this.#timedEnd === undefined || distance(acknowledgment, this.#timedEnd) < 0) return
    this.#timedEnd = undefined
    this.#timeout.measured(now - this.#timedSince)
  }

  #recover(acknowledgment: number, count: number): void {
    if (this.#recovery === undefined) return this.#congestion.acknowledged(count)
    if (distance(acknowledgment, this.#recovery) < 0) {
      this.#isRetransmitDue = true
      return this.#congestion.partiallyAcknowledged(count)
    }
    this.#recovery = undefined
    this.#congestion.leaveRecovery(distance(this.#furthest, acknowledgment))
  }

  #duplicate(): void {
    this.#duplicates += 1
    if (this.#recovery !== undefined) return this.#congestion.duplicate()
    if (this.#duplicates !== DUPLICATES || distance(this.#unacknowledged, this.#recovered) <= 0) return
    this.#recovery = this.#furthest
    this.#recovered = this.#furthest
    this.#isRetransmitDue = true
    this.#congestion.enterRecovery(distance(this.#furthest, this.#unacknowledged))
  }
}
