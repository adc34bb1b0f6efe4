/** WireGuard messages on the wire (connectivity spec 11.1). Integers are little-endian; bytes 1 to 3 are zero. */

export const MessageType = { Initiation: 1, Response: 2, CookieReply: 3, Data: 4 } as const
export type MessageType = (typeof MessageType)[keyof typeof MessageType]

/** Offsets of the fields, and the length. */
export const INITIATION = {
  sender: 4,
  ephemeral: 8,
  staticKey: 40,
  timestamp: 88,
  mac1: 116,
  mac2: 132,
  length: 148
} as const
export const RESPONSE = {
  sender: 4,
  receiver: 8,
  ephemeral: 12,
  empty: 44,
  mac1: 60,
  mac2: 76,
  length: 92
} as const
export const COOKIE_REPLY = { receiver: 4, nonce: 8, cookie: 32, length: 64 } as const
export const DATA = { receiver: 4, counter: 8, ciphertext: 16 } as const

export const TAG_LENGTH = 16
/** Bytes in front of the ciphertext of a data message. */
export const DATA_HEADER_LENGTH = 16
/** Bytes that a data message is longer than its packet. */
export const DATA_OVERHEAD = DATA_HEADER_LENGTH + TAG_LENGTH

export const readUint32 = (bytes: Uint8Array, at: number): number =>
  ((bytes[at] as number) | (bytes[at + 1] as number) << 8 | (bytes[at + 2] as number) << 16
    | (bytes[at + 3] as number) << 24) >>> 0

export const writeUint32 = (bytes: Uint8Array, at: number, value: number): void => {
  bytes[at] = value
  bytes[at + 1] = value >>> 8
  bytes[at + 2] = value >>> 16
  bytes[at + 3] = value >>> 24
}

/** The type of the WireGuard message `buffer[offset, offset + length)`, or 0 if it is none (spec section 4, step 4). */
export const classify = (buffer: Uint8Array, offset: number, length: number): MessageType | 0 => {
  if (offset < 0 || length < DATA_OVERHEAD || offset + length > buffer.length) return 0
  if (buffer[offset + 1] !== 0 || buffer[offset + 2] !== 0 || buffer[offset + 3] !== 0) return 0
  switch (buffer[offset]) {
    case MessageType.Data:
      return MessageType.Data
    case MessageType.Initiation:
      return length === INITIATION.length ? MessageType.Initiation : 0
    case MessageType.Response:
      return length === RESPONSE.length ? MessageType.Response : 0
    case MessageType.CookieReply:
      return length === COOKIE_REPLY.length ? MessageType.CookieReply : 0
    default:
      return 0
  }
}

/** The receiver index of a message that `classify` found to be a response, cookie reply or data. */
export const readReceiverIndex = (buffer: Uint8Array, offset: number): number =>
  readUint32(buffer, offset + (buffer[offset] === MessageType.Response ? RESPONSE.receiver : DATA.receiver))

/** The sender index of an initiation or response. */
export const readSenderIndex = (buffer: Uint8Array, offset: number): number =>
  readUint32(buffer, offset + INITIATION.sender)

/** The counter of a data message; larger than `Number.MAX_SAFE_INTEGER` if a number cannot hold it exactly. */
export const readCounter = (buffer: Uint8Array, offset: number): number =>
  readUint32(buffer, offset + DATA.counter) + readUint32(buffer, offset + DATA.counter + 4) * 0x1_0000_0000

/** Writes the 16 bytes in front of the ciphertext; `counter` is an integer below 2^53. */
export const writeDataHeader = (buffer: Uint8Array, offset: number, receiver: number, counter: number): void => {
  writeUint32(buffer, offset, MessageType.Data)
  writeUint32(buffer, offset + DATA.receiver, receiver)
  writeUint32(buffer, offset + DATA.counter, counter >>> 0)
  writeUint32(buffer, offset + DATA.counter + 4, counter / 0x1_0000_0000)
}
