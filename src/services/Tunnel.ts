import * as Context from "effect/Context"
import * as Data from "effect/Data"
import type * as Effect from "effect/Effect"
import type * as Redacted from "effect/Redacted"
import type * as Scope from "effect/Scope"
import type * as Stream from "effect/Stream"
import type { IpAddress } from "../model/Route.ts"
import type { PeerStatus, RelayStatus } from "../protocol/node/types.ts"
import type { ClientTunnelStatus, ConnectedDevice } from "../protocol/tunnel/types.ts"
import type { DeviceFacts } from "./DeviceIdentity.ts"
import type { DnsControl, DnsControlFailed } from "./DnsControl.ts"
import type { PeerSocketStats } from "./PeerSocket.ts"
import type { PortalFatal } from "./Portal.ts"
import type { RouteCacheStats } from "./RouteCache.ts"
import type { RoutingLoopPreventionFailed, SocketFailed } from "./SocketFactory.ts"
import type { TunFailed, TunStats } from "./TunDevice.ts"

export interface ResourceStatus {
  readonly id: string
  readonly type: "cidr" | "dns" | "internet"
  readonly name: string
  readonly address: string
  readonly addressDescription?: string | undefined
  readonly sites: ReadonlyArray<{ readonly id: string; readonly name: string }>
  readonly status: "Unknown" | "Online" | "Offline"
}

/** What the tunnel is doing, as one value (design section 4); what `status` prints. */
export interface TunnelStatus {
  readonly portal: {
    readonly state: "connecting" | "connected" | "disconnected"
    readonly lastError?: string | undefined
  }
  readonly interface?: {
    readonly name: string
    readonly ipv4: IpAddress
    readonly ipv6: IpAddress
    readonly works: { readonly ipv4: boolean; readonly ipv6: boolean }
  } | undefined
  /** Once the interface is set up. */
  readonly dns?: {
    readonly method: DnsControl["Type"]["method"]
    /** Ours, in the order in which the system asks them, and whom each asks in turn: an address or a URL. */
    readonly servers: ReadonlyArray<{ readonly address: IpAddress; readonly upstream: string }>
    readonly searchDomain?: string | undefined
  } | undefined
  /** With the peer through which one is reached, while there is one. */
  readonly resources: ClientTunnelStatus["resources"]
  readonly devicePools: ClientTunnelStatus["devicePools"]
  readonly peers: ClientTunnelStatus["peers"]
  /** Those that the portal named. */
  readonly relays: ReadonlyArray<RelayStatus>
  readonly tun: TunStats
  readonly sockets: PeerSocketStats
  readonly routeCache: RouteCacheStats
  /** Packets and datagrams dropped by the core, by reason. */
  readonly dropped: { readonly [reason: string]: number }
  /** DNS queries on our own servers by who was to answer, and why some that were passed on got no answer. */
  readonly dnsCounts: {
    readonly queries: { readonly [answerer: string]: number }
    readonly failures: { readonly [reason: string]: number }
  }
  readonly internetResourceActive: boolean
}

export type TunnelEvent =
  | { readonly _tag: "SignedIn" }
  | { readonly _tag: "PortalLost"; readonly reason: string; readonly retryInMillis: number }
  /** The interface is completely set up; repeated when its configuration changes. */
  | {
    readonly _tag: "InterfaceUp"
    readonly ipv4: IpAddress
    readonly ipv6: IpAddress
    readonly searchDomain?: string | undefined
  }
  | {
    readonly _tag: "ResourcesUpdated"
    readonly resources: ReadonlyArray<ResourceStatus>
    readonly connectedDevices: ReadonlyArray<ConnectedDevice>
  }
  | { readonly _tag: "PeerConnected"; readonly peer: PeerStatus }
  | { readonly _tag: "PeerLost"; readonly peer: string; readonly reason: string }
  | { readonly _tag: "AllGatewaysOffline"; readonly resourceId: string }
  | { readonly _tag: "GatewayVersionMismatch"; readonly resourceId: string }
  /** How many relays are of no use for which reason; once, until one was of use again. */
  | { readonly _tag: "RelaysUnusable"; readonly reasons: ReadonlyMap<string, number> }
  | { readonly _tag: "Reset"; readonly reason: string }

/** A bug ended the session: logged with its cause, exit code 1. */
export class TunnelCrashed extends Data.TaggedError("TunnelCrashed")<{ readonly cause: unknown }> {
  override get message(): string {
    return `internal error: ${this.cause instanceof Error ? this.cause.message : String(this.cause)}`
  }
}

export type TunnelError =
  | PortalFatal
  | TunFailed
  | DnsControlFailed
  | SocketFailed
  | RoutingLoopPreventionFailed
  | TunnelCrashed

export interface TunnelOptions {
  readonly token: Redacted.Redacted
  readonly device: DeviceFacts
}

export interface TunnelSession {
  /** The latest 256 and all that follow, for each reader. One that falls further behind loses the oldest. */
  readonly events: Stream.Stream<TunnelEvent>
  readonly status: Effect.Effect<TunnelStatus>
  /** The status now and after every event, at most once a second. */
  readonly statuses: Stream.Stream<TunnelStatus>
  /** Roaming: route cache, sockets, peers, portal, in this order. */
  readonly reset: (reason: string) => Effect.Effect<void>
  readonly setInternetResourceState: (active: boolean) => Effect.Effect<void>
  /** Never succeeds; fails when the session cannot go on. */
  readonly failed: Effect.Effect<never, TunnelError>
}

/**
 * The session: drives the protocol core with the TUN device, the peer sockets and the portal. The scope ends it:
 * the system's DNS back, goodbye to every peer, device, routes and rules removed.
 */
export class Tunnel extends Context.Tag("firezone-headless-client/services/Tunnel")<Tunnel, {
  readonly start: (
    options: TunnelOptions
  ) => Effect.Effect<TunnelSession, TunnelError, Scope.Scope>
}>() {}
