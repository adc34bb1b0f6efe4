import type { Crypto } from "../crypto.ts"

/** Timer profile of one tunnel, milliseconds (connectivity spec 11.6). */
export interface WireguardTimers {
  readonly rekeyTimeout: number
  readonly keepaliveTimeout: number
  readonly rekeyAttemptTime: number
}
export const iceTimers: WireguardTimers = { rekeyTimeout: 5000, keepaliveTimeout: 10_000, rekeyAttemptTime: 20_000 }
export const pathTimers: WireguardTimers = { rekeyTimeout: 2000, keepaliveTimeout: 5000, rekeyAttemptTime: 90_000 }

export interface WireguardOptions {
  readonly crypto: Crypto
  readonly privateKey: Uint8Array
  readonly remoteKey: Uint8Array
  /** 32 bytes; all zero is "none". */
  readonly presharedKey: Uint8Array
  /** Unique 24-bit number: the upper bits of every index of this tunnel (spec 11.3). */
  readonly indexPrefix: number
  readonly timers: WireguardTimers
  /** Unix time in milliseconds (may have a fraction) at `now` = 0 of the monotonic clock. */
  readonly unixEpochMillis: number
}

/** What a WireGuard message did. */
export type HandshakeOutcome = "Rejected" | "SessionPending" | "SessionEstablished" | "CookieStored"

/**
 * One peer's WireGuard state, sans-IO (spec section 11): `now` is monotonic milliseconds. Handshake messages to send come
 * out of `pollTransmit`; data is sealed and opened in the caller's buffers. MAC1, MAC2 and the rate limit are the
 * node's (`RateLimiter`), checked before a message gets here.
 */
export interface WireguardTunnelApi {
  /** Starts a handshake now, unless one is in flight. */
  initiate(now: number): void
  /** A type 1 message whose MAC1 is right. Puts the response into `pollTransmit`. */
  handleInitiation(message: Uint8Array, now: number): HandshakeOutcome
  /** A type 2 message with our index in it. A session that it makes is current at once; a keep-alive is queued. */
  handleResponse(message: Uint8Array, now: number): HandshakeOutcome
  handleCookieReply(message: Uint8Array, now: number): HandshakeOutcome
  /**
   * Seals in place: header to `[offset - 16, offset)`, tag behind. The datagram is `[offset - 16, offset + length + 16)`.
   * Returns false, without side effects, if no session can send.
   */
  seal(buffer: Uint8Array, offset: number, length: number, now: number): boolean
  /**
   * Opens the type 4 message `input[offset, offset + length)` to `output` at `outputOffset`; returns the length of the
   * inner IP packet, padding cut off (0 for a keep-alive), or -1 if the message was not authentic, replayed, of an
   * unknown session, no IP packet inside, or too long for `output` (`crypto.ts`: headroom and tailroom).
   */
  open(
    input: Uint8Array,
    offset: number,
    length: number,
    output: Uint8Array,
    outputOffset: number,
    now: number
  ): number
  /** Whether `seal` would work, as of the latest `now` that the tunnel was given. */
  readonly hasSession: boolean
  /** Whether a handshake of ours waits for its answer. */
  readonly isHandshaking: boolean
  /** When the current session was established; `undefined` before the first. */
  readonly lastHandshakeAt: number | undefined
  /** Set once when the tunnel gave up: no answer within the attempt time, or 540 s without a session. */
  readonly expired: boolean
  /** Bytes of inner packets sealed and opened; keep-alives do not count. */
  readonly bytesSent: number
  readonly bytesReceived: number
  handleTimeout(now: number): void
  /** A handshake message or keep-alive to send; a fresh array. */
  pollTransmit(): Uint8Array | undefined
  pollTimeout(): number | undefined
}
