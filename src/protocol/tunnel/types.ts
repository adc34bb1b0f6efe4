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

/** Another client that there is a connection to, and the static pools that list it (tunnel spec 5.7). */
export interface ConnectedDevice {
  readonly id: PeerId
  /** What its owner calls it. */
  readonly name: string
  readonly ipv4: IpAddress
  readonly ipv6: IpAddress
  /** By name. */
  readonly pools: ReadonlyArray<string>
}

/** What there is to reach, as a host shows it. */
export interface Reachable {
  readonly resources: ReadonlyArray<ResourceView>
  /** By name and id; of static pools alone. */
  readonly connectedDevices: ReadonlyArray<ConnectedDevice>
}

/** The portal's word that something may not be reached, or cannot be. */
export interface Refusal {
  /** An open string: `offline`, `not_found`, `forbidden`, `version_mismatch`, ... */
  readonly reason: string
  /** The conditions of policies that are not met, where it says so. */
  readonly violated: ReadonlyArray<string>
  readonly ageMillis: number
}

/** A device of a pool, as far as it is known. */
export interface DeviceView {
  /** Of dynamic pools only once there is a connection. */
  readonly id?: PeerId | undefined
  /** What its owner calls it, once access was granted; in dynamic pools its name in DNS. */
  readonly name?: string | undefined
  /** Networks of one address each. */
  readonly ipv4: string
  readonly ipv6: string
  /** Whether the portal lets us reach it now. */
  readonly granted: boolean
  /** The peer that it is, while there is a connection. */
  readonly peer?: PeerId | undefined
  /** The latest, since access was last granted. */
  readonly refusal?: Refusal | undefined
}

/** A device pool as a person sees it. */
export interface DevicePoolView {
  readonly id: ResourceId
  readonly type: "static" | "dynamic"
  readonly name: string
  /** Of dynamic pools: the pattern of names. */
  readonly address?: string | undefined
  /** Those that the portal lists; in dynamic pools those whose names were looked up. */
  readonly devices: ReadonlyArray<DeviceView>
  /** Of dynamic pools: the latest name that the portal had no device for. */
  readonly refusal?: Refusal & { readonly domain: string } | undefined
}

export type PeerEvent =
  | { readonly _tag: "PeerConnected"; readonly peer: PeerId }
  | { readonly _tag: "PeerLost"; readonly peer: PeerId; readonly reason: string }

export type ClientTunnelEvent =
  | { readonly _tag: "TunConfigUpdated"; readonly config: TunConfig }
  | ({ readonly _tag: "ResourcesUpdated" } & Reachable)
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
  readonly resources: ReadonlyArray<
    ResourceView & {
      readonly gateway?: PeerId | undefined
      /** The latest, since access was last granted. */
      readonly refusal?: Refusal | undefined
    }
  >
  readonly devicePools: ReadonlyArray<DevicePoolView>
  readonly peers: ReadonlyArray<
    PeerStatus & { readonly kind: "gateway" | "device"; readonly name?: string | undefined }
  >
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
