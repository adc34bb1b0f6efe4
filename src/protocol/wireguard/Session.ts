import type { Crypto, DataCipher } from "../crypto.ts"
import type { TransportKeys } from "./handshake.ts"
import { ReplayWindow } from "./ReplayWindow.ts"

/** A session is removed at this age, milliseconds. */
export const REJECT_AFTER_TIME = 180_000
/** Its initiator stops sending on it before, so that the last packets still arrive in time. */
export const INITIATOR_SENDS_FOR = 170_000

/** The keys of one completed handshake and what was done with them. Times are monotonic milliseconds. */
export class Session {
  readonly localIndex: number
  readonly remoteIndex: number
  readonly isInitiator: boolean
  readonly establishedAt: number
  /** No packet is sent from this time on. */
  readonly sendsUntil: number
  readonly expiresAt: number
  readonly sender: DataCipher
  readonly receiver: DataCipher
  readonly window = new ReplayWindow()
  nextCounter = 0
  /** Whether data, as opposed to keep-alives, went out or came in. */
  dataSent = false
  dataReceived = false

  constructor(
    crypto: Crypto,
    keys: TransportKeys,
    localIndex: number,
    remoteIndex: number,
    isInitiator: boolean,
    now: number
  ) {
    this.localIndex = localIndex
    this.remoteIndex = remoteIndex
    this.isInitiator = isInitiator
    this.establishedAt = now
    this.sendsUntil = now + (isInitiator ? INITIATOR_SENDS_FOR : REJECT_AFTER_TIME)
    this.expiresAt = now + REJECT_AFTER_TIME
    this.sender = crypto.dataCipher(keys.send)
    this.receiver = crypto.dataCipher(keys.receive)
  }
}

/** Sessions of a tunnel that can be received on: an old one survives until eight newer handshakes. */
export const SESSION_SLOTS = 8

export class SessionRing {
  readonly #slots: Array<Session | undefined> = Array.from({ length: SESSION_SLOTS }, () => undefined)

  add(session: Session): void {
    this.#slots[session.localIndex % SESSION_SLOTS] = session
  }

  find(localIndex: number): Session | undefined {
    const session = this.#slots[localIndex % SESSION_SLOTS]
    return session?.localIndex === localIndex ? session : undefined
  }

  removeExpired(now: number): void {
    for (let slot = 0; slot < SESSION_SLOTS; slot++) {
      const session = this.#slots[slot]
      if (session !== undefined && now >= session.expiresAt) this.#slots[slot] = undefined
    }
  }

  clear(): void {
    this.#slots.fill(undefined)
  }

  /** When the next session expires. */
  nextExpiry(): number {
    let next = Number.POSITIVE_INFINITY
    for (const session of this.#slots) if (session !== undefined && session.expiresAt < next) next = session.expiresAt
    return next
  }
}
