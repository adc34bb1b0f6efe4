/** UDP packets of our own making: TTL 64, no options, complete checksums (tunnel spec 7.1). */
import { familyOf, type IpAddress, ipToBytes } from "./address.ts"
import { pseudoHeaderSum4, pseudoHeaderSum6, sumBytesPlain } from "./checksum.ts"
import { IPV4_HEADER_LENGTH, IPV6_HEADER_LENGTH, MAX_PACKET_LENGTH, Protocol } from "./ip.ts"

const HEADER_LENGTH = 8
const HOP_LIMIT = 64
/** The longest IPv4 header there may be. */
const MAX_HEADER_LENGTH = 60

/** The most that goes into one packet of ours (tunnel spec 1.2). */
export const MAX_UDP_PAYLOAD = MAX_PACKET_LENGTH - MAX_HEADER_LENGTH - HEADER_LENGTH

/** Both addresses are of one family. */
export interface UdpEnds {
  readonly source: IpAddress
  readonly sourcePort: number
  readonly destination: IpAddress
  readonly destinationPort: number
}

/** The packet's bytes; `payload` is at most `MAX_UDP_PAYLOAD` long. */
export const udpPacket = (ends: UdpEnds, payload: Uint8Array): Uint8Array => {
  const is4 = familyOf(ends.destination) === 4
  const header = is4 ? IPV4_HEADER_LENGTH : IPV6_HEADER_LENGTH
  const length = HEADER_LENGTH + payload.length
  const packet = new Uint8Array(header + length)
  const addressAt = is4 ? 12 : 8
  const source = ipToBytes(ends.source)
  packet.set(source, addressAt)
  packet.set(ipToBytes(ends.destination), addressAt + source.length)
  if (is4) {
    packet[0] = 0x45
    writeUint16(packet, 2, packet.length)
    packet[8] = HOP_LIMIT
    packet[9] = Protocol.Udp
    writeUint16(packet, 10, ~sumBytesPlain(packet, 0, IPV4_HEADER_LENGTH) & 0xffff)
  } else {
    packet[0] = 0x60
    writeUint16(packet, 4, length)
    packet[6] = Protocol.Udp
    packet[7] = HOP_LIMIT
  }
  writeUint16(packet, header, ends.sourcePort)
  writeUint16(packet, header + 2, ends.destinationPort)
  writeUint16(packet, header + 4, length)
  packet.set(payload, header + HEADER_LENGTH)
  const pseudo = (is4 ? pseudoHeaderSum4 : pseudoHeaderSum6)(packet, 0, Protocol.Udp, length)
  // A sum of 0 is written as 0xFFFF: 0 would mean that there is none (RFC 768).
  writeUint16(packet, header + 6, ~sumBytesPlain(packet, header, length, pseudo) & 0xffff || 0xffff)
  return packet
}

const writeUint16 = (bytes: Uint8Array, at: number, value: number): void => {
  bytes[at] = value >>> 8
  bytes[at + 1] = value & 0xff
}
