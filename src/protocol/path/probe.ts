/**
 * Probes of the path mode (connectivity spec 10.5): ICMPv6 echo packets inside the tunnel, always with the same two
 * addresses, whichever side sends them. Offsets are not checked: callers have the length.
 */
import { checksum, pseudoHeaderSum6 } from "../wire/checksum.ts"
import { IPV6_HEADER_LENGTH, Protocol } from "../wire/ip.ts"
import { readWord } from "../wire/ipWords.ts"

export const PROBE_LENGTH = 48
const ICMP_LENGTH = PROBE_LENGTH - IPV6_HEADER_LENGTH
const HOP_LIMIT = 64

export const ProbeType = { Request: 128, Reply: 129 } as const
export type ProbeType = (typeof ProbeType)[keyof typeof ProbeType]

const FIELD = {
  length: 4,
  nextHeader: 6,
  hopLimit: 7,
  source: 8,
  type: 40,
  checksum: 42,
  id: 44,
  sequence: 46
} as const

const ending = (last: number): ReadonlyArray<number> => [1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xde, 0xad, 0x01, 0xce, 0, last]
/** `100::dead:1ce:1` and `100::dead:1ce:2`: in a prefix that is discarded everywhere (RFC 6666). */
const ADDRESSES = Uint8Array.of(...ending(1), ...ending(2))
const ADDRESS_WORDS = Array.from({ length: 8 }, (_, word) => readWord(ADDRESSES, word * 4))

/** Writes `PROBE_LENGTH` bytes. */
export const writeProbe = (packet: Uint8Array, offset: number, type: ProbeType, id: number, sequence: number): void => {
  packet.fill(0, offset, offset + PROBE_LENGTH)
  packet[offset] = 0x60
  writeUint16(packet, offset + FIELD.length, ICMP_LENGTH)
  packet[offset + FIELD.nextHeader] = Protocol.Icmp6
  packet[offset + FIELD.hopLimit] = HOP_LIMIT
  packet.set(ADDRESSES, offset + FIELD.source)
  packet[offset + FIELD.type] = type
  writeUint16(packet, offset + FIELD.id, id)
  writeUint16(packet, offset + FIELD.sequence, sequence)
  const pseudo = pseudoHeaderSum6(packet, offset, Protocol.Icmp6, ICMP_LENGTH)
  writeUint16(packet, offset + FIELD.checksum, checksum(packet, offset + IPV6_HEADER_LENGTH, ICMP_LENGTH, pseudo))
}

/** Whether the IP packet is a probe, and which; 0 if it is none. Its checksum is the tunnel's: nothing has changed it. */
export const probeType = (packet: Uint8Array, offset: number, length: number): ProbeType | 0 => {
  if (length < PROBE_LENGTH || packet[offset + FIELD.nextHeader] !== Protocol.Icmp6) return 0
  if ((packet[offset] as number) >> 4 !== 6 || packet[offset + FIELD.type + 1] !== 0) return 0
  for (let word = 0; word < 8; word++) {
    if (readWord(packet, offset + FIELD.source + word * 4) !== ADDRESS_WORDS[word]) return 0
  }
  const type = packet[offset + FIELD.type]
  return type === ProbeType.Request || type === ProbeType.Reply ? type : 0
}

export const probeId = (packet: Uint8Array, offset: number): number => readUint16(packet, offset + FIELD.id)

export const probeSequence = (packet: Uint8Array, offset: number): number => readUint16(packet, offset + FIELD.sequence)

const readUint16 = (bytes: Uint8Array, at: number): number => (bytes[at] as number) << 8 | (bytes[at + 1] as number)

const writeUint16 = (bytes: Uint8Array, at: number, value: number): void => {
  bytes[at] = value >>> 8
  bytes[at + 1] = value & 0xff
}
