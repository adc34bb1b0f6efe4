/** Segments, RFC 6928. */
const INITIAL = 10

/** How much may be under way (RFC 5681), with fast recovery after a single loss (RFC 6582). In bytes. */
export class CongestionWindow {
  #mss: number
  #size: number
  #threshold = Number.POSITIVE_INFINITY

  constructor(mss: number) {
    this.#mss = mss
    this.#size = INITIAL * mss
  }

  get size(): number {
    return this.#size
  }

  acknowledged(bytes: number): void {
    this.#size += this.#size < this.#threshold
      ? Math.min(bytes, this.#mss)
      : Math.max(1, Math.floor(this.#mss * this.#mss / this.#size))
  }

  timedOut(underWay: number): void {
    this.#reduce(underWay)
    this.#size = this.#mss
  }

  /** Three duplicates say that three segments have left the network. */
  enterRecovery(underWay: number): void {
    this.#reduce(underWay)
    this.#size = this.#threshold + 3 * this.#mss
  }

  /** One more segment has left the network. */
  duplicate(): void {
    this.#size += this.#mss
  }

  /** What came next is lost as well. */
  partiallyAcknowledged(bytes: number): void {
    this.#size = Math.max(this.#mss, this.#size - bytes + this.#mss)
  }

  leaveRecovery(underWay: number): void {
    this.#size = Math.min(this.#threshold, Math.max(underWay, this.#mss) + this.#mss)
  }

  #reduce(underWay: number): void {
    this.#threshold = Math.max(Math.floor(underWay / 2), 2 * this.#mss)
  }
}
