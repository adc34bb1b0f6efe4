/** D-Bus messages of any content and byte order, written apart from the code under test. */

/** `b y n q i u h`: a number; `x t d`: a bigint's bits; `s o g`: text; `v`: `[signature, value]`; `a` and `(`: a list. */
export type Value = number | bigint | string | ReadonlyArray<Value>

export interface Message {
  readonly type?: number
  readonly serial?: number
  readonly isBigEndian?: boolean
  /** Code, type and value. */
  readonly fields: ReadonlyArray<readonly [number, string, Value]>
  readonly signature?: string
  readonly body?: ReadonlyArray<Value>
}

/** Splits a signature into complete types. */
export const types = (signature: string): ReadonlyArray<string> => {
  const found: Array<string> = []
  let rest = signature
  while (rest !== "") {
    let end = 0
    while (rest[end] === "a") end++
    let depth = 0
    do {
      if ("({".includes(rest[end] as string)) depth++
      if (")}".includes(rest[end] as string)) depth--
      end++
    } while (depth > 0)
    found.push(rest.slice(0, end))
    rest = rest.slice(end)
  }
  return found
}

const alignments = {
  y: 1,
  g: 1,
  v: 1,
  n: 2,
  q: 2,
  b: 4,
  i: 4,
  u: 4,
  h: 4,
  s: 4,
  o: 4,
  a: 4,
  x: 8,
  t: 8,
  d: 8,
  "(": 8,
  "{": 8
}
const alignmentOf = (type: string): number => alignments[type[0] as keyof typeof alignments]

class Writer {
  readonly out: Array<number> = []
  readonly #isBigEndian: boolean

  constructor(isBigEndian: boolean) {
    this.#isBigEndian = isBigEndian
  }

  align(to: number): void {
    while (this.out.length % to !== 0) this.out.push(0)
  }

  number(value: bigint, length: number, at?: number): void {
    const bytes = Array.from({ length }, (_, i) => Number(value >> BigInt(8 * i) & 0xffn))
    if (this.#isBigEndian) bytes.reverse()
    if (at === undefined) this.out.push(...bytes)
    else this.out.splice(at, length, ...bytes)
  }

  value(type: string, value: Value): void {
    const code = type[0] as string
    this.align(alignmentOf(type))
    if (code === "s" || code === "o" || code === "g") {
      const text = Buffer.from(value as string)
      this.number(BigInt(text.length), code === "g" ? 1 : 4)
      for (const byte of text) this.out.push(byte)
      this.out.push(0)
    } else if (code === "v") {
      const [inner, content] = value as [string, Value]
      this.value("g", inner)
      this.value(inner, content)
    } else if (code === "(" || code === "{") {
      this.values(type.slice(1, -1), value as ReadonlyArray<Value>)
    } else if (code === "a") {
      const at = this.out.length
      this.number(0n, 4)
      this.align(alignmentOf(type.slice(1)))
      const start = this.out.length
      for (const element of value as ReadonlyArray<Value>) this.value(type.slice(1), element)
      this.number(BigInt(this.out.length - start), 4, at)
    } else {
      this.number(BigInt(value as number | bigint), alignmentOf(type))
    }
  }

  values(signature: string, values: ReadonlyArray<Value>): void {
    for (const [i, type] of types(signature).entries()) this.value(type, values[i] as Value)
  }
}

export const encodeMessage = (message: Message): Uint8Array => {
  const isBigEndian = message.isBigEndian === true
  const body = new Writer(isBigEndian)
  body.values(message.signature ?? "", message.body ?? [])
  const header = new Writer(isBigEndian)
  header.out.push(isBigEndian ? 0x42 : 0x6c, message.type ?? 4, 1, 1)
  header.number(BigInt(body.out.length), 4)
  header.number(BigInt(message.serial ?? 9), 4)
  const signature = message.signature === undefined ? [] : [[8, "g", message.signature] as const]
  header.value("a(yv)", [...message.fields, ...signature].map(([code, type, value]) => [code, [type, value]]))
  header.align(8)
  return Uint8Array.from([...header.out, ...body.out])
}

const MANAGER = "org.freedesktop.NetworkManager"

/** What NetworkManager says when properties of it have new values. */
export const propertiesChanged = (
  changed: ReadonlyArray<readonly [name: string, type: string, value: Value]>,
  invalidated: ReadonlyArray<string> = [],
  options: {
    readonly isBigEndian?: boolean
    readonly sender?: string
    readonly destination?: string
    readonly serial?: number
  } = {}
): Uint8Array =>
  encodeMessage({
    ...options,
    fields: [
      [1, "o", "/org/freedesktop/NetworkManager"],
      [2, "s", "org.freedesktop.DBus.Properties"],
      [3, "s", "PropertiesChanged"],
      ...(options.sender === undefined ? [] : [[7, "s", options.sender] as const]),
      ...(options.destination === undefined ? [] : [[6, "s", options.destination] as const])
    ],
    signature: "sa{sv}as",
    body: [MANAGER, changed.map(([name, type, value]) => [name, [type, value]]), invalidated]
  })

/** The properties that change when an uplink takes over. */
export const PRIMARY = [
  ["PrimaryConnection", "o", "/org/freedesktop/NetworkManager/ActiveConnection/2"],
  ["ActiveConnections", "ao", ["/org/freedesktop/NetworkManager/ActiveConnection/2"]]
] as const
