/** One WebSocket to the portal, and the frames on it: the channel serializer 1.0.0 (portal spec section 3). */
import type { DeviceRecord } from "./Devices.ts"
import type { Login } from "./login.ts"

/** What the emulator wants of the sockets. */
export type PortalOutput =
  | { readonly _tag: "Send"; readonly session: number; readonly text: string }
  | { readonly _tag: "Close"; readonly session: number; readonly code: number; readonly reason: string }
  /** Without a close frame. */
  | { readonly _tag: "Terminate"; readonly session: number }

export interface Frame {
  readonly topic: string
  readonly event: string
  readonly payload: unknown
  readonly ref: unknown
}

/** All four members have to be there; the portal trips over anything else. Returns what is wrong as text. */
export const readFrame = (text: string): Frame | string => {
  let frame: unknown
  try {
    frame = JSON.parse(text)
  } catch {
    return "a frame that is no JSON"
  }
  if (typeof frame !== "object" || frame === null || Array.isArray(frame)) return "a frame that is no object"
  const { event, payload, ref, topic } = frame as { readonly [member: string]: unknown }
  if (typeof topic !== "string" || typeof event !== "string") return "a frame without a topic or an event"
  if (payload === undefined || ref === undefined) return `${printable(event)} without a payload or a ref`
  return { topic, event, payload, ref }
}

/** A name off the wire, for the list of violations. */
export const printable = (text: string): string => text.replaceAll(/[^\x20-\x7e]/g, "?").slice(0, 64)

const IDLE_MILLIS = { client: 37_000, gateway: 37_000, relay: 41_000 } as const

export class Session {
  readonly id: number
  readonly login: Login
  /** None for a relay. */
  readonly device: DeviceRecord | undefined
  /** Unix seconds, when its token does. */
  readonly expiresAt: number
  joined = false
  ended = false
  sawFrame = false
  /** What the device said on this channel; nothing means no. */
  iceless = false
  /** Ids of the relays that were handed out on this channel. */
  relays: ReadonlyArray<string> = []
  /** When a request for a resource was last made that is not settled. */
  readonly askedAt = new Map<string, number>()
  lastSeen: number
  readonly #emit: (output: PortalOutput) => void
  readonly #complain: (who: string, what: string) => void

  constructor(fields: {
    readonly id: number
    readonly login: Login
    readonly device: DeviceRecord | undefined
    readonly expiresAt: number
    readonly now: number
    readonly emit: (output: PortalOutput) => void
    readonly complain: (who: string, what: string) => void
  }) {
    this.id = fields.id
    this.login = fields.login
    this.device = fields.device
    this.expiresAt = fields.expiresAt
    this.lastSeen = fields.now
    this.#emit = fields.emit
    this.#complain = fields.complain
  }

  get idleAt(): number {
    return this.lastSeen + IDLE_MILLIS[this.login.role]
  }

  /** Notes what a device that keeps to the protocol would not have done. */
  violation(what: string): void {
    this.#complain(`${this.login.role} ${this.login.name}`, what)
  }

  push(event: string, payload: unknown): void {
    this.#send({ topic: this.login.role, event, payload, ref: null })
  }

  /** `response` is empty if all is well: the reference decoder takes no other. */
  reply(frame: Frame, refusal?: string): void {
    this.#send({
      topic: frame.topic,
      event: "phx_reply",
      payload: refusal === undefined
        ? { status: "ok", response: {} }
        : { status: "error", response: { reason: refusal } },
      ref: frame.ref
    })
  }

  /** As is; for what no portal would send. */
  sendText(text: string): void {
    if (!this.ended) this.#emit({ _tag: "Send", session: this.id, text })
  }

  /** Ends the session: the token, the device or this connection of it is no good any more. */
  disconnect(reason: string): void {
    this.push("disconnect", { reason })
    this.stop()
  }

  /** Ends the session in good order. */
  stop(): void {
    this.push("phx_close", {})
    this.close(1001)
  }

  /** Ends the session as a failure in the portal would, which is what a payload that it cannot read leads to. */
  crash(): void {
    this.push("phx_error", { reason: "channel_crash" })
    this.close(1012)
  }

  close(code: number, reason = ""): void {
    if (this.ended) return
    this.ended = true
    this.#emit({ _tag: "Close", session: this.id, code, reason })
  }

  terminate(): void {
    if (this.ended) return
    this.ended = true
    this.#emit({ _tag: "Terminate", session: this.id })
  }

  #send(frame: Frame): void {
    this.sendText(JSON.stringify(frame))
  }
}
