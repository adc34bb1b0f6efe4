import { assert } from "@effect/vitest"
import * as Either from "effect/Either"
import type { PortalConfig } from "../../../src/lab/portal/config.ts"
import type { Refusal } from "../../../src/lab/portal/login.ts"
import { PortalServer } from "../../../src/lab/portal/PortalServer.ts"
import { type PortalState, stateOf } from "../../../src/lab/portal/state.ts"
import { decodeClientPush, decodeGatewayPush } from "../../../src/model/portal.ts"
import type { Decoded, Undecodable } from "../../../src/model/portalValues.ts"

export const SITE = "88888888-8888-4888-8888-888888888888"
export const CIDR = "66666666-6666-4666-8666-666666666666"
export const INTERNET = "66666666-6666-4666-8666-666666666668"
export const EPOCH = 1_893_000_000_000
export const candidate = "candidate:1 1 udp 2130706431 192.0.2.10 52625 typ host"

export const cidr = {
  type: "cidr",
  id: CIDR,
  name: "Office LAN",
  address: "10.20.0.0/16",
  address_description: null,
  sites: [SITE],
  filters: [{ protocol: "tcp", port_range_start: 443, port_range_end: 443 }, { protocol: "icmp" }]
} as const

export const config: PortalConfig = {
  host: "127.0.0.1",
  port: 0,
  clientTokens: [".client", ".other-client"],
  gatewayTokens: [".gateway"],
  relayTokens: [".relay"],
  tokensExpireAt: 1_893_456_000,
  iceless: true,
  relays: [{ stampSecret: "test-stamp-secret", ipv4: "203.0.113.9", ipv6: "2001:db8::9", port: 3478 }],
  sites: [{ id: SITE, name: "HQ" }],
  resources: [cidr, { type: "internet", id: INTERNET, sites: [SITE] }],
  gatewaySite: SITE
}

export type Role = "client" | "gateway" | "relay"

const agents = { client: "headless-client/1.5.12", gateway: "gateway/1.6.1", relay: "relay/0.1.0" }
/** Of 32 bytes that count up from the given one, as in the spec's vectors. */
export const keyFrom = (first: number): string =>
  Buffer.from(Uint8Array.from({ length: 32 }, (_, index) => first + index)).toString("base64")

export interface SignIn {
  readonly endpoint?: "v1" | "v2"
  readonly externalId?: string
  readonly key?: string
  readonly agent?: string
  readonly token?: string | undefined
  readonly query?: Readonly<Record<string, string>>
  readonly headers?: Readonly<Record<string, string>>
}

const query = (role: Role, options: SignIn): string =>
  new URLSearchParams({
    ...(role === "relay"
      ? { ipv4: "198.51.100.1", port: "3478" }
      : {
        external_id: options.externalId ?? `the-${role}`,
        name: options.externalId ?? `the-${role}`,
        public_key: options.key ?? keyFrom(role === "client" ? 0 : 32)
      }),
    ...options.query
  }).toString()

export const pathOf = (role: Role, options: SignIn = {}): string =>
  `/${role}${role === "relay" || options.endpoint === "v1" ? "" : "/v2"}/websocket?${query(role, options)}`

export const headersOf = (role: Role, options: SignIn = {}): Readonly<Record<string, string>> => ({
  "user-agent": `Ubuntu/24.4.0 ${options.agent ?? agents[role]} (x86_64; 6.8.0)`,
  ...("token" in options && options.token === undefined
    ? {}
    : { "x-authorization": `Bearer ${options.token ?? `.${role}`}` }),
  ...options.headers
})

export interface Received {
  readonly topic: string
  readonly event: string
  readonly payload: { readonly [member: string]: unknown }
  readonly ref: unknown
}

/** One scripted device. Everything it is pushed must be readable by our own decoders without anything left out. */
export class Party {
  readonly frames: Array<Received> = []
  ended: number | "abrupt" | undefined
  readonly #say: (text: string) => void
  readonly #role: Role
  #ref = 0

  constructor(role: Role, say: (text: string) => void) {
    this.#role = role
    this.#say = say
  }

  send(event: string, payload: unknown, topic: string = this.#role): number {
    const ref = this.#ref++
    this.#say(JSON.stringify({ topic, event, payload, ref }))
    return ref
  }

  sendText(text: string): void {
    this.#say(text)
  }

  receive(text: string): void {
    const frame = JSON.parse(text) as Received
    assert.deepStrictEqual(Object.keys(frame).sort(), ["event", "payload", "ref", "topic"])
    this.frames.push(frame)
    if (frame.event === "phx_reply" || frame.topic !== this.#role) return
    assert.strictEqual(frame.ref, null)
    if (["phx_close", "phx_error", "disconnect"].includes(frame.event) || this.#role === "relay") return
    const decoded = Either.getOrThrowWith<Decoded<unknown>, Undecodable>(
      this.#role === "client"
        ? decodeClientPush(frame.event, frame.payload)
        : decodeGatewayPush(frame.event, frame.payload),
      ({ why }) => new Error(`${frame.event}: ${why}`)
    )
    assert.deepStrictEqual(decoded.skipped, [])
  }

  /** Takes out what came since the last time. */
  take(): ReadonlyArray<Received> {
    return this.frames.splice(0)
  }

  events(): ReadonlyArray<string> {
    return this.take().map(({ event }) => event)
  }

  /** Takes out what came, which must be this one event. */
  takeOnly(event: string): Received["payload"] {
    const frames = this.take()
    assert.deepStrictEqual(frames.map(({ event }) => event), [event])
    return (frames[0] as Received).payload
  }
}

/** The machine with virtual time and scripted devices. */
export class VirtualPortal {
  readonly server: PortalServer
  now = 0
  readonly #parties = new Map<number, Party>()
  #random = 1

  constructor(changes: Partial<PortalConfig> = {}) {
    this.server = new PortalServer({ ...config, ...changes }, {
      randomBytes: (length) => Uint8Array.from({ length }, () => (this.#random = this.#random * 75 % 65_537) & 0xff),
      unixEpochMillis: EPOCH
    })
  }

  get state(): PortalState {
    return stateOf(this.server)
  }

  get violations(): ReadonlyArray<string> {
    return this.state.violations.map(({ what }) => what)
  }

  upgrade(role: Role, options: SignIn = {}): number | Refusal {
    return this.server.handleUpgrade({
      method: "GET",
      url: pathOf(role, options),
      headers: {
        host: "portal.example",
        connection: "Upgrade",
        upgrade: "websocket",
        "sec-websocket-version": "13",
        "sec-websocket-key": "AAAAAAAAAAAAAAAAAAAAAA==",
        ...headersOf(role, options)
      },
      remoteAddress: "192.0.2.1"
    }, this.now)
  }

  connect(role: Role, options: SignIn = {}): Party & { readonly id: number } {
    const id = this.upgrade(role, options)
    if (typeof id !== "number") throw new Error(`refused: ${JSON.stringify(id)}`)
    const party = Object.assign(
      new Party(role, (text) => {
        this.server.handleText(id, text, this.now)
        this.drain()
      }),
      { id }
    )
    this.#parties.set(id, party)
    return party
  }

  /** Connects and joins; what came of that has been taken out. */
  join(role: Role, options: SignIn = {}): Party & { readonly id: number; readonly init: Received["payload"] } {
    const party = this.connect(role, options)
    const ref = party.send("phx_join", role === "relay" ? { stamp_secret: "another-secret" } : null)
    const [reply, init, ...more] = party.take()
    assert.deepStrictEqual(reply, {
      topic: role,
      event: "phx_reply",
      payload: { status: "ok", response: {} },
      ref
    })
    assert.strictEqual(init?.event, "init")
    assert.deepStrictEqual(more, [])
    return Object.assign(party, { init: (init as Received).payload })
  }

  drain(): void {
    for (let output = this.server.pollOutput(); output !== undefined; output = this.server.pollOutput()) {
      const party = this.#parties.get(output.session)
      if (party === undefined) throw new Error("output for a session that nobody opened")
      if (output._tag === "Send") party.receive(output.text)
      else party.ended = output._tag === "Close" ? output.code : "abrupt"
    }
  }

  /** Lets time pass; the machine is called at its deadlines, as its driver does. */
  pass(millis: number): void {
    const end = this.now + millis
    for (let at = this.server.pollTimeout(); at !== undefined && at <= end; at = this.server.pollTimeout()) {
      this.now = Math.max(this.now, at)
      this.server.handleTimeout(this.now)
      this.drain()
    }
    this.now = end
  }
}
