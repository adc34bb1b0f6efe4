/**
 * `struct virtio_net_hdr`, which precedes every packet of a TUN device opened with IFF_VNET_HDR (VIRTIO 1.2 section 5.1.6,
 * host spec section 8.2). TUN devices use the byte order of the host, and every host of ours is little-endian.
 */

import { sumBytes } from "./checksum.ts"

export const VIRTIO_NET_HEADER = 10

/** `flags`: the checksum at `csumStart + csumOffset` holds the pseudo-header's sum and has to be completed. */
export const NEEDS_CSUM = 1

export const GSO_NONE = 0
export const GSO_TCPV4 = 1
export const GSO_TCPV6 = 4
export const GSO_UDP_L4 = 5

export const headerFlags = (bytes: Uint8Array, at: number): number => bytes[at] as number
export const headerGsoType = (bytes: Uint8Array, at: number): number => bytes[at + 1] as number
/** Payload bytes of each segment but the last. */
export const headerGsoSize = (bytes: Uint8Array, at: number): number => u16(bytes, at + 4)
/** Where the sum starts, counted from the start of the packet. */
export const headerCsumStart = (bytes: Uint8Array, at: number): number => u16(bytes, at + 6)
/** Where the checksum is, counted from `csumStart`. */
export const headerCsumOffset = (bytes: Uint8Array, at: number): number => u16(bytes, at + 8)

/** Writes the header of a train: a packet that the kernel cuts into segments, completing their checksums. */
export const writeGsoHeader = (
  bytes: Uint8Array,
  at: number,
  gsoType: number,
  headerLength: number,
  gsoSize: number,
  csumStart: number,
  csumOffset: number
): void => {
  bytes[at] = NEEDS_CSUM
  bytes[at + 1] = gsoType
  putU16(bytes, at + 2, headerLength)
  putU16(bytes, at + 4, gsoSize)
  putU16(bytes, at + 6, csumStart)
  putU16(bytes, at + 8, csumOffset)
}

/**
 * Finishes the checksum of the packet `bytes[at, at + length)` that the kernel left to us: the field at
 * `csumStart + csumOffset` holds the pseudo-header's sum. Returns false, and changes nothing, if it lies outside.
 */
export const completeChecksum = (
  bytes: Uint8Array,
  at: number,
  length: number,
  csumStart: number,
  csumOffset: number
): boolean => {
  if (csumStart + csumOffset + 2 > length) return false
  const field = at + csumStart + csumOffset
  // The seed is in the summed range already, at an even distance from its start unless the kernel is mad.
  if ((csumOffset & 1) !== 0) return false
  const value = ~sumBytes(bytes, at + csumStart, length - csumStart) & 0xffff
  const stored = value === 0 && csumOffset === UDP_CHECKSUM ? 0xffff : value // RFC 768: 0 means none
  bytes[field] = stored >>> 8
  bytes[field + 1] = stored & 0xff
  return true
}

const UDP_CHECKSUM = 6

const u16 = (bytes: Uint8Array, at: number): number => (bytes[at] as number) | (bytes[at + 1] as number) << 8

const putU16 = (bytes: Uint8Array, at: number, value: number): void => {
  bytes[at] = value & 0xff
  bytes[at + 1] = value >>> 8
}
