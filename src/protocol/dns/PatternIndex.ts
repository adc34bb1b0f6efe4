import type { DomainName } from "../wire/dns.ts"
import { compareSpecificity, type DomainPattern } from "./DomainPattern.ts"

export interface Patterned {
  readonly id: string
  readonly pattern: DomainPattern
}

/** The more specific pattern first, of equal ones the larger id (tunnel spec 12.6). */
export const compareEntries = (a: Patterned, b: Patterned): number =>
  compareSpecificity(a.pattern.text, b.pattern.text) || (a.id < b.id ? 1 : a.id > b.id ? -1 : 0)

/**
 * Finds the patterns that a name matches without trying every one: they are kept by the labels without wildcards that
 * they end in, and a name is looked up by each of its own endings.
 */
export class PatternIndex<Entry extends Patterned> {
  readonly #byEnding = new Map<string, ReadonlyArray<Entry>>()

  add(entry: Entry): void {
    const ending = endingOf(entry.pattern)
    this.#byEnding.set(ending, [...this.#byEnding.get(ending) ?? [], entry])
  }

  remove(entry: Entry): void {
    const ending = endingOf(entry.pattern)
    const left = (this.#byEnding.get(ending) ?? []).filter((each) => each !== entry)
    if (left.length === 0) this.#byEnding.delete(ending)
    else this.#byEnding.set(ending, left)
  }

  /** In the order of `compareEntries`. */
  match(name: DomainName): ReadonlyArray<Entry> {
    // A dot or backslash inside a label would be taken for what it is not; no host has such a name.
    if (this.#byEnding.size === 0 || name === "." || name.includes("\\")) return []
    const found: Array<Entry> = []
    const folded = name.toLowerCase()
    for (let at = 0;; at = folded.indexOf(".", at) + 1) {
      for (const entry of this.#byEnding.get(folded.slice(at)) ?? []) {
        if (entry.pattern.matches(folded)) found.push(entry)
      }
      if (!folded.includes(".", at)) break
    }
    for (const entry of this.#byEnding.get("") ?? []) if (entry.pattern.matches(folded)) found.push(entry)
    return found.length > 1 ? found.sort(compareEntries) : found
  }
}

const endingOf = ({ text }: DomainPattern): string => {
  const labels = text.toLowerCase().split(".")
  return labels.slice(labels.findLastIndex((label) => /[*?]/.test(label)) + 1).join(".")
}
