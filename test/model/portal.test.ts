/** The pushes of portal spec sections 6.2, 7.1 and Appendix A, and what is wrong with others. */
import * as Either from "effect/Either"
import * as fc from "fast-check"
import { assert, describe, expect, it } from "vitest"
import { decodeClientPush, decodeGatewayPush } from "../../src/model/portal.ts"
import { ip, SocketAddress } from "../../src/protocol/wire/address.ts"

const C1 = "11111111-1111-4111-8111-111111111111"
const C2 = "99999999-9999-4999-8999-999999999999"
const G1 = "22222222-2222-4222-8222-222222222222"
const R1 = "66666666-6666-4666-8666-666666666666"
const P1 = "66666666-6666-4666-8666-666666666669"
const P2 = "66666666-6666-4666-8666-66666666666a"
const S1 = "88888888-8888-4888-8888-888888888888"
const relayId = "ff1d59c9-c5ee-4269-ab82-65037beece54"
const jwt = "eyJhbGciOiJIUzI1NiJ9.e30.c2ln"
const clientKey = Uint8Array.from({ length: 32 }, (_, index) => index)
const gatewayKey = Uint8Array.from({ length: 32 }, (_, index) => 32 + index)
const presharedKey = Uint8Array.from(Buffer.from("q8Vg5uTVUXn/Twe2E0aVaXAOjAh9dKuPDDTFvBSVjjE=", "base64"))
const w7up = { username: "w7up", password: "ksqwm66pilnb7skdwwfw3r" }
const kwe6 = { username: "kwe6", password: "mzkrj52x5h5ebrfdsh5iyq" }
const site = { id: S1, name: "HQ" }
const cidr = {
  type: "cidr",
  id: R1,
  name: "Office LAN",
  address: "10.20.0.0/16",
  address_description: null,
  sites: [site],
  filters: []
}
const decodedCidr = {
  type: "cidr",
  id: R1,
  name: "Office LAN",
  address: { address: ip("10.20.0.0"), bits: 16 },
  addressDescription: undefined,
  sites: [site],
  filters: []
}
const interfaceWire = {
  ipv4: "100.64.0.1",
  ipv6: "fd00:2021:1111::1",
  upstream_do53: [{ ip: "1.1.1.1" }],
  upstream_doh: [],
  upstream_dns: [{ protocol: "ip_port", address: "1.1.1.1:53" }],
  search_domain: "corp.example"
}
const decodedInterface = {
  ipv4: ip("100.64.0.1"),
  ipv6: ip("fd00:2021:1111::1"),
  upstreamDo53: [ip("1.1.1.1")],
  upstreamDoh: [],
  searchDomain: "corp.example"
}
const turn = (id: string, addr: string) => ({
  type: "turn",
  id,
  addr,
  username: "1893456000:c2FsdA",
  password: "cGFzcw",
  expires_at: 1893456000
})
const host = "candidate:1 1 udp 2130706431 192.0.2.10 52625 typ host"
const relayed = "candidate:3 1 udp 16777215 203.0.113.9 49160 typ relay raddr 203.0.113.9 rport 49160"
const authorizationCreated = {
  resource_id: R1,
  gateway_id: G1,
  gateway_public_key: "ICEiIyQlJicoKSorLC0uLzAxMjM0NTY3ODk6Ozw9Pj8=",
  gateway_ipv4: "100.64.0.2",
  gateway_ipv6: "fd00:2021:1111::2",
  site_id: S1,
  preshared_key: "q8Vg5uTVUXn/Twe2E0aVaXAOjAh9dKuPDDTFvBSVjjE=",
  client_ice_credentials: w7up,
  gateway_ice_credentials: kwe6,
  use_iceless: false,
  flow_logs_ingest_token: jwt
}
const decodedAuthorizationCreated = {
  _tag: "AuthorizationCreated",
  authorization: {
    resourceId: R1,
    gatewayId: G1,
    gatewayPublicKey: gatewayKey,
    gatewayIpv4: ip("100.64.0.2"),
    gatewayIpv6: ip("fd00:2021:1111::2"),
    siteId: S1,
    presharedKey,
    clientIceCredentials: w7up,
    gatewayIceCredentials: kwe6,
    useIceless: false
  }
}
/** As its target gets it. */
const deviceAccess = {
  client_id: C1,
  client_name: "alpha",
  client_public_key: "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=",
  client_ipv4: "100.64.0.1",
  client_ipv6: "fd00:2021:1111::1",
  preshared_key: "q8Vg5uTVUXn/Twe2E0aVaXAOjAh9dKuPDDTFvBSVjjE=",
  local_ice_credentials: kwe6,
  remote_ice_credentials: w7up,
  ice_role: "controlled",
  use_iceless: false,
  resource: { id: P1, filters: [], name: "Printers" },
  expires_at: 1893456000,
  flow_logs_ingest_token: jwt
}
const decodedDeviceAccess = {
  _tag: "DeviceAccessAuthorized",
  access: {
    clientId: C1,
    clientName: "alpha",
    clientPublicKey: clientKey,
    clientIpv4: ip("100.64.0.1"),
    clientIpv6: ip("fd00:2021:1111::1"),
    presharedKey,
    localIceCredentials: kwe6,
    remoteIceCredentials: w7up,
    iceRole: "controlled",
    useIceless: false,
    resource: { id: P1, filters: [] },
    expiresAt: 1893456000
  }
}
const withoutMember = (payload: object, name: string): object =>
  Object.fromEntries(Object.entries(payload).filter(([key]) => key !== name))

describe("portal to client", () => {
  const frames: ReadonlyArray<readonly [string, unknown, unknown]> = [
    [
      "init",
      {
        interface: interfaceWire,
        resources: [cidr],
        relays: [turn(relayId, "203.0.113.9:3478"), turn(relayId, "[2001:db8::9]:3478")],
        authorizations: [{ client_id: C1, resource_id: P1, expires_at: 1893456000 }],
        flow_logs: { api_url: "https://flow-api.firezone.dev/", upload_interval_secs: 60, upload_batch_size: 1000 }
      },
      {
        _tag: "Init",
        init: {
          interface: decodedInterface,
          resources: [decodedCidr],
          relays: [{
            id: relayId,
            username: "1893456000:c2FsdA",
            password: "cGFzcw",
            v4: new SocketAddress(ip("203.0.113.9"), 3478),
            v6: new SocketAddress(ip("2001:db8::9"), 3478)
          }],
          authorizations: [{ clientId: C1, resourceId: P1, expiresAt: 1893456000 }]
        }
      }
    ],
    ["init", { interface: { ipv4: "100.64.0.1", ipv6: "fd00:2021:1111::1" } }, {
      _tag: "Init",
      init: {
        interface: { ...decodedInterface, upstreamDo53: [], searchDomain: undefined },
        resources: [],
        relays: [],
        authorizations: []
      }
    }],
    ["config_changed", {
      interface: {
        ...interfaceWire,
        upstream_do53: [],
        upstream_doh: [{ url: "https://dns.quad9.net/dns-query" }],
        upstream_dns: [],
        search_domain: null
      }
    }, {
      _tag: "ConfigChanged",
      interface: {
        ...decodedInterface,
        upstreamDo53: [],
        upstreamDoh: ["https://dns.quad9.net/dns-query"],
        searchDomain: undefined
      }
    }],
    ["resource_created_or_updated", cidr, { _tag: "ResourceCreatedOrUpdated", resource: decodedCidr }],
    ["resource_deleted", R1, { _tag: "ResourceDeleted", id: R1 }],
    ["relays_presence", {
      disconnected_ids: [relayId],
      connected: [
        turn("0d6f4f0e-0000-4000-8000-000000000001", "203.0.113.10:3478"),
        turn("0d6f4f0e-0000-4000-8000-000000000001", "[2001:db8::10]:3478")
      ]
    }, {
      _tag: "RelaysPresence",
      disconnectedIds: [relayId],
      connected: [{
        id: "0d6f4f0e-0000-4000-8000-000000000001",
        username: "1893456000:c2FsdA",
        password: "cGFzcw",
        v4: new SocketAddress(ip("203.0.113.10"), 3478),
        v6: new SocketAddress(ip("2001:db8::10"), 3478)
      }]
    }],
    ["authorization_created", authorizationCreated, decodedAuthorizationCreated],
    ["authorization_creation_failed", { resource_id: R1, reason: "forbidden", violated_properties: ["remote_ip"] }, {
      _tag: "AuthorizationCreationFailed",
      resourceId: R1,
      reason: "forbidden",
      violatedProperties: ["remote_ip"]
    }],
    ["authorization_creation_failed", { resource_id: R1, reason: "a new one" }, {
      _tag: "AuthorizationCreationFailed",
      resourceId: R1,
      reason: "a new one",
      violatedProperties: []
    }],
    ["ice_candidates", { gateway_id: G1, candidates: [host] }, {
      _tag: "IceCandidates",
      gatewayId: G1,
      candidates: [host]
    }],
    ["invalidate_ice_candidates", { gateway_id: G1, candidates: [relayed] }, {
      _tag: "InvalidateIceCandidates",
      gatewayId: G1,
      candidates: [relayed]
    }],
    ["client_device_access_authorized", deviceAccess, decodedDeviceAccess],
    ["client_device_access_authorized", {
      ...withoutMember(withoutMember(deviceAccess, "resource"), "expires_at"),
      client_id: C2,
      client_name: "printer",
      client_public_key: "ICEiIyQlJicoKSorLC0uLzAxMjM0NTY3ODk6Ozw9Pj8=",
      client_ipv4: "100.64.0.7",
      client_ipv6: "fd00:2021:1111::7",
      local_ice_credentials: w7up,
      remote_ice_credentials: kwe6,
      ice_role: "controlling"
    }, {
      _tag: "DeviceAccessAuthorized",
      access: {
        clientId: C2,
        clientName: "printer",
        clientPublicKey: gatewayKey,
        clientIpv4: ip("100.64.0.7"),
        clientIpv6: ip("fd00:2021:1111::7"),
        presharedKey,
        localIceCredentials: w7up,
        remoteIceCredentials: kwe6,
        iceRole: "controlling",
        useIceless: false,
        resource: undefined,
        expiresAt: undefined
      }
    }],
    ["client_device_access_denied", { client_id: C2, ipv4: "100.64.0.7", ipv6: null, reason: "offline" }, {
      _tag: "DeviceAccessDenied",
      reason: "offline",
      ipv4: ip("100.64.0.7"),
      ipv6: undefined,
      clientId: C2
    }],
    ["client_device_access_denied", { resource_id: P1, reason: "missing_address" }, {
      _tag: "DeviceAccessDenied",
      reason: "missing_address",
      ipv4: undefined,
      ipv6: undefined,
      clientId: undefined
    }],
    ["client_ice_candidates", { client_id: C2, candidates: [host] }, {
      _tag: "ClientIceCandidates",
      clientId: C2,
      candidates: [host]
    }],
    ["invalidate_client_ice_candidates", { client_id: C2, candidates: [relayed] }, {
      _tag: "InvalidateClientIceCandidates",
      clientId: C2,
      candidates: [relayed]
    }],
    ["client_ice_candidate_error", { client_id: C2, reason: "offline" }, {
      _tag: "ClientIceCandidateError",
      clientId: C2,
      reason: "offline"
    }],
    [
      "resource_filters_updated",
      { id: P1, filters: [{ protocol: "tcp", port_range_start: 631, port_range_end: 631 }] },
      {
        _tag: "ResourceFiltersUpdated",
        id: P1,
        filters: [{ protocol: "tcp", portRangeStart: 631, portRangeEnd: 631 }]
      }
    ],
    ["reject_access", { client_id: C1, resource_id: P1 }, { _tag: "RejectAccess", clientId: C1, resourceId: P1 }],
    ["device_pool_domain_resolved", {
      resource_id: P2,
      domain: "host1.laptops.example",
      ipv4: "100.64.0.7",
      ipv6: "fd00:2021:1111::7"
    }, {
      _tag: "DevicePoolDomainResolved",
      resourceId: P2,
      domain: "host1.laptops.example",
      ipv4: ip("100.64.0.7"),
      ipv6: ip("fd00:2021:1111::7")
    }],
    // As portals really send it (spec 13).
    ["device_pool_domain_resolved", {
      resource_id: P2,
      domain: "host1.laptops.example",
      ipv4: "100.64.0.7/32",
      ipv6: "fd00:2021:1111::7/128"
    }, {
      _tag: "DevicePoolDomainResolved",
      resourceId: P2,
      domain: "host1.laptops.example",
      ipv4: ip("100.64.0.7"),
      ipv6: ip("fd00:2021:1111::7")
    }],
    [
      "device_pool_domain_resolution_failed",
      { resource_id: P2, domain: "host9.laptops.example", reason: "not_found" },
      {
        _tag: "DevicePoolDomainResolutionFailed",
        resourceId: P2,
        domain: "host9.laptops.example",
        reason: "not_found"
      }
    ]
  ]
  it.each(frames)("%s", (event, payload, message) => {
    const decoded = Either.getOrThrowWith(decodeClientPush(event, payload), ({ why }) => new Error(why))
    expect(decoded.message).toEqual(message)
    expect(decoded.skipped).toEqual([])
  })

  it("older names mean the same (spec 12.3)", () => {
    for (
      const [older, current, payload] of [
        ["flow_created", "authorization_created", authorizationCreated],
        ["flow_creation_failed", "authorization_creation_failed", { resource_id: R1, reason: "offline" }],
        ["gateway_ice_candidates", "ice_candidates", { gateway_id: G1, candidates: [host] }],
        ["invalidate_gateway_ice_candidates", "invalidate_ice_candidates", { gateway_id: G1, candidates: [host] }]
      ] as const
    ) {
      const decoded = decodeClientPush(older, payload)
      assert.isTrue(Either.isRight(decoded))
      expect(decoded).toEqual(decodeClientPush(current, payload))
    }
  })

  it("older members mean the same, but not beside the current one (spec 12.3)", () => {
    const { site_id, ...withoutSite } = authorizationCreated
    expect(
      Either.getOrThrow(decodeClientPush("authorization_created", { ...withoutSite, gateway_group_id: site_id }))
        .message
    )
      .toEqual(decodedAuthorizationCreated)
    expect(decodeClientPush("authorization_created", { ...authorizationCreated, gateway_group_id: site_id }))
      .toEqual(Either.left({ _tag: "Malformed", why: expect.any(String) as string }))
    const { expires_at, ...withoutExpiry } = deviceAccess
    expect(
      Either.getOrThrow(
        decodeClientPush("client_device_access_authorized", { ...withoutExpiry, authorization_expires_at: expires_at })
      ).message
    ).toEqual(decodedDeviceAccess)
  })

  it("what newer portals promise may be missing (spec 12.3)", () => {
    for (const optional of ["use_iceless", "flow_logs_ingest_token"]) {
      expect(
        Either.getOrThrow(decodeClientPush("authorization_created", withoutMember(authorizationCreated, optional)))
          .message
      )
        .toEqual(decodedAuthorizationCreated)
    }
    for (const optional of ["use_iceless", "flow_logs_ingest_token", "client_name"]) {
      const decoded = decodeClientPush("client_device_access_authorized", withoutMember(deviceAccess, optional))
      assert.isTrue(Either.isRight(decoded), optional)
    }
  })

  it("every required member is required, and its place is named but not its value", () => {
    for (
      const [event, payload] of [
        ["authorization_created", authorizationCreated],
        ["client_device_access_authorized", deviceAccess]
      ] as const
    ) {
      const optional = ["use_iceless", "flow_logs_ingest_token", "client_name", "resource", "expires_at"]
      for (const name of Object.keys(payload).filter((name) => !optional.includes(name))) {
        expect(decodeClientPush(event, withoutMember(payload, name)))
          .toEqual(Either.left({ _tag: "Malformed", why: `${name} is missing` }))
        expect(decodeClientPush(event, { ...payload, [name]: "sécret" }))
          .toEqual(Either.left({ _tag: "Malformed", why: expect.stringMatching(`^${name}[.\\w]* is `) as string }))
      }
    }
  })

  it("keys have 32 bytes in base64 with padding", () => {
    for (
      const text of [
        "",
        "AAEC",
        `${authorizationCreated.preshared_key}\n`,
        "A".repeat(44),
        `${"A".repeat(43)} `,
        "*".repeat(43) + "=",
        "A".repeat(42) + "=="
      ]
    ) {
      const decoded = decodeClientPush("authorization_created", { ...authorizationCreated, preshared_key: text })
      expect(decoded).toEqual(Either.left({ _tag: "Malformed", why: "preshared_key is not as specified" }))
    }
  })

  it("unknown events and inherited names are told apart from malformed ones", () => {
    for (const event of ["access_authorization_expiry_updated", "", "toString", "__proto__", "constructor"]) {
      expect(decodeClientPush(event, {})).toEqual(Either.left({ _tag: "UnknownEvent", why: "unknown event" }))
    }
    expect(decodeClientPush("resource_deleted", { id: R1 })).toMatchObject({ left: { _tag: "Malformed" } })
  })

  it("returns for every JSON", () => {
    const events = [...new Set(frames.map(([event]) => event))]
    fc.assert(fc.property(fc.constantFrom(...events), fc.jsonValue(), (event, payload) => {
      decodeClientPush(event, payload)
      decodeGatewayPush(event, payload)
    }))
    // A good frame in which something else took the place of one member.
    fc.assert(fc.property(fc.constantFrom(...frames), fc.nat(), fc.jsonValue(), ([event, payload], index, value) => {
      if (typeof payload !== "object" || payload === null) return
      const names = Object.keys(payload)
      decodeClientPush(event, { ...payload, [names[index % names.length] ?? ""]: value })
    }))
  })
})

describe("portal to gateway", () => {
  const create = {
    ref: "opaque-1",
    resource: { type: "cidr", id: R1, name: "Office LAN", address: "10.20.0.0/16", filters: [] },
    client: {
      id: C1,
      public_key: "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=",
      preshared_key: "q8Vg5uTVUXn/Twe2E0aVaXAOjAh9dKuPDDTFvBSVjjE=",
      ipv4: "100.64.0.1",
      ipv6: "fd00:2021:1111::1",
      device_serial: null
    },
    client_ice_credentials: w7up,
    gateway_ice_credentials: kwe6,
    expires_at: 1893456000,
    use_iceless: false,
    flow_logs_ingest_token: jwt
  }
  const decodedCreate = {
    _tag: "CreateAuthorization",
    authorization: {
      ref: "opaque-1",
      resource: {
        type: "cidr",
        id: R1,
        name: "Office LAN",
        address: { address: ip("10.20.0.0"), bits: 16 },
        filters: []
      },
      client: {
        id: C1,
        publicKey: clientKey,
        presharedKey,
        ipv4: ip("100.64.0.1"),
        ipv6: ip("fd00:2021:1111::1")
      },
      clientIceCredentials: w7up,
      gatewayIceCredentials: kwe6,
      expiresAt: 1893456000,
      useIceless: false
    }
  }
  const frames: ReadonlyArray<readonly [string, unknown, unknown]> = [
    ["init", {
      interface: { ipv4: "100.64.0.2", ipv6: "fd00:2021:1111::2" },
      config: { ipv4_masquerade_enabled: true, ipv6_masquerade_enabled: true },
      relays: [turn(relayId, "203.0.113.9:3478")],
      account_slug: "acme",
      authorizations: [{ client_id: C1, resource_id: R1, expires_at: 1893456000 }],
      flow_logs: { api_url: "https://flow-api.firezone.dev/", upload_interval_secs: 60, upload_batch_size: 1000 }
    }, {
      _tag: "GatewayInit",
      ipv4: ip("100.64.0.2"),
      ipv6: ip("fd00:2021:1111::2"),
      relays: [{
        id: relayId,
        username: "1893456000:c2FsdA",
        password: "cGFzcw",
        v4: new SocketAddress(ip("203.0.113.9"), 3478)
      }],
      authorizations: [{ clientId: C1, resourceId: R1, expiresAt: 1893456000 }]
    }],
    ["create_authorization", create, decodedCreate],
    ["authorize_flow", create, decodedCreate],
    ["create_authorization", { ...create, resource: { type: "internet", id: R1 }, expires_at: null }, {
      ...decodedCreate,
      authorization: { ...decodedCreate.authorization, resource: { type: "internet", id: R1 }, expiresAt: undefined }
    }],
    ["ice_candidates", { client_id: C1, candidates: [host] }, {
      _tag: "GatewayIceCandidates",
      clientId: C1,
      candidates: [host]
    }],
    ["invalidate_ice_candidates", { client_id: C1, candidates: [relayed] }, {
      _tag: "GatewayInvalidateIceCandidates",
      clientId: C1,
      candidates: [relayed]
    }],
    ["reject_access", { client_id: C1, resource_id: R1 }, { _tag: "RejectAccess", clientId: C1, resourceId: R1 }],
    ["resource_updated", {
      type: "cidr",
      id: R1,
      name: "Office LAN",
      address: "10.20.0.0/16",
      filters: [{ protocol: "icmp" }]
    }, {
      _tag: "ResourceUpdated",
      resource: { ...decodedCreate.authorization.resource, filters: [{ protocol: "icmp" }] }
    }],
    ["relays_presence", { disconnected_ids: [], connected: [turn(relayId, "203.0.113.9:3478")] }, {
      _tag: "RelaysPresence",
      disconnectedIds: [],
      connected: [{
        id: relayId,
        username: "1893456000:c2FsdA",
        password: "cGFzcw",
        v4: new SocketAddress(ip("203.0.113.9"), 3478)
      }]
    }]
  ]
  it.each(frames)("%s", (event, payload, message) => {
    const decoded = Either.getOrThrowWith(decodeGatewayPush(event, payload), ({ why }) => new Error(why))
    expect(decoded.message).toEqual(message)
    expect(decoded.skipped).toEqual([])
  })

  it("grants nothing over a filter or a resource that cannot be read", () => {
    const resource = create.resource
    for (
      const odd of [
        { ...resource, filters: [{ protocol: "sctp" }] },
        { ...resource, filters: undefined },
        { ...resource, type: "ip" },
        { ...resource, address: "10.20.0.1/16" },
        { ...resource, address: "10.20.0.0" }
      ]
    ) {
      expect(decodeGatewayPush("create_authorization", { ...create, resource: odd }))
        .toMatchObject({ left: { _tag: "Malformed" } })
      expect(decodeGatewayPush("resource_updated", odd)).toMatchObject({ left: { _tag: "Malformed" } })
    }
  })
})
