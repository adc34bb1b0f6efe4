/** IP packets as they may enter and leave the tunnel (tunnel spec 7.1 and 7.2): checked once, then read without checks. */
import type { Family } from "./address.ts"
import { type IpWords, makeWords, readWords } from "./ipWords.ts"

/** The largest IP packet that is accepted anywhere, and the MTU of the TUN device. */
export const MAX_PACKET_LENGTH = 1280

export const IPV4_HEADER_LENGTH = 20
export const IPV6_HEADER_LENGTH = 40

export const Protocol = { Icmp: 1, Tcp: 6, Udp: 17, Icmp6: 58 } as const

/** What filters and routes distinguish (spec 7.2). */
export const PacketKind = {
  Tcp: 1,
  Udp: 2,
  /** Echo request or reply: the identifier stands for both ports. */
  Echo: 3,
  /** ICMP without ports: errors, router discovery, ... */
  OtherIcmp: 4,
  Other: 5
} as const
export type PacketKind = (typeof PacketKind)[keyof typeof PacketKind]

const HOP_BY_HOP = 0
const ROUTING = 43
const FRAGMENT = 44
const AUTHENTICATION = 51
const DESTINATION_OPTIONS = 60
const MOBILITY = 135
const HIP = 139
const SHIM6 = 140

const readUint16 = (bytes: Uint8Array, offset: number): number =>
  (bytes[offset] as number) << 8 | (bytes[offset + 1] as number)

/**
 * The headers of the packet `buffer[offset, offset + length)` after a `parse` that returned true. One object serves
 * many packets; it allocates nothing.
 */
export class IpPacket {
  buffer: Uint8Array = new Uint8Array(0)
  offset = 0
  length = 0
  version: Family = 4
  /** Of the transport header, behind any IPv6 extension headers. */
  protocol = 0
  /** Where the transport header begins, as an index into `buffer`. */
  transport = 0
  kind: PacketKind = PacketKind.Other
  /** Port, or ICMP echo identifier, or 0. */
  sourcePort = 0
  destinationPort = 0
  readonly source: IpWords = makeWords()
  readonly destination: IpWords = makeWords()

  /** Whether the bytes are one whole packet that the tunnel accepts. Checksums are not verified. */
  parse(buffer: Uint8Array, offset: number, length: number): boolean {
    this.buffer = buffer
    this.offset = offset
    this.length = length
    return length <= MAX_PACKET_LENGTH && this.parseHeader(buffer, offset, offset + length, false) &&
      this.#parseTransport()
  }

  /**
   * Reads the IP header at `offset` and finds the transport header, `end` being the end of the bytes. Of a quotation
   * (`truncated`) the payload may be cut off. Fragments are refused.
   */
  parseHeader(buffer: Uint8Array, offset: number, end: number, truncated: boolean): boolean {
    const length = end - offset
    if (length < IPV4_HEADER_LENGTH) return false
    this.buffer = buffer
    this.offset = offset
    this.length = length
    const version = (buffer[offset] as number) >> 4
    if (version === 4) {
      const headerLength = ((buffer[offset] as number) & 0x0f) << 2
      if (headerLength < IPV4_HEADER_LENGTH || headerLength > length) return false
      const total = readUint16(buffer, offset + 2)
      if (truncated ? total < headerLength : total !== length) return false
      // More Fragments, or an offset.
      if ((readUint16(buffer, offset + 6) & 0x3fff) !== 0) return false
      this.version = 4
      this.protocol = buffer[offset + 9] as number
      this.transport = offset + headerLength
      readWords(this.source, buffer, offset + 12, 4)
      readWords(this.destination, buffer, offset + 16, 4)
      return true
    }
    if (version !== 6 || length < IPV6_HEADER_LENGTH) return false
    if (!truncated && readUint16(buffer, offset + 4) + IPV6_HEADER_LENGTH !== length) return false
    this.version = 6
    readWords(this.source, buffer, offset + 8, 6)
    readWords(this.destination, buffer, offset + 24, 6)
    return this.#walkExtensions(buffer[offset + 6] as number, offset + IPV6_HEADER_LENGTH, end)
  }

  #walkExtensions(first: number, start: number, end: number): boolean {
    const { buffer } = this
    let protocol = first
    let at = start
    while (true) {
      let headerLength: number
      switch (protocol) {
        case FRAGMENT:
          if (end - at < 8 || (readUint16(buffer, at + 2) & 0xfff9) !== 0) return false // not atomic (RFC 6946)
          headerLength = 8
          break
        case HOP_BY_HOP:
        case ROUTING:
        case DESTINATION_OPTIONS:
        case MOBILITY:
        case HIP:
        case SHIM6:
          if (end - at < 8) return false
          headerLength = ((buffer[at + 1] as number) + 1) << 3
          break
        case AUTHENTICATION:
          if (end - at < 8) return false
          headerLength = ((buffer[at + 1] as number) + 2) << 2
          break
        default:
          this.protocol = protocol
          this.transport = at
          return true
      }
      if (headerLength > end - at) return false
      protocol = buffer[at] as number
      at += headerLength
    }
  }

  #parseTransport(): boolean {
    const { buffer, transport } = this
    const left = this.offset + this.length - transport
    switch (this.protocol) {
      case Protocol.Tcp: {
        if (left < 20) return false
        const headerLength = (buffer[transport + 12] as number) >> 4 << 2
        if (headerLength < 20 || headerLength > left) return false
        this.#setPorts(PacketKind.Tcp)
        return true
      }
      case Protocol.Udp:
        if (left < 8 || readUint16(buffer, transport + 4) !== left) return false
        this.#setPorts(PacketKind.Udp)
        return true
      case Protocol.Icmp:
        return this.version === 4 && left >= 8 && this.#classifyIcmp(8, 0)
      case Protocol.Icmp6:
        return this.version === 6 && left >= 8 && this.#classifyIcmp(128, 129)
      default:
        this.#setNoPorts(PacketKind.Other)
        return true
    }
  }

  #classifyIcmp(request: number, reply: number): boolean {
    const { buffer, transport } = this
    const type = buffer[transport] as number
    if ((type === request || type === reply) && buffer[transport + 1] === 0) {
      this.kind = PacketKind.Echo
      this.sourcePort = readUint16(buffer, transport + 4)
      this.destinationPort = this.sourcePort
    } else {
      this.#setNoPorts(PacketKind.OtherIcmp)
    }
    return true
  }

  #setPorts(kind: PacketKind): void {
    this.kind = kind
    this.sourcePort = readUint16(this.buffer, this.transport)
    this.destinationPort = readUint16(this.buffer, this.transport + 2)
  }

  #setNoPorts(kind: PacketKind): void {
    this.kind = kind
    this.sourcePort = 0
    this.destinationPort = 0
  }
}

/** Index of the source address in the buffer; the destination follows it. */
export const sourceOffset = (packet: IpPacket): number => packet.offset + (packet.version === 4 ? 12 : 8)

export const destinationOffset = (packet: IpPacket): number => packet.offset + (packet.version === 4 ? 16 : 24)

export const isMulticast = (version: number, words: IpWords): boolean =>
  version === 4 ? (words[0] as number) >>> 28 === 0xe : (words[0] as number) >>> 24 === 0xff
