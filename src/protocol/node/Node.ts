import type { Crypto } from "../crypto.ts"
import { looksLikeStun, parseCheck } from "../ice/checkMessage.ts"
import type { Arrival } from "../path/PathAgent.ts"
import { CACHE_LIFETIME } from "../path/ResponderCache.ts"
import { Allocation } from "../turn/Allocation.ts"
import type { GatheredCandidate } from "../turn/types.ts"
import { type IpAddress, SocketAddress } from "../wire/address.ts"
import { CHANNEL_HEADER_LENGTH } from "../wire/channelData.ts"
import { classify, DATA_OVERHEAD, MessageType, readReceiverIndex } from "../wire/wireguard.ts"
import { readMac1 } from "../wireguard/cookie.ts"
import { IndexAllocator } from "../wireguard/IndexAllocator.ts"
import { iceTimers, pathTimers } from "../wireguard/types.ts"
import { WireguardTunnel } from "../wireguard/WireguardTunnel.ts"
import { Connection } from "./Connection.ts"
import { ConnectionTable } from "./ConnectionTable.ts"
import { IceConnection } from "./IceConnection.ts"
import { mergeEcn } from "./innerPacket.ts"
import { NodeKey } from "./NodeKey.ts"
import { Outbox } from "./Outbox.ts"
import { PathConnection } from "./PathConnection.ts"
import { type MakeAllocation, RelayInput, Relays } from "./Relays.ts"
import { sealGoodbye, sealPacket } from "./sealPacket.ts"
import { TimedMap } from "./TimedMap.ts"
import {
  type ConnectionRequest,
  Decapsulated,
  Encapsulated,
  type InnerPacket,
  type NodeApi,
  type NodeEvent,
  type PeerId,
  type PeerStatus,
  type Relay,
  RELAY_PORT,
  type RelayId,
  type RelayStatus,
  type Transmit
} from "./types.ts"

export interface NodeOptions {
  readonly crypto: Crypto
  /** Monotonic milliseconds of the creation. */
  readonly now: number
  /** Unix time in milliseconds at `now` = 0. */
  readonly unixEpochMillis: number
  /** 32 bytes; fresh ones by default, and after a hard `reset` in any case. */
  readonly privateKey?: Uint8Array | undefined
  /** The client of a relay; a double in tests. */
  readonly makeAllocation?: MakeAllocation | undefined
}

/** How long the answer to a check is waited for, and how many are remembered. */
const TRANSACTION_LIFETIME = 10_000
const MAX_TRANSACTIONS = 65_536
/** The longest WireGuard message that anybody sends: a packet of 1280 bytes (spec 3.2). */
const MAX_MESSAGE = 1280 + DATA_OVERHEAD
/** Initiations that may be repeated: of so many peers at once, 10 s long. */
const MAX_INITIATIONS = 1024
const NOWHERE = new SocketAddress("0.0.0.0" as IpAddress, 0)

/**
 * The connectivity layer (connectivity spec): WireGuard tunnels to peers, over paths that ICE finds with the help of TURN
 * relays. Everything is driven by its calls; nothing here allocates for a data packet.
 */
export class Node implements NodeApi {
  readonly transmit: Transmit = {
    source: undefined,
    destination: NOWHERE,
    ecn: 0,
    buffer: new Uint8Array(0),
    offset: 0,
    length: 0
  }
  readonly packet: InnerPacket = { peer: "", buffer: new Uint8Array(0), offset: 0, length: 0 }
  /** Inbound datagrams that changed nothing: stragglers of a connection that ended within 5 s, and all others. */
  readonly dropped = { recent: 0, other: 0 }
  readonly #crypto: Crypto
  readonly #key: NodeKey
  readonly #unixEpochMillis: number
  readonly #indices: IndexAllocator
  readonly #connections = new ConnectionTable()
  readonly #relays: Relays
  #saidUnusable = false
  readonly #transactions = new TimedMap<string, IceConnection>(TRANSACTION_LIFETIME, MAX_TRANSACTIONS)
  /** Who has accepted an initiation, by its MAC1: copies of it are told apart before they cost anything. */
  readonly #initiations = new TimedMap<string, PathConnection>(CACHE_LIFETIME, MAX_INITIATIONS)
  readonly #outbox: Outbox
  readonly #events: Array<NodeEvent> = []
  /** For `removeConnection`, which is told no time and needs none but for this. */
  #latestNow: number

  constructor(options: NodeOptions) {
    this.#crypto = options.crypto
    this.#key = new NodeKey(options.crypto, options.now, options.privateKey)
    this.#unixEpochMillis = options.unixEpochMillis
    this.#latestNow = options.now
    this.#indices = new IndexAllocator(options.crypto)
    this.#relays = new Relays(
      options.crypto,
      options.makeAllocation ?? ((relay, now) => new Allocation({ relay, crypto: options.crypto, now }))
    )
    this.#outbox = new Outbox(this.#relays)
  }

  get publicKey(): Uint8Array {
    return this.#key.publicKey
  }

  upsertConnection(request: ConnectionRequest, now: number): "Created" | "Reused" | "NoRelays" {
    const existing = this.#connections.get(request.peer)
    if (existing?.matches(request) === true) {
      this.#reuse(existing, now)
      return "Reused"
    }
    if (existing !== undefined) this.#forget(existing, now)
    const relay = this.#relays.pick()
    if (relay === undefined) return "NoRelays"
    this.#create(request, relay, now)
    return "Created"
  }

  addRemoteCandidate(peer: PeerId, candidate: string, now: number): void {
    const connection = this.#connections.get(peer)
    if (connection === undefined) return
    this.#relays.bindChannels(connection.relay, connection.addRemoteCandidate(candidate, now), now)
    this.#advance(connection, now)
  }

  removeRemoteCandidate(peer: PeerId, candidate: string, now: number): void {
    const connection = this.#connections.get(peer)
    if (connection === undefined) return
    connection.removeRemoteCandidate(candidate, now)
    this.#advance(connection, now)
  }

  updateRelays(remove: ReadonlyArray<RelayId>, add: ReadonlyArray<Relay>, now: number): void {
    this.#relays.update(remove, add, now)
    this.#takeRelayEvents(now)
  }

  hasConnection(peer: PeerId): boolean {
    return this.#connections.get(peer) !== undefined
  }

  get awaitsRelays(): boolean {
    return this.#relays.isStarting
  }

  isEstablished(peer: PeerId): boolean {
    return this.#connections.get(peer)?.established === true
  }

  encapsulate(peer: PeerId, buffer: Uint8Array, offset: number, length: number, now: number): Encapsulated {
    const connection = this.#connections.get(peer)
    if (connection === undefined) return Encapsulated.UnknownConnection
    // Also between the path and the first session: the caller's queue is better than the loss (spec 12.3).
    if (!connection.established) return Encapsulated.StillConnecting
    connection.touch(now)
    const outcome = sealPacket(this.#relays, connection, buffer, offset, length, now, this.transmit)
    // Ten seconds before its end an unused session is only good for receiving, and the timers would wait for the end.
    if (outcome === Encapsulated.NoSession && connection.proposeHandshake(now)) this.#advance(connection, now)
    return outcome
  }

  decapsulate(
    local: SocketAddress,
    from: SocketAddress,
    ecn: number,
    input: Uint8Array,
    offset: number,
    length: number,
    output: Uint8Array,
    outputOffset: number,
    now: number
  ): Decapsulated {
    let to = local
    let source = from
    let isRelayed = false
    let at = offset
    let size = length
    if (from.port === RELAY_PORT && length > 0) {
      const relayed = this.#relays.handleInput(local, from, input, offset, length, now)
      if (relayed === RelayInput.Dropped) return this.#drop(now)
      if (relayed === RelayInput.Handled) {
        this.#takeRelayEvents(now)
        return Decapsulated.Handled
      }
      if (relayed === RelayInput.Unwrapped) {
        const { unwrapped } = this.#relays
        to = unwrapped.local ?? local
        source = unwrapped.from ?? from
        isRelayed = true
        at += CHANNEL_HEADER_LENGTH
        size -= CHANNEL_HEADER_LENGTH
      }
    }
    if (size > MAX_MESSAGE) return this.#drop(now)
    if (looksLikeStun(input, at, size)) {
      return this.#handleCheck(to, source, input.slice(at, at + size), now)
    }
    const type = classify(input, at, size)
    if (type !== MessageType.Data) {
      return type === 0
        ? this.#drop(now)
        : this.#handleHandshake(type, { local: to, isRelayed, from: source }, input.slice(at, at + size), now)
    }
    const prefix = readReceiverIndex(input, at) >>> 8
    const connection = this.#connections.byPrefix(prefix)
    if (connection === undefined) return this.#drop(now, prefix)
    const opened = connection.tunnel.open(input, at, size, output, outputOffset, now)
    if (opened < 0) return this.#drop(now)
    if (connection.opened(to, isRelayed, source, output, outputOffset, opened, now)) {
      this.#advance(connection, now)
      return Decapsulated.Handled
    }
    if (!connection.established) this.#update(connection, now)
    if (opened === 0) return Decapsulated.Handled
    connection.touch(now)
    mergeEcn(output, outputOffset, ecn)
    const { packet } = this
    packet.peer = connection.peer
    packet.buffer = output
    packet.offset = outputOffset
    packet.length = opened
    return Decapsulated.Packet
  }

  closeConnection(peer: PeerId, now: number): void {
    const connection = this.#connections.get(peer)
    if (connection === undefined) return
    this.#forget(connection, now)
    if (!connection.established) return
    const goodbye = sealGoodbye(this.#relays, connection, now)
    if (goodbye !== undefined) this.#outbox.add(goodbye)
    this.#events.push({ _tag: "ConnectionClosed", peer })
  }

  removeConnection(peer: PeerId): void {
    const connection = this.#connections.get(peer)
    if (connection !== undefined) this.#forget(connection, this.#latestNow)
  }

  closeAll(now: number): void {
    for (const connection of [...this.#connections]) this.closeConnection(connection.peer, now)
  }

  reset(now: number): void {
    this.#latestNow = now
    this.#outbox.clear()
    this.#events.length = 0
    this.#transactions.clear()
    // With all sessions inside the tunnel nobody outside has to know that we moved.
    const keeps = this.#connections.size > 0 && [...this.#connections].every((one) => one instanceof PathConnection)
    for (const connection of [...this.#connections]) {
      if (keeps && connection instanceof PathConnection && connection.roam(now)) continue
      this.#forget(connection, now)
      this.#events.push({ _tag: "ConnectionClosed", peer: connection.peer })
    }
    if (!keeps) this.#key.renew(now)
    this.#relays.restart(now)
  }

  handleTimeout(now: number): void {
    this.#latestNow = now
    this.#relays.handleTimeout(now)
    this.#takeRelayEvents(now)
  }

  pollTransmit(): Transmit | undefined {
    return this.#outbox.poll()
  }

  pollEvent(): NodeEvent | undefined {
    return this.#events.shift()
  }

  pollTimeout(): number | undefined {
    let next = this.#relays.pollTimeout() ?? Number.POSITIVE_INFINITY
    for (const connection of this.#connections) next = Math.min(next, connection.pollTimeout())
    return next === Number.POSITIVE_INFINITY ? undefined : next
  }

  status(now: number): ReadonlyArray<PeerStatus> {
    return [...this.#connections].map((connection) => connection.status(now))
  }

  relayStatus(): ReadonlyArray<RelayStatus> {
    return this.#relays.status()
  }

  #create(request: ConnectionRequest, relay: RelayId, now: number): void {
    const crypto = this.#crypto
    const indexPrefix = this.#indices.next()
    if (indexPrefix === undefined) throw new Error("this node has made 2^24 connections, and has no index for another")
    const tunnel = new WireguardTunnel({
      crypto,
      privateKey: this.#key.privateKey,
      remoteKey: request.remoteKey,
      presharedKey: request.presharedKey,
      indexPrefix,
      timers: request.iceless ? pathTimers : iceTimers,
      unixEpochMillis: this.#unixEpochMillis
    }, now)
    const parts = { request, tunnel, indexPrefix, relay }
    const connection = request.iceless ? new PathConnection(parts, now) : new IceConnection(crypto, parts, now)
    this.#connections.add(connection)
    this.#addCandidates(connection, now)
    this.#advance(connection, now)
  }

  /** The peer starts over, as far as it knows: tell it everything again (spec 12.2). */
  #reuse(connection: Connection, now: number): void {
    connection.renew(now)
    if (connection.relay !== undefined) {
      for (const candidate of this.#relays.candidates(connection.relay)) connection.addLocalCandidate(candidate, now)
    }
    this.#announceAll(connection, connection.agent.announcements())
    connection.proposeHandshake(now)
    this.#advance(connection, now)
  }

  #addCandidates(connection: Connection, now: number): void {
    if (connection.relay === undefined) return
    for (const candidate of this.#relays.candidates(connection.relay)) {
      this.#announce(connection, connection.addLocalCandidate(candidate, now))
    }
  }

  #announce(connection: Connection, candidate: string | undefined): void {
    if (candidate !== undefined) this.#events.push({ _tag: "NewIceCandidate", peer: connection.peer, candidate })
  }

  #announceAll({ peer }: Connection, candidates: ReadonlyArray<string>): void {
    for (const candidate of candidates) this.#events.push({ _tag: "NewIceCandidate", peer, candidate })
  }

  #withdrawAll({ peer }: Connection, candidates: ReadonlyArray<string>): void {
    for (const candidate of candidates) this.#events.push({ _tag: "InvalidateIceCandidate", peer, candidate })
  }

  #forget(connection: Connection, now: number): void {
    this.#connections.remove(connection, now)
    if (connection instanceof IceConnection) this.#transactions.removeValue(connection)
    if (connection instanceof PathConnection) this.#initiations.removeValue(connection)
  }

  /** Lets a connection do what is due, after anything that may have changed it. */
  #advance(connection: Connection, now: number): void {
    const failure = connection.handleTimeout(now)
    if (failure !== undefined) {
      this.#forget(connection, now)
      // It may be the relay that has died: the next connection is not to wait for its keep-alive.
      if (connection.relay !== undefined) this.#relays.get(connection.relay)?.probe(now)
      this.#withdrawAll(connection, connection.withdrawals())
      this.#events.push({ _tag: "ConnectionFailed", peer: connection.peer, reason: failure })
      return
    }
    const renewal = connection.renewal(now)
    if (renewal !== undefined) {
      this.#withdrawAll(connection, renewal.withdrawn)
      this.#announceAll(connection, renewal.announced)
    }
    this.#update(connection, now)
  }

  #update(connection: Connection, now: number): void {
    if (connection.update(now)) this.#events.push({ _tag: "ConnectionEstablished", peer: connection.peer })
    this.#drain(connection, now)
  }

  /** Then advances every connection. */
  #takeRelayEvents(now: number): void {
    for (let event = this.#relays.pollEvent(); event !== undefined; event = this.#relays.pollEvent()) {
      switch (event._tag) {
        case "NewCandidate":
          for (const connection of this.#connections) {
            if (connection.relay !== event.relay) continue
            connection.touch(now)
            this.#announce(connection, connection.addLocalCandidate(event.candidate, now))
            // The relay holds no channels for us yet, or no more.
            if (event.candidate.kind === "relay") {
              this.#relays.bindChannels(event.relay, connection.expectedPeers, now)
            }
          }
          break
        case "InvalidatedCandidate":
          this.#withdraw(event.candidate, now)
          break
        case "Gone":
          for (const connection of this.#connections) if (connection.relay === event.relay) connection.relay = undefined
          break
        case "NoneLeft":
          this.#events.push({ _tag: "NoRelays" })
          break
      }
    }
    this.#noticeUnusableRelays()
    for (const connection of this.#connections) {
      if (connection.relay === undefined) this.#migrate(connection, now)
    }
    for (const connection of [...this.#connections]) this.#advance(connection, now)
  }

  #noticeUnusableRelays(): void {
    if (this.#relays.isUsable) this.#saidUnusable = false
    if (this.#saidUnusable) return
    const reasons = this.#relays.unusable
    if (reasons === undefined) return
    this.#saidUnusable = true
    this.#events.push({ _tag: "RelaysUnusable", reasons })
  }

  #withdraw(candidate: GatheredCandidate, now: number): void {
    for (const connection of this.#connections) {
      const text = connection.removeLocalCandidate(candidate, now)
      if (text === undefined) continue
      connection.touch(now)
      this.#events.push({ _tag: "InvalidateIceCandidate", peer: connection.peer, candidate: text })
    }
  }

  /** Adopts another relay, if one has been measured (spec 12.6). */
  #migrate(connection: Connection, now: number): void {
    connection.relay = this.#relays.pick()
    if (connection.relay === undefined) return
    this.#addCandidates(connection, now)
    this.#relays.bindChannels(connection.relay, connection.expectedPeers, now)
  }

  /** `name` is what the datagram called its connection by, if there is none of that name. */
  #drop(now: number, name?: string | number | Uint8Array): Decapsulated {
    if (name !== undefined && this.#connections.wasRecent(name, now)) this.dropped.recent += 1
    else this.dropped.other += 1
    return Decapsulated.Dropped
  }

  #handleCheck(local: SocketAddress, from: SocketAddress, bytes: Uint8Array, now: number): Decapsulated {
    const check = parseCheck(bytes)
    if (check?._tag === "Request") {
      const connection = this.#connections.byUfrags(check.localUfrag, check.remoteUfrag)
      if (connection?.agent.handleRequest(local, from, check, now) !== true) {
        return this.#drop(now, `${check.localUfrag}:${check.remoteUfrag}`)
      }
      this.#advance(connection, now)
      return Decapsulated.Handled
    }
    if (check?._tag !== "Success") return this.#drop(now)
    const connection = this.#transactions.take(check.transaction, now)
    if (connection?.agent.handleResponse(check, now) !== true) return this.#drop(now)
    this.#advance(connection, now)
    return Decapsulated.Handled
  }

  #handleHandshake(type: MessageType, arrival: Arrival, message: Uint8Array, now: number): Decapsulated {
    const { from, isRelayed, local } = arrival
    const repeated = this.#repeated(type, message, now)
    if (type !== MessageType.CookieReply && repeated === undefined) {
      const verdict = this.#key.verify(message, from.address, now)
      if (verdict._tag === "Dropped") return this.#drop(now)
      if (verdict._tag === "CookieReply") {
        this.#outbox.send(local, isRelayed, from, verdict.message, now)
        return Decapsulated.Handled
      }
    }
    const connection = repeated ?? this.#recipient(type, message)
    if (!(connection instanceof Connection)) return this.#drop(now, connection)
    const isUseful = type === MessageType.CookieReply
      ? connection.tunnel.handleCookieReply(message, now) !== "Rejected"
      : connection.handleHandshake(type, arrival, message, now)
    if (!isUseful) return repeated === undefined ? this.#drop(now) : Decapsulated.Handled
    if (type === MessageType.Initiation && connection instanceof PathConnection) {
      this.#initiations.set(mac1Text(message), connection, now)
    }
    this.#advance(connection, now)
    return Decapsulated.Handled
  }

  /** Whose latest handshake this is a copy of: in path mode a message takes several ways at once. */
  #repeated(type: MessageType, message: Uint8Array, now: number): PathConnection | undefined {
    const connection = type === MessageType.Initiation
      ? this.#initiations.get(mac1Text(message), now)
      : type === MessageType.Response
      ? this.#connections.byPrefix(readReceiverIndex(message, 0) >>> 8)
      : undefined
    return connection instanceof PathConnection && connection.isKnownHandshake(type, message) ? connection : undefined
  }

  /** Whose handshake message this is, or the name of nobody we know. */
  #recipient(type: MessageType, message: Uint8Array): Connection | Uint8Array | number | undefined {
    if (type !== MessageType.Initiation) {
      const prefix = readReceiverIndex(message, 0) >>> 8
      return this.#connections.byPrefix(prefix) ?? prefix
    }
    const key = this.#key.initiatorOf(message)
    return key === undefined ? undefined : this.#connections.byKey(key) ?? key
  }

  /** Moves what connections want to send into datagrams. */
  #drain(connection: Connection, now: number): void {
    const { agent, path } = connection
    for (let check = agent.pollTransmit(); check !== undefined; check = agent.pollTransmit()) {
      const isSent = this.#outbox.send(check.source, check.relayed, check.destination, check.message, now)
      if (isSent && check.transaction !== undefined && connection instanceof IceConnection) {
        this.#transactions.set(check.transaction, connection, now)
      }
    }
    for (let message = connection.pollTunnel(); message !== undefined; message = connection.pollTunnel()) {
      if (path?.localKind === "relay") {
        const allocation = connection.relay === undefined ? undefined : this.#relays.get(connection.relay)
        this.#outbox.sendRelayed(allocation, path.remote, message, now)
      } else if (path !== undefined) {
        this.#outbox.send(path.local, false, path.remote, message, now)
      }
    }
  }
}

const mac1Text = (message: Uint8Array): string => String.fromCharCode(...readMac1(message) ?? [])
