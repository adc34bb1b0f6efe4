/**
 * What clients and gateways send (portal spec sections 6.3, 6.4 and 7.2). Encoded with the event names of the endpoint in
 * use; decoded, for the emulator, under the names of that endpoint only, as the portal does.
 */
import * as Either from "effect/Either"
import * as Schema from "effect/Schema"
import type { Endpoint } from "../protocol/portal/loginUrl.ts"
import type { ClientRequest, GatewayRequest } from "../protocol/portal/types.ts"
import {
  Address,
  type Decoder,
  decoder,
  decodeWith,
  Id,
  read,
  type Undecodable,
  Unknowns,
  validCandidates
} from "./portalValues.ts"

export interface EncodedRequest {
  readonly event: string
  readonly payload: unknown
}

export const encodeClientRequest = (request: ClientRequest, endpoint: Endpoint): EncodedRequest => {
  const v2 = endpoint === "v2"
  switch (request._tag) {
    case "SetSnownetCapabilities":
      return { event: "set_snownet_capabilities", payload: { iceless: request.iceless } }
    case "RequestAuthorization":
      return {
        event: v2 ? "request_authorization" : "create_flow",
        payload: {
          resource_id: request.resourceId,
          connected_gateway_ids: request.connectedGatewayIds,
          ...(request.ipv4 === undefined ? {} : { ipv4: request.ipv4 }),
          ...(request.ipv6 === undefined ? {} : { ipv6: request.ipv6 })
        }
      }
    case "NewGatewayIceCandidates":
      return v2
        ? {
          event: "new_gateway_ice_candidates",
          payload: { gateway_id: request.gatewayId, candidates: request.candidates }
        }
        : {
          event: "broadcast_ice_candidates",
          payload: { gateway_ids: [request.gatewayId], candidates: request.candidates }
        }
    case "InvalidateGatewayIceCandidates":
      return v2
        ? {
          event: "invalidate_gateway_ice_candidates",
          payload: { gateway_id: request.gatewayId, candidates: request.candidates }
        }
        : {
          event: "broadcast_invalidated_ice_candidates",
          payload: { gateway_ids: [request.gatewayId], candidates: request.candidates }
        }
    case "NewClientIceCandidates":
      return {
        event: "new_client_ice_candidates",
        payload: { client_id: request.clientId, candidates: request.candidates }
      }
    case "InvalidateClientIceCandidates":
      return {
        event: "invalidate_client_ice_candidates",
        payload: { client_id: request.clientId, candidates: request.candidates }
      }
    case "NoRelays":
      return { event: "no_relays", payload: {} }
    case "ResolveDevicePoolDomain":
      return {
        event: "resolve_device_pool_domain",
        payload: { resource_id: request.resourceId, domain: request.domain }
      }
  }
}

export const encodeGatewayRequest = (request: GatewayRequest, endpoint: Endpoint): EncodedRequest => {
  switch (request._tag) {
    case "SetSnownetCapabilities":
      return { event: "set_snownet_capabilities", payload: { iceless: request.iceless } }
    case "AuthorizationConfirmed":
      return {
        event: endpoint === "v2" ? "authorization_created" : "flow_authorized",
        payload: { ref: request.ref }
      }
    case "BroadcastIceCandidates":
      return {
        event: "broadcast_ice_candidates",
        payload: { client_ids: request.clientIds, candidates: request.candidates }
      }
    case "BroadcastInvalidatedIceCandidates":
      return {
        event: "broadcast_invalidated_ice_candidates",
        payload: { client_ids: request.clientIds, candidates: request.candidates }
      }
    case "NoRelays":
      return { event: "no_relays", payload: {} }
  }
}

// ---- decoding, for the emulator: strict, so that a slip of ours shows there first

/** Every one must be readable; a receiver would skip it without a word. */
const Candidates = Unknowns.pipe(Schema.filter((list) => validCandidates(list).length === list.length))
/** Absent rather than `null`. */
const OptionalAddress = Schema.optionalWith(Address, { exact: true })

const SetSnownetCapabilities = decoder(
  read(Schema.Struct({ iceless: Schema.optionalWith(Schema.Boolean, { default: () => false }) })),
  ({ iceless }) => [{ _tag: "SetSnownetCapabilities" as const, iceless }]
)
const NoRelays = decoder(
  read(Schema.Record({ key: Schema.String, value: Schema.Unknown })),
  () => [{ _tag: "NoRelays" as const }]
)

const RequestAuthorization = decoder(
  read(Schema.Struct({
    resource_id: Id,
    connected_gateway_ids: Schema.Array(Id),
    ipv4: OptionalAddress,
    ipv6: OptionalAddress
  })),
  (wire): ReadonlyArray<ClientRequest> => [{
    _tag: "RequestAuthorization",
    resourceId: wire.resource_id,
    connectedGatewayIds: wire.connected_gateway_ids,
    ipv4: wire.ipv4,
    ipv6: wire.ipv6
  }]
)

const toGateway = (_tag: "NewGatewayIceCandidates" | "InvalidateGatewayIceCandidates") =>
  decoder(
    read(Schema.Struct({ gateway_id: Id, candidates: Candidates })),
    ({ candidates, gateway_id }): ReadonlyArray<ClientRequest> => [
      { _tag, gatewayId: gateway_id, candidates: validCandidates(candidates) }
    ]
  )
const toGateways = (_tag: "NewGatewayIceCandidates" | "InvalidateGatewayIceCandidates") =>
  decoder(
    read(Schema.Struct({ gateway_ids: Schema.Array(Id), candidates: Candidates })),
    ({ candidates, gateway_ids }): ReadonlyArray<ClientRequest> =>
      gateway_ids.map((gatewayId) => ({ _tag, gatewayId, candidates: validCandidates(candidates) }))
  )
const toClient = (_tag: "NewClientIceCandidates" | "InvalidateClientIceCandidates") =>
  decoder(
    read(Schema.Struct({ client_id: Id, candidates: Candidates })),
    ({ candidates, client_id }): ReadonlyArray<ClientRequest> => [
      { _tag, clientId: client_id, candidates: validCandidates(candidates) }
    ]
  )

const clientRequests: { readonly [event: string]: Decoder<ReadonlyArray<ClientRequest>> } = {
  set_snownet_capabilities: SetSnownetCapabilities,
  new_gateway_ice_candidates: toGateway("NewGatewayIceCandidates"),
  invalidate_gateway_ice_candidates: toGateway("InvalidateGatewayIceCandidates"),
  new_client_ice_candidates: toClient("NewClientIceCandidates"),
  invalidate_client_ice_candidates: toClient("InvalidateClientIceCandidates"),
  no_relays: NoRelays,
  resolve_device_pool_domain: decoder(
    read(Schema.Struct({ resource_id: Id, domain: Schema.NonEmptyString.pipe(Schema.maxLength(255)) })),
    ({ domain, resource_id }): ReadonlyArray<ClientRequest> => [
      { _tag: "ResolveDevicePoolDomain", resourceId: resource_id, domain }
    ]
  )
}
const clientDecoders = {
  v2: decodeWith({ ...clientRequests, request_authorization: RequestAuthorization }),
  v1: decodeWith({
    ...clientRequests,
    create_flow: RequestAuthorization,
    broadcast_ice_candidates: toGateways("NewGatewayIceCandidates"),
    broadcast_invalidated_ice_candidates: toGateways("InvalidateGatewayIceCandidates"),
    // Old clients still send it; there is nothing to be done about it.
    request_device_access: decoder(read(Schema.Unknown), (): ReadonlyArray<ClientRequest> => [])
  })
}

const fromGateway = (_tag: "BroadcastIceCandidates" | "BroadcastInvalidatedIceCandidates") =>
  decoder(
    read(Schema.Struct({ client_ids: Schema.Array(Id), candidates: Candidates })),
    ({ candidates, client_ids }): ReadonlyArray<GatewayRequest> => [
      { _tag, clientIds: client_ids, candidates: validCandidates(candidates) }
    ]
  )
const Confirmed = decoder(
  read(Schema.Struct({ ref: Schema.String })),
  ({ ref }): ReadonlyArray<GatewayRequest> => [{ _tag: "AuthorizationConfirmed", ref }]
)
const gatewayRequests: { readonly [event: string]: Decoder<ReadonlyArray<GatewayRequest>> } = {
  set_snownet_capabilities: SetSnownetCapabilities,
  broadcast_ice_candidates: fromGateway("BroadcastIceCandidates"),
  broadcast_invalidated_ice_candidates: fromGateway("BroadcastInvalidatedIceCandidates"),
  no_relays: NoRelays
}
const gatewayDecoders = {
  v2: decodeWith({ ...gatewayRequests, authorization_created: Confirmed }),
  v1: decodeWith({ ...gatewayRequests, flow_authorized: Confirmed })
}

type Requests<Request> = Either.Either<ReadonlyArray<Request>, Undecodable>

/** Several requests where an older event names several gateways, none where an event has no effect. */
export const decodeClientRequest = (event: string, payload: unknown, endpoint: Endpoint): Requests<ClientRequest> =>
  Either.map(clientDecoders[endpoint](event, payload), ({ message }) => message)

export const decodeGatewayRequest = (event: string, payload: unknown, endpoint: Endpoint): Requests<GatewayRequest> =>
  Either.map(gatewayDecoders[endpoint](event, payload), ({ message }) => message)
