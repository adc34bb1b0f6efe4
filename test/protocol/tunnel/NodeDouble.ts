import { vi } from "vitest"
import { CIPHER_HEADROOM } from "../../../src/protocol/crypto.ts"
import {
  type ConnectionRequest,
  Decapsulated,
  Encapsulated,
  type InnerPacket,
  type NodeApi,
  type NodeEvent,
  type PeerId,
  type PeerStatus,
  type RelayStatus,
  type Transmit
} from "../../../src/protocol/node/types.ts"
import { ip, SocketAddress } from "../../../src/protocol/wire/address.ts"

export const outside = new SocketAddress(ip("198.51.100.7"), 52_625)

const GOODBYE = 0xee

/**
 * A node without cryptography or paths: a connection is up when the test says so, sealing marks the packet by inverting
 * it in place, and a datagram is whatever the test puts into `inbound`.
 */
export class NodeDouble implements NodeApi {
  readonly publicKey = new Uint8Array(32)
  readonly transmit: Transmit = {
    source: undefined,
    destination: outside,
    ecn: 0,
    buffer: new Uint8Array(0),
    offset: 0,
    length: 0
  }
  readonly packet: InnerPacket = { peer: "", buffer: new Uint8Array(0), offset: 0, length: 0 }
  /** What the next datagram is: an inner packet of a peer, or an outcome without one. */
  inbound: { readonly peer: PeerId; readonly bytes: Uint8Array } | Decapsulated = Decapsulated.Dropped
  /** What `encapsulate` says of established connections. */
  outcome: Encapsulated = Encapsulated.Sent
  hasRelays = true
  timeout: number | undefined
  readonly requests: Array<ConnectionRequest> = []
  readonly events: Array<NodeEvent> = []
  /** Peers to whom a goodbye was sent. */
  readonly goodbyes: Array<PeerId> = []
  awaitsRelays = false
  /** As a node whose connections are all in path mode. */
  keepsConnections = false
  readonly updateRelays = vi.fn<NodeApi["updateRelays"]>()
  readonly addRemoteCandidate = vi.fn<NodeApi["addRemoteCandidate"]>()
  readonly removeRemoteCandidate = vi.fn<NodeApi["removeRemoteCandidate"]>()
  readonly handleTimeout = vi.fn<NodeApi["handleTimeout"]>()
  readonly #connections = new Map<PeerId, { readonly request: ConnectionRequest; established: boolean }>()
  readonly #queue: Array<Transmit> = []
  readonly #addresses = new Map<PeerId, SocketAddress>()

  #addressOf(peer: PeerId): SocketAddress {
    const address = this.#addresses.get(peer) ?? new SocketAddress(outside.address, 1000 + this.#addresses.size)
    this.#addresses.set(peer, address)
    return address
  }

  /** Whom a datagram is for. */
  peerAt(address: SocketAddress): PeerId | undefined {
    return [...this.#addresses].find(([, of]) => of.text === address.text)?.[0]
  }

  upsertConnection(request: ConnectionRequest): "Created" | "Reused" | "NoRelays" {
    this.requests.push(request)
    const known = this.#connections.get(request.peer)
    if (known?.request.localCredentials.username === request.localCredentials.username) return "Reused"
    if (!this.hasRelays) return "NoRelays"
    this.#connections.set(request.peer, { request, established: false })
    return "Created"
  }

  /** The connection is up. */
  establish(peer: PeerId): void {
    const connection = this.#connections.get(peer)
    if (connection === undefined) throw new Error(`${peer} has no connection`)
    connection.established = true
    this.events.push({ _tag: "ConnectionEstablished", peer })
  }

  fail(peer: PeerId): void {
    this.#connections.delete(peer)
    this.events.push({ _tag: "ConnectionFailed", peer, reason: "no path works" })
  }

  hasConnection(peer: PeerId): boolean {
    return this.#connections.has(peer)
  }

  isEstablished(peer: PeerId): boolean {
    return this.#connections.get(peer)?.established === true
  }

  encapsulate(peer: PeerId, buffer: Uint8Array, offset: number, length: number): Encapsulated {
    const connection = this.#connections.get(peer)
    if (connection === undefined) return Encapsulated.UnknownConnection
    if (!connection.established) return Encapsulated.StillConnecting
    if (this.outcome !== Encapsulated.Sent) return this.outcome
    for (let i = offset; i < offset + length; i++) buffer[i] = (buffer[i] as number) ^ 0xff
    Object.assign(this.transmit, { buffer, offset, length, destination: this.#addressOf(peer) })
    return Encapsulated.Sent
  }

  decapsulate(
    _local: SocketAddress,
    _from: SocketAddress,
    _ecn: number,
    _input: Uint8Array,
    _offset: number,
    _length: number,
    output: Uint8Array,
    outputOffset: number
  ): Decapsulated {
    if (typeof this.inbound === "number") return this.inbound
    const { bytes, peer } = this.inbound
    output.set(bytes, outputOffset)
    Object.assign(this.packet, { peer, buffer: output, offset: outputOffset, length: bytes.length })
    return Decapsulated.Packet
  }

  closeConnection(peer: PeerId): void {
    const connection = this.#connections.get(peer)
    this.#connections.delete(peer)
    if (connection?.established !== true) return
    this.goodbyes.push(peer)
    const buffer = Uint8Array.of(GOODBYE)
    this.#queue.push({ source: undefined, destination: outside, ecn: 0, buffer, offset: 0, length: 1 })
    this.events.push({ _tag: "ConnectionClosed", peer })
  }

  removeConnection(peer: PeerId): void {
    this.#connections.delete(peer)
  }

  closeAll(): void {
    for (const peer of [...this.#connections.keys()]) this.closeConnection(peer)
  }

  reset(): void {
    this.events.length = 0
    if (this.keepsConnections) return
    for (const peer of this.#connections.keys()) this.events.push({ _tag: "ConnectionClosed", peer })
    this.#connections.clear()
  }

  pollTransmit(): Transmit | undefined {
    return this.#queue.shift()
  }

  pollEvent(): NodeEvent | undefined {
    return this.events.shift()
  }

  pollTimeout(): number | undefined {
    return this.timeout
  }

  relayStatus(): ReadonlyArray<RelayStatus> {
    return []
  }

  status(): ReadonlyArray<PeerStatus> {
    return Array.from(this.#connections, ([peer, { established }]) => ({
      peer,
      state: established ? "connected" : "connecting",
      bytesSent: 0,
      bytesReceived: 0
    }))
  }
}

interface Core {
  tunInput(buffer: Uint8Array, offset: number, length: number, now: number): boolean
  networkInput(
    local: SocketAddress,
    from: SocketAddress,
    ecn: number,
    input: Uint8Array,
    offset: number,
    length: number,
    output: Uint8Array,
    outputOffset: number,
    now: number
  ): boolean
  readonly transmit: Transmit
  readonly packet: InnerPacket
  pollTransmit(): Transmit | undefined
  pollPacket(): Uint8Array | undefined
  pollTimeout(): number | undefined
  handleTimeout(now: number): void
  pollEvent(): unknown
  status(now: number): { readonly dropped: { readonly [reason: string]: number } }
}

/** Drives a core over a `NodeDouble`, as a driver with a clock of its own would. */
export class Harness<C extends Core> {
  now = 1_000_000
  readonly node: NodeDouble
  readonly core: C
  #dropped: { readonly [reason: string]: number } = {}

  constructor(make: (node: NodeDouble) => C) {
    this.node = new NodeDouble()
    this.core = make(this.node)
  }

  /** An application's packet. Returns it as the peer will read it, if it is sent now. */
  fromTun(packet: Uint8Array): Uint8Array | undefined {
    const buffer = new Uint8Array(CIPHER_HEADROOM + 2048)
    buffer.set(packet, CIPHER_HEADROOM)
    return this.core.tunInput(buffer, CIPHER_HEADROOM, packet.length, this.now) ? opened(this.core.transmit) : undefined
  }

  /** A peer's packet. Returns it as the TUN device gets it, if it does. */
  fromPeer(peer: PeerId, packet: Uint8Array): Uint8Array | undefined {
    this.node.inbound = { peer, bytes: packet }
    return this.#datagram()
  }

  /** Lets the core find what the node has to say. */
  nudge(): void {
    this.node.inbound = Decapsulated.Handled
    this.#datagram()
  }

  /** Packets that the core sent by itself since, without goodbyes. */
  sent(): ReadonlyArray<Uint8Array> {
    return this.deliveries().map(({ bytes }) => bytes)
  }

  /** As `sent`, with the peers that they are for. */
  deliveries(): ReadonlyArray<{ readonly peer: PeerId; readonly bytes: Uint8Array }> {
    const deliveries: Array<{ readonly peer: PeerId; readonly bytes: Uint8Array }> = []
    for (let next = this.core.pollTransmit(); next !== undefined; next = this.core.pollTransmit()) {
      const peer = this.node.peerAt(next.destination)
      if (next.buffer[next.offset] !== GOODBYE && peer !== undefined) deliveries.push({ peer, bytes: opened(next) })
    }
    return deliveries
  }

  /** As `fromTun`, with the peer that the packet is for. */
  route(packet: Uint8Array): { readonly peer: PeerId; readonly bytes: Uint8Array } | undefined {
    const bytes = this.fromTun(packet)
    const peer = this.node.peerAt(this.core.transmit.destination)
    return bytes === undefined || peer === undefined ? undefined : { peer, bytes }
  }

  /** Packets of the core's own for the TUN device. */
  toTun(): ReadonlyArray<Uint8Array> {
    const packets: Array<Uint8Array> = []
    for (let next = this.core.pollPacket(); next !== undefined; next = this.core.pollPacket()) {
      packets.push(next.slice())
    }
    return packets
  }

  /** Drops since the last call. */
  dropped(): { readonly [reason: string]: number } {
    const { dropped } = this.core.status(this.now)
    const before = this.#dropped
    this.#dropped = dropped
    return Object.fromEntries(
      Object.entries(dropped).map(([reason, count]) => [reason, count - (before[reason] ?? 0)] as const)
        .filter(([, count]) => count > 0)
    )
  }

  events(): ReadonlyArray<NonNullable<ReturnType<C["pollEvent"]>>> {
    const events: Array<NonNullable<ReturnType<C["pollEvent"]>>> = []
    for (let next = this.core.pollEvent(); next !== undefined; next = this.core.pollEvent()) events.push(next as never)
    return events
  }

  /** Time passes, the core's deadlines are kept. */
  advance(millis: number): void {
    const end = this.now + millis
    for (let at = this.core.pollTimeout(); at !== undefined && at <= end; at = this.core.pollTimeout()) {
      this.now = Math.max(this.now, at)
      this.core.handleTimeout(this.now)
      if (this.core.pollTimeout() === at) break
    }
    this.now = end
  }

  #datagram(): Uint8Array | undefined {
    const output = new Uint8Array(CIPHER_HEADROOM + 4096)
    const input = new Uint8Array(1)
    const isPacket = this.core.networkInput(outside, outside, 0, input, 0, 1, output, CIPHER_HEADROOM, this.now)
    const { buffer, length, offset } = this.core.packet
    return isPacket ? buffer.slice(offset, offset + length) : undefined
  }
}

const opened = ({ buffer, length, offset }: Transmit): Uint8Array =>
  buffer.slice(offset, offset + length).map((byte) => byte ^ 0xff)
