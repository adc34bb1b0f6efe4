/**
 * Changes addresses, ports and echo identifiers of a packet, and of one that it quotes, in place and keeps its checksums
 * right (tunnel spec 7.3, RFC 1624). The view is updated too. A result of 0 is written as 0xFFFF, which is the same
 * number to a receiver; a UDP checksum of 0 means "none" and stays.
 */
import { sumBytesPlain, updateChecksumSums } from "./checksum.ts"
import { destinationOffset, type IpPacket, PacketKind, Protocol, sourceOffset } from "./ip.ts"
import { type IpWords, readWords } from "./ipWords.ts"

/** `address` is 4 or 16 bytes, as the packet's version wants. */
export const setSource = (packet: IpPacket, address: Uint8Array): void => {
  setAddress(packet, sourceOffset(packet), packet.source, address)
}

export const setDestination = (packet: IpPacket, address: Uint8Array): void => {
  setAddress(packet, destinationOffset(packet), packet.destination, address)
}

/** The source port, or the identifier of an echo; nothing for a packet with neither. */
export const setSourcePort = (packet: IpPacket, port: number): void => {
  if (packet.kind === PacketKind.Echo) return setIdentifier(packet, port)
  if (packet.kind !== PacketKind.Tcp && packet.kind !== PacketKind.Udp) return
  setWord(packet, packet.transport, port)
  packet.sourcePort = port
}

export const setDestinationPort = (packet: IpPacket, port: number): void => {
  if (packet.kind === PacketKind.Echo) return setIdentifier(packet, port)
  if (packet.kind !== PacketKind.Tcp && packet.kind !== PacketKind.Udp) return
  setWord(packet, packet.transport + 2, port)
  packet.destinationPort = port
}

/** Time to live in IPv4. */
export const setHopLimit = (packet: IpPacket, limit: number): void => {
  const { buffer, offset, version } = packet
  if (version === 6) {
    buffer[offset + 7] = limit
    return
  }
  const before = readUint16(buffer, offset + 8)
  buffer[offset + 8] = limit
  patch(packet, offset + 10, before, readUint16(buffer, offset + 8))
}

/**
 * Changes the destination of the packet `failed` that the ICMP error `packet` quotes. The quotation's own checksums stay
 * as they are (tunnel spec 14.5): that of the transport need not be there.
 */
export const setQuotedDestination = (packet: IpPacket, failed: IpPacket, address: Uint8Array): void => {
  const at = destinationOffset(failed)
  const before = sumBytesPlain(packet.buffer, at, address.length)
  packet.buffer.set(address, at)
  patch(packet, packet.transport + 2, before, sumBytesPlain(packet.buffer, at, address.length))
  readWords(failed.destination, packet.buffer, at, failed.version)
}

/** As `setQuotedDestination`, of the source port or echo identifier. */
export const setQuotedSourcePort = (packet: IpPacket, failed: IpPacket, port: number): void => {
  const isEcho = failed.kind === PacketKind.Echo
  const at = failed.transport + (isEcho ? 4 : 0)
  const before = readUint16(packet.buffer, at)
  writeUint16(packet.buffer, at, port)
  patch(packet, packet.transport + 2, before, port)
  failed.sourcePort = port
  if (isEcho) failed.destinationPort = port
}

const setIdentifier = (packet: IpPacket, identifier: number): void => {
  setWord(packet, packet.transport + 4, identifier)
  packet.sourcePort = identifier
  packet.destinationPort = identifier
}

const setWord = (packet: IpPacket, at: number, value: number): void => {
  const { buffer } = packet
  const before = readUint16(buffer, at)
  writeUint16(buffer, at, value)
  const field = checksumOffset(packet)
  if (field >= 0) patch(packet, field, before, value)
}

const setAddress = (packet: IpPacket, at: number, words: IpWords, address: Uint8Array): void => {
  const { buffer, version } = packet
  const length = version === 4 ? 4 : 16
  if (address.length !== length) throw new RangeError(`${address.length} bytes are no IPv${version} address`)
  const before = sumBytesPlain(buffer, at, length)
  buffer.set(address, at)
  const after = sumBytesPlain(buffer, at, length)
  if (version === 4) patch(packet, packet.offset + 10, before, after)
  // ICMPv4 has no pseudo-header.
  const field = packet.protocol === Protocol.Icmp ? -1 : checksumOffset(packet)
  if (field >= 0) patch(packet, field, before, after)
  readWords(words, buffer, at, version)
}

/** Where the transport checksum is, or -1. */
const checksumOffset = (packet: IpPacket): number => {
  switch (packet.protocol) {
    case Protocol.Tcp:
      return packet.transport + 16
    case Protocol.Udp:
      return readUint16(packet.buffer, packet.transport + 6) === 0 ? -1 : packet.transport + 6
    case Protocol.Icmp:
    case Protocol.Icmp6:
      return packet.transport + 2
    default:
      return -1
  }
}

const patch = (packet: IpPacket, field: number, before: number, after: number): void => {
  const updated = updateChecksumSums(readUint16(packet.buffer, field), before, after)
  writeUint16(packet.buffer, field, updated === 0 ? 0xffff : updated)
}

const readUint16 = (bytes: Uint8Array, offset: number): number =>
  (bytes[offset] as number) << 8 | (bytes[offset + 1] as number)

const writeUint16 = (bytes: Uint8Array, offset: number, value: number): void => {
  bytes[offset] = value >>> 8
  bytes[offset + 1] = value & 0xff
}
