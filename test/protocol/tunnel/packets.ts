/** IP packets between any two addresses, checksums and all. */
import { ip, type IpAddress, ipFromBytes, ipToBytes } from "../../../src/protocol/wire/address.ts"
import { checksum, pseudoHeaderSum4, pseudoHeaderSum6, sumBytesPlain } from "../../../src/protocol/wire/checksum.ts"
import { writeIcmpError } from "../../../src/protocol/wire/icmp.ts"
import { IpPacket } from "../../../src/protocol/wire/ip.ts"

const utf8 = new TextEncoder()

export interface Endpoints {
  readonly from: string
  readonly to: string
}

export const udp = (
  { from, to }: Endpoints,
  destinationPort = 5000,
  payload = "hello",
  sourcePort = 40_000
): Uint8Array => {
  const bytes = utf8.encode(payload)
  const segment = new Uint8Array(8 + bytes.length)
  const view = new DataView(segment.buffer)
  view.setUint16(0, sourcePort)
  view.setUint16(2, destinationPort)
  view.setUint16(4, segment.length)
  segment.set(bytes, 8)
  return packet(ip(from), ip(to), 17, segment, 6)
}

export const tcp = (
  { from, to }: Endpoints,
  destinationPort = 443,
  flags = 0x10,
  sequence = 1,
  payload = ""
): Uint8Array => {
  const bytes = utf8.encode(payload)
  const segment = new Uint8Array(20 + bytes.length)
  const view = new DataView(segment.buffer)
  view.setUint16(0, 40_000)
  view.setUint16(2, destinationPort)
  view.setUint32(4, sequence)
  segment[12] = 0x50
  segment[13] = flags
  segment.set(bytes, 20)
  return packet(ip(from), ip(to), 6, segment, 16)
}

/** ICMP of the addresses' family: `type` as in IPv4's echo (8 or 0), or any other. */
export const icmp = ({ from, to }: Endpoints, type: number, rest = 0x0001_0002): Uint8Array => {
  const is6 = from.includes(":")
  const message = new Uint8Array(16)
  message[0] = type
  new DataView(message.buffer).setUint32(4, rest)
  return packet(ip(from), ip(to), is6 ? 58 : 1, message, 2)
}

export const ping = (ends: Endpoints, identifier = 1): Uint8Array =>
  icmp(ends, ends.from.includes(":") ? 128 : 8, identifier << 16)

/** A packet of another protocol, such as GRE (47) or a control packet (0xff). */
export const other = ({ from, to }: Endpoints, protocol: number, payload = new Uint8Array(8)): Uint8Array =>
  packet(ip(from), ip(to), protocol, payload, undefined)

/** What a gateway or host answers that refuses `refused`. */
export const icmpError = (refused: Uint8Array, kind: "prohibited" | "unreachable-net" = "prohibited"): Uint8Array => {
  const output = new Uint8Array(1280)
  return output.slice(0, writeIcmpError(parsed(refused), kind, output, 0))
}

export const parsed = (bytes: Uint8Array): IpPacket => {
  const view = new IpPacket()
  if (!view.parse(bytes, 0, bytes.length)) throw new RangeError("the tunnel does not accept this packet")
  return view
}

/** Whether every checksum of a packet without options or extension headers is right, by the plain sum. */
export const isIntact = (bytes: Uint8Array): boolean => {
  const { protocol, transport, version } = parsed(bytes)
  if (version === 4 && sumBytesPlain(bytes, 0, 20) !== 0xffff) return false
  const length = bytes.length - transport
  const pseudo = protocol === 1
    ? 0
    : (version === 4 ? pseudoHeaderSum4 : pseudoHeaderSum6)(bytes, 0, protocol, length)
  return sumBytesPlain(bytes, transport, length, pseudo) === 0xffff
}

/** Who sends what kind of packet to whom, for a look at what came out. */
export const summary = (bytes: Uint8Array): string => {
  const view = parsed(bytes)
  const at = view.version === 4 ? 12 : 8
  const size = view.version === 4 ? 4 : 16
  const source = ipFromBytes(bytes, at, view.version)
  const destination = ipFromBytes(bytes, at + size, view.version)
  const detail = view.protocol === 1 || view.protocol === 58
    ? ` type ${bytes[view.transport]} code ${bytes[view.transport + 1]}`
    : ""
  return `${source} > ${destination} protocol ${view.protocol}${detail}`
}

const packet = (
  from: IpAddress,
  to: IpAddress,
  protocol: number,
  payload: Uint8Array,
  checksumAt: number | undefined
): Uint8Array => {
  const source = ipToBytes(from)
  const header = source.length === 4 ? 20 : 40
  const bytes = new Uint8Array(header + payload.length)
  const view = new DataView(bytes.buffer)
  if (header === 20) {
    bytes[0] = 0x45
    view.setUint16(2, bytes.length)
    bytes.set([64, protocol], 8)
    bytes.set(source, 12)
    bytes.set(ipToBytes(to), 16)
    view.setUint16(10, checksum(bytes, 0, 20))
  } else {
    bytes[0] = 0x60
    view.setUint16(4, payload.length)
    bytes.set([protocol, 64], 6)
    bytes.set(source, 8)
    bytes.set(ipToBytes(to), 24)
  }
  bytes.set(payload, header)
  if (checksumAt === undefined) return bytes
  const pseudo = protocol === 1
    ? 0
    : (header === 20 ? pseudoHeaderSum4 : pseudoHeaderSum6)(bytes, 0, protocol, payload.length)
  view.setUint16(header + checksumAt, checksum(bytes, header, payload.length, pseudo))
  return bytes
}
