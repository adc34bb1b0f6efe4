import type { Crypto } from "../crypto.ts"
import type { IpAddress } from "../wire/address.ts"
import { decryptInitiatorKey } from "../wireguard/handshake.ts"
import { RateLimiter, type Verdict } from "../wireguard/RateLimiter.ts"

const KEY_LENGTH = 32

/** The static key of a node, and the limiter that guards it against floods of handshakes (connectivity spec 11.5). */
export class NodeKey {
  readonly #crypto: Crypto
  #privateKey: Uint8Array
  #publicKey: Uint8Array
  #limiter: RateLimiter

  constructor(crypto: Crypto, now: number, privateKey = crypto.randomBytes(KEY_LENGTH)) {
    this.#crypto = crypto
    this.#privateKey = privateKey
    this.#publicKey = crypto.x25519PublicKey(privateKey)
    this.#limiter = new RateLimiter({ crypto, publicKey: this.#publicKey, now })
  }

  get privateKey(): Uint8Array {
    return this.#privateKey
  }

  get publicKey(): Uint8Array {
    return this.#publicKey
  }

  /** Another key: nobody knows us by the former one. */
  renew(now: number): void {
    this.#privateKey = this.#crypto.randomBytes(KEY_LENGTH)
    this.#publicKey = this.#crypto.x25519PublicKey(this.#privateKey)
    this.#limiter = new RateLimiter({ crypto: this.#crypto, publicKey: this.#publicKey, now })
  }

  /** Judges a type 1 or type 2 message. */
  verify(message: Uint8Array, source: IpAddress, now: number): Verdict {
    return this.#limiter.verify(message, source, now)
  }

  /** The static key of whoever sent this type 1 message, if it was made for us. Not authentic yet. */
  initiatorOf(message: Uint8Array): Uint8Array | undefined {
    return decryptInitiatorKey(this.#crypto, this.#privateKey, this.#publicKey, message)
  }
}
