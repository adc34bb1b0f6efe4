/** Reads a TUN device: one arena, one read per packet or train, no copy of a packet that arrives alone. */
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

/** Larger packets than our MTU are dropped: host spec section 1. */
const MAX_PACKET = 1280
const MAX_READ = VIRTIO_NET_HEADER + 65_535
const CACHE_LINE = 64
/** A packet with what a cipher needs around it, in whole cache lines. */
const STRIDE = Math.ceil((CIPHER_HEADROOM + MAX_PACKET + CIPHER_TAILROOM) / CACHE_LINE) * CACHE_LINE
/** A batch ends when it has so many packets: the next one finds the arena in the cache. */
const BATCH = 40
/** A read begins in the first `BATCH` slots and may fill `MAX_SEGMENTS`; a read of 64 KiB fits there as well. */
const SLOTS = BATCH + MAX_SEGMENTS
/** Per turn of the event loop, so that timers and the other direction get theirs (data-plane.md section 10.3). */
const MAX_READS = 64
const MAX_PACKETS = 320

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
    this.#arena = new Uint8Array(SLOTS * STRIDE + CACHE_LINE)
    this.#arenaAddress = memoryAddress(this.#arena)
    this.#base = (CACHE_LINE - this.#arenaAddress % CACHE_LINE) % CACHE_LINE
  }

  /** Reads until the device is empty, the budget of this turn is used up, or a handler has paused it. */
  drain(): void {
    const readDevice = read()
    const until = this.packets + MAX_PACKETS
    for (let reads = 0; reads < MAX_READS && this.packets < until && !this.#halted; reads++) {
      const at = this.#base + this.#used * STRIDE + CIPHER_HEADROOM
      const length = readDevice(this.#fd, this.#arenaAddress + at - VIRTIO_NET_HEADER, MAX_READ)
      if (length <= 0) {
        const code = length < 0 ? errno() : 0
        if (code === ERRNO.EINTR) continue
        if (code !== ERRNO.EAGAIN) {
          this.stop()
          this.#onGone(code)
        }
        break
      }
      this.#receive(at, length - VIRTIO_NET_HEADER)
      if (this.#used >= BATCH) this.#endBatch()
    }
    if (this.#used > 0) this.#endBatch()
  }

  /** Whether to leave packets in the device's queue; safe to call from a handler. What was read is still handed on. */
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

  #receive(at: number, length: number): void {
    const arena = this.#arena
    const header = at - VIRTIO_NET_HEADER
    if (length < 20) return this.#drops.add("short")
    const gsoType = headerGsoType(arena, header)
    if (gsoType !== GSO_NONE) return this.#receiveTrain(at, length, gsoType, headerGsoSize(arena, header))
    if (length > MAX_PACKET) return this.#drops.add("oversized")
    if (isFragment(arena, at, length)) return this.#drops.add("fragment")
    if (
      (headerFlags(arena, header) & NEEDS_CSUM) !== 0 &&
      !completeChecksum(arena, at, length, headerCsumStart(arena, header), headerCsumOffset(arena, header))
    ) return this.#drops.add("checksum-offset")
    this.#used += 1
    this.#deliver(at, length)
  }

  #receiveTrain(at: number, length: number, gsoType: number, gsoSize: number): void {
    const segments = this.#segments
    const problem = segment(this.#arena, at, length, gsoType, gsoSize, MAX_PACKET, STRIDE, segments)
    if (problem !== undefined) return this.#drops.add(problem)
    this.#used += segments.count
    const last = segments.count - 1
    for (let i = 0; i < last; i++) this.#deliver(at + i * STRIDE, segments.length)
    this.#deliver(at + last * STRIDE, segments.lastLength)
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
