/** DNS messages (RFC 1035, EDNS records of RFC 6891 as plain records). No state, no I/O. */
import { type IpAddress, ipFromBytes, ipToBytes } from "./address.ts"

/** Record types by their usual names; any 16-bit number is a type. */
export const RecordType = {
  A: 1,
  NS: 2,
  CNAME: 5,
  SOA: 6,
  PTR: 12,
  MX: 15,
  TXT: 16,
  AAAA: 28,
  SRV: 33,
  DNAME: 39,
  OPT: 41,
  SVCB: 64,
  HTTPS: 65
} as const

export const ResponseCode = {
  NoError: 0,
  FormatError: 1,
  ServerFailure: 2,
  NameError: 3,
  NotImplemented: 4,
  Refused: 5
} as const

export const CLASS_IN = 1

/**
 * A domain name as text: labels joined by dots, no dot at the end, `.` for the root. A dot or backslash inside a label
 * is escaped as `\.` and `\\`, other bytes than printable ASCII as `\ddd` (RFC 1035 section 5.1). The case is as on the
 * wire: compare with `sameName`.
 */
export type DomainName = string

export interface Question {
  readonly name: DomainName
  readonly type: number
  readonly class: number
}

export type RecordData =
  /** A and AAAA. */
  | { readonly _tag: "Address"; readonly address: IpAddress }
  /** CNAME, PTR, NS and DNAME. */
  | { readonly _tag: "Name"; readonly name: DomainName }
  /** Every other type, without compressed names: it can be put into another message. */
  | { readonly _tag: "Raw"; readonly bytes: Uint8Array }

export interface ResourceRecord {
  readonly name: DomainName
  readonly type: number
  /** For OPT the sender's UDP payload size. */
  readonly class: number
  /** Seconds; for OPT the extended flags. */
  readonly ttl: number
  readonly data: RecordData
}

export interface DnsMessage {
  readonly id: number
  readonly isResponse: boolean
  readonly opcode: number
  readonly authoritative: boolean
  readonly truncated: boolean
  readonly recursionDesired: boolean
  readonly recursionAvailable: boolean
  readonly authenticData: boolean
  readonly checkingDisabled: boolean
  /** The header's four bits. */
  readonly responseCode: number
  readonly questions: ReadonlyArray<Question>
  readonly answers: ReadonlyArray<ResourceRecord>
  readonly authorities: ReadonlyArray<ResourceRecord>
  readonly additionals: ReadonlyArray<ResourceRecord>
}

const HEADER_LENGTH = 12
const MAX_LENGTH = 65_535
const MAX_NAME_LENGTH = 255
const MAX_LABEL_LENGTH = 63
/** More records than any answer that we have a use for; bounds the work for one message. */
const MAX_RECORDS = 2048

/** Compares names without regard to ASCII case (RFC 1035 section 2.3.3). */
export const sameName = (a: DomainName, b: DomainName): boolean => a === b || foldCase(a) === foldCase(b)

const foldCase = (name: DomainName): string =>
  name.replaceAll(/[A-Z]/g, (letter) => String.fromCharCode(letter.charCodeAt(0) + 32))

// ---- decoding

/** `undefined` for anything that is not one whole message. Bytes behind it are ignored. */
export const decodeDns = (bytes: Uint8Array): DnsMessage | undefined => {
  if (bytes.length < HEADER_LENGTH || bytes.length > MAX_LENGTH) return undefined
  const cursor: Cursor = { bytes, offset: HEADER_LENGTH, failed: false }
  const flags = uint16(bytes, 2)
  const [questionCount, answerCount, authorityCount, additionalCount] = [4, 6, 8, 10].map((at) =>
    uint16(bytes, at)
  ) as [
    number,
    number,
    number,
    number
  ]
  if (questionCount + answerCount + authorityCount + additionalCount > MAX_RECORDS) return undefined
  const questions = repeat(cursor, questionCount, readQuestion)
  const answers = repeat(cursor, answerCount, readRecord)
  const authorities = repeat(cursor, authorityCount, readRecord)
  const additionals = repeat(cursor, additionalCount, readRecord)
  if (cursor.failed) return undefined
  return {
    id: uint16(bytes, 0),
    isResponse: (flags & 0x8000) !== 0,
    opcode: flags >> 11 & 15,
    authoritative: (flags & 0x0400) !== 0,
    truncated: (flags & 0x0200) !== 0,
    recursionDesired: (flags & 0x0100) !== 0,
    recursionAvailable: (flags & 0x0080) !== 0,
    authenticData: (flags & 0x0020) !== 0,
    checkingDisabled: (flags & 0x0010) !== 0,
    responseCode: flags & 15,
    questions,
    answers,
    authorities,
    additionals
  }
}

/** The first question alone, and where it ends; nothing else is looked at. */
export const decodeQuestion = (
  bytes: Uint8Array
): { readonly question: Question; readonly end: number } | undefined => {
  if (bytes.length < HEADER_LENGTH || bytes.length > MAX_LENGTH || uint16(bytes, 4) === 0) return undefined
  const cursor: Cursor = { bytes, offset: HEADER_LENGTH, failed: false }
  const question = readQuestion(cursor)
  return question === undefined ? undefined : { question, end: cursor.offset }
}

/**
 * Whether a reply repeats the one question of a query (RFC 5452 section 9.1), or leaves it out, as errors may. For
 * messages with a header; the rest of the reply may be broken.
 */
export const repeatsQuestion = (reply: Uint8Array, query: Uint8Array): boolean => {
  if (uint16(reply, 4) === 0) return true
  const asked = decodeQuestion(query)?.question
  const repeated = decodeQuestion(reply)?.question
  return asked !== undefined && repeated !== undefined && uint16(reply, 4) === 1 && repeated.type === asked.type &&
    repeated.class === asked.class && sameName(repeated.name, asked.name)
}

interface Cursor {
  readonly bytes: Uint8Array
  offset: number
  failed: boolean
}

const uint16 = (bytes: Uint8Array, at: number): number => (bytes[at] ?? 0) << 8 | (bytes[at + 1] ?? 0)
const uint32 = (bytes: Uint8Array, at: number): number => uint16(bytes, at) * 0x10000 + uint16(bytes, at + 2)

const repeat = <A>(cursor: Cursor, count: number, read: (cursor: Cursor) => A | undefined): Array<A> => {
  const items: Array<A> = []
  for (let i = 0; i < count && !cursor.failed; i++) {
    const item = read(cursor)
    if (item === undefined) cursor.failed = true
    else items.push(item)
  }
  return items
}

const readQuestion = (cursor: Cursor): Question | undefined => {
  const name = readName(cursor)
  const at = cursor.offset
  if (name === undefined || at + 4 > cursor.bytes.length) return undefined
  cursor.offset += 4
  return { name, type: uint16(cursor.bytes, at), class: uint16(cursor.bytes, at + 2) }
}

const readRecord = (cursor: Cursor): ResourceRecord | undefined => {
  const { bytes } = cursor
  const name = readName(cursor)
  const at = cursor.offset
  if (name === undefined || at + 10 > bytes.length) return undefined
  const type = uint16(bytes, at)
  const end = at + 10 + uint16(bytes, at + 8)
  if (end > bytes.length) return undefined
  cursor.offset = at + 10
  const data = readData(cursor, type, end)
  if (data === undefined) return undefined
  cursor.offset = end
  return { name, type, class: uint16(bytes, at + 2), ttl: uint32(bytes, at + 4), data }
}

const isNameType = (type: number): boolean =>
  type === RecordType.CNAME || type === RecordType.PTR || type === RecordType.NS || type === RecordType.DNAME

const readData = (cursor: Cursor, type: number, end: number): RecordData | undefined => {
  const { bytes, offset } = cursor
  if (type === RecordType.A || type === RecordType.AAAA) {
    const length = type === RecordType.A ? 4 : 16
    if (end - offset !== length) return undefined
    return { _tag: "Address", address: ipFromBytes(bytes, offset, length === 4 ? 4 : 6) }
  }
  if (isNameType(type)) {
    const name = readName(cursor)
    return name === undefined || cursor.offset !== end ? undefined : { _tag: "Name", name }
  }
  const layout = compressible[type]
  return layout === undefined
    ? { _tag: "Raw", bytes: new Uint8Array(bytes.subarray(offset, end)) }
    : expand(cursor, layout, end)
}

/** Fixed bytes before, then names, then fixed bytes: the other types that senders may compress (RFC 3597 section 4). */
const compressible: {
  readonly [type: number]: { readonly before: number; readonly names: number; readonly after: number }
} = {
  [RecordType.SOA]: { before: 0, names: 2, after: 20 },
  [RecordType.MX]: { before: 2, names: 1, after: 0 },
  [RecordType.SRV]: { before: 6, names: 1, after: 0 }
}

const expand = (
  cursor: Cursor,
  layout: { readonly before: number; readonly names: number; readonly after: number },
  end: number
): RecordData | undefined => {
  const { bytes } = cursor
  const parts = [...bytes.subarray(cursor.offset, cursor.offset + layout.before)]
  if (cursor.offset + layout.before > end) return undefined
  cursor.offset += layout.before
  for (let i = 0; i < layout.names; i++) {
    const name = readName(cursor)
    const labels = name === undefined ? undefined : labelsOf(name)
    if (labels === undefined) return undefined
    for (const label of labels) parts.push(label.length, ...label)
    parts.push(0)
  }
  if (cursor.offset + layout.after !== end) return undefined
  parts.push(...bytes.subarray(cursor.offset, end))
  return { _tag: "Raw", bytes: Uint8Array.from(parts) }
}

/** A pointer must lead to before where the name, or the part that it ends, began; so there is no way round in a circle. */
const readName = (cursor: Cursor): DomainName | undefined => {
  const { bytes } = cursor
  let text = ""
  let length = 1
  let at = cursor.offset
  let floor = at
  let end: number | undefined
  while (true) {
    const head = bytes[at]
    if (head === undefined) return undefined
    if (head === 0) {
      cursor.offset = end ?? at + 1
      return text === "" ? "." : text
    }
    if (head >= 0xc0) {
      if (at + 1 >= bytes.length) return undefined
      const target = (head & 0x3f) << 8 | (bytes[at + 1] as number)
      if (target >= floor || target < HEADER_LENGTH) return undefined
      end ??= at + 2
      floor = target
      at = target
      continue
    }
    length += head + 1
    if (head > MAX_LABEL_LENGTH || length > MAX_NAME_LENGTH || at + 1 + head > bytes.length) return undefined
    if (text !== "") text += "."
    for (let i = at + 1; i <= at + head; i++) text += escaped[bytes[i] as number]
    at += 1 + head
  }
}

const escaped: ReadonlyArray<string> = Array.from({ length: 256 }, (_, byte) => {
  if (byte === 0x2e || byte === 0x5c) return `\\${String.fromCharCode(byte)}`
  return byte > 0x20 && byte < 0x7f ? String.fromCharCode(byte) : `\\${String(byte).padStart(3, "0")}`
})

// ---- names

/** The labels' bytes; `undefined` for text that is no domain name. A dot at the end is allowed. */
const labelsOf = (name: DomainName): ReadonlyArray<ReadonlyArray<number>> | undefined => {
  if (name === "." || name === "") return []
  const labels: Array<Array<number>> = [[]]
  let length = 2
  for (let i = 0; i < name.length; i++) {
    let byte = name.charCodeAt(i)
    if (byte === 0x2e) {
      if (i === name.length - 1) break
      labels.push([])
      length += 1
      continue
    }
    if (byte === 0x5c) {
      const decimal = /^\d{3}/.exec(name.slice(i + 1, i + 4))?.[0]
      byte = decimal === undefined ? name.charCodeAt(i + 1) : Number(decimal)
      i += decimal === undefined ? 1 : 3
    }
    // Other alphabets come as punycode.
    if (!(byte <= 255) || (byte > 127 && name.charCodeAt(i) > 127)) return undefined
    length += 1
    labels.at(-1)?.push(byte)
  }
  return length > MAX_NAME_LENGTH || labels.some((label) => label.length === 0 || label.length > MAX_LABEL_LENGTH)
    ? undefined
    : labels
}

/** Whether the text can be put into a message: labels of 1 to 63 bytes, 255 bytes in all. */
export const isDomainName = (name: string): boolean => labelsOf(name) !== undefined

// ---- encoding

/**
 * The message's bytes, names compressed. If they are more than `maxLength`, a message without records but OPT and with
 * the truncated flag (RFC 2181 section 9 lets a server drop whole records; none left is the form that all clients
 * handle). `undefined` if a name is none or even that does not fit.
 */
export const encodeDns = (message: DnsMessage, maxLength = MAX_LENGTH): Uint8Array | undefined => {
  const bytes = encodeAll(message)
  if (bytes === undefined) return undefined
  if (bytes.length <= maxLength) return bytes
  const options = message.additionals.filter(({ type }) => type === RecordType.OPT)
  const short = encodeAll({ ...message, truncated: true, answers: [], authorities: [], additionals: options })
  return short === undefined || short.length > maxLength ? undefined : short
}

interface Writer {
  readonly bytes: Array<number>
  /** Where each name was written; `undefined` to compress none. */
  readonly names: Map<string, number> | undefined
  failed: boolean
}

/** One record without compressed names, so that it means the same in any message. `undefined` if a name is none. */
export const encodeRecord = (record: ResourceRecord): Uint8Array | undefined => {
  const writer: Writer = { bytes: [], names: undefined, failed: false }
  writeRecord(writer, record)
  return writer.failed || writer.bytes.length > MAX_LENGTH ? undefined : Uint8Array.from(writer.bytes)
}

const push16 = (bytes: Array<number>, value: number): void => {
  bytes.push(value >> 8 & 0xff, value & 0xff)
}

const encodeAll = (message: DnsMessage): Uint8Array | undefined => {
  const writer: Writer = { bytes: [], names: new Map(), failed: false }
  const { bytes } = writer
  const sections = [message.questions, message.answers, message.authorities, message.additionals]
  push16(bytes, message.id)
  push16(
    bytes,
    (message.isResponse ? 0x8000 : 0) | (message.opcode & 15) << 11 | (message.authoritative ? 0x0400 : 0)
      | (message.truncated ? 0x0200 : 0) | (message.recursionDesired ? 0x0100 : 0)
      | (message.recursionAvailable ? 0x0080 : 0) | (message.authenticData ? 0x0020 : 0)
      | (message.checkingDisabled ? 0x0010 : 0) | (message.responseCode & 15)
  )
  for (const section of sections) {
    if (section.length > 65_535) return undefined
    push16(bytes, section.length)
  }
  for (const question of message.questions) {
    writeName(writer, question.name)
    push16(bytes, question.type)
    push16(bytes, question.class)
  }
  for (const section of [message.answers, message.authorities, message.additionals]) {
    for (const record of section) {
      writeRecord(writer, record)
      if (writer.failed) return undefined
      if (bytes.length > MAX_LENGTH) return Uint8Array.from(bytes) // too long already
    }
  }
  return writer.failed ? undefined : Uint8Array.from(bytes)
}

const writeRecord = (writer: Writer, record: ResourceRecord): void => {
  const { bytes } = writer
  writeName(writer, record.name)
  push16(bytes, record.type)
  push16(bytes, record.class)
  push16(bytes, Math.floor(record.ttl / 0x10000))
  push16(bytes, record.ttl % 0x10000)
  const at = bytes.length
  push16(bytes, 0)
  const { data } = record
  if (data._tag === "Address" && record.type === RecordType.A && data.address.includes(":")) writer.failed = true
  if (data._tag === "Name") writeName(writer, data.name)
  else {for (const byte of data._tag === "Address" ? addressBytes(record.type, data.address) : data.bytes) {
      bytes.push(byte)
    }}
  const length = bytes.length - at - 2
  bytes[at] = length >> 8
  bytes[at + 1] = length & 0xff
}

/** An IPv4-mapped address in an AAAA record reads as IPv4: it is written as it was. */
const addressBytes = (type: number, address: IpAddress): Uint8Array => {
  const bytes = ipToBytes(address)
  if (type !== RecordType.AAAA || bytes.length === 16) return bytes
  const mapped = new Uint8Array(16)
  mapped.set([0xff, 0xff], 10)
  mapped.set(bytes, 12)
  return mapped
}

const writeName = (writer: Writer, name: DomainName): void => {
  const { bytes, names } = writer
  const labels = labelsOf(name)
  if (labels === undefined) {
    writer.failed = true
    return
  }
  for (let i = 0; i < labels.length; i++) {
    const label = labels[i] as ReadonlyArray<number>
    if (names === undefined) {
      bytes.push(label.length, ...label)
      continue
    }
    // Keyed by the exact bytes: a name keeps its case, which some resolvers check (0x20).
    const key = labels.slice(i).map((label) => String.fromCharCode(label.length, ...label)).join("")
    const known = names.get(key)
    if (known !== undefined) return push16(bytes, 0xc000 | known)
    if (bytes.length < 0x4000) names.set(key, bytes.length)
    bytes.push(label.length, ...label)
  }
  bytes.push(0)
}

// ---- building

/** A recursive query for one name, or `undefined` if it is none. */
export const encodeQuery = (id: number, name: DomainName, type: number): Uint8Array | undefined =>
  encodeDns({
    id,
    isResponse: false,
    opcode: 0,
    authoritative: false,
    truncated: false,
    recursionDesired: true,
    recursionAvailable: false,
    authenticData: false,
    checkingDisabled: false,
    responseCode: ResponseCode.NoError,
    questions: [{ name, type, class: CLASS_IN }],
    answers: [],
    authorities: [],
    additionals: []
  })

/** A response to `query` with its id, question and flags. */
export const responseTo = (
  query: DnsMessage,
  responseCode: number,
  answers: ReadonlyArray<ResourceRecord> = []
): DnsMessage => ({
  id: query.id,
  isResponse: true,
  opcode: query.opcode,
  authoritative: false,
  truncated: false,
  recursionDesired: query.recursionDesired,
  recursionAvailable: true,
  authenticData: false,
  checkingDisabled: query.checkingDisabled,
  responseCode,
  questions: query.questions,
  answers,
  authorities: [],
  additionals: []
})

/** Whether `message` answers the one question of `query` (RFC 5452 section 9.1). */
export const isResponseTo = (message: DnsMessage, query: DnsMessage): boolean => {
  const [asked] = query.questions
  const [echoed] = message.questions
  return message.isResponse && message.id === query.id && message.opcode === query.opcode
    && asked !== undefined && echoed !== undefined && message.questions.length === 1
    && echoed.type === asked.type && echoed.class === asked.class && sameName(echoed.name, asked.name)
}

/** An A or AAAA record. */
export const addressRecord = (name: DomainName, ttl: number, address: IpAddress): ResourceRecord => ({
  name,
  type: address.includes(":") ? RecordType.AAAA : RecordType.A,
  class: CLASS_IN,
  ttl,
  data: { _tag: "Address", address }
})

export const nameRecord = (
  name: DomainName,
  type: typeof RecordType.PTR | typeof RecordType.CNAME | typeof RecordType.NS,
  ttl: number,
  target: DomainName
): ResourceRecord => ({ name, type, class: CLASS_IN, ttl, data: { _tag: "Name", name: target } })
