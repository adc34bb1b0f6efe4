import { CIPHER_HEADROOM, CIPHER_TAILROOM } from "../crypto.ts"
import {
  Decapsulated,
  Encapsulated,
  type InnerPacket,
  type NodeApi,
  type NodeEvent,
  type PeerId,
  type Transmit
} from "../node/types.ts"
import type {
  CreateAuthorization,
  GatewayPush,
  GatewayRequest,
  InboundAuthorization,
  ResourceId
} from "../portal/types.ts"
import { familyOf, type IpAddress, type SocketAddress } from "../wire/address.ts"
import { type IcmpErrorKind, isIcmpError, writeIcmpError } from "../wire/icmp.ts"
import { IpPacket, isMulticast, MAX_PACKET_LENGTH, PacketKind } from "../wire/ip.ts"
import { wordsOf } from "../wire/ipWords.ts"
import { CandidateBatches } from "./CandidateBatches.ts"
import { isControlPacket, makeControlPacket, readControlEvent } from "./controlPacket.ts"
import { type DomainSetup, DomainSetups } from "./DomainSetups.ts"
import { DropCounts, type DropReason } from "./DropCounts.ts"
import { Access, type GrantedClient } from "./GrantedClient.ts"
import { GrantedClients } from "./GrantedClients.ts"
import { Inward } from "./NatTable.ts"
import { isProxyAddress, isTunnelAddress, TUNNEL_RANGES } from "./ranges.ts"
import { TransmitQueue } from "./TransmitQueue.ts"
import { TunAddresses } from "./TunAddresses.ts"
import type { GatewayTunnelEvent, GatewayTunnelStatus } from "./types.ts"

const HOUSEKEEPING_INTERVAL = 1000

export interface GatewayTunnelOptions {
  readonly node: NodeApi
  /** Unix time in milliseconds at `now` = 0, for the expiry of grants. */
  readonly unixEpochMillis: number
}

/**
 * The gateway's core, for tests and the lab (tunnel spec 14): it lets clients reach the resources that the portal has
 * granted them, until the grants end. Names are resolved outside: every `ResolveDomain` event is to be answered by
 * `domainResolved`. Driven as `ClientTunnel` is.
 */
export class GatewayTunnel {
  /** What `tunInput` wants sent, when it returned true. */
  readonly transmit: Transmit
  /** What `networkInput` found for the TUN device, when it returned true. */
  readonly packet: InnerPacket
  readonly #node: NodeApi
  readonly #unixEpochMillis: number
  readonly #clients = new GrantedClients()
  readonly #setups = new DomainSetups()
  readonly #candidates = new CandidateBatches()
  readonly #drops = new DropCounts()
  readonly #transmits = new TransmitQueue()
  readonly #events: Array<GatewayTunnelEvent> = []
  readonly #outbound = new IpPacket()
  readonly #inbound = new IpPacket()
  #addresses: TunAddresses | undefined
  /** When the next grant ends, or may end. */
  #nextExpiry = Number.POSITIVE_INFINITY
  /** When to look for translations that have ended; infinite as long as there are none. */
  #nextHousekeeping = Number.POSITIVE_INFINITY
  #closed = false

  constructor(options: GatewayTunnelOptions) {
    this.#node = options.node
    this.#unixEpochMillis = options.unixEpochMillis
    this.transmit = options.node.transmit
    this.packet = options.node.packet
  }

  /** Whether the packet, sealed in place, is to be sent now as `transmit` says (14.7). Never throws. */
  tunInput(buffer: Uint8Array, offset: number, length: number, now: number): boolean {
    if (this.#closed) return this.#drop("closed")
    const packet = this.#outbound
    if (!packet.parse(buffer, offset, length)) return this.#drop("malformed-packet")
    const { source, version } = packet
    const client = this.#clients.at(version, packet.destination)
    if (client === undefined) return this.#drop("not-a-peer")
    if (this.#addresses?.includes(version, source) !== true) {
      if (client.nat.translateIn(packet, now) === Inward.Expired) return this.#drop("expired-translation")
      if (isTunnelAddress(version, source)) return this.#drop("not-allowed")
      const isAllowed = isIcmpError(packet) ||
        client.access(version, source, packet.kind, packet.sourcePort) === Access.Allowed
      if (!isAllowed) return this.#drop("not-allowed")
    }
    return this.#send(client, buffer, offset, length, now)
  }

  /** Whether the datagram held a packet for the TUN device: `packet`, in `output`, laid out as `decapsulate` wants. */
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
  ): boolean {
    if (this.#closed) return this.#drop("closed")
    const outcome = this.#node.decapsulate(local, from, ecn, input, offset, length, output, outputOffset, now)
    this.#drainNode()
    if (outcome === Decapsulated.Dropped) return this.#drop("unreadable-datagram")
    if (outcome === Decapsulated.Handled) return false
    const packet = this.#inbound
    if (!packet.parse(this.packet.buffer, this.packet.offset, this.packet.length)) return this.#drop("malformed-packet")
    if (isMulticast(packet.version, packet.destination)) return this.#drop("multicast")
    const client = this.#clients.get(this.packet.peer)
    if (client === undefined) return this.#drop("no-peer-state")
    if (isControlPacket(packet)) return this.#handleControl(client, packet, now)
    return this.#admit(client, packet, now)
  }

  handleTimeout(now: number): void {
    if (this.#closed) return
    this.#node.handleTimeout(now)
    if (this.#nextExpiry <= now) this.#expire(now)
    if (this.#nextHousekeeping <= now) this.#endTranslations(now)
    for (const setup of this.#setups.takeExpired(now)) this.#finish(setup, undefined, now)
    this.#drainNode()
  }

  /** A datagram to send; its bytes are valid until the next call. */
  pollTransmit(): Transmit | undefined {
    return this.#node.pollTransmit() ?? this.#transmits.poll()
  }

  /** A gateway has nothing of its own for the TUN device: what it refuses it refuses to the client. */
  pollPacket(): Uint8Array | undefined {
    return undefined
  }

  pollTimeout(): number | undefined {
    if (this.#closed) return undefined
    const next = Math.min(
      this.#node.pollTimeout() ?? Number.POSITIVE_INFINITY,
      this.#nextExpiry,
      this.#nextHousekeeping,
      this.#setups.nextDeadline
    )
    return next === Number.POSITIVE_INFINITY ? undefined : next
  }

  pollEvent(): GatewayTunnelEvent | undefined {
    if (this.#closed) return undefined
    // Behind the rest: the portal wants to see a grant confirmed before candidates for it.
    this.#queueCandidates()
    return this.#events.shift()
  }

  handlePush(push: GatewayPush, now: number): void {
    if (this.#closed) return
    switch (push._tag) {
      case "GatewayInit":
        this.#node.updateRelays([], push.relays, now)
        this.#setAddresses(push.ipv4, push.ipv6)
        this.#retain(push.authorizations, now)
        break
      case "CreateAuthorization":
        this.#authorize(push.authorization, now)
        break
      case "GatewayIceCandidates":
        for (const candidate of push.candidates) this.#node.addRemoteCandidate(push.clientId, candidate, now)
        break
      case "GatewayInvalidateIceCandidates":
        for (const candidate of push.candidates) this.#node.removeRemoteCandidate(push.clientId, candidate, now)
        break
      case "RejectAccess":
        this.#clients.get(push.clientId)?.revoke(push.resourceId)
        this.#dismiss("the portal has withdrawn its access", now)
        break
      case "ResourceUpdated":
        for (const client of this.#clients.all()) client.setFilters(push.resource)
        break
      case "RelaysPresence":
        this.#node.updateRelays(push.disconnectedIds, push.connected, now)
    }
    this.#drainNode()
  }

  /** The answer to `ResolveDomain`: every address of the name, in any order. An answer that nobody waits for is nothing. */
  domainResolved(domain: string, hosts: ReadonlyArray<IpAddress>, now: number): void {
    if (this.#closed) return
    for (const setup of this.#setups.take(domain)) this.#finish(setup, hosts, now)
  }

  /** Candidates that were held back go out (15.3); the portal's `GatewayInit` follows. */
  portalConnected(_now: number): void {
    this.#candidates.release()
  }

  portalDisconnected(_now: number): void {
    this.#candidates.hold()
  }

  /** The network has changed; clients keep their grants and have to connect again. */
  reset(now: number): void {
    if (this.#closed) return
    const due = this.pollTimeout()
    if (due !== undefined && due <= now) this.handleTimeout(now)
    this.#transmits.clear()
    this.#node.reset(now)
    this.#drainNode()
  }

  /** Says goodbye to every client. Afterwards there are only these goodbyes to send, and every input is dropped. */
  close(now: number): void {
    if (this.#closed) return
    this.#closed = true
    this.#node.closeAll(now)
    this.#clients.clear()
  }

  status(now: number): GatewayTunnelStatus {
    return {
      clients: [...this.#clients.all()].map(({ id, resources }) => ({ id, resources })),
      peers: this.#node.status(now),
      dropped: this.#drops.snapshot()
    }
  }

  #send(client: GrantedClient, buffer: Uint8Array, offset: number, length: number, now: number): boolean {
    switch (this.#node.encapsulate(client.id, buffer, offset, length, now)) {
      case Encapsulated.Sent:
        return true
      case Encapsulated.Dropped:
        return this.#drop("no-path")
      case Encapsulated.NoSession:
        return this.#drop("no-session")
      // A gateway never buffers.
      case Encapsulated.StillConnecting:
      case Encapsulated.UnknownConnection:
        return this.#drop("not-connected")
    }
  }

  /** The way in, after the parts that do not depend on the client (14.3 from step 3 on). */
  #admit(client: GrantedClient, packet: IpPacket, now: number): boolean {
    const { destination, destinationPort, kind, version } = packet
    if (isIcmpError(packet)) return this.#drop("outbound-icmp-error")
    if (!client.addresses.includes(version, packet.source)) {
      this.#answer(client, packet, "prohibited", now)
      return this.#drop("not-tunnel-source")
    }
    if (this.#addresses?.includes(version, destination) === true) return true
    const access = isTunnelAddress(version, destination)
      ? Access.Prohibited
      : client.access(version, destination, kind, destinationPort)
    if (access === Access.Prohibited) return this.#refuse(client, packet, "prohibited", now)
    if (access === Access.Unreachable) return this.#refuse(client, packet, "unreachable-net", now)
    return isProxyAddress(version, destination) ? this.#translate(client, packet, now) : true
  }

  #translate(client: GrantedClient, packet: IpPacket, now: number): boolean {
    const host = client.hostOf(packet.version, packet.destination)
    // There is no way from one family to the other: the application tries that one next.
    if (host === undefined) return this.#refuse(client, packet, "unreachable-net", now)
    const { kind } = packet
    if (kind === PacketKind.Other || kind === PacketKind.OtherIcmp) return this.#drop("unsupported-protocol")
    if (!client.nat.translateOut(packet, host, now)) return this.#drop("translations-exhausted")
    this.#nextHousekeeping = Math.min(this.#nextHousekeeping, now + HOUSEKEEPING_INTERVAL)
    return true
  }

  #endTranslations(now: number): void {
    this.#nextHousekeeping = Number.POSITIVE_INFINITY
    for (const { nat } of this.#clients.all()) {
      nat.handleTimeout(now)
      if (nat.size > 0) this.#nextHousekeeping = now + HOUSEKEEPING_INTERVAL
    }
  }

  #refuse(client: GrantedClient, packet: IpPacket, kind: IcmpErrorKind, now: number): boolean {
    this.#answer(client, packet, kind, now)
    return this.#drop(kind)
  }

  #answer(client: GrantedClient, packet: IpPacket, kind: IcmpErrorKind, now: number): void {
    const buffer = new Uint8Array(CIPHER_HEADROOM + MAX_PACKET_LENGTH + CIPHER_TAILROOM)
    this.#tell(client, buffer, writeIcmpError(packet, kind, buffer, CIPHER_HEADROOM), now)
  }

  /** Sends a packet of our own, `length` bytes behind the headroom. */
  #tell(client: GrantedClient, buffer: Uint8Array, length: number, now: number): void {
    if (!this.#send(client, buffer, CIPHER_HEADROOM, length, now)) return
    if (!this.#transmits.push(this.transmit)) this.#drops.add("transmit-queue-full")
  }

  #handleControl(client: GrantedClient, packet: IpPacket, now: number): boolean {
    const event = readControlEvent(packet)
    switch (event._tag) {
      case "AssignedIps":
        return this.#setUp({ ...event, client: client.id }, client, now)
      case "Goodbye":
        this.#node.removeConnection(client.id)
        this.#forget(client, "the client said goodbye")
        return false
      case "Malformed":
        return this.#drop("malformed-control-packet")
      case "DomainStatus":
      case "Unknown":
        return this.#drop("unexpected-control-packet")
    }
  }

  #setUp(setup: DomainSetup, client: GrantedClient, now: number): false {
    // Any other address would lead past the translation, to where the client was not let in.
    if (!setup.proxyIps.every((address) => isProxyAddress(familyOf(address), wordsOf(address)))) {
      return this.#drop("malformed-control-packet")
    }
    if (!client.serves(setup.resource, setup.domain)) {
      this.#finish(setup, undefined, now)
      return false
    }
    const outcome = this.#setups.add(setup, now)
    if (outcome === "Full") return this.#drop("dns-overload")
    if (outcome === "Resolve") this.#events.push({ _tag: "ResolveDomain", domain: setup.domain })
    return false
  }

  /** `hosts` is `undefined` if the name could not be resolved in time, or was not to be resolved at all. */
  #finish(setup: DomainSetup, hosts: ReadonlyArray<IpAddress> | undefined, now: number): void {
    const client = this.#clients.get(setup.client)
    if (client === undefined) return
    const { domain, resource } = setup
    const status = hosts !== undefined && client.setUp(setup, hosts) ? "Active" : "Inactive"
    const packet = makeControlPacket({ _tag: "DomainStatus", resource, domain, status })
    const buffer = new Uint8Array(CIPHER_HEADROOM + packet.length + CIPHER_TAILROOM)
    buffer.set(packet, CIPHER_HEADROOM)
    this.#tell(client, buffer, packet.length, now)
  }

  #drainNode(): void {
    for (let event = this.#node.pollEvent(); event !== undefined; event = this.#node.pollEvent()) {
      this.#handleNodeEvent(event)
    }
  }

  #handleNodeEvent(event: NodeEvent): void {
    switch (event._tag) {
      case "NewIceCandidate":
        return this.#candidates.add(event.peer, event.candidate)
      case "InvalidateIceCandidate":
        return this.#candidates.remove(event.peer, event.candidate)
      case "ConnectionEstablished":
        if (this.#clients.get(event.peer) !== undefined) this.#events.push({ _tag: "PeerConnected", peer: event.peer })
        return
      case "ConnectionFailed":
        return this.#disconnected(event.peer, event.reason)
      case "ConnectionClosed":
        return this.#disconnected(event.peer, "the connection was closed")
      case "NoRelays":
        return this.#request({ _tag: "NoRelays" })
      case "RelaysUnusable":
        return // nobody waits for a gateway's word
    }
  }

  /** The grants stay: the client may come back and count on them (14.2). */
  #disconnected(peer: PeerId, reason: string): void {
    this.#candidates.forget(peer)
    if (this.#clients.get(peer) !== undefined) this.#events.push({ _tag: "PeerLost", peer, reason })
  }

  #setAddresses(ipv4: IpAddress, ipv6: IpAddress): void {
    if (this.#addresses?.isSame(ipv4, ipv6) === true) return
    this.#addresses = new TunAddresses(ipv4, ipv6)
    this.#events.push({ _tag: "TunConfigUpdated", config: { ipv4, ipv6, routes: TUNNEL_RANGES } })
  }

  #authorize(authorization: CreateAuthorization, now: number): void {
    const { client, expiresAt, resource } = authorization
    const outcome = this.#node.upsertConnection({
      peer: client.id,
      remoteKey: client.publicKey,
      presharedKey: client.presharedKey,
      localCredentials: authorization.gatewayIceCredentials,
      remoteCredentials: authorization.clientIceCredentials,
      role: "controlled",
      profile: "server",
      iceless: authorization.useIceless
    }, now)
    if (outcome === "NoRelays") return this.#request({ _tag: "NoRelays" })
    this.#clients.upsert(client.id, client.ipv4, client.ipv6).grant(resource, this.#monotonic(expiresAt))
    this.#nextExpiry = this.#clients.nextExpiry
    this.#request({ _tag: "AuthorizationConfirmed", ref: authorization.ref })
  }

  /** What the portal does not list is revoked, what it lists ends when it says (14.2). */
  #retain(authorizations: ReadonlyArray<InboundAuthorization>, now: number): void {
    const expiries = new Map<PeerId, Map<ResourceId, number>>()
    for (const { clientId, expiresAt, resourceId } of authorizations) {
      const ofClient = expiries.get(clientId) ?? new Map<ResourceId, number>()
      expiries.set(clientId, ofClient.set(resourceId, this.#monotonic(expiresAt)))
    }
    for (const client of this.#clients.all()) {
      const ofClient = expiries.get(client.id)
      client.retain((resource) => ofClient?.has(resource) === true)
      for (const [resource, expiresAt] of ofClient ?? []) client.setExpiry(resource, expiresAt)
    }
    this.#dismiss("the portal has withdrawn its access", now)
    this.#nextExpiry = this.#clients.nextExpiry
  }

  #expire(now: number): void {
    for (const client of this.#clients.all()) client.expire(now)
    this.#dismiss("its access has expired", now)
    this.#nextExpiry = this.#clients.nextExpiry
  }

  /** Clients without grants have no business here. */
  #dismiss(reason: string, now: number): void {
    for (const client of this.#clients.all()) {
      if (client.hasGrants) continue
      this.#node.closeConnection(client.id, now)
      this.#forget(client, reason)
    }
  }

  #forget(client: GrantedClient, reason: string): void {
    this.#clients.delete(client)
    this.#candidates.forget(client.id)
    this.#events.push({ _tag: "PeerLost", peer: client.id, reason })
  }

  #monotonic(unixSeconds: number | undefined): number {
    return unixSeconds === undefined ? Number.POSITIVE_INFINITY : unixSeconds * 1000 - this.#unixEpochMillis
  }

  #request(request: GatewayRequest): void {
    this.#events.push({ _tag: "Request", request })
  }

  #queueCandidates(): void {
    for (const { candidates, kind, peer } of this.#candidates.take()) {
      this.#request(
        kind === "added"
          ? { _tag: "BroadcastIceCandidates", clientIds: [peer], candidates }
          : { _tag: "BroadcastInvalidatedIceCandidates", clientIds: [peer], candidates }
      )
    }
  }

  #drop(reason: DropReason): false {
    this.#drops.add(reason)
    return false
  }
}
