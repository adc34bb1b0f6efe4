import { equalBytes } from "../wireguard/primitives.ts"

/** Copies of an initiation that come within this time get the same response again, milliseconds. */
export const CACHE_LIFETIME = 10_000

/**
 * The latest initiation that was accepted, and the response to it: the peer sends its initiation over many paths and
 * several times, and WireGuard takes it once (connectivity spec 10.3).
 */
export class ResponderCache {
  #initiation: Uint8Array | undefined
  #response: Uint8Array | undefined
  #expiresAt = 0

  accepted(initiation: Uint8Array, response: Uint8Array | undefined, now: number): void {
    this.#initiation = initiation
    this.#response = response
    this.#expiresAt = now + CACHE_LIFETIME
  }

  /** Whether these bytes were accepted last, however long ago. */
  isKnown(initiation: Uint8Array): boolean {
    return this.#initiation !== undefined && equalBytes(this.#initiation, initiation)
  }

  /** What a copy is answered with. */
  response(now: number): Uint8Array | undefined {
    return now < this.#expiresAt ? this.#response : undefined
  }
}
