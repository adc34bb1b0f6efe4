import {
  type BusMessage,
  type BusRequest,
  type BusValue,
  encodeCall,
  FIXED_HEADER_LENGTH,
  messageLength,
  MessageType,
  parseMessage,
  readBody
} from "../wire/dbus.ts"

/** Longer messages are passed over: a signal that tells of hundreds of network interfaces is far shorter. */
export const LONGEST_READ = 1 << 18
/** Calls that wait for their replies; a program that answers none must not make us keep more. */
export const MOST_CALLS = 64
/** The bus only says `OK` and its 32 digits, or which mechanisms it has. */
const LONGEST_LINE = 1024
/** Of what a program gives as the reason of a refusal, for a log. */
const LONGEST_REASON = 200

export const BUS = "org.freedesktop.DBus"
const HELLO = 1
const LF = 0x0a

export type BusReply =
  | { readonly _tag: "Returned"; readonly values: ReadonlyArray<BusValue> }
  /** `name` is the error's, such as `org.freedesktop.DBus.Error.AccessDenied`. */
  | { readonly _tag: "Refused"; readonly name: string; readonly reason: string }

export type BusEvent =
  /** Calls can be made. */
  | { readonly _tag: "Ready" }
  /** To the call with this serial. */
  | { readonly _tag: "Reply"; readonly serial: number; readonly reply: BusReply }
  | { readonly _tag: "Signal"; readonly message: BusMessage }
  /** The connection is of no more use; nothing follows, not even replies. */
  | { readonly _tag: "Failed"; readonly reason: string }

/** A call of the bus itself. */
export const busRequest = (member: string, ...strings: ReadonlyArray<string>): BusRequest => ({
  destination: BUS,
  path: "/org/freedesktop/DBus",
  interface: BUS,
  member,
  ...(strings.length === 0 ? {} : { signature: "s".repeat(strings.length), body: strings })
})

const concat = (...parts: ReadonlyArray<Uint8Array>): Uint8Array => Uint8Array.from(parts.flatMap((part) => [...part]))

/**
 * The client's side of one connection to a D-Bus message bus (D-Bus specification, "Authentication Protocol" and "Message
 * Bus"). Drain events and transmits after each `handleBytes` and `call`. Time limits are the caller's, who then cancels.
 */
export class BusConnection {
  readonly #transmits: Array<Uint8Array>
  readonly #events: Array<BusEvent> = []
  /** Those that wait, with whom they were made to. */
  readonly #calls = new Map<number, string>()
  #lastSerial = HELLO
  #state: "authenticating" | "naming" | "ready" | "failed" = "authenticating"
  #line = ""
  /** The message being read, as far as its length is known. */
  #message = new Uint8Array(FIXED_HEADER_LENGTH)
  #filled = 0
  /** Bytes to pass over. */
  #skip = 0

  /** `uid` is the effective one of this process: the bus asks the kernel whether that is true. */
  constructor(uid: number) {
    const digits = [...String(uid)].map((digit) => digit.charCodeAt(0).toString(16)).join("")
    this.#transmits = [new TextEncoder().encode(`\0AUTH EXTERNAL ${digits}\r\n`)]
  }

  handleBytes(bytes: Uint8Array): void {
    let at = 0
    while (at < bytes.length && this.#state === "authenticating") this.#handleLineByte(bytes[at++] as number)
    while (at < bytes.length && this.#state !== "failed") at += this.#handleMessageBytes(bytes.subarray(at))
  }

  /** Returns the serial that its reply will have; `undefined` before `Ready`, and while too many calls wait. */
  call(request: BusRequest): number | undefined {
    if (this.#state !== "ready" || this.#calls.size >= MOST_CALLS) return undefined
    // Never 0, and none that still waits: there are far fewer.
    do this.#lastSerial = this.#lastSerial % 0xffff_ffff + 1
    while (this.#calls.has(this.#lastSerial))
    this.#transmits.push(encodeCall(this.#lastSerial, request))
    this.#calls.set(this.#lastSerial, request.destination)
    return this.#lastSerial
  }

  /** Nobody waits for its reply any more. */
  cancel(serial: number): void {
    this.#calls.delete(serial)
  }

  pollTransmit(): Uint8Array | undefined {
    return this.#transmits.shift()
  }

  pollEvent(): BusEvent | undefined {
    return this.#events.shift()
  }

  #fail(reason: string): void {
    this.#state = "failed"
    this.#calls.clear()
    this.#events.push({ _tag: "Failed", reason })
  }

  #handleLineByte(byte: number): void {
    if (byte !== LF) {
      this.#line += String.fromCharCode(byte)
      if (this.#line.length > LONGEST_LINE) this.#fail("the bus sent an endless line")
      return
    }
    if (!/^OK [0-9a-f]+\r$/i.test(this.#line)) return this.#fail("the bus does not take us for who we are")
    this.#line = ""
    this.#state = "naming"
    this.#transmits.push(concat(new TextEncoder().encode("BEGIN\r\n"), encodeCall(HELLO, busRequest("Hello"))))
  }

  /** Returns how many of the bytes it has used. */
  #handleMessageBytes(bytes: Uint8Array): number {
    if (this.#skip > 0) {
      const skipped = Math.min(this.#skip, bytes.length)
      this.#skip -= skipped
      return skipped
    }
    const used = bytes.subarray(0, this.#message.length - this.#filled)
    this.#message.set(used, this.#filled)
    this.#filled += used.length
    if (this.#filled < this.#message.length) return used.length

    const length = messageLength(this.#message.subarray(0, FIXED_HEADER_LENGTH))
    if (length === undefined) this.#fail("the bus sent no message")
    else if (length > LONGEST_READ) {
      this.#skip = length - this.#filled
      this.#expect(new Uint8Array(FIXED_HEADER_LENGTH), 0)
    } else if (length > this.#filled) {
      const message = new Uint8Array(length)
      message.set(this.#message)
      this.#expect(message, this.#filled)
    } else {
      const message = parseMessage(this.#message)
      this.#expect(new Uint8Array(FIXED_HEADER_LENGTH), 0)
      if (message === undefined) this.#fail("the bus sent a malformed message")
      else this.#handleMessage(message)
    }
    return used.length
  }

  #expect(message: Uint8Array<ArrayBuffer>, filled: number): void {
    this.#message = message
    this.#filled = filled
  }

  #handleMessage(message: BusMessage): void {
    const { destination, replySerial, type } = message
    if (type === MessageType.Signal) {
      // One with a destination came past our match rules, from anyone on the bus.
      if (destination === undefined && this.#state === "ready") this.#events.push({ _tag: "Signal", message })
    } else if ((type === MessageType.Return || type === MessageType.Error) && replySerial !== undefined) {
      this.#handleReply(message, replySerial)
    }
  }

  #handleReply(message: BusMessage, serial: number): void {
    const reply = replyOf(message)
    if (this.#state === "naming" && serial === HELLO && message.sender === BUS) {
      if (reply._tag === "Refused") return this.#fail(`the bus refused to let us in: ${reply.name}`)
      this.#state = "ready"
      this.#events.push({ _tag: "Ready" })
    }
    const asked = this.#calls.get(serial)
    // The bus itself is never answered for by a program on it. Its own errors come in the place of a program's reply.
    if (asked === undefined || asked === BUS && message.sender !== BUS) return
    this.#calls.delete(serial)
    this.#events.push({ _tag: "Reply", serial, reply })
  }
}

const replyOf = (message: BusMessage): BusReply => {
  const values = readBody(message)
  if (message.type === MessageType.Error) {
    const [reason] = values ?? []
    return {
      _tag: "Refused",
      name: printable(message.errorName ?? "no name"),
      reason: typeof reason === "string" ? printable(reason) : "no reason given"
    }
  }
  return values === undefined
    ? { _tag: "Refused", name: "malformed reply", reason: "its body is not what its signature says" }
    : { _tag: "Returned", values }
}

/** A line of a log, whatever a program on the bus says. */
const printable = (text: string): string => text.slice(0, LONGEST_REASON).replace(/\p{C}/gu, "?")
