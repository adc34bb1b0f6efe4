import { CIPHER_HEADROOM, type Crypto } from "../crypto.ts"
import type { SavedName } from "../dns/ResourceResolver.ts"
import {
  Decapsulated,
  type InnerPacket,
  type NodeApi,
  type NodeEvent,
  type PeerId,
  type Transmit
} from "../node/types.ts"
import type { ClientPush, InterfaceConfig } from "../portal/types.ts"
import { familyOf, type IpAddress, type SocketAddress } from "../wire/address.ts"
import { IcmpError, isIcmpError, parseIcmpError, writeIcmpError } from "../wire/icmp.ts"
import { IpPacket, isMulticast, MAX_PACKET_LENGTH, PacketKind } from "../wire/ip.ts"
import { wordsOf } from "../wire/ipWords.ts"
import type { CandidateBatches } from "./CandidateBatches.ts"
import { ClientAccess } from "./ClientAccess.ts"
import { ClientDevices, Outward } from "./ClientDevices.ts"
import { ClientDns, type OutsideQuery, resourceOf } from "./ClientDns.ts"
import { ClientEvents } from "./ClientEvents.ts"
import { type ClientRanges, clientRanges } from "./clientRanges.ts"
import { type ControlEvent, isControlPacket, readControlEvent } from "./controlPacket.ts"
import { devicePoolViews } from "./devicePoolViews.ts"
import { DropCounts, type DropReason } from "./DropCounts.ts"
import type { GatewayPeer } from "./GatewayPeer.ts"
import { PacketQueue } from "./PacketQueue.ts"
import { PeerSender } from "./PeerSender.ts"
import { isSentinelAddress, isTunnelAddress } from "./ranges.ts"
import { TunAddresses } from "./TunAddresses.ts"
import type { ClientTunnelEvent, ClientTunnelStatus, TunConfig } from "./types.ts"
import { type BufferedPacket, bufferedPacket } from "./UniquePacketBuffer.ts"

export interface ClientTunnelOptions {
  readonly node: NodeApi
  readonly crypto: Pick<Crypto, "randomBytes">
  /** What the session before in this process left: applications may still use the addresses of its names. */
  readonly savedNames?: ReadonlyArray<SavedName> | undefined
  /** Unix time in milliseconds at `now` = 0, for the expiry of what other clients are granted. */
  readonly unixEpochMillis: number
  /** Which one of the clients on this machine, from 0. */
  readonly instance?: number | undefined
}

type DomainStatus = Extract<ControlEvent, { readonly _tag: "DomainStatus" }>

const DNS_PORT = 53

/**
 * The client's core (tunnel spec 3): it decides which packets enter the tunnel and through which gateway, which may come
 * out, and what the portal is to be asked. Driven by its calls alone; `now` is monotonic milliseconds. After any of them
 * drain `pollTransmit`, `pollPacket`, `pollDnsQuery` and `pollEvent`, then wait for `pollTimeout`. Nothing allocates for
 * a packet that passes.
 */
export class ClientTunnel {
  /** What `tunInput` wants sent, when it returned true. */
  readonly transmit: Transmit
  /** What `networkInput` found for the TUN device, when it returned true. */
  readonly packet: InnerPacket
  readonly #node: NodeApi
  readonly #ranges: ClientRanges
  readonly #drops = new DropCounts()
  readonly #packets = new PacketQueue()
  readonly #events: ClientEvents
  readonly #access: ClientAccess
  readonly #devices: ClientDevices
  readonly #dns: ClientDns
  readonly #sender: PeerSender
  readonly #outbound = new IpPacket()
  readonly #inbound = new IpPacket()
  readonly #icmpError = new IcmpError()
  readonly #scratch = new Uint8Array(MAX_PACKET_LENGTH)
  #interface: InterfaceConfig | undefined
  #addresses: TunAddresses | undefined
  #closed = false

  constructor({ crypto, instance, node, savedNames, unixEpochMillis }: ClientTunnelOptions) {
    this.#node = node
    this.#ranges = clientRanges(instance ?? 0)
    this.transmit = node.transmit
    this.packet = node.packet
    this.#sender = new PeerSender(node, this.#drops)
    this.#events = new ClientEvents({
      config: () => this.#tunConfig(),
      resources: () => ({
        resources: this.#access.resources.views(this.#access.sites),
        connectedDevices: this.#devices.connected()
      }),
      authorization: () => this.#access.mayAsk ? this.#access.pollRequest() ?? this.#devices.pollRequest() : undefined
    })
    this.#devices = new ClientDevices(
      { node, events: this.#events, drops: this.#drops, sender: this.#sender, unixEpochMillis },
      {
        addresses: () => this.#addresses,
        portalIsThere: () => this.#access.isPortalThere,
        release: (packets, now) => this.#release(packets, now)
      }
    )
    this.#access = new ClientAccess(node, this.#events, this.#drops, {
      resourceAdded: (added) => {
        this.#dns.resourceAdded(added)
        if (added.resource.type === "static_device_pool") this.#devices.setPool(added.resource)
      },
      resourceRemoved: (resource, now) => {
        this.#dns.resourceRemoved(resource, now)
        this.#devices.removePool(resource.id)
      },
      granted: (resource, packets, now) => {
        this.#release(packets, now)
        this.#dns.granted(resource, now)
      },
      abandoned: (resource, now) => this.#dns.abandoned(resource, now),
      detached: (resource) => this.#dns.nat.forgetResource(resource),
      peerLost: (gateway) => this.#dns.nat.forgetGateway(gateway)
    })
    this.#dns = new ClientDns(
      {
        addresses: () => this.#addresses,
        inject: (packet, now) => this.#release([bufferedPacket(packet, 0, packet.length)], now),
        toTun: (packet) => this.#toTun(packet),
        sendControl: (gateway, packet, now) => this.#sender.sendControl(gateway, packet, now),
        request: (resource, now) => this.#access.request(resource, undefined, now),
        isCovered: (server) => this.#isCovered(server),
        askPortal: (request) => this.#events.request(request),
        unusablePattern: (resourceId) => this.#events.push({ _tag: "UnusablePattern", resourceId }),
        drop: (reason) => this.#drops.add(reason),
        randomBytes: crypto.randomBytes
      },
      this.#ranges,
      savedNames ?? []
    )
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
    this.#drainNode(now)
    this.#devices.handleTimeout(now)
    this.#access.handleTimeout(now)
    this.#dns.handleTimeout(now)
  }

  /** A datagram to send; its bytes are valid until the next call. */
  pollTransmit(): Transmit | undefined {
    return this.#node.pollTransmit() ?? this.#sender.pollTransmit()
  }

  /** A packet of our own for the TUN device. */
  pollPacket(): Uint8Array | undefined {
    return this.#packets.poll()
  }

  pollTimeout(): number | undefined {
    if (this.#closed) return undefined
    const next = Math.min(
      this.#node.pollTimeout() ?? Number.POSITIVE_INFINITY,
      this.#access.sites.pollTimeout() ?? Number.POSITIVE_INFINITY,
      this.#dns.pollTimeout(),
      this.#devices.pollTimeout()
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
        this.#setInterface(push.init.interface, now)
        this.#access.setResources(push.init.resources, now)
        this.#node.updateRelays([], push.init.relays, now)
        if (!this.#access.isPortalThere) this.#devices.askAgain(now)
        this.#access.initialized(now)
        this.#devices.retain(push.init.authorizations)
        break
      case "ConfigChanged":
        this.#setInterface(push.interface, now)
        break
      case "ResourceCreatedOrUpdated":
        this.#access.upsert(push.resource, now)
        break
      case "ResourceDeleted":
        this.#access.delete(push.id, now)
        break
      case "RelaysPresence":
        this.#node.updateRelays(push.disconnectedIds, push.connected, now)
        break
      case "AuthorizationCreated":
        this.#access.grant(push.authorization, now)
        break
      case "AuthorizationCreationFailed":
        this.#access.deny(push.resourceId, push.reason, push.violatedProperties, now)
        break
      case "IceCandidates":
        for (const candidate of push.candidates) this.#node.addRemoteCandidate(push.gatewayId, candidate, now)
        break
      case "InvalidateIceCandidates":
        for (const candidate of push.candidates) this.#node.removeRemoteCandidate(push.gatewayId, candidate, now)
        break
      case "DevicePoolDomainResolved":
      case "DevicePoolDomainResolutionFailed":
        this.#dns.handlePush(push, now)
        break
      default:
        this.#devices.handlePush(push, now)
    }
    this.#drainNode(now)
  }

  /** Candidates that were held back go out (15.3); the portal's `Init` follows. */
  portalConnected(_now: number): void {
    this.#events.releaseCandidates()
  }

  /** Connections live on (16.2). Candidates are held back, and until the next `Init` requests for access. */
  portalDisconnected(_now: number): void {
    this.#events.holdCandidates()
    this.#access.portalDisconnected()
    this.#devices.portalDisconnected()
  }

  /** The user's switch (5.4), which may be set before there is an Internet resource. */
  setInternetResourceState(active: boolean, now: number): void {
    if (this.#closed) return
    this.#access.setInternetSwitch(active, now)
    this.#drainNode(now)
  }

  /**
   * The resolvers that the system would use without us (12.1). Returns those among them that the client itself may ask.
   */
  setSystemResolvers(resolvers: ReadonlyArray<IpAddress>): ReadonlyArray<IpAddress> {
    const used = this.#dns.setSystemResolvers(resolvers)
    this.#events.config.invalidate()
    return used
  }

  /** A query to ask outside the tunnel; its outcome comes back as `dnsResponse`. */
  pollDnsQuery(): OutsideQuery | undefined {
    return this.#closed ? undefined : this.#dns.pollOutsideQuery()
  }

  /** What became of such a query: the answer's bytes, or why there is none. Not needed after a `reset`. */
  dnsResponse(id: number, outcome: Uint8Array | "failed" | "timed-out", now: number): void {
    if (!this.#closed) this.#dns.outsideResponse(id, outcome, now)
  }

  /** The names that addresses were given to, for the next session in this process. */
  savedNames(): ReadonlyArray<SavedName> {
    return this.#dns.resolver.save()
  }

  /** The network has changed (16.1): the driver has bound new sockets, and tells the portal the node's new key. */
  reset(now: number): void {
    if (this.#closed) return
    const due = this.pollTimeout()
    if (due !== undefined && due <= now) this.handleTimeout(now)
    this.#sender.clear()
    // It is about to be dialled anew, and what it says until then is meant for the old key.
    this.#access.portalDisconnected()
    this.#devices.portalDisconnected()
    this.#node.reset(now)
    this.#dns.reset(now)
    // A connection that is kept is coming up again.
    this.#events.resources.invalidate()
    this.#drainNode(now, true)
  }

  /** Says goodbye to every peer. Afterwards there are only these goodbyes to send, and every input is dropped. */
  close(now: number): void {
    if (this.#closed) return
    this.#closed = true
    this.#node.closeAll(now)
    this.#access.clearPeers()
    this.#devices.clear()
  }

  status(now: number): ClientTunnelStatus {
    const { resources, sites } = this.#access
    return {
      resources: resources.views(sites).map((view) => {
        const resource = resources.get(view.id)
        return { ...view, gateway: resource?.gateway?.id, refusal: resource?.refused?.view(now) }
      }),
      devicePools: devicePoolViews(resources, this.#devices, this.#dns, now),
      peers: this.#node.status(now).map((peer) => {
        const device = this.#devices.peer(peer.peer)
        return device === undefined ? { ...peer, kind: "gateway" } : { ...peer, kind: "device", name: device.name }
      }),
      relays: this.#node.relayStatus(),
      dropped: this.#drops.snapshot(),
      dnsCounts: this.#dns.counts,
      internetResourceActive: resources.isInternetActive
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
    if (this.#dns.tunInput(packet, now)) return false
    if (isSentinelAddress(version, destination)) return this.#drop("sentinel-without-dns")
    const outward = this.#devices.tunInput(packet, now)
    if (outward === Outward.Refused) return this.#refuse(packet, now)
    if (outward !== Outward.Foreign) return outward === Outward.Sent
    if (packet.kind === PacketKind.OtherIcmp || packet.kind === PacketKind.Other) {
      return this.#drop(isIcmpError(packet) ? "outbound-icmp-error" : "unsupported-protocol")
    }
    const neighbour = isTunnelAddress(version, destination) ? this.#access.peerAt(version, destination) : undefined
    if (neighbour !== undefined) return this.#sender.send(neighbour, packet, now)
    const name = this.#dns.resolver.recordAt(version, destination)
    const named = name === undefined ? undefined : resourceOf(name, version, packet.kind, packet.destinationPort)
    const resource = named ?? this.#access.resources.route(packet)
    if (resource === undefined) return this.#drop("unknown-resource")
    if (!resource.filter.permits(packet.kind, packet.destinationPort)) return this.#refuse(packet, now)
    const { gateway } = resource
    if (gateway === undefined) {
      this.#access.request(resource, packet, now)
      return false
    }
    if (name !== undefined && named !== undefined && !this.#dns.nat.passes(name, named, gateway, packet, now)) {
      return false
    }
    resource.usedAt = now
    return this.#sender.send(gateway, packet, now)
  }

  /** Tells the application that policy does not let its packet through. */
  #refuse(packet: IpPacket, now: number): boolean {
    if (!this.#dns.refused(packet, now)) {
      const length = writeIcmpError(packet, "prohibited", this.#scratch, 0)
      this.#toTun(this.#scratch.slice(0, length))
    }
    return this.#drop("prohibited")
  }

  #toTun(packet: Uint8Array): void {
    if (!this.#packets.push(packet)) this.#drops.add("tun-queue-full")
  }

  /** Sends packets that have waited on their way once more: much may have changed since. */
  #release(packets: ReadonlyArray<BufferedPacket>, now: number): void {
    for (const { bytes, length } of packets) {
      if (this.tunInput(bytes, CIPHER_HEADROOM, length, now)) this.#sender.queue()
    }
  }

  /** The way in (9). Returns whether the packet is for the TUN device. */
  #admit(from: PeerId, packet: IpPacket, now: number): boolean {
    const peer = this.#access.peer(from)
    if (peer !== undefined && packet.kind === PacketKind.OtherIcmp && this.#isAllowedSource(peer, packet)) {
      // Also what is about our own queries: a resolver in the tunnel may be all that a resource is used for.
      this.#heed(peer, packet, now)
    }
    if (peer !== undefined && this.#dns.networkInput(packet, now)) return false
    if (isControlPacket(packet)) return this.#handleControl(from, packet, now)
    if (peer === undefined) {
      const device = this.#devices.peer(from)
      return device === undefined ? this.#drop("no-peer-state") : this.#devices.admit(device, packet, now)
    }
    if (!this.#isAllowedSource(peer, packet)) return this.#drop("not-allowed")
    return true
  }

  #isAllowedSource(peer: GatewayPeer, { source, version }: IpPacket): boolean {
    if (peer.isAllowedSource(version, source)) return true
    const name = this.#dns.resolver.recordAt(version, source)
    return name !== undefined && this.#dns.nat.isAllowedSource(name, peer)
  }

  #handleControl(from: PeerId, packet: IpPacket, now: number): boolean {
    const event = readControlEvent(packet)
    if (event._tag === "Malformed") return this.#drop("malformed-control-packet")
    if (event._tag === "DomainStatus") return this.#handleDomainStatus(from, event, now)
    if (event._tag !== "Goodbye") return this.#drop("unexpected-control-packet")
    this.#node.removeConnection(from)
    this.#lose(from, `the ${this.#devices.peer(from) === undefined ? "gateway" : "device"} said goodbye`, now)
    return false
  }

  #handleDomainStatus(from: PeerId, { domain, resource: id, status }: DomainStatus, now: number): false {
    const gateway = this.#access.peer(from)
    const name = this.#dns.resolver.recordOf(domain)
    const resource = this.#access.resources.get(id)
    if (gateway === undefined || name === undefined || resource === undefined) {
      return this.#drop("unexpected-control-packet")
    }
    this.#release(this.#dns.nat.handleStatus(name, resource, gateway, status === "Active"), now)
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
    const name = this.#dns.resolver.recordAt(version, destination)
    const resource = (name === undefined ? undefined : resourceOf(name, version, kind, destinationPort)) ??
      this.#access.resources.find(version, destination, kind, destinationPort)
    if (resource === undefined || resource.gateway !== peer || !resource.filter.permits(kind, destinationPort)) return
    this.#access.renew(resource, now)
  }

  /** `keepsPreference`: the peer is gone for reasons of ours and may be asked for first. */
  #drainNode(now: number, keepsPreference = false): void {
    for (let event = this.#node.pollEvent(); event !== undefined; event = this.#node.pollEvent()) {
      this.#handleNodeEvent(event, now, keepsPreference)
    }
    if (this.#devices.resume(now)) this.#drainNode(now)
  }

  #handleNodeEvent(event: NodeEvent, now: number, keepsPreference: boolean): void {
    switch (event._tag) {
      case "NewIceCandidate":
        return this.#candidatesFor(event.peer).add(event.peer, event.candidate)
      case "InvalidateIceCandidate":
        return this.#candidatesFor(event.peer).remove(event.peer, event.candidate)
      case "ConnectionEstablished":
        return this.#established(event.peer, now)
      case "ConnectionFailed":
        return this.#lose(event.peer, event.reason, now, keepsPreference)
      case "ConnectionClosed":
        return this.#lose(event.peer, "the connection was closed", now, keepsPreference)
      case "NoRelays":
        return this.#events.request({ _tag: "NoRelays" })
      case "RelaysUnusable":
        this.#events.push(event)
    }
  }

  #candidatesFor(peer: PeerId): CandidateBatches {
    return this.#devices.peer(peer) === undefined ? this.#events.candidates : this.#events.deviceCandidates
  }

  #lose(id: PeerId, reason: string, now: number, keepsPreference = false): void {
    this.#access.lose(id, reason, now, keepsPreference)
    this.#devices.lose(id, reason, now, keepsPreference)
  }

  #established(id: PeerId, now: number): void {
    const peer = this.#access.established(id, now) ?? this.#devices.established(id)
    if (peer === undefined) return
    const { waiting } = peer
    peer.waiting = undefined
    if (waiting !== undefined) this.#release(waiting.take(), now)
    this.#sender.releaseControl(peer, now)
  }

  #setInterface(config: InterfaceConfig, now: number): void {
    this.#interface = config
    if (this.#addresses?.isSame(config.ipv4, config.ipv6) !== true) {
      this.#addresses = new TunAddresses(config.ipv4, config.ipv6)
      this.#dns.addressesChanged(now)
      this.#devices.addressesChanged()
    }
    this.#dns.setInterface(config)
    this.#events.config.invalidate()
  }

  #tunConfig(): TunConfig | undefined {
    if (this.#interface === undefined) return undefined
    const { ipv4, ipv6, searchDomain } = this.#interface
    const { dnsBySentinel } = this.#dns
    return { ipv4, ipv6, routes: this.#access.resources.routes(this.#ranges.routes), dnsBySentinel, searchDomain }
  }

  #isCovered(server: IpAddress): boolean {
    const version = familyOf(server)
    const words = wordsOf(server)
    const { resources } = this.#access
    return [PacketKind.Udp, PacketKind.Tcp].every((kind) =>
      resources.find(version, words, kind, DNS_PORT) !== undefined
    )
  }

  #drop(reason: DropReason): false {
    this.#drops.add(reason)
    return false
  }
}
