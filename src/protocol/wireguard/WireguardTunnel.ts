import { CIPHER_HEADROOM, CIPHER_TAILROOM, type Crypto } from "../crypto.ts"
import {
  classify,
  DATA,
  DATA_HEADER_LENGTH,
  DATA_OVERHEAD,
  MessageType,
  readCounter,
  readReceiverIndex,
  readSenderIndex,
  TAG_LENGTH,
  writeDataHeader
} from "../wire/wireguard.ts"
import {
  COOKIE_LIFETIME,
  cookieKey,
  type LastHandshakeMessage,
  mac1Key,
  openCookieReply,
  readMac1,
  writeMacs
} from "./cookie.ts"
import {
  consumeInitiation,
  consumeResponse,
  createInitiation,
  createResponse,
  type Identity,
  makeIdentity,
  type SentInitiation,
  type TransportKeys
} from "./handshake.ts"
import { innerLength } from "./innerLength.ts"
import { equalBytes } from "./primitives.ts"
import { Session, SessionRing } from "./Session.ts"
import { isLater, Tai64nClock } from "./Tai64nClock.ts"
import { MAX_JITTER, Timers } from "./Timers.ts"
import type { HandshakeOutcome, WireguardOptions, WireguardTunnelApi } from "./types.ts"

/** Messages that wait for `pollTransmit`; the oldest is dropped, as the network might. */
const OUTBOX_LIMIT = 16

interface Attempt extends SentInitiation {
  readonly sentAt: number
}

/** One peer's WireGuard state; the contract is `WireguardTunnelApi`. `now` of the constructor is its creation. */
export class WireguardTunnel implements WireguardTunnelApi {
  readonly #crypto: Crypto
  readonly #identity: Identity | undefined
  readonly #indexPrefix: number
  readonly #attemptTime: number
  readonly #clock: Tai64nClock
  readonly #timers: Timers
  readonly #mac1Key: Uint8Array
  readonly #cookieKey: Uint8Array
  readonly #sessions = new SessionRing()
  readonly #outbox: Array<Uint8Array> = []
  /** The one we send on. After its expiry only its age counts, until the next handshake. */
  #current: Session | undefined
  /** Unanswered initiations: the latest and the one before. */
  #attempt: Attempt | undefined
  #previousAttempt: Attempt | undefined
  #lastTimestamp: Uint8Array = new Uint8Array(12)
  #lastMessage: LastHandshakeMessage | undefined
  #cookie: Uint8Array | undefined
  #cookieExpiresAt = 0
  #sessionNumber = 0
  #latestNow: number
  #lastHandshakeAt: number | undefined
  #expired: boolean
  #bytesSent = 0
  #bytesReceived = 0

  constructor(options: WireguardOptions, now: number) {
    this.#crypto = options.crypto
    this.#identity = makeIdentity(options.crypto, options.privateKey, options.remoteKey, options.presharedKey)
    this.#indexPrefix = options.indexPrefix & 0xff_ffff
    this.#attemptTime = options.timers.rekeyAttemptTime
    this.#clock = new Tai64nClock(options.unixEpochMillis)
    this.#timers = new Timers(options.timers, now)
    this.#mac1Key = mac1Key(options.remoteKey)
    this.#cookieKey = cookieKey(options.remoteKey)
    this.#latestNow = now
    this.#expired = this.#identity === undefined // no handshake with such a key can succeed
  }

  seal(buffer: Uint8Array, offset: number, length: number, now: number): boolean {
    this.#latestNow = now
    const session = this.#current
    // The counter: 2^53 packets take longer than a session lives, the check is for the one who broke that.
    if (session === undefined || now >= session.sendsUntil || session.nextCounter >= Number.MAX_SAFE_INTEGER) {
      return false
    }
    const counter = session.nextCounter++
    session.sender.seal(counter, buffer, offset, length)
    writeDataHeader(buffer, offset - DATA_HEADER_LENGTH, session.remoteIndex, counter)
    if (length > 0) {
      session.dataSent = true
      this.#bytesSent += length
      this.#timers.sentData(now)
    } else {
      this.#timers.sent()
    }
    return true
  }

  open(
    input: Uint8Array,
    offset: number,
    length: number,
    output: Uint8Array,
    outputOffset: number,
    now: number
  ): number {
    this.#latestNow = now
    if (classify(input, offset, length) !== MessageType.Data) return -1
    const textLength = length - DATA_OVERHEAD
    if (outputOffset < CIPHER_HEADROOM || outputOffset + textLength + CIPHER_TAILROOM > output.length) return -1
    const session = this.#sessions.find(readReceiverIndex(input, offset))
    if (session === undefined || now >= session.expiresAt) return -1
    const counter = readCounter(input, offset)
    if (counter > Number.MAX_SAFE_INTEGER - 1 || !session.window.isFresh(counter)) return -1
    const sealedLength = textLength + TAG_LENGTH
    if (!session.receiver.open(counter, input, offset + DATA.ciphertext, sealedLength, output, outputOffset)) return -1

    session.window.mark(counter)
    if (session !== this.#current) this.#prefer(session)
    if (textLength === 0) {
      this.#timers.received()
      return 0
    }
    const packetLength = innerLength(output, outputOffset, textLength)
    if (packetLength === -1) {
      this.#timers.received()
      return -1
    }
    session.dataReceived = true
    this.#bytesReceived += packetLength
    this.#timers.receivedData(now)
    return packetLength
  }

  initiate(now: number): void {
    this.#latestNow = now
    if (!this.#expired && !this.#timers.isHandshaking) this.#sendInitiation(now)
  }

  handleInitiation(message: Uint8Array, now: number): HandshakeOutcome {
    this.#latestNow = now
    const identity = this.#identity
    if (identity === undefined || this.#expired || !isWhole(message, MessageType.Initiation)) return "Rejected"
    const received = consumeInitiation(identity, message)
    if (
      received === undefined || !equalBytes(received.remoteKey, identity.remoteKey)
      || !isLater(received.timestamp, this.#lastTimestamp)
    ) {
      return "Rejected"
    }
    const localIndex = this.#nextIndex()
    const response = createResponse(identity, received, localIndex)
    if (response === undefined) return "Rejected"
    this.#lastTimestamp = received.timestamp
    this.#timers.received()
    this.#addSession(response.keys, localIndex, received.remoteIndex, false, now)
    this.#transmitHandshake(response.message, localIndex, now)
    this.#timers.sent()
    return "SessionPending"
  }

  handleResponse(message: Uint8Array, now: number): HandshakeOutcome {
    this.#latestNow = now
    const identity = this.#identity
    if (identity === undefined || this.#expired || !isWhole(message, MessageType.Response)) return "Rejected"
    const index = readReceiverIndex(message, 0)
    const attempt = this.#attempt?.localIndex === index
      ? this.#attempt
      : this.#previousAttempt?.localIndex === index
      ? this.#previousAttempt
      : undefined
    if (attempt === undefined || now >= attempt.sentAt + this.#attemptTime) return "Rejected"
    const keys = consumeResponse(identity, attempt, message)
    if (keys === undefined) return "Rejected"
    // A late answer leaves the newer attempt answerable, but nobody waits for it any more. The other way round the peer has
    // replaced the older session, if it knows it at all: an answer that was overtaken must not bring it back.
    if (attempt === this.#attempt) this.#attempt = undefined
    this.#previousAttempt = undefined
    this.#timers.received()
    this.#timers.endedHandshake()
    this.#use(this.#addSession(keys, index, readSenderIndex(message, 0), true, now))
    this.#sendKeepalive(now)
    return "SessionEstablished"
  }

  handleCookieReply(message: Uint8Array, now: number): HandshakeOutcome {
    this.#latestNow = now
    if (this.#expired || !isWhole(message, MessageType.CookieReply) || this.#lastMessage === undefined) {
      return "Rejected"
    }
    const cookie = openCookieReply(message, this.#cookieKey, this.#lastMessage)
    if (cookie === undefined) return "Rejected"
    this.#lastMessage = undefined // answered: a replay must not prolong the cookie's life
    this.#cookie = cookie
    this.#cookieExpiresAt = now + COOKIE_LIFETIME
    this.#timers.received()
    return "CookieStored"
  }

  get hasSession(): boolean {
    return this.#current !== undefined && this.#latestNow < this.#current.sendsUntil
  }

  get isHandshaking(): boolean {
    return this.#timers.isHandshaking
  }

  get lastHandshakeAt(): number | undefined {
    return this.#lastHandshakeAt
  }

  get expired(): boolean {
    return this.#expired
  }

  get bytesSent(): number {
    return this.#bytesSent
  }

  get bytesReceived(): number {
    return this.#bytesReceived
  }

  handleTimeout(now: number): void {
    this.#latestNow = now
    if (this.#expired) return
    if (this.#timers.isExpired(now)) return this.#expire()
    this.#sessions.removeExpired(now)
    if (this.#current !== undefined && !this.#current.isInitiator && now >= this.#current.expiresAt) {
      this.#current = undefined
    }
    if (this.#timers.isInitiationDue(this.#current, now, () => this.#jitter())) this.#sendInitiation(now)
    if (this.#timers.takeKeepalive(now)) this.#sendKeepalive(now)
  }

  pollTransmit(): Uint8Array | undefined {
    return this.#outbox.shift()
  }

  pollTimeout(): number | undefined {
    return this.#expired ? undefined : Math.min(this.#timers.next(this.#current), this.#sessions.nextExpiry())
  }

  /** Sends on `session`, which the peer has just used, from now on, unless the one in use was established later. */
  #prefer(session: Session): void {
    if (this.#current !== undefined && session.establishedAt < this.#current.establishedAt) return
    this.#use(session)
    this.#timers.confirmedSession(session.establishedAt)
  }

  #use(session: Session): void {
    this.#current = session
    this.#lastHandshakeAt = session.establishedAt
  }

  #addSession(
    keys: TransportKeys,
    localIndex: number,
    remoteIndex: number,
    isInitiator: boolean,
    now: number
  ): Session {
    const session = new Session(this.#crypto, keys, localIndex, remoteIndex, isInitiator, now)
    this.#sessions.add(session)
    this.#timers.newSession(now)
    return session
  }

  #sendInitiation(now: number): void {
    if (this.#identity === undefined) return
    const localIndex = this.#nextIndex()
    const initiation = createInitiation(this.#identity, localIndex, this.#clock.next(now))
    if (initiation === undefined) return this.#expire()
    this.#previousAttempt = this.#attempt
    this.#attempt = { ...initiation.sent, sentAt: now }
    this.#transmitHandshake(initiation.message, localIndex, now)
    this.#timers.sentInitiation(now)
  }

  #transmitHandshake(message: Uint8Array, localIndex: number, now: number): void {
    writeMacs(message, this.#mac1Key, now < this.#cookieExpiresAt ? this.#cookie : undefined)
    const mac1 = readMac1(message)
    if (mac1 !== undefined) this.#lastMessage = { localIndex, mac1 }
    this.#transmit(message)
  }

  #sendKeepalive(now: number): void {
    const buffer = new Uint8Array(CIPHER_HEADROOM + CIPHER_TAILROOM)
    if (!this.seal(buffer, CIPHER_HEADROOM, 0, now)) return
    this.#transmit(buffer.slice(CIPHER_HEADROOM - DATA_HEADER_LENGTH, CIPHER_HEADROOM + TAG_LENGTH))
  }

  #transmit(message: Uint8Array): void {
    if (this.#outbox.length >= OUTBOX_LIMIT) this.#outbox.shift()
    this.#outbox.push(message)
  }

  /** The first is ...01: the number grows before it is used. */
  #nextIndex(): number {
    this.#sessionNumber = this.#sessionNumber + 1 & 0xff
    return (this.#indexPrefix << 8 | this.#sessionNumber) >>> 0
  }

  #jitter(): number {
    const [high = 0, low = 0] = this.#crypto.randomBytes(2)
    return (high << 8 | low) % (MAX_JITTER + 1)
  }

  #expire(): void {
    this.#expired = true
    this.#sessions.clear()
    this.#current = undefined
    this.#attempt = undefined
    this.#previousAttempt = undefined
    this.#cookie = undefined
    this.#lastMessage = undefined
    this.#timers.endedHandshake()
  }
}

const isWhole = (message: Uint8Array, type: MessageType): boolean => classify(message, 0, message.length) === type
