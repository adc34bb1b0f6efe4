import type { Upstream } from "../dns/upstreams.ts"
import type { PeerId, PeerStatus, RelayStatus } from "../node/types.ts"
import type { ClientRequest, GatewayRequest, ResourceId, Site } from "../portal/types.ts"
import type { IpAddress, IpNetwork } from "../wire/address.ts"
import type { DnsCountsSnapshot } from "./DnsCounts.ts"

/** What the TUN device and the system's resolver configuration should be (tunnel spec 4). */
export interface TunConfig {
  readonly ipv4: IpAddress
  readonly ipv6: IpAddress
  /** Distinct, in no order that matters. */
  readonly routes: ReadonlyArray<IpNetwork>
  /** Where the client answers DNS, and whom it asks in turn; in the order in which the system should ask. */
  readonly dnsBySentinel: ReadonlyMap<IpAddress, Upstream>
  readonly searchDomain?: string | undefined
}

export type SiteState = "Unknown" | "Online" | "Offline"

/** A resource as a person sees it (tunnel spec 5.7). Of the Internet resource the address is empty. */
export interface ResourceView {
  readonly id: ResourceId
  readonly type: "cidr" | "dns" | "internet"
  readonly name: string
  readonly address: string
  readonly addressDescription?: string | undefined
  readonly sites: ReadonlyArray<Site>
  readonly status: SiteState
}

export type PeerEvent =
  | { readonly _tag: "PeerConnected"; readonly peer: PeerId }
  | { readonly _tag: "PeerLost"; readonly peer: PeerId; readonly reason: string }

export type ClientTunnelEvent =
  | { readonly _tag: "TunConfigUpdated"; readonly config: TunConfig }
  | { readonly _tag: "ResourcesUpdated"; readonly resources: ReadonlyArray<ResourceView> }
  | { readonly _tag: "Request"; readonly request: ClientRequest }
  /** Once per resource and session. */
  | { readonly _tag: "AllGatewaysOffline"; readonly resourceId: ResourceId }
  /** Once per resource and session. */
  | { readonly _tag: "GatewayVersionMismatch"; readonly resourceId: ResourceId }
  /** No relay is of use, so that there will be no new connections; how many for which reason. Once per such time. */
  | { readonly _tag: "RelaysUnusable"; readonly reasons: ReadonlyMap<string, number> }
  /** Of a DNS resource or device pool: no name is its own. */
  | { readonly _tag: "UnusablePattern"; readonly resourceId: ResourceId }
  | PeerEvent

export interface ClientTunnelStatus {
  /** With the gateway through which one is reached, while there is one. */
  readonly resources: ReadonlyArray<ResourceView & { readonly gateway?: PeerId | undefined }>
  readonly peers: ReadonlyArray<PeerStatus>
  readonly relays: ReadonlyArray<RelayStatus>
  /** Packets and datagrams dropped, by reason. */
  readonly dropped: { readonly [reason: string]: number }
  /** What became of DNS queries. */
  readonly dnsCounts: DnsCountsSnapshot
  readonly internetResourceActive: boolean
}

export type GatewayTunnelEvent =
  | { readonly _tag: "TunConfigUpdated"; readonly config: Omit<TunConfig, "dnsBySentinel" | "searchDomain"> }
  | { readonly _tag: "Request"; readonly request: GatewayRequest }
  /** `domainResolved` is to be told of every address that the name has behind the gateway. */
  | { readonly _tag: "ResolveDomain"; readonly domain: string }
  | PeerEvent

export interface GatewayTunnelStatus {
  /** Clients that hold a grant, and which. */
  readonly clients: ReadonlyArray<{ readonly id: PeerId; readonly resources: ReadonlyArray<ResourceId> }>
  readonly peers: ReadonlyArray<PeerStatus>
  readonly dropped: { readonly [reason: string]: number }
}
