/**
 * A value derived from other state, whose readers want to hear of real changes only (tunnel spec 3.2): however often it
 * was invalidated, `poll` computes it once, and says nothing if it is what it said before.
 */
export class Tracked<T> {
  readonly #compute: () => T | undefined
  readonly #isSame: (a: T, b: T) => boolean
  #told: T | undefined
  #isStale = false

  /** `compute` returns `undefined` as long as there is nothing to tell. */
  constructor(compute: () => T | undefined, isSame: (a: T, b: T) => boolean) {
    this.#compute = compute
    this.#isSame = isSame
  }

  invalidate(): void {
    this.#isStale = true
  }

  /** The value, if it has changed since it was last returned. */
  poll(): T | undefined {
    if (!this.#isStale) return undefined
    this.#isStale = false
    const value = this.#compute()
    if (value === undefined || (this.#told !== undefined && this.#isSame(this.#told, value))) return undefined
    this.#told = value
    return value
  }
}
