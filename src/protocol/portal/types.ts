/**
 * The portal's messages after decoding (portal spec sections 5 to 7): what the schemas in `src/model/portal.ts` produce
 * and the tunnel core consumes. Ids are lower-case UUID text; keys are 32 bytes; times are unix seconds.
 */
import type { IceCredentials, Relay } from "../node/types.ts"
import type { IpAddress, IpNetwork } from "../wire/address.ts"

export type ResourceId = string
export type GatewayId = string
export type ClientId = string
export type SiteId = string

export interface Site {
  readonly id: SiteId
  readonly name: string
}

/** Ports are inclusive; an empty list of filters allows everything. */
export type Filter =
  | { readonly protocol: "tcp" | "udp"; readonly portRangeStart: number; readonly portRangeEnd: number }
  | { readonly protocol: "icmp" }

export type IpStack = "dual" | "ipv4_only" | "ipv6_only"

export interface CidrResource {
  readonly type: "cidr"
  readonly id: ResourceId
  readonly name: string
  readonly address: IpNetwork
  readonly addressDescription?: string | undefined
  readonly sites: ReadonlyArray<Site>
  readonly filters: ReadonlyArray<Filter>
}
export interface DnsResource {
  readonly type: "dns"
  readonly id: ResourceId
  readonly name: string
  /** Domain pattern. */
  readonly address: string
  readonly addressDescription?: string | undefined
  readonly sites: ReadonlyArray<Site>
  readonly ipStack: IpStack
  readonly filters: ReadonlyArray<Filter>
}
export interface InternetResource {
  readonly type: "internet"
  readonly id: ResourceId
  readonly name: string
  readonly sites: ReadonlyArray<Site>
}
export interface PoolDevice {
  readonly clientId: ClientId
  readonly ipv4: IpNetwork
  readonly ipv6: IpNetwork
}
export interface StaticDevicePool {
  readonly type: "static_device_pool"
  readonly id: ResourceId
  readonly name: string
  readonly devices: ReadonlyArray<PoolDevice>
  readonly filters: ReadonlyArray<Filter>
}
export interface DynamicDevicePool {
  readonly type: "dynamic_device_pool"
  readonly id: ResourceId
  readonly name: string
  /** Domain pattern. */
  readonly address: string
}
export type Resource = CidrResource | DnsResource | InternetResource | StaticDevicePool | DynamicDevicePool

export interface InterfaceConfig {
  readonly ipv4: IpAddress
  readonly ipv6: IpAddress
  /** Custom resolvers, port 53; `upstream_dns` is folded in where `upstream_do53` was empty. */
  readonly upstreamDo53: ReadonlyArray<IpAddress>
  /** Absolute https URLs. */
  readonly upstreamDoh: ReadonlyArray<string>
  readonly searchDomain?: string | undefined
}

export interface InboundAuthorization {
  readonly clientId: ClientId
  readonly resourceId: ResourceId
  readonly expiresAt: number
}

export interface Init {
  readonly interface: InterfaceConfig
  readonly resources: ReadonlyArray<Resource>
  readonly relays: ReadonlyArray<Relay>
  readonly authorizations: ReadonlyArray<InboundAuthorization>
}

export interface AuthorizationCreated {
  readonly resourceId: ResourceId
  readonly gatewayId: GatewayId
  readonly gatewayPublicKey: Uint8Array
  readonly gatewayIpv4: IpAddress
  readonly gatewayIpv6: IpAddress
  readonly siteId: SiteId
  readonly presharedKey: Uint8Array
  readonly clientIceCredentials: IceCredentials
  readonly gatewayIceCredentials: IceCredentials
  readonly useIceless: boolean
}

export interface DeviceAccessAuthorized {
  readonly clientId: ClientId
  readonly clientName: string
  readonly clientPublicKey: Uint8Array
  readonly clientIpv4: IpAddress
  readonly clientIpv6: IpAddress
  readonly presharedKey: Uint8Array
  readonly localIceCredentials: IceCredentials
  readonly remoteIceCredentials: IceCredentials
  readonly iceRole: "controlling" | "controlled"
  readonly useIceless: boolean
  readonly resource?: { readonly id: ResourceId; readonly filters: ReadonlyArray<Filter> } | undefined
  readonly expiresAt?: number | undefined
}

/** Portal -> client. `reason`s are open strings: `offline`, `not_found`, `forbidden`, `version_mismatch`, ... */
export type ClientPush =
  | { readonly _tag: "Init"; readonly init: Init }
  | { readonly _tag: "ConfigChanged"; readonly interface: InterfaceConfig }
  | { readonly _tag: "ResourceCreatedOrUpdated"; readonly resource: Resource }
  | { readonly _tag: "ResourceDeleted"; readonly id: ResourceId }
  | {
    readonly _tag: "RelaysPresence"
    readonly disconnectedIds: ReadonlyArray<string>
    readonly connected: ReadonlyArray<Relay>
  }
  | { readonly _tag: "AuthorizationCreated"; readonly authorization: AuthorizationCreated }
  | {
    readonly _tag: "AuthorizationCreationFailed"
    readonly resourceId: ResourceId
    readonly reason: string
    readonly violatedProperties: ReadonlyArray<string>
  }
  | { readonly _tag: "IceCandidates"; readonly gatewayId: GatewayId; readonly candidates: ReadonlyArray<string> }
  | {
    readonly _tag: "InvalidateIceCandidates"
    readonly gatewayId: GatewayId
    readonly candidates: ReadonlyArray<string>
  }
  | { readonly _tag: "DeviceAccessAuthorized"; readonly access: DeviceAccessAuthorized }
  | {
    readonly _tag: "DeviceAccessDenied"
    readonly reason: string
    readonly ipv4?: IpAddress | undefined
    readonly ipv6?: IpAddress | undefined
    readonly clientId?: ClientId | undefined
  }
  | { readonly _tag: "ClientIceCandidates"; readonly clientId: ClientId; readonly candidates: ReadonlyArray<string> }
  | {
    readonly _tag: "InvalidateClientIceCandidates"
    readonly clientId: ClientId
    readonly candidates: ReadonlyArray<string>
  }
  | { readonly _tag: "ClientIceCandidateError"; readonly clientId: ClientId; readonly reason: string }
  | { readonly _tag: "ResourceFiltersUpdated"; readonly id: ResourceId; readonly filters: ReadonlyArray<Filter> }
  | { readonly _tag: "RejectAccess"; readonly clientId: ClientId; readonly resourceId: ResourceId }
  | {
    readonly _tag: "DevicePoolDomainResolved"
    readonly resourceId: ResourceId
    readonly domain: string
    readonly ipv4: IpAddress
    readonly ipv6: IpAddress
  }
  | {
    readonly _tag: "DevicePoolDomainResolutionFailed"
    readonly resourceId: ResourceId
    readonly domain: string
    readonly reason: string
  }

/** Client -> portal; the layer picks the event name of the endpoint in use (v1 or v2). */
export type ClientRequest =
  | { readonly _tag: "SetSnownetCapabilities"; readonly iceless: boolean }
  | {
    readonly _tag: "RequestAuthorization"
    readonly resourceId: ResourceId
    readonly connectedGatewayIds: ReadonlyArray<GatewayId>
    readonly ipv4?: IpAddress | undefined
    readonly ipv6?: IpAddress | undefined
  }
  | {
    readonly _tag: "NewGatewayIceCandidates"
    readonly gatewayId: GatewayId
    readonly candidates: ReadonlyArray<string>
  }
  | {
    readonly _tag: "InvalidateGatewayIceCandidates"
    readonly gatewayId: GatewayId
    readonly candidates: ReadonlyArray<string>
  }
  | { readonly _tag: "NewClientIceCandidates"; readonly clientId: ClientId; readonly candidates: ReadonlyArray<string> }
  | {
    readonly _tag: "InvalidateClientIceCandidates"
    readonly clientId: ClientId
    readonly candidates: ReadonlyArray<string>
  }
  | { readonly _tag: "NoRelays" }
  | { readonly _tag: "ResolveDevicePoolDomain"; readonly resourceId: ResourceId; readonly domain: string }

/** What a gateway is told of a resource (spec 7.1). */
export type GatewayResource =
  | {
    readonly type: "cidr"
    readonly id: ResourceId
    readonly name: string
    readonly address: IpNetwork
    readonly filters: ReadonlyArray<Filter>
  }
  | {
    readonly type: "dns"
    readonly id: ResourceId
    readonly name: string
    readonly address: string
    readonly filters: ReadonlyArray<Filter>
  }
  | { readonly type: "internet"; readonly id: ResourceId }

export interface CreateAuthorization {
  readonly ref: string
  readonly resource: GatewayResource
  readonly client: {
    readonly id: ClientId
    readonly publicKey: Uint8Array
    readonly presharedKey: Uint8Array
    readonly ipv4: IpAddress
    readonly ipv6: IpAddress
  }
  readonly clientIceCredentials: IceCredentials
  readonly gatewayIceCredentials: IceCredentials
  readonly expiresAt?: number | undefined
  readonly useIceless: boolean
}

/** Portal -> gateway. */
export type GatewayPush =
  | {
    readonly _tag: "GatewayInit"
    readonly ipv4: IpAddress
    readonly ipv6: IpAddress
    readonly relays: ReadonlyArray<Relay>
    readonly authorizations: ReadonlyArray<InboundAuthorization>
  }
  | { readonly _tag: "CreateAuthorization"; readonly authorization: CreateAuthorization }
  | { readonly _tag: "GatewayIceCandidates"; readonly clientId: ClientId; readonly candidates: ReadonlyArray<string> }
  | {
    readonly _tag: "GatewayInvalidateIceCandidates"
    readonly clientId: ClientId
    readonly candidates: ReadonlyArray<string>
  }
  | { readonly _tag: "RejectAccess"; readonly clientId: ClientId; readonly resourceId: ResourceId }
  | { readonly _tag: "ResourceUpdated"; readonly resource: GatewayResource }
  | {
    readonly _tag: "RelaysPresence"
    readonly disconnectedIds: ReadonlyArray<string>
    readonly connected: ReadonlyArray<Relay>
  }

/** Gateway -> portal. */
export type GatewayRequest =
  | { readonly _tag: "SetSnownetCapabilities"; readonly iceless: boolean }
  | { readonly _tag: "AuthorizationConfirmed"; readonly ref: string }
  | {
    readonly _tag: "BroadcastIceCandidates"
    readonly clientIds: ReadonlyArray<ClientId>
    readonly candidates: ReadonlyArray<string>
  }
  | {
    readonly _tag: "BroadcastInvalidatedIceCandidates"
    readonly clientIds: ReadonlyArray<ClientId>
    readonly candidates: ReadonlyArray<string>
  }
  | { readonly _tag: "NoRelays" }
