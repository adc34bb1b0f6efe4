/** What the emulator tells tests and scenarios; no token, key or secret is in it. */
import type { Endpoint } from "../../protocol/portal/loginUrl.ts"
import type { Grant } from "./Authorizations.ts"
import type { Knobs, PoolConfig, ResourceConfig } from "./config.ts"
import type { DeviceRecord, SeenRequest } from "./Devices.ts"
import type { DeviceGrant } from "./Pools.ts"
import type { PortalServer, Violation } from "./PortalServer.ts"

export interface DeviceState {
  readonly id: string
  readonly externalId: string
  readonly name: string
  /** Joined. */
  readonly connected: boolean
  readonly endpoint: Endpoint
  readonly remoteAddress: string
  readonly userAgent: string
  readonly ipv4: string
  readonly ipv6: string
  /** The public one. */
  readonly publicKey: string
  readonly iceless: boolean
  /** Upgrades that were accepted. */
  readonly connects: number
  readonly messages: { readonly [event: string]: number }
  readonly lastRequests: ReadonlyArray<SeenRequest>
}

export interface RelayPresenceState {
  readonly id: string
  readonly ipv4?: string | undefined
  readonly ipv6?: string | undefined
  readonly port: number
  /** Named by the configuration, not signed in. */
  readonly isStatic: boolean
}

export interface PortalState {
  /** All that ever signed in. */
  readonly clients: ReadonlyArray<DeviceState>
  readonly gateways: ReadonlyArray<DeviceState>
  /** Those that are there. */
  readonly relays: ReadonlyArray<RelayPresenceState>
  readonly resources: ReadonlyArray<ResourceConfig>
  readonly pools: ReadonlyArray<PoolConfig>
  readonly grants: ReadonlyArray<Grant>
  /** Of clients, to reach others. */
  readonly deviceGrants: ReadonlyArray<DeviceGrant>
  /** Resources whose gateway has not confirmed yet. */
  readonly pending: ReadonlyArray<{ readonly clientId: string; readonly resourceId: string }>
  /** By outcome: `accepted`, or status and code as in `401 invalid_token`. */
  readonly upgrades: { readonly [outcome: string]: number }
  readonly violationCount: number
  /** The latest of them. */
  readonly violations: ReadonlyArray<Violation>
  readonly knobs: Knobs
}

export const stateOf = (portal: PortalServer): PortalState => {
  const { account, knobs, upgrades, violationCount, violations } = portal
  const devices = (role: "client" | "gateway"): ReadonlyArray<DeviceState> =>
    account.devices.all.filter((device) => device.role === role).map(deviceState)
  return {
    clients: devices("client"),
    gateways: devices("gateway"),
    relays: account.relays.all.map(({ id, ipv4, ipv6, port, session }) => ({
      id,
      ipv4,
      ipv6,
      port,
      isStatic: session === undefined
    })),
    resources: account.resources,
    pools: account.pools.all,
    grants: account.authorizations.grants,
    deviceGrants: account.pools.grants,
    pending: account.authorizations.pending.map(({ client, resourceId }) => ({
      clientId: client.device?.id ?? "",
      resourceId
    })),
    upgrades: { ...upgrades },
    violationCount,
    violations: [...violations],
    knobs: { ...knobs }
  }
}

const deviceState = (device: DeviceRecord): DeviceState => ({
  id: device.id,
  externalId: device.externalId,
  name: device.login.name,
  connected: device.session !== undefined,
  endpoint: device.login.endpoint,
  remoteAddress: device.login.remoteAddress,
  userAgent: device.login.userAgent,
  ipv4: device.ipv4,
  ipv6: device.ipv6,
  publicKey: device.publicKey,
  iceless: device.session?.iceless ?? false,
  connects: device.connects,
  messages: { ...device.messages },
  lastRequests: [...device.lastRequests]
})
