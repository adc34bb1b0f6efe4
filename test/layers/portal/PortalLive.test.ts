/** What a portal says and what becomes of it; everything that goes wrong is in `failures.test.ts`. */
import { assert, describe, it } from "@effect/vitest"
import * as Context from "effect/Context"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import * as Queue from "effect/Queue"
import * as Scope from "effect/Scope"
import * as TestClock from "effect/TestClock"
import * as ReadinessPollerKoffi from "../../../src/layers/poll/ReadinessPollerKoffi.ts"
import * as PortalLive from "../../../src/layers/portal/PortalLive.ts"
import * as SocketFactoryLinux from "../../../src/layers/socket/SocketFactoryLinux.ts"
import { ip } from "../../../src/protocol/wire/address.ts"
import { HostResolver } from "../../../src/services/HostResolver.ts"
import { Portal } from "../../../src/services/Portal.ts"
import { makeRouteCacheDouble } from "../../support/RouteCacheDouble.ts"
import { makeSocketFactoryDouble } from "../../support/SocketFactoryDouble.ts"
import { root } from "./certificates.ts"
import {
  answerAll,
  cleanedToken,
  connect,
  expectEvent,
  key,
  makeScriptedPortal,
  onLoopback,
  optionsFor,
  otherKey,
  passSleep,
  portalLayer,
  refuse,
  sessionOf,
  waitFor
} from "./support.ts"

const iceCandidates = (count: number) => ({
  gateway_id: "22222222-2222-4222-8222-222222222222",
  candidates: [`candidate:${count} 1 udp 2130706431 192.0.2.10 52625 typ host`]
})

describe("login", () => {
  it.scoped("asks for the upgrade as specified (test 2)", () =>
    Effect.gen(function*() {
      const { connection, portal } = yield* connect({ name: "a b/ü", deviceSerial: "S+1", deviceUuid: "u=2" })
      yield* expectEvent(connection, "Connected")
      const { headers } = sessionOf(portal)
      assert.strictEqual(
        portal.requests[0],
        "/client/v2/websocket?external_id=3f5e77a232dbb66d26bc9d4de41d37ff360ca65d54997d05c1e4a577f1b8f521"
          + "&name=a+b%2F%C3%BC&device_serial=S%2B1&device_uuid=u%3D2"
          + "&public_key=AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8%3D"
      )
      assert.strictEqual(headers["x-authorization"], `Bearer ${cleanedToken}`)
      assert.match(
        headers["user-agent"] ?? "",
        /^\S+\/\d+\.\d+\.\d+ headless-client\/1\.5\.12 \(.+\) firezone-node\/\S+$/
      )
      for (const absent of ["authorization", "origin", "sec-websocket-protocol", "sec-websocket-extensions"]) {
        assert.notProperty(headers, absent)
      }
    }))

  it.scoped("dials port 443 without TLS too, and every address at once (test 3)", () =>
    Effect.gen(function*() {
      const factory = makeSocketFactoryDouble()
      factory.tcp = () => Effect.interruptible(Effect.never)
      const addresses = [ip("192.0.2.1"), ip("192.0.2.2"), ip("2001:db8::1")]
      const { open } = yield* Effect.provide(Portal, portalLayer(factory, undefined, () => Effect.succeed(addresses)))
      yield* open(optionsFor("client", "ws://portal.test/"))
      yield* waitFor("all dialled", () => factory.dialled.length === 3)
      assert.deepStrictEqual(
        factory.dialled.map(({ text }) => text),
        ["192.0.2.1:443", "192.0.2.2:443", "[2001:db8::1]:443"]
      )
    }))

  it.scoped("reaches an IPv6 literal", () =>
    Effect.gen(function*() {
      const portal = yield* makeScriptedPortal({ address: "::1" })
      const factory = makeSocketFactoryDouble()
      const { open } = yield* Effect.provide(Portal, portalLayer(factory))
      const connection = yield* open(optionsFor("client", `ws://[::1]:${portal.port}/prefix/`))
      yield* expectEvent(connection, "Connected")
      assert.strictEqual(sessionOf(portal).url.pathname, "/prefix/client/v2/websocket")
      assert.strictEqual(connection.status().remote, `[::1]:${portal.port}`)
    }))

  for (const tls of [false, true]) {
    it.scoped(`works over the sockets that leave the tunnel${tls ? ", with TLS" : ""}`, () =>
      Effect.gen(function*() {
        const portal = yield* makeScriptedPortal({ tls })
        const routes = makeRouteCacheDouble()
        routes.source = () => ip("127.0.0.5")
        const layer = PortalLive.layerWith({ trustedRoots: root }).pipe(
          Layer.provide(SocketFactoryLinux.layerWith({ mark: undefined })),
          Layer.provide(
            Layer.mergeAll(routes.layer, ReadinessPollerKoffi.layer, Layer.mock(HostResolver, { resolve: onLoopback }))
          )
        )
        const { open } = Context.get(yield* Layer.build(layer), Portal)
        const connection = yield* open(optionsFor("client", `${tls ? "wss" : "ws"}://portal.test:${portal.port}/`))
        yield* expectEvent(connection, "Connected")
        assert.strictEqual(sessionOf(portal).remote, "127.0.0.5")
        sessionOf(portal).push("ice_candidates", iceCandidates(1))
        yield* expectEvent(connection, "Message")
        yield* connection.reconnect(otherKey)
        yield* expectEvent(connection, "Disconnected")
        yield* expectEvent(connection, "Connected")
        yield* waitFor("the goodbye", () => sessionOf(portal).closedWith === 1000)
      }))
  }

  it.scoped("takes the first connection and destroys the others", () =>
    Effect.gen(function*() {
      const portal = yield* makeScriptedPortal()
      const factory = makeSocketFactoryDouble()
      const others = [ip("127.0.0.2"), ip("127.0.0.3")]
      // One never answers; the other is through, but after the winner, and no interruption comes in between.
      const late = yield* Effect.makeLatch()
      const never = yield* Effect.makeLatch()
      let interrupted = false
      factory.tcp = (remote) =>
        remote.address === others[0]
          ? Effect.onInterrupt(
            Effect.interruptible(Effect.as(never.await, undefined as never)),
            () => Effect.sync(() => (interrupted = true))
          )
          : remote.address === others[1]
          ? Effect.tap(factory.dialPlainly({ ...remote, address: ip("127.0.0.1") }), () => late.await)
          : Effect.tap(factory.dialPlainly(remote), () => late.open)
      const { open } = yield* Effect.provide(
        Portal,
        portalLayer(factory, undefined, () => Effect.succeed([...others, ip("127.0.0.1")]))
      )
      const connection = yield* open(optionsFor("client", `ws://portal.test:${portal.port}/`))
      yield* expectEvent(connection, "Connected")
      assert.isTrue(interrupted)
      assert.strictEqual(connection.status().remote, `127.0.0.1:${portal.port}`)
      yield* waitFor("one socket", () => factory.open().length === 1)
    }))

  it.scoped("falls back to the older endpoint and its event names on 404 (spec 12.3)", () =>
    Effect.gen(function*() {
      const { connection, portal } = yield* connect()
      portal.onUpgrade = (socket) => {
        portal.onUpgrade = undefined
        refuse(404)(socket)
      }
      yield* expectEvent(connection, "Connected")
      assert.deepStrictEqual(portal.requests.map((url) => url.split("?")[0]), [
        "/client/v2/websocket",
        "/client/websocket"
      ])
      assert.strictEqual(connection.status().endpoint, "v1")
      connection.unsafeSend({
        _tag: "RequestAuthorization",
        resourceId: "66666666-6666-4666-8666-666666666666",
        connectedGatewayIds: []
      })
      yield* waitFor("the request", () => sessionOf(portal).events().includes("create_flow"))
    }))

  it.scoped("speaks as a gateway", () =>
    Effect.gen(function*() {
      const portal = yield* makeScriptedPortal()
      const { open } = yield* Effect.provide(Portal, portalLayer(makeSocketFactoryDouble()))
      const connection = yield* open(optionsFor("gateway", `ws://127.0.0.1:${portal.port}/`))
      yield* expectEvent(connection, "Connected")
      const session = sessionOf(portal)
      assert.strictEqual(session.url.pathname, "/gateway/v2/websocket")
      assert.match(session.headers["user-agent"] ?? "", / gateway\/1\.6\.1 /)
      assert.deepStrictEqual(session.frames[0], { topic: "gateway", event: "phx_join", payload: null, ref: 0 })
      session.push("reject_access", {
        client_id: "11111111-1111-4111-8111-111111111111",
        resource_id: "66666666-6666-4666-8666-666666666666"
      }, "gateway")
      const { push } = yield* expectEvent(connection, "Message")
      assert.strictEqual(push._tag, "RejectAccess")
      connection.unsafeSend({ _tag: "AuthorizationConfirmed", ref: "opaque-1" })
      yield* waitFor("the confirmation", () => session.events().includes("authorization_created"))
    }))
})

describe("messages", () => {
  it.scoped("wait for the join, and are dropped while there is no connection (tests 1 and 10)", () =>
    Effect.gen(function*() {
      const { connection, portal } = yield* connect()
      portal.onFrame = () => undefined
      assert.isFalse(connection.unsafeSend({ _tag: "NoRelays" }))
      assert.strictEqual(connection.status().state, "connecting")
      yield* waitFor("the join", () => portal.sessions[0]?.frames.length === 1)
      const session = sessionOf(portal)
      assert.isTrue(connection.unsafeSend({ _tag: "SetSnownetCapabilities", iceless: false }))
      assert.isTrue(connection.unsafeSend({ _tag: "SetSnownetCapabilities", iceless: false }))
      yield* TestClock.adjust("3 seconds")
      assert.deepStrictEqual(session.frames, [{ topic: "client", event: "phx_join", payload: null, ref: 0 }])
      session.reply({ topic: "client", event: "phx_join", payload: null, ref: 0 })
      yield* expectEvent(connection, "Connected")
      yield* waitFor("what waited", () => session.frames.length === 2)
      assert.deepStrictEqual(session.frames[1], {
        topic: "client",
        event: "set_snownet_capabilities",
        payload: { iceless: false },
        ref: 1
      })
      assert.deepInclude(connection.status(), { state: "connected", joins: 1, endpoint: "v2" })
      portal.onFrame = answerAll
      session.push("phx_close", {})
      const { retryInMillis } = yield* expectEvent(connection, "Disconnected")
      assert.isFalse(connection.unsafeSend({ _tag: "NoRelays" }))
      assert.strictEqual(connection.status().state, "disconnected")
      yield* passSleep(retryInMillis)
      yield* expectEvent(connection, "Connected")
      connection.unsafeSend({ _tag: "SetSnownetCapabilities", iceless: true })
      yield* waitFor("a message", () => sessionOf(portal, 1).frames.length === 2)
      assert.deepStrictEqual(sessionOf(portal, 1).events(), ["phx_join", "set_snownet_capabilities"])
    }))

  it.scoped("arrive decoded and in order, around what cannot be read", () =>
    Effect.gen(function*() {
      const { connection, portal } = yield* connect()
      yield* expectEvent(connection, "Connected")
      const session = sessionOf(portal)
      session.push("ice_candidates", iceCandidates(1))
      session.push("no_such_event", {})
      session.push("ice_candidates", { gateway_id: "not an id", candidates: [] })
      session.push("phx_error", { reason: "channel_crash" })
      session.webSocket.send(Buffer.from("{\"topic\":\"client\""))
      session.webSocket.send("{]")
      session.webSocket.send("42")
      session.webSocket.ping("are you there")
      session.push("ice_candidates", iceCandidates(2), "any topic")
      for (const count of [1, 2]) {
        const { push } = yield* expectEvent(connection, "Message")
        assert.deepStrictEqual(push, {
          _tag: "IceCandidates",
          gatewayId: iceCandidates(count).gateway_id,
          candidates: iceCandidates(count).candidates
        })
      }
      assert.strictEqual(connection.status().state, "connected")
    }))

  it.scoped("make the portal wait while nobody takes them", () =>
    Effect.gen(function*() {
      const { connection, factory, portal } = yield* connect()
      yield* expectEvent(connection, "Connected")
      const session = sessionOf(portal)
      const [socket] = factory.sockets
      assert.isDefined(socket)
      const total = 4000
      const padding = ` ${"x".repeat(400)}`
      for (let count = 0; count < total; count++) {
        session.push("ice_candidates", { ...iceCandidates(count), padding })
      }
      yield* waitFor("the queue to fill", () => Option.getOrThrow(connection.events.unsafeSize()) >= 64)
      assert.isTrue(socket.isPaused())
      assert.isBelow(socket.bytesRead, 1 << 18)
      for (let count = 0; count < total; count++) {
        const { push } = yield* expectEvent(connection, "Message")
        assert.isTrue(push._tag === "IceCandidates" && push.candidates[0]?.startsWith(`candidate:${count} `))
        if (count > 200) continue
        yield* Effect.promise(() => new Promise<void>((resolve) => void setImmediate(resolve)))
        assert.isBelow(socket.bytesRead, 1 << 19) // a slow reader is waited for too
      }
    }))

  it.scoped("are refused as soon as the connection is gone, though nobody has read so far", () =>
    Effect.gen(function*() {
      const { connection, factory, portal } = yield* connect()
      yield* expectEvent(connection, "Connected")
      for (let count = 0; count < 200; count++) sessionOf(portal).push("ice_candidates", iceCandidates(count))
      yield* waitFor("the queue to fill", () => Option.getOrThrow(connection.events.unsafeSize()) >= 64)
      assert.isTrue(connection.unsafeSend({ _tag: "NoRelays" }))
      factory.sockets[0]?.destroy()
      yield* waitFor("the state", () => connection.status().state !== "connected")
      assert.isFalse(connection.unsafeSend({ _tag: "NoRelays" }))
    }))
})

describe("heartbeats", () => {
  it.scoped("leave every 10 s, whatever else is said", () =>
    Effect.gen(function*() {
      const { connection, portal } = yield* connect()
      yield* expectEvent(connection, "Connected")
      const session = sessionOf(portal)
      yield* passSleep(5000) // the join's deadline
      for (let beats = 1; beats <= 6; beats++) {
        connection.unsafeSend({ _tag: "NoRelays" })
        yield* passSleep(beats === 1 ? 5000 : 10_000)
        yield* waitFor("a heartbeat", () => session.events().filter((event) => event === "heartbeat").length === beats)
        // The answer must be here before the next one leaves.
        session.push("ice_candidates", iceCandidates(beats))
        yield* expectEvent(connection, "Message")
      }
      assert.deepInclude(session.frames.find(({ event }) => event === "heartbeat"), { topic: "phoenix", payload: {} })
      assert.strictEqual(connection.status().joins, 1)
    }))

  it.scoped("that nobody answers end the connection at the fourth (test 6)", () =>
    Effect.gen(function*() {
      const { connection, portal } = yield* connect()
      portal.onFrame = (session, frame) => {
        if (frame.event === "phx_join") session.reply(frame)
        if (frame.event === "heartbeat") session.reply({ ...frame, ref: frame.ref + 1000 })
      }
      yield* expectEvent(connection, "Connected")
      const session = sessionOf(portal)
      yield* passSleep(5000) // the join's deadline
      for (let beats = 1; beats <= 3; beats++) {
        yield* passSleep(beats === 1 ? 5000 : 10_000)
        yield* waitFor("a heartbeat", () => session.events().filter((event) => event === "heartbeat").length === beats)
      }
      yield* passSleep(10_000)
      const { error } = yield* expectEvent(connection, "Disconnected")
      assert.strictEqual(error.reason, "the portal does not answer heartbeats")
    }))
})

describe("joins", () => {
  it.scoped("again on the same socket once the portal forgot us (test 7)", () =>
    Effect.gen(function*() {
      const { connection, portal } = yield* connect()
      portal.onFrame = (session, frame) =>
        frame.event === "no_relays"
          ? session.reply(frame, "error", { reason: "unmatched topic" })
          : answerAll(session, frame)
      yield* expectEvent(connection, "Connected")
      connection.unsafeSend({ _tag: "NoRelays" })
      yield* expectEvent(connection, "Connected")
      assert.strictEqual(portal.sessions.length, 1)
      assert.deepStrictEqual(sessionOf(portal).events(), ["phx_join", "no_relays", "phx_join"])
      assert.strictEqual(connection.status().joins, 2)
    }))
})

describe("reconnect", () => {
  it.scoped("says goodbye and dials at once under the new key, replaying nothing (test 8)", () =>
    Effect.gen(function*() {
      const { connection, factory, portal } = yield* connect()
      portal.onFrame = () => undefined
      yield* waitFor("the join", () => portal.sessions[0]?.frames.length === 1)
      assert.isTrue(connection.unsafeSend({ _tag: "NoRelays" }))
      portal.onFrame = answerAll
      yield* connection.reconnect(otherKey)
      assert.isFalse(connection.unsafeSend({ _tag: "NoRelays" }))
      const { error, retryInMillis } = yield* expectEvent(connection, "Disconnected")
      assert.isTrue(error.requested)
      assert.strictEqual(retryInMillis, 0)
      yield* expectEvent(connection, "Connected")
      yield* waitFor("the goodbye", () => sessionOf(portal).closedWith === 1000)
      assert.strictEqual(
        sessionOf(portal, 1).url.searchParams.get("public_key"),
        Buffer.from(otherKey).toString("base64")
      )
      assert.deepStrictEqual(sessionOf(portal, 1).events(), ["phx_join"])
      yield* waitFor("the old socket to close", () => factory.open().length === 1)
    }))

  it.scoped("says no goodbye where the network has changed under the connection", () =>
    Effect.gen(function*() {
      const { connection, factory, portal } = yield* connect()
      yield* expectEvent(connection, "Connected")
      factory.stranded = true
      yield* connection.reconnect(otherKey)
      yield* expectEvent(connection, "Disconnected")
      yield* expectEvent(connection, "Connected")
      // What the double cannot help: the portal sees the connection break.
      yield* waitFor("the end of the old connection", () => sessionOf(portal).closedWith !== undefined)
      assert.strictEqual(sessionOf(portal).closedWith, 1006)
      assert.lengthOf(factory.open(), 1)
    }))

  it.scoped("does not wait for a portal that does not answer the goodbye", () =>
    Effect.gen(function*() {
      const { connection, portal } = yield* connect()
      yield* expectEvent(connection, "Connected")
      sessionOf(portal).webSocket.pause()
      yield* connection.reconnect(otherKey)
      yield* expectEvent(connection, "Disconnected")
      yield* expectEvent(connection, "Connected")
      assert.isUndefined(sessionOf(portal).closedWith)
    }))

  it.scoped("cuts a wait short and forgets the backoff", () =>
    Effect.gen(function*() {
      const { connection, portal } = yield* connect({ maxPartitionTime: Duration.seconds(3) })
      yield* expectEvent(connection, "Connected")
      sessionOf(portal).webSocket.close(1012)
      let { retryInMillis } = yield* expectEvent(connection, "Disconnected")
      assert.isBelow(retryInMillis, 1000)
      portal.onUpgrade = refuse(503)
      yield* passSleep(retryInMillis)
      retryInMillis = (yield* expectEvent(connection, "Disconnected")).retryInMillis
      assert.isAtLeast(retryInMillis, 750)
      yield* connection.reconnect(otherKey)
      retryInMillis = (yield* expectEvent(connection, "Disconnected")).retryInMillis
      assert.isBelow(retryInMillis, 1000)
      portal.onUpgrade = undefined
      yield* passSleep(retryInMillis)
      yield* expectEvent(connection, "Connected")
      assert.strictEqual(
        sessionOf(portal, 1).url.searchParams.get("public_key"),
        Buffer.from(otherKey).toString("base64")
      )
    }))

  it.scoped("keeps the key when the connection just broke (test 8)", () =>
    Effect.gen(function*() {
      const { connection, portal } = yield* connect()
      yield* expectEvent(connection, "Connected")
      sessionOf(portal).webSocket.terminate()
      const { error, retryInMillis } = yield* expectEvent(connection, "Disconnected")
      assert.isFalse(error.requested)
      yield* passSleep(retryInMillis)
      yield* expectEvent(connection, "Connected")
      assert.strictEqual(sessionOf(portal, 1).url.searchParams.get("public_key"), Buffer.from(key).toString("base64"))
    }))
})

describe("the end of the scope", () => {
  it.effect("closes with code 1000 and waits for it", () =>
    Effect.gen(function*() {
      const portal = yield* makeScriptedPortal()
      const factory = makeSocketFactoryDouble()
      const { open } = yield* Effect.provide(Portal, portalLayer(factory, undefined, onLoopback))
      const scope = yield* Scope.make()
      const connection = yield* Scope.extend(open(optionsFor("client", `ws://127.0.0.1:${portal.port}/`)), scope)
      yield* expectEvent(connection, "Connected")
      yield* Scope.close(scope, Exit.void)
      assert.deepStrictEqual(factory.open(), [])
      yield* waitFor("the goodbye", () => sessionOf(portal).closedWith !== undefined)
      assert.strictEqual(sessionOf(portal).closedWith, 1000)
      assert.isTrue(yield* Queue.isShutdown(connection.events))
      assert.isFalse(connection.unsafeSend({ _tag: "NoRelays" }))
    }).pipe(Effect.scoped))
})
