/** Counts what was dropped, by reason. Reasons are few and fixed, so this cannot grow. */
export class DropCounts {
  readonly #counts = new Map<string, number>()

  add(reason: string, count = 1): void {
    this.#counts.set(reason, (this.#counts.get(reason) ?? 0) + count)
  }

  snapshot(): { readonly [reason: string]: number } {
    return Object.fromEntries(this.#counts)
  }
}
