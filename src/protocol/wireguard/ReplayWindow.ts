/** Packets that may be late; counters further behind are refused (connectivity spec 11.4). */
export const REPLAY_WINDOW = 8192

/** Which of the latest 8192 counters were seen (RFC 6479's idea: a ring of bits). Counters are integers below 2^53. */
export class ReplayWindow {
  readonly #bits = new Int32Array(REPLAY_WINDOW / 32)
  /** One more than the highest counter seen. */
  #next = 0

  /** Whether a packet with this counter may be accepted; changes nothing. */
  isFresh(counter: number): boolean {
    if (counter >= this.#next) return true
    if (counter < this.#next - REPLAY_WINDOW) return false
    return ((this.#bits[this.#word(counter)] as number) & (1 << (counter & 31))) === 0
  }

  /** Marks a counter that `isFresh` allowed and whose packet was authentic. */
  mark(counter: number): void {
    const bits = this.#bits
    if (counter >= this.#next) {
      if (counter - this.#next >= REPLAY_WINDOW) {
        bits.fill(0)
      } else {
        for (let skipped = this.#next; skipped < counter; skipped++) {
          const word = this.#word(skipped)
          bits[word] = (bits[word] as number) & ~(1 << (skipped & 31))
        }
      }
      this.#next = counter + 1
    }
    const word = this.#word(counter)
    bits[word] = (bits[word] as number) | (1 << (counter & 31))
  }

  #word(counter: number): number {
    // Bit operations take a number modulo 2^32, which the window divides.
    return (counter & (REPLAY_WINDOW - 1)) >> 5
  }
}
