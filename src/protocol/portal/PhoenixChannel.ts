/** Phoenix channel over one WebSocket, serializer 1.0.0, without I/O (portal spec section 3). */

const HEARTBEAT_INTERVAL = 10_000
const MAX_OUTSTANDING_HEARTBEATS = 3
const JOIN_TIMEOUT = 5000
/** Requests waiting for the join or for the socket; ours are small and few, so more means that something is wrong. */
const MAX_QUEUED = 1024
const MAX_EVENTS = 4096

export type ChannelEvent =
  /** Also after a join that repeats one. */
  | { readonly _tag: "Joined" }
  /** A push on any topic that is none of the control events. */
  | { readonly _tag: "Push"; readonly event: string; readonly payload: unknown }
  /** The portal refused a request, or does not know it; for the log. */
  | { readonly _tag: "RequestRefused"; readonly reason: string }
  /** A frame that could not be read and was skipped; for the log. */
  | { readonly _tag: "Skipped"; readonly why: string }
  /** The portal says why it is about to close; not fatal. */
  | { readonly _tag: "Disconnecting"; readonly reason: string }
  /** The connection is of no use any more: close it and try again. Ends the channel. */
  | { readonly _tag: "Failed"; readonly reason: string }
  /** The join was refused; trying again cannot help. Ends the channel. */
  | { readonly _tag: "JoinRefused"; readonly reason: string }
  /** The token or the device is gone; a new sign-in is needed. Ends the channel. */
  | { readonly _tag: "TokenExpired" }

interface Frame {
  readonly event: string
  readonly payload: unknown
  readonly ref: unknown
  readonly topic: unknown
}

type Queued = {
  readonly event: string
  /** JSON text, for comparing. */
  readonly payload: string
  readonly ref: number
}

/** Whether a JSON error, in V8's words, is that the text stops too early. */
const isTruncated = (message: string, text: string): boolean =>
  /^(?:Unexpected end|Unterminated)/.test(message) ||
  Number(/at position (\d+)/.exec(message)?.[1] ?? Number.NaN) === text.trimEnd().length

/**
 * Begins when the socket is open. `now` is monotonic milliseconds. After every `handle*` and `send` drain `pollTransmit`
 * as far as the socket takes it, and `pollEvent`; then wait until `pollTimeout()`.
 */
export class PhoenixChannel {
  readonly #topic: string
  readonly #joinPayload: unknown
  #nextRef = 0
  #joined = false
  #ended = false
  /** The join that is to be sent or answered. */
  #join: { readonly ref: number; readonly deadline: number; sent: boolean } | undefined
  #heartbeatAt: number
  #heartbeatDue: number | undefined
  readonly #outstanding = new Set<number>()
  readonly #queue: Array<Queued> = []
  readonly #events: Array<ChannelEvent> = []

  constructor(topic: string, joinPayload: unknown, now: number) {
    this.#topic = topic
    this.#joinPayload = joinPayload
    this.#heartbeatAt = now + HEARTBEAT_INTERVAL
    this.#startJoin(now)
  }

  get isJoined(): boolean {
    return this.#joined
  }

  /**
   * Queues a message; it leaves after the join. One equal to a message still waiting is not queued again but counts as
   * accepted. Returns whether it was accepted.
   */
  send(event: string, payload: unknown): boolean {
    if (this.#ended) return false
    const text = JSON.stringify(payload)
    if (this.#queue.some((waiting) => waiting.event === event && waiting.payload === text)) return true
    if (this.#queue.length >= MAX_QUEUED) return false
    this.#queue.push({ event, payload: text, ref: this.#nextRef++ })
    return true
  }

  /** One text frame. */
  handleText(text: string, now: number): void {
    if (this.#ended) return
    let frame: Frame
    try {
      const parsed: unknown = JSON.parse(text)
      if (typeof parsed !== "object" || parsed === null) return this.#skip("a frame that is no object")
      frame = parsed as Frame
    } catch (error) {
      // Half a frame means that the connection lost its place; anything else is one odd message.
      if (error instanceof Error && isTruncated(error.message, text)) {
        return this.#fail("the portal sent half a message")
      }
      return this.#skip("a frame that is no JSON")
    }
    if (typeof frame.event !== "string") return this.#skip("a frame without an event")
    switch (frame.event) {
      case "phx_reply":
        return this.#handleReply(frame, now)
      case "phx_close":
        return this.#fail("the portal closed the channel")
      case "phx_error":
        return // the socket's close follows
      case "disconnect":
        return this.#handleDisconnect(frame.payload)
      default:
        if (frame.payload === undefined) return this.#skip(`${printable(frame.event)} without a payload`)
        return this.#emit({ _tag: "Push", event: frame.event, payload: frame.payload })
    }
  }

  /** Does nothing before the deadline. */
  handleTimeout(now: number): void {
    if (this.#ended) return
    if (this.#join !== undefined && now >= this.#join.deadline) {
      return this.#fail(`the portal did not answer the join within ${JOIN_TIMEOUT / 1000} s`)
    }
    if (now < this.#heartbeatAt) return
    // Ticks that were slept through are one: the portal cannot have missed what was never sent.
    const next = this.#heartbeatAt + HEARTBEAT_INTERVAL
    this.#heartbeatAt = next > now ? next : now + HEARTBEAT_INTERVAL
    const ref = this.#nextRef++
    this.#outstanding.add(ref)
    if (this.#outstanding.size > MAX_OUTSTANDING_HEARTBEATS) return this.#fail("the portal does not answer heartbeats")
    this.#heartbeatDue = ref
  }

  /** The next frame: heartbeat, join, then messages, those only while joined. */
  pollTransmit(): string | undefined {
    if (this.#ended) return undefined
    if (this.#heartbeatDue !== undefined) {
      const ref = this.#heartbeatDue
      this.#heartbeatDue = undefined
      return frameText("phoenix", "heartbeat", "{}", ref)
    }
    if (this.#join !== undefined && !this.#join.sent) {
      this.#join.sent = true
      return frameText(this.#topic, "phx_join", JSON.stringify(this.#joinPayload ?? null), this.#join.ref)
    }
    const message = this.#joined ? this.#queue.shift() : undefined
    return message && frameText(this.#topic, message.event, message.payload, message.ref)
  }

  pollEvent(): ChannelEvent | undefined {
    return this.#events.shift()
  }

  pollTimeout(): number | undefined {
    if (this.#ended) return undefined
    return Math.min(this.#heartbeatAt, this.#join?.deadline ?? Number.POSITIVE_INFINITY)
  }

  #startJoin(now: number): void {
    this.#joined = false
    this.#join = { ref: this.#nextRef++, deadline: now + JOIN_TIMEOUT, sent: false }
  }

  #handleReply(frame: Frame, now: number): void {
    const { ref } = frame
    if (typeof ref !== "number") return this.#skip("a reply without a number for a ref")
    if (this.#outstanding.delete(ref)) return
    const { status, response } = (typeof frame.payload === "object" && frame.payload !== null ? frame.payload : {}) as {
      readonly [member: string]: unknown
    }
    const reason = reasonOf(response)
    if (this.#join?.sent === true && this.#join.ref === ref && frame.topic === this.#topic) {
      if (status === "ok") {
        this.#join = undefined
        this.#joined = true
        return this.#emit({ _tag: "Joined" })
      }
      return status === "error" ? this.#end({ _tag: "JoinRefused", reason }) : this.#skip("a reply without a status")
    }
    if (status !== "error") return
    this.#emit({ _tag: "RequestRefused", reason })
    // We are not joined any more; one new join answers however many messages were refused.
    if (reason === "unmatched topic" && frame.topic === this.#topic && this.#join === undefined) this.#startJoin(now)
  }

  #handleDisconnect(payload: unknown): void {
    const reason = reasonOf(payload)
    if (reason === "token_expired") return this.#end({ _tag: "TokenExpired" })
    this.#emit({ _tag: "Disconnecting", reason })
  }

  #skip(why: string): void {
    this.#emit({ _tag: "Skipped", why })
  }

  #fail(reason: string): void {
    this.#end({ _tag: "Failed", reason })
  }

  #end(event: ChannelEvent): void {
    this.#ended = true
    this.#joined = false
    this.#queue.length = 0
    this.#events.push(event)
  }

  #emit(event: ChannelEvent): void {
    // A driver that drains after every frame never gets here.
    if (this.#events.length >= MAX_EVENTS) return this.#fail("too many messages at once")
    this.#events.push(event)
  }
}

const frameText = (topic: string, event: string, payload: string, ref: number): string =>
  `{"topic":${JSON.stringify(topic)},"event":${JSON.stringify(event)},"payload":${payload},"ref":${ref}}`

/** The server's word, made safe for a log. */
const printable = (word: string): string => word.slice(0, 100).replaceAll(/[\x00-\x1f\x7f-\x9f]/g, " ")

const reasonOf = (container: unknown): string => {
  const reason = typeof container === "object" && container !== null
    ? (container as { readonly reason?: unknown }).reason
    : undefined
  return typeof reason === "string" && reason !== ""
    ? printable(reason)
    : "no reason given"
}
