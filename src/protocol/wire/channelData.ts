/** Data of a TURN channel: its number and the payload's length in front, no padding over UDP (RFC 8656 section 12.5). */

export const CHANNEL_HEADER_LENGTH = 4

/** The channel of the message `buffer[offset, offset + length)`; 0 if it is none, or its length is not the datagram's. */
export const readChannel = (buffer: Uint8Array, offset: number, length: number): number => {
  if (length < CHANNEL_HEADER_LENGTH) return 0
  const first = buffer[offset] as number
  if (first < 0x40 || first > 0x4f) return 0
  const size = (buffer[offset + 2] as number) << 8 | (buffer[offset + 3] as number)
  return size === length - CHANNEL_HEADER_LENGTH ? first << 8 | (buffer[offset + 1] as number) : 0
}

/** `length` is the payload's. */
export const writeChannelHeader = (buffer: Uint8Array, offset: number, channel: number, length: number): void => {
  buffer[offset] = channel >>> 8
  buffer[offset + 1] = channel & 0xff
  buffer[offset + 2] = length >>> 8
  buffer[offset + 3] = length & 0xff
}
