/** D-Bus messages (D-Bus specification, "Type System" and "Message Protocol"): method calls out, signals and replies in. */

/** With these bytes of a message its length is known. */
export const FIXED_HEADER_LENGTH = 16
/** Of a whole message, and of the array of its header's fields. */
const LONGEST_MESSAGE = 1 << 27
const LONGEST_ARRAY = 1 << 26
/** Arrays, structs and variants within each other. */
const DEEPEST = 64

export const MessageType = { Call: 1, Return: 2, Error: 3, Signal: 4 } as const

const LITTLE = 0x6c
const BIG = 0x42
const VERSION = 1

/** Codes of header fields with their types. */
const FIELDS = {
  path: [1, "o"],
  interface: [2, "s"],
  member: [3, "s"],
  errorName: [4, "s"],
  replySerial: [5, "u"],
  destination: [6, "s"],
  sender: [7, "s"],
  signature: [8, "g"]
} as const

/** Types whose length is also their alignment. */
const FIXED_SIZES: { readonly [code: string]: number | undefined } = {
  y: 1,
  n: 2,
  q: 2,
  b: 4,
  i: 4,
  u: 4,
  h: 4,
  x: 8,
  t: 8,
  d: 8
}
const ALIGNMENTS: { readonly [code: string]: number | undefined } = {
  ...FIXED_SIZES,
  s: 4,
  o: 4,
  g: 1,
  v: 1,
  a: 4,
  "(": 8,
  "{": 8
}
const CLOSING: { readonly [code: string]: string | undefined } = { "(": ")", "{": "}" }

const isLittleEndian = (bytes: Uint8Array): boolean | undefined =>
  bytes[0] === LITTLE ? true : bytes[0] === BIG ? false : undefined

/** Reads in the order of a message; what does not fit makes it bad for good, and reads as nothing. */
class Reader {
  readonly #bytes: Uint8Array
  readonly #view: DataView
  readonly #isLittle: boolean
  at: number
  isBad = false

  /** Alignment counts from the first of `bytes`. */
  constructor(bytes: Uint8Array, at: number) {
    this.#bytes = bytes
    this.#view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
    this.#isLittle = isLittleEndian(bytes) ?? true
    this.at = at
  }

  fail(): void {
    this.isBad = true
  }

  /** Where the next `length` bytes begin, which are then behind. */
  take(length: number): number {
    const start = this.at
    if (this.isBad || length > this.#bytes.length - start) this.fail()
    else this.at += length
    return start
  }

  align(to: number): void {
    this.take(-this.at & (to - 1))
  }

  byte(): number {
    const at = this.take(1)
    return this.isBad ? 0 : this.#view.getUint8(at)
  }

  u32(): number {
    this.align(4)
    const at = this.take(4)
    return this.isBad ? 0 : this.#view.getUint32(at, this.#isLittle)
  }

  string(): string {
    return this.#text(this.u32())
  }

  signature(): string {
    return this.#text(this.byte())
  }

  /** Where the array ends whose elements come next. */
  array(alignment: number): number {
    const length = this.u32()
    this.align(alignment)
    return this.at + length
  }

  #text(length: number): string {
    const start = this.take(length + 1)
    if (this.isBad || this.#bytes[start + length] !== 0) {
      this.fail()
      return ""
    }
    try {
      return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(
        this.#bytes.subarray(start, start + length)
      )
    } catch {
      this.fail()
      return ""
    }
  }
}

/** Behind the complete type that begins at `at`; 0 if there is none. */
const endOfType = (signature: string, at: number, depth: number): number => {
  const code = signature[at] ?? ""
  if (depth > DEEPEST || ALIGNMENTS[code] === undefined) return 0
  if (code === "a") return endOfType(signature, at + 1, depth + 1)
  const closing = CLOSING[code]
  if (closing === undefined) return at + 1
  let end = at + 1
  while (signature[end] !== closing) {
    end = endOfType(signature, end, depth + 1)
    if (end === 0) return 0
  }
  return end + 1
}

/** Passes over a value of the type that begins at `at`; returns where the type ends. */
const skipValue = (reader: Reader, signature: string, at: number, depth: number): number => {
  const code = signature[at] ?? ""
  const size = FIXED_SIZES[code]
  if (size !== undefined) {
    reader.align(size)
    reader.take(size)
    return at + 1
  }
  if (depth > DEEPEST) reader.fail()
  else if (code === "s" || code === "o") reader.string()
  else if (code === "g") reader.signature()
  else if (code === "v") skipVariant(reader, depth + 1)
  else if (code === "a") {
    const end = endOfType(signature, at + 1, depth + 1)
    if (end === 0) reader.fail()
    reader.take(reader.array(ALIGNMENTS[signature[at + 1] ?? ""] ?? 1) - reader.at)
    return end
  } else if (code === "(") {
    reader.align(8)
    let next = at + 1
    while (!reader.isBad && signature[next] !== ")") next = skipValue(reader, signature, next, depth + 1)
    return next + 1
  } else reader.fail()
  return at + 1
}

const skipVariant = (reader: Reader, depth: number): void => {
  const signature = reader.signature()
  if (skipValue(reader, signature, 0, depth) !== signature.length) reader.fail()
}

/** A message whose header has been checked, of any type. */
export interface BusMessage {
  readonly type: number
  readonly path: string | undefined
  readonly interface: string | undefined
  readonly member: string | undefined
  readonly errorName: string | undefined
  readonly replySerial: number | undefined
  /** A signal has one if it was sent to us alone, past every match rule. */
  readonly destination: string | undefined
  /** The unique name that the bus gave to who sent it. */
  readonly sender: string | undefined
  /** Of the body. */
  readonly signature: string
  readonly bytes: Uint8Array
  readonly bodyAt: number
}

/** Of the message that begins with `header`, which has `FIXED_HEADER_LENGTH` bytes; `undefined` if none does. */
export const messageLength = (header: Uint8Array): number | undefined => {
  if (isLittleEndian(header) === undefined || header[3] !== VERSION) return undefined
  const reader = new Reader(header, 4)
  const bodyLength = reader.u32()
  reader.u32()
  const fieldsLength = reader.u32()
  if (reader.isBad || fieldsLength > LONGEST_ARRAY) return undefined
  const length = FIXED_HEADER_LENGTH + Math.ceil(fieldsLength / 8) * 8 + bodyLength
  return length > LONGEST_MESSAGE ? undefined : length
}

/** `bytes` is the whole message and nothing else. */
export const parseMessage = (bytes: Uint8Array): BusMessage | undefined => {
  if (messageLength(bytes.subarray(0, FIXED_HEADER_LENGTH)) !== bytes.length) return undefined
  const reader = new Reader(bytes, 4)
  const bodyLength = reader.u32()
  reader.u32()
  const fieldsEnd = reader.array(8)
  const texts = new Map<number, string>()
  let replySerial: number | undefined
  while (!reader.isBad && reader.at < fieldsEnd) {
    reader.align(8)
    const code = reader.byte()
    const type = reader.signature()
    const expected = Object.values(FIELDS).find((field) => field[0] === code)?.[1]
    if (expected !== undefined && expected !== type) reader.fail()
    else if (expected === "u") replySerial = reader.u32()
    else if (expected === "g") texts.set(code, reader.signature())
    else if (expected !== undefined) texts.set(code, reader.string())
    else if (skipValue(reader, type, 0, 0) !== type.length) reader.fail()
  }
  if (reader.isBad || reader.at !== fieldsEnd) return undefined
  return {
    type: bytes[1] as number,
    path: texts.get(FIELDS.path[0]),
    interface: texts.get(FIELDS.interface[0]),
    member: texts.get(FIELDS.member[0]),
    errorName: texts.get(FIELDS.errorName[0]),
    replySerial,
    destination: texts.get(FIELDS.destination[0]),
    sender: texts.get(FIELDS.sender[0]),
    signature: texts.get(FIELDS.signature[0]) ?? "",
    bytes,
    bodyAt: bytes.length - bodyLength
  }
}

export interface PropertiesChanged {
  /** Names of the properties that have new values. */
  readonly changed: ReadonlyArray<string>
  /** Names of those whose new values were not told. */
  readonly invalidated: ReadonlyArray<string>
}

/** What `org.freedesktop.DBus.Properties.PropertiesChanged` says; `undefined` if the message is another one. */
export const parsePropertiesChanged = (message: BusMessage): PropertiesChanged | undefined => {
  if (
    message.type !== MessageType.Signal || message.interface !== "org.freedesktop.DBus.Properties"
    || message.member !== "PropertiesChanged" || message.signature !== "sa{sv}as"
  ) return undefined
  const reader = new Reader(message.bytes, message.bodyAt)
  reader.string()
  const changed: Array<string> = []
  const changedEnd = reader.array(8)
  while (!reader.isBad && reader.at < changedEnd) {
    reader.align(8)
    changed.push(reader.string())
    skipVariant(reader, 1)
  }
  if (reader.at !== changedEnd) return undefined
  const invalidated: Array<string> = []
  const invalidatedEnd = reader.array(4)
  while (!reader.isBad && reader.at < invalidatedEnd) invalidated.push(reader.string())
  return reader.isBad || reader.at !== message.bytes.length || reader.at !== invalidatedEnd
    ? undefined
    : { changed, invalidated }
}

export interface BusCall {
  /** Not 0. */
  readonly serial: number
  readonly destination: string
  readonly path: string
  readonly interface: string
  readonly member: string
  readonly strings: ReadonlyArray<string>
}

export const encodeCall = (call: BusCall): Uint8Array => {
  const out: Array<number> = []
  const align = (to: number): void => {
    while (out.length % to !== 0) out.push(0)
  }
  const u32 = (value: number): void => {
    align(4)
    out.push(value & 0xff, value >>> 8 & 0xff, value >>> 16 & 0xff, value >>> 24)
  }
  const string = (text: string): void => {
    const utf8 = new TextEncoder().encode(text)
    u32(utf8.length)
    out.push(...utf8, 0)
  }
  const signature = (text: string): void => void out.push(text.length, ...new TextEncoder().encode(text), 0)
  const field = ([code, type]: readonly [number, string], write: () => void): void => {
    align(8)
    out.push(code)
    signature(type)
    write()
  }
  for (const text of call.strings) string(text)
  const body = out.splice(0)

  out.push(LITTLE, MessageType.Call, 0, VERSION)
  u32(body.length)
  u32(call.serial)
  u32(0)
  for (const name of ["path", "interface", "member", "destination"] as const) {
    field(FIELDS[name], () => string(call[name]))
  }
  if (call.strings.length > 0) field(FIELDS.signature, () => signature("s".repeat(call.strings.length)))
  const fieldsLength = out.length - FIXED_HEADER_LENGTH
  align(8)
  const message = Uint8Array.from([...out, ...body])
  new DataView(message.buffer).setUint32(FIXED_HEADER_LENGTH - 4, fieldsLength, true)
  return message
}
