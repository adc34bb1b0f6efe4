import { assert, describe, it } from "@effect/vitest"
import * as FastCheck from "effect/FastCheck"
import {
  candidate,
  CIDR,
  cidr,
  EPOCH,
  INTERNET,
  keyFrom,
  type Party,
  type Received,
  type Role,
  SITE,
  VirtualPortal
} from "./support.ts"

const request = (connected: ReadonlyArray<string> = []) => ({ resource_id: CIDR, connected_gateway_ids: connected })

type Payload = Received["payload"]

/** A client and a gateway that are joined, and who they are. */
const pair = (portal: VirtualPortal, endpoint: "v1" | "v2" = "v2") => {
  const gateway = portal.join("gateway", { endpoint })
  const client = portal.join("client", { endpoint })
  const [clientState] = portal.state.clients
  const [gatewayState] = portal.state.gateways
  if (clientState === undefined || gatewayState === undefined) throw new Error("not signed in")
  return { client, gateway, clientId: clientState.id, gatewayId: gatewayState.id }
}

/** From the request to the client's answer. */
const authorize = (client: Party, gateway: Party): { readonly told: Payload; readonly answer: Payload } => {
  client.send("request_authorization", request())
  const told = gateway.takeOnly("create_authorization")
  gateway.send("authorization_created", { ref: told["ref"] })
  gateway.takeOnly("phx_reply")
  return { told, answer: client.takeOnly("authorization_created") }
}

const claimsOf = (token: unknown): Payload =>
  JSON.parse(Buffer.from(String(token).split(".")[1] ?? "", "base64url").toString()) as Payload

describe("signing in", () => {
  it("welcomes a client with its interface, resources and relays", () => {
    const portal = new VirtualPortal({
      dns: { upstreamDo53: ["1.1.1.1", "2606:4700::1"], searchDomain: "corp.example" }
    })
    const { init } = portal.join("client")
    assert.deepStrictEqual(init["interface"], {
      ipv4: "100.64.0.1",
      ipv6: "fd00:2021:1111::1",
      upstream_do53: [{ ip: "1.1.1.1" }, { ip: "2606:4700::1" }],
      upstream_doh: [],
      upstream_dns: [
        { protocol: "ip_port", address: "1.1.1.1:53" },
        { protocol: "ip_port", address: "[2606:4700::1]:53" }
      ],
      search_domain: "corp.example"
    })
    const sites = [{ id: SITE, name: "HQ" }]
    assert.deepStrictEqual(init["resources"], [
      { ...cidr, sites },
      { type: "internet", id: INTERNET, can_be_disabled: true, sites }
    ])
    // The relay example of portal spec section 5, which is made for this key, secret and expiry.
    assert.deepStrictEqual(
      init["relays"],
      ["203.0.113.9:3478", "[2001:db8::9]:3478"].map((addr) => ({
        type: "turn",
        id: "ff1d59c9-c5ee-4269-ab82-65037beece54",
        addr,
        username: "1893456000:kF8o3vGOqsBa5vErLDRSdEr69ibaE0PVezlbVE4FGbY",
        password: "pfmkA1qfIVWz7VkiLpuviIIxlB8lw4HfoFgRkKmmd3Y",
        expires_at: 1_893_456_000
      }))
    )
    assert.deepStrictEqual(init["authorizations"], [])
    assert.containsAllKeys(init["flow_logs"], ["api_url", "upload_interval_secs", "upload_batch_size"])
    assert.deepStrictEqual(portal.violations, [])
  })

  it("welcomes a gateway with what its reference decoder needs", () => {
    const { init } = new VirtualPortal().join("gateway")
    assert.deepStrictEqual(init["interface"], { ipv4: "100.64.0.1", ipv6: "fd00:2021:1111::1" })
    assert.deepStrictEqual(init["config"], { ipv4_masquerade_enabled: true, ipv6_masquerade_enabled: true })
    assert.containsAllKeys(init, ["flow_logs", "account_slug", "authorizations"])
    // So that its allocations survive a reconnect.
    assert.strictEqual((init["relays"] as ReadonlyArray<Payload>)[0]?.["expires_at"], 2_145_916_800)
  })

  it("calls sites what the client's version calls them, and hides what it cannot reach", () => {
    const portal = new VirtualPortal()
    const old = portal.join("client", { agent: "headless-client/1.2.9", endpoint: "v1" })
    const { sites: _, ...others } = cidr
    assert.deepStrictEqual(old.init["resources"], [{ ...others, gateway_groups: [{ id: SITE, name: "HQ" }] }])
  })

  it("gives a device the same id and addresses again, and no two the same", () => {
    const portal = new VirtualPortal()
    const first = portal.join("client")
    const second = portal.join("client", { externalId: "another" })
    const gateway = portal.join("gateway")
    portal.server.handleClosed(first.id, portal.now)
    assert.deepStrictEqual(portal.join("client").init["interface"], first.init["interface"])
    const { clients, gateways } = portal.state
    assert.strictEqual(new Set([...clients, ...gateways].map(({ id }) => id)).size, 3)
    assert.deepStrictEqual(
      [first, second, gateway].map(({ init }) => (init["interface"] as Payload)["ipv4"]),
      ["100.64.0.1", "100.64.0.2", "100.64.0.3"]
    )
    assert.deepStrictEqual(clients.map(({ connected, connects }) => [connected, connects]), [[true, 2], [true, 1]])
  })

  it("refuses with the status and code of the reason", () => {
    const portal = new VirtualPortal({ tokensExpireAt: 1_893_000_100 })
    const refusals: ReadonlyArray<readonly [expected: string, refusal: unknown]> = [
      ["401 missing_token", portal.upgrade("client", { token: undefined })],
      ["401 invalid_token", portal.upgrade("client", { token: ".wrong" })],
      ["401 invalid_token", portal.upgrade("client", { token: ".gateway" })],
      ["401 invalid_token", portal.upgrade("client", { token: ".client " })],
      ["400 invalid_connect_params", portal.upgrade("client", { agent: "curl/8.5.0" })],
      ["400 invalid_connect_params", portal.upgrade("client", { externalId: "" })],
      ["400 invalid_connect_params", portal.upgrade("client", { query: { name: "" } })],
      ["400 invalid_connect_params", portal.upgrade("client", { query: { name: "n".repeat(256) } })],
      ["400 invalid_connect_params", portal.upgrade("gateway", { key: keyFrom(0).replace("=", "") })],
      ["400 invalid_connect_params", portal.upgrade("gateway", { key: Buffer.alloc(31).toString("base64") })],
      ["500 unhandled_connect_error", portal.upgrade("relay", { query: { ipv4: "" } })],
      ["403", portal.upgrade("client", { query: { vsn: "2.0.0" } })],
      ["403", portal.upgrade("client", { headers: { origin: "https://elsewhere.example" } })],
      ["400", portal.upgrade("client", { headers: { "sec-websocket-version": "8" } })],
      ["400", portal.upgrade("client", { headers: { connection: "keep-alive" } })]
    ]
    for (const [index, [expected, refusal]] of refusals.entries()) {
      const { code, status } = refusal as { readonly status: number; readonly code?: string }
      assert.strictEqual(`${status} ${code ?? ""}`.trim(), expected, `case ${index}`)
    }
    assert.strictEqual(portal.state.clients.length, 0)
    assert.deepInclude(portal.state.upgrades, { "401 invalid_token": 3, "400 invalid_connect_params": 6, "400": 2 })
    portal.now = 100_000
    assert.deepInclude(portal.upgrade("client"), { status: 401, code: "invalid_token" })
  })

  it("knows no v2 when it is told to be old, and never more than its paths", () => {
    const portal = new VirtualPortal()
    portal.server.turn({ onlyV1: true })
    assert.deepInclude(portal.upgrade("client"), { status: 404 })
    assert.isNumber(portal.upgrade("client", { endpoint: "v1" }))
    const odd = portal.server.handleUpgrade(
      { method: "GET", url: "/prefix/client/websocket", headers: {}, remoteAddress: "192.0.2.1" },
      0
    )
    assert.deepInclude(odd, { status: 404 })
  })

  it("limits connects for each token and says when to come back", () => {
    const portal = new VirtualPortal({ connectRateLimit: { perSecond: 1, burst: 1 } })
    portal.connect("client")
    assert.deepInclude(portal.upgrade("client"), { status: 503, code: "rate_limit", retryAfter: "1" })
    portal.connect("gateway")
    portal.now += 1000
    portal.connect("client")
    assert.deepInclude(portal.upgrade("client"), { status: 503 })
  })

  it("refuses the next ones as it is told, and then no more", () => {
    const portal = new VirtualPortal()
    portal.server.refuseNext({ count: 2, status: 429, role: "client", retryAfter: "7" })
    portal.connect("gateway")
    assert.deepInclude(portal.upgrade("client"), { status: 429, retryAfter: "7" })
    assert.deepInclude(portal.upgrade("client"), { status: 429 })
    portal.connect("client")
  })

  it("notes what it puts up with", () => {
    const portal = new VirtualPortal()
    portal.connect("client", { query: { token: ".client" }, token: undefined })
    portal.connect("client", { headers: { "sec-websocket-extensions": "permessage-deflate" } })
    portal.connect("client", { query: { device_serial: "7" } })
    portal.connect("client", { agent: "headless-client/1.5" })
    assert.deepStrictEqual(portal.violations, [
      "query parameter token",
      "header sec-websocket-extensions",
      "query parameters out of order: external_id, name, public_key, device_serial",
      "a user agent of another layout"
    ])
  })
})

describe("sessions", () => {
  it("ends a client's older connection when it joins again", () => {
    const portal = new VirtualPortal()
    const first = portal.join("client")
    const second = portal.join("client")
    assert.deepStrictEqual(first.take().map(({ event, payload }) => [event, payload]), [
      ["disconnect", { reason: "token_expired" }],
      ["phx_close", {}]
    ])
    assert.isNumber(first.ended)
    assert.isUndefined(second.ended)
  })

  it("refuses a gateway that is there already, until silence has ended it", () => {
    const portal = new VirtualPortal()
    const first = portal.join("gateway")
    portal.pass(36_000)
    assert.deepInclude(portal.upgrade("gateway"), { status: 409, code: "gateway_already_connected" })
    portal.pass(1000)
    assert.strictEqual(first.ended, 1002)
    portal.join("gateway")
  })

  it("hears heartbeats and pings as signs of life", () => {
    const portal = new VirtualPortal()
    const client = portal.join("client")
    const relay = portal.join("relay")
    for (let passed = 0; passed < 120; passed += 10) {
      portal.pass(10_000)
      const ref = client.send("heartbeat", {}, "phoenix")
      // A presence update may have come since: the relay joined after the client.
      const reply = client.take().find(({ event }) => event === "phx_reply")
      assert.deepStrictEqual(reply, {
        topic: "phoenix",
        event: "phx_reply",
        payload: { status: "ok", response: {} },
        ref
      })
      if (passed < 60) portal.server.handleActivity(relay.id, portal.now)
    }
    assert.isUndefined(client.ended)
    assert.strictEqual(relay.ended, 1002)
    assert.deepStrictEqual(portal.violations, [])
    assert.strictEqual(portal.state.clients[0]?.messages["heartbeat"], 12)
  })

  it("tells a client when its token ends", () => {
    const portal = new VirtualPortal({ tokensExpireAt: 1_893_000_030 })
    const client = portal.join("client")
    portal.pass(29_999)
    assert.isUndefined(client.ended)
    portal.pass(1)
    assert.deepStrictEqual(client.events(), ["disconnect", "phx_close"])
    assert.deepInclude(portal.upgrade("client"), { status: 401, code: "invalid_token" })
  })

  it("ends sessions and grants of a token that is taken away", () => {
    const portal = new VirtualPortal()
    const { client, clientId, gateway } = pair(portal)
    authorize(client, gateway)
    const other = portal.join("client", { externalId: "another", token: ".other-client" })
    portal.server.expireToken(".client", portal.now)
    portal.drain()
    assert.deepStrictEqual(client.events(), ["disconnect", "phx_close"])
    assert.deepStrictEqual(gateway.takeOnly("reject_access"), { client_id: clientId, resource_id: CIDR })
    assert.isUndefined(other.ended)
    assert.deepStrictEqual(portal.state.grants, [])
    assert.deepInclude(portal.upgrade("client"), { status: 401 })
  })

  it("ends connections in the ways it is told", () => {
    const portal = new VirtualPortal()
    const drop = (...args: Parameters<typeof portal.server.drop>): void => {
      assert.strictEqual(portal.server.drop(...args), 1)
      portal.drain()
    }
    const closed = portal.join("client")
    drop("client", { how: "close", code: 1012 }, portal.now)
    assert.strictEqual(closed.ended, 1012)
    const broken = portal.join("gateway")
    drop("the-gateway", { how: "abrupt" }, portal.now)
    assert.strictEqual(broken.ended, "abrupt")
    const revoked = portal.join("client")
    drop(portal.state.clients[0]?.id, { how: "disconnect", reason: "certificate_revoked" }, portal.now)
    assert.deepStrictEqual(revoked.take()[0]?.payload, { reason: "certificate_revoked" })
    // Its connection is gone for the portal, too.
    portal.join("gateway")
    assert.strictEqual(portal.server.drop("nobody", { how: "abrupt" }, portal.now), 0)
  })
})

describe("frames", () => {
  it("must be whole: anything else ends the connection", () => {
    const bad = ["", "[", "{}", "[]", "null", "7", "{\"topic\":\"client\",\"event\":\"phx_join\",\"payload\":null}"]
    for (const text of [...bad, "{\"topic\":\"client\",\"event\":\"phx_join\",\"ref\":0}"]) {
      const portal = new VirtualPortal()
      const client = portal.connect("client")
      client.sendText(text)
      assert.strictEqual(client.ended, 1011, text)
      assert.strictEqual(portal.violations.length, 1, text)
      assert.isFalse(portal.state.clients[0]?.connected)
    }
    const portal = new VirtualPortal()
    const client = portal.join("client")
    portal.server.handleBinary(client.id, 0)
    portal.drain()
    assert.strictEqual(client.ended, 1011)
  })

  it("echo the type of a ref", () => {
    const client = new VirtualPortal().connect("client")
    client.sendText("{\"topic\":\"client\",\"event\":\"phx_join\",\"payload\":{},\"ref\":\"a\"}")
    assert.strictEqual(client.take()[0]?.ref, "a")
  })

  it("are answered with `unmatched topic` before the join and on another topic", () => {
    const portal = new VirtualPortal()
    const client = portal.connect("client")
    client.send("no_relays", {})
    client.send("phx_join", null, "gateway")
    for (const { payload } of client.take()) {
      assert.deepStrictEqual(payload, { status: "error", response: { reason: "unmatched topic" } })
    }
    client.send("phx_join", null)
    assert.deepStrictEqual(client.events(), ["phx_reply", "init"])
    assert.deepStrictEqual(portal.violations, [
      "the first frame is no_relays",
      "no_relays before the answer to the join",
      "phx_join on topic gateway"
    ])
  })

  it("with an unknown event are refused, and those with a bad payload crash the channel", () => {
    const portal = new VirtualPortal()
    const client = portal.join("client")
    client.send("create_flow", request())
    assert.deepStrictEqual(client.takeOnly("phx_reply"), { status: "error", response: { reason: "unknown_message" } })
    client.send("request_authorization", { resource_id: CIDR })
    assert.deepStrictEqual(client.take().map(({ event, payload }) => [event, payload]), [
      ["phx_error", { reason: "channel_crash" }]
    ])
    assert.strictEqual(client.ended, 1012)
    assert.deepStrictEqual(portal.violations, [
      "create_flow: unknown event",
      "request_authorization: connected_gateway_ids is missing"
    ])
  })

  it.prop(
    "of any content are survived",
    [
      FastCheck.constantFrom<Role>("client", "gateway", "relay"),
      FastCheck.constantFrom("client", "gateway", "relay", "phoenix", "__proto__"),
      FastCheck.constantFrom("phx_join", "heartbeat", "request_authorization", "authorization_created", "constructor"),
      FastCheck.jsonValue(),
      FastCheck.jsonValue(),
      FastCheck.boolean()
    ] as const,
    ([role, topic, event, payload, ref, joined]) => {
      const portal = new VirtualPortal()
      const party = joined ? portal.join(role) : portal.connect(role)
      party.sendText(JSON.stringify({ topic, event, payload, ref }))
      // Answered, ended, or, where neither is called for, at least still there for the next one.
      const isOver = party.ended !== undefined
      party.take()
      const reply = party.send("heartbeat", {}, "phoenix")
      assert.deepStrictEqual(party.take().map((frame) => frame.ref), isOver ? [] : [reply])
    }
  )

  it("that join twice end the channel", () => {
    const portal = new VirtualPortal()
    const client = portal.join("client")
    client.send("phx_join", null)
    assert.deepStrictEqual(client.events(), ["phx_close"])
    assert.deepStrictEqual(portal.violations, ["a second join"])
  })

  it("stay without an answer when it is told so", () => {
    const portal = new VirtualPortal()
    portal.server.turn({ holdJoins: true, holdHeartbeats: true })
    const client = portal.connect("client")
    client.send("phx_join", null)
    client.send("heartbeat", {}, "phoenix")
    assert.deepStrictEqual(client.events(), [])
    // Whoever does not wait for the answer is found out.
    client.send("set_snownet_capabilities", { iceless: false })
    assert.deepStrictEqual(portal.violations, ["set_snownet_capabilities before the answer to the join"])
    portal.server.turn({ holdJoins: false, holdHeartbeats: false })
    portal.join("gateway")
  })
})

describe("authorizations", () => {
  for (const endpoint of ["v2", "v1"] as const) {
    const v2 = endpoint === "v2"
    it(`go from the client to the gateway and back, ${endpoint}`, () => {
      const portal = new VirtualPortal()
      const { client, clientId, gateway, gatewayId } = pair(portal, endpoint)
      for (const party of [client, gateway]) party.send("set_snownet_capabilities", { iceless: true })
      client.send(v2 ? "request_authorization" : "create_flow", request())
      assert.deepStrictEqual(client.take(), [])
      const told = gateway.takeOnly(v2 ? "create_authorization" : "authorize_flow")
      assert.deepStrictEqual(told["resource"], {
        type: "cidr",
        id: CIDR,
        name: cidr.name,
        address: cidr.address,
        filters: cidr.filters
      })
      const pskBefore = (told["client"] as Payload)["preshared_key"]
      assert.deepStrictEqual(told["client"], {
        id: clientId,
        public_key: keyFrom(0),
        preshared_key: pskBefore,
        ipv4: "100.64.0.2",
        ipv6: "fd00:2021:1111::2",
        version: "1.5.12"
      })
      assert.deepInclude(told, { expires_at: 1_893_456_000, use_iceless: true })

      const ref = gateway.send(v2 ? "authorization_created" : "flow_authorized", { ref: told["ref"] })
      assert.deepStrictEqual(gateway.take(), [
        { topic: "gateway", event: "phx_reply", payload: { status: "ok", response: {} }, ref }
      ])
      const answer = client.takeOnly(v2 ? "authorization_created" : "flow_created")
      assert.deepInclude(answer, {
        resource_id: CIDR,
        gateway_id: gatewayId,
        gateway_public_key: keyFrom(32),
        gateway_ipv4: "100.64.0.1",
        gateway_ipv6: "fd00:2021:1111::1",
        site_id: SITE,
        preshared_key: pskBefore,
        use_iceless: true
      })
      for (const side of ["client_ice_credentials", "gateway_ice_credentials"]) {
        assert.deepStrictEqual(answer[side], told[side])
      }
      const [mine, theirs] = [answer, told].map((payload) => claimsOf(payload["flow_logs_ingest_token"]))
      assert.deepStrictEqual({ ...mine, role: "responder" }, theirs)
      assert.strictEqual(mine?.["role"], "initiator")

      client.send(
        v2 ? "new_gateway_ice_candidates" : "broadcast_ice_candidates",
        { [v2 ? "gateway_id" : "gateway_ids"]: v2 ? gatewayId : [gatewayId], candidates: [candidate] }
      )
      assert.deepStrictEqual(gateway.takeOnly("ice_candidates"), { client_id: clientId, candidates: [candidate] })
      client.send(
        v2 ? "invalidate_gateway_ice_candidates" : "broadcast_invalidated_ice_candidates",
        { [v2 ? "gateway_id" : "gateway_ids"]: v2 ? gatewayId : [gatewayId], candidates: [candidate] }
      )
      gateway.takeOnly("invalidate_ice_candidates")
      gateway.send("broadcast_ice_candidates", { client_ids: [clientId], candidates: [candidate] })
      assert.deepStrictEqual(client.takeOnly("ice_candidates"), { gateway_id: gatewayId, candidates: [candidate] })
      gateway.send("broadcast_invalidated_ice_candidates", { client_ids: [clientId], candidates: [candidate] })
      client.takeOnly("invalidate_ice_candidates")
      assert.deepStrictEqual(portal.violations, [])
      assert.strictEqual(portal.state.clients[0]?.lastRequests.at(-1)?.event.startsWith("inv"), v2)
    })
  }

  it("carry the same keys each time, and others for another key", () => {
    const portal = new VirtualPortal()
    const { client, gateway } = pair(portal)
    const values = ({ answer }: { readonly answer: Payload }) => [
      answer["preshared_key"],
      answer["client_ice_credentials"],
      answer["gateway_ice_credentials"]
    ]
    const first = values(authorize(client, gateway))
    portal.pass(2000)
    assert.deepStrictEqual(values(authorize(client, gateway)), first)
    const [psk, ice] = values(authorize(portal.join("client", { key: keyFrom(100) }), gateway))
    assert.notStrictEqual(psk, first[0])
    assert.notDeepEqual(ice, first[1])
  })

  it("use the ICE-less mode only if the account and both current channels have it", () => {
    const chosen = (account: boolean, ofClient: boolean, ofGateway: boolean): unknown => {
      const portal = new VirtualPortal({ iceless: account })
      const { client, gateway } = pair(portal)
      if (ofClient) client.send("set_snownet_capabilities", { iceless: true })
      gateway.send("set_snownet_capabilities", { iceless: ofGateway })
      const { answer, told } = authorize(client, gateway)
      assert.strictEqual(answer["use_iceless"], told["use_iceless"])
      return answer["use_iceless"]
    }
    assert.isTrue(chosen(true, true, true))
    assert.isFalse(chosen(false, true, true))
    assert.isFalse(chosen(true, false, true))
    assert.isFalse(chosen(true, true, false))
  })

  it("fail with `offline` without a gateway, and 15 s after a gateway that says nothing", () => {
    const portal = new VirtualPortal()
    const client = portal.join("client")
    client.send("request_authorization", request())
    const failed = { resource_id: CIDR, reason: "offline" }
    assert.deepStrictEqual(client.takeOnly("authorization_creation_failed"), failed)
    const gateway = portal.join("gateway")
    client.send("request_authorization", request())
    const { ref } = gateway.takeOnly("create_authorization") as { readonly ref: string }
    portal.pass(14_999)
    assert.deepStrictEqual(client.take(), [])
    portal.pass(1)
    assert.deepStrictEqual(client.takeOnly("authorization_creation_failed"), failed)
    // It comes too late to be of use, but not to be answered.
    gateway.send("authorization_created", { ref })
    assert.deepInclude(gateway.takeOnly("phx_reply"), { status: "ok" })
    assert.deepStrictEqual(client.take(), [])
    assert.deepStrictEqual(portal.violations, [])
  })

  it("that a newer request has replaced are not answered", () => {
    const portal = new VirtualPortal()
    const { client, gateway } = pair(portal)
    client.send("request_authorization", request())
    const first = gateway.takeOnly("create_authorization")
    portal.pass(2000)
    client.send("request_authorization", request())
    const second = gateway.takeOnly("create_authorization")
    gateway.send("authorization_created", { ref: first["ref"] })
    assert.deepStrictEqual(client.take(), [])
    portal.pass(14_000)
    assert.deepStrictEqual(client.take(), [])
    gateway.take()
    gateway.send("authorization_created", { ref: second["ref"] })
    client.takeOnly("authorization_created")
  })

  it("go to a gateway of a fitting version, to a known one first", () => {
    const portal = new VirtualPortal()
    const old = portal.join("gateway", { externalId: "old", agent: "gateway/1.3.9" })
    const client = portal.join("client")
    client.send("request_authorization", request())
    assert.deepInclude(client.takeOnly("authorization_creation_failed"), { reason: "version_mismatch" })
    const gateways = ["a", "b", "c"].map((externalId) => portal.join("gateway", { externalId }))
    const idOf = (externalId: string): string =>
      portal.state.gateways.find((gateway) => gateway.externalId === externalId)?.id ?? ""
    const chosen = new Set<number>()
    for (let round = 0; round < 40; round++) {
      portal.pass(2000)
      for (const party of [client, ...gateways]) party.send("heartbeat", {}, "phoenix")
      client.send("request_authorization", request(round < 20 ? [idOf("b"), idOf("old")] : []))
      const asked = gateways.map((gateway) => gateway.take().some(({ event }) => event === "create_authorization"))
      assert.strictEqual(asked.filter(Boolean).length, 1)
      if (round < 20) assert.deepStrictEqual(asked, [false, true, false])
      else chosen.add(asked.indexOf(true))
    }
    assert.strictEqual(chosen.size, 3)
    assert.isFalse(old.take().some(({ event }) => event === "create_authorization"))
  })

  it("go to a gateway of one of the resource's sites", () => {
    const site = "88888888-8888-4888-8888-888888888889"
    const sites = [{ id: SITE, name: "HQ" }, { id: site, name: "Branch" }]
    const portal = new VirtualPortal({ sites, gatewaySites: { branch: site }, resources: [{ ...cidr, sites: [site] }] })
    const other = portal.join("gateway")
    const client = portal.join("client")
    client.send("request_authorization", request())
    assert.deepInclude(client.takeOnly("authorization_creation_failed"), { reason: "offline" })
    const branch = portal.join("gateway", { externalId: "branch" })
    assert.strictEqual(authorize(client, branch).answer["site_id"], site)
    assert.isFalse(other.take().some(({ event }) => event === "create_authorization"))
  })

  it("are not made for a resource that the client does not have", () => {
    const portal = new VirtualPortal()
    const { client } = pair(portal)
    client.send("request_authorization", { ...request(), resource_id: SITE })
    assert.deepStrictEqual(client.takeOnly("authorization_creation_failed"), {
      resource_id: SITE,
      reason: "not_found"
    })
  })

  it("wait and fail as they are told to", () => {
    const portal = new VirtualPortal()
    const { client, gateway } = pair(portal)
    portal.server.turn({ holdConfirmations: true })
    client.send("request_authorization", request())
    gateway.send("authorization_created", { ref: gateway.takeOnly("create_authorization")["ref"] })
    assert.deepInclude(gateway.takeOnly("phx_reply"), { status: "ok" })
    assert.deepStrictEqual(client.take(), [])
    portal.server.turn({ holdConfirmations: false })
    portal.drain()
    client.takeOnly("authorization_created")
    portal.server.turn({
      failAuthorizations: { reason: "forbidden", violatedProperties: ["remote_ip", "client_verified"] }
    })
    client.send("request_authorization", request())
    assert.deepStrictEqual(client.takeOnly("authorization_creation_failed"), {
      resource_id: CIDR,
      reason: "forbidden",
      violated_properties: ["remote_ip", "client_verified"]
    })
    assert.deepStrictEqual(gateway.take(), [])
  })

  it("last as long as they are told to, but no longer than the token", () => {
    const portal = new VirtualPortal()
    const { client, gateway } = pair(portal)
    const { told: { expires_at: tokenExpiresAt } } = authorize(client, gateway)
    portal.server.turn({ grantSeconds: 5 })
    const { told } = authorize(client, gateway)
    assert.strictEqual(told["expires_at"], EPOCH / 1000 + 5)
    assert.strictEqual(portal.state.grants[0]?.expiresAt, EPOCH / 1000 + 5)
    portal.server.turn({ grantSeconds: Number.MAX_SAFE_INTEGER })
    assert.strictEqual(authorize(client, gateway).told["expires_at"], tokenExpiresAt)
  })

  it("come with what neither side may do", () => {
    const portal = new VirtualPortal()
    const { client, clientId, gateway, gatewayId } = pair(portal)
    client.send("request_authorization", request())
    portal.pass(500)
    client.send("request_authorization", request())
    client.send("new_gateway_ice_candidates", { gateway_id: gatewayId, candidates: [candidate] })
    gateway.send("broadcast_ice_candidates", { client_ids: [clientId], candidates: [candidate] })
    const { ref } = gateway.take().findLast(({ event }) => event === "create_authorization")?.payload ?? {}
    gateway.send("authorization_created", { ref })
    gateway.send("authorization_created", { ref })
    gateway.send("authorization_created", { ref: "guessed" })
    assert.deepStrictEqual(gateway.take().at(-1)?.payload, { status: "error", response: { reason: "invalid_ref" } })
    const another = portal.join("gateway", { externalId: "another" })
    another.send("authorization_created", { ref })
    assert.deepInclude(another.takeOnly("phx_reply"), { status: "error" })
    assert.deepStrictEqual(portal.violations, [
      "a second request for one resource after 500 ms",
      "candidates for a gateway that it was not given",
      "candidates for a client that it has not confirmed",
      "a second confirmation",
      "a confirmation of a ref that it was not given",
      "a confirmation of a ref that it was not given"
    ])
  })

  it("are listed to a gateway that comes back", () => {
    const portal = new VirtualPortal()
    const { client, clientId, gateway } = pair(portal)
    authorize(client, gateway)
    portal.server.restart(portal.now)
    portal.drain()
    assert.deepStrictEqual([client.ended, gateway.ended], [1012, 1012])
    assert.deepStrictEqual(portal.join("gateway").init["authorizations"], [
      { client_id: clientId, resource_id: CIDR, expires_at: 1_893_456_000 }
    ])
  })
})

describe("changes", () => {
  it("of resources reach clients, and the gateways that have grants", () => {
    const portal = new VirtualPortal()
    const { client, clientId, gateway } = pair(portal)
    authorize(client, gateway)
    const { account } = portal.server
    const sites = [{ id: SITE, name: "HQ" }]
    const filtered = { ...cidr, filters: [] }
    account.putResource(filtered)
    portal.drain()
    assert.deepStrictEqual(client.takeOnly("resource_created_or_updated"), { ...filtered, sites })
    assert.deepInclude(gateway.takeOnly("resource_updated"), { id: CIDR, filters: [] })

    account.putResource({ ...filtered, address: "10.30.0.0/16" })
    portal.drain()
    client.takeOnly("resource_created_or_updated")
    assert.deepStrictEqual(gateway.takeOnly("reject_access"), { client_id: clientId, resource_id: CIDR })

    authorize(client, gateway)
    account.deleteResource(CIDR)
    portal.drain()
    const [deleted] = client.take()
    assert.deepStrictEqual<unknown>(deleted, { topic: "client", event: "resource_deleted", payload: CIDR, ref: null })
    gateway.takeOnly("reject_access")
    assert.deepStrictEqual(portal.state.grants, [])
    client.send("request_authorization", request())
    assert.deepInclude(client.takeOnly("authorization_creation_failed"), { reason: "not_found" })
  })

  it("that no client could read are refused", () => {
    const { account } = new VirtualPortal().server
    assert.throws(() => account.putResource({ ...cidr, address: "10.20.0.1/16" }), /address/)
    assert.throws(() => account.putResource({ ...cidr, sites: [CIDR] }), /sites/)
    assert.throws(() => account.deleteResource(SITE), /no such resource/)
    assert.throws(() => new VirtualPortal({ relays: [{ stampSecret: "s", port: 3478 }] }), /address/)
  })

  it("of the interface are pushed", () => {
    const portal = new VirtualPortal()
    const { client, gateway } = pair(portal)
    const device = portal.server.account.devices.all.find(({ role }) => role === "client")
    if (device === undefined) throw new Error("not signed in")
    portal.server.account.setDns({ upstreamDoh: ["https://dns.quad9.net/dns-query"] })
    portal.drain()
    assert.deepInclude(client.takeOnly("config_changed")["interface"], {
      upstream_doh: [{ url: "https://dns.quad9.net/dns-query" }],
      search_domain: null
    })
    portal.server.account.readdress(device, { ipv4: "100.64.7.7" }, portal.now)
    portal.drain()
    assert.deepInclude(client.takeOnly("init")["interface"], { ipv4: "100.64.7.7", ipv6: "fd00:2021:1111::2" })
    assert.deepStrictEqual(gateway.take(), [])
    for (const ipv4 of ["100.64.0.1", "100.96.0.1", "10.0.0.1", "fd00:2021:1111::7"]) {
      assert.throws(() => portal.server.account.readdress(device, { ipv4 }, portal.now))
    }
  })
})

describe("relays", () => {
  it("come and go one second later, for those who lack one", () => {
    const portal = new VirtualPortal({ relays: [] })
    const client = portal.join("client")
    assert.deepStrictEqual(client.init["relays"], [])
    const relay = portal.join("relay")
    const [state] = portal.state.relays
    assert.deepInclude(state, { ipv4: "198.51.100.1", port: 3478, isStatic: false })
    portal.pass(999)
    assert.deepStrictEqual(client.take(), [])
    portal.pass(1)
    const update = client.takeOnly("relays_presence")
    assert.deepStrictEqual(update["disconnected_ids"], [])
    assert.deepInclude((update["connected"] as ReadonlyArray<Payload>)[0], {
      id: state?.id,
      addr: "198.51.100.1:3478"
    })
    portal.server.handleClosed(relay.id, portal.now)
    portal.pass(1000)
    assert.deepStrictEqual(client.takeOnly("relays_presence"), { disconnected_ids: [state?.id], connected: [] })
    client.send("no_relays", {})
    assert.deepStrictEqual(client.takeOnly("relays_presence"), { disconnected_ids: [], connected: [] })
  })

  it("are two at most, and others only when one of them is lost", () => {
    const relays = ["a", "b", "c"].map((stampSecret) => ({ stampSecret, ipv4: "203.0.113.9", port: 3478 }))
    const portal = new VirtualPortal({ relays })
    const client = portal.join("client")
    const idsOf = (list: unknown): ReadonlyArray<unknown> => (list as ReadonlyArray<Payload>).map(({ id }) => id)
    const given = idsOf(client.init["relays"])
    assert.strictEqual(given.length, 2)
    const spare = portal.state.relays.findIndex(({ id }) => !given.includes(id))
    portal.server.setRelays(relays.filter((_, index) => index !== spare), portal.now)
    portal.pass(1000)
    assert.deepStrictEqual(client.take(), [])
    const lost = portal.state.relays[0]?.id
    portal.server.setRelays(relays.filter((_, index) => index !== spare).slice(1), portal.now)
    portal.pass(1000)
    const update = client.takeOnly("relays_presence")
    assert.deepStrictEqual(update["disconnected_ids"], [lost])
    assert.deepStrictEqual(idsOf(update["connected"]), given.filter((id) => id !== lost))
  })

  it("must say their secret to join", () => {
    const portal = new VirtualPortal()
    const relay = portal.connect("relay")
    relay.send("phx_join", {})
    assert.deepInclude(relay.takeOnly("phx_reply"), { status: "error" })
    assert.deepStrictEqual(portal.violations, ["a join without a stamp secret"])
    assert.strictEqual(portal.state.relays.length, 1)
  })
})
