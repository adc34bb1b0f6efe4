/** A device of the account: a tunnel core with its node, sockets in a network, and what a driver does for them. */
import { CIPHER_HEADROOM, CIPHER_TAILROOM } from "../../src/protocol/crypto.ts"
import { Node } from "../../src/protocol/node/Node.ts"
import { Encapsulated, type PeerId, type Transmit } from "../../src/protocol/node/types.ts"
import type { ClientTunnel } from "../../src/protocol/tunnel/ClientTunnel.ts"
import type { GatewayTunnel } from "../../src/protocol/tunnel/GatewayTunnel.ts"
import type { SocketAddress } from "../../src/protocol/wire/address.ts"
import type { Lan, Member } from "./Lan.ts"
import { cryptoFrom } from "./random.ts"
import type { Datagram, Timed, World } from "./World.ts"

/** Ticks in a row that a core may ask for without time passing. */
const MAX_TICKS = 8

export type Core = ClientTunnel | GatewayTunnel

export interface MachineOptions<C extends Core> {
  readonly id: string
  readonly lan: Lan
  readonly make: (node: Node) => C
  /** A packet for the TUN device. */
  readonly onPacket: (packet: Uint8Array) => void
  /** Called whenever there may be events. */
  readonly onEvents: (machine: Machine<C>) => void
}

export class Machine<C extends Core> implements Timed, Member {
  readonly id: string
  node: Node
  core: C
  lan: Lan
  /** Suspended, or unplugged: does nothing, hears nothing. */
  isAsleep = false
  readonly #world: World
  readonly #options: MachineOptions<C>
  readonly #output = new Uint8Array(CIPHER_HEADROOM + 1280 + CIPHER_TAILROOM)
  #sockets: ReadonlyArray<SocketAddress>
  /** The core's next deadline, if nothing has happened to it since. */
  #next: number | undefined

  constructor(world: World, options: MachineOptions<C>) {
    this.id = options.id
    this.lan = options.lan
    this.#world = world
    this.#options = options
    this.#sockets = this.lan.join(this)
    this.node = this.#makeNode()
    this.core = options.make(this.node)
    world.drive(this)
  }

  /** Everything in memory is lost; the sockets are as before. */
  restart(): void {
    this.node = this.#makeNode()
    this.core = this.#options.make(this.node)
    this.#next = undefined
  }

  /** Another network; the caller resets the core. */
  move(lan: Lan): void {
    this.lan.leave(this.#sockets)
    this.lan = lan
    this.#sockets = lan.join(this)
  }

  /** A packet from an application or a host. */
  send(packet: Uint8Array): void {
    if (this.isAsleep) return
    const buffer = new Uint8Array(CIPHER_HEADROOM + packet.length + CIPHER_TAILROOM)
    buffer.set(packet, CIPHER_HEADROOM)
    if (this.core.tunInput(buffer, CIPHER_HEADROOM, packet.length, this.#world.now)) this.#emit(this.core.transmit)
    this.drain()
  }

  /** A packet past the rules of the core, straight into the tunnel to a peer: as of a device that breaks them. */
  inject(peer: PeerId, buffer: Uint8Array, offset: number, length: number): void {
    if (this.node.encapsulate(peer, buffer, offset, length, this.#world.now) === Encapsulated.Sent) {
      this.#emit(this.node.transmit)
    }
    this.drain()
  }

  receive(socket: SocketAddress, { bytes, ecn, source }: Datagram): void {
    if (this.isAsleep) return
    const output = this.#output
    const { now } = this.#world
    if (this.core.networkInput(socket, source, ecn, bytes, 0, bytes.length, output, CIPHER_HEADROOM, now)) {
      const { buffer, length, offset } = this.core.packet
      this.#options.onPacket(buffer.slice(offset, offset + length))
    }
    this.drain()
  }

  /** After every call to the core. */
  drain(): void {
    const { core } = this
    for (let next = core.pollTransmit(); next !== undefined; next = core.pollTransmit()) this.#emit(next)
    for (let next = core.pollPacket(); next !== undefined; next = core.pollPacket()) this.#options.onPacket(next)
    this.#next = undefined
    this.#options.onEvents(this)
  }

  nextTick(): number {
    if (this.isAsleep) return Number.POSITIVE_INFINITY
    return this.#next ??= this.core.pollTimeout() ?? Number.POSITIVE_INFINITY
  }

  tick(): void {
    for (let ticks = 0; this.nextTick() <= this.#world.now; ticks++) {
      if (ticks >= MAX_TICKS) throw new Error(`${this.id} spins at ${this.#world.now}`)
      this.core.handleTimeout(this.#world.now)
      this.drain()
    }
  }

  #makeNode(): Node {
    const { now, random, unixEpochMillis } = this.#world
    return new Node({ crypto: cryptoFrom(random), now, unixEpochMillis })
  }

  #emit({ buffer, destination, ecn, length, offset, source }: Transmit): void {
    const socket = this.#sockets.find(({ family, text }) =>
      source === undefined ? family === destination.family : text === source.text
    )
    // No such family, or an address of a network that was left.
    if (socket?.family !== destination.family) return
    this.lan.send({ source: socket, destination, ecn, bytes: buffer.slice(offset, offset + length) })
  }
}
