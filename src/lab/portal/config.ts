/** What the portal emulator is told at its start; the lab hands it over as JSON. */
import type { Site } from "../../protocol/portal/types.ts"

/** A relay that is there without signing in. At least one address. */
export interface StaticRelay {
  readonly stampSecret: string
  readonly ipv4?: string | undefined
  readonly ipv6?: string | undefined
  readonly port: number
}

/** As on the wire (portal spec section 5). */
export type FilterConfig =
  | {
    readonly protocol: "tcp" | "udp"
    readonly port_range_start?: number | undefined
    readonly port_range_end?: number | undefined
  }
  | { readonly protocol: "icmp" }

interface Routed {
  readonly id: string
  /** Ids; in practice one. */
  readonly sites: ReadonlyArray<string>
}

/** As clients see it (portal spec section 6.1), but for the sites. */
export type ResourceConfig =
  | Routed & {
    readonly type: "cidr"
    readonly name: string
    readonly address: string
    readonly address_description?: string | null | undefined
    readonly filters: ReadonlyArray<FilterConfig>
  }
  | Routed & {
    readonly type: "dns"
    readonly name: string
    readonly address: string
    readonly address_description?: string | null | undefined
    readonly ip_stack?: "dual" | "ipv4_only" | "ipv6_only" | undefined
    readonly filters: ReadonlyArray<FilterConfig>
  }
  | Routed & { readonly type: "internet" }

/** As clients see it, but for the devices of a static pool. */
export type PoolConfig =
  | {
    readonly type: "static_device_pool"
    readonly id: string
    readonly name: string
    /** External ids of clients. */
    readonly devices: ReadonlyArray<string>
    readonly filters: ReadonlyArray<FilterConfig>
  }
  | {
    readonly type: "dynamic_device_pool"
    readonly id: string
    readonly name: string
    /** A pattern; the first label of a name in it is a client's external id. */
    readonly address: string
  }

/** Of the account: every client gets the same. Do53 and DoH exclude each other. */
export interface DnsConfig {
  readonly upstreamDo53?: ReadonlyArray<string> | undefined
  readonly upstreamDoh?: ReadonlyArray<string> | undefined
  readonly searchDomain?: string | undefined
}

export interface PortalConfig {
  /** Where to listen. */
  readonly host: string
  /** Not 80: a client takes `ws://host:80` for port 443. 0 lets the system choose. */
  readonly port: number
  readonly clientTokens: ReadonlyArray<string>
  readonly gatewayTokens: ReadonlyArray<string>
  readonly relayTokens?: ReadonlyArray<string> | undefined
  /** Unix seconds, for clients; 30 days after the start unless given. */
  readonly tokensExpireAt?: number | undefined
  /** Whether the account has the feature. */
  readonly iceless: boolean
  readonly relays: ReadonlyArray<StaticRelay>
  readonly sites: ReadonlyArray<Site>
  readonly resources: ReadonlyArray<ResourceConfig>
  readonly pools?: ReadonlyArray<PoolConfig> | undefined
  /** The site of every gateway that `gatewaySites` does not name, by its external id. */
  readonly gatewaySite: string
  readonly gatewaySites?: { readonly [externalId: string]: string } | undefined
  readonly dns?: DnsConfig | undefined
  /** Connects for each pair of address and token; the portal in the field allows 1 per second, and 1 at once. */
  readonly connectRateLimit?: { readonly perSecond: number; readonly burst: number } | undefined
}

/** The portal's misbehaviour and its absences; all of it off at first. */
export interface Knobs {
  /** Joins that arrive meanwhile are never answered. */
  holdJoins: boolean
  /** Heartbeats that arrive meanwhile are never answered. */
  holdHeartbeats: boolean
  /** Clients do not hear of confirmations until this is off again; those then 15 s old have failed. */
  holdConfirmations: boolean
  /** The answer to every request for an authorization. */
  failAuthorizations:
    | { readonly reason: string; readonly violatedProperties?: ReadonlyArray<string> | undefined }
    | undefined
  /** How long grants last from now on, at most as long as the client's token; that long unless set. */
  grantSeconds: number | undefined
  /** Like a portal before mid-2026: the v2 endpoints are not found. */
  onlyV1: boolean
}
