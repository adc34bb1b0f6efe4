import type { SocketAddress } from "../wire/address.ts"
import { type CandidateKind, pairPriority } from "./candidate.ts"
import { checkDelay, type CheckSchedule } from "./checkSchedule.ts"

/** A candidate of ours. */
export interface LocalEnd {
  readonly kind: CandidateKind
  readonly address: SocketAddress
  /** What we send from: a socket address of ours, or `address` itself if a relay holds it. */
  readonly base: SocketAddress
  readonly preference: number
  readonly priority: number
  withdrawn: boolean
}

/** A candidate of the peer's. Changes kind and priority when a peer-reflexive one turns out to be signalled. */
export interface RemoteEnd {
  kind: CandidateKind
  priority: number
  related: SocketAddress | undefined
  readonly address: SocketAddress
  withdrawn: boolean
}

interface Attempt {
  readonly transaction: string
  readonly sentAt: number
  answered: boolean
}

/** A check from the peer keeps a pair alive for this long though our own are lost. */
const PEER_CHECK_GRACE = 15_000
/** Unanswered checks after which a pair has to be believed in by the peer. */
const MAX_UNANSWERED = 4
/** Unanswered checks, over 5 s at most, after which a pair is left for one whose checks are answered meanwhile. */
const SILENT_AFTER = 6
/**
 * By answers so much later than the first of them: what was on its way when both went silent proves nothing. And by two,
 * so far apart that it had a check in between: of a peer that was asleep one pair has to be the first. Milliseconds.
 */
const SILENT_MILLIS = 1500
const BETWEEN_ANSWERS = 1000

/** One local and one remote candidate, and the checks between them (connectivity spec 9.6). */
export class CandidatePair {
  readonly local: LocalEnd
  remote: RemoteEnd
  priority = 0n
  /** Whether a check of ours was ever answered. */
  succeeded = false
  /** Controlling: we have said USE-CANDIDATE. Controlled: the peer has. */
  nominated = false
  /** Smoothed over answered checks, 7/8 old and 1/8 new, milliseconds. */
  rtt: number | undefined
  #attempts: Array<Attempt> = []
  /** Attempts since the latest answered one, and when the first of them was sent. */
  #streak = 0
  #streakSince = 0
  #checkNow = true
  #peerCheckedAt = Number.NEGATIVE_INFINITY
  /** The latest two answers that were so far apart. */
  #answeredAt = Number.NEGATIVE_INFINITY
  #answeredBefore = Number.NEGATIVE_INFINITY

  constructor(local: LocalEnd, remote: RemoteEnd, controlling: boolean) {
    this.local = local
    this.remote = remote
    this.updatePriority(controlling)
  }

  updatePriority(controlling: boolean): void {
    const [ours, theirs] = [this.local.priority, this.remote.priority]
    this.priority = controlling ? pairPriority(ours, theirs) : pairPriority(theirs, ours)
  }

  nominate(): void {
    this.nominated = true
    this.#checkNow = true
  }

  peerChecked(now: number): void {
    this.#peerCheckedAt = now
  }

  /** Whether it seems to work: our latest checks were answered, or the peer has checked it lately. */
  isAlive(now: number): boolean {
    return this.#streak < MAX_UNANSWERED || now < this.#peerCheckedAt + PEER_CHECK_GRACE
  }

  /** Whether our checks are lost here while the other pair's are answered, so that it is this path that is broken. */
  isOutdoneBy(other: CandidatePair): boolean {
    return this.#streak >= SILENT_AFTER && other.#answeredBefore >= this.#streakSince + SILENT_MILLIS
  }

  sentCheck(transaction: string, schedule: CheckSchedule, now: number): void {
    this.#checkNow = false
    if (this.#streak === 0) this.#streakSince = now
    this.#streak += 1
    this.#attempts.push({ transaction, sentAt: now, answered: false })
    while (this.#attempts.length > schedule.maxRetransmits) this.#attempts.shift()
    if (this.#streak > this.#attempts.length) {
      this.#streak = this.#attempts.length
      this.#streakSince = this.#attempts[0]?.sentAt ?? now
    }
  }

  /** Returns whether the transaction is one of this pair's and was not answered before. */
  answered(transaction: string, now: number): boolean {
    const index = this.#attempts.findIndex((attempt) => attempt.transaction === transaction && !attempt.answered)
    const attempt = this.#attempts[index]
    if (attempt === undefined) return false
    attempt.answered = true
    this.succeeded = true
    if (now >= this.#answeredAt + BETWEEN_ANSWERS) [this.#answeredBefore, this.#answeredAt] = [this.#answeredAt, now]
    const sample = now - attempt.sentAt
    this.rtt = this.rtt === undefined ? sample : this.rtt * 7 / 8 + sample / 8
    const latest = this.#attempts.findLastIndex((other) => other.answered)
    this.#streak = this.#attempts.length - 1 - latest
    this.#streakSince = this.#attempts[latest + 1]?.sentAt ?? now
    return true
  }

  nextCheckAt(schedule: CheckSchedule): number {
    const last = this.#attempts.at(-1)
    if (this.#checkNow || last === undefined) return 0
    const regular = last.sentAt + checkDelay(schedule, this.#attempts.length)
    if (this.#streak === 0) return regular
    // A pair that stopped answering is asked more often.
    const suspicious = Math.max(
      this.#streakSince + schedule.maxRto / 2,
      last.sentAt + checkDelay(schedule, this.#streak)
    )
    return Math.min(regular, suspicious)
  }

  /** When the pair is to be given up if nothing happens; `undefined` while checks are left. */
  deadAt(schedule: CheckSchedule): number | undefined {
    const { maxRetransmits } = schedule
    const last = this.#attempts.at(-1)
    if (last === undefined || this.#streak < maxRetransmits) return undefined
    return Math.max(last.sentAt + checkDelay(schedule, maxRetransmits), this.#peerCheckedAt + PEER_CHECK_GRACE)
  }
}
