/** STUN messages (RFC 8489), with the attributes of TURN (RFC 8656) and ICE (RFC 8445); connectivity spec section 5. */
import type { Crypto } from "../crypto.ts"
import { type Family, familyOf, ipFromBytes, ipToBytes, SocketAddress } from "./address.ts"

const HEADER_LENGTH = 20
export const TRANSACTION_ID_LENGTH = 12
/** USERNAME, REALM and NONCE are shorter than 764 bytes (RFC 8489 section 14); longer ones are not read. */
const MAX_TEXT = 763
const INTEGRITY_LENGTH = 20
const FINGERPRINT_MASK = 0x5354_554e
const COOKIE = Uint8Array.of(0x21, 0x12, 0xa4, 0x42)

export const Method = {
  Binding: 0x001,
  Allocate: 0x003,
  Refresh: 0x004,
  CreatePermission: 0x008,
  ChannelBind: 0x009
} as const
export type Method = (typeof Method)[keyof typeof Method]
export const Class = { Request: 0, Indication: 1, Success: 2, Error: 3 } as const
export type Class = (typeof Class)[keyof typeof Class]

export const Attribute = {
  Username: 0x0006,
  MessageIntegrity: 0x0008,
  ErrorCode: 0x0009,
  ChannelNumber: 0x000c,
  Lifetime: 0x000d,
  XorPeerAddress: 0x0012,
  Realm: 0x0014,
  Nonce: 0x0015,
  XorRelayedAddress: 0x0016,
  RequestedAddressFamily: 0x0017,
  RequestedTransport: 0x0019,
  XorMappedAddress: 0x0020,
  Priority: 0x0024,
  UseCandidate: 0x0025,
  AdditionalAddressFamily: 0x8000,
  Software: 0x8022,
  Fingerprint: 0x8028,
  IceControlled: 0x8029,
  IceControlling: 0x802a
} as const

interface AttributePosition {
  readonly type: number
  /** Of the value. */
  readonly start: number
  /** Without padding. */
  readonly length: number
}

export interface StunError {
  readonly code: number
  readonly reason: string
}

/** A message whose framing has been checked; the getters check each attribute and are `undefined` when it is no good. */
export class StunMessage {
  readonly method: number
  readonly class: Class
  readonly bytes: Uint8Array
  readonly transactionId: Uint8Array
  /** The transaction id as a map key. */
  readonly key: string
  readonly #attributes: ReadonlyArray<AttributePosition>
  readonly #integrityAt: number | undefined
  readonly #fingerprintAt: number | undefined

  constructor(
    bytes: Uint8Array,
    attributes: ReadonlyArray<AttributePosition>,
    integrityAt: number | undefined,
    fingerprintAt: number | undefined
  ) {
    const type = u16(bytes, 0)
    this.method = (type & 0x000f) | (type & 0x00e0) >> 1 | (type & 0x3e00) >> 2
    this.class = ((type & 0x0010) >> 4 | (type & 0x0100) >> 7) as Class
    this.bytes = bytes
    this.transactionId = bytes.subarray(8, HEADER_LENGTH)
    this.key = transactionKey(this.transactionId)
    this.#attributes = attributes
    this.#integrityAt = integrityAt
    this.#fingerprintAt = fingerprintAt
  }

  /** The value of the first attribute of a type; only what integrity covers, if there is integrity. */
  attribute(type: number): Uint8Array | undefined {
    const found = this.#attributes.find((attribute) => attribute.type === type)
    return found === undefined ? undefined : this.bytes.subarray(found.start, found.start + found.length)
  }

  has(type: number): boolean {
    return this.#attributes.some((attribute) => attribute.type === type)
  }

  text(type: number): string | undefined {
    const value = this.attribute(type)
    return value === undefined || value.length > MAX_TEXT ? undefined : decodeText(value)
  }

  u32(type: number): number | undefined {
    const value = this.attribute(type)
    return value?.length === 4 ? u16(value, 0) * 0x1_0000 + u16(value, 2) : undefined
  }

  u64(type: number): bigint | undefined {
    const value = this.attribute(type)
    return value?.length === 8 ? value.reduce((sum, byte) => sum << 8n | BigInt(byte), 0n) : undefined
  }

  get error(): StunError | undefined {
    const value = this.attribute(Attribute.ErrorCode)
    if (value === undefined || value.length < 4) return undefined
    return { code: (value[2]! & 7) * 100 + value[3]!, reason: decodeText(value.subarray(4)) ?? "" }
  }

  /** Every XOR address of a type, in order: Allocate answers with one relayed address per family. */
  addresses(type: number): ReadonlyArray<SocketAddress> {
    return this.#attributes.filter((attribute) => attribute.type === type).flatMap(({ length, start }) => {
      const address = readXorAddress(this.bytes.subarray(start, start + length), this.transactionId)
      return address === undefined ? [] : [address]
    })
  }

  address(type: number): SocketAddress | undefined {
    return this.addresses(type)[0]
  }

  get hasIntegrity(): boolean {
    return this.#integrityAt !== undefined
  }

  /** Whether MESSAGE-INTEGRITY is there and right. */
  verify(key: Uint8Array, crypto: Crypto): boolean {
    const at = this.#integrityAt
    if (at === undefined) return false
    const signed = this.bytes.slice(0, at)
    writeU16(signed, 2, at + 4 + INTEGRITY_LENGTH - HEADER_LENGTH)
    const expected = crypto.hmacSha1(key, signed)
    let difference = 0
    for (let i = 0; i < INTEGRITY_LENGTH; i++) difference |= expected[i]! ^ this.bytes[at + 4 + i]!
    return difference === 0
  }

  /** Whether FINGERPRINT is there, as the last attribute, and wrong. */
  get hasWrongFingerprint(): boolean {
    const at = this.#fingerprintAt
    if (at === undefined) return false
    const stated = u16(this.bytes, at + 4) * 0x1_0000 + u16(this.bytes, at + 6)
    return stated !== (crc32(this.bytes.subarray(0, at)) ^ FINGERPRINT_MASK) >>> 0
  }
}

const u16 = (bytes: Uint8Array, at: number): number => bytes[at]! << 8 | bytes[at + 1]!
const writeU16 = (bytes: Uint8Array, at: number, value: number): void => {
  bytes[at] = value >>> 8
  bytes[at + 1] = value
}
/** `undefined` unless the bytes are UTF-8. */
const decodeText = (bytes: Uint8Array): string | undefined => {
  try {
    return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes)
  } catch {
    return undefined
  }
}
const encodeText = (text: string): Uint8Array => new TextEncoder().encode(text)

export const transactionKey = (id: Uint8Array): string => String.fromCharCode(...id)

/** Reads one whole datagram; `undefined` unless cookie, lengths and every attribute's framing are right. Keeps `bytes`. */
export const parseStun = (bytes: Uint8Array): StunMessage | undefined => {
  if (bytes.length < HEADER_LENGTH || (bytes[0]! & 0xc0) !== 0) return undefined
  for (let i = 0; i < 4; i++) if (bytes[4 + i] !== COOKIE[i]) return undefined
  const length = u16(bytes, 2)
  if ((length & 3) !== 0 || length + HEADER_LENGTH !== bytes.length) return undefined
  const attributes: Array<AttributePosition> = []
  let integrityAt: number | undefined
  let fingerprintAt: number | undefined
  for (let at = HEADER_LENGTH; at < bytes.length;) {
    if (at + 4 > bytes.length) return undefined
    const type = u16(bytes, at)
    const size = u16(bytes, at + 2)
    const next = at + 4 + (size + 3 & ~3)
    if (next > bytes.length) return undefined
    if (type === Attribute.Fingerprint && next === bytes.length) {
      if (size !== 4) return undefined
      fingerprintAt = at
    } else if (integrityAt === undefined) {
      if (type === Attribute.MessageIntegrity) {
        if (size !== INTEGRITY_LENGTH) return undefined
        integrityAt = at
      } else {
        attributes.push({ type, start: at + 4, length: size })
      }
    }
    at = next
  }
  return new StunMessage(bytes, attributes, integrityAt, fingerprintAt)
}

const readXorAddress = (value: Uint8Array, transactionId: Uint8Array): SocketAddress | undefined => {
  const family: Family | undefined = value[1] === 1 && value.length === 8
    ? 4
    : value[1] === 2 && value.length === 20
    ? 6
    : undefined
  if (family === undefined) return undefined
  const bytes = xorAddressBytes(value.subarray(4), transactionId)
  return new SocketAddress(ipFromBytes(bytes, 0, family), u16(value, 2) ^ 0x2112)
}

const xorAddressBytes = (address: Uint8Array, transactionId: Uint8Array): Uint8Array =>
  address.map((byte, index) => byte ^ (index < 4 ? COOKIE[index]! : transactionId[index - 4]!))

const xorAddress = (address: SocketAddress, transactionId: Uint8Array): Uint8Array => {
  const ip = ipToBytes(address.address)
  const value = new Uint8Array(4 + ip.length)
  value[1] = familyOf(address.address) === 4 ? 1 : 2
  writeU16(value, 2, address.port ^ 0x2112)
  value.set(xorAddressBytes(ip, transactionId), 4)
  return value
}

/** Builds one message, attributes in the order of the calls. */
export class StunBuilder {
  readonly transactionId: Uint8Array
  readonly #parts: Array<Uint8Array> = []
  #length = 0
  readonly #type: number

  constructor(method: number, kind: Class, transactionId: Uint8Array) {
    this.#type = (method & 0x000f) | (method & 0x0070) << 1 | (method & 0x0f80) << 2 | (kind & 1) << 4 | (kind & 2) << 7
    this.transactionId = transactionId
  }

  add(type: number, value: Uint8Array): this {
    const part = new Uint8Array(4 + (value.length + 3 & ~3))
    writeU16(part, 0, type)
    writeU16(part, 2, value.length)
    part.set(value, 4)
    this.#parts.push(part)
    this.#length += part.length
    return this
  }

  text(type: number, value: string): this {
    return this.add(type, encodeText(value))
  }

  u32(type: number, value: number): this {
    return this.add(type, Uint8Array.of(value >>> 24, value >>> 16, value >>> 8, value))
  }

  u64(type: number, value: bigint): this {
    return this.add(type, Uint8Array.from({ length: 8 }, (_, index) => Number(value >> BigInt(56 - 8 * index) & 0xffn)))
  }

  address(type: number, value: SocketAddress): this {
    return this.add(type, xorAddress(value, this.transactionId))
  }

  error(code: number, reason: string): this {
    const text = encodeText(reason)
    const value = new Uint8Array(4 + text.length)
    value[2] = Math.floor(code / 100)
    value[3] = code % 100
    value.set(text, 4)
    return this.add(Attribute.ErrorCode, value)
  }

  /** MESSAGE-INTEGRITY over everything added so far. */
  sign(key: Uint8Array, crypto: Crypto): this {
    return this.add(Attribute.MessageIntegrity, crypto.hmacSha1(key, this.#encode(4 + INTEGRITY_LENGTH)))
  }

  /** FINGERPRINT; nothing may follow. */
  fingerprint(): this {
    return this.u32(Attribute.Fingerprint, crc32(this.#encode(8)) ^ FINGERPRINT_MASK)
  }

  build(): Uint8Array {
    return this.#encode(0)
  }

  /** All parts so far, with the length field counting `more` bytes to come. */
  #encode(more: number): Uint8Array {
    const bytes = new Uint8Array(HEADER_LENGTH + this.#length)
    writeU16(bytes, 0, this.#type)
    writeU16(bytes, 2, this.#length + more)
    bytes.set(COOKIE, 4)
    bytes.set(this.transactionId, 8)
    let at = HEADER_LENGTH
    for (const part of this.#parts) {
      bytes.set(part, at)
      at += part.length
    }
    return bytes
  }
}

let crcTable: Uint32Array | undefined
/** CRC-32 of ISO-HDLC, as FINGERPRINT uses it. */
export const crc32 = (bytes: Uint8Array): number => {
  crcTable ??= Uint32Array.from({ length: 256 }, (_, index) => {
    let value = index
    for (let bit = 0; bit < 8; bit++) value = (value & 1) === 1 ? 0xedb8_8320 ^ value >>> 1 : value >>> 1
    return value
  })
  let crc = 0xffff_ffff
  for (const byte of bytes) crc = crcTable[(crc ^ byte) & 0xff]! ^ crc >>> 8
  return (crc ^ 0xffff_ffff) >>> 0
}

/** The long-term credential's key: MD5(username ":" realm ":" password), no SASLprep. */
export const longTermKey = (username: string, realm: string, password: string, crypto: Crypto): Uint8Array =>
  crypto.md5(encodeText(`${username}:${realm}:${password}`))
