import { ERRNO, errno } from "../../ffi/linux/libc.ts"
import { ReceiveArena } from "../../ffi/linux/mmsg.ts"
import { AF_INET, AF_INET6 } from "../../ffi/linux/socket.ts"
import type { Family } from "../../protocol/wire/address.ts"
import type { DatagramHandlers } from "../../services/PeerSocket.ts"
import { AddressInterner } from "./AddressInterner.ts"
import { MAX_DATAGRAM, type PeerCounters, type Report } from "./PeerCounters.ts"

/** Messages per call; with receive offload each may hold 64 datagrams. */
const MESSAGES = 16
// Per wake-up, so that timers and the other descriptors get their turn (host spec section 10.4).
const CALLS_PER_TURN = 8
const DATAGRAMS_PER_TURN = 1024

/** Drains one peer socket and hands on its datagrams by the rules of host spec section 10.2. */
export class PeerReceiver {
  readonly #fd: number
  readonly #port: number
  readonly #handlers: DatagramHandlers
  readonly #counters: PeerCounters
  readonly #report: Report
  readonly #arena: ReceiveArena
  readonly #locals: AddressInterner
  readonly #senders: AddressInterner
  #closed = false
  #reported = false

  constructor(
    fd: number,
    family: Family,
    port: number,
    handlers: DatagramHandlers,
    counters: PeerCounters,
    report: Report
  ) {
    this.#fd = fd
    this.#port = port
    this.#handlers = handlers
    this.#counters = counters
    this.#report = report
    this.#arena = new ReceiveArena(family === 4 ? AF_INET : AF_INET6, MESSAGES)
    this.#locals = new AddressInterner(family)
    this.#senders = new AddressInterner(family)
  }

  /** Takes what is waiting, within the budget; the poller calls again if something is left. */
  drain(): void {
    let datagrams = 0
    for (let call = 0; call < CALLS_PER_TURN && datagrams < DATAGRAMS_PER_TURN && !this.#closed; call++) {
      const count = this.#arena.receive(this.#fd)
      if (count < 0) {
        const code = errno()
        if (code === ERRNO.EAGAIN) return
        if (code !== ERRNO.EINTR) this.#counters.drop("receive-error")
        continue
      }
      for (let i = 0; i < count && !this.#closed; i++) datagrams += this.#deliver(i)
      if (!this.#closed) this.#handlers.onBatchEnd()
      if (count < MESSAGES) return
    }
  }

  close(): void {
    this.#closed = true
  }

  /** Returns how many datagrams the message held. */
  #deliver(i: number): number {
    const arena = this.#arena
    const counters = this.#counters
    arena.read(i)
    const { ecn, length, segmentSize } = arena
    if (length === 0) {
      counters.drop("empty")
      return 1
    }
    if (arena.truncated || arena.nameAt < 0 || segmentSize <= 0 || segmentSize > length) {
      counters.drop("malformed")
      return 1
    }
    if (segmentSize > MAX_DATAGRAM) {
      counters.drop("oversized")
      return 1
    }
    if (arena.senderPort === 0) {
      counters.drop("source-port-0")
      return 1
    }
    if (arena.localAt < 0) {
      counters.drop("no-local-address")
      if (!this.#reported) this.#report("Warning", "the system does not say where datagrams were sent to", {})
      this.#reported = true
      return 1
    }
    const local = this.#locals.get(arena.words, arena.localAt, this.#port)
    const from = this.#senders.get(arena.words, arena.nameAt, arena.senderPort)
    const end = arena.offset + length
    let datagrams = 0
    for (let offset = arena.offset; offset < end && !this.#closed; offset += segmentSize) {
      const size = Math.min(segmentSize, end - offset)
      counters.received += 1
      counters.receivedBytes += size
      datagrams += 1
      this.#handlers.onDatagram(local, from, ecn, arena.bytes, offset, size)
    }
    return datagrams
  }
}
