/** Smaller storage than this is kept when the queue runs empty. */
const KEPT_CAPACITY = 4096

/**
 * Bytes in order, in one buffer that grows as needed; the owner sees to a limit. Bytes may be put beyond the end, where
 * they wait until `extend` makes them part of the queue.
 */
export class ByteQueue {
  #bytes = new Uint8Array(0)
  #head = 0
  #length = 0
  /** From the head to the last byte put anywhere. */
  #extent = 0

  get length(): number {
    return this.#length
  }

  append(bytes: Uint8Array): void {
    this.putBeyond(0, bytes, 0, bytes.length)
    this.extend(bytes.length)
  }

  /** Puts `source[from, to)` `gap` bytes behind the end. */
  putBeyond(gap: number, source: Uint8Array, from: number, to: number): void {
    const start = this.#length + gap
    this.#reserve(start + to - from)
    this.#bytes.set(source.subarray(from, to), this.#head + start)
  }

  /** `count` bytes behind the end have been put. */
  extend(count: number): void {
    this.#length += count
  }

  at(index: number): number {
    return this.#bytes[this.#head + index] as number
  }

  /** Valid until the next change. */
  view(start: number, end: number): Uint8Array {
    return this.#bytes.subarray(this.#head + start, this.#head + end)
  }

  /** Takes `count` bytes off the front. */
  discard(count: number): void {
    this.#head += count
    this.#length -= count
    this.#extent = Math.max(0, this.#extent - count)
    if (this.#extent > 0) return
    this.#head = 0
    if (this.#bytes.length > KEPT_CAPACITY) this.#bytes = new Uint8Array(0)
  }

  #reserve(extent: number): void {
    this.#extent = Math.max(this.#extent, extent)
    if (this.#head + extent <= this.#bytes.length) return
    // Never nearly full after moving, or every further packet would move everything.
    if (2 * extent <= this.#bytes.length) {
      this.#bytes.copyWithin(0, this.#head)
    } else {
      const grown = new Uint8Array(2 * extent)
      grown.set(this.#bytes.subarray(this.#head, this.#head + extent))
      this.#bytes = grown
    }
    this.#head = 0
  }
}
