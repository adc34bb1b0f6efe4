/** ICMP errors: the two that the tunnel makes (tunnel spec 7.4), and what those of others are about (7.5). */
import { pseudoHeaderSum6, sumBytesPlain } from "./checksum.ts"
import {
  destinationOffset,
  IpPacket,
  IPV4_HEADER_LENGTH,
  IPV6_HEADER_LENGTH,
  MAX_PACKET_LENGTH,
  PacketKind,
  Protocol,
  sourceOffset
} from "./ip.ts"

const HOP_LIMIT = 20
const HEADER_LENGTH = 8
/** What an IPv4 error quotes behind the IP header. */
const QUOTED_PAYLOAD = 8

const DESTINATION_UNREACHABLE = 3
const TIME_EXCEEDED = 11
const DESTINATION_UNREACHABLE6 = 1
const PACKET_TOO_BIG6 = 2
const TIME_EXCEEDED6 = 3
const FRAGMENTATION_NEEDED = 4

/** `prohibited`: policy says no. `unreachable-net`: there is no such place behind the gateway. */
export type IcmpErrorKind = "prohibited" | "unreachable-net"

const typeAndCode = (version: number, kind: IcmpErrorKind): readonly [number, number] =>
  version === 4
    ? [DESTINATION_UNREACHABLE, kind === "prohibited" ? 13 : 0]
    : [DESTINATION_UNREACHABLE6, kind === "prohibited" ? 1 : 3]

/**
 * Writes the answer of `packet`'s destination that refuses it to `output` at `offset` and returns its length, at most
 * 1280. `output` must not overlap the packet.
 */
export const writeIcmpError = (
  packet: IpPacket,
  kind: IcmpErrorKind,
  output: Uint8Array,
  offset: number
): number => {
  const { buffer, version } = packet
  const [type, code] = typeAndCode(version, kind)
  const ipLength = version === 4 ? IPV4_HEADER_LENGTH : IPV6_HEADER_LENGTH
  const addressLength = version === 4 ? 4 : 16
  const quoted = version === 4
    ? Math.min(packet.length, packet.transport - packet.offset + QUOTED_PAYLOAD)
    : Math.min(packet.length, MAX_PACKET_LENGTH - IPV6_HEADER_LENGTH - HEADER_LENGTH)
  const length = ipLength + HEADER_LENGTH + quoted
  output.fill(0, offset, offset + ipLength + HEADER_LENGTH)
  const addresses = offset + (version === 4 ? 12 : 8)
  for (let i = 0; i < addressLength; i++) {
    output[addresses + i] = buffer[destinationOffset(packet) + i] as number
    output[addresses + addressLength + i] = buffer[sourceOffset(packet) + i] as number
  }
  const icmp = offset + ipLength
  output[icmp] = type
  output[icmp + 1] = code
  const quotation = icmp + HEADER_LENGTH
  for (let i = 0; i < quoted; i++) output[quotation + i] = buffer[packet.offset + i] as number
  const icmpLength = HEADER_LENGTH + quoted
  if (version === 4) {
    output[offset] = 0x45
    writeUint16(output, offset + 2, length)
    output[offset + 8] = HOP_LIMIT
    output[offset + 9] = Protocol.Icmp
    writeUint16(output, offset + 10, plainChecksum(output, offset, IPV4_HEADER_LENGTH))
    writeUint16(output, icmp + 2, plainChecksum(output, icmp, icmpLength))
    return length
  }
  output[offset] = 0x60
  writeUint16(output, offset + 4, icmpLength)
  output[offset + 6] = Protocol.Icmp6
  output[offset + 7] = HOP_LIMIT
  const pseudo = pseudoHeaderSum6(output, offset, Protocol.Icmp6, icmpLength)
  writeUint16(output, icmp + 2, plainChecksum(output, icmp, icmpLength, pseudo))
  return length
}

// The wide sum keeps views of the arenas that packets live in; a buffer as short-lived as these must not push one out.
const plainChecksum = (bytes: Uint8Array, offset: number, length: number, initial = 0): number =>
  ~sumBytesPlain(bytes, offset, length, initial) & 0xffff

/** Whether a packet is an ICMP error of any kind, known or not: those must never be answered (RFC 1122 section 3.2.2). */
export const isIcmpError = (packet: IpPacket): boolean => {
  if (packet.kind !== PacketKind.OtherIcmp) return false
  const type = packet.buffer[packet.transport] as number
  if (packet.version === 6) return type < 128
  return type === 3 || type === 4 || type === 5 || type === 11 || type === 12
}

/** What a received ICMP error says, after `parseIcmpError` returned true. One object serves many. */
export class IcmpError {
  type = 0
  code = 0
  isProhibited = false
  /** The link's MTU, of "fragmentation needed" and "packet too big" only. */
  mtu: number | undefined
  /** The packet that failed, as far as it was quoted; its `kind` and ports are set. */
  readonly failed = new IpPacket()
}

/**
 * Reads an ICMP error with enough of the failed packet to know its addresses and ports (or echo identifier). False for
 * anything else: no error, a type that we do not know, a quotation too short or of another protocol.
 */
export const parseIcmpError = (packet: IpPacket, error: IcmpError): boolean => {
  if (packet.kind !== PacketKind.OtherIcmp) return false
  const { buffer, transport, version } = packet
  const type = buffer[transport] as number
  const code = buffer[transport + 1] as number
  const isKnown = version === 4
    ? type === DESTINATION_UNREACHABLE || type === TIME_EXCEEDED
    : type === DESTINATION_UNREACHABLE6 || type === PACKET_TOO_BIG6 || type === TIME_EXCEEDED6
  if (!isKnown) return false
  const { failed } = error
  const end = packet.offset + packet.length
  if (!failed.parseHeader(buffer, transport + HEADER_LENGTH, end, true) || failed.version !== version) return false
  if (!readQuotedPorts(failed, end)) return false
  error.type = type
  error.code = code
  error.isProhibited = version === 4
    ? type === DESTINATION_UNREACHABLE && code === 13
    : type === DESTINATION_UNREACHABLE6 && code === 1
  error.mtu = version === 4
    ? type === DESTINATION_UNREACHABLE && code === FRAGMENTATION_NEEDED
      ? readUint16(buffer, transport + 6)
      : undefined
    : type === PACKET_TOO_BIG6
    ? readUint16(buffer, transport + 4) * 0x10000 + readUint16(buffer, transport + 6)
    : undefined
  return true
}

const readQuotedPorts = (failed: IpPacket, end: number): boolean => {
  const { buffer, protocol, transport, version } = failed
  const left = end - transport
  if (protocol === Protocol.Tcp || protocol === Protocol.Udp) {
    if (left < 4) return false
    failed.kind = protocol === Protocol.Tcp ? PacketKind.Tcp : PacketKind.Udp
    failed.sourcePort = readUint16(buffer, transport)
    failed.destinationPort = readUint16(buffer, transport + 2)
    return true
  }
  const echoRequest = version === 4 ? 8 : 128
  if (protocol !== (version === 4 ? Protocol.Icmp : Protocol.Icmp6) || left < HEADER_LENGTH) return false
  if (buffer[transport] !== echoRequest || buffer[transport + 1] !== 0) return false
  failed.kind = PacketKind.Echo
  failed.sourcePort = readUint16(buffer, transport + 4)
  failed.destinationPort = failed.sourcePort
  return true
}

const readUint16 = (bytes: Uint8Array, offset: number): number =>
  (bytes[offset] as number) << 8 | (bytes[offset + 1] as number)

const writeUint16 = (bytes: Uint8Array, offset: number, value: number): void => {
  bytes[offset] = value >>> 8
  bytes[offset + 1] = value & 0xff
}
