/** All in milliseconds. */
const INITIAL = 1000
/** RFC 6298 section 2.4 would like 1 s. Linux has done with less for decades, and DNS has only seconds. */
const MIN = 300
const MAX = 60_000
const AFTER_LOST_SYN = 3000

/** How long to wait for an acknowledgment (RFC 6298). */
export class RetransmissionTimeout {
  #smoothed: number | undefined
  #variation = 0
  #current = INITIAL

  get current(): number {
    return this.#current
  }

  /** A round trip of something that was sent once only (Karn's algorithm). */
  measured(roundTrip: number): void {
    if (this.#smoothed === undefined) {
      this.#smoothed = roundTrip
      this.#variation = roundTrip / 2
    } else {
      this.#variation += (Math.abs(this.#smoothed - roundTrip) - this.#variation) / 4
      this.#smoothed += (roundTrip - this.#smoothed) / 8
    }
    this.#current = Math.min(MAX, Math.max(MIN, this.#smoothed + 4 * this.#variation))
  }

  /** It has passed in vain. What it is now holds until the next measurement. */
  backOff(): void {
    this.#current = Math.min(MAX, 2 * this.#current)
  }

  /** The handshake took more than one SYN, so nothing has been measured (section 5.7). */
  fallBack(): void {
    this.#current = AFTER_LOST_SYN
  }
}
