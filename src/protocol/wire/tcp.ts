/** TCP segments (RFC 9293 section 3.1): reading them out of packets, and packets of our own making (tunnel spec 7.1). */
import { pseudoHeaderSum4, pseudoHeaderSum6, sumBytes, sumBytesPlain } from "./checksum.ts"
import { type IpPacket, IPV4_HEADER_LENGTH, IPV6_HEADER_LENGTH, PacketKind, Protocol } from "./ip.ts"
import { readWord } from "./ipWords.ts"

const HEADER_LENGTH = 20
const HOP_LIMIT = 64
const OPTION_END = 0
const OPTION_NONE = 1
const OPTION_MSS = 2
const MSS_OPTION_LENGTH = 4

export const TcpFlag = { Fin: 0x01, Syn: 0x02, Rst: 0x04, Psh: 0x08, Ack: 0x10 } as const

/** What stands in a header. Sequence numbers are signed, so that differences of them compare (see tcp/sequence.ts). */
export interface TcpHeader {
  readonly sequence: number
  /** Means something with the flag ACK only. */
  readonly acknowledgment: number
  readonly flags: number
  readonly window: number
  /** The largest segment that the sender takes; 0 if it does not say. Of a SYN only. */
  readonly mss: number
}

/** The segment of a packet after a `parse` that returned true. One object serves many; it allocates nothing. */
export class TcpSegment implements TcpHeader {
  sequence = 0
  acknowledgment = 0
  flags = 0
  window = 0
  mss = 0
  buffer: Uint8Array = new Uint8Array(0)
  /** Where the payload begins, as an index into `buffer`. */
  payload = 0
  payloadLength = 0

  /** `packet` has been parsed. False if it is no TCP, or was damaged on the way. */
  parse(packet: IpPacket): boolean {
    if (packet.kind !== PacketKind.Tcp) return false
    const { buffer, transport } = packet
    const length = packet.offset + packet.length - transport
    const pseudo = (packet.version === 4 ? pseudoHeaderSum4 : pseudoHeaderSum6)(
      buffer,
      packet.offset,
      Protocol.Tcp,
      length
    )
    if (sumBytes(buffer, transport, length, pseudo) !== 0xffff) return false
    const headerLength = (buffer[transport + 12] as number) >> 4 << 2
    this.buffer = buffer
    this.sequence = readWord(buffer, transport + 4)
    this.acknowledgment = readWord(buffer, transport + 8)
    this.flags = buffer[transport + 13] as number
    this.window = readUint16(buffer, transport + 14)
    this.mss = this.has(TcpFlag.Syn) ? readMss(buffer, transport + HEADER_LENGTH, transport + headerLength) : 0
    this.payload = transport + headerLength
    this.payloadLength = length - headerLength
    return true
  }

  has(flag: number): boolean {
    return (this.flags & flag) !== 0
  }

  /** How many sequence numbers it occupies. */
  get length(): number {
    return this.payloadLength + (this.has(TcpFlag.Syn) ? 1 : 0) + (this.has(TcpFlag.Fin) ? 1 : 0)
  }
}

const readMss = (buffer: Uint8Array, start: number, end: number): number => {
  let at = start
  while (at < end) {
    const kind = buffer[at] as number
    if (kind === OPTION_END) return 0
    if (kind === OPTION_NONE) {
      at += 1
      continue
    }
    const length = at + 1 < end ? buffer[at + 1] as number : 0
    if (length < 2 || at + length > end) return 0
    if (kind === OPTION_MSS && length === MSS_OPTION_LENGTH) return readUint16(buffer, at + 2)
    at += length
  }
  return 0
}

/** The ends of a connection as they stand in packets that we send; addresses are 4 or 16 bytes, both alike. */
export interface TcpEnds {
  readonly source: Uint8Array
  readonly sourcePort: number
  readonly destination: Uint8Array
  readonly destinationPort: number
}

const NOTHING = new Uint8Array(0)

/** The packet's bytes; the payload must leave room for the headers. */
export const tcpPacket = (ends: TcpEnds, header: TcpHeader, payload: Uint8Array = NOTHING): Uint8Array => {
  const is4 = ends.destination.length === 4
  const at = is4 ? IPV4_HEADER_LENGTH : IPV6_HEADER_LENGTH
  const headerLength = HEADER_LENGTH + (header.mss === 0 ? 0 : MSS_OPTION_LENGTH)
  const length = headerLength + payload.length
  const packet = new Uint8Array(at + length)
  const addressAt = is4 ? 12 : 8
  packet.set(ends.source, addressAt)
  packet.set(ends.destination, addressAt + ends.source.length)
  if (is4) {
    packet[0] = 0x45
    writeUint16(packet, 2, packet.length)
    packet[8] = HOP_LIMIT
    packet[9] = Protocol.Tcp
    writeUint16(packet, 10, ~sumBytesPlain(packet, 0, IPV4_HEADER_LENGTH) & 0xffff)
  } else {
    packet[0] = 0x60
    writeUint16(packet, 4, length)
    packet[6] = Protocol.Tcp
    packet[7] = HOP_LIMIT
  }
  writeUint16(packet, at, ends.sourcePort)
  writeUint16(packet, at + 2, ends.destinationPort)
  writeUint32(packet, at + 4, header.sequence)
  writeUint32(packet, at + 8, header.acknowledgment)
  packet[at + 12] = headerLength >> 2 << 4
  packet[at + 13] = header.flags
  writeUint16(packet, at + 14, header.window)
  if (header.mss !== 0) {
    packet[at + HEADER_LENGTH] = OPTION_MSS
    packet[at + HEADER_LENGTH + 1] = MSS_OPTION_LENGTH
    writeUint16(packet, at + HEADER_LENGTH + 2, header.mss)
  }
  packet.set(payload, at + headerLength)
  const pseudo = (is4 ? pseudoHeaderSum4 : pseudoHeaderSum6)(packet, 0, Protocol.Tcp, length)
  writeUint16(packet, at + 16, ~sumBytesPlain(packet, at, length, pseudo) & 0xffff)
  return packet
}

const readUint16 = (bytes: Uint8Array, at: number): number => (bytes[at] as number) << 8 | (bytes[at + 1] as number)

const writeUint16 = (bytes: Uint8Array, at: number, value: number): void => {
  bytes[at] = value >>> 8
  bytes[at + 1] = value & 0xff
}

const writeUint32 = (bytes: Uint8Array, at: number, value: number): void => {
  writeUint16(bytes, at, value >>> 16)
  writeUint16(bytes, at + 2, value & 0xffff)
}
