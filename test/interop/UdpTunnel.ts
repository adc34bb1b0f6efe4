import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import * as dgram from "node:dgram"
import { CIPHER_HEADROOM, CIPHER_TAILROOM, type Crypto } from "../../src/protocol/crypto.ts"
import { parseIp } from "../../src/protocol/wire/address.ts"
import { classify, DATA_HEADER_LENGTH, MessageType, TAG_LENGTH } from "../../src/protocol/wire/wireguard.ts"
import { RateLimiter } from "../../src/protocol/wireguard/RateLimiter.ts"
import { iceTimers } from "../../src/protocol/wireguard/types.ts"
import { WireguardTunnel } from "../../src/protocol/wireguard/WireguardTunnel.ts"

export interface UdpTunnelOptions {
  readonly crypto: Crypto
  readonly privateKey: Uint8Array
  readonly remoteKey: Uint8Array
  readonly presharedKey: Uint8Array
  readonly bind: { readonly address: string; readonly port: number }
  readonly remote: { readonly address: string; readonly port: number }
  /** Of handshake messages a second, before a cookie is asked for. */
  readonly limit?: number
}

/** Our side of WireGuard on one plain UDP socket: what a node does around a tunnel, and no more. */
export class UdpTunnel {
  readonly tunnel: WireguardTunnel
  /** Messages by their first byte. */
  readonly received: Array<Uint8Array> = []
  readonly sent: Array<Uint8Array> = []
  /** Takes the inner packets. */
  onPacket: (buffer: Uint8Array, offset: number, length: number) => void = () => {}
  #socket: dgram.Socket
  readonly #limiter: RateLimiter
  readonly #remote: UdpTunnelOptions["remote"]
  #skipped = 0
  #timer: ReturnType<typeof setTimeout> | undefined

  constructor(options: UdpTunnelOptions, socket: dgram.Socket) {
    const { crypto, limit, presharedKey, privateKey, remote, remoteKey } = options
    const now = this.now
    this.tunnel = new WireguardTunnel({
      crypto,
      privateKey,
      remoteKey,
      presharedKey,
      indexPrefix: 0x00beef,
      timers: iceTimers,
      unixEpochMillis: Date.now() - now
    }, now)
    const publicKey = crypto.x25519PublicKey(privateKey)
    this.#limiter = new RateLimiter({ crypto, publicKey, now, ...(limit === undefined ? {} : { limit }) })
    this.#remote = remote
    this.#socket = socket
    this.#listen()
    this.#settle()
  }

  /** Goes on from another socket, as after a roam, and closes the one before. */
  move(socket: dgram.Socket): void {
    this.#socket.close()
    this.#socket = socket
    this.#listen()
  }

  get now(): number {
    return performance.now() + this.#skipped
  }

  /** Makes our clock jump ahead, not that of the other side. */
  skip(millis: number): void {
    this.#skipped += millis
    this.#settle()
  }

  initiate(): void {
    this.tunnel.initiate(this.now)
    this.#settle()
  }

  /** Returns false if there is no session. */
  send(packet: Uint8Array): boolean {
    const buffer = new Uint8Array(CIPHER_HEADROOM + packet.length + CIPHER_TAILROOM)
    buffer.set(packet, CIPHER_HEADROOM)
    if (!this.tunnel.seal(buffer, CIPHER_HEADROOM, packet.length, this.now)) return false
    this.transmit(buffer.subarray(CIPHER_HEADROOM - DATA_HEADER_LENGTH, CIPHER_HEADROOM + packet.length + TAG_LENGTH))
    this.#settle()
    return true
  }

  transmit(message: Uint8Array): void {
    this.sent.push(message)
    this.#socket.send(message, this.#remote.port, this.#remote.address)
  }

  close(): void {
    clearTimeout(this.#timer)
    this.#socket.close()
  }

  #listen(): void {
    this.#socket.on("message", (message, from) => {
      this.#handle(message, from.address)
      this.#settle()
    })
  }

  #handle(message: Uint8Array, from: string): void {
    this.received.push(message)
    const { now, tunnel } = this
    switch (classify(message, 0, message.length)) {
      case MessageType.Initiation:
        if (this.#isAccepted(message, from)) tunnel.handleInitiation(message, now)
        return
      case MessageType.Response:
        if (this.#isAccepted(message, from)) tunnel.handleResponse(message, now)
        return
      case MessageType.CookieReply:
        tunnel.handleCookieReply(message, now)
        return
      case MessageType.Data: {
        const output = new Uint8Array(CIPHER_HEADROOM + message.length + CIPHER_TAILROOM)
        const length = tunnel.open(message, 0, message.length, output, CIPHER_HEADROOM, now)
        if (length > 0) this.onPacket(output, CIPHER_HEADROOM, length)
      }
    }
  }

  #isAccepted(message: Uint8Array, from: string): boolean {
    const verdict = this.#limiter.verify(message, parseIp(from), this.now)
    if (verdict._tag === "CookieReply") this.transmit(verdict.message)
    return verdict._tag === "Accepted"
  }

  /** Sends what there is, and wakes up when the tunnel wants it. */
  #settle(): void {
    const { tunnel } = this
    const deadline = tunnel.pollTimeout()
    if (deadline !== undefined && deadline <= this.now) tunnel.handleTimeout(this.now)
    for (let next = tunnel.pollTransmit(); next !== undefined; next = tunnel.pollTransmit()) this.transmit(next)
    clearTimeout(this.#timer)
    const at = tunnel.pollTimeout()
    if (at !== undefined) this.#timer = setTimeout(() => this.#settle(), Math.max(0, at - this.now))
  }
}

/** A bound socket, closed by whoever gets it. */
export const bind = (local: UdpTunnelOptions["bind"]): Effect.Effect<dgram.Socket> =>
  Effect.async((resume) => {
    const socket = dgram.createSocket({ type: "udp4", recvBufferSize: 1 << 20 })
    socket.once("error", (error) => resume(Effect.die(error)))
    socket.bind(local, () => resume(Effect.succeed(socket)))
  })

/** Bound when it returns; closed with the scope. */
export const open = (options: UdpTunnelOptions): Effect.Effect<UdpTunnel, never, Scope.Scope> =>
  Effect.acquireRelease(
    Effect.map(bind(options.bind), (socket) => new UdpTunnel(options, socket)),
    (tunnel) => Effect.sync(() => tunnel.close())
  )
