/** When to try again, and when to give up (portal spec section 4). All times in milliseconds. */
const INITIAL_DELAY = 1000
const INITIAL_BUDGET = 15_000
const BASE = 500
const FACTOR = 1.5
const CAP = 60_000
/** A portal that ends every session right after the join is not to be dialled without end. */
const STABLE = 10_000
/** `Retry-After: 0` must not become a busy loop, and a nonsensical one must not switch the client off. */
const RETRY_AFTER_MIN = 500
const RETRY_AFTER_MAX = 3_600_000

export type Retry =
  | { readonly _tag: "Retry"; readonly delayMillis: number }
  | { readonly _tag: "Exhausted"; readonly budgetMillis: number }

/** The budget counts delays, not wall-clock time. */
export class ReconnectBackoff {
  readonly #maxPartitionMillis: number
  #wasJoined = false
  #joinedAt: number | undefined
  #failures = 0
  #spent = 0

  /** `undefined` retries for ever once a join succeeded. */
  constructor(maxPartitionMillis: number | undefined) {
    this.#maxPartitionMillis = maxPartitionMillis ?? Number.POSITIVE_INFINITY
  }

  /** `random` is uniform in [0, 1). */
  failed(random: number, now: number): Retry {
    if (this.#joinedAt !== undefined && now - this.#joinedAt >= STABLE) this.#failures = 0
    this.#joinedAt = undefined
    const budgetMillis = this.#wasJoined ? this.#maxPartitionMillis : INITIAL_BUDGET
    const base = Math.min(BASE * FACTOR ** this.#failures, CAP)
    const delayMillis = this.#wasJoined ? base * (1 + random) : INITIAL_DELAY
    if (this.#spent + delayMillis > budgetMillis) return { _tag: "Exhausted", budgetMillis }
    this.#failures += 1
    this.#spent += delayMillis
    return { _tag: "Retry", delayMillis }
  }

  /** The portal said when; that costs no budget. */
  failedWithRetryAfter(millis: number): Retry {
    return { _tag: "Retry", delayMillis: Math.min(Math.max(millis, RETRY_AFTER_MIN), RETRY_AFTER_MAX) }
  }

  /** The budget starts over at once, the delays only if the session lasts. */
  joined(now: number): void {
    if (!this.#wasJoined) this.#failures = 0
    this.#wasJoined = true
    this.#joinedAt = now
    this.#spent = 0
  }

  /** For a reconnect that was asked for. */
  reset(): void {
    this.#joinedAt = undefined
    this.#failures = 0
    this.#spent = 0
  }
}
