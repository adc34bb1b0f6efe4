/** Values of D-Bus (D-Bus specification, "Type System" and "Marshalling"), read and written by signature. */

/**
 * By type: `y n q i u h d` a number, `x t` a bigint, `b` a boolean, `s o g` a string, `v` a `BusVariant`, `ay` bytes, and
 * arrays, structs and dictionary entries a list.
 */
export type BusValue = number | bigint | boolean | string | Uint8Array | BusVariant | ReadonlyArray<BusValue>

export interface BusVariant {
  /** One complete type. */
  readonly signature: string
  readonly value: BusValue
}

/** Of a message, and of an array in it. */
export const LONGEST_MESSAGE = 1 << 27
export const LONGEST_ARRAY = 1 << 26
/** Arrays, structs and variants within each other. */
const DEEPEST = 64

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

/** Behind the complete type that begins at `at`; 0 if there is none. A struct has members, or arrays of it had no end. */
const endOfType = (signature: string, at: number, depth: number): number => {
  const code = signature[at] ?? ""
  if (depth > DEEPEST || ALIGNMENTS[code] === undefined) return 0
  if (code === "a") return endOfType(signature, at + 1, depth + 1)
  const closing = CLOSING[code]
  if (closing === undefined) return at + 1
  let end = at + 1
  do {
    end = endOfType(signature, end, depth + 1)
    if (end === 0) return 0
  } while (signature[end] !== closing)
  return end + 1
}

export const isLittleEndian = (bytes: Uint8Array): boolean | undefined =>
  bytes[0] === LITTLE ? true : bytes[0] === BIG ? false : undefined
export const LITTLE = 0x6c
const BIG = 0x42

/** Reads in the order of a message; what does not fit makes it bad for good, and reads as nothing. */
export class BusReader {
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

  byte(): number {
    const at = this.#take(1)
    return this.isBad ? 0 : this.#view.getUint8(at)
  }

  u32(): number {
    return Number(this.#fixed("u"))
  }

  string(): string {
    return this.#text(this.u32())
  }

  signature(): string {
    return this.#text(this.byte())
  }

  align(to: number): void {
    this.#take(-this.at & (to - 1))
  }

  /** Where the array ends whose elements come next. */
  array(alignment: number): number {
    const length = this.u32()
    this.align(alignment)
    if (length > LONGEST_ARRAY) this.fail()
    return this.at + length
  }

  /** One value for each complete type of `signature`. */
  values(signature: string): ReadonlyArray<BusValue> {
    const values: Array<BusValue> = []
    for (let at = 0; at < signature.length && !this.isBad;) {
      const end = endOfType(signature, at, 0)
      if (end === 0) this.fail()
      else values.push(this.#value(signature, at, 0))
      at = end
    }
    return values
  }

  variant(depth = 0): BusVariant {
    const signature = this.signature()
    if (endOfType(signature, 0, depth + 1) !== signature.length) this.fail()
    return { signature, value: this.#value(signature, 0, depth + 1) }
  }

  fail(): void {
    this.isBad = true
  }

  /** The signature is known to be right from `at` on; `depth` is how deep variants are in each other. */
  #value(signature: string, at: number, depth: number): BusValue {
    const code = signature[at] ?? ""
    if (this.isBad || depth > DEEPEST) this.fail()
    else if (code === "s" || code === "o") return this.string()
    else if (code === "g") return this.signature()
    else if (code === "v") return this.variant(depth)
    else if (code === "a") return this.#array(signature, at + 1, depth + 1)
    else if (code === "(") return this.#members(signature, at, depth + 1)
    else return this.#fixed(code)
    return 0
  }

  #array(signature: string, at: number, depth: number): BusValue {
    const code = signature[at] ?? ""
    const end = this.array(ALIGNMENTS[code] ?? 1)
    if (code === "y") {
      const start = this.#take(end - this.at)
      return this.isBad ? new Uint8Array() : this.#bytes.slice(start, end)
    }
    const elements: Array<BusValue> = []
    while (!this.isBad && this.at < end) {
      elements.push(code === "{" ? this.#members(signature, at, depth) : this.#value(signature, at, depth))
    }
    if (this.at !== end) this.fail()
    return elements
  }

  #members(signature: string, at: number, depth: number): ReadonlyArray<BusValue> {
    const closing = CLOSING[signature[at] ?? ""]
    this.align(8)
    const members: Array<BusValue> = []
    for (let next = at + 1; !this.isBad && signature[next] !== closing; next = endOfType(signature, next, 0)) {
      members.push(this.#value(signature, next, depth))
    }
    return members
  }

  #fixed(code: string): BusValue {
    const size = FIXED_SIZES[code] ?? 0
    if (size === 0) this.fail()
    else this.align(size)
    const at = this.#take(size)
    if (this.isBad) return 0
    switch (code) {
      case "y":
        return this.#view.getUint8(at)
      case "n":
        return this.#view.getInt16(at, this.#isLittle)
      case "q":
        return this.#view.getUint16(at, this.#isLittle)
      case "i":
        return this.#view.getInt32(at, this.#isLittle)
      case "x":
        return this.#view.getBigInt64(at, this.#isLittle)
      case "t":
        return this.#view.getBigUint64(at, this.#isLittle)
      case "d":
        return this.#view.getFloat64(at, this.#isLittle)
    }
    const value = this.#view.getUint32(at, this.#isLittle)
    if (code === "b" && value > 1) this.fail()
    return code === "b" ? value === 1 : value
  }

  /** Where the next `length` bytes begin, which are then behind. */
  #take(length: number): number {
    const start = this.at
    if (this.isBad || length < 0 || length > this.#bytes.length - start) this.fail()
    else this.at += length
    return start
  }

  #text(length: number): string {
    const start = this.#take(length + 1)
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

/** Writes little-endian; throws a `TypeError` at a value that is not of its type, which is a mistake of ours. */
export class BusWriter {
  readonly out: Array<number> = []

  byte(value: number): void {
    this.out.push(value & 0xff)
  }

  u32(value: number, at?: number): void {
    if (at === undefined) this.align(4)
    const bytes = [value & 0xff, value >>> 8 & 0xff, value >>> 16 & 0xff, value >>> 24]
    if (at === undefined) this.out.push(...bytes)
    else this.out.splice(at, 4, ...bytes)
  }

  string(text: string): void {
    const utf8 = new TextEncoder().encode(text)
    this.u32(utf8.length)
    for (const byte of utf8) this.out.push(byte)
    this.out.push(0)
  }

  signature(text: string): void {
    this.out.push(text.length, ...new TextEncoder().encode(text), 0)
  }

  align(to: number): void {
    while (this.out.length % to !== 0) this.out.push(0)
  }

  /** One value for each complete type of `signature`. */
  values(signature: string, values: ReadonlyArray<BusValue>): void {
    let written = 0
    for (let at = 0; at < signature.length; written++) {
      const end = endOfType(signature, at, 0)
      const value = values[written]
      if (end === 0 || value === undefined) throw new TypeError(`no values of ${signature}`)
      this.#value(signature.slice(at, end), value)
      at = end
    }
    if (written !== values.length) throw new TypeError(`more values than ${signature} has`)
  }

  #value(type: string, value: BusValue): void {
    const [code = ""] = type
    this.align(ALIGNMENTS[code] ?? 1)
    if (typeof value === "string" && (code === "s" || code === "o")) this.string(value)
    else if (typeof value === "string" && code === "g") this.signature(value)
    else if (typeof value === "boolean" && code === "b") this.u32(value ? 1 : 0)
    else if (typeof value === "number" && code === "y") this.byte(value)
    else if (typeof value === "number" && (code === "i" || code === "u")) this.u32(value)
    else if (Array.isArray(value) && code === "(") this.values(type.slice(1, -1), value)
    else if (value instanceof Uint8Array && type === "ay") {
      this.u32(value.length)
      for (const byte of value) this.out.push(byte)
    } else if (Array.isArray(value) && code === "a" && type[1] !== "{") {
      const at = this.out.length
      this.u32(0)
      this.align(ALIGNMENTS[type[1] ?? ""] ?? 1)
      const start = this.out.length
      for (const element of value) this.#value(type.slice(1), element as BusValue)
      this.u32(this.out.length - start, at)
    } else throw new TypeError(`${typeof value} is no value of ${type} that we write`)
  }
}
