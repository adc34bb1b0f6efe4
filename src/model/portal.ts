/**
 * What the portal pushes: JSON payloads to the types of `src/protocol/portal/types.ts` (portal spec sections 6.2 and 7.1).
 * Lenient as section 12.3 advises: a bad resource, relay, candidate or grant is left out and named in `skipped`, and a bad
 * filter takes its resource with it. What clients and gateways send is in `portalRequest.ts`.
 */
import * as Schema from "effect/Schema"
import type * as Types from "../protocol/portal/types.ts"
import {
  Address,
  type Decoder,
  decoder,
  decodeWith,
  Filter,
  filterOf,
  Filters,
  grantsOf,
  IceCredentials,
  Id,
  Interface,
  interfaceOf,
  Key,
  lenient,
  List,
  maybe,
  named,
  Network,
  orElse,
  read,
  readResource,
  relaysOf,
  UnixSeconds,
  Unknowns,
  validCandidates,
  withAlias
} from "./portalValues.ts"

const RelaysPresence = decoder(
  read(Schema.Struct({ disconnected_ids: List, connected: List })),
  (wire, skipped) => ({
    _tag: "RelaysPresence" as const,
    disconnectedIds: lenient("relay id", read(Id), wire.disconnected_ids, skipped),
    connected: relaysOf(wire.connected, skipped)
  })
)
const RejectAccess = decoder(
  read(Schema.Struct({ client_id: Id, resource_id: Id })),
  ({ client_id, resource_id }) => ({ _tag: "RejectAccess" as const, clientId: client_id, resourceId: resource_id })
)
const candidatesOfGateway = Schema.Struct({ gateway_id: Id, candidates: Unknowns })
const candidatesOfClient = Schema.Struct({ client_id: Id, candidates: Unknowns })

// ---- portal to client (section 6.2)

const Init = decoder(
  read(Schema.Struct({ interface: Interface, resources: List, relays: List, authorizations: List })),
  (wire, skipped): Types.ClientPush => ({
    _tag: "Init",
    init: {
      interface: interfaceOf(wire.interface, skipped),
      resources: lenient("resource", readResource, wire.resources, skipped),
      relays: relaysOf(wire.relays, skipped),
      authorizations: grantsOf(wire.authorizations, skipped)
    }
  })
)

const AuthorizationCreated = decoder(
  read(withAlias(
    Schema.Struct({
      resource_id: Id,
      gateway_id: Id,
      gateway_public_key: Key,
      gateway_ipv4: Address,
      gateway_ipv6: Address,
      site_id: Id,
      preshared_key: Key,
      client_ice_credentials: IceCredentials,
      gateway_ice_credentials: IceCredentials,
      use_iceless: orElse(Schema.Boolean, () => false)
    }),
    "site_id",
    "gateway_group_id"
  )),
  (wire): Types.ClientPush => ({
    _tag: "AuthorizationCreated",
    authorization: {
      resourceId: wire.resource_id,
      gatewayId: wire.gateway_id,
      gatewayPublicKey: wire.gateway_public_key,
      gatewayIpv4: wire.gateway_ipv4,
      gatewayIpv6: wire.gateway_ipv6,
      siteId: wire.site_id,
      presharedKey: wire.preshared_key,
      clientIceCredentials: wire.client_ice_credentials,
      gatewayIceCredentials: wire.gateway_ice_credentials,
      useIceless: wire.use_iceless
    }
  })
)

const AuthorizationCreationFailed = decoder(
  read(Schema.Struct({ resource_id: Id, reason: Schema.String, violated_properties: List })),
  (wire): Types.ClientPush => ({
    _tag: "AuthorizationCreationFailed",
    resourceId: wire.resource_id,
    reason: wire.reason,
    violatedProperties: wire.violated_properties.filter((property) => typeof property === "string")
  })
)

const IceCandidates = decoder(read(candidatesOfGateway), ({ candidates, gateway_id }): Types.ClientPush => ({
  _tag: "IceCandidates",
  gatewayId: gateway_id,
  candidates: validCandidates(candidates)
}))
const InvalidateIceCandidates = decoder(read(candidatesOfGateway), ({ candidates, gateway_id }): Types.ClientPush => ({
  _tag: "InvalidateIceCandidates",
  gatewayId: gateway_id,
  candidates: validCandidates(candidates)
}))

const DeviceAccessAuthorized = decoder(
  read(withAlias(
    Schema.Struct({
      client_id: Id,
      client_name: orElse(Schema.String, () => ""),
      client_public_key: Key,
      client_ipv4: Address,
      client_ipv6: Address,
      preshared_key: Key,
      local_ice_credentials: IceCredentials,
      remote_ice_credentials: IceCredentials,
      ice_role: Schema.Literal("controlling", "controlled"),
      use_iceless: orElse(Schema.Boolean, () => false),
      resource: maybe(Schema.Struct({ id: Id, filters: Filters })),
      expires_at: maybe(UnixSeconds)
    }),
    "expires_at",
    "authorization_expires_at"
  )),
  (wire): Types.ClientPush => ({
    _tag: "DeviceAccessAuthorized",
    access: {
      clientId: wire.client_id,
      clientName: wire.client_name,
      clientPublicKey: wire.client_public_key,
      clientIpv4: wire.client_ipv4,
      clientIpv6: wire.client_ipv6,
      presharedKey: wire.preshared_key,
      localIceCredentials: wire.local_ice_credentials,
      remoteIceCredentials: wire.remote_ice_credentials,
      iceRole: wire.ice_role,
      useIceless: wire.use_iceless,
      resource: wire.resource && { id: wire.resource.id, filters: wire.resource.filters.map(filterOf) },
      expiresAt: wire.expires_at
    }
  })
)

const clientPushes: { readonly [event: string]: Decoder<Types.ClientPush> } = {
  init: Init,
  config_changed: decoder(read(Schema.Struct({ interface: Interface })), (wire, skipped): Types.ClientPush => ({
    _tag: "ConfigChanged",
    interface: interfaceOf(wire.interface, skipped)
  })),
  resource_created_or_updated: decoder(
    readResource,
    (resource): Types.ClientPush => ({ _tag: "ResourceCreatedOrUpdated", resource })
  ),
  resource_deleted: decoder(read(Id), (id): Types.ClientPush => ({ _tag: "ResourceDeleted", id })),
  relays_presence: RelaysPresence,
  authorization_created: AuthorizationCreated,
  flow_created: AuthorizationCreated,
  authorization_creation_failed: AuthorizationCreationFailed,
  flow_creation_failed: AuthorizationCreationFailed,
  ice_candidates: IceCandidates,
  gateway_ice_candidates: IceCandidates,
  invalidate_ice_candidates: InvalidateIceCandidates,
  invalidate_gateway_ice_candidates: InvalidateIceCandidates,
  client_device_access_authorized: DeviceAccessAuthorized,
  client_device_access_denied: decoder(
    read(Schema.Struct({ reason: Schema.String, ipv4: maybe(Address), ipv6: maybe(Address), client_id: maybe(Id) })),
    (wire): Types.ClientPush => ({
      _tag: "DeviceAccessDenied",
      reason: wire.reason,
      ipv4: wire.ipv4,
      ipv6: wire.ipv6,
      clientId: wire.client_id
    })
  ),
  client_ice_candidates: decoder(read(candidatesOfClient), ({ candidates, client_id }): Types.ClientPush => ({
    _tag: "ClientIceCandidates",
    clientId: client_id,
    candidates: validCandidates(candidates)
  })),
  invalidate_client_ice_candidates: decoder(
    read(candidatesOfClient),
    ({ candidates, client_id }): Types.ClientPush => ({
      _tag: "InvalidateClientIceCandidates",
      clientId: client_id,
      candidates: validCandidates(candidates)
    })
  ),
  client_ice_candidate_error: decoder(
    read(Schema.Struct({ client_id: Id, reason: Schema.String })),
    ({ client_id, reason }): Types.ClientPush => ({ _tag: "ClientIceCandidateError", clientId: client_id, reason })
  ),
  resource_filters_updated: decoder(
    read(Schema.Struct({ id: Id, filters: Schema.Array(Filter) })),
    ({ filters, id }): Types.ClientPush => ({ _tag: "ResourceFiltersUpdated", id, filters: filters.map(filterOf) })
  ),
  reject_access: RejectAccess,
  device_pool_domain_resolved: decoder(
    read(Schema.Struct({ resource_id: Id, domain: Schema.String, ipv4: Address, ipv6: Address })),
    ({ domain, ipv4, ipv6, resource_id }): Types.ClientPush => ({
      _tag: "DevicePoolDomainResolved",
      resourceId: resource_id,
      domain,
      ipv4,
      ipv6
    })
  ),
  device_pool_domain_resolution_failed: decoder(
    read(Schema.Struct({ resource_id: Id, domain: Schema.String, reason: Schema.String })),
    ({ domain, reason, resource_id }): Types.ClientPush => ({
      _tag: "DevicePoolDomainResolutionFailed",
      resourceId: resource_id,
      domain,
      reason
    })
  )
}

// ---- portal to gateway (section 7.1)

const GatewayResourceWire = Schema.Union(
  Schema.Struct({ ...named, type: Schema.Literal("cidr"), address: Network, filters: Schema.Array(Filter) }),
  Schema.Struct({
    ...named,
    type: Schema.Literal("dns"),
    address: Schema.NonEmptyString,
    filters: Schema.Array(Filter)
  }),
  Schema.Struct({ type: Schema.Literal("internet"), id: Id })
)
const gatewayResourceOf = (wire: typeof GatewayResourceWire.Type): Types.GatewayResource =>
  wire.type === "internet" ? { type: "internet", id: wire.id } : { ...wire, filters: wire.filters.map(filterOf) }

const CreateAuthorization = decoder(
  read(Schema.Struct({
    ref: Schema.String,
    resource: GatewayResourceWire,
    client: Schema.Struct({ id: Id, public_key: Key, preshared_key: Key, ipv4: Address, ipv6: Address }),
    client_ice_credentials: IceCredentials,
    gateway_ice_credentials: IceCredentials,
    expires_at: maybe(UnixSeconds),
    use_iceless: orElse(Schema.Boolean, () => false)
  })),
  (wire): Types.GatewayPush => ({
    _tag: "CreateAuthorization",
    authorization: {
      ref: wire.ref,
      resource: gatewayResourceOf(wire.resource),
      client: {
        id: wire.client.id,
        publicKey: wire.client.public_key,
        presharedKey: wire.client.preshared_key,
        ipv4: wire.client.ipv4,
        ipv6: wire.client.ipv6
      },
      clientIceCredentials: wire.client_ice_credentials,
      gatewayIceCredentials: wire.gateway_ice_credentials,
      expiresAt: wire.expires_at,
      useIceless: wire.use_iceless
    }
  })
)

const gatewayPushes: { readonly [event: string]: Decoder<Types.GatewayPush> } = {
  init: decoder(
    read(Schema.Struct({
      interface: Schema.Struct({ ipv4: Address, ipv6: Address }),
      relays: List,
      authorizations: List
    })),
    (wire, skipped): Types.GatewayPush => ({
      _tag: "GatewayInit",
      ipv4: wire.interface.ipv4,
      ipv6: wire.interface.ipv6,
      relays: relaysOf(wire.relays, skipped),
      authorizations: grantsOf(wire.authorizations, skipped)
    })
  ),
  create_authorization: CreateAuthorization,
  authorize_flow: CreateAuthorization,
  ice_candidates: decoder(read(candidatesOfClient), ({ candidates, client_id }): Types.GatewayPush => ({
    _tag: "GatewayIceCandidates",
    clientId: client_id,
    candidates: validCandidates(candidates)
  })),
  invalidate_ice_candidates: decoder(read(candidatesOfClient), ({ candidates, client_id }): Types.GatewayPush => ({
    _tag: "GatewayInvalidateIceCandidates",
    clientId: client_id,
    candidates: validCandidates(candidates)
  })),
  reject_access: RejectAccess,
  resource_updated: decoder(read(GatewayResourceWire), (wire): Types.GatewayPush => ({
    _tag: "ResourceUpdated",
    resource: gatewayResourceOf(wire)
  })),
  relays_presence: RelaysPresence
}

export const decodeClientPush = decodeWith(clientPushes)
export const decodeGatewayPush = decodeWith(gatewayPushes)
