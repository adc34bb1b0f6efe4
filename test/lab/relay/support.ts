/** The relay emulator under virtual time, and requests written by hand. */
import { assert } from "@effect/vitest"
import { relayCredentials } from "../../../src/lab/relay/credentials.ts"
import { type RelayOutput, RelayServer, type RelayServerOptions } from "../../../src/lab/relay/RelayServer.ts"
import { makeCrypto } from "../../../src/layers/crypto/makeCrypto.ts"
import { ip, parseSocketAddress, type SocketAddress } from "../../../src/protocol/wire/address.ts"
import {
  Attribute,
  Class,
  longTermKey,
  Method,
  parseStun,
  StunBuilder,
  type StunMessage
} from "../../../src/protocol/wire/stun.ts"

export const { crypto } = makeCrypto()

export const at = (text: string): SocketAddress => {
  const address = parseSocketAddress(text)
  if (address === undefined) throw new RangeError(text)
  return address
}

export const client = at("192.0.2.5:52625")
export const elsewhere = at("192.0.2.6:1024")
export const peer = at("198.51.100.21:41000")
export const peer6 = at("[2001:db8:2::21]:41000")

export const STAMP_SECRET = "a secret of the portal's"
/** Of the virtual clock's beginning, seconds. */
export const EPOCH = 1_700_000_000
export const user = relayCredentials({ expiresAt: EPOCH + 3600, stampSecret: STAMP_SECRET, deviceKey: "a key" })
export const otherUser = relayCredentials({ expiresAt: EPOCH + 3600, stampSecret: STAMP_SECRET, deviceKey: "another" })

export interface User {
  readonly username: string
  readonly password: string
}

export const keyOf = ({ password, username }: User, realm = "firezone"): Uint8Array =>
  longTermKey(username, realm, password, crypto)

type Fill = (builder: StunBuilder) => StunBuilder

export const udp: Fill = (builder) => builder.u32(Attribute.RequestedTransport, 17 * 0x100_0000)
export const bothFamilies: Fill = (builder) => udp(builder).u32(Attribute.AdditionalAddressFamily, 2 * 0x100_0000)
export const channel = (number: number, to: SocketAddress): Fill => (builder) =>
  builder.address(Attribute.XorPeerAddress, to).u32(Attribute.ChannelNumber, number * 0x1_0000)

export class Relay {
  readonly server: RelayServer
  now = 0
  #nonces = new Map<string, string>()

  constructor(options: Partial<RelayServerOptions> = {}) {
    this.server = new RelayServer({
      crypto,
      stampSecret: STAMP_SECRET,
      ipv4: ip("203.0.113.9"),
      ipv6: ip("2001:db8:9::9"),
      unixEpochMillis: EPOCH * 1000,
      ...options
    })
  }

  outputs(): ReadonlyArray<RelayOutput> {
    const outputs: Array<RelayOutput> = []
    for (let next = this.server.pollOutput(); next !== undefined; next = this.server.pollOutput()) outputs.push(next)
    return outputs
  }

  /** What comes of one datagram of a client. */
  input(bytes: Uint8Array, from = client): ReadonlyArray<RelayOutput> {
    this.server.handleClient(from, bytes, this.now)
    return this.outputs()
  }

  /** The answer to one datagram; `undefined` if there is none. */
  ask(bytes: Uint8Array, from = client): StunMessage | undefined {
    const answers = this.input(bytes, from).flatMap((output) => {
      if (output._tag !== "ToClient") return []
      assert.strictEqual(output.client.text, from.text)
      return [parseStun(output.bytes)]
    })
    assert.isAtMost(answers.length, 1)
    return answers[0]
  }

  /** A request as a client sends it that knows its nonce. */
  signed(method: number, fill: Fill = (builder) => builder, as: User = user, from = client): Uint8Array {
    const builder = fill(new StunBuilder(method, Class.Request, crypto.randomBytes(12)))
      .text(Attribute.Username, as.username)
      .text(Attribute.Realm, "firezone")
    const nonce = this.#nonces.get(from.text)
    if (nonce !== undefined) builder.text(Attribute.Nonce, nonce)
    return builder.sign(keyOf(as), crypto).build()
  }

  /** Asks as a client does: again with the nonce that it is given, if it needs one. */
  request(method: number, fill?: Fill, as: User = user, from = client): StunMessage {
    for (let tries = 0; tries < 2; tries++) {
      const answer = this.ask(this.signed(method, fill, as, from), from)
      if (answer === undefined) throw new Error("no answer")
      const code = answer.error?.code
      const nonce = answer.text(Attribute.Nonce)
      if ((code !== 401 && code !== 438) || nonce === undefined || nonce === this.#nonces.get(from.text)) return answer
      this.#nonces.set(from.text, nonce)
    }
    throw new Error("no end of challenges")
  }

  /** The outcome of a request: `ok`, or the code of the error. */
  outcome(method: number, fill?: Fill, as?: User, from?: SocketAddress): number | "ok" | "no answer" {
    return outcomeOf(this.request(method, fill, as, from))
  }

  /** An allocation of both families with a channel to `peer`; returns the port. */
  allocate(as: User = user, from = client): number {
    const answer = this.request(Method.Allocate, bothFamilies, as, from)
    const address = answer.address(Attribute.XorRelayedAddress)
    if (address === undefined) throw new Error(`no allocation: ${answer.error?.code}`)
    return address.port
  }
}

export const outcomeOf = (answer: StunMessage | undefined): number | "ok" | "no answer" =>
  answer === undefined ? "no answer" : answer.class === Class.Success ? "ok" : answer.error?.code ?? NaN

export const channelData = (number: number, payload: Uint8Array, length = payload.length): Uint8Array =>
  Uint8Array.from([number >> 8, number & 0xff, length >> 8, length & 0xff, ...payload])

export { Attribute, Class, Method }
