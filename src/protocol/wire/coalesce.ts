/**
 * Finds trains in a batch of IP packets: TCP segments or UDP datagrams of one flow that follow each other, which a TUN
 * device takes as one large packet (generic receive offload, GRO): host spec section 8.2, data-plane.md section 6. The
 * kernel does not check the checksums inside a train, so they are checked here, before anything is merged.
 */
import { checksum, pseudoHeaderSum4, pseudoHeaderSum6, sumBytes, sumBytesPlain } from "./checksum.ts"
import { GSO_TCPV4, GSO_TCPV6, GSO_UDP_L4, VIRTIO_NET_HEADER, writeGsoHeader } from "./virtioNet.ts"

/** Packets of one train at most: what the kernel takes for UDP. */
export const MAX_TRAIN = 128
/** Flows that are open for merging at a time; with more, the oldest train is closed. */
const MAX_FLOWS = 16
/** IP packet with its headers. */
const MAX_BYTES = 65_535
/** The longest headers of a train: IPv6 without extensions, TCP with all options. */
export const MAX_HEADERS = 40 + 60

const TCP = 6
const UDP = 17
const ACK = 0x10
const PSH = 0x08

const NONE = -1
const NO_BYTES = new Uint8Array(0)

/** What `#parse` says of a packet. */
const MERGEABLE = 0
/** A packet of a known flow that must stay alone, such as a SYN. */
const ALONE = 1
/** Not TCP or UDP, or too odd to tell its flow. */
const UNKNOWN = 2

/**
 * A queue of packets by reference, arranged into trains as they arrive. Trains are numbered in the order of their first
 * packets; packets of one flow never overtake each other. Nothing is allocated after the constructor.
 */
export class Coalescer {
  readonly capacity: number
  mergeTcp: boolean
  mergeUdp: boolean
  /** Packets queued. */
  size = 0
  /** Trains queued, single packets included. */
  trains = 0
  /** Packet i is `buffers[i]` from `offsets[i]`, `lengths[i]` long, with `headers[i]` bytes of IP and TCP or UDP header. */
  readonly buffers: Array<Uint8Array>
  readonly offsets: Float64Array
  readonly lengths: Int32Array
  readonly headers: Int32Array
  /** The packet behind packet i in its train, or -1. */
  readonly next: Int32Array
  /** By train: its first packet, how many, and the payload bytes of all. */
  readonly firsts: Int32Array
  readonly counts: Int32Array
  readonly payloads: Int32Array
  readonly #lasts: Int32Array
  readonly #verified: Uint8Array
  readonly #hashes: Int32Array
  /** Trains that may still grow, by train number. */
  readonly #open = new Int32Array(MAX_FLOWS).fill(NONE)
  #victim = 0
  // Of the packet that `#parse` looked at.
  #ipLength = 0
  #l4Length = 0
  #hash = 0

  constructor(capacity: number, mergeTcp: boolean, mergeUdp: boolean) {
    this.capacity = capacity
    this.mergeTcp = mergeTcp
    this.mergeUdp = mergeUdp
    this.buffers = Array.from({ length: capacity }, () => NO_BYTES)
    this.offsets = new Float64Array(capacity)
    this.lengths = new Int32Array(capacity)
    this.headers = new Int32Array(capacity)
    this.next = new Int32Array(capacity)
    this.firsts = new Int32Array(capacity)
    this.counts = new Int32Array(capacity)
    this.payloads = new Int32Array(capacity)
    this.#lasts = new Int32Array(capacity)
    this.#verified = new Uint8Array(capacity)
    this.#hashes = new Int32Array(capacity)
  }

  /** Queues a packet; the bytes must stay until `clear`. Returns false if the queue is full. */
  add(bytes: Uint8Array, offset: number, length: number): boolean {
    if (this.size === this.capacity) return false
    const packet = this.size++
    this.buffers[packet] = bytes
    this.offsets[packet] = offset
    this.lengths[packet] = length
    this.next[packet] = NONE
    const kind = this.mergeTcp || this.mergeUdp ? this.#parse(bytes, offset, length) : UNKNOWN
    if (kind === UNKNOWN) {
      // It may belong to any flow (a fragment), so nothing that comes later may be put before it.
      this.#open.fill(NONE)
      this.#startTrain(packet, 0)
      return true
    }
    const headers = this.#ipLength + this.#l4Length
    this.headers[packet] = headers
    const at = this.#findFlow(bytes, offset)
    if (at !== NONE) {
      const train = this.#open[at] as number
      if (kind === MERGEABLE && this.#append(train, packet)) {
        if (this.#isSealed(train, packet)) this.#open[at] = NONE
        return true
      }
      this.#open[at] = NONE
    }
    const train = this.#startTrain(packet, length - headers)
    if (kind === MERGEABLE && !this.#endsTrain(bytes, offset)) this.#openTrain(train, at)
    return true
  }

  /** Forgets all packets, and the references to their bytes. */
  clear(): void {
    for (let i = 0; i < this.size; i++) this.buffers[i] = NO_BYTES
    this.size = 0
    this.trains = 0
    this.#open.fill(NONE)
  }

  /**
   * Writes what precedes the payloads of a train of two or more: the virtio header and the headers of its first packet,
   * made to speak for all. Returns the length, at most `VIRTIO_NET_HEADER + MAX_HEADERS`.
   */
  writeHeaders(train: number, out: Uint8Array, at: number): number {
    const first = this.firsts[train] as number
    const bytes = this.buffers[first] as Uint8Array
    const from = this.offsets[first] as number
    const headers = this.headers[first] as number
    const version = (bytes[from] as number) >>> 4
    const ipLength = version === 4 ? 20 : 40
    const protocol = bytes[from + (version === 4 ? 9 : 6)] as number
    const payload = this.payloads[train] as number
    const ip = at + VIRTIO_NET_HEADER
    for (let i = 0; i < headers; i++) out[ip + i] = bytes[from + i] as number
    const l4 = ip + ipLength
    const l4Length = headers - ipLength + payload
    const csumOffset = protocol === TCP ? 16 : 6
    if (version === 4) {
      put16(out, ip + 2, headers + payload)
      put16(out, ip + 10, 0)
      put16(out, ip + 10, checksum(out, ip, ipLength))
    } else {
      put16(out, ip + 4, l4Length)
    }
    if (protocol === TCP) {
      const last = this.#lasts[train] as number
      const lastFlags = (this.buffers[last] as Uint8Array)[(this.offsets[last] as number) + ipLength + 13] as number
      out[l4 + 13] = (out[l4 + 13] as number) | (lastFlags & PSH)
    } else {
      put16(out, l4 + 4, l4Length)
    }
    put16(
      out,
      l4 + csumOffset,
      version === 4 ? pseudoHeaderSum4(out, ip, protocol, l4Length) : pseudoHeaderSum6(out, ip, protocol, l4Length)
    )
    const gsoType = protocol === UDP ? GSO_UDP_L4 : version === 4 ? GSO_TCPV4 : GSO_TCPV6
    writeGsoHeader(out, at, gsoType, headers, (this.lengths[first] as number) - headers, ipLength, csumOffset)
    return VIRTIO_NET_HEADER + headers
  }

  #startTrain(packet: number, payload: number): number {
    const train = this.trains++
    this.firsts[train] = packet
    this.#lasts[train] = packet
    this.counts[train] = 1
    this.payloads[train] = payload
    this.#verified[train] = 0
    this.#hashes[train] = this.#hash
    return train
  }

  #openTrain(train: number, preferred: number): void {
    let at = preferred
    for (let i = 0; at === NONE && i < MAX_FLOWS; i++) if (this.#open[i] === NONE) at = i
    if (at === NONE) {
      at = this.#victim
      this.#victim = (this.#victim + 1) % MAX_FLOWS
    }
    this.#open[at] = train
  }

  /** Fills `#ipLength`, `#l4Length` and `#hash` unless the packet is UNKNOWN. */
  #parse(bytes: Uint8Array, at: number, length: number): number {
    if (length < 28) return UNKNOWN
    const first = bytes[at] as number
    let protocol: number
    let hash: number
    if (first === 0x45) {
      // Any fragment, and a length that is not the packet's.
      if (((bytes[at + 6] as number) & 0xbf) !== 0 || bytes[at + 7] !== 0) return UNKNOWN
      if (((bytes[at + 2] as number) << 8 | (bytes[at + 3] as number)) !== length) return UNKNOWN
      protocol = bytes[at + 9] as number
      this.#ipLength = 20
      hash = get32(bytes, at + 12) ^ Math.imul(get32(bytes, at + 16), 31)
    } else if (first >>> 4 === 6) {
      if (length < 48 || ((bytes[at + 4] as number) << 8 | (bytes[at + 5] as number)) + 40 !== length) return UNKNOWN
      protocol = bytes[at + 6] as number
      this.#ipLength = 40
      hash = get32(bytes, at + 20) ^ Math.imul(get32(bytes, at + 36), 31)
    } else {
      return UNKNOWN
    }
    const l4 = at + this.#ipLength
    this.#hash = Math.imul(hash, 31) ^ get32(bytes, l4) ^ protocol
    if (protocol === UDP) {
      this.#l4Length = 8
      const udpLength = (bytes[l4 + 4] as number) << 8 | (bytes[l4 + 5] as number)
      if (udpLength !== length - this.#ipLength || udpLength === 8) return ALONE
      // Without a checksum there is nothing to check, and the kernel would add one.
      return this.mergeUdp && ((bytes[l4 + 6] as number) | (bytes[l4 + 7] as number)) !== 0 ? MERGEABLE : ALONE
    }
    if (protocol !== TCP) return UNKNOWN
    if (length < this.#ipLength + 20) return UNKNOWN
    this.#l4Length = (bytes[l4 + 12] as number) >>> 4 << 2
    if (this.#l4Length < 20 || this.#ipLength + this.#l4Length >= length) return ALONE
    return this.mergeTcp && ((bytes[l4 + 13] as number) | PSH) === (ACK | PSH) ? MERGEABLE : ALONE
  }

  /** The slot of the open train with the packet's addresses, ports and protocol. */
  #findFlow(bytes: Uint8Array, at: number): number {
    const version = (bytes[at] as number) >>> 4
    for (let i = 0; i < MAX_FLOWS; i++) {
      const train = this.#open[i] as number
      if (train === NONE || this.#hashes[train] !== this.#hash) continue
      const first = this.firsts[train] as number
      const other = this.buffers[first] as Uint8Array
      const otherAt = this.offsets[first] as number
      if ((other[otherAt] as number) >>> 4 !== version) continue
      const protocolAt = version === 4 ? 9 : 6
      if (other[otherAt + protocolAt] !== bytes[at + protocolAt]) continue
      // Addresses and ports are one run: an IPv4 header here has no options, an IPv6 header no extensions.
      if (same(bytes, at, other, otherAt, version === 4 ? 12 : 8, version === 4 ? 24 : 44)) return i
    }
    return NONE
  }

  /** Puts a packet of the same flow behind a train if the two can be one packet. */
  #append(train: number, packet: number): boolean {
    const first = this.firsts[train] as number
    const headers = this.headers[first] as number
    const count = this.counts[train] as number
    const sent = this.payloads[train] as number
    const payload = (this.lengths[packet] as number) - headers
    if (
      this.headers[packet] !== headers || payload > (this.lengths[first] as number) - headers ||
      headers + sent + payload > MAX_BYTES
    ) return false
    const a = this.buffers[first] as Uint8Array
    const b = this.buffers[packet] as Uint8Array
    const i = this.offsets[first] as number
    const j = this.offsets[packet] as number
    const ipLength = this.#ipLength
    if (ipLength === 20) {
      // Type of service, don't-fragment, time to live; the id has a meaning only where fragments may be (RFC 6864).
      if (a[i + 1] !== b[j + 1] || a[i + 6] !== b[j + 6] || a[i + 8] !== b[j + 8]) return false
      if (((b[j + 6] as number) & 0x40) === 0 && ((get16(a, i + 4) + count) & 0xffff) !== get16(b, j + 4)) return false
    } else if (!same(a, i, b, j, 0, 4) || a[i + 7] !== b[j + 7]) {
      return false // traffic class, flow label, hop limit
    }
    const k = i + ipLength
    const l = j + ipLength
    if (this.#l4Length !== 8) {
      if (((get32(a, k + 4) + sent) | 0) !== get32(b, l + 4)) return false
      // Acknowledgement and header length; window; urgent pointer and options.
      if (!same(a, k, b, l, 8, 13) || !same(a, k, b, l, 14, 16) || !same(a, k, b, l, 18, headers - ipLength)) {
        return false
      }
    }
    if (this.#verified[train] === 0) {
      if (!isIntact(a, i, this.lengths[first] as number, ipLength)) return false
      this.#verified[train] = 1
    }
    if (!isIntact(b, j, this.lengths[packet] as number, ipLength)) return false
    this.next[this.#lasts[train] as number] = packet
    this.#lasts[train] = packet
    this.counts[train] = count + 1
    this.payloads[train] = sent + payload
    return true
  }

  /** Whether nothing may follow `packet`, which is the last of `train`. */
  #isSealed(train: number, packet: number): boolean {
    const first = this.firsts[train] as number
    return (this.counts[train] as number) === MAX_TRAIN ||
      (this.lengths[packet] as number) < (this.lengths[first] as number) ||
      this.#endsTrain(this.buffers[packet] as Uint8Array, this.offsets[packet] as number)
  }

  #endsTrain(bytes: Uint8Array, at: number): boolean {
    return this.#l4Length !== 8 && ((bytes[at + this.#ipLength + 13] as number) & PSH) !== 0
  }
}

/** Whether the checksums of a TCP or UDP packet without IP options are right. */
const isIntact = (bytes: Uint8Array, at: number, length: number, ipLength: number): boolean => {
  if (ipLength === 20 && sumBytesPlain(bytes, at, 20) !== 0xffff) return false
  const l4 = length - ipLength
  const pseudo = ipLength === 20
    ? pseudoHeaderSum4(bytes, at, bytes[at + 9] as number, l4)
    : pseudoHeaderSum6(bytes, at, bytes[at + 6] as number, l4)
  return sumBytes(bytes, at + ipLength, l4, pseudo) === 0xffff
}

const same = (a: Uint8Array, i: number, b: Uint8Array, j: number, from: number, to: number): boolean => {
  for (let n = from; n < to; n++) if (a[i + n] !== b[j + n]) return false
  return true
}

const get16 = (bytes: Uint8Array, at: number): number => (bytes[at] as number) << 8 | (bytes[at + 1] as number)

const get32 = (bytes: Uint8Array, at: number): number =>
  (bytes[at] as number) << 24 | (bytes[at + 1] as number) << 16 | (bytes[at + 2] as number) << 8 |
  (bytes[at + 3] as number)

const put16 = (bytes: Uint8Array, at: number, value: number): void => {
  bytes[at] = value >>> 8
  bytes[at + 1] = value & 0xff
}
