/** Writes to a TUN device: trains of a flow as one packet, payloads straight from where they lie. */
import { writev } from "../../ffi/linux/file.ts"
import { ERRNO, errno, errnoName, memoryAddress } from "../../ffi/linux/libc.ts"
import { Coalescer, MAX_HEADERS, MAX_TRAIN } from "../../protocol/wire/coalesce.ts"
import { VIRTIO_NET_HEADER } from "../../protocol/wire/virtioNet.ts"
import type { DropCounts } from "./DropCounts.ts"

const CAPACITY = 512
const IOVEC = 16
/** The vectors come first, then an all-zero virtio header, then room for a train's headers. */
const PLAIN_HEADER = (MAX_TRAIN + 1) * IOVEC
const TRAIN_HEADERS = PLAIN_HEADER + 16
const MEMORY = TRAIN_HEADERS + VIRTIO_NET_HEADER + MAX_HEADERS
const EBADFD = 77

export interface TunWriterOptions {
  readonly coalesceTcp: boolean
  readonly coalesceUdp: boolean
  readonly drops: DropCounts
  /** The interface was deleted. */
  readonly onGone: (code: number) => void
  /** Something a person should know; not per packet. */
  readonly onWarning: (message: string, errno: string) => void
}

export class TunWriter {
  readonly #fd: number
  readonly #options: TunWriterOptions
  readonly #queue: Coalescer
  readonly #memory = new Uint8Array(MEMORY)
  readonly #memoryAddress = memoryAddress(this.#memory)
  readonly #words = new Uint32Array(this.#memory.buffer, 0, PLAIN_HEADER / 4)
  readonly #warned = new Set<number>()
  #lastBuffer: Uint8Array = this.#memory
  #lastAddress = this.#memoryAddress
  #closed = false
  packets = 0
  bytes = 0

  constructor(fd: number, options: TunWriterOptions) {
    this.#fd = fd
    this.#options = options
    this.#queue = new Coalescer(CAPACITY, options.coalesceTcp, options.coalesceUdp)
  }

  get coalesces(): boolean {
    return this.#queue.mergeTcp || this.#queue.mergeUdp
  }

  /** Queues a packet by reference. A full queue is flushed first. */
  write(bytes: Uint8Array, offset: number, length: number): void {
    if (this.#closed) return
    // The kernel is told addresses, so nothing outside the array may get there.
    if (!(offset >= 0 && length > 0 && offset + length <= bytes.length)) return this.#options.drops.add("out-of-bounds")
    if (this.#queue.add(bytes, offset, length)) return
    this.flush()
    this.#queue.add(bytes, offset, length)
  }

  flush(): void {
    const queue = this.#queue
    if (queue.size === 0) return
    for (let train = 0; train < queue.trains && !this.#closed; train++) {
      if ((queue.counts[train] as number) === 1 || !this.coalesces) this.#writeEach(train)
      else this.#writeTrain(train)
    }
    queue.clear()
  }

  /** Nothing is written afterwards. */
  close(): void {
    this.#closed = true
    this.#queue.clear()
    this.#lastBuffer = this.#memory
    this.#lastAddress = this.#memoryAddress
  }

  #writeTrain(train: number): void {
    const queue = this.#queue
    const length = queue.writeHeaders(train, this.#memory, TRAIN_HEADERS)
    const headers = length - VIRTIO_NET_HEADER
    this.#vector(0, this.#memoryAddress + TRAIN_HEADERS, length)
    let count = 1
    for (let packet = queue.firsts[train] as number; packet >= 0; packet = queue.next[packet] as number) {
      const address = this.#addressOf(queue.buffers[packet] as Uint8Array)
      this.#vector(
        count++,
        address + (queue.offsets[packet] as number) + headers,
        (queue.lengths[packet] as number) - headers
      )
    }
    if (writev()(this.#fd, this.#memoryAddress, count) >= 0) {
      this.packets += count - 1
      this.bytes += (queue.payloads[train] as number) + (count - 1) * headers
      return
    }
    const code = errno()
    if (code !== ERRNO.EINVAL) return this.#failed(code, count - 1)
    queue.mergeTcp = false
    queue.mergeUdp = false
    this.#options.onWarning("the kernel refuses merged packets on the tunnel device; writing them one by one", "EINVAL")
    this.#writeEach(train)
  }

  #writeEach(train: number): void {
    const queue = this.#queue
    this.#vector(0, this.#memoryAddress + PLAIN_HEADER, VIRTIO_NET_HEADER)
    for (let packet = queue.firsts[train] as number; packet >= 0; packet = queue.next[packet] as number) {
      const length = queue.lengths[packet] as number
      const address = this.#addressOf(queue.buffers[packet] as Uint8Array)
      this.#vector(1, address + (queue.offsets[packet] as number), length)
      if (writev()(this.#fd, this.#memoryAddress, 2) >= 0) {
        this.packets += 1
        this.bytes += length
      } else {
        this.#failed(errno(), 1)
        if (this.#closed) return
      }
    }
  }

  #failed(code: number, packets: number): void {
    this.#options.drops.add(`write-${errnoName(code)}`, packets)
    if (code === EBADFD) {
      this.close()
      this.#options.onGone(code)
    } else if (!this.#warned.has(code)) {
      this.#warned.add(code)
      this.#options.onWarning("packets for the tunnel device were dropped", errnoName(code))
    }
  }

  #vector(index: number, address: number, length: number): void {
    const word = index * (IOVEC / 4)
    this.#words[word] = address >>> 0
    this.#words[word + 1] = Math.floor(address / 0x100000000)
    this.#words[word + 2] = length
  }

  /** Packets of one batch mostly lie in one arena. */
  #addressOf(bytes: Uint8Array): number {
    if (bytes !== this.#lastBuffer) {
      this.#lastAddress = memoryAddress(bytes)
      this.#lastBuffer = bytes
    }
    return this.#lastAddress
  }
}
