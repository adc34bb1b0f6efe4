import {
  type BusMessage,
  encodeCall,
  FIXED_HEADER_LENGTH,
  messageLength,
  MessageType,
  parseMessage
} from "../wire/dbus.ts"

/** Longer messages are passed over: a signal that tells of hundreds of network interfaces is far shorter. */
export const LONGEST_READ = 1 << 18
/** The bus only says `OK` and its 32 digits, or which mechanisms it has. */
const LONGEST_LINE = 1024

const BUS = "org.freedesktop.DBus"
const HELLO = 1
const ADD_MATCH = 2
const LF = 0x0a

export type BusEvent =
  /** From here on no signal is missed. */
  | { readonly _tag: "Subscribed" }
  | { readonly _tag: "Signal"; readonly message: BusMessage }
  /** The connection is of no more use; nothing follows. */
  | { readonly _tag: "Failed"; readonly reason: string }

const call = (serial: number, member: string, ...strings: ReadonlyArray<string>): Uint8Array =>
  encodeCall({ serial, destination: BUS, path: "/org/freedesktop/DBus", interface: BUS, member, strings })

const concat = (...parts: ReadonlyArray<Uint8Array>): Uint8Array => Uint8Array.from(parts.flatMap((part) => [...part]))

/**
 * The client's side of one connection to a D-Bus message bus (D-Bus specification, "Authentication Protocol" and "Message
 * Bus"), which only listens to the signals of one match rule. Drain events and transmits after each `handleBytes`.
 */
export class BusListener {
  readonly #rule: string
  readonly #transmits: Array<Uint8Array>
  readonly #events: Array<BusEvent> = []
  #state: "authenticating" | "authenticated" | "failed" = "authenticating"
  #line = ""
  /** The message being read, as far as its length is known. */
  #message = new Uint8Array(FIXED_HEADER_LENGTH)
  #filled = 0
  /** Bytes to pass over. */
  #skip = 0

  /** `uid` is the effective one of this process: the bus asks the kernel whether that is true. */
  constructor(uid: number, rule: string) {
    this.#rule = rule
    const digits = [...String(uid)].map((digit) => digit.charCodeAt(0).toString(16)).join("")
    this.#transmits = [new TextEncoder().encode(`\0AUTH EXTERNAL ${digits}\r\n`)]
  }

  handleBytes(bytes: Uint8Array): void {
    let at = 0
    while (at < bytes.length && this.#state === "authenticating") this.#handleLineByte(bytes[at++] as number)
    while (at < bytes.length && this.#state === "authenticated") at += this.#handleMessageBytes(bytes.subarray(at))
  }

  pollTransmit(): Uint8Array | undefined {
    return this.#transmits.shift()
  }

  pollEvent(): BusEvent | undefined {
    return this.#events.shift()
  }

  #fail(reason: string): void {
    this.#state = "failed"
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
    this.#state = "authenticated"
    const begin = new TextEncoder().encode("BEGIN\r\n")
    this.#transmits.push(concat(begin, call(HELLO, "Hello"), call(ADD_MATCH, "AddMatch", this.#rule)))
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
    const { destination, errorName, replySerial, sender, type } = message
    // A signal with a destination came past our match rule, from anyone on the bus.
    if (type === MessageType.Signal && destination === undefined) this.#events.push({ _tag: "Signal", message })
    if (sender !== BUS) return
    if (type === MessageType.Return && replySerial === ADD_MATCH) this.#events.push({ _tag: "Subscribed" })
    if (type === MessageType.Error && (replySerial === HELLO || replySerial === ADD_MATCH)) {
      this.#fail(`the bus refused to let us listen: ${errorName ?? "no reason given"}`)
    }
  }
}
