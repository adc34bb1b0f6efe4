import type { Family } from "./address.ts"
import { type IpWords, sameWords } from "./ipWords.ts"

interface Entry<Value> {
  readonly version: Family
  readonly words: IpWords
  value: Value
  readonly next: Entry<Value> | undefined
}

/** Values by IP address, for look-ups once per packet: these allocate nothing. */
export class AddressMap<Value> {
  /** Addresses whose words hash alike form a list. */
  readonly #buckets = new Map<number, Entry<Value>>()
  #size = 0

  get size(): number {
    return this.#size
  }

  get(version: Family, words: IpWords): Value | undefined {
    return this.#find(version, words)?.value
  }

  /** The words are copied. */
  set(version: Family, words: IpWords, value: Value): void {
    const known = this.#find(version, words)
    if (known !== undefined) {
      known.value = value
      return
    }
    const key = hash(words)
    this.#buckets.set(key, { version, words: words.slice(), value, next: this.#buckets.get(key) })
    this.#size += 1
  }

  delete(version: Family, words: IpWords): void {
    const gone = this.#find(version, words)
    if (gone === undefined) return
    const key = hash(words)
    let kept: Entry<Value> | undefined
    for (let entry = this.#buckets.get(key); entry !== undefined; entry = entry.next) {
      if (entry !== gone) kept = { version: entry.version, words: entry.words, value: entry.value, next: kept }
    }
    if (kept === undefined) this.#buckets.delete(key)
    else this.#buckets.set(key, kept)
    this.#size -= 1
  }

  clear(): void {
    this.#buckets.clear()
    this.#size = 0
  }

  *values(): IterableIterator<Value> {
    for (const first of this.#buckets.values()) {
      for (let entry: Entry<Value> | undefined = first; entry !== undefined; entry = entry.next) yield entry.value
    }
  }

  #find(version: Family, words: IpWords): Entry<Value> | undefined {
    let entry = this.#buckets.get(hash(words))
    while (entry !== undefined && (entry.version !== version || !sameWords(entry.words, words))) entry = entry.next
    return entry
  }
}

const hash = (words: IpWords): number =>
  Math.imul(
      Math.imul(Math.imul(words[3] as number, 31) + (words[2] as number) | 0, 31) + (words[1] as number) | 0,
      31
    ) +
    (words[0] as number) | 0
