const IPV4_HEADER_LENGTH = 20
const IPV6_HEADER_LENGTH = 40

/**
 * The length that the IP header of a decrypted packet `bytes[offset, offset + length)` says, so that padding can be cut
 * off; -1 if it is not IP or shorter than it says (connectivity spec 11.4).
 */
export const innerLength = (bytes: Uint8Array, offset: number, length: number): number => {
  const version = (bytes[offset] as number) >> 4
  if (version === 4 && length >= IPV4_HEADER_LENGTH) {
    const total = (bytes[offset + 2] as number) << 8 | (bytes[offset + 3] as number)
    return total >= IPV4_HEADER_LENGTH && total <= length ? total : -1
  }
  if (version === 6 && length >= IPV6_HEADER_LENGTH) {
    const total = IPV6_HEADER_LENGTH + ((bytes[offset + 4] as number) << 8 | (bytes[offset + 5] as number))
    return total <= length ? total : -1
  }
  return -1
}
