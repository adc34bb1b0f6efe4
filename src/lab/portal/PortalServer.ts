/**
 * The portal as clients, gateways and relays meet it (portal spec sections 2 to 10), sans-IO. It is as strict as the real
 * one and stricter, in that it notes every departure from the protocol; and it can be told to misbehave.
 *
 * `now` is monotonic milliseconds. After every `handle*` and every command drain `pollOutput`, then wait until
 * `pollTimeout()`.
 */
import { Account } from "./Account.ts"
import type { Role } from "./agent.ts"
import type { Knobs, PortalConfig, StaticRelay } from "./config.ts"
import type { DeviceRecord } from "./Devices.ts"
import {
  type Login,
  readLogin,
  type Refusal,
  refused,
  refuseHandshake,
  routeOf,
  tokenOf,
  type UpgradeRequest
} from "./login.ts"
import { RateLimit } from "./RateLimit.ts"
import { type Frame, type PortalOutput, printable, readFrame, Session } from "./Session.ts"

const MAX_SESSIONS = 1024
const MAX_VIOLATIONS = 256
const TOKEN_LIFETIME_SECONDS = 30 * 24 * 3600
const NEVER = Number.MAX_SAFE_INTEGER

export interface PortalServerOptions {
  readonly randomBytes: (length: number) => Uint8Array
  /** Unix time in milliseconds when `now` is 0. */
  readonly unixEpochMillis: number
}

export interface Violation {
  readonly who: string
  readonly what: string
}

export interface RefuseNext extends Omit<Refusal, "_tag"> {
  readonly count: number
  /** Everybody's unless given. */
  readonly role?: Role | undefined
}

/** How a connection is to end. */
export type Ending =
  /** A close frame. */
  | { readonly how: "close"; readonly code: number; readonly reason?: string | undefined }
  /** The connection just breaks. */
  | { readonly how: "abrupt" }
  /** The channel stops, then the connection. */
  | { readonly how: "phx_close" }
  /** `disconnect` with this reason, then as `phx_close`. */
  | { readonly how: "disconnect"; readonly reason: string }

export class PortalServer {
  readonly account: Account
  readonly knobs: Knobs = {
    holdJoins: false,
    holdHeartbeats: false,
    holdConfirmations: false,
    failAuthorizations: undefined,
    grantSeconds: undefined,
    onlyV1: false
  }
  /** The latest ones; how many there were is `violationCount`. */
  readonly violations: Array<Violation> = []
  violationCount = 0
  /** Upgrade requests by outcome: `accepted`, or status and code. */
  readonly upgrades: { [outcome: string]: number } = {}
  readonly #options: PortalServerOptions
  readonly #tokens: Map<string, { readonly role: Role; expiresAt: number }>
  readonly #rateLimit: RateLimit | undefined
  readonly #sessions = new Map<number, Session>()
  readonly #outputs: Array<PortalOutput> = []
  readonly #emit = (output: PortalOutput): void => {
    this.#outputs.push(output)
  }
  #nextSession = 1
  #refuseNext: RefuseNext | undefined

  constructor(config: PortalConfig, options: PortalServerOptions) {
    this.#options = options
    this.account = new Account(config, {
      randomBytes: options.randomBytes,
      unixSeconds: (now) => this.#unixSeconds(now),
      knobs: this.knobs
    })
    const expiresAt = config.tokensExpireAt ?? this.#unixSeconds(0) + TOKEN_LIFETIME_SECONDS
    const withRole = (role: Role, tokens: ReadonlyArray<string>, expiresAt: number) =>
      tokens.map((token) => [token, { role, expiresAt }] as const)
    this.#tokens = new Map([
      ...withRole("client", config.clientTokens, expiresAt),
      ...withRole("gateway", config.gatewayTokens, NEVER),
      ...withRole("relay", config.relayTokens ?? [], NEVER)
    ])
    if (config.connectRateLimit !== undefined) this.#rateLimit = new RateLimit(config.connectRateLimit)
  }

  get sessions(): ReadonlyArray<Session> {
    return [...this.#sessions.values()]
  }

  /** The number of the new session, whose frames follow; or the answer that the request gets. */
  handleUpgrade(request: UpgradeRequest, now: number): number | Refusal {
    const login = this.#judge(request, now)
    const outcome = login._tag === "Login" ? this.#open(login, now) : login
    const name = typeof outcome === "number" ? "accepted" : `${outcome.status} ${outcome.code ?? ""}`.trimEnd()
    this.upgrades[name] = (this.upgrades[name] ?? 0) + 1
    return outcome
  }

  handleText(id: number, text: string, now: number): void {
    const session = this.#sessions.get(id)
    if (session === undefined) return
    session.lastSeen = now
    const frame = readFrame(text)
    if (typeof frame === "string") {
      session.violation(frame)
      session.close(1011)
    } else {
      this.#handleFrame(session, frame, now)
    }
    this.#sweep(now)
  }

  handleBinary(id: number, now: number): void {
    const session = this.#sessions.get(id)
    if (session === undefined) return
    session.violation("a binary frame")
    session.close(1011)
    this.#sweep(now)
  }

  /** A ping or pong. */
  handleActivity(id: number, now: number): void {
    const session = this.#sessions.get(id)
    if (session !== undefined) session.lastSeen = now
  }

  /** The WebSocket itself broke the rules; its end follows. */
  handleProtocolError(id: number, why: string): void {
    this.#sessions.get(id)?.violation(printable(why))
  }

  handleClosed(id: number, now: number): void {
    const session = this.#sessions.get(id)
    if (session !== undefined) session.ended = true
    this.#sweep(now)
  }

  handleTimeout(now: number): void {
    for (const session of this.sessions) {
      if (now >= session.idleAt) session.close(1002)
      else if (this.#unixSeconds(now) >= session.expiresAt) session.disconnect("token_expired")
    }
    this.account.handleTimeout(now)
    this.#sweep(now)
  }

  pollTimeout(): number | undefined {
    let next = this.account.pollTimeout() ?? Number.POSITIVE_INFINITY
    for (const { expiresAt, idleAt } of this.#sessions.values()) {
      next = Math.min(next, idleAt, expiresAt * 1000 - this.#options.unixEpochMillis)
    }
    return Number.isFinite(next) ? next : undefined
  }

  pollOutput(): PortalOutput | undefined {
    return this.#outputs.shift()
  }

  // ---- commands

  turn(knobs: Partial<Knobs>): void {
    Object.assign(this.knobs, knobs)
    if (!this.knobs.holdConfirmations) this.account.release()
  }

  refuseNext(refusal: RefuseNext): void {
    this.#refuseNext = refusal
  }

  /** No sign-in with this token any more; whoever did is told so. */
  expireToken(token: string, now: number): void {
    const known = this.#tokens.get(token)
    if (known === undefined) throw new Error("no such token")
    known.expiresAt = 0
    for (const session of this.sessions) if (session.login.token === token) session.disconnect("token_expired")
    for (const device of this.account.devices.all) {
      if (device.role === "client" && device.login.token === token) this.account.revokeClient(device.id)
    }
    this.#sweep(now)
  }

  /** `target` is a role, or the id or external id of a device; all sessions if there is none. Returns how many ended. */
  drop(target: string | undefined, ending: Ending, now: number): number {
    const meant = this.#find(target)
    for (const session of meant) {
      if (ending.how === "close") session.close(ending.code, ending.reason)
      else if (ending.how === "abrupt") session.terminate()
      else if (ending.how === "disconnect") session.disconnect(ending.reason)
      else session.stop()
    }
    this.#sweep(now)
    return meant.length
  }

  /** Text that need not be what a portal would send. */
  sendText(target: string | undefined, text: string): void {
    for (const session of this.#find(target)) session.sendText(text)
  }

  /** As a portal that is deployed anew: everybody has to come back, what is stored stays. */
  restart(now: number): void {
    for (const session of this.sessions) session.close(1012)
    this.#sweep(now)
  }

  setRelays(relays: ReadonlyArray<StaticRelay>, now: number): void {
    this.account.relays.setStatic(relays, now)
  }

  // ---- signing in

  #judge(request: UpgradeRequest, now: number): Login | Refusal {
    const route = routeOf(request.url)
    if (route === undefined || (this.knobs.onlyV1 && request.url.includes("/v2/"))) return refused(404)
    const commanded = this.#takeRefusal(route.role)
    if (commanded !== undefined) return commanded
    const handshake = refuseHandshake(request)
    if (handshake !== undefined) return handshake
    const token = tokenOf(request)
    if (this.#rateLimit?.take(`${request.remoteAddress} ${token ?? ""}`, now) === false) {
      return { ...refused(503, "rate_limit", "Too many connections"), retryAfter: "1" }
    }
    if (token === undefined) return refused(401, "missing_token", "Missing token")
    const known = this.#tokens.get(token)
    if (known === undefined || known.role !== route.role || known.expiresAt <= this.#unixSeconds(now)) {
      return refused(401, "invalid_token", "Invalid token")
    }
    return readLogin(route, request, token)
  }

  #takeRefusal(role: Role): Refusal | undefined {
    const next = this.#refuseNext
    if (next === undefined || next.count <= 0 || (next.role !== undefined && next.role !== role)) return undefined
    this.#refuseNext = { ...next, count: next.count - 1 }
    const { body, code, detail, retryAfter, status } = next
    return { _tag: "Refused", status, code, detail, retryAfter, body }
  }

  #open(login: Login, now: number): number | Refusal {
    if (this.#sessions.size >= MAX_SESSIONS) return refused(503)
    const isLive = this.sessions.some((other) =>
      other.login.role === "gateway" && other.login.externalId === login.externalId
    )
    if (login.role === "gateway" && isLive) {
      return refused(409, "gateway_already_connected", "The gateway is already connected")
    }
    const device = login.role === "relay" ? undefined : this.account.devices.signIn(login, login.role)
    if (device === undefined && login.role !== "relay") return refused(402, "limits_exceeded", "Too many devices")
    const session = new Session({
      id: this.#nextSession++,
      login,
      device,
      expiresAt: this.#tokens.get(login.token)?.expiresAt ?? 0,
      now,
      emit: this.#emit,
      complain: (who, what) => this.#complain(who, what)
    })
    this.#sessions.set(session.id, session)
    for (const oddity of login.oddities) session.violation(oddity)
    return session.id
  }

  // ---- frames

  #handleFrame(session: Session, frame: Frame, now: number): void {
    const isFirst = !session.sawFrame
    session.sawFrame = true
    const { device, login } = session
    const isJoin = frame.event === "phx_join" && frame.topic === login.role
    if (isFirst && !isJoin) session.violation(`the first frame is ${printable(frame.event)}`)
    if (typeof frame.ref !== "number" && typeof frame.ref !== "string") session.violation("a ref of another type")
    if (frame.topic === "phoenix" && frame.event === "heartbeat") {
      device?.count("heartbeat")
      if (!this.knobs.holdHeartbeats) session.reply(frame)
      return
    }
    if (frame.topic !== login.role) {
      session.violation(`${printable(frame.event)} on topic ${printable(frame.topic)}`)
      return session.reply(frame, "unmatched topic")
    }
    if (isJoin) return this.#join(session, frame, now)
    if (!session.joined) {
      session.violation(`${printable(frame.event)} before the answer to the join`)
      return session.reply(frame, "unmatched topic")
    }
    if (device !== undefined) return this.account.handle(session, device, frame, now)
    session.violation(`${printable(frame.event)} from a relay`)
    session.reply(frame, "unknown_message")
  }

  #join(session: Session, frame: Frame, now: number): void {
    const { device, login } = session
    device?.count("phx_join")
    if (this.knobs.holdJoins) return
    if (session.joined) {
      session.violation("a second join")
      return session.stop()
    }
    if (login.role === "relay") {
      const secret = (frame.payload as { readonly stamp_secret?: unknown } | null)?.stamp_secret
      if (typeof secret !== "string" || secret === "") {
        session.violation("a join without a stamp secret")
        return session.reply(frame, "join crashed")
      }
      this.account.relays.add({ ...login.relay, stampSecret: secret, session }, now)
    } else if (frame.payload !== null && JSON.stringify(frame.payload) !== "{}") {
      session.violation("a join with a payload")
    }
    session.joined = true
    session.reply(frame)
    // The newer connection of a client wins.
    for (const other of this.sessions) {
      if (device !== undefined && other !== session && other.device === device) other.disconnect("token_expired")
    }
    this.account.welcome(session, now)
  }

  // ---- endings

  /** Forgets the sessions that have ended, however they did. */
  #sweep(now: number): void {
    for (const session of this.sessions) {
      if (!session.ended) continue
      this.#sessions.delete(session.id)
      this.account.gone(session, now)
    }
  }

  #find(target: string | undefined): ReadonlyArray<Session> {
    const isMeant = (device: DeviceRecord | undefined): boolean =>
      device !== undefined && (device.id === target || device.externalId === target)
    return this.sessions.filter(({ device, login }) => target === undefined || login.role === target || isMeant(device))
  }

  #complain(who: string, what: string): void {
    this.violationCount += 1
    this.violations.push({ who, what })
    if (this.violations.length > MAX_VIOLATIONS) this.violations.shift()
  }

  #unixSeconds(now: number): number {
    return Math.floor((this.#options.unixEpochMillis + now) / 1000)
  }
}
