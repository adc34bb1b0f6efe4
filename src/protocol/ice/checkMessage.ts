/** Connectivity checks on the wire: STUN Binding messages with short-term credentials (connectivity spec 5 and 9.5). */
import type { Crypto } from "../crypto.ts"
import { type Family, ipFromBytes, ipToBytes, SocketAddress } from "../wire/address.ts"

/** `bytes` are the whole message, for `hasIntegrity`. `transaction` is the transaction id in hexadecimal. */
interface CheckHeader {
  readonly bytes: Uint8Array
  readonly transactionId: Uint8Array
  readonly transaction: string
}

export interface CheckRequest extends CheckHeader {
  readonly _tag: "Request"
  readonly localUfrag: string
  readonly remoteUfrag: string
  readonly priority: number
  readonly useCandidate: boolean
  /** Whether the sender claims to be controlling; meaningless without `tieBreaker`. */
  readonly controlling: boolean
  readonly tieBreaker: bigint | undefined
}

export interface CheckResponse extends CheckHeader {
  readonly _tag: "Success"
  readonly mapped: SocketAddress
}

/** `Other` is well-formed STUN that is no check: indications, errors, TURN. Nobody wants it, WireGuard least of all. */
export type CheckMessage = CheckRequest | CheckResponse | { readonly _tag: "Other" }

const HEADER_LENGTH = 20
const COOKIE = 0x2112_a442
const COOKIE_BYTES = Uint8Array.of(0x21, 0x12, 0xa4, 0x42)
const Type = { Request: 0x0001, Success: 0x0101, Error: 0x0111 } as const
const Attribute = {
  Username: 0x0006,
  MessageIntegrity: 0x0008,
  ErrorCode: 0x0009,
  XorMappedAddress: 0x0020,
  Priority: 0x0024,
  UseCandidate: 0x0025,
  Fingerprint: 0x8028,
  IceControlled: 0x8029,
  IceControlling: 0x802a
} as const
const INTEGRITY_LENGTH = 20
const FINGERPRINT_XOR = 0x5354_554e
/** Our checks are below 100 bytes; a peer's may carry unknown attributes. */
const MAX_LENGTH = 1316
const MAX_USERNAME = 513

const readU16 = (bytes: Uint8Array, at: number): number => (bytes[at] as number) << 8 | (bytes[at + 1] as number)
const readU32 = (bytes: Uint8Array, at: number): number => readU16(bytes, at) * 0x1_0000 + readU16(bytes, at + 2)

/** Whether `buffer[offset, offset + length)` can be STUN at all: cheap, and never true for WireGuard data. */
export const looksLikeStun = (buffer: Uint8Array, offset: number, length: number): boolean =>
  length >= HEADER_LENGTH && length <= MAX_LENGTH && (length & 3) === 0 && (buffer[offset] as number) < 64
  && readU32(buffer, offset + 4) === COOKIE && readU16(buffer, offset + 2) === length - HEADER_LENGTH

/** Reads a datagram by the strict rules of spec 9.5; `undefined` if it is not STUN. `bytes` are kept. */
export const parseCheck = (bytes: Uint8Array): CheckMessage | undefined => {
  if (!looksLikeStun(bytes, 0, bytes.length)) return undefined
  const attributes = readAttributes(bytes)
  if (attributes === undefined) return undefined
  const transactionId = bytes.slice(8, HEADER_LENGTH)
  const header: CheckHeader = { bytes, transactionId, transaction: hex(transactionId) }
  switch (readU16(bytes, 0)) {
    case Type.Request:
      return readRequest(header, attributes)
    case Type.Success:
      return readSuccess(header, attributes)
    default:
      return { _tag: "Other" }
  }
}

/** Where a value starts, and its length without padding. */
interface Value {
  readonly at: number
  readonly length: number
}

/** The first of each type, up to MESSAGE-INTEGRITY: what follows it is not authentic. */
const readAttributes = (bytes: Uint8Array): Map<number, Value> | undefined => {
  const attributes = new Map<number, Value>()
  for (let at = HEADER_LENGTH; at < bytes.length;) {
    if (at + 4 > bytes.length) return undefined
    const type = readU16(bytes, at)
    const length = readU16(bytes, at + 2)
    const next = at + 4 + (length + 3 & ~3)
    if (next > bytes.length) return undefined
    if (!attributes.has(Attribute.MessageIntegrity) && !attributes.has(type)) {
      attributes.set(type, { at: at + 4, length })
    }
    at = next
  }
  return attributes
}

const readRequest = (header: CheckHeader, attributes: Map<number, Value>): CheckRequest | undefined => {
  const { bytes } = header
  const username = attributes.get(Attribute.Username)
  const priority = attributes.get(Attribute.Priority)
  if (username === undefined || username.length > MAX_USERNAME || priority?.length !== 4) return undefined
  if (attributes.get(Attribute.MessageIntegrity)?.length !== INTEGRITY_LENGTH) return undefined
  const text = String.fromCharCode(...bytes.subarray(username.at, username.at + username.length))
  const colon = text.indexOf(":")
  if (colon < 0 || colon === text.length - 1) return undefined
  const controlling = attributes.get(Attribute.IceControlling)
  const role = controlling ?? attributes.get(Attribute.IceControlled)
  return {
    ...header,
    _tag: "Request",
    localUfrag: text.slice(0, colon),
    remoteUfrag: text.slice(colon + 1),
    priority: readU32(bytes, priority.at),
    useCandidate: attributes.has(Attribute.UseCandidate),
    controlling: controlling !== undefined,
    tieBreaker: role?.length === 8
      ? BigInt(readU32(bytes, role.at)) << 32n | BigInt(readU32(bytes, role.at + 4))
      : undefined
  }
}

const readSuccess = (header: CheckHeader, attributes: Map<number, Value>): CheckResponse | undefined => {
  if (attributes.get(Attribute.MessageIntegrity)?.length !== INTEGRITY_LENGTH) return undefined
  const value = attributes.get(Attribute.XorMappedAddress)
  const mapped = value === undefined ? undefined : readXorAddress(header.bytes, value)
  return mapped === undefined ? undefined : { ...header, _tag: "Success", mapped }
}

const readXorAddress = (bytes: Uint8Array, { at, length }: Value): SocketAddress | undefined => {
  const family: Family | undefined = bytes[at + 1] === 1 && length === 8
    ? 4
    : bytes[at + 1] === 2 && length === 20
    ? 6
    : undefined
  if (family === undefined) return undefined
  const address = bytes.slice(at + 4, at + length)
  // The mask is the cookie and the transaction id, which follow each other in the header.
  for (let i = 0; i < address.length; i++) address[i] = (address[i] as number) ^ (bytes[4 + i] as number)
  return new SocketAddress(ipFromBytes(address, 0, family), readU16(bytes, at + 2) ^ COOKIE >>> 16)
}

/** The key of short-term credentials: the password's bytes (RFC 8489 section 9.1.1). */
export const passwordKey = (password: string): Uint8Array => new TextEncoder().encode(password)

/** Whether MESSAGE-INTEGRITY of a message that `parseCheck` accepted is right for `key`. */
export const hasIntegrity = (crypto: Pick<Crypto, "hmacSha1">, bytes: Uint8Array, key: Uint8Array): boolean => {
  for (let at = HEADER_LENGTH; at + 4 <= bytes.length; at += 4 + (readU16(bytes, at + 2) + 3 & ~3)) {
    if (readU16(bytes, at) !== Attribute.MessageIntegrity) continue
    const expected = integrity(crypto, bytes, at, key)
    let difference = 0
    for (let i = 0; i < INTEGRITY_LENGTH; i++) difference |= (expected[i] as number) ^ (bytes[at + 4 + i] as number)
    return difference === 0
  }
  return false
}

/** HMAC-SHA1 over `bytes[0, end)` with the length field as if the message ended right behind the attribute. */
const integrity = (
  crypto: Pick<Crypto, "hmacSha1">,
  bytes: Uint8Array,
  end: number,
  key: Uint8Array
): Uint8Array => {
  const length = end + 4 + INTEGRITY_LENGTH - HEADER_LENGTH
  return crypto.hmacSha1(key, bytes.subarray(0, 2), Uint8Array.of(length >> 8, length & 0xff), bytes.subarray(4, end))
}

export interface CheckRequestFields {
  /** Twelve random bytes; made by the caller for tests with vectors, else fresh. */
  readonly transactionId?: Uint8Array
  readonly username: string
  readonly controlling: boolean
  readonly tieBreaker: bigint
  readonly priority: number
  readonly useCandidate: boolean
  readonly key: Uint8Array
}

export const writeCheckRequest = (
  crypto: Pick<Crypto, "hmacSha1" | "randomBytes">,
  fields: CheckRequestFields
): { readonly message: Uint8Array; readonly transaction: string } => {
  const transactionId = fields.transactionId ?? crypto.randomBytes(12)
  const writer = new Writer(Type.Request, transactionId)
  writer.put(Attribute.Username, ...new TextEncoder().encode(fields.username))
  writer.put(
    fields.controlling ? Attribute.IceControlling : Attribute.IceControlled,
    ...u32(Number(fields.tieBreaker >> 32n)),
    ...u32(Number(fields.tieBreaker & 0xffff_ffffn))
  )
  writer.put(Attribute.Priority, ...u32(fields.priority))
  if (fields.useCandidate) writer.put(Attribute.UseCandidate)
  return { message: writer.finish(crypto, fields.key), transaction: hex(transactionId) }
}

/** `mapped` is where the request came from as we saw it. */
export const writeCheckSuccess = (
  crypto: Pick<Crypto, "hmacSha1">,
  transactionId: Uint8Array,
  mapped: SocketAddress,
  key: Uint8Array
): Uint8Array => {
  const writer = new Writer(Type.Success, transactionId)
  const address = ipToBytes(mapped.address)
  for (let i = 0; i < address.length; i++) {
    address[i] = (address[i] as number) ^ (i < 4 ? COOKIE_BYTES[i] as number : transactionId[i - 4] as number)
  }
  const port = mapped.port ^ COOKIE >>> 16
  writer.put(Attribute.XorMappedAddress, 0, mapped.family === 4 ? 1 : 2, port >> 8, port & 0xff, ...address)
  return writer.finish(crypto, key)
}

/** The answer to a peer that claims our role (RFC 8445 section 7.3.1.1). */
export const writeRoleConflict = (
  crypto: Pick<Crypto, "hmacSha1">,
  transactionId: Uint8Array,
  key: Uint8Array
): Uint8Array => {
  const writer = new Writer(Type.Error, transactionId)
  writer.put(Attribute.ErrorCode, 0, 0, 4, 87, ...new TextEncoder().encode("Role Conflict"))
  return writer.finish(crypto, key)
}

const u32 = (value: number): ReadonlyArray<number> => [
  value >>> 24,
  value >>> 16 & 0xff,
  value >>> 8 & 0xff,
  value & 0xff
]

/** Collects attributes; `finish` adds MESSAGE-INTEGRITY and FINGERPRINT. */
class Writer {
  readonly #bytes: Array<number>

  constructor(type: number, transactionId: Uint8Array) {
    this.#bytes = [type >> 8, type & 0xff, 0, 0, ...COOKIE_BYTES, ...transactionId]
  }

  put(type: number, ...value: ReadonlyArray<number>): void {
    this.#bytes.push(type >> 8, type & 0xff, value.length >> 8, value.length & 0xff, ...value)
    while (this.#bytes.length % 4 !== 0) this.#bytes.push(0)
  }

  finish(crypto: Pick<Crypto, "hmacSha1">, key: Uint8Array): Uint8Array {
    this.put(Attribute.MessageIntegrity, ...integrity(crypto, Uint8Array.from(this.#bytes), this.#bytes.length, key))
    const length = this.#bytes.length + 8 - HEADER_LENGTH
    this.#bytes[2] = length >> 8
    this.#bytes[3] = length & 0xff
    this.put(Attribute.Fingerprint, ...u32((crc32(this.#bytes) ^ FINGERPRINT_XOR) >>> 0))
    return Uint8Array.from(this.#bytes)
  }
}

/** CRC-32/ISO-HDLC (RFC 8489 section 14.7). */
const crc32 = (bytes: ReadonlyArray<number>): number => {
  let crc = 0xffff_ffff
  for (const byte of bytes) {
    crc ^= byte
    for (let bit = 0; bit < 8; bit++) crc = crc >>> 1 ^ (0xedb8_8320 & -(crc & 1))
  }
  return ~crc >>> 0
}

const hex = (bytes: Uint8Array): string => {
  let text = ""
  for (const byte of bytes) text += byte.toString(16).padStart(2, "0")
  return text
}
