import { Attribute } from "../../protocol/wire/stun.ts"

/** From which byte of the value on, and up to which, an attribute has reserved bytes. */
const reserved = new Map<number, readonly [from: number, to: number]>([
  [Attribute.ChannelNumber, [2, 4]],
  [Attribute.XorPeerAddress, [0, 1]],
  [Attribute.RequestedAddressFamily, [1, 4]],
  [Attribute.AdditionalAddressFamily, [1, 4]],
  [Attribute.RequestedTransport, [1, 4]]
])

/**
 * Whether padding and reserved bytes in front of MESSAGE-INTEGRITY are zero. The relay verifies integrity over its own
 * encoding of what it has read, so anything else is a wrong signature to it (connectivity spec section 5). The framing of
 * `message` has been checked.
 */
export const isCanonical = (message: Uint8Array): boolean => {
  const u16 = (at: number): number => (message[at] as number) << 8 | (message[at + 1] as number)
  const isZero = (from: number, to: number): boolean => message.subarray(from, to).every((byte) => byte === 0)
  for (let at = 20; at < message.length;) {
    const type = u16(at)
    if (type === Attribute.MessageIntegrity) return true
    const value = at + 4
    const end = value + u16(at + 2)
    at = value + (end - value + 3 & ~3)
    if (!isZero(end, at)) return false
    const [from, to] = reserved.get(type) ?? [0, 0]
    if (!isZero(value + from, Math.min(value + to, end))) return false
  }
  return true
}
