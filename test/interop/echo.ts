/** Echo requests and replies of both families (RFC 792; RFC 4443 section 4), whole IP packets. */
import { ip, ipToBytes } from "../../src/protocol/wire/address.ts"
import { checksum, pseudoHeaderSum6 } from "../../src/protocol/wire/checksum.ts"

const ICMP = 1
const ICMP6 = 58

const headerLength = (packet: Uint8Array): number => (packet[0] as number) >> 4 === 4 ? 20 : 40

/** Fills in the checksums of a packet whose header has no options. */
const finish = (packet: Uint8Array): Uint8Array => {
  const header = headerLength(packet)
  const view = new DataView(packet.buffer, packet.byteOffset, packet.length)
  view.setUint16(header + 2, 0)
  const body = packet.length - header
  if (header === 20) {
    view.setUint16(10, 0)
    view.setUint16(10, checksum(packet, 0, 20))
  }
  const pseudo = header === 20 ? 0 : pseudoHeaderSum6(packet, 0, ICMP6, body)
  view.setUint16(header + 2, checksum(packet, header, body, pseudo))
  return packet
}

export const echoRequest = (from: string, to: string, sequence: number, payload: Uint8Array): Uint8Array => {
  const [source, destination] = [ipToBytes(ip(from)), ipToBytes(ip(to))]
  const isV4 = source.length === 4
  const header = isV4 ? 20 : 40
  const packet = new Uint8Array(header + 8 + payload.length)
  const view = new DataView(packet.buffer)
  if (isV4) {
    packet[0] = 0x45
    view.setUint16(2, packet.length)
    packet.set([64, ICMP], 8)
    packet.set(source, 12)
    packet.set(destination, 16)
  } else {
    packet[0] = 0x60
    view.setUint16(4, packet.length - header)
    packet.set([ICMP6, 64], 6)
    packet.set(source, 8)
    packet.set(destination, 24)
  }
  packet[header] = isV4 ? 8 : 128
  view.setUint16(header + 4, 0x1234)
  view.setUint16(header + 6, sequence)
  packet.set(payload, header + 8)
  return finish(packet)
}

/** The answer to an echo request; `undefined` for anything else. */
export const echoReply = (request: Uint8Array): Uint8Array | undefined => {
  const header = headerLength(request)
  const isV4 = header === 20
  const protocol = request[isV4 ? 9 : 6]
  if (protocol !== (isV4 ? ICMP : ICMP6) || request[header] !== (isV4 ? 8 : 128)) return undefined
  const reply = request.slice()
  const [at, size] = isV4 ? [12, 4] : [8, 16]
  reply.set(request.subarray(at + size, at + 2 * size), at)
  reply.set(request.subarray(at, at + size), at + size)
  reply[header] = isV4 ? 0 : 129
  return finish(reply)
}

/** Sequence number and payload of an echo reply; `undefined` for anything else. */
export const readEchoReply = (packet: Uint8Array): { sequence: number; payload: Uint8Array } | undefined => {
  const header = headerLength(packet)
  if (packet[header] !== (header === 20 ? 0 : 129)) return undefined
  const sequence = (packet[header + 6] as number) << 8 | (packet[header + 7] as number)
  return { sequence, payload: packet.slice(header + 8) }
}
