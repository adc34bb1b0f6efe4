/** Where packets wait that have been read before their turn: trains, and what must not overtake its own flow's train. */
import { FLOW_BUCKETS, flowBucket } from "../../protocol/wire/flow.ts"

/** A power of two: trains of 64 KiB, some 4 MB. The more wait, the longer a TUN device's queue may be that others overtake. */
const SLOTS = 64

/** The first in is the first out; slots of `stride` bytes from `base` in the reader's own array. */
export class TrainQueue {
  readonly #bytes: Uint8Array
  readonly #base: number
  readonly #stride: number
  readonly #lengths = new Uint32Array(SLOTS)
  readonly #buckets = new Uint8Array(SLOTS)
  /** How many wait, by flow. */
  readonly #ofFlow = new Uint8Array(FLOW_BUCKETS)
  #first = 0
  count = 0

  constructor(bytes: Uint8Array, base: number, stride: number) {
    this.#bytes = bytes
    this.#base = base
    this.#stride = stride
  }

  /** How many bytes it needs from its base. */
  static size(stride: number): number {
    return SLOTS * stride
  }

  get isFull(): boolean {
    return this.count === SLOTS
  }

  /** Where the next one is to be written; only if it is not full. */
  get free(): number {
    return this.#base + ((this.#first + this.count) & (SLOTS - 1)) * this.#stride
  }

  /** Whether one waits that the packet at `at` must not overtake. */
  holdsFlowOf(at: number, length: number): boolean {
    return this.count > 0 && this.#ofFlow[flowBucket(this.#bytes, at, length)] !== 0
  }

  /** Keeps what was written at `free`, at `at` within that slot. */
  add(at: number, length: number): void {
    const slot = (this.#first + this.count) & (SLOTS - 1)
    const bucket = flowBucket(this.#bytes, at, length)
    this.#lengths[slot] = length
    this.#buckets[slot] = bucket
    this.#ofFlow[bucket] = (this.#ofFlow[bucket] as number) + 1
    this.count += 1
  }

  /** The slot and the length of the oldest one; only if one waits. */
  get oldest(): number {
    return this.#base + this.#first * this.#stride
  }

  get oldestLength(): number {
    return this.#lengths[this.#first] as number
  }

  /** Gives the oldest one's slot back. */
  remove(): void {
    const bucket = this.#buckets[this.#first] as number
    this.#ofFlow[bucket] = (this.#ofFlow[bucket] as number) - 1
    this.count -= 1
    // The first slot is the one most likely to be in the cache.
    this.#first = this.count === 0 ? 0 : (this.#first + 1) & (SLOTS - 1)
  }
}
