/** Builds whole IP packets, checksums and all, for tests. */
import { checksum, pseudoHeaderSum4, pseudoHeaderSum6, sumBytesPlain } from "../../../src/protocol/wire/checksum.ts"

export interface PacketParts {
  readonly version: 4 | 6
  readonly protocol: "tcp" | "udp"
  readonly payload: Uint8Array
  readonly sourcePort?: number
  readonly destinationPort?: number
  /** The last byte of the source address. */
  readonly host?: number
  readonly sequence?: number
  readonly acknowledgement?: number
  /** TCP flags; ACK alone unless given. */
  readonly flags?: number
  readonly window?: number
  /** TCP options; a multiple of 4 bytes. */
  readonly options?: Uint8Array
  /** IPv4 identification. */
  readonly id?: number
  readonly dontFragment?: boolean
  readonly hopLimit?: number
  readonly trafficClass?: number
}

export const FIN = 0x01
export const SYN = 0x02
export const PSH = 0x08
export const ACK = 0x10
export const CWR = 0x80

export const buildPacket = (parts: PacketParts): Uint8Array => {
  const { payload, protocol, version } = parts
  const ipLength = version === 4 ? 20 : 40
  const options = parts.options ?? new Uint8Array(0)
  const l4Length = protocol === "tcp" ? 20 + options.length : 8
  const bytes = new Uint8Array(ipLength + l4Length + payload.length)
  const view = new DataView(bytes.buffer)
  const number = protocol === "tcp" ? 6 : 17
  if (version === 4) {
    bytes.set([0x45, parts.trafficClass ?? 0])
    view.setUint16(2, bytes.length)
    view.setUint16(4, parts.id ?? 0)
    view.setUint16(6, parts.dontFragment === false ? 0 : 0x4000)
    bytes.set([parts.hopLimit ?? 64, number], 8)
    bytes.set([100, 64, 0, parts.host ?? 1, 10, 0, 0, 9], 12)
    view.setUint16(10, checksum(bytes, 0, 20))
  } else {
    const trafficClass = parts.trafficClass ?? 0
    bytes.set([0x60 | trafficClass >>> 4, (trafficClass & 0x0f) << 4, 0, 0])
    view.setUint16(4, bytes.length - 40)
    bytes.set([number, parts.hopLimit ?? 64], 6)
    bytes.set([0xfd, 0, 0x20, 0x21, 0x11, 0x11], 8)
    bytes[23] = parts.host ?? 1
    bytes.set([0x20, 0x01, 0x0d, 0xb8], 24)
    bytes[39] = 9
  }
  view.setUint16(ipLength, parts.sourcePort ?? 40_000)
  view.setUint16(ipLength + 2, parts.destinationPort ?? 443)
  if (protocol === "tcp") {
    view.setUint32(ipLength + 4, parts.sequence ?? 1)
    view.setUint32(ipLength + 8, parts.acknowledgement ?? 1)
    bytes.set([l4Length << 2, parts.flags ?? ACK], ipLength + 12)
    view.setUint16(ipLength + 14, parts.window ?? 512)
    bytes.set(options, ipLength + 20)
  } else {
    view.setUint16(ipLength + 4, l4Length + payload.length)
  }
  bytes.set(payload, ipLength + l4Length)
  const value = checksum(bytes, ipLength, bytes.length - ipLength, pseudoSum(bytes, ipLength, number))
  view.setUint16(ipLength + (protocol === "tcp" ? 16 : 6), protocol === "udp" && value === 0 ? 0xffff : value)
  return bytes
}

/** Whether every checksum of a packet without IP options or extension headers is right, by the plain sum. */
export const isIntact = (packet: Uint8Array): boolean => {
  const ipLength = (packet[0] as number) >>> 4 === 4 ? 20 : 40
  const number = packet[ipLength === 20 ? 9 : 6] as number
  if (ipLength === 20 && sumBytesPlain(packet, 0, 20) !== 0xffff) return false
  return sumBytesPlain(packet, ipLength, packet.length - ipLength, pseudoSum(packet, ipLength, number)) === 0xffff
}

const pseudoSum = (packet: Uint8Array, ipLength: number, protocol: number): number =>
  ipLength === 20
    ? pseudoHeaderSum4(packet, 0, protocol, packet.length - ipLength)
    : pseudoHeaderSum6(packet, 0, protocol, packet.length - ipLength)
