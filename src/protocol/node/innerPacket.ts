/** What the node reads and writes in the headers of inner IP packets. Offsets are not checked: callers have the length. */
import { updateChecksum } from "../wire/checksum.ts"

const CE = 3

/** The ECN field of an IP packet (RFC 3168 section 5): low bits of the second byte in IPv4, higher ones in IPv6. */
export const readEcn = (packet: Uint8Array, offset: number): number =>
  (packet[offset] as number) >> 4 === 6 ? (packet[offset + 1] as number) >> 4 & 3 : (packet[offset + 1] as number) & 3

/**
 * Marks the packet "congestion experienced" if `outerEcn` says so and the packet's ends understand it (connectivity spec
 * 3.3, RFC 6040 section 4.2); any other combination leaves it alone.
 */
export const mergeEcn = (packet: Uint8Array, offset: number, outerEcn: number): void => {
  if (outerEcn !== CE) return
  const inner = readEcn(packet, offset)
  if (inner === 0 || inner === CE) return
  if ((packet[offset] as number) >> 4 === 6) {
    packet[offset + 1] = (packet[offset + 1] as number) | CE << 4
    return
  }
  const before = (packet[offset] as number) << 8 | (packet[offset + 1] as number)
  packet[offset + 1] = (packet[offset + 1] as number) | CE
  const after = before | CE
  const checksum = updateChecksum((packet[offset + 10] as number) << 8 | (packet[offset + 11] as number), before, after)
  packet[offset + 10] = checksum >>> 8
  packet[offset + 11] = checksum & 0xff
}

export const GOODBYE_LENGTH = 48
const CONTROL_NEXT_HEADER = 0xff
const GOODBYE_EVENT = 2

/** Writes the packet that ends a connection (spec 12.8): IPv6 from `::` to `::`, next header 0xFF, event type 2. */
export const writeGoodbye = (packet: Uint8Array, offset: number): void => {
  packet.fill(0, offset, offset + GOODBYE_LENGTH)
  packet[offset] = 0x60
  packet[offset + 5] = 8
  packet[offset + 6] = CONTROL_NEXT_HEADER
  packet[offset + 40] = GOODBYE_EVENT
}
