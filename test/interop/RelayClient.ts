import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import * as dgram from "node:dgram"
import type { Crypto } from "../../src/protocol/crypto.ts"
import type { Relay } from "../../src/protocol/node/types.ts"
import { Allocation } from "../../src/protocol/turn/Allocation.ts"
import { type Family, ip, SocketAddress } from "../../src/protocol/wire/address.ts"
import { parseStun, type StunMessage } from "../../src/protocol/wire/stun.ts"

const CHANNEL_HEADER_LENGTH = 4

export interface Received {
  readonly from: SocketAddress
  readonly payload: Uint8Array
}

/** Our TURN client on plain UDP sockets, one per family: what a node does around an allocation, and no more. */
export class RelayClient {
  readonly allocation: Allocation
  /** STUN answers, of which the client believed some. */
  readonly answers: Array<StunMessage> = []
  readonly events: Array<string> = []
  readonly received: Array<Received> = []
  readonly #sockets: ReadonlyMap<Family, dgram.Socket>
  #skipped = 0
  #timer: ReturnType<typeof setTimeout> | undefined

  constructor(relay: Relay, crypto: Crypto, sockets: ReadonlyMap<Family, dgram.Socket>) {
    this.#sockets = sockets
    this.allocation = new Allocation({ relay, crypto, now: this.now })
    for (const socket of sockets.values()) {
      const { address, port } = socket.address()
      const local = new SocketAddress(ip(address), port)
      socket.on("message", (message, from) => {
        this.#handle(local, new SocketAddress(ip(from.address), from.port), message)
        this.settle()
      })
    }
    this.settle()
  }

  get now(): number {
    return performance.now() + this.#skipped
  }

  /** The codes of all errors that came. */
  get errors(): ReadonlyArray<number | undefined> {
    return this.answers.flatMap(({ error }) => error === undefined ? [] : [error.code])
  }

  /** Makes our clock jump ahead, not that of the relay. */
  skip(millis: number): void {
    this.#skipped += millis
    this.settle()
  }

  /** Returns false, and asks for a channel, if there is none. */
  send(peer: SocketAddress, payload: Uint8Array): boolean {
    const channel = this.allocation.channelTo(peer, this.now)
    const { server } = this.allocation
    if (channel !== 0 && server !== undefined) {
      const message = new Uint8Array(CHANNEL_HEADER_LENGTH + payload.length)
      message.set([channel >> 8, channel & 0xff, payload.length >> 8, payload.length & 0xff])
      message.set(payload, CHANNEL_HEADER_LENGTH)
      this.#send(server, message)
    }
    this.settle()
    return channel !== 0
  }

  /** To be called after every call of the allocation. */
  settle(): void {
    const { allocation } = this
    const deadline = allocation.pollTimeout()
    if (deadline !== undefined && deadline <= this.now) allocation.handleTimeout(this.now)
    for (let next = allocation.pollTransmit(); next !== undefined; next = allocation.pollTransmit()) {
      this.#send(next.destination, next.buffer.subarray(next.offset, next.offset + next.length))
    }
    for (let event = allocation.pollEvent(); event !== undefined; event = allocation.pollEvent()) {
      this.events.push(`${event._tag} ${event.candidate.kind} ${event.candidate.address}`)
    }
    clearTimeout(this.#timer)
    const at = allocation.pollTimeout()
    if (at !== undefined) this.#timer = setTimeout(() => this.settle(), Math.max(0, at - this.now))
  }

  close(): void {
    clearTimeout(this.#timer)
    for (const socket of this.#sockets.values()) socket.close()
  }

  #send({ address, family, port }: SocketAddress, message: Uint8Array): void {
    this.#sockets.get(family)?.send(message, port, address)
  }

  #handle(local: SocketAddress, from: SocketAddress, message: Uint8Array): void {
    const [first = 0, second = 0, high = 0, low = 0] = message
    if (first < 4) {
      const answer = parseStun(message)
      if (answer !== undefined) this.answers.push(answer)
      this.allocation.handleStun(local, from, message, this.now)
    } else if (first >= 0x40 && (high << 8 | low) === message.length - CHANNEL_HEADER_LENGTH) {
      const peer = this.allocation.receivedOn(first << 8 | second, this.now)
      if (peer !== undefined) this.received.push({ from: peer, payload: message.subarray(CHANNEL_HEADER_LENGTH) })
    }
  }
}

export const bindUdp = (address: string, port = 0): Effect.Effect<dgram.Socket> =>
  Effect.async((resume) => {
    const socket = dgram.createSocket({ type: address.includes(":") ? "udp6" : "udp4", recvBufferSize: 1 << 20 })
    socket.once("error", (error) => resume(Effect.die(error)))
    socket.bind({ address, port }, () => resume(Effect.succeed(socket)))
  })

/** A client at `addresses`, closed with the scope. */
export const open = (
  relay: Relay,
  crypto: Crypto,
  addresses: ReadonlyArray<string>
): Effect.Effect<RelayClient, never, Scope.Scope> =>
  Effect.acquireRelease(
    Effect.gen(function*() {
      const sockets = new Map<Family, dgram.Socket>()
      for (const address of addresses) sockets.set(address.includes(":") ? 6 : 4, yield* bindUdp(address))
      return new RelayClient(relay, crypto, sockets)
    }),
    (client) => Effect.sync(() => client.close())
  )

export interface UdpPeer {
  readonly address: SocketAddress
  readonly received: Array<Received>
}

/** Somebody who sends back whatever comes, byte by byte in reverse. */
export const mirror = (address: string): Effect.Effect<UdpPeer, never, Scope.Scope> =>
  Effect.acquireRelease(bindUdp(address), (socket) => Effect.sync(() => socket.close())).pipe(
    Effect.map((socket) => {
      const received: Array<Received> = []
      socket.on("message", (payload, from) => {
        received.push({ from: new SocketAddress(ip(from.address), from.port), payload })
        socket.send(Uint8Array.from(payload).reverse(), from.port, from.address)
      })
      return { address: new SocketAddress(ip(address), socket.address().port), received }
    })
  )
