import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Schedule from "effect/Schedule"
import type * as Scope from "effect/Scope"
import * as fs from "node:fs"
import * as http from "node:http"
import * as os from "node:os"
import * as path from "node:path"
import { WebSocket } from "ws"
import { ask, serveControl } from "../../../src/lab/control.ts"
import { type PortalConfig, type PortalProcess, type PortalState, run } from "../../../src/lab/portal/portalProcess.ts"
import { waitFor } from "../../support/waitFor.ts"
import { candidate, CIDR, cidr, config, headersOf, Party, pathOf, type Role, type SignIn } from "./support.ts"

interface Connected {
  readonly party: Party
  readonly webSocket: WebSocket
  /** The close code once it has one. */
  readonly closed: () => number | undefined
}

/** A device on a real WebSocket, from a library that knows nothing of the portal. */
const connect = (
  { port }: PortalProcess,
  role: Role,
  options: SignIn = {}
): Effect.Effect<Connected, Error, Scope.Scope> =>
  Effect.acquireRelease(
    Effect.async<Connected, Error>((resume) => {
      const webSocket = new WebSocket(`ws://127.0.0.1:${port}${pathOf(role, options)}`, {
        headers: headersOf(role, options),
        perMessageDeflate: false
      })
      let code: number | undefined
      const party = new Party(role, (text) => webSocket.send(text))
      webSocket.on("message", (text: Buffer) => party.receive(text.toString()))
      webSocket.on("close", (value) => {
        code = value
      })
      webSocket.on("error", (error) => resume(Effect.fail(error)))
      webSocket.on("open", () => resume(Effect.succeed({ party, webSocket, closed: () => code })))
    }),
    ({ webSocket }) => Effect.sync(() => webSocket.terminate())
  )

const join = (portal: PortalProcess, role: Role, options: SignIn = {}) =>
  Effect.gen(function*() {
    const connected = yield* connect(portal, role, options)
    connected.party.send("phx_join", role === "relay" ? { stamp_secret: "s" } : null)
    yield* waitFor("init", () => connected.party.frames.some(({ event }) => event === "init"))
    assert.deepStrictEqual(connected.party.events(), ["phx_reply", "init"])
    return connected
  })

/** Waits for a frame and takes out all that came up to then. */
const until = (party: Party, event: string) =>
  Effect.gen(function*() {
    yield* waitFor(event, () => party.frames.some((frame) => frame.event === event))
    const found = party.take().find((frame) => frame.event === event)
    if (found === undefined) throw new Error("it was there just now")
    return found.payload
  })

interface Answer {
  readonly status: number | undefined
  readonly headers: http.IncomingHttpHeaders
  readonly body: string
}

/** The HTTP answer to an upgrade that is refused, or to a plain request. */
const get = (
  { port }: PortalProcess,
  target: string,
  headers: Readonly<Record<string, string>>
): Effect.Effect<Answer, Error> =>
  Effect.async((resume) => {
    const request = http.request({ host: "127.0.0.1", port, path: target, headers, agent: false }, (response) => {
      let body = ""
      response.setEncoding("utf8").on("data", (text: string) => {
        body += text
      })
      response.on("end", () => resume(Effect.succeed({ status: response.statusCode, headers: response.headers, body })))
    })
    request.on("upgrade", (_, socket) => {
      socket.destroy()
      resume(Effect.fail(new Error("upgraded")))
    })
    request.on("error", (error) => resume(Effect.fail(error)))
    request.end()
  })

const upgradeHeaders = {
  connection: "Upgrade",
  upgrade: "websocket",
  "sec-websocket-version": "13",
  "sec-websocket-key": "AAAAAAAAAAAAAAAAAAAAAA=="
}
const getUpgrade = (portal: PortalProcess, role: Role, options: SignIn = {}) =>
  get(portal, pathOf(role, options), { ...upgradeHeaders, ...headersOf(role, options) })

const start = (changes: Partial<PortalConfig> = {}) => run({ ...config, ...changes })

describe("the portal emulator on real sockets", () => {
  it.scopedLive("takes a client from its sign-in to its gateway's candidates", () =>
    Effect.gen(function*() {
      const portal = yield* start()
      const gateway = yield* join(portal, "gateway")
      const client = yield* join(portal, "client")
      client.party.send("request_authorization", { resource_id: CIDR, connected_gateway_ids: [] })
      const told = yield* until(gateway.party, "create_authorization")
      // Back to back: the client must hear of the gateway before it hears of its candidates.
      gateway.party.send("authorization_created", { ref: told["ref"] })
      const { id: clientId } = told["client"] as { readonly id: string }
      gateway.party.send("broadcast_ice_candidates", { client_ids: [clientId], candidates: [candidate] })
      yield* waitFor("candidates", () => client.party.frames.length === 2)
      const [answer, candidates] = client.party.take()
      assert.strictEqual(answer?.event, "authorization_created")
      assert.deepStrictEqual(candidates?.payload, {
        gateway_id: answer?.payload["gateway_id"],
        candidates: [candidate]
      })
      const gatewayId = answer?.payload["gateway_id"]
      client.party.send("new_gateway_ice_candidates", { gateway_id: gatewayId, candidates: [candidate] })
      yield* until(gateway.party, "ice_candidates")
      const state = portal.control("/state")
      assert.deepStrictEqual(state.violations, [])
      assert.deepInclude(state.clients[0], { connected: true, remoteAddress: "127.0.0.1", externalId: "the-client" })
      assert.deepStrictEqual(state.clients[0]?.messages, {
        phx_join: 1,
        request_authorization: 1,
        new_gateway_ice_candidates: 1
      })
      client.webSocket.close(1000)
      yield* waitFor("its end", () => portal.control("/state").clients[0]?.connected === false)
    }))

  it.scopedLive("answers what it refuses with a problem document", () =>
    Effect.gen(function*() {
      const portal = yield* start()
      const answer = yield* getUpgrade(portal, "client", { token: ".wrong" })
      assert.strictEqual(answer.status, 401)
      assert.strictEqual(answer.headers["content-type"], "application/problem+json; charset=utf-8")
      assert.deepStrictEqual(JSON.parse(answer.body), {
        type: "about:blank",
        title: "Unauthorized",
        status: 401,
        detail: "Invalid token",
        code: "invalid_token"
      })
      const { status } = yield* get(portal, "/api/other/websocket", upgradeHeaders)
      assert.strictEqual(status, 404)
      assert.strictEqual((yield* get(portal, "/", {})).status, 404)
      assert.strictEqual((yield* get(portal, pathOf("client"), headersOf("client"))).status, 400)

      portal.control("/refuse", { count: 1, status: 503, retryAfter: "3" })
      const later = yield* getUpgrade(portal, "client")
      assert.deepStrictEqual([later.status, later.headers["retry-after"]], [503, "3"])
      portal.control("/refuse", { count: 1, status: 401, body: { type: "text/html", text: "<h1>No</h1>" } })
      const html = yield* getUpgrade(portal, "client")
      assert.deepStrictEqual([html.status, html.headers["content-type"], html.body], [401, "text/html", "<h1>No</h1>"])
      yield* connect(portal, "client")
      assert.strictEqual(portal.control("/state").upgrades["accepted"], 1)
    }))

  it.scopedLive("ends connections with a code, without one, and for a message that is too long", () =>
    Effect.gen(function*() {
      const portal = yield* start()
      const first = yield* join(portal, "client")
      portal.control("/drop", { target: "client", how: "close", code: 1000, reason: "bye" })
      yield* waitFor("a close frame", () => first.closed() === 1000)
      const second = yield* join(portal, "client")
      portal.control("/drop", { how: "abrupt" })
      yield* waitFor("a broken connection", () => second.closed() === 1006)
      const third = yield* join(portal, "client")
      third.party.sendText(" ".repeat(8 * 1024 * 1024 + 1))
      yield* waitFor("its refusal", () => third.closed() === 1009)
      assert.strictEqual(portal.control("/state").clients[0]?.connects, 3)
    }))

  it.scopedLive("comes back from a restart with the same devices", () =>
    Effect.gen(function*() {
      const portal = yield* start()
      const client = yield* join(portal, "client")
      const [before] = portal.control("/state").clients
      portal.control("/restart", { downMillis: 300 })
      yield* waitFor("a close frame", () => client.closed() === 1012)
      const refused = yield* Effect.flip(connect(portal, "client"))
      assert.include(refused.message, "ECONNREFUSED")
      yield* Effect.retry(join(portal, "client"), { times: 100, schedule: Schedule.spaced("50 millis") })
      const [after] = portal.control("/state").clients
      assert.deepStrictEqual([after?.id, after?.ipv4, after?.connected], [before?.id, before?.ipv4, true])
    }))

  it.scopedLive("is told what to do over its control socket, and says what it cannot do", () =>
    Effect.gen(function*() {
      const folder = yield* Effect.acquireRelease(
        Effect.sync(() => fs.mkdtempSync(path.join(os.tmpdir(), "portal-"))),
        (name) => Effect.sync(() => fs.rmSync(name, { recursive: true }))
      )
      const portal = yield* start()
      const socket = path.join(folder, "portal.sock")
      yield* serveControl(socket, portal.control)
      const control = (name: string, body?: unknown) => ask<PortalState>(socket, name, body)
      const client = yield* join(portal, "client")

      yield* control("/resources/put", { ...cidr, name: "Renamed" })
      assert.deepInclude(yield* until(client.party, "resource_created_or_updated"), { name: "Renamed" })
      yield* control("/resources/delete", { id: CIDR })
      yield* until(client.party, "resource_deleted")
      assert.isFalse((yield* control("/state")).resources.some(({ id }) => id === CIDR))
      yield* control("/interface", { dns: { searchDomain: "corp.example" } })
      assert.deepInclude((yield* until(client.party, "config_changed"))["interface"], { search_domain: "corp.example" })
      yield* control("/interface", { device: "the-client", ipv4: "100.64.9.9" })
      assert.deepInclude((yield* until(client.party, "init"))["interface"], { ipv4: "100.64.9.9" })
      yield* control("/relays", { relays: [{ stampSecret: "new", ipv4: "203.0.113.10", port: 3478 }] })
      assert.lengthOf((yield* until(client.party, "relays_presence"))["connected"] as ReadonlyArray<unknown>, 1)
      yield* control("/knobs", { failAuthorizations: { reason: "forbidden" }, holdHeartbeats: true })
      const { knobs } = yield* control("/knobs", { failAuthorizations: null })
      assert.deepInclude(knobs, { holdHeartbeats: true, holdConfirmations: false })
      assert.isFalse("failAuthorizations" in knobs)
      yield* control("/send", {
        target: "client",
        text: JSON.stringify({ topic: "phoenix", event: "x", payload: {}, ref: 7 })
      })
      yield* until(client.party, "x")
      yield* control("/tokens/expire", { token: ".client" })
      assert.deepStrictEqual(yield* until(client.party, "disconnect"), { reason: "token_expired" })

      const wrong: ReadonlyArray<readonly [name: string, body?: unknown]> = [
        ["/nonsense"],
        ["/resources/put", { ...cidr, type: "dynamic_device_pool" }],
        ["/resources/put"],
        ["/drop", { how: "close", code: 1006 }],
        ["/knobs", { holdEverything: true }],
        ["/interface", { device: "nobody", ipv4: "100.64.9.9" }],
        ["/tokens/expire", { token: "unknown" }]
      ]
      for (const [name, body] of wrong) {
        const { _tag } = yield* Effect.flip(control(name, body))
        assert.strictEqual(_tag, "LabError", name)
      }
      const text = JSON.stringify(yield* control("/state"))
      for (const secret of [".client", "test-stamp-secret", "new\""]) assert.notInclude(text, secret)
    }))

  it.scopedLive("does not start with a configuration that contradicts itself, or on a port that is taken", () =>
    Effect.gen(function*() {
      const portal = yield* start()
      const taken = yield* Effect.flip(Effect.scoped(start({ port: portal.port })))
      assert.include(taken.message, "EADDRINUSE")
      const wrong = yield* Effect.flip(Effect.scoped(start({ gatewaySite: CIDR })))
      assert.include(wrong.message, "gatewaySite")
    }))
})
