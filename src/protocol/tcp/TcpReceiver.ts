import { ByteQueue } from "./ByteQueue.ts"
import { advance, distance } from "./sequence.ts"

/** A window without scaling (RFC 7323) says no more. */
const MAX_WINDOW = 65_535
/** Stretches that wait for what comes before them; what would make more is dropped, and sent again. */
const MAX_STRETCHES = 32

interface Stretch {
  start: number
  end: number
}

/** The receiving half of a connection: puts segments in order, and says how much more may come. */
export class TcpReceiver {
  readonly #queue = new ByteQueue()
  /** Ascending, apart from each other and beyond `next`. */
  readonly #stretches: Array<Stretch> = []
  readonly #capacity: number
  readonly #mss: number
  #next = 0
  /** The first sequence number that the peer may not send yet. It never moves back (RFC 9293 section 3.8.6). */
  #edge = 0
  /** The number of the peer's FIN. */
  #end: number | undefined

  /** Holds `capacity` bytes at least before it stops the peer; `mss` is what the peer's segments carry at most. */
  constructor(capacity: number, mss: number) {
    this.#capacity = capacity + mss
    this.#mss = mss
  }

  /** RCV.NXT. */
  get next(): number {
    return this.#next
  }

  /** RCV.WND, as the peer knows it. */
  get window(): number {
    return Math.max(0, distance(this.#edge, this.#next))
  }

  /** Bytes in order, not taken yet. */
  get length(): number {
    return this.#queue.length
  }

  /** The peer has said all, and it all has come. */
  get isFinished(): boolean {
    return this.#end !== undefined && distance(this.#next, this.#end) > 0
  }

  /** The peer's SYN has number `initial`. */
  start(initial: number): void {
    this.#next = advance(initial, 1)
    this.#edge = this.#next
  }

  at(index: number): number {
    return this.#queue.at(index)
  }

  /** A copy of `[start, end)`, which takes everything before `end` off the queue. */
  take(start: number, end: number): Uint8Array {
    const bytes = this.#queue.view(start, end).slice()
    this.#queue.discard(end)
    return bytes
  }

  /** What lies beyond the window is left out. Returns whether it came in order, or was known. */
  receive(sequence: number, source: Uint8Array, from: number, length: number, hasFin: boolean): boolean {
    const start = distance(sequence, this.#next)
    const isWhole = start + length <= this.window
    const end = isWhole ? start + length : this.window
    if (hasFin && isWhole && this.#end === undefined) this.#end = advance(this.#next, end)
    const skipped = Math.max(0, -start)
    if (end > 0 && end > start + skipped) {
      if (!this.#insert(start + skipped, end)) return false
      this.#queue.putBeyond(start + skipped, source, from + skipped, from + end - start)
      if (start <= 0) this.#advance()
    }
    if (this.#end === this.#next) this.#next = advance(this.#next, 1)
    return start <= 0
  }

  /** The window to tell the peer: opened only by a whole segment or more (section 3.8.6.2.2). */
  advertise(): number {
    if (this.#growth() >= this.#mss) this.#edge = advance(this.#next, this.#room())
    return this.window
  }

  /** Whether the peer has to hear that there is room again. */
  get isReopened(): boolean {
    return this.window < this.#mss && this.#growth() >= this.#mss
  }

  #room(): number {
    return Math.max(0, Math.min(MAX_WINDOW, this.#capacity - this.#queue.length))
  }

  #growth(): number {
    return this.#room() - this.window
  }

  /** Notes offsets from `next`. Returns false if there are too many stretches. */
  #insert(start: number, end: number): boolean {
    const stretches = this.#stretches
    const first = advance(this.#next, start)
    const last = advance(this.#next, end)
    let at = 0
    while (at < stretches.length && distance((stretches[at] as Stretch).end, first) < 0) at++
    let until = at
    while (until < stretches.length && distance((stretches[until] as Stretch).start, last) <= 0) until++
    if (until === at) {
      if (stretches.length >= MAX_STRETCHES && start > 0) return false
      stretches.splice(at, 0, { start: first, end: last })
      return true
    }
    const merged = stretches[at] as Stretch
    const { end: furthest } = stretches[until - 1] as Stretch
    if (distance(first, merged.start) < 0) merged.start = first
    merged.end = distance(last, furthest) > 0 ? last : furthest
    stretches.splice(at + 1, until - at - 1)
    return true
  }

  /** The first stretch begins at `next`. */
  #advance(): void {
    const stretch = this.#stretches.shift()
    if (stretch === undefined) return
    this.#queue.extend(distance(stretch.end, this.#next))
    this.#next = stretch.end
  }
}
