/** D-Bus messages (D-Bus specification, "Message Protocol"): method calls out, signals and replies in. */
import {
  BusReader,
  type BusValue,
  BusWriter,
  isLittleEndian,
  LITTLE,
  LONGEST_ARRAY,
  LONGEST_MESSAGE
} from "./dbusValue.ts"

export type { BusValue, BusVariant } from "./dbusValue.ts"

/** With these bytes of a message its length is known. */
export const FIXED_HEADER_LENGTH = 16

export const MessageType = { Call: 1, Return: 2, Error: 3, Signal: 4 } as const

const VERSION = 1
const NO_AUTO_START = 2

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
  const reader = new BusReader(header, 4)
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
  const reader = new BusReader(bytes, 4)
  const bodyLength = reader.u32()
  reader.u32()
  const fieldsEnd = reader.array(8)
  const texts = new Map<number, string>()
  let replySerial: number | undefined
  while (!reader.isBad && reader.at < fieldsEnd) {
    reader.align(8)
    const code = reader.byte()
    const { signature, value } = reader.variant()
    const expected = Object.values(FIELDS).find((field) => field[0] === code)?.[1]
    if (expected !== undefined && expected !== signature) reader.fail()
    else if (typeof value === "number" && expected === "u") replySerial = value
    else if (typeof value === "string" && expected !== undefined) texts.set(code, value)
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

/** A value for each complete type of the message's signature; `undefined` if the body is no such values. */
export const readBody = (message: BusMessage): ReadonlyArray<BusValue> | undefined => {
  const reader = new BusReader(message.bytes, message.bodyAt)
  const values = reader.values(message.signature)
  return reader.isBad || reader.at !== message.bytes.length ? undefined : values
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
  const [, changed, invalidated] = readBody(message) ?? []
  if (changed === undefined || invalidated === undefined) return undefined
  return {
    changed: (changed as ReadonlyArray<readonly [string, BusValue]>).map(([name]) => name),
    invalidated: invalidated as ReadonlyArray<string>
  }
}

export interface BusRequest {
  readonly destination: string
  readonly path: string
  readonly interface: string
  readonly member: string
  /** Of `body`; none if not given. */
  readonly signature?: string
  readonly body?: ReadonlyArray<BusValue>
  /** Whether the bus may start the program that it is for; not unless given. */
  readonly mayStart?: boolean
}

/** `serial` is not 0. */
export const encodeCall = (serial: number, call: BusRequest): Uint8Array => {
  const { signature = "" } = call
  const body = new BusWriter()
  body.values(signature, call.body ?? [])

  const header = new BusWriter()
  header.out.push(LITTLE, MessageType.Call, call.mayStart === true ? 0 : NO_AUTO_START, VERSION)
  header.u32(body.out.length)
  header.u32(serial)
  header.u32(0)
  const field = ([code, type]: readonly [number, string], write: () => void): void => {
    header.align(8)
    header.byte(code)
    header.signature(type)
    write()
  }
  for (const name of ["path", "interface", "member", "destination"] as const) {
    field(FIELDS[name], () => header.string(call[name]))
  }
  if (signature !== "") field(FIELDS.signature, () => header.signature(signature))
  header.u32(header.out.length - FIXED_HEADER_LENGTH, FIXED_HEADER_LENGTH - 4)
  header.align(8)
  return Uint8Array.from([...header.out, ...body.out])
}
