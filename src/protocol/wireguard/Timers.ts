import type { Session } from "./Session.ts"
import { REJECT_AFTER_TIME } from "./Session.ts"
import type { WireguardTimers } from "./types.ts"

/** An initiator that sent data makes a new session when the current one has this age, milliseconds. */
export const REKEY_AFTER_TIME = 120_000
/** Without a new session for this long the tunnel has expired. */
export const REJECT_AFTER_TIMES_3 = 3 * REJECT_AFTER_TIME
/** Largest random delay of a handshake that a timer starts. */
export const MAX_JITTER = 333

const NEVER = Number.POSITIVE_INFINITY

/**
 * When to speak without being asked (connectivity spec 11.6): deadlines in monotonic milliseconds, `Infinity` for none.
 * Told what happened, it answers what is due; it sends nothing itself.
 */
export class Timers {
  readonly #profile: WireguardTimers
  /** Age at which an initiator that received data makes a new session. */
  readonly #rekeyAfterReceiving: number
  /** Since when the tunnel waits for a session: its creation, then each new session. */
  #sessionAt: number
  /** By then something must be heard, or a new handshake starts. */
  #answerBy = NEVER
  /** A keep-alive is due, because data came in and nothing went out since. */
  #keepaliveAt = NEVER
  /** First and latest initiation of the handshake in flight. */
  #firstTryAt = NEVER
  #latestTryAt = NEVER
  /** Where the jitter has put the initiation that was due at `#delayedFrom`. */
  #delayedUntil = NEVER
  #delayedFrom = NEVER

  constructor(profile: WireguardTimers, now: number) {
    this.#profile = profile
    this.#rekeyAfterReceiving = REJECT_AFTER_TIME - profile.keepaliveTimeout - profile.rekeyTimeout
    this.#sessionAt = now
  }

  get isHandshaking(): boolean {
    return this.#firstTryAt !== NEVER
  }

  sentInitiation(now: number): void {
    if (this.#firstTryAt === NEVER) this.#firstTryAt = now
    this.#latestTryAt = now
    this.sent()
  }

  /** Our handshake was answered, or its answer does not matter any more. */
  endedHandshake(): void {
    this.#firstTryAt = NEVER
    this.#latestTryAt = NEVER
  }

  newSession(now: number): void {
    this.#sessionAt = now
  }

  /** The peer uses a session of its own making: what we asked for is there if it was made since. */
  confirmedSession(establishedAt: number): void {
    if (establishedAt >= this.#firstTryAt) this.endedHandshake()
  }

  /** Anything went out. */
  sent(): void {
    this.#keepaliveAt = NEVER
  }

  sentData(now: number): void {
    this.#keepaliveAt = NEVER
    if (this.#answerBy === NEVER) this.#answerBy = now + this.#profile.keepaliveTimeout + this.#profile.rekeyTimeout
  }

  /** Anything authentic came in. */
  received(): void {
    this.#answerBy = NEVER
  }

  receivedData(now: number): void {
    this.#answerBy = NEVER
    if (this.#keepaliveAt === NEVER) this.#keepaliveAt = now + this.#profile.keepaliveTimeout
  }

  /** Whether a keep-alive is due; says so once. */
  takeKeepalive(now: number): boolean {
    if (now < this.#keepaliveAt) return false
    this.#keepaliveAt = NEVER
    return true
  }

  /** Whether to give up for good. */
  isExpired(now: number): boolean {
    return now >= this.#expiresAt()
  }

  /**
   * Whether to send an initiation now: when a rule has asked for one and its jitter has passed. `jitter` draws one, in
   * milliseconds.
   */
  isInitiationDue(current: Session | undefined, now: number, jitter: () => number): boolean {
    const dueAt = this.#initiationDueAt(current)
    if (now < dueAt) return false
    if (this.#delayedFrom !== dueAt) {
      this.#delayedFrom = dueAt
      this.#delayedUntil = now + jitter()
    }
    return now >= this.#delayedUntil
  }

  /** When to ask again. */
  next(current: Session | undefined): number {
    const dueAt = this.#initiationDueAt(current)
    return Math.min(dueAt === this.#delayedFrom ? this.#delayedUntil : dueAt, this.#keepaliveAt, this.#expiresAt())
  }

  #expiresAt(): number {
    return Math.min(this.#sessionAt + REJECT_AFTER_TIMES_3, this.#firstTryAt + this.#profile.rekeyAttemptTime)
  }

  #initiationDueAt(current: Session | undefined): number {
    if (this.#firstTryAt !== NEVER) return this.#latestTryAt + this.#profile.rekeyTimeout
    if (current === undefined || !current.isInitiator) return this.#answerBy
    const age = current.dataSent
      ? REKEY_AFTER_TIME
      : current.dataReceived
      ? this.#rekeyAfterReceiving
      : REJECT_AFTER_TIME
    return Math.min(this.#answerBy, current.establishedAt + age)
  }
}
