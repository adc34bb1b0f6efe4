/** Keys that are remembered; beyond that everybody begins anew. */
const MAX_KEYS = 1024

/** A token bucket for each key. */
export class RateLimit {
  readonly #perSecond: number
  readonly #burst: number
  readonly #buckets = new Map<string, { left: number; at: number }>()

  constructor(options: { readonly perSecond: number; readonly burst: number }) {
    this.#perSecond = options.perSecond
    this.#burst = options.burst
  }

  /** Whether this one may pass. */
  take(key: string, now: number): boolean {
    if (this.#buckets.size >= MAX_KEYS && !this.#buckets.has(key)) this.#buckets.clear()
    const bucket = this.#buckets.get(key) ?? { left: this.#burst, at: now }
    bucket.left = Math.min(this.#burst, bucket.left + (now - bucket.at) / 1000 * this.#perSecond)
    bucket.at = now
    this.#buckets.set(key, bucket)
    if (bucket.left < 1) return false
    bucket.left -= 1
    return true
  }
}
