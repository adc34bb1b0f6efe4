/** A TURN client under virtual time, and answers written by hand. */
import { assert } from "@effect/vitest"
import { makeCrypto } from "../../../src/layers/crypto/makeCrypto.ts"
import type { Relay } from "../../../src/protocol/node/types.ts"
import { Allocation } from "../../../src/protocol/turn/Allocation.ts"
import { parseSocketAddress, type SocketAddress } from "../../../src/protocol/wire/address.ts"
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

export const server4 = at("203.0.113.9:3478")
export const server6 = at("[2001:db8::9]:3478")
export const local4 = at("192.0.2.5:52625")
export const local6 = at("[2001:db8:1::5]:52625")
export const mapped4 = at("198.51.100.5:40000")
export const relayed4 = at("203.0.113.9:50000")
export const relayed6 = at("[2001:db8::9]:50000")
export const peer1 = at("198.51.100.21:41000")
export const peer2 = at("198.51.100.22:42000")
export const peer6 = at("[2001:db8:2::21]:41000")

export const relay4: Relay = { id: "relay", v4: server4, username: "1893456000:salt", password: "secret" }
export const relay6: Relay = { ...relay4, v4: undefined, v6: server6 }
export const dual: Relay = { ...relay4, v6: server6 }
export const NONCE = "00000000-0000-4000-8000-000000000001"

export interface Sent {
  readonly at: number
  readonly destination: SocketAddress
  readonly message: StunMessage
}

export const describeSent = ({ at, message }: Sent): string =>
  `${at} ${Object.entries(Method).find(([, method]) => method === message.method)?.[0]}`

export class Client {
  now = 0
  readonly relay: Relay
  readonly allocation: Allocation
  readonly key: Uint8Array
  #sent: Array<Sent> = []
  #events: Array<string> = []

  constructor(relay: Relay = relay4) {
    this.relay = relay
    this.key = longTermKey(relay.username, "firezone", relay.password, crypto)
    this.allocation = new Allocation({ relay, crypto, now: 0 })
    this.drain()
  }

  drain(): void {
    const { allocation } = this
    for (let transmit = allocation.pollTransmit(); transmit !== undefined; transmit = allocation.pollTransmit()) {
      const { buffer, destination, ecn, length, offset, source } = transmit
      assert.deepStrictEqual([source, ecn], [undefined, 0])
      const message = parseStun(buffer.subarray(offset, offset + length))
      if (message === undefined) throw new Error("the client sent something that is not STUN")
      this.#sent.push({ at: this.now, destination, message })
    }
    for (let event = allocation.pollEvent(); event !== undefined; event = allocation.pollEvent()) {
      this.#events.push(`${event._tag} ${event.candidate.kind} ${event.candidate.address}`)
    }
  }

  /** What was sent since the last call. */
  takeSent(): ReadonlyArray<Sent> {
    const sent = this.#sent
    this.#sent = []
    return sent
  }

  takeEvents(): ReadonlyArray<string> {
    const events = this.#events
    this.#events = []
    return events
  }

  /** The only request sent since the last call, which has to be of this method. */
  takeOne(method: number): Sent {
    const [first, ...more] = this.takeSent()
    assert.deepStrictEqual(more.map(describeSent), [])
    if (first === undefined) throw new Error("nothing was sent")
    assert.strictEqual(first.message.method, method, describeSent(first))
    return first
  }

  assertSilent(): void {
    assert.deepStrictEqual(this.takeSent().map(describeSent), [])
  }

  /** Lets time pass, with a tick whenever the client wants one. */
  advance(millis: number): void {
    const end = this.now + millis
    for (let next = this.allocation.pollTimeout(); next !== undefined && next <= end;) {
      this.now = Math.max(this.now, next)
      this.allocation.handleTimeout(this.now)
      this.drain()
      const following = this.allocation.pollTimeout()
      assert.isFalse(following !== undefined && following <= this.now, "asks for the same tick again")
      next = following
    }
    this.now = end
  }

  /** Lets time pass beside a relay that answers keep-alives, and by `answer` the rest, which is returned. */
  live(millis: number, answer?: (sent: Sent) => void): ReadonlyArray<Sent> {
    const others: Array<Sent> = []
    const end = this.now + millis
    while (this.now < end) {
      this.advance(Math.min(end, Math.max(this.now + 1, this.allocation.pollTimeout() ?? end)) - this.now)
      for (const sent of this.takeSent()) {
        if (sent.message.method === Method.Binding) {
          this.succeed(sent)
        } else {
          others.push(sent)
          answer?.(sent)
        }
      }
    }
    return others
  }

  /** Answers a request; signed unless it is a Binding or `sign` is false. */
  answer(
    { destination, message }: Sent,
    kind: Class,
    fill: (response: StunBuilder) => StunBuilder,
    options: { readonly sign?: boolean | Uint8Array; readonly from?: SocketAddress; readonly local?: SocketAddress } =
      {}
  ): boolean {
    const { from = destination, local = destination.family === 4 ? local4 : local6, sign = true } = options
    const response = fill(
      new StunBuilder(message.method, kind, message.transactionId).text(Attribute.Software, "a relay")
    )
    if (message.method !== Method.Binding && sign !== false) response.sign(sign === true ? this.key : sign, crypto)
    const isExpected = this.allocation.handleStun(local, from, response.build(), this.now)
    this.drain()
    return isExpected
  }

  succeed(request: Sent, fill: (response: StunBuilder) => StunBuilder = (response) => response): boolean {
    return this.answer(request, Class.Success, fill)
  }

  refuse(request: Sent, code: number, options: { readonly sign?: boolean | Uint8Array; readonly nonce?: string } = {}) {
    const { nonce, sign = true } = options
    return this.answer(
      request,
      Class.Error,
      (response) => {
        response.error(code, "because").text(Attribute.Realm, "firezone")
        return nonce === undefined ? response : response.text(Attribute.Nonce, nonce)
      },
      { sign }
    )
  }

  /** A Binding answer to each request that is outstanding; returns the request that follows the first. */
  bind(mapped: SocketAddress = mapped4): void {
    for (const sent of this.takeSent()) {
      assert.strictEqual(sent.message.method, Method.Binding)
      this.succeed(
        sent,
        (response) => response.address(Attribute.XorMappedAddress, sent.destination.family === 4 ? mapped : local6)
      )
    }
  }

  /** As a relay does that has an allocation for us. */
  confirm(request: Sent): void {
    this.succeed(
      request,
      (response) => request.message.method === Method.Refresh ? response.u32(Attribute.Lifetime, 600) : response
    )
  }

  grant(request: Sent, relayed: ReadonlyArray<SocketAddress> = [relayed4], lifetime = 600): void {
    this.succeed(request, (response) => {
      for (const address of relayed) response.address(Attribute.XorRelayedAddress, address)
      return response.address(Attribute.XorMappedAddress, mapped4).u32(Attribute.Lifetime, lifetime)
    })
  }

  /** Brings the allocation up and forgets what it took. */
  allocate(relayed: ReadonlyArray<SocketAddress> = [relayed4]): this {
    this.bind()
    this.refuse(this.takeOne(Method.Allocate), 401, { nonce: NONCE })
    this.grant(this.takeOne(Method.Allocate), relayed)
    this.takeSent()
    this.takeEvents()
    return this
  }

  /** Binds a channel to `peer` and returns its number. */
  channel(peer: SocketAddress): number {
    this.allocation.bindChannel(peer, this.now)
    this.drain()
    const request = this.takeOne(Method.ChannelBind)
    this.succeed(request)
    return numberOf(request)
  }
}

/** The channel that a ChannelBind is about. */
export const numberOf = ({ message }: Sent): number => (message.u32(Attribute.ChannelNumber) ?? 0) >>> 16
export const peerOf = ({ message }: Sent): string | undefined => message.address(Attribute.XorPeerAddress)?.text
