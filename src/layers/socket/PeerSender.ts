import { ERRNO, errno, errnoName, memoryAddress } from "../../ffi/linux/libc.ts"
import { copyMemory, MAX_SEGMENTS, SendArena } from "../../ffi/linux/mmsg.ts"
import { AF_INET, AF_INET6 } from "../../ffi/linux/socket.ts"
import { type Family, type IpAddress, ipToBytes } from "../../protocol/wire/address.ts"
import { isSourceGone } from "./isSourceGone.ts"
import type { PeerCounters, Report } from "./PeerCounters.ts"
import { RecentAddresses } from "./RecentAddresses.ts"
import type { Destination, WaitingRoom } from "./WaitingRoom.ts"

/** Messages of one `sendmmsg`; without segmentation offload each is one datagram. */
const SLOTS = 128
/** Bytes kept while the kernel's buffer is full; what does not fit is dropped. */
const BACKLOG = 1 << 20
const SOURCES = 256

/** Who chose the source: the cache may choose again when it is gone, a caller's choice stands. */
const BY_CALLER = 0
const BY_CACHE = 1
const BY_CACHE_AGAIN = 2

/**
 * Groups datagrams into segmented messages and sends them with few calls, for one family (host spec section 10.2).
 *
 * A message holds datagrams of one (source, destination, ecn): all of the first one's size, the last may be shorter and
 * seals it. Only the newest message from that source to that destination is extended, and only by its own ECN bits, so
 * the datagrams of a flow keep their order also where some are marked (connectivity spec 3.4 allows to look for the newest
 * of the triple instead, which would send the marked ones last).
 *
 * While the kernel's buffer is full, what is queued and what comes is copied to a bounded backlog, which leaves as soon
 * as the socket is writable.
 */
export class PeerSender {
  readonly #fd: number
  readonly #family: Family
  readonly #counters: PeerCounters
  readonly #room: WaitingRoom
  readonly #report: Report
  readonly #setWritable: (wanted: boolean) => void
  readonly #arena: SendArena
  readonly #maxBytes: number
  #maxSegments: number
  #ecnAllowed = true

  // Messages [#head, #count) are queued; those before #head have been sent.
  #head = 0
  #count = 0
  #touched = -1
  readonly #destinations: Array<Destination | undefined> = Array.from({ length: SLOTS }, () => undefined)
  readonly #sources: Array<IpAddress | undefined> = Array.from({ length: SLOTS }, () => undefined)
  readonly #chosen = new Uint8Array(SLOTS)
  readonly #ecns = new Uint8Array(SLOTS)
  readonly #sealed = new Uint8Array(SLOTS)
  readonly #sizes = new Int32Array(SLOTS)
  readonly #segments = new Int32Array(SLOTS)
  readonly #totals = new Int32Array(SLOTS)

  readonly #sourceBytes = new Map<IpAddress, Uint8Array>()
  readonly #addresses = new RecentAddresses()
  /** The arrays that queued messages point into: they must not be collected before. */
  readonly #held: Array<Uint8Array | undefined> = Array.from({ length: SLOTS * MAX_SEGMENTS }, () => undefined)
  #holding = 0

  #blocked = false
  #closed = false
  #backlog: Uint8Array | undefined
  #backlogAddress = 0
  #backlogUsed = 0
  #permissionReported = false

  constructor(
    fd: number,
    family: Family,
    segmentation: boolean,
    counters: PeerCounters,
    room: WaitingRoom,
    setWritable: (wanted: boolean) => void,
    report: Report
  ) {
    this.#fd = fd
    this.#family = family
    this.#counters = counters
    this.#room = room
    this.#setWritable = setWritable
    this.#report = report
    this.#arena = new SendArena(family === 4 ? AF_INET : AF_INET6, SLOTS)
    this.#maxBytes = family === 4 ? 65535 - 68 : 65535 - 48
    this.#maxSegments = segmentation ? MAX_SEGMENTS : 1
  }

  /** Whether the kernel's buffer is full: more is kept, but only as much as the backlog holds. */
  get blocked(): boolean {
    return this.#blocked
  }

  close(): void {
    this.#closed = true
  }

  /** Queues a datagram of 1 to 1316 bytes; they must stay as they are until `flush`. */
  enqueue(
    source: IpAddress,
    fromCache: boolean,
    retried: boolean,
    destination: Destination,
    ecn: number,
    buffer: Uint8Array,
    offset: number,
    length: number
  ): void {
    if (this.#closed) return this.#counters.drop("no-socket")
    let address = this.#addresses.of(buffer) + offset
    if (this.#blocked) {
      const kept = this.#keep(address, length)
      if (kept === 0) return this.#counters.drop("queue-full")
      address = kept
    }
    const chosen = fromCache ? retried ? BY_CACHE_AGAIN : BY_CACHE : BY_CALLER
    const open = this.#newest(source, chosen, destination)
    const slot = open >= 0 && this.#ecns[open] === ecn && this.#hasRoom(open, length)
      ? open
      : this.#begin(source, chosen, destination, ecn, length)
    if (slot < 0) return this.#counters.drop("queue-full")
    if (!this.#blocked) this.#hold(buffer)
    const segment = this.#segments[slot] as number
    this.#arena.setDatagram(slot, segment, address, length)
    this.#segments[slot] = segment + 1
    this.#totals[slot] = (this.#totals[slot] as number) + length
    if (length < (this.#sizes[slot] as number)) this.#sealed[slot] = 1
    this.#touched = slot
  }

  /** Sends what is queued; while the kernel's buffer is full, it keeps it. */
  flush(): void {
    if (!this.#blocked && !this.#closed && this.#count > 0) this.#transmit()
  }

  /** The kernel has room again. */
  onWritable(): void {
    if (!this.#blocked || this.#closed) return
    this.#transmit()
  }

  #newest(source: IpAddress, chosen: number, destination: Destination): number {
    if (this.#touched >= this.#head && this.#isOf(this.#touched, source, chosen, destination)) return this.#touched
    for (let slot = this.#count - 1; slot >= this.#head; slot--) {
      if (this.#isOf(slot, source, chosen, destination)) return slot
    }
    return -1
  }

  #isOf(slot: number, source: IpAddress, chosen: number, destination: Destination): boolean {
    const of = this.#destinations[slot] as Destination
    return (of === destination || of.address.text === destination.address.text) && this.#chosen[slot] === chosen &&
      this.#sources[slot] === source
  }

  #hasRoom(slot: number, length: number): boolean {
    return this.#sealed[slot] === 0 && (this.#segments[slot] as number) < this.#maxSegments &&
      length <= (this.#sizes[slot] as number) && (this.#totals[slot] as number) + length <= this.#maxBytes
  }

  /** Returns the new message, or -1 if there is no room for one. */
  #begin(source: IpAddress, chosen: number, destination: Destination, ecn: number, length: number): number {
    if (this.#count === SLOTS) {
      this.flush()
      // Blocked only just now: the datagram at hand is not in the backlog, and there is no message for it either.
      if (this.#count === SLOTS || this.#blocked) return -1
    }
    const slot = this.#count++
    if (this.#destinations[slot] !== destination) {
      this.#destinations[slot] = destination
      this.#arena.setDestination(slot, destination.sockaddr)
    }
    this.#setSource(slot, source)
    this.#chosen[slot] = chosen
    this.#ecns[slot] = ecn
    this.#sealed[slot] = 0
    this.#sizes[slot] = length
    this.#segments[slot] = 0
    this.#totals[slot] = 0
    return slot
  }

  #setSource(slot: number, source: IpAddress): void {
    if (this.#sources[slot] === source) return
    let bytes = this.#sourceBytes.get(source)
    if (bytes === undefined) {
      if (this.#sourceBytes.size >= SOURCES) this.#sourceBytes.clear()
      bytes = ipToBytes(source)
      this.#sourceBytes.set(source, bytes)
    }
    this.#sources[slot] = source
    this.#arena.setSource(slot, bytes)
  }

  #hold(buffer: Uint8Array): void {
    if (this.#holding > 0 && this.#held[this.#holding - 1] === buffer) return
    this.#held[this.#holding++] = buffer
  }

  #release(): void {
    while (this.#holding > 0) this.#held[--this.#holding] = undefined
  }

  #transmit(): void {
    const arena = this.#arena
    for (let slot = this.#head; slot < this.#count; slot++) this.#prepare(slot)
    while (this.#head < this.#count) {
      const sent = arena.send(this.#fd, this.#head, this.#count - this.#head)
      if (sent > 0) {
        for (let i = 0; i < sent; i++) this.#countSent(this.#head + i)
        this.#head += sent
        continue
      }
      const code = errno()
      if (code === ERRNO.EINTR) continue
      if (code === ERRNO.EAGAIN) return this.#block()
      this.#recover(this.#head, code)
      this.#head += 1
    }
    this.#head = 0
    this.#count = 0
    this.#touched = -1
    this.#backlogUsed = 0
    this.#release()
    if (this.#blocked) {
      this.#blocked = false
      this.#setWritable(false)
    }
  }

  #prepare(slot: number): void {
    const ecn = this.#ecnAllowed ? this.#ecns[slot] as number : 0
    this.#arena.prepare(slot, 0, this.#segments[slot] as number, this.#sizes[slot] as number, ecn)
  }

  #countSent(slot: number): void {
    this.#counters.sent += this.#segments[slot] as number
    this.#counters.sentBytes += this.#totals[slot] as number
  }

  /** Copies what is queued, because its owners may overwrite it after `flush`. */
  #block(): void {
    if (!this.#blocked) {
      this.#blocked = true
      this.#setWritable(true)
    }
    for (let slot = this.#head; slot < this.#count; slot++) {
      const segments = this.#segments[slot] as number
      for (let segment = 0; segment < segments; segment++) {
        const length = this.#arena.datagramLength(slot, segment)
        const address = this.#keep(this.#arena.datagramAddress(slot, segment), length)
        if (address === 0) return this.#shorten(slot, segment)
        this.#arena.setDatagram(slot, segment, address, length)
      }
    }
    this.#release()
  }

  /** Drops what is queued from this datagram on. */
  #shorten(slot: number, segment: number): void {
    let dropped = 0
    for (let i = slot; i < this.#count; i++) dropped += this.#segments[i] as number
    this.#counters.drop("queue-full", dropped - segment)
    let total = 0
    for (let i = 0; i < segment; i++) total += this.#arena.datagramLength(slot, i)
    this.#segments[slot] = segment
    this.#totals[slot] = total
    this.#count = segment > 0 ? slot + 1 : slot
    this.#touched = -1
    this.#release()
  }

  /** Copies to the backlog and returns the copy's address; 0 if it is full. */
  #keep(address: number, length: number): number {
    if (this.#backlog === undefined) {
      this.#backlog = new Uint8Array(BACKLOG)
      this.#backlogAddress = memoryAddress(this.#backlog)
    }
    if (address >= this.#backlogAddress && address < this.#backlogAddress + BACKLOG) return address // kept already
    if (this.#backlogUsed + length > BACKLOG) return 0
    const copy = this.#backlogAddress + this.#backlogUsed
    copyMemory(copy, address, length)
    this.#backlogUsed += length
    return copy
  }

  /** The message failed with `code`: finds out why, and sends or drops what is in it. */
  #recover(slot: number, code: number): void {
    const segments = this.#segments[slot] as number
    if (segments > 1 && (code === ERRNO.EIO || code === ERRNO.EINVAL || code === ERRNO.EMSGSIZE)) {
      const first = this.#sendOne(slot, 0)
      if (first === 0 || first === ERRNO.EMSGSIZE) {
        // The same bytes leave one by one: it was the segmentation.
        if (first === 0 && code !== ERRNO.EMSGSIZE) this.#giveUpSegmentation(code)
        if (first !== 0) this.#counters.drop("oversized")
        for (let segment = 1; segment < segments; segment++) this.#dropOne(this.#sendOne(slot, segment))
        return
      }
      code = first
      this.#prepare(slot)
    }
    if (code === ERRNO.EINVAL && this.#ecns[slot] !== 0 && this.#ecnAllowed && this.#sendWithoutEcn(slot)) return
    if (isSourceGone(code)) return this.#sourceGone(slot, code)
    this.#drop(slot, code)
  }

  /** Sends one datagram of the message by itself; returns 0 or the error. */
  #sendOne(slot: number, segment: number): number {
    this.#arena.prepare(slot, segment, 1, 0, this.#ecnAllowed ? this.#ecns[slot] as number : 0)
    const error = this.#sendSlot(slot)
    if (error === 0) {
      this.#counters.sent += 1
      this.#counters.sentBytes += this.#arena.datagramLength(slot, segment)
    }
    return error
  }

  #sendSlot(slot: number): number {
    while (true) {
      if (this.#arena.send(this.#fd, slot, 1) === 1) return 0
      const code = errno()
      if (code !== ERRNO.EINTR) return code
    }
  }

  #giveUpSegmentation(code: number): void {
    if (this.#maxSegments === 1) return
    this.#maxSegments = 1
    this.#report("Warning", "the system refuses segmentation offload, sending datagrams one by one", {
      errno: errnoName(code),
      family: this.#family
    })
  }

  /** Old kernels refuse the type of service beside other control data. */
  #sendWithoutEcn(slot: number): boolean {
    this.#arena.prepare(slot, 0, this.#segments[slot] as number, this.#sizes[slot] as number, 0)
    if (this.#sendSlot(slot) !== 0) return false
    this.#ecnAllowed = false
    this.#countSent(slot)
    for (let next = slot + 1; next < this.#count; next++) this.#prepare(next)
    this.#report("Warning", "the system refuses ECN bits, sending without", { family: this.#family })
    return true
  }

  #sourceGone(slot: number, code: number): void {
    const destination = this.#destinations[slot] as Destination
    if (this.#chosen[slot] !== BY_CACHE) {
      // Another source would not be the caller's path, and a second failure is not the cache's fault.
      if (this.#chosen[slot] === BY_CALLER) this.#room.evict(destination)
      return this.#drop(slot, code)
    }
    const source = this.#room.sourceAgain(destination)
    if (source === undefined) return this.#wait(slot)
    this.#setSource(slot, source)
    this.#prepare(slot)
    const error = this.#sendSlot(slot)
    if (error === 0) this.#countSent(slot)
    else this.#drop(slot, error)
  }

  /** The route is being looked up: the datagrams of the message leave when it is known. */
  #wait(slot: number): void {
    const segments = this.#segments[slot] as number
    for (let segment = 0; segment < segments; segment++) {
      const bytes = new Uint8Array(this.#arena.datagramLength(slot, segment))
      copyMemory(memoryAddress(bytes), this.#arena.datagramAddress(slot, segment), bytes.length)
      this.#room.wait(this.#destinations[slot] as Destination, this.#ecns[slot] as number, bytes, true)
    }
  }

  #drop(slot: number, code: number): void {
    this.#dropOne(code, this.#segments[slot] as number)
  }

  #dropOne(code: number, datagrams = 1): void {
    if (code === 0) return
    if (code === ERRNO.EMSGSIZE) return this.#counters.drop("oversized", datagrams)
    if (code === ERRNO.EAGAIN) return this.#counters.drop("queue-full", datagrams)
    if (code === ERRNO.ENETUNREACH || code === ERRNO.EHOSTUNREACH) return this.#counters.drop("no-route", datagrams)
    this.#counters.drop("send-error", datagrams)
    if ((code === ERRNO.EPERM || code === ERRNO.EACCES) && !this.#permissionReported) {
      this.#permissionReported = true
      this.#report("Info", "the system forbids sending datagrams to peers, look at its firewall", {
        errno: errnoName(code)
      })
    }
  }
}
