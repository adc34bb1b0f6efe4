import { assert, describe, it } from "@effect/vitest"
import * as Either from "effect/Either"
import * as FastCheck from "effect/FastCheck"
import {
  decodeClientRequest,
  decodeGatewayRequest,
  encodeClientRequest,
  encodeGatewayRequest
} from "../../src/model/portalRequest.ts"
import type { Endpoint } from "../../src/protocol/portal/loginUrl.ts"
import type { ClientRequest, GatewayRequest } from "../../src/protocol/portal/types.ts"
import { ip } from "../../src/protocol/wire/address.ts"

const G = "22222222-2222-4222-8222-222222222222"
const C = "11111111-1111-4111-8111-111111111111"
const R = "66666666-6666-4666-8666-666666666666"
const candidates = ["candidate:1 1 udp 2130706431 192.0.2.10 52625 typ host"]

const clientRequests: ReadonlyArray<ClientRequest> = [
  { _tag: "SetSnownetCapabilities", iceless: true },
  { _tag: "RequestAuthorization", resourceId: R, connectedGatewayIds: [G], ipv4: undefined, ipv6: undefined },
  { _tag: "RequestAuthorization", resourceId: R, connectedGatewayIds: [], ipv4: ip("100.64.0.7"), ipv6: undefined },
  { _tag: "NewGatewayIceCandidates", gatewayId: G, candidates },
  { _tag: "InvalidateGatewayIceCandidates", gatewayId: G, candidates },
  { _tag: "NewClientIceCandidates", clientId: C, candidates },
  { _tag: "InvalidateClientIceCandidates", clientId: C, candidates },
  { _tag: "NoRelays" },
  { _tag: "ResolveDevicePoolDomain", resourceId: R, domain: "host1.laptops.example" }
]
const gatewayRequests: ReadonlyArray<GatewayRequest> = [
  { _tag: "SetSnownetCapabilities", iceless: false },
  { _tag: "AuthorizationConfirmed", ref: "opaque-1" },
  { _tag: "BroadcastIceCandidates", clientIds: [C], candidates },
  { _tag: "BroadcastInvalidatedIceCandidates", clientIds: [C], candidates },
  { _tag: "NoRelays" }
]
const endpoints: ReadonlyArray<Endpoint> = ["v1", "v2"]

describe("what clients and gateways send", () => {
  it("comes out of the decoder as it went into the encoder, on both endpoints", () => {
    for (const endpoint of endpoints) {
      for (const request of clientRequests) {
        const { event, payload } = encodeClientRequest(request, endpoint)
        assert.deepStrictEqual(decodeClientRequest(event, payload, endpoint), Either.right([request]))
      }
      for (const request of gatewayRequests) {
        const { event, payload } = encodeGatewayRequest(request, endpoint)
        assert.deepStrictEqual(decodeGatewayRequest(event, payload, endpoint), Either.right([request]))
      }
    }
  })

  it("is known by the names of its endpoint only", () => {
    const [, request] = clientRequests as readonly [ClientRequest, ClientRequest]
    const [, confirmed] = gatewayRequests as readonly [GatewayRequest, GatewayRequest]
    for (const [sent, read] of [["v1", "v2"], ["v2", "v1"]] as const) {
      const client = encodeClientRequest(request, sent)
      const gateway = encodeGatewayRequest(confirmed, sent)
      for (
        const result of [
          decodeClientRequest(client.event, client.payload, read),
          decodeGatewayRequest(gateway.event, gateway.payload, read)
        ]
      ) {
        assert.deepInclude(Either.getOrThrow(Either.flip<unknown, unknown>(result)), { _tag: "UnknownEvent" })
      }
    }
  })

  it("names several gateways at once under the older name", () => {
    assert.deepStrictEqual(
      decodeClientRequest("broadcast_ice_candidates", { gateway_ids: [G, C], candidates }, "v1"),
      Either.right([
        { _tag: "NewGatewayIceCandidates" as const, gatewayId: G, candidates },
        { _tag: "NewGatewayIceCandidates" as const, gatewayId: C, candidates }
      ])
    )
    assert.deepStrictEqual(decodeClientRequest("request_device_access", { anything: 1 }, "v1"), Either.right([]))
  })

  it("is refused when a member is missing, null, or unreadable", () => {
    const wrong: ReadonlyArray<readonly [event: string, payload: unknown]> = [
      ["request_authorization", null],
      ["request_authorization", { resource_id: R }],
      ["request_authorization", { resource_id: "R", connected_gateway_ids: [] }],
      ["request_authorization", { resource_id: R, connected_gateway_ids: [], ipv4: null }],
      ["request_authorization", { resource_id: R, connected_gateway_ids: ["lab-gateway"] }],
      ["new_gateway_ice_candidates", { gateway_id: G, candidates: ["192.0.2.10:52625"] }],
      ["new_gateway_ice_candidates", { gateway_id: G, candidates: [...candidates, 7] }],
      ["set_snownet_capabilities", { iceless: "yes" }],
      ["no_relays", null]
    ]
    for (const [event, payload] of wrong) {
      const result = decodeClientRequest(event, payload, "v2")
      assert.isTrue(Either.isLeft(result) && result.left._tag === "Malformed", `${event} ${JSON.stringify(payload)}`)
    }
  })

  it.prop(
    "is never more than a result, whatever comes",
    [FastCheck.constantFrom("request_authorization", "new_gateway_ice_candidates", "toString"), FastCheck.jsonValue()],
    ([event, payload]) => {
      const result = decodeClientRequest(event, payload, "v2")
      if (event === "toString") assert.isTrue(Either.isLeft(result))
      decodeGatewayRequest(event, payload, "v1")
    }
  )
})
