import type { NodeApi, PeerId } from "../node/types.ts"
import type { AuthorizationCreated, ClientRequest, GatewayId, Resource, ResourceId, SiteId } from "../portal/types.ts"
import type { Family } from "../wire/address.ts"
import type { IpPacket } from "../wire/ip.ts"
import type { IpWords } from "../wire/ipWords.ts"
import type { ClientEvents } from "./ClientEvents.ts"
import { type ClientResource, routesAlike } from "./ClientResource.ts"
import { ClientResources, networksOf } from "./ClientResources.ts"
import type { DropCounts, DropReason } from "./DropCounts.ts"
import { GatewayPeer } from "./GatewayPeer.ts"
import { GatewayPreferences } from "./GatewayPreferences.ts"
import { INTENT_COOL_DOWN, PendingAuthorizations } from "./PendingAuthorizations.ts"
import { Refused } from "./Refused.ts"
import { SiteStates } from "./SiteStates.ts"
import { TunAddresses } from "./TunAddresses.ts"
import type { SiteState } from "./types.ts"
import type { BufferedPacket } from "./UniquePacketBuffer.ts"

/** As a connection that is not idle (connectivity spec 12.4), milliseconds. */
export const IN_USE = 20_000

/** What happens elsewhere when access changes. */
export interface ClientAccessHooks {
  readonly resourceAdded: (resource: ClientResource, now: number) => void
  readonly resourceRemoved: (resource: ClientResource, now: number) => void
  /** The wait for a grant is over: with one, or without. */
  readonly granted: (resource: ClientResource, packets: ReadonlyArray<BufferedPacket>, now: number) => void
  readonly abandoned: (resource: ResourceId, now: number) => void
  /** The resource is not reached through its gateway any more. */
  readonly detached: (resource: ClientResource) => void
  /** The connection to a gateway is over. */
  readonly peerLost: (gateway: GatewayPeer) => void
}

/**
 * Which resources there are, through which gateways the portal lets us reach them, and what waits for that (tunnel spec
 * 5, 8.3, 15.2).
 */
export class ClientAccess {
  readonly resources = new ClientResources()
  readonly sites = new SiteStates()
  readonly #node: NodeApi
  readonly #events: ClientEvents
  readonly #drops: DropCounts
  readonly #hooks: ClientAccessHooks
  readonly #pending = new PendingAuthorizations()
  readonly #peers = new Map<PeerId, GatewayPeer>()
  readonly #preferences = new GatewayPreferences()
  #portalIsAway = false

  constructor(node: NodeApi, events: ClientEvents, drops: DropCounts, hooks: ClientAccessHooks) {
    this.#node = node
    this.#events = events
    this.#drops = drops
    this.#hooks = hooks
  }

  peer(id: PeerId): GatewayPeer | undefined {
    return this.#peers.get(id)
  }

  /** The gateway whose TUN device has the address. */
  peerAt(version: Family, address: IpWords): GatewayPeer | undefined {
    for (const peer of this.#peers.values()) if (peer.addresses.includes(version, address)) return peer
    return undefined
  }

  /** Asks for a resource that traffic wants, and keeps the packet if there is one. */
  request(resource: ClientResource, packet: IpPacket | undefined, now: number): void {
    if (!this.#pending.trigger(resource.id, packet, now)) this.#drops.add("buffer-full")
  }

  /** As `request`, for a grant that a gateway does not honour: no more often than traffic may (22.2). */
  renew(resource: ClientResource, now: number): void {
    if (now - resource.renewedAt < INTENT_COOL_DOWN) return
    resource.renewedAt = now
    this.request(resource, undefined, now)
  }

  portalDisconnected(): void {
    this.#portalIsAway = true
  }

  /** Whether the portal has said, since it was last away, all that it begins with. */
  get isPortalThere(): boolean {
    return !this.#portalIsAway
  }

  /**
   * Whether the portal is there to hear a request, and what it grants can be used. A new key comes with new credentials
   * for the relays, which start over then.
   */
  get mayAsk(): boolean {
    return !this.#portalIsAway && !this.#node.awaitsRelays
  }

  /** The portal has said all that it begins with. */
  initialized(now: number): void {
    if (this.#portalIsAway) this.#pending.askAgain(now)
    this.#portalIsAway = false
  }

  /** What the portal is to be asked, if it may be. */
  pollRequest(): ClientRequest | undefined {
    const resourceId = this.#pending.pollIntent()
    if (resourceId === undefined) return undefined
    const connectedGatewayIds = this.#preferences.order(
      this.resources.get(resourceId)?.preferred,
      (gateway: GatewayId) => this.#peers.has(gateway)
    )
    return { _tag: "RequestAuthorization", resourceId, connectedGatewayIds }
  }

  /** The list is complete: what it does not name is no more (5.2). */
  setResources(resources: ReadonlyArray<Resource>, now: number): void {
    const listed = new Set(resources.map(({ id }) => id))
    for (const { id } of [...this.resources]) if (!listed.has(id)) this.#delete(id, now)
    for (const resource of resources) this.#upsert(resource, now)
    this.#refreshList()
  }

  upsert(resource: Resource, now: number): void {
    this.#upsert(resource, now)
    this.#refreshList()
  }

  delete(id: ResourceId, now: number): void {
    this.#delete(id, now)
    this.#refreshList()
  }

  /** The user's switch (5.4). */
  setInternetSwitch(active: boolean, now: number): void {
    const { internet } = this.resources
    if (!active && internet !== undefined) this.#withdraw(internet, now)
    this.resources.setInternetSwitch(active)
    this.#events.config.invalidate()
  }

  /** The portal found a gateway that lets us in (8.3). */
  grant(authorization: AuthorizationCreated, now: number): void {
    const resource = this.resources.get(authorization.resourceId)
    if (resource === undefined) return this.#drops.add("grant-of-unknown-resource")
    // To the key that a reset has replaced: what comes of it would never connect.
    if (this.#portalIsAway) return this.#drops.add("grant-without-request")
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
      this.#abandon(resource.id, "no-relays", now)
      this.#events.request({ _tag: "NoRelays" })
      return
    }
    const peer = this.#peerFor(authorization, now)
    if (resource.gateway !== peer) this.#detach(resource, now)
    resource.gateway = peer
    resource.preferred = peer.id
    resource.refused = undefined
    peer.allow(resource.id, networksOf(resource.resource))
    this.#preferences.learn(peer.id)
    // A connection that is there already says nothing of itself, whatever was said of its site meanwhile.
    if (this.#node.isEstablished(peer.id)) this.#setSite(peer.site, "Online", now)
    this.#hooks.granted(resource, this.#pending.remove(resource.id) ?? [], now)
  }

  /** Reasons but `offline` change nothing: traffic goes on asking. */
  deny(id: ResourceId, reason: string, violated: ReadonlyArray<string>, now: number): void {
    const resource = this.resources.get(id)
    if (resource === undefined) return
    resource.refused = new Refused(reason, violated, now)
    if (reason === "version_mismatch") return this.#events.notify("GatewayVersionMismatch", id)
    if (reason !== "offline") return
    this.#abandon(id, "not-authorized", now)
    if (resource.gateway !== undefined) this.#close(resource.gateway, "the portal says that it is offline", now)
    for (const site of resource.sites) this.sites.set(site.id, "Offline", now)
    this.#events.resources.invalidate()
    this.#events.notify("AllGatewaysOffline", id)
  }

  /** Returns the peer whose connection came up. */
  established(id: PeerId, now: number): GatewayPeer | undefined {
    const peer = this.#peers.get(id)
    if (peer === undefined) return undefined
    this.#setSite(peer.site, "Online", now)
    this.#events.push({ _tag: "PeerConnected", peer: id })
    return peer
  }

  /**
   * Forgets a peer and all that hangs on it (15.2); the next packet asks for it again. `keepsPreference`: it is gone for
   * reasons of ours and may be asked for first, and what is in use is asked for before the next packet, because who only
   * receives may have none to send.
   */
  lose(id: PeerId, reason: string, now: number, keepsPreference = false): void {
    this.#events.candidates.forget(id)
    const peer = this.#peers.get(id)
    this.#peers.delete(id)
    if (peer === undefined) return
    this.#hooks.peerLost(peer)
    for (let lost = peer.waiting?.size ?? 0; lost > 0; lost--) this.#drops.add("not-connected")
    for (const resource of this.resources) {
      if (resource.gateway !== peer) continue
      resource.gateway = undefined
      if (!keepsPreference) resource.preferred = undefined
      else if (now - resource.usedAt <= IN_USE) this.request(resource, undefined, now)
    }
    this.#setSite(peer.site, "Unknown", now)
    this.#events.push({ _tag: "PeerLost", peer: id, reason })
  }

  handleTimeout(now: number): void {
    if (this.sites.handleTimeout(now)) this.#events.resources.invalidate()
  }

  clearPeers(): void {
    this.#peers.clear()
  }

  #close(peer: GatewayPeer, reason: string, now: number): void {
    this.#node.closeConnection(peer.id, now)
    // A connection that was still coming up goes without an event.
    this.lose(peer.id, reason, now)
  }

  #setSite(site: SiteId, state: SiteState, now: number): void {
    this.sites.set(site, state, now)
    this.#events.resources.invalidate()
  }

  #upsert(resource: Resource, now: number): void {
    const known = this.resources.get(resource.id)
    if (known !== undefined && routesAlike(known.resource, resource)) {
      known.resource = resource
      this.#hooks.resourceAdded(known, now)
      return
    }
    if (known !== undefined) this.#remove(known, now)
    this.#hooks.resourceAdded(this.resources.add(resource), now)
  }

  #delete(id: ResourceId, now: number): void {
    this.#events.forget(id)
    const known = this.resources.get(id)
    if (known !== undefined) this.#remove(known, now)
  }

  #remove(resource: ClientResource, now: number): void {
    this.#hooks.resourceRemoved(resource, now)
    this.#withdraw(resource, now)
    this.resources.remove(resource)
  }

  #refreshList(): void {
    this.sites.retain((site) => this.resources.usesSite(site))
    this.#events.config.invalidate()
    this.#events.resources.invalidate()
  }

  /** Ends both the wait for a grant and the use of one (5.3 steps 2 to 4). */
  #withdraw(resource: ClientResource, now: number): void {
    this.#abandon(resource.id, "not-authorized", now)
    this.#detach(resource, now)
  }

  #abandon(resource: ResourceId, reason: DropReason, now: number): void {
    for (let lost = this.#pending.remove(resource)?.length ?? 0; lost > 0; lost--) this.#drops.add(reason)
    this.#hooks.abandoned(resource, now)
  }

  #detach(resource: ClientResource, now: number): void {
    const { gateway } = resource
    if (gateway === undefined) return
    resource.gateway = undefined
    resource.preferred = undefined
    gateway.disallow(resource.id)
    this.#hooks.detached(resource)
    if (gateway.isUnused) this.#close(gateway, "no resource needs the gateway any more", now)
  }

  #peerFor({ gatewayId, gatewayIpv4, gatewayIpv6, siteId }: AuthorizationCreated, now: number): GatewayPeer {
    const known = this.#peers.get(gatewayId)
    if (known?.site === siteId && known.addresses.isSame(gatewayIpv4, gatewayIpv6)) return known
    // What was granted to the gateway as it was before has to be granted anew.
    if (known !== undefined) this.lose(gatewayId, "the gateway came back with another address", now)
    const peer = new GatewayPeer(gatewayId, siteId, new TunAddresses(gatewayIpv4, gatewayIpv6))
    this.#peers.set(gatewayId, peer)
    return peer
  }
}
