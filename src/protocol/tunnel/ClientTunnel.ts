import { CIPHER_HEADROOM } from "../crypto.ts"
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
  AuthorizationCreated,
  ClientPush,
  ClientRequest,
  InterfaceConfig,
  Resource,
  ResourceId
} from "../portal/types.ts"
import type { Family, SocketAddress } from "../wire/address.ts"
import { IcmpError, isIcmpError, parseIcmpError, writeIcmpError } from "../wire/icmp.ts"
import { IpPacket, isMulticast, MAX_PACKET_LENGTH, PacketKind } from "../wire/ip.ts"
import type { IpWords } from "../wire/ipWords.ts"
import { ClientEvents } from "./ClientEvents.ts"
import type { ClientExtension } from "./ClientExtension.ts"
import { type ClientResource, routesAlike } from "./ClientResource.ts"
import { ClientResources, networksOf } from "./ClientResources.ts"
import { isControlPacket, readControlEvent } from "./controlPacket.ts"
import { DropCounts, type DropReason } from "./DropCounts.ts"
import { GatewayPeer } from "./GatewayPeer.ts"
import { GatewayPreferences } from "./GatewayPreferences.ts"
import { PacketQueue } from "./PacketQueue.ts"
import { INTENT_COOL_DOWN, PendingAuthorizations } from "./PendingAuthorizations.ts"
import { isSentinelAddress, isTunnelAddress } from "./ranges.ts"
import { SiteStates } from "./SiteStates.ts"
import { TransmitQueue } from "./TransmitQueue.ts"
import { TunAddresses } from "./TunAddresses.ts"
import type { ClientTunnelEvent, ClientTunnelStatus, TunConfig } from "./types.ts"
import { type BufferedPacket, UniquePacketBuffer } from "./UniquePacketBuffer.ts"

export interface ClientTunnelOptions {
  readonly node: NodeApi
  /** DNS resources and device pools. */
  readonly extension?: ClientExtension | undefined
}

/** Packets that wait for the connection to one gateway. */
const PACKETS_PER_PEER = 128

/**
 * The client's core (tunnel spec 3): it decides which packets enter the tunnel and through which gateway, which may come
 * out, and what the portal is to be asked. Driven by its calls alone; `now` is monotonic milliseconds. After any of them
 * drain `pollTransmit`, `pollPacket` and `pollEvent`, then wait for `pollTimeout`. Nothing allocates for a packet that
 * passes.
 */
export class ClientTunnel {
  /** What `tunInput` wants sent, when it returned true. */
  readonly transmit: Transmit
  /** What `networkInput` found for the TUN device, when it returned true. */
  readonly packet: InnerPacket
  readonly #node: NodeApi
  readonly #extension: ClientExtension | undefined
  readonly #resources = new ClientResources()
  readonly #pending = new PendingAuthorizations()
  readonly #peers = new Map<PeerId, GatewayPeer>()
  readonly #preferences = new GatewayPreferences()
  readonly #sites = new SiteStates()
  readonly #drops = new DropCounts()
  readonly #transmits = new TransmitQueue()
  readonly #packets = new PacketQueue()
  readonly #events = new ClientEvents({
    config: () => this.#tunConfig(),
    resources: () => this.#resources.views(this.#sites),
    authorization: () => this.#authorizationRequest()
  })
  readonly #outbound = new IpPacket()
  readonly #inbound = new IpPacket()
  readonly #icmpError = new IcmpError()
  readonly #scratch = new Uint8Array(MAX_PACKET_LENGTH)
  #interface: InterfaceConfig | undefined
  #addresses: TunAddresses | undefined
  #closed = false

  constructor(options: ClientTunnelOptions) {
    this.#node = options.node
    this.#extension = options.extension
    this.transmit = options.node.transmit
    this.packet = options.node.packet
  }

  /** Whether the packet, sealed in place, is to be sent now as `transmit` says. Never throws, whatever the bytes. */
  tunInput(buffer: Uint8Array, offset: number, length: number, now: number): boolean {
    if (this.#closed) return this.#drop("closed")
    if (!this.#outbound.parse(buffer, offset, length)) return this.#drop("malformed-packet")
    return this.#forward(this.#outbound, now)
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
    this.#drainNode(now)
    if (outcome === Decapsulated.Dropped) return this.#drop("unreadable-datagram")
    if (outcome === Decapsulated.Handled) return false
    const packet = this.#inbound
    if (!packet.parse(this.packet.buffer, this.packet.offset, this.packet.length)) return this.#drop("malformed-packet")
    return this.#admit(this.packet.peer, packet, now)
  }

  handleTimeout(now: number): void {
    if (this.#closed) return
    this.#node.handleTimeout(now)
    this.#extension?.handleTimeout(now)
    this.#drainNode(now)
    if (this.#sites.handleTimeout(now)) this.#events.resources.invalidate()
  }

  /** A datagram to send; its bytes are valid until the next call. */
  pollTransmit(): Transmit | undefined {
    return this.#node.pollTransmit() ?? this.#transmits.poll()
  }

  /** A packet of our own for the TUN device. */
  pollPacket(): Uint8Array | undefined {
    return this.#packets.poll()
  }

  pollTimeout(): number | undefined {
    if (this.#closed) return undefined
    const next = Math.min(
      this.#node.pollTimeout() ?? Number.POSITIVE_INFINITY,
      this.#sites.pollTimeout() ?? Number.POSITIVE_INFINITY,
      this.#extension?.pollTimeout() ?? Number.POSITIVE_INFINITY
    )
    return next === Number.POSITIVE_INFINITY ? undefined : next
  }

  /** The interface and the resources come as they are when polled, before everything else. */
  pollEvent(): ClientTunnelEvent | undefined {
    return this.#closed ? undefined : this.#events.poll()
  }

  handlePush(push: ClientPush, now: number): void {
    if (this.#closed) return
    switch (push._tag) {
      case "Init":
        this.#setInterface(push.init.interface)
        this.#setResources(push.init.resources, now)
        this.#node.updateRelays([], push.init.relays, now)
        // The authorizations of other clients to reach this one.
        this.#extension?.handlePush(push, now)
        break
      case "ConfigChanged":
        this.#setInterface(push.interface)
        this.#extension?.handlePush(push, now)
        break
      case "ResourceCreatedOrUpdated":
        this.#upsert(push.resource, now)
        this.#refreshList()
        break
      case "ResourceDeleted":
        this.#delete(push.id, now)
        this.#refreshList()
        break
      case "RelaysPresence":
        this.#node.updateRelays(push.disconnectedIds, push.connected, now)
        break
      case "AuthorizationCreated":
        this.#grant(push.authorization, now)
        break
      case "AuthorizationCreationFailed":
        this.#deny(push.resourceId, push.reason, now)
        break
      case "IceCandidates":
        for (const candidate of push.candidates) this.#node.addRemoteCandidate(push.gatewayId, candidate, now)
        break
      case "InvalidateIceCandidates":
        for (const candidate of push.candidates) this.#node.removeRemoteCandidate(push.gatewayId, candidate, now)
        break
      default:
        if (this.#extension === undefined) this.#drops.add("unserved-push")
        else this.#extension.handlePush(push, now)
    }
    this.#drainNode(now)
  }

  /** Candidates that were held back go out (15.3); the portal's `Init` follows. */
  portalConnected(_now: number): void {
    this.#events.candidates.release()
  }

  /** Connections live on; what the portal is asked from now on is lost, and traffic asks again (16.2). */
  portalDisconnected(_now: number): void {
    this.#events.candidates.hold()
  }

  /** The user's switch (5.4), which may be set before there is an Internet resource. */
  setInternetResourceState(active: boolean, now: number): void {
    if (this.#closed) return
    const { internet } = this.#resources
    if (!active && internet !== undefined) this.#withdraw(internet, now)
    this.#resources.setInternetSwitch(active)
    this.#events.config.invalidate()
    this.#drainNode(now)
  }

  /** The network has changed (16.1): the driver has bound new sockets, and tells the portal the node's new key. */
  reset(now: number): void {
    if (this.#closed) return
    const due = this.pollTimeout()
    if (due !== undefined && due <= now) this.handleTimeout(now)
    this.#transmits.clear()
    this.#node.reset(now)
    this.#drainNode(now, true)
  }

  /** Says goodbye to every gateway. Afterwards there are only these goodbyes to send, and every input is dropped. */
  close(now: number): void {
    if (this.#closed) return
    this.#closed = true
    this.#node.closeAll(now)
    this.#peers.clear()
  }

  status(now: number): ClientTunnelStatus {
    return {
      resources: this.#resources.views(this.#sites),
      peers: this.#node.status(now),
      dropped: this.#drops.snapshot(),
      internetResourceActive: this.#resources.isInternetActive
    }
  }

  /** The way out (8.1). */
  #forward(packet: IpPacket, now: number): boolean {
    const { destination, version } = packet
    const own = this.#addresses
    if (isControlPacket(packet)) return this.#drop("unexpected-control-packet")
    if (isMulticast(version, destination)) return this.#drop("multicast")
    if (own === undefined) return this.#drop("no-interface")
    if (!own.includes(version, packet.source)) return this.#drop("not-tunnel-source")
    if (own.includes(version, destination)) return this.#drop("packet-to-self")
    if (this.#extension?.tunInput(packet, now) === true) return false
    if (isSentinelAddress(version, destination)) return this.#drop("sentinel-without-dns")
    if (packet.kind === PacketKind.OtherIcmp || packet.kind === PacketKind.Other) {
      return this.#drop(isIcmpError(packet) ? "outbound-icmp-error" : "unsupported-protocol")
    }
    const neighbour = isTunnelAddress(version, destination) ? this.#peerAt(version, destination) : undefined
    if (neighbour !== undefined) return this.#send(neighbour, packet, now)
    const resource = this.#resources.route(packet)
    if (resource === undefined) return this.#drop("unknown-resource")
    if (!resource.filter.permits(packet.kind, packet.destinationPort)) return this.#refuse(packet)
    if (resource.gateway !== undefined) return this.#send(resource.gateway, packet, now)
    if (!this.#pending.trigger(resource.id, packet, now)) this.#drops.add("buffer-full")
    return false
  }

  #peerAt(version: Family, address: IpWords): GatewayPeer | undefined {
    for (const peer of this.#peers.values()) if (peer.addresses.includes(version, address)) return peer
    return undefined
  }

  #send(peer: GatewayPeer, packet: IpPacket, now: number): boolean {
    if (peer.waiting === undefined) {
      switch (this.#node.encapsulate(peer.id, packet.buffer, packet.offset, packet.length, now)) {
        case Encapsulated.Sent:
          return true
        case Encapsulated.Dropped:
          return this.#drop("no-path")
        case Encapsulated.UnknownConnection:
          return this.#drop("not-connected")
        case Encapsulated.NoSession:
          return this.#drop("no-session")
        case Encapsulated.StillConnecting:
          peer.waiting = new UniquePacketBuffer(PACKETS_PER_PEER)
      }
    }
    if (peer.waiting.push(packet)) this.#drops.add("buffer-full")
    return false
  }

  /** Tells the application that policy does not let its packet through. */
  #refuse(packet: IpPacket): boolean {
    const length = writeIcmpError(packet, "prohibited", this.#scratch, 0)
    if (!this.#packets.push(this.#scratch.slice(0, length))) this.#drops.add("tun-queue-full")
    return this.#drop("prohibited")
  }

  /** Sends packets that have waited on their way once more: much may have changed since. */
  #release(packets: ReadonlyArray<BufferedPacket>, now: number): void {
    for (const { bytes, length } of packets) {
      const isSealed = this.tunInput(bytes, CIPHER_HEADROOM, length, now)
      if (isSealed && !this.#transmits.push(this.transmit)) this.#drops.add("transmit-queue-full")
    }
  }

  /** The way in (9). Returns whether the packet is for the TUN device. */
  #admit(from: PeerId, packet: IpPacket, now: number): boolean {
    if (this.#extension?.networkInput(from, packet, now) === true) return false
    if (isControlPacket(packet)) return this.#handleControl(from, packet, now)
    const peer = this.#peers.get(from)
    if (peer === undefined) return this.#drop("no-peer-state")
    if (!peer.isAllowedSource(packet.version, packet.source)) return this.#drop("not-allowed")
    if (packet.kind === PacketKind.OtherIcmp) this.#heed(peer, packet, now)
    return true
  }

  #handleControl(from: PeerId, packet: IpPacket, now: number): boolean {
    const event = readControlEvent(packet)
    if (event._tag === "Malformed") return this.#drop("malformed-control-packet")
    if (event._tag !== "Goodbye") return this.#drop("unexpected-control-packet")
    this.#node.removeConnection(from)
    this.#lose(from, "the gateway said goodbye", now)
    return false
  }

  /**
   * A gateway that prohibits what we believe to be granted has lost the grant, most likely to its expiry (22.2): asks
   * the portal again, no more often than traffic may.
   */
  #heed(peer: GatewayPeer, packet: IpPacket, now: number): void {
    const error = this.#icmpError
    if (!parseIcmpError(packet, error) || !error.isProhibited) return
    const { destination, destinationPort, kind, source, version } = error.failed
    if (this.#addresses?.includes(version, source) !== true) return
    const resource = this.#resources.find(version, destination, kind, destinationPort)
    if (resource === undefined || resource.gateway !== peer || !resource.filter.permits(kind, destinationPort)) return
    if (now - resource.renewedAt < INTENT_COOL_DOWN) return
    resource.renewedAt = now
    this.#pending.trigger(resource.id, undefined, now)
  }

  /** `keepsPreference`: the peer is gone for reasons of ours and may be asked for first. */
  #drainNode(now: number, keepsPreference = false): void {
    for (let event = this.#node.pollEvent(); event !== undefined; event = this.#node.pollEvent()) {
      this.#handleNodeEvent(event, now, keepsPreference)
    }
  }

  #handleNodeEvent(event: NodeEvent, now: number, keepsPreference: boolean): void {
    switch (event._tag) {
      case "NewIceCandidate":
        return this.#events.candidates.add(event.peer, event.candidate)
      case "InvalidateIceCandidate":
        return this.#events.candidates.remove(event.peer, event.candidate)
      case "ConnectionEstablished":
        return this.#established(event.peer, now)
      case "ConnectionFailed":
        return this.#lose(event.peer, event.reason, now, keepsPreference)
      case "ConnectionClosed":
        return this.#lose(event.peer, "the connection was closed", now, keepsPreference)
      case "NoRelays":
        this.#events.request({ _tag: "NoRelays" })
    }
  }

  #established(id: PeerId, now: number): void {
    const peer = this.#peers.get(id)
    if (peer === undefined) return
    this.#sites.set(peer.site, "Online", now)
    this.#events.resources.invalidate()
    this.#events.push({ _tag: "PeerConnected", peer: id })
    const { waiting } = peer
    peer.waiting = undefined
    if (waiting !== undefined) this.#release(waiting.take(), now)
  }

  /** Forgets a peer and all that hangs on it (15.2); the next packet asks for it again. */
  #lose(id: PeerId, reason: string, now: number, keepsPreference = false): void {
    this.#events.candidates.forget(id)
    this.#extension?.peerLost(id, now)
    const peer = this.#peers.get(id)
    if (peer === undefined) return
    this.#peers.delete(id)
    for (let lost = peer.waiting?.size ?? 0; lost > 0; lost--) this.#drops.add("not-connected")
    for (const resource of this.#resources) {
      if (resource.gateway !== peer) continue
      resource.gateway = undefined
      if (!keepsPreference) resource.preferred = undefined
    }
    this.#sites.set(peer.site, "Unknown", now)
    this.#events.resources.invalidate()
    this.#events.push({ _tag: "PeerLost", peer: id, reason })
  }

  #close(peer: GatewayPeer, reason: string, now: number): void {
    this.#node.closeConnection(peer.id, now)
    // A connection that was still coming up goes without an event.
    this.#lose(peer.id, reason, now)
  }

  #setInterface(config: InterfaceConfig): void {
    this.#interface = config
    if (this.#addresses?.isSame(config.ipv4, config.ipv6) !== true) {
      this.#addresses = new TunAddresses(config.ipv4, config.ipv6)
    }
    this.#events.config.invalidate()
  }

  #tunConfig(): TunConfig | undefined {
    if (this.#interface === undefined) return undefined
    const { ipv4, ipv6, searchDomain } = this.#interface
    return { ipv4, ipv6, routes: this.#resources.routes(), dnsBySentinel: new Map(), searchDomain }
  }

  /** The list is complete: what it does not name is no more (5.2). */
  #setResources(resources: ReadonlyArray<Resource>, now: number): void {
    const listed = new Set(resources.map(({ id }) => id))
    for (const { id } of [...this.#resources]) if (!listed.has(id)) this.#delete(id, now)
    for (const resource of resources) this.#upsert(resource, now)
    this.#refreshList()
  }

  #upsert(resource: Resource, now: number): void {
    const known = this.#resources.get(resource.id)
    if (known !== undefined && routesAlike(known.resource, resource)) {
      known.resource = resource
    } else {
      if (known !== undefined) this.#remove(known, now)
      this.#resources.add(resource)
    }
    if (resource.type !== "cidr" && resource.type !== "internet") this.#extension?.resourceAdded(resource, now)
  }

  #delete(id: ResourceId, now: number): void {
    this.#events.forget(id)
    const known = this.#resources.get(id)
    if (known !== undefined) this.#remove(known, now)
  }

  #remove(resource: ClientResource, now: number): void {
    const { type } = resource.resource
    if (type !== "cidr" && type !== "internet") this.#extension?.resourceRemoved(resource.resource, now)
    this.#withdraw(resource, now)
    this.#resources.remove(resource)
  }

  #refreshList(): void {
    this.#sites.retain((site) => this.#resources.usesSite(site))
    this.#events.config.invalidate()
    this.#events.resources.invalidate()
  }

  /** Ends both the wait for a grant and the use of one (5.3 steps 2 to 4). */
  #withdraw(resource: ClientResource, now: number): void {
    this.#abandon(resource.id, "not-authorized")
    this.#detach(resource, now)
  }

  #abandon(resource: ResourceId, reason: DropReason): void {
    for (let lost = this.#pending.remove(resource)?.length ?? 0; lost > 0; lost--) this.#drops.add(reason)
  }

  #detach(resource: ClientResource, now: number): void {
    const { gateway } = resource
    if (gateway === undefined) return
    resource.gateway = undefined
    resource.preferred = undefined
    gateway.disallow(resource.id)
    if (gateway.isUnused) this.#close(gateway, "no resource needs the gateway any more", now)
  }

  /** The portal found a gateway that lets us in (8.3). */
  #grant(authorization: AuthorizationCreated, now: number): void {
    const resource = this.#resources.get(authorization.resourceId)
    if (resource === undefined) return this.#drops.add("grant-of-unknown-resource")
    if (!this.#pending.has(resource.id)) return this.#drops.add("grant-without-request")
    const outcome = this.#node.upsertConnection({
      peer: authorization.gatewayId,
      remoteKey: authorization.gatewayPublicKey,
      presharedKey: authorization.presharedKey,
      localCredentials: authorization.clientIceCredentials,
      remoteCredentials: authorization.gatewayIceCredentials,
      role: "controlling",
      profile: "client",
      iceless: authorization.useIceless
    }, now)
    if (outcome === "NoRelays") {
      this.#abandon(resource.id, "no-relays")
      this.#events.request({ _tag: "NoRelays" })
      return
    }
    const peer = this.#peerFor(authorization, now)
    if (resource.gateway !== peer) this.#detach(resource, now)
    resource.gateway = peer
    resource.preferred = peer.id
    peer.allow(resource.id, networksOf(resource.resource))
    this.#preferences.learn(peer.id)
    this.#release(this.#pending.remove(resource.id) ?? [], now)
  }

  #peerFor({ gatewayId, gatewayIpv4, gatewayIpv6, siteId }: AuthorizationCreated, now: number): GatewayPeer {
    const known = this.#peers.get(gatewayId)
    if (known?.site === siteId && known.addresses.isSame(gatewayIpv4, gatewayIpv6)) return known
    // What was granted to the gateway as it was before has to be granted anew.
    if (known !== undefined) this.#lose(gatewayId, "the gateway came back with another address", now)
    const peer = new GatewayPeer(gatewayId, siteId, new TunAddresses(gatewayIpv4, gatewayIpv6))
    this.#peers.set(gatewayId, peer)
    return peer
  }

  /** Other reasons change nothing: traffic goes on asking. */
  #deny(id: ResourceId, reason: string, now: number): void {
    const resource = this.#resources.get(id)
    if (resource === undefined) return
    if (reason === "version_mismatch") return this.#events.notify("GatewayVersionMismatch", id)
    if (reason !== "offline") return
    this.#abandon(id, "not-authorized")
    if (resource.gateway !== undefined) this.#close(resource.gateway, "the portal says that it is offline", now)
    for (const site of resource.sites) this.#sites.set(site.id, "Offline", now)
    this.#events.resources.invalidate()
    this.#events.notify("AllGatewaysOffline", id)
  }

  #authorizationRequest(): ClientRequest | undefined {
    const resourceId = this.#pending.pollIntent()
    if (resourceId === undefined) return undefined
    const connectedGatewayIds = this.#preferences.order(
      this.#resources.get(resourceId)?.preferred,
      (gateway) => this.#peers.has(gateway)
    )
    return { _tag: "RequestAuthorization", resourceId, connectedGatewayIds }
  }

  #drop(reason: DropReason): false {
    this.#drops.add(reason)
    return false
  }
}
