/** The payloads of what the portal pushes (portal spec sections 5 to 7): every member that a reference decoder needs. */
import type { Site } from "../../protocol/portal/types.ts"
import { parseSocketAddress } from "../../protocol/wire/address.ts"
import { relayCredentials } from "../relay/credentials.ts"
import { type Agent, knowsSites } from "./agent.ts"
import type { Grant } from "./Authorizations.ts"
import type { DnsConfig, PoolConfig, ResourceConfig } from "./config.ts"
import { authorizationId, clientPresharedKey, iceCredentials, ingestToken, presharedKey } from "./derivations.ts"
import type { DeviceRecord } from "./Devices.ts"
import type { DeviceGrant } from "./Pools.ts"
import type { OnlineRelay } from "./RelayPool.ts"

export type Json = { readonly [member: string]: unknown }

/** Interval 0: nobody uploads anything. */
const FLOW_LOGS: Json = { api_url: "https://flow-logs.invalid/", upload_interval_secs: 0, upload_batch_size: 0 }

export const clientResource = (resource: ResourceConfig, sites: ReadonlyMap<string, Site>, agent: Agent): Json => {
  const { sites: ids, ...members } = resource
  return {
    ...members,
    ...(resource.type === "internet" ? { can_be_disabled: true } : {}),
    [knowsSites(agent) ? "sites" : "gateway_groups"]: ids.map((id) => sites.get(id))
  }
}

export const gatewayResource = (resource: ResourceConfig): Json =>
  resource.type === "internet"
    ? { type: "internet", id: resource.id }
    : {
      type: resource.type,
      id: resource.id,
      name: resource.name,
      address: resource.address,
      filters: resource.filters
    }

/** What the gateway is told of an authorization, and what the client hears once the gateway has confirmed. */
export const authorization = (fields: {
  readonly ref: string
  readonly resource: ResourceConfig
  readonly client: DeviceRecord
  readonly gateway: DeviceRecord
  readonly siteId: string
  readonly useIceless: boolean
  /** Unix seconds. */
  readonly authorizedAt: number
  readonly expiresAt: number
}): { readonly forGateway: Json; readonly forClient: Json } => {
  const { authorizedAt, client, expiresAt, gateway, ref, resource } = fields
  const { agent } = client.login
  const ice = iceCredentials(client, gateway)
  const psk = presharedKey(client, gateway)
  const shared = {
    client_ice_credentials: ice.client,
    gateway_ice_credentials: ice.gateway,
    use_iceless: fields.useIceless
  }
  const tokenFor = (role: "initiator" | "responder"): string =>
    ingestToken({
      role,
      authorizationId: authorizationId(ref),
      initiatorId: client.id,
      responderId: gateway.id,
      resource: resource.type === "internet" ? { id: resource.id, name: "Internet" } : resource,
      authorizedAt,
      expiresAt
    })
  return {
    forGateway: {
      ref,
      resource: gatewayResource(resource),
      client: {
        id: client.id,
        public_key: client.publicKey,
        preshared_key: psk,
        ipv4: client.ipv4,
        ipv6: client.ipv6,
        version: agent.version?.join(".") ?? null
      },
      ...shared,
      expires_at: expiresAt,
      flow_logs_ingest_token: tokenFor("responder")
    },
    forClient: {
      resource_id: resource.id,
      gateway_id: gateway.id,
      gateway_public_key: gateway.publicKey,
      gateway_ipv4: gateway.ipv4,
      gateway_ipv6: gateway.ipv6,
      [knowsSites(agent) ? "site_id" : "gateway_group_id"]: fields.siteId,
      preshared_key: psk,
      ...shared,
      flow_logs_ingest_token: tokenFor("initiator")
    }
  }
}

export const devicePool = (pool: PoolConfig, members: ReadonlyArray<DeviceRecord>): Json =>
  pool.type === "dynamic_device_pool"
    ? { type: pool.type, id: pool.id, name: pool.name, address: pool.address, filters: [] }
    : {
      type: pool.type,
      id: pool.id,
      name: pool.name,
      devices: members.map(({ id, ipv4, ipv6 }) => ({ client_id: id, ipv4: `${ipv4}/32`, ipv6: `${ipv6}/128` })),
      filters: pool.filters
    }

/** What two clients are told when one of them may reach the other. */
export const deviceAccess = (fields: {
  readonly pool: PoolConfig & { readonly type: "static_device_pool" }
  readonly initiator: DeviceRecord
  readonly target: DeviceRecord
  readonly useIceless: boolean
  /** Unix seconds. */
  readonly authorizedAt: number
  readonly expiresAt: number
}): { readonly forInitiator: Json; readonly forTarget: Json } => {
  const { authorizedAt, expiresAt, initiator, pool, target } = fields
  const ice = iceCredentials(initiator, target)
  const shared = { preshared_key: clientPresharedKey(initiator, target), use_iceless: fields.useIceless }
  const about = (device: DeviceRecord): Json => ({
    client_id: device.id,
    client_name: device.login.name,
    client_public_key: device.publicKey,
    client_ipv4: device.ipv4,
    client_ipv6: device.ipv6
  })
  const tokenFor = (role: "initiator" | "responder"): string =>
    ingestToken({
      role,
      authorizationId: authorizationId(`${initiator.id} ${target.id} ${pool.id}`),
      initiatorId: initiator.id,
      responderId: target.id,
      resource: { id: pool.id, name: pool.name },
      authorizedAt,
      expiresAt
    })
  return {
    forInitiator: {
      ...about(target),
      ...shared,
      local_ice_credentials: ice.client,
      remote_ice_credentials: ice.gateway,
      ice_role: "controlling",
      flow_logs_ingest_token: tokenFor("initiator")
    },
    forTarget: {
      ...about(initiator),
      ...shared,
      local_ice_credentials: ice.gateway,
      remote_ice_credentials: ice.client,
      ice_role: "controlled",
      resource: { id: pool.id, name: pool.name, filters: pool.filters },
      expires_at: expiresAt,
      flow_logs_ingest_token: tokenFor("responder")
    }
  }
}

/** One entry for each family, next to each other. */
export const relayEntries = (
  relays: ReadonlyArray<OnlineRelay>,
  options: { readonly deviceKey: string; readonly expiresAt: number }
): ReadonlyArray<Json> =>
  relays.flatMap(({ id, ipv4, ipv6, port, stampSecret }) =>
    [ipv4, ipv6 && `[${ipv6}]`].filter((host) => host !== undefined).map((host) => ({
      type: "turn",
      id,
      addr: parseSocketAddress(`${host}:${port}`)?.text,
      ...relayCredentials({ ...options, stampSecret }),
      expires_at: options.expiresAt
    }))
  )

export const clientInterface = ({ ipv4, ipv6 }: DeviceRecord, dns: DnsConfig): Json => {
  const { searchDomain = null, upstreamDo53 = [], upstreamDoh = [] } = dns
  return {
    ipv4,
    ipv6,
    upstream_do53: upstreamDo53.map((ip) => ({ ip })),
    upstream_doh: upstreamDoh.map((url) => ({ url })),
    upstream_dns: upstreamDo53.map((ip) => ({
      protocol: "ip_port",
      address: ip.includes(":") ? `[${ip}]:53` : `${ip}:53`
    })),
    search_domain: searchDomain
  }
}

export const clientInit = (
  interfaceConfig: Json,
  resources: ReadonlyArray<Json>,
  relays: ReadonlyArray<Json>,
  inbound: ReadonlyArray<DeviceGrant>
): Json => ({
  interface: interfaceConfig,
  resources,
  relays,
  authorizations: inbound.map(({ expiresAt, initiatorId, resourceId }) => ({
    client_id: initiatorId,
    resource_id: resourceId,
    expires_at: expiresAt
  })),
  flow_logs: FLOW_LOGS
})

export const gatewayInit = (
  { ipv4, ipv6 }: DeviceRecord,
  relays: ReadonlyArray<Json>,
  grants: ReadonlyArray<Grant>
): Json => ({
  interface: { ipv4, ipv6 },
  config: { ipv4_masquerade_enabled: true, ipv6_masquerade_enabled: true },
  relays,
  account_slug: "lab",
  authorizations: grants.map(({ clientId, expiresAt, resourceId }) => ({
    client_id: clientId,
    resource_id: resourceId,
    expires_at: expiresAt
  })),
  flow_logs: FLOW_LOGS
})
