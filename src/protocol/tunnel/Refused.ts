import type { Refusal } from "./types.ts"

/** A refusal of the portal's, and when it came. */
export class Refused {
  readonly reason: string
  readonly violated: ReadonlyArray<string>
  readonly #at: number

  constructor(reason: string, violated: ReadonlyArray<string>, now: number) {
    this.reason = reason
    this.violated = violated
    this.#at = now
  }

  view(now: number): Refusal {
    return { reason: this.reason, violated: this.violated, ageMillis: now - this.#at }
  }
}
