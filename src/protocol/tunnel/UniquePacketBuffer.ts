import { CIPHER_HEADROOM, CIPHER_TAILROOM } from "../crypto.ts"
import { type IpPacket, Protocol } from "../wire/ip.ts"
import { sameWords } from "../wire/ipWords.ts"

/** A copy of a packet with room for the cipher around it: `bytes[CIPHER_HEADROOM, CIPHER_HEADROOM + length)`. */
export interface BufferedPacket {
  readonly bytes: Uint8Array
  readonly length: number
  /** The SYN that opens a TCP connection; sent again it replaces the one before. */
  readonly syn: Syn | undefined
}

interface Syn {
  readonly version: number
  readonly source: Int32Array
  readonly destination: Int32Array
  readonly ports: number
  readonly sequence: number
}

export const bufferedPacket = (buffer: Uint8Array, offset: number, length: number, syn?: Syn): BufferedPacket => {
  const bytes = new Uint8Array(CIPHER_HEADROOM + length + CIPHER_TAILROOM)
  bytes.set(buffer.subarray(offset, offset + length), CIPHER_HEADROOM)
  return { bytes, length, syn }
}

/**
 * Packets that wait for an authorisation or a connection (tunnel spec 8.3). A packet that is there already is skipped, a
 * TCP SYN takes the place of the one it repeats, and the oldest makes room when all is full.
 */
export class UniquePacketBuffer {
  readonly #capacity: number
  #packets: Array<BufferedPacket> = []
  constructor(capacity: number) {
    this.#capacity = capacity
  }

  get size(): number {
    return this.#packets.length
  }

  /** Keeps a copy. Returns whether an older packet was lost for it. */
  push(packet: IpPacket): boolean {
    const { buffer, length, offset } = packet
    if (this.#packets.some((waiting) => sameBytes(waiting, buffer, offset, length))) return false
    const syn = synOf(packet)
    const copy = bufferedPacket(buffer, offset, length, syn)
    const repeated = syn === undefined ? -1 : this.#packets.findIndex((waiting) => isSameSyn(waiting.syn, syn))
    if (repeated >= 0) {
      this.#packets[repeated] = copy
      return false
    }
    this.#packets.push(copy)
    if (this.#packets.length <= this.#capacity) return false
    this.#packets.shift()
    return true
  }

  /** Returns whether there was one. */
  dropOldest(): boolean {
    return this.#packets.shift() !== undefined
  }

  /** Empties the buffer, oldest first. */
  take(): ReadonlyArray<BufferedPacket> {
    const packets = this.#packets
    this.#packets = []
    return packets
  }
}

const sameBytes = (waiting: BufferedPacket, buffer: Uint8Array, offset: number, length: number): boolean => {
  if (waiting.length !== length) return false
  for (let i = 0; i < length; i++) {
    if (waiting.bytes[CIPHER_HEADROOM + i] !== buffer[offset + i]) return false
  }
  return true
}

const SYN = 0x02
const ACK = 0x10

const synOf = (packet: IpPacket): Syn | undefined => {
  const { buffer, destination, source, transport, version } = packet
  if (packet.protocol !== Protocol.Tcp || ((buffer[transport + 13] as number) & (SYN | ACK)) !== SYN) return undefined
  const view = new DataView(buffer.buffer, buffer.byteOffset)
  return {
    version,
    source: source.slice(),
    destination: destination.slice(),
    ports: view.getUint32(transport),
    sequence: view.getUint32(transport + 4)
  }
}

const isSameSyn = (a: Syn | undefined, b: Syn): boolean =>
  a !== undefined && a.ports === b.ports && a.sequence === b.sequence && a.version === b.version &&
  sameWords(a.source, b.source) && sameWords(a.destination, b.destination)
