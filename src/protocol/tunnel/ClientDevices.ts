import type { Device } from "../dns/DeviceResolver.ts"
import type { NodeApi, PeerId } from "../node/types.ts"
import type {
  ClientId,
  ClientPush,
  ClientRequest,
  DeviceAccessAuthorized,
  InboundAuthorization,
  ResourceId,
  StaticDevicePool
} from "../portal/types.ts"
import { familyOf, formatNetwork, ip, type IpAddress, ipFromBytes } from "../wire/address.ts"
import { AddressMap } from "../wire/AddressMap.ts"
import { IcmpError, isIcmpError, parseIcmpError, writeIcmpError } from "../wire/icmp.ts"
import { destinationOffset, type IpPacket, MAX_PACKET_LENGTH, PacketKind } from "../wire/ip.ts"
import { wordsOf } from "../wire/ipWords.ts"
import { IN_USE } from "./ClientAccess.ts"
import type { ClientEvents } from "./ClientEvents.ts"
import { byNameAndId } from "./ClientResources.ts"
import { DevicePeer } from "./DevicePeer.ts"
import { DevicePools, type PoolMember } from "./DevicePools.ts"
import type { DropCounts, DropReason } from "./DropCounts.ts"
import { Opener } from "./FlowTable.ts"
import type { PeerSender } from "./PeerSender.ts"
import { PendingAuthorizations } from "./PendingAuthorizations.ts"
import { Refused } from "./Refused.ts"
import { TunAddresses } from "./TunAddresses.ts"
import type { ConnectedDevice, DeviceView } from "./types.ts"
import type { BufferedPacket } from "./UniquePacketBuffer.ts"

/** Addresses of pools that are waited for: a scan of a wide pool must not fill the memory. */
const MAX_TARGETS = 1024

/** Pushes that wait for a relay: far more than come in the second that this takes. */
const MAX_HELD = 256

/** What became of an application's packet. */
export const Outward = {
  /** It is for no device. */
  Foreign: 0,
  /** Sealed in place, and to be sent. */
  Sent: 1,
  /** It waits, or was dropped. */
  Taken: 2,
  /** The pool's filters do not let it pass. */
  Refused: 3
} as const
export type Outward = (typeof Outward)[keyof typeof Outward]

/** What the portal says of other clients. */
export type DevicePush = Extract<
  ClientPush,
  {
    readonly _tag:
      | "DeviceAccessAuthorized"
      | "DeviceAccessDenied"
      | "ClientIceCandidates"
      | "InvalidateClientIceCandidates"
      | "ClientIceCandidateError"
      | "ResourceFiltersUpdated"
      | "RejectAccess"
  }
>

/** What the rest of the core does for devices. */
export interface ClientDevicesHost {
  readonly addresses: () => TunAddresses | undefined
  /** Whether the portal is there: what it says until then is meant for a key that is no more. */
  readonly portalIsThere: () => boolean
  /** Sends packets that have waited on their way once more. */
  readonly release: (packets: ReadonlyArray<BufferedPacket>, now: number) => void
}

export interface ClientDevicesParts {
  readonly node: NodeApi
  readonly events: ClientEvents
  readonly drops: DropCounts
  readonly sender: PeerSender
  /** Unix time in milliseconds at `now` = 0, for the expiry of grants. */
  readonly unixEpochMillis: number
}

/**
 * Other clients: which of them this one may reach, which may reach it, and which packets belong to either (tunnel spec
 * 13). What we may reach is decided packet by packet through the pools, what peers may reach flow by flow through their
 * grants; answers pass because their flow is known.
 */
export class ClientDevices {
  readonly #parts: ClientDevicesParts
  readonly #host: ClientDevicesHost
  readonly #pools = new DevicePools()
  /** By pool and address: the two addresses of a device are asked for one by one (8.3). */
  readonly #pending = new PendingAuthorizations()
  readonly #byId = new Map<PeerId, DevicePeer>()
  readonly #byAddress = new AddressMap<DevicePeer>()
  /** In their order. */
  #held: Array<DevicePush> = []
  readonly #icmpError = new IcmpError()
  readonly #scratch = new Uint8Array(MAX_PACKET_LENGTH)

  constructor(parts: ClientDevicesParts, host: ClientDevicesHost) {
    this.#parts = parts
    this.#host = host
  }

  peer(id: PeerId): DevicePeer | undefined {
    return this.#byId.get(id)
  }

  /** Those of static pools that there is a connection to, by name and id. */
  connected(): ReadonlyArray<ConnectedDevice> {
    const found: Array<ConnectedDevice> = []
    for (const { addresses, id, name } of this.#byId.values()) {
      if (!this.#parts.node.isEstablished(id)) continue
      const pools = this.#pools.namesOf(id)
      if (pools.length > 0) found.push({ id, name, ipv4: addresses.ipv4, ipv6: addresses.ipv6, pools })
    }
    return found.sort(byNameAndId)
  }

  /** The devices that a static pool lists. */
  devicesOf(pool: ResourceId, now: number): ReadonlyArray<DeviceView> {
    return Array.from(this.#pools.membersOf(pool), ({ device, name, peer, refused }) => ({
      id: device.clientId,
      name,
      ipv4: formatNetwork(device.ipv4),
      ipv6: formatNetwork(device.ipv6),
      granted: peer !== undefined,
      peer: this.#byId.get(device.clientId)?.id,
      refusal: refused?.view(now)
    }))
  }

  /** A device that a name of a dynamic pool stands for: it is reached if a static pool lists it. */
  named(name: string, { ipv4, ipv6 }: Device, now: number): DeviceView {
    const words = wordsOf(ipv4)
    const peer = this.#byAddress.get(4, words)?.id
    const members = [...this.#pools.members()].filter((member) => member.owns(ipv4))
    const granted = members.some((member) => member.peer !== undefined)
    const refused = members.find(({ refused }) => refused !== undefined)?.refused
    return {
      id: members[0]?.device.clientId ?? peer,
      name,
      ipv4: `${ipv4}/32`,
      ipv6: `${ipv6}/128`,
      granted,
      peer,
      refusal: granted ? undefined : refused?.view(now)
    }
  }

  /** The way out (8.1 steps 9, 11 and 12). */
  tunInput(packet: IpPacket, now: number): Outward {
    const { destination, destinationPort, kind, sourcePort, version } = packet
    const peer = this.#byAddress.get(version, destination)
    if (kind === PacketKind.OtherIcmp || kind === PacketKind.Other) {
      return peer !== undefined && this.#isAboutFlow(peer, packet, "ours", now)
        ? this.#send(peer, packet, now)
        : Outward.Foreign
    }
    if (peer?.flows.openerOf(version, kind, sourcePort, destinationPort, now) === Opener.Peer) {
      return this.#send(peer, packet, now)
    }
    const member = this.#pools.find(version, destination, kind, destinationPort)
    if (member === undefined) return Outward.Foreign
    if (!member.filter.permits(kind, destinationPort)) return Outward.Refused
    const target = member.peer
    if (target === undefined) {
      this.#ask(member, ipFromBytes(packet.buffer, destinationOffset(packet), version), packet, now)
      return Outward.Taken
    }
    member.usedAt = now
    member.usedFamily = version
    target.flows.record(version, kind, sourcePort, destinationPort, Opener.We, now)
    return this.#send(target, packet, now)
  }

  /** The way in, for a decrypted packet of this peer (13.3). Returns whether it is for the TUN device. */
  admit(peer: DevicePeer, packet: IpPacket, now: number): boolean {
    const { destinationPort, kind, sourcePort, version } = packet
    const isBetweenUs = peer.addresses.includes(version, packet.source) &&
      this.#host.addresses()?.includes(version, packet.destination) === true
    if (!isBetweenUs) return this.#drop("not-allowed")
    if (isIcmpError(packet)) {
      if (!this.#isAboutFlow(peer, packet, "theirs", now)) return this.#drop("not-allowed")
      if (this.#icmpError.isProhibited) this.#heed(peer, now)
      return true
    }
    if (peer.flows.openerOf(version, kind, destinationPort, sourcePort, now) === Opener.We) return true
    if (!peer.permits(kind, destinationPort)) {
      const length = writeIcmpError(packet, "prohibited", this.#scratch, 0)
      this.#parts.sender.sendControl(peer, this.#scratch.slice(0, length), now)
      return this.#drop("prohibited")
    }
    peer.flows.record(version, kind, destinationPort, sourcePort, Opener.Peer, now)
    return true
  }

  /** The pool is in the list, new or changed (5.2). */
  setPool(pool: StaticDevicePool): void {
    const unchanged = this.#pools.set(pool)
    this.#abandon((id, address) => id === pool.id && !unchanged.some((member) => member.owns(address)))
    for (const peer of this.#byId.values()) peer.setFilters(pool.id, pool.filters)
  }

  removePool(id: ResourceId): void {
    this.#pools.remove(id)
    this.#abandon((pool) => pool === id)
  }

  /** Flows of the addresses that we had before are no more. */
  addressesChanged(): void {
    for (const { flows } of this.#byId.values()) flows.clear()
  }

  /**
   * Nobody asks us before a device is let in to us, which may be when our relays have not answered yet: without one there
   * would be no connection, and the device would find out only when it has waited in vain.
   */
  handlePush(push: DevicePush, now: number): void {
    if (!this.#parts.node.awaitsRelays) return this.#handlePush(push, now)
    this.#held.push(push)
    if (this.#held.length > MAX_HELD) this.#held.shift()
  }

  /** The node may have found a relay. Returns whether something had waited for one. */
  resume(now: number): boolean {
    if (this.#held.length === 0 || this.#parts.node.awaitsRelays) return false
    const held = this.#held
    this.#held = []
    for (const push of held) this.#handlePush(push, now)
    return true
  }

  /** The portal is away: what it said before is out of date when it is back. */
  portalDisconnected(): void {
    this.#held = []
  }

  #handlePush(push: DevicePush, now: number): void {
    const { node } = this.#parts
    switch (push._tag) {
      case "DeviceAccessAuthorized":
        return this.#authorize(push.access, now)
      case "DeviceAccessDenied":
        for (const address of [push.ipv4, push.ipv6]) {
          if (address !== undefined) this.#deny(address, push.reason, now)
        }
        return
      case "ClientIceCandidates":
        for (const candidate of push.candidates) node.addRemoteCandidate(push.clientId, candidate, now)
        return
      case "InvalidateClientIceCandidates":
        for (const candidate of push.candidates) node.removeRemoteCandidate(push.clientId, candidate, now)
        return
      case "ClientIceCandidateError":
        if (push.reason === "offline") this.#dismiss(push.clientId, now)
        return
      case "ResourceFiltersUpdated":
        for (const peer of this.#byId.values()) peer.setFilters(push.id, push.filters)
        return
      case "RejectAccess":
        return this.#byId.get(push.clientId)?.revoke(push.resourceId)
    }
  }

  /** What the portal does not list peers may not reach any more, what it lists ends when it says (13.4). */
  retain(authorizations: ReadonlyArray<InboundAuthorization>): void {
    const expiries = new Map(
      authorizations.map(({ clientId, expiresAt, resourceId }) =>
        [`${clientId} ${resourceId}`, this.#monotonic(expiresAt)] as const
      )
    )
    for (const peer of this.#byId.values()) peer.retain((resource) => expiries.get(`${peer.id} ${resource}`))
  }

  /** The portal is back after it was away, and may not have got what it was asked. */
  askAgain(now: number): void {
    this.#pending.askAgain(now)
  }

  pollRequest(): ClientRequest | undefined {
    const target = this.#pending.pollIntent()
    if (target === undefined) return undefined
    const [resourceId, address] = read(target)
    return {
      _tag: "RequestAuthorization",
      resourceId,
      connectedGatewayIds: [],
      ...(familyOf(address) === 4 ? { ipv4: address } : { ipv6: address })
    }
  }

  /** Returns the peer whose connection came up. */
  established(id: PeerId): DevicePeer | undefined {
    const peer = this.#byId.get(id)
    if (peer !== undefined) {
      this.#parts.events.resources.invalidate()
      this.#parts.events.push({ _tag: "PeerConnected", peer: id })
    }
    return peer
  }

  /**
   * Forgets a peer and all that hangs on it (15.2). `keepsPreference`: it is gone for reasons of ours, and what is in use
   * is asked for before the next packet, as of gateways.
   */
  lose(id: PeerId, reason: string, now: number, keepsPreference = false): void {
    const peer = this.#byId.get(id)
    if (peer === undefined) return
    const { drops, events } = this.#parts
    this.#byId.delete(id)
    for (const address of [peer.addresses.ipv4, peer.addresses.ipv6]) {
      const words = wordsOf(address)
      if (this.#byAddress.get(familyOf(address), words) === peer) this.#byAddress.delete(familyOf(address), words)
    }
    events.deviceCandidates.forget(id)
    for (let lost = peer.waiting?.size ?? 0; lost > 0; lost--) drops.add("not-connected")
    for (const member of this.#pools.members()) {
      if (member.peer !== peer) continue
      member.peer = undefined
      if (!keepsPreference || now - member.usedAt > IN_USE) continue
      this.#ask(member, member.usedFamily === 4 ? peer.addresses.ipv4 : peer.addresses.ipv6, undefined, now)
    }
    events.resources.invalidate()
    events.push({ _tag: "PeerLost", peer: id, reason })
  }

  handleTimeout(now: number): void {
    for (const peer of this.#byId.values()) peer.handleTimeout(now)
  }

  /** Infinite if there is nothing to wait for. */
  pollTimeout(): number {
    let next = Number.POSITIVE_INFINITY
    for (const { flows, nextExpiry } of this.#byId.values()) next = Math.min(next, nextExpiry, flows.nextTimeout)
    return next
  }

  clear(): void {
    this.#byId.clear()
    this.#byAddress.clear()
  }

  #send(peer: DevicePeer, packet: IpPacket, now: number): Outward {
    return this.#parts.sender.send(peer, packet, now) ? Outward.Sent : Outward.Taken
  }

  /** Whether an ICMP error is about a packet of a flow between us and the peer; `from` says whose error it is. */
  #isAboutFlow(peer: DevicePeer, packet: IpPacket, from: "ours" | "theirs", now: number): boolean {
    const error = this.#icmpError
    const own = this.#host.addresses()
    if (own === undefined || !parseIcmpError(packet, error)) return false
    const { destination, destinationPort, kind, source, sourcePort, version } = error.failed
    const isTheirs = from === "theirs"
    // What failed was sent by whoever is told of it.
    if (!(isTheirs ? own : peer.addresses).includes(version, source)) return false
    if (!(isTheirs ? peer.addresses : own).includes(version, destination)) return false
    const localPort = isTheirs ? sourcePort : destinationPort
    const peerPort = isTheirs ? destinationPort : sourcePort
    return peer.flows.openerOf(version, kind, localPort, peerPort, now) !== Opener.Nobody
  }

  /**
   * A device that prohibits what we believe to be granted has lost the grant, most likely to its expiry: asks the portal
   * again, as of gateways.
   */
  #heed(peer: DevicePeer, now: number): void {
    const { buffer, destination, destinationPort, kind, version } = this.#icmpError.failed
    const member = this.#pools.find(version, destination, kind, destinationPort)
    if (member?.peer !== peer || !member.filter.permits(kind, destinationPort)) return
    this.#ask(member, ipFromBytes(buffer, destinationOffset(this.#icmpError.failed), version), undefined, now)
  }

  /** Asks for a member at one of its addresses, and keeps the packet if there is one. */
  #ask(member: PoolMember, address: IpAddress, packet: IpPacket | undefined, now: number): void {
    const target = write(member.id, address)
    const hasRoom = this.#pending.has(target) || this.#pending.size < MAX_TARGETS
    if (!hasRoom || !this.#pending.trigger(target, packet, now)) this.#parts.drops.add("buffer-full")
  }

  #authorize(access: DeviceAccessAuthorized, now: number): void {
    const { node } = this.#parts
    if (this.#host.addresses() === undefined) return this.#parts.drops.add("no-interface")
    // To the key that a reset has replaced: what comes of it would never connect.
    if (!this.#host.portalIsThere()) return this.#parts.drops.add("grant-without-request")
    const outcome = node.upsertConnection({
      peer: access.clientId,
      remoteKey: access.clientPublicKey,
      presharedKey: access.presharedKey,
      localCredentials: access.localIceCredentials,
      remoteCredentials: access.remoteIceCredentials,
      role: access.iceRole,
      profile: "device",
      iceless: access.useIceless
    }, now)
    const isOfPeer = (_: ResourceId, address: IpAddress): boolean =>
      address === access.clientIpv4 || address === access.clientIpv6
    if (outcome === "NoRelays") {
      this.#abandon(isOfPeer, "no-relays")
      return this.#parts.events.request({ _tag: "NoRelays" })
    }
    const peer = this.#peerFor(access, now)
    peer.name = access.clientName
    // Another name, or another connection in the place of the one that there was.
    this.#parts.events.resources.invalidate()
    for (const member of this.#pools.members()) if (member.device.clientId === peer.id) member.name = peer.name
    if (access.resource !== undefined) {
      peer.grant(access.resource.id, access.resource.filters, this.#monotonic(access.expiresAt))
    }
    for (const [pool, packets] of this.#take(isOfPeer)) {
      const member = this.#pools.member(pool, peer.id)
      if (member !== undefined) {
        member.peer = peer
        member.refused = undefined
      }
      this.#host.release(packets, now)
    }
  }

  #peerFor({ clientId, clientIpv4, clientIpv6 }: DeviceAccessAuthorized, now: number): DevicePeer {
    const known = this.#byId.get(clientId)
    if (known?.addresses.isSame(clientIpv4, clientIpv6) === true) return known
    if (known !== undefined) this.lose(clientId, "the device came back with another address", now)
    const peer = new DevicePeer(clientId, new TunAddresses(clientIpv4, clientIpv6))
    this.#byId.set(clientId, peer)
    this.#byAddress.set(4, wordsOf(clientIpv4), peer)
    this.#byAddress.set(6, wordsOf(clientIpv6), peer)
    return peer
  }

  #deny(address: IpAddress, reason: string, now: number): void {
    // It does not say of which pool.
    for (const member of this.#pools.members()) {
      if (member.owns(address)) member.refused = new Refused(reason, [], now)
    }
    this.#abandon((_, target) => target === address)
    const peer = this.#byAddress.get(familyOf(address), wordsOf(address))
    if (peer !== undefined && this.#pools.lists(peer.id)) this.#close(peer, "the portal has denied access", now)
  }

  #dismiss(id: ClientId, now: number): void {
    for (const member of this.#pools.members()) {
      if (member.device.clientId === id) member.refused = new Refused("offline", [], now)
    }
    this.#abandon((pool, address) => this.#pools.member(pool, id)?.owns(address) === true)
    const peer = this.#byId.get(id)
    if (peer !== undefined) this.#close(peer, "the portal says that it is offline", now)
  }

  #close(peer: DevicePeer, reason: string, now: number): void {
    this.#parts.node.closeConnection(peer.id, now)
    // A connection that was still coming up goes without an event.
    this.lose(peer.id, reason, now)
  }

  #monotonic(unixSeconds: number | undefined): number {
    return unixSeconds === undefined ? Number.POSITIVE_INFINITY : unixSeconds * 1000 - this.#parts.unixEpochMillis
  }

  /** Ends the wait for the targets that `isMeant` accepts; the packets are lost. */
  #abandon(isMeant: (pool: ResourceId, address: IpAddress) => boolean, reason: DropReason = "not-authorized"): void {
    for (const [, packets] of this.#take(isMeant)) {
      for (let lost = packets.length; lost > 0; lost--) this.#parts.drops.add(reason)
    }
  }

  #take(
    isMeant: (pool: ResourceId, address: IpAddress) => boolean
  ): ReadonlyArray<readonly [pool: ResourceId, packets: ReadonlyArray<BufferedPacket>]> {
    return this.#pending.targets.filter((target) => isMeant(...read(target))).map((target) =>
      [read(target)[0], this.#pending.remove(target) ?? []] as const
    )
  }

  #drop(reason: DropReason): false {
    this.#parts.drops.add(reason)
    return false
  }
}

const write = (pool: ResourceId, address: IpAddress): string => `${pool} ${address}`

const read = (target: string): readonly [pool: ResourceId, address: IpAddress] => {
  const [pool = "", address = ""] = target.split(" ")
  return [pool, ip(address)]
}
