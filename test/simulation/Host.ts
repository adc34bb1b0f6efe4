/** A machine with a `Node`, sockets behind a `Nat`, and the part of the tunnel core that buffers and signals. */
import { CIPHER_HEADROOM, CIPHER_TAILROOM } from "../../src/protocol/crypto.ts"
import { Node } from "../../src/protocol/node/Node.ts"
import {
  type ConnectionRequest,
  Decapsulated,
  Encapsulated,
  type NodeEvent,
  type PeerStatus,
  type Transmit
} from "../../src/protocol/node/types.ts"
import { ip, type IpAddress, SocketAddress } from "../../src/protocol/wire/address.ts"
import { Nat, type NatKind } from "./nat.ts"
import { cryptoFrom } from "./random.ts"
import type { Datagram, Station, Timed, World } from "./World.ts"

export interface HostOptions {
  readonly name: string
  readonly nat: NatKind
  /** Also has an address of the other family, which nothing translates. */
  readonly ipv6?: boolean
}

const PORT = 52_625
const MAX_BUFFERED = 128
const IPV4_HEADER = 20

/** An IPv4 packet around `text`, ECT(0), without a checksum. */
const packetOf = (text: string): Uint8Array => {
  const payload = new TextEncoder().encode(text)
  const packet = new Uint8Array(IPV4_HEADER + payload.length)
  packet.set([0x45, 2, packet.length >> 8, packet.length & 0xff])
  packet.set(payload, IPV4_HEADER)
  return packet
}

export class Host implements Station, Timed {
  readonly name: string
  readonly node: Node
  /** What arrived in the tunnel. */
  readonly received: Array<string> = []
  /** Everything but candidates. */
  readonly events: Array<NodeEvent & { readonly at: number }> = []
  /** Neither sends nor receives any more. */
  isGone = false
  onEvent: (event: NodeEvent) => void = () => undefined
  onDatagram: (local: SocketAddress, datagram: Datagram) => void = () => undefined
  readonly #world: World
  readonly #number: number
  #nat: Nat
  #sockets: Array<SocketAddress> = []
  /** Times that the host has moved to another network. */
  #moves = 0
  readonly #buffered = new Map<string, Array<string>>()
  readonly #natKind: NatKind
  readonly #hasIpv6: boolean

  constructor(world: World, number: number, options: HostOptions) {
    this.name = options.name
    this.#world = world
    this.#number = number
    this.#natKind = options.nat
    this.#hasIpv6 = options.ipv6 ?? false
    this.#nat = this.#bind()
    this.node = new Node({
      crypto: cryptoFrom(world.random),
      now: world.now,
      unixEpochMillis: world.unixEpochMillis
    })
  }

  get deviceKey(): string {
    return Buffer.from(this.node.publicKey).toString("base64")
  }

  /** Every datagram has to come from one of these. */
  get sockets(): ReadonlyArray<SocketAddress> {
    return this.#sockets
  }

  status(peer: Host): PeerStatus | undefined {
    return this.node.status(this.#world.now).find((status) => status.peer === peer.name)
  }

  /** Another network, hence other addresses; the caller resets the node. */
  move(): void {
    this.#moves += 1
    this.#nat = this.#bind()
  }

  #bind(): Nat {
    const subnet = this.#number * 16 + this.#moves
    const outside = ip(`198.51.100.${subnet}`)
    const inside = this.#natKind === "none" ? outside : ip(`10.0.${subnet}.2`)
    this.#sockets = [new SocketAddress(inside, PORT)]
    if (this.#hasIpv6) this.#sockets.push(new SocketAddress(ip(`2001:db8::${subnet}`), PORT))
    return new Nat(this.#natKind, outside, 20_000 + Math.floor(this.#world.random() * 20_000))
  }

  owns(address: IpAddress): boolean {
    return this.#nat.address === address || this.#sockets[1]?.address === address
  }

  useRelays(...ids: ReadonlyArray<string>): void {
    this.changeRelays([], ids)
  }

  changeRelays(remove: ReadonlyArray<string>, add: ReadonlyArray<string>): void {
    const relays = add.map((id) => this.#world.describeRelay(id, this.deviceKey))
    this.node.updateRelays(remove, relays, this.#world.now)
    this.settle()
  }

  upsert(request: ConnectionRequest): ReturnType<Node["upsertConnection"]> {
    const outcome = this.node.upsertConnection(request, this.#world.now)
    this.settle()
    return outcome
  }

  reset(): void {
    this.node.reset(this.#world.now)
    this.settle()
  }

  close(peer: Host): void {
    this.node.closeConnection(peer.name, this.#world.now)
    this.settle()
  }

  /** Sends `text` in a packet, later if the connection is still coming up. */
  send(peer: Host, text: string): Encapsulated {
    const packet = packetOf(text)
    const buffer = new Uint8Array(CIPHER_HEADROOM + packet.length + CIPHER_TAILROOM)
    buffer.set(packet, CIPHER_HEADROOM)
    const outcome = this.node.encapsulate(peer.name, buffer, CIPHER_HEADROOM, packet.length, this.#world.now)
    if (outcome === Encapsulated.Sent) {
      this.#emit(this.node.transmit)
    } else if (outcome === Encapsulated.StillConnecting) {
      const waiting = this.#buffered.get(peer.name) ?? []
      this.#buffered.set(peer.name, [...waiting, text].slice(-MAX_BUFFERED))
    }
    this.settle()
    return outcome
  }

  receive({ bytes, destination, ecn, source }: Datagram): void {
    const isTranslated = destination.family === 4
    const local = isTranslated ? this.#nat.in(source, destination, this.#world.now) : destination
    const socket = this.#sockets.find(({ text }) => text === local?.text)
    if (this.isGone || socket === undefined) return
    this.onDatagram(socket, { bytes, destination, ecn, source })
    this.take(socket, source, ecn, bytes)
  }

  /** A datagram as a socket hands it over. */
  take(local: SocketAddress, source: SocketAddress, ecn: number, bytes: Uint8Array): Decapsulated {
    const output = new Uint8Array(CIPHER_HEADROOM + 1280 + CIPHER_TAILROOM)
    const { node } = this
    const { now } = this.#world
    const outcome = node.decapsulate(local, source, ecn, bytes, 0, bytes.length, output, CIPHER_HEADROOM, now)
    if (outcome === Decapsulated.Packet) {
      const { buffer, length, offset } = node.packet
      this.received.push(new TextDecoder().decode(buffer.subarray(offset + IPV4_HEADER, offset + length)))
    }
    this.settle()
    return outcome
  }

  nextTick(): number {
    return this.isGone ? Number.POSITIVE_INFINITY : this.node.pollTimeout() ?? Number.POSITIVE_INFINITY
  }

  tick(): void {
    if (this.nextTick() > this.#world.now) return
    this.node.handleTimeout(this.#world.now)
    this.settle()
  }

  /** What a driver does after each call. */
  settle(): void {
    for (let transmit = this.node.pollTransmit(); transmit !== undefined; transmit = this.node.pollTransmit()) {
      this.#emit(transmit)
    }
    for (let event = this.node.pollEvent(); event !== undefined; event = this.node.pollEvent()) {
      if (event._tag !== "NewIceCandidate" && event._tag !== "InvalidateIceCandidate") {
        this.events.push({ ...event, at: this.#world.now })
      }
      if (event._tag === "ConnectionEstablished") {
        const peer = this.#world.hosts.find(({ name }) => name === event.peer)
        const waiting = this.#buffered.get(event.peer) ?? []
        this.#buffered.delete(event.peer)
        if (peer !== undefined) { for (const text of waiting) this.send(peer, text) }
      }
      this.onEvent(event)
    }
  }

  #emit({ buffer, destination, ecn, length, offset, source }: Transmit): void {
    const socket = source === undefined
      ? this.#sockets.find(({ family }) => family === destination.family)
      : this.#sockets.find(({ text }) => text === source.text)
    // The network is unreachable, or the address is one of the network that the host has left.
    if (this.isGone || socket === undefined || socket.family !== destination.family) return
    const outside = socket.family === 4 ? this.#nat.out(socket, destination, this.#world.now) : socket
    if (outside === undefined) return
    this.#world.send({ source: outside, destination, ecn, bytes: buffer.slice(offset, offset + length) })
  }
}
