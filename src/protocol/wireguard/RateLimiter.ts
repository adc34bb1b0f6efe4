import type { Crypto } from "../crypto.ts"
import { type IpAddress, ipToBytes } from "../wire/address.ts"
import { writeUint32 } from "../wire/wireguard.ts"
import { buildCookieReply, cookieKey, hasValidMac1, hasValidMac2, mac1Key } from "./cookie.ts"
import { KEY_LENGTH, mac } from "./primitives.ts"

/** Handshake messages with a valid MAC1 that are taken per second before cookies are asked for. */
export const HANDSHAKES_PER_SECOND = 100
/** Those with a cookie that are taken beyond, of all sources and of each: who has a cookie may still be an attacker. */
export const COOKIES_PER_SECOND = 100
export const COOKIES_PER_SOURCE = 10
const WINDOW = 1000
const COOKIE_WINDOW = 128_000

export type Verdict =
  | { readonly _tag: "Accepted" }
  | { readonly _tag: "Dropped" }
  /** Send this to the source instead of handling the message. */
  | { readonly _tag: "CookieReply"; readonly message: Uint8Array }

const ACCEPTED: Verdict = { _tag: "Accepted" }
const DROPPED: Verdict = { _tag: "Dropped" }

export interface RateLimiterOptions {
  readonly crypto: Crypto
  /** Our own static key. */
  readonly publicKey: Uint8Array
  /** Monotonic milliseconds: cookies change 128 s after this. */
  readonly now: number
  readonly limit?: number
}

/**
 * Guards a node's handshakes against floods (connectivity spec 11.5): every type 1 and type 2 message passes here before
 * any X25519 is spent on it, of which there are 200 per second at most. One per node, shared by all its
 * tunnels; remembers sources only for the rest of a second in which there are too many messages.
 */
export class RateLimiter {
  readonly #crypto: Crypto
  readonly #mac1Key: Uint8Array
  readonly #cookieKey: Uint8Array
  readonly #secret: Uint8Array
  readonly #start: number
  readonly #limit: number
  #windowStart: number
  #count = 0
  #withCookie = 0
  readonly #bySource = new Map<IpAddress, number>()

  constructor(options: RateLimiterOptions) {
    this.#crypto = options.crypto
    this.#mac1Key = mac1Key(options.publicKey)
    this.#cookieKey = cookieKey(options.publicKey)
    this.#secret = options.crypto.randomBytes(KEY_LENGTH)
    this.#start = options.now
    this.#windowStart = options.now
    this.#limit = options.limit ?? HANDSHAKES_PER_SECOND
  }

  /** Judges a type 1 or type 2 message. Without `source` no cookie can be made and an excess message is dropped. */
  verify(message: Uint8Array, source: IpAddress | undefined, now: number): Verdict {
    if (!hasValidMac1(message, this.#mac1Key)) return DROPPED
    if (now - this.#windowStart >= WINDOW) {
      this.#windowStart = now
      this.#count = 0
      this.#withCookie = 0
      this.#bySource.clear()
    }
    if (this.#count < this.#limit) {
      this.#count += 1
      return ACCEPTED
    }
    if (source === undefined) return DROPPED
    const cookie = this.#cookieFor(source, now)
    if (hasValidMac2(message, cookie)) return this.#admit(source) ? ACCEPTED : DROPPED
    return { _tag: "CookieReply", message: buildCookieReply(this.#crypto, message, this.#cookieKey, cookie) }
  }

  #admit(source: IpAddress): boolean {
    const count = this.#bySource.get(source) ?? 0
    if (count >= COOKIES_PER_SOURCE || this.#withCookie >= COOKIES_PER_SECOND) return false
    this.#withCookie += 1
    this.#bySource.set(source, count + 1)
    return true
  }

  #cookieFor(source: IpAddress, now: number): Uint8Array {
    const input = new Uint8Array(8 + 16)
    const window = Math.floor((now - this.#start) / COOKIE_WINDOW)
    writeUint32(input, 0, window)
    writeUint32(input, 4, window / 0x1_0000_0000)
    input.set(ipToBytes(source), 8)
    return mac(this.#secret, input)
  }
}
