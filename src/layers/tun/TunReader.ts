/**
 * Reads a TUN device. The device's queue is a single line in which a bulk upload may have megabytes, so it is read ahead:
 * trains wait here, and packets of other flows that come alone (a query, an acknowledgement, a ping) overtake them.
 */
import { read } from "../../ffi/linux/file.ts"
import { ERRNO, errno, memoryAddress } from "../../ffi/linux/libc.ts"
import { CIPHER_HEADROOM, CIPHER_TAILROOM } from "../../protocol/crypto.ts"
import { isFragment, MAX_SEGMENTS, segment, type Segments } from "../../protocol/wire/segment.ts"
import {
  completeChecksum,
  GSO_NONE,
  headerCsumOffset,
  headerCsumStart,
  headerFlags,
  headerGsoSize,
  headerGsoType,
  NEEDS_CSUM,
  VIRTIO_NET_HEADER
} from "../../protocol/wire/virtioNet.ts"
import type { TunHandlers } from "../../services/TunDevice.ts"
import type { DropCounts } from "./DropCounts.ts"
import { TrainQueue } from "./TrainQueue.ts"

/** Larger packets than our MTU are dropped: host spec section 1. */
const MAX_PACKET = 1280
const MAX_READ = VIRTIO_NET_HEADER + 65_535
const CACHE_LINE = 64
/** A packet with what a cipher needs around it, in whole cache lines. */
const STRIDE = Math.ceil((CIPHER_HEADROOM + MAX_PACKET + CIPHER_TAILROOM) / CACHE_LINE) * CACHE_LINE
/** A batch ends when it has so many packets: the next one finds the arena in the cache. */
const BATCH = 40
/** A train begins in the first `BATCH` slots and may fill `MAX_SEGMENTS`. */
const SLOTS = BATCH + MAX_SEGMENTS
/** A read with its header; whole cache lines, and no multiple of a page, so that slots do not all share a set of the cache. */
const READ_AT = CACHE_LINE
const READ_STRIDE = READ_AT + 1024 * CACHE_LINE + CACHE_LINE
/** Per turn of the event loop, so that timers and the other direction get theirs (data-plane.md section 10.3). */
const MAX_PACKETS = 320
const MAX_TRAINS = 64
/** Before each train: as many packets as a train may be. */
const MAX_READS = 64

export class TunReader {
  readonly #fd: number
  readonly #handlers: TunHandlers
  readonly #drops: DropCounts
  readonly #onGone: (code: number) => void
  readonly #arena: Uint8Array
  readonly #arenaAddress: number
  /** Offset of the first slot: the slots start on cache lines. */
  readonly #base: number
  readonly #segments: Segments = { count: 0, length: 0, lastLength: 0 }
  readonly #trains: TrainQueue
  #stopped = false
  #paused = false
  /** Slots that hold packets of this batch. */
  #used = 0
  packets = 0
  bytes = 0

  /** `onGone` is called once, with the errno (0 for the end of the device), when the device cannot be read any more. */
  constructor(fd: number, handlers: TunHandlers, drops: DropCounts, onGone: (code: number) => void) {
    this.#fd = fd
    this.#handlers = handlers
    this.#drops = drops
    this.#onGone = onGone
    this.#arena = new Uint8Array(SLOTS * STRIDE + TrainQueue.size(READ_STRIDE) + CACHE_LINE)
    this.#arenaAddress = memoryAddress(this.#arena)
    this.#base = (CACHE_LINE - this.#arenaAddress % CACHE_LINE) % CACHE_LINE
    this.#trains = new TrainQueue(this.#arena, this.#base + SLOTS * STRIDE, READ_STRIDE)
  }

  /** Reads until nothing is left, the budget of this turn is used up, or a handler has paused it. */
  drain(): void {
    const until = this.packets + MAX_PACKETS
    for (let i = 0; i < MAX_TRAINS && this.packets < until && !this.#halted; i++) {
      this.#readAhead()
      if (this.#halted || this.#trains.count === 0) break
      this.#handOn(this.#trains.oldest + READ_AT, this.#trains.oldestLength)
      this.#trains.remove()
    }
    if (this.#used > 0) this.#endBatch()
  }

  /** Whether there is something to do for `drain` that the device does not tell of. */
  get holdsPackets(): boolean {
    return this.#trains.count > 0 && !this.#stopped
  }

  /** Whether to leave packets where they are; safe to call from a handler. A train in whose midst it comes is still handed on. */
  setPaused(paused: boolean): void {
    this.#paused = paused
  }

  /** Nothing is read or handed on afterwards; safe to call from a handler. */
  stop(): void {
    this.#stopped = true
  }

  get #halted(): boolean {
    return this.#stopped || this.#paused
  }

  #readAhead(): void {
    const readDevice = read()
    const trains = this.#trains
    for (let reads = 0; reads < MAX_READS && !trains.isFull && !this.#halted; reads++) {
      const at = trains.free + READ_AT
      const length = readDevice(this.#fd, this.#arenaAddress + at - VIRTIO_NET_HEADER, MAX_READ)
      if (length <= 0) {
        const code = length < 0 ? errno() : 0
        if (code === ERRNO.EINTR) continue
        if (code !== ERRNO.EAGAIN) {
          this.stop()
          this.#onGone(code)
        }
        return
      }
      this.#receive(at, length - VIRTIO_NET_HEADER)
    }
  }

  #receive(at: number, length: number): void {
    if (length < 20) return this.#drops.add("short")
    if (headerGsoType(this.#arena, at - VIRTIO_NET_HEADER) !== GSO_NONE || this.#trains.holdsFlowOf(at, length)) {
      this.#trains.add(at, length)
    } else {
      this.#handOn(at, length)
    }
  }

  #handOn(from: number, length: number): void {
    const at = this.#base + this.#used * STRIDE + CIPHER_HEADROOM
    const problem = headerGsoType(this.#arena, from - VIRTIO_NET_HEADER) === GSO_NONE
      ? this.#handOnPacket(from, length, at)
      : this.#handOnTrain(from, length, at)
    if (problem !== undefined) this.#drops.add(problem)
    if (this.#used >= BATCH) this.#endBatch()
  }

  #handOnPacket(from: number, length: number, at: number): string | undefined {
    const arena = this.#arena
    const header = from - VIRTIO_NET_HEADER
    if (length > MAX_PACKET) return "oversized"
    if (isFragment(arena, from, length)) return "fragment"
    if (
      (headerFlags(arena, header) & NEEDS_CSUM) !== 0 &&
      !completeChecksum(arena, from, length, headerCsumStart(arena, header), headerCsumOffset(arena, header))
    ) return "checksum-offset"
    arena.copyWithin(at, from, from + length)
    this.#used += 1
    this.#deliver(at, length)
    return undefined
  }

  #handOnTrain(from: number, length: number, at: number): string | undefined {
    const arena = this.#arena
    const header = from - VIRTIO_NET_HEADER
    const segments = this.#segments
    const type = headerGsoType(arena, header)
    const problem = segment(arena, from, length, type, headerGsoSize(arena, header), MAX_PACKET, at, STRIDE, segments)
    if (problem !== undefined) return problem
    this.#used += segments.count
    const last = segments.count - 1
    for (let i = 0; i < last; i++) this.#deliver(at + i * STRIDE, segments.length)
    this.#deliver(at + last * STRIDE, segments.lastLength)
    return undefined
  }

  #deliver(at: number, length: number): void {
    if (this.#stopped) return
    this.packets += 1
    this.bytes += length
    this.#handlers.onPacket(this.#arena, at, length)
  }

  #endBatch(): void {
    this.#used = 0
    if (!this.#stopped) this.#handlers.onBatchEnd()
  }
}
