/**
 * Entries that live for a fixed time after they were set, at most `capacity` of them: the oldest goes first. Costs nothing
 * while it is not used; needs no timer, since the dead are never returned.
 */
export class TimedMap<K, V> {
  readonly #lifetime: number
  readonly #capacity: number
  // A Map iterates in insertion order, so its first entry is the oldest.
  readonly #entries = new Map<K, { readonly value: V; readonly expiresAt: number }>()

  /** `lifetime` in milliseconds. */
  constructor(lifetime: number, capacity: number) {
    this.#lifetime = lifetime
    this.#capacity = capacity
  }

  set(key: K, value: V, now: number): void {
    this.#expire(now)
    this.#entries.delete(key)
    if (this.#entries.size >= this.#capacity) {
      for (const oldest of this.#entries.keys()) {
        this.#entries.delete(oldest)
        break
      }
    }
    this.#entries.set(key, { value, expiresAt: now + this.#lifetime })
  }

  get(key: K, now: number): V | undefined {
    const entry = this.#entries.get(key)
    return entry !== undefined && now < entry.expiresAt ? entry.value : undefined
  }

  /** As `get`, once. */
  take(key: K, now: number): V | undefined {
    const value = this.get(key, now)
    this.#entries.delete(key)
    return value
  }

  removeValue(value: V): void {
    for (const [key, entry] of this.#entries) if (entry.value === value) this.#entries.delete(key)
  }

  clear(): void {
    this.#entries.clear()
  }

  #expire(now: number): void {
    for (const [key, { expiresAt }] of this.#entries) {
      if (now < expiresAt) return
      this.#entries.delete(key)
    }
  }
}
