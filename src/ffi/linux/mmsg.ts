/**
 * `recvmmsg` and `sendmmsg` on headers that are laid out once, by hand, in fixed memory: per call only lengths change.
 * Layouts of 64-bit Linux (recvmmsg(2), cmsg(3), host spec section 10.2): `msghdr` 56 bytes in an `mmsghdr` of 64,
 * `iovec` 16, `cmsghdr` 16 with data padded to 8.
 */
import { lazily, memoryAddress } from "./libc.ts"
import {
  type AddressFamily,
  AF_INET,
  IP_PKTINFO,
  IP_TOS,
  IPV6_PKTINFO,
  IPV6_TCLASS,
  SOCKADDR_IN,
  SOCKADDR_IN6,
  SOL_IP,
  SOL_IPV6,
  SOL_UDP,
  UDP_GRO,
  UDP_SEGMENT
} from "./socket.ts"

const recvmmsg = lazily<(fd: number, messages: number, count: number, flags: number, timeout: number) => number>(
  "int recvmmsg(int, int64_t, uint32_t, int, int64_t)"
)
const sendmmsg = lazily<(fd: number, messages: number, count: number, flags: number) => number>(
  "int sendmmsg(int, int64_t, uint32_t, int)"
)
const memcpy = lazily<(to: number, from: number, length: number) => void>("void memcpy(int64_t, int64_t, size_t)")

/** Copies between addresses; both ranges must be memory of ours. */
export const copyMemory = (to: number, from: number, length: number): void => {
  memcpy()(to, from, length)
}

const MMSGHDR = 64
const NAME_ROOM = 32
const CONTROL_ROOM = 128 // PKTINFO 32 or 40, TOS 24, GRO or SEGMENT 24
const CMSGHDR = 16

// Offsets in 32-bit words of an `mmsghdr`; pointers take two.
const NAME = 0
const NAME_LENGTH = 2
const IOV = 4
const IOV_COUNT = 6
const CONTROL = 8
const CONTROL_LENGTH = 10
const FLAGS = 12
const RECEIVED = 14

const MSG_CTRUNC = 0x8
const MSG_TRUNC = 0x20

const HIGH = 0x1_0000_0000
const writePointer = (words: Int32Array, at: number, address: number): void => {
  words[at] = address // modulo 2^32
  words[at + 1] = Math.floor(address / HIGH)
}

/** Bytes kept free before each receive buffer, and after it: the cipher works in place and needs both. */
export const RECEIVE_ROOM = 64
/** A coalesced train is at most one IP packet's worth. */
const RECEIVE_BUFFER = 65536
const RECEIVE_STRIDE = RECEIVE_ROOM + RECEIVE_BUFFER + RECEIVE_ROOM

/**
 * Buffers and headers for receiving. After `receive`, `read(i)` decodes message `i` into the fields below it; nothing is
 * allocated.
 */
export class ReceiveArena {
  readonly bytes: Uint8Array
  /** Names and control data as 32-bit words in host order, for `nameAt` and `localAt`. */
  readonly words: Int32Array
  /** Where the datagrams of the message begin in `bytes`, and their common length. */
  offset = 0
  length = 0
  /** What one datagram of the message measures; `length` if the kernel joined none. */
  segmentSize = 0
  /** The two ECN bits. */
  ecn = 0
  /** The message or its control data did not fit. */
  truncated = false
  /** The sender's address, as an index into `words`; -1 if it is not of the socket's family. */
  nameAt = -1
  senderPort = 0
  /** The address that it was sent to, as an index into `words`; -1 if the kernel did not say. */
  localAt = -1
  readonly #family: AddressFamily
  readonly #headerBytes: Uint8Array
  readonly #messages: number
  readonly #headers: number
  readonly #names: number
  readonly #controls: number

  constructor(family: AddressFamily, messages: number) {
    this.#family = family
    this.#messages = messages
    this.bytes = new Uint8Array(messages * RECEIVE_STRIDE)
    const iovecs = messages * MMSGHDR
    const names = iovecs + messages * 16
    const controls = names + messages * NAME_ROOM
    this.#headerBytes = new Uint8Array(controls + messages * CONTROL_ROOM)
    this.words = new Int32Array(this.#headerBytes.buffer)
    this.#headers = memoryAddress(this.#headerBytes)
    this.#names = names >> 2
    this.#controls = controls >> 2
    const payload = memoryAddress(this.bytes)
    for (let i = 0; i < messages; i++) {
      const header = i * MMSGHDR >> 2
      const iovec = iovecs + i * 16
      writePointer(this.words, header + NAME, this.#headers + names + i * NAME_ROOM)
      writePointer(this.words, header + IOV, this.#headers + iovec)
      this.words[header + IOV_COUNT] = 1
      writePointer(this.words, header + CONTROL, this.#headers + controls + i * CONTROL_ROOM)
      writePointer(this.words, iovec >> 2, payload + i * RECEIVE_STRIDE + RECEIVE_ROOM)
      this.words[(iovec >> 2) + 2] = RECEIVE_BUFFER
      this.#arm(header)
    }
  }

  /** How many messages arrived; -1 with `errno` if there is none. */
  receive(fd: number): number {
    return recvmmsg()(fd, this.#headers, this.#messages, 0, 0)
  }

  /** Decodes message `i` of the latest `receive` and makes its header ready for the next one. */
  read(i: number): void {
    const { words } = this
    const header = i * MMSGHDR >> 2
    const name = this.#names + (i * NAME_ROOM >> 2)
    const nameLength = words[header + NAME_LENGTH] as number
    const nameHead = words[name] as number
    this.offset = i * RECEIVE_STRIDE + RECEIVE_ROOM
    this.length = words[header + RECEIVED] as number
    this.segmentSize = this.length
    this.ecn = 0
    this.localAt = -1
    this.truncated = ((words[header + FLAGS] as number) & (MSG_TRUNC | MSG_CTRUNC)) !== 0
    if ((nameHead & 0xffff) !== this.#family || nameLength < (this.#family === AF_INET ? SOCKADDR_IN : SOCKADDR_IN6)) {
      this.nameAt = -1
      this.senderPort = 0
    } else {
      this.nameAt = name + (this.#family === AF_INET ? 1 : 2)
      this.senderPort = (nameHead >>> 8 & 0xff00) | nameHead >>> 24
    }
    this.#readControl(this.#controls + (i * CONTROL_ROOM >> 2), words[header + CONTROL_LENGTH] as number)
    this.#arm(header)
  }

  #readControl(start: number, controlLength: number): void {
    const { words } = this
    const end = start + (Math.min(controlLength, CONTROL_ROOM) >> 2)
    for (let at = start; at + 4 <= end;) {
      const length = words[at] as number
      if (length < CMSGHDR || at + (length + 3 >> 2) > end) return
      const level = words[at + 2] as number
      const type = words[at + 3] as number
      const data = at + 4
      if (level === SOL_UDP && type === UDP_GRO) this.segmentSize = words[data] as number
      else if (level === SOL_IP && type === IP_PKTINFO) this.localAt = data + 2 // the header's destination
      else if (level === SOL_IP && type === IP_TOS) this.ecn = (words[data] as number) & 3 // one byte
      else if (level === SOL_IPV6 && type === IPV6_PKTINFO) this.localAt = data
      else if (level === SOL_IPV6 && type === IPV6_TCLASS) this.ecn = (words[data] as number) & 3
      at += length + 7 >> 3 << 1
    }
  }

  /** The kernel overwrote these. */
  #arm(header: number): void {
    this.words[header + NAME_LENGTH] = NAME_ROOM
    this.words[header + CONTROL_LENGTH] = CONTROL_ROOM
    this.words[header + FLAGS] = 0
  }
}

/** Datagrams that one message may carry: the kernel's UDP_MAX_SEGMENTS of old. */
export const MAX_SEGMENTS = 64

/**
 * Headers for sending: each of `slots` messages has room for a destination, a pinned source, two ECN bits and up to 64
 * datagrams anywhere in memory. Whoever gives an address keeps the bytes alive and unchanged until they are sent.
 */
export class SendArena {
  readonly #family: AddressFamily
  readonly #bytes: Uint8Array
  readonly #words: Int32Array
  readonly #address: number
  readonly #names: number
  readonly #controls: number
  readonly #iovecs: number

  constructor(family: AddressFamily, slots: number) {
    this.#family = family
    const names = slots * MMSGHDR
    const controls = names + slots * NAME_ROOM
    const iovecs = controls + slots * CONTROL_ROOM
    this.#bytes = new Uint8Array(iovecs + slots * MAX_SEGMENTS * 16)
    this.#words = new Int32Array(this.#bytes.buffer)
    this.#address = memoryAddress(this.#bytes)
    this.#names = names
    this.#controls = controls
    this.#iovecs = iovecs
    for (let slot = 0; slot < slots; slot++) {
      const header = slot * MMSGHDR >> 2
      writePointer(this.#words, header + NAME, this.#address + names + slot * NAME_ROOM)
      this.#words[header + NAME_LENGTH] = family === AF_INET ? SOCKADDR_IN : SOCKADDR_IN6
      writePointer(this.#words, header + CONTROL, this.#address + controls + slot * CONTROL_ROOM)
    }
  }

  /** `sockaddr` as `encodeSockaddr` makes it. */
  setDestination(slot: number, sockaddr: Uint8Array): void {
    this.#bytes.set(sockaddr, this.#names + slot * NAME_ROOM)
  }

  /** The address to send from, 4 or 16 bytes; it begins the control data. */
  setSource(slot: number, source: Uint8Array): void {
    const control = this.#controls + slot * CONTROL_ROOM
    if (this.#family === AF_INET) {
      this.#writeHeader(control >> 2, CMSGHDR + 12, SOL_IP, IP_PKTINFO)
      this.#words[(control >> 2) + 4] = 0 // any interface
      this.#bytes.set(source, control + CMSGHDR + 4) // spec_dst; the address after it is for receiving
    } else {
      this.#writeHeader(control >> 2, CMSGHDR + 20, SOL_IPV6, IPV6_PKTINFO)
      this.#bytes.set(source, control + CMSGHDR)
      this.#words[(control >> 2) + 8] = 0
    }
  }

  setDatagram(slot: number, segment: number, address: number, length: number): void {
    const iovec = this.#iovecs + (slot * MAX_SEGMENTS + segment) * 16 >> 2
    writePointer(this.#words, iovec, address)
    this.#words[iovec + 2] = length
  }

  datagramAddress(slot: number, segment: number): number {
    const iovec = this.#iovecs + (slot * MAX_SEGMENTS + segment) * 16 >> 2
    return ((this.#words[iovec] as number) >>> 0) + ((this.#words[iovec + 1] as number) >>> 0) * HIGH
  }

  datagramLength(slot: number, segment: number): number {
    return this.#words[(this.#iovecs + (slot * MAX_SEGMENTS + segment) * 16 >> 2) + 2] as number
  }

  /**
   * Makes the message complete: datagrams `[first, first + count)`, cut by the kernel every `segmentSize` bytes if there
   * are several, with the ECN bits unless they are 0.
   */
  prepare(slot: number, first: number, count: number, segmentSize: number, ecn: number): void {
    const words = this.#words
    const header = slot * MMSGHDR >> 2
    const start = this.#controls + slot * CONTROL_ROOM >> 2
    const v4 = this.#family === AF_INET
    let at = start + (v4 ? 8 : 10)
    if (ecn !== 0) {
      this.#writeHeader(at, CMSGHDR + 4, v4 ? SOL_IP : SOL_IPV6, v4 ? IP_TOS : IPV6_TCLASS)
      words[at + 4] = ecn
      at += 6
    }
    if (count > 1) {
      this.#writeHeader(at, CMSGHDR + 2, SOL_UDP, UDP_SEGMENT)
      words[at + 4] = segmentSize
      at += 6
    }
    words[header + CONTROL_LENGTH] = (at - start) << 2
    writePointer(words, header + IOV, this.#address + this.#iovecs + (slot * MAX_SEGMENTS + first) * 16)
    words[header + IOV_COUNT] = count
  }

  /** How many of the messages were sent, from the first on; -1 with `errno` if the first one failed. */
  send(fd: number, slot: number, count: number): number {
    return sendmmsg()(fd, this.#address + slot * MMSGHDR, count, 0)
  }

  #writeHeader(at: number, length: number, level: number, type: number): void {
    const words = this.#words
    words[at] = length
    words[at + 1] = 0
    words[at + 2] = level
    words[at + 3] = type
  }
}
