/** How much a peer may cost us: it is saved up to a limit, and who has spent it waits. */
export class Allowance {
  readonly #perMilli: number
  readonly #limit: number
  #saved: number
  #at: number

  /** `perSecond` is added until there is `limit`, which is there at first. */
  constructor(perSecond: number, limit: number, now: number) {
    this.#perMilli = perSecond / 1000
    this.#limit = limit
    this.#saved = limit
    this.#at = now
  }

  /** Takes `cost`, which may be more than there is; returns after how many milliseconds that is made good. */
  spend(cost: number, now: number): number {
    this.#saved = Math.min(this.#limit, this.#saved + Math.max(0, now - this.#at) * this.#perMilli) - cost
    this.#at = now
    return this.#saved >= 0 ? 0 : Math.ceil(-this.#saved / this.#perMilli)
  }
}
