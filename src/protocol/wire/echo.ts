/** ICMP echo (RFC 792, RFC 4443 section 4): what `ping` sends and gets back. Messages start at the ICMP header. */
import type { Family } from "./address.ts"
import { sumBytesPlain } from "./checksum.ts"

export const ECHO_HEADER_LENGTH = 8

const REQUEST = { 4: 8, 6: 128 } as const
const REPLY = { 4: 0, 6: 129 } as const
const DESTINATION_UNREACHABLE = { 4: 3, 6: 1 } as const
/** "Communication administratively prohibited": by filters, of the network, of the host (RFC 1122 section 3.2.2.1). */
const PROHIBITED = { 4: [9, 10, 13], 6: [1, 5] } as const

export interface EchoIds {
  readonly identifier: number
  readonly sequence: number
}

/** With the checksum of ICMP for IPv4; that of ICMPv6 covers addresses, which the kernel knows. */
export const encodeEchoRequest = (
  family: Family,
  { identifier, sequence }: EchoIds,
  payload: Uint8Array
): Uint8Array => {
  const bytes = new Uint8Array(ECHO_HEADER_LENGTH + payload.length)
  const view = new DataView(bytes.buffer)
  bytes[0] = REQUEST[family]
  view.setUint16(4, identifier)
  view.setUint16(6, sequence)
  bytes.set(payload, ECHO_HEADER_LENGTH)
  if (family === 4) view.setUint16(2, ~sumBytesPlain(bytes, 0, bytes.length) & 0xffff)
  return bytes
}

const idsOf = (bytes: Uint8Array, type: number): EchoIds | undefined => {
  if (bytes.length < ECHO_HEADER_LENGTH || bytes[0] !== type || bytes[1] !== 0) return undefined
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length)
  return { identifier: view.getUint16(4), sequence: view.getUint16(6) }
}

/** Of a request as an ICMP error quotes it; `undefined` for anything else. */
export const quotedEcho = (family: Family, bytes: Uint8Array): EchoIds | undefined => idsOf(bytes, REQUEST[family])

/** `undefined` for whatever is no echo reply. What it carries is the rest of the message. */
export const decodeEchoReply = (family: Family, bytes: Uint8Array): EchoIds | undefined => idsOf(bytes, REPLY[family])

/** A raw socket gets IPv4 packets with their header; the message behind it, or `undefined` if it is cut short. */
export const behindIpv4Header = (packet: Uint8Array): Uint8Array | undefined => {
  const length = ((packet[0] ?? 0) & 15) * 4
  return (packet[0] ?? 0) >> 4 === 4 && length >= 20 && length <= packet.length ? packet.subarray(length) : undefined
}

/** Whether an ICMP error says that policy does not let the packet pass. */
export const isProhibition = (family: Family, type: number, code: number): boolean =>
  type === DESTINATION_UNREACHABLE[family] && (PROHIBITED[family] as ReadonlyArray<number>).includes(code)
