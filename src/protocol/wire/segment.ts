/**
 * Cuts the large packets that a TUN device with segmentation offload hands out (generic segmentation offload, GSO) into
 * packets that fit the MTU: host spec section 8.2.
 */
import { fold, sumBytes, sumBytesPlain } from "./checksum.ts"
import { GSO_TCPV4, GSO_TCPV6, GSO_UDP_L4 } from "./virtioNet.ts"

/** More segments than this in one packet is not believed. */
export const MAX_SEGMENTS = 256

const TCP = 6
const UDP = 17
const IPV6_FRAGMENT = 44
const FIN = 0x01
const PSH = 0x08
const CWR = 0x80

/** What `segment` made: `count` packets, `length` bytes each but the last, which has `lastLength`. */
export interface Segments {
  count: number
  length: number
  lastLength: number
}

export type SegmentProblem = "gso-type" | "gso-size" | "gso-header" | "gso-segments" | "fragment" | "oversized"

/**
 * Whether an IP packet is a fragment: IPv4 by its offset and flag, IPv6 by a fragment header in first place, if that is
 * within `length` and says that there is more (RFC 6946: others are whole packets).
 */
export const isFragment = (bytes: Uint8Array, at: number, length: number): boolean =>
  (bytes[at] as number) >>> 4 === 4
    ? (((bytes[at + 6] as number) & 0x3f) | (bytes[at + 7] as number)) !== 0
    : (bytes[at + 6] as number) === IPV6_FRAGMENT && length >= 48 &&
      ((bytes[at + 42] as number) | ((bytes[at + 43] as number) & 0xf9)) !== 0

/**
 * Cuts the packet `bytes[at, at + length)`: packet i ends up complete, checksums included, at `to + i * stride`, which is
 * somewhere else in `bytes` and has room for `MAX_SEGMENTS`. The headers of the packet itself are changed. Returns why it
 * cannot be cut, and has changed nothing then. `hdr_len` of the virtio header is not trusted, hence not a parameter.
 */
export const segment = (
  bytes: Uint8Array,
  at: number,
  length: number,
  gsoType: number,
  gsoSize: number,
  maxPacket: number,
  to: number,
  stride: number,
  out: Segments
): SegmentProblem | undefined => {
  if (gsoType !== GSO_TCPV4 && gsoType !== GSO_TCPV6 && gsoType !== GSO_UDP_L4) return "gso-type"
  if (gsoSize === 0) return "gso-size"
  if (length < 20) return "gso-header"
  const first = bytes[at] as number
  const version = first >>> 4
  const ipLength = version === 4 ? (first & 0x0f) << 2 : 40
  if (version === 4 ? gsoType === GSO_TCPV6 || ipLength < 20 : version !== 6 || gsoType === GSO_TCPV4) {
    return "gso-header"
  }
  if (length < ipLength + 8) return "gso-header"
  if (isFragment(bytes, at, length)) return "fragment"
  const protocol = gsoType === GSO_UDP_L4 ? UDP : TCP
  if ((bytes[at + (version === 4 ? 9 : 6)] as number) !== protocol) return "gso-header"
  const l4 = at + ipLength
  if (protocol === TCP && length < ipLength + 20) return "gso-header"
  const l4Length = protocol === UDP ? 8 : (bytes[l4 + 12] as number) >>> 4 << 2
  const headers = ipLength + l4Length
  if (protocol === TCP && l4Length < 20 || length <= headers) return "gso-header"
  const payload = length - headers
  const count = Math.ceil(payload / gsoSize)
  if (count > MAX_SEGMENTS) return "gso-segments"
  if (headers + Math.min(gsoSize, payload) > maxPacket) return "oversized"

  out.count = count
  out.length = headers + gsoSize
  out.lastLength = headers + payload - (count - 1) * gsoSize

  // What all segments share is summed once, with the fields that differ as zero.
  const firstId = version === 4 ? (bytes[at + 4] as number) << 8 | (bytes[at + 5] as number) : 0
  if (version === 4) bytes.fill(0, at + 10, at + 12)
  bytes.fill(0, at + (version === 4 ? 2 : 4), at + 6)
  const ipSum = version === 4 ? sumBytesPlain(bytes, at, ipLength) : 0
  let sequence = 0
  let flags = 0
  if (protocol === TCP) {
    sequence = ((bytes[l4 + 4] as number) << 24 | (bytes[l4 + 5] as number) << 16 | (bytes[l4 + 6] as number) << 8 |
      (bytes[l4 + 7] as number)) >>> 0
    flags = bytes[l4 + 13] as number
    bytes.fill(0, l4 + 4, l4 + 8)
    bytes[l4 + 13] = 0
    bytes.fill(0, l4 + 16, l4 + 18)
  } else {
    bytes.fill(0, l4 + 4, l4 + 8)
  }
  const addresses = version === 4 ? sumBytesPlain(bytes, at + 12, 8) : sumBytesPlain(bytes, at + 8, 32)
  const l4Sum = sumBytesPlain(bytes, l4, l4Length, addresses + protocol)

  for (let i = 0; i < count; i++) {
    const packet = to + i * stride
    const isLast = i === count - 1
    const size = isLast ? payload - i * gsoSize : gsoSize
    const from = at + headers + i * gsoSize
    bytes.copyWithin(packet + headers, from, from + size)
    bytes.copyWithin(packet, at, at + headers)
    const total = headers + size
    if (version === 4) {
      const id = (firstId + i) & 0xffff
      put16(bytes, packet + 2, total)
      put16(bytes, packet + 4, id)
      put16(bytes, packet + 10, ~fold(ipSum + total + id) & 0xffff)
    } else {
      put16(bytes, packet + 4, total - 40)
    }
    const l4At = packet + ipLength
    let sum = l4Sum + l4Length + size
    if (protocol === TCP) {
      const segmentSequence = (sequence + i * gsoSize) >>> 0
      const segmentFlags = flags & ~((isLast ? 0 : FIN | PSH) | (i === 0 ? 0 : CWR))
      put16(bytes, l4At + 4, segmentSequence >>> 16)
      put16(bytes, l4At + 6, segmentSequence & 0xffff)
      bytes[l4At + 13] = segmentFlags
      sum += (segmentSequence >>> 16) + (segmentSequence & 0xffff) + segmentFlags
      put16(bytes, l4At + 16, ~sumBytes(bytes, packet + headers, size, sum) & 0xffff)
    } else {
      put16(bytes, l4At + 4, 8 + size)
      const checksum = ~sumBytes(bytes, packet + headers, size, sum + 8 + size) & 0xffff
      put16(bytes, l4At + 6, checksum === 0 ? 0xffff : checksum) // RFC 768: 0 means none
    }
  }
  return undefined
}

const put16 = (bytes: Uint8Array, at: number, value: number): void => {
  bytes[at] = value >>> 8
  bytes[at + 1] = value & 0xff
}
