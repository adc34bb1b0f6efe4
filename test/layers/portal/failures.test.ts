/** What a network, an attacker or a portal that died can do wrong; refusals are in `refusals.test.ts`. */
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as HashMap from "effect/HashMap"
import * as Layer from "effect/Layer"
import * as Logger from "effect/Logger"
import * as LogLevel from "effect/LogLevel"
import * as Redacted from "effect/Redacted"
import * as Scope from "effect/Scope"
import * as TestClock from "effect/TestClock"
import type * as net from "node:net"
import { inspect } from "node:util"
import { SyscallError } from "../../../src/ffi/SyscallError.ts"
import { ip } from "../../../src/protocol/wire/address.ts"
import { HostUnresolved } from "../../../src/services/HostResolver.ts"
import { RoutingLoopPreventionFailed } from "../../../src/services/SocketFactory.ts"
import { makeSocketFactoryDouble } from "../../support/SocketFactoryDouble.ts"
import { root } from "./certificates.ts"
import {
  answerAll,
  cleanedToken,
  connect,
  expectEvent,
  makeRawServer,
  makeScriptedPortal,
  openTo,
  otherKey,
  passSleep,
  problem,
  refuse,
  type Resolve,
  type ScriptedPortal,
  type Session,
  sessionOf,
  token,
  waitFor
} from "./support.ts"

describe("a portal that is none", () => {
  const garbage: ReadonlyArray<readonly [string, (socket: net.Socket) => void, RegExp]> = [
    ["closes at once", (socket) => socket.end(), /upgrade/],
    ["resets at once", (socket) => socket.resetAndDestroy(), /upgrade|connect/],
    ["speaks something else", (socket) => socket.end("220 mail ready\r\n"), /HPE_/],
    ["sends headers without end", (socket) => flood(socket, "HTTP/1.1 200 OK\r\n", "X-Long: 0123456789\r\n"), /HPE_/],
    [
      "switches to something else",
      (socket) => socket.write("HTTP/1.1 101 Yes\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n\r\n"),
      /Invalid Upgrade header/
    ],
    ["accepts another key", (socket) =>
      socket.write(
        "HTTP/1.1 101 Yes\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: 2jmj7l5rSw0yVb/vlWAYkK/YBwk=\r\n\r\n"
      ), /Invalid Sec-WebSocket-Accept/]
  ]
  const flood = (socket: net.Socket, head: string, line: string): void => {
    const more = (): void => {
      if (!socket.destroyed) socket.write(line.repeat(1000), more)
    }
    socket.write(head, more)
  }
  for (const [what, behave, reason] of garbage) {
    it.scoped(what, () =>
      Effect.gen(function*() {
        const server = yield* makeRawServer((socket) => void socket.once("data", () => behave(socket)))
        const factory = makeSocketFactoryDouble()
        const connection = yield* openTo(`ws://127.0.0.1:${server.port}/`, factory)
        const { error } = yield* expectEvent(connection, "Disconnected")
        assert.match(error.reason, reason)
        assert.deepStrictEqual(factory.open(), [])
      }))
  }

  it.scoped("refuses the connection", () =>
    Effect.gen(function*() {
      const factory = makeSocketFactoryDouble()
      const connection = yield* openTo("ws://127.0.0.1:1/", factory)
      const { error } = yield* expectEvent(connection, "Disconnected")
      assert.strictEqual(error.reason, "cannot connect to the portal (ECONNREFUSED)")
    }))

  it.scoped("has no address", () =>
    Effect.gen(function*() {
      const resolve: Resolve = (host) => new HostUnresolved({ host, reason: "no DNS server is known" })
      const connection = yield* openTo("ws://portal.test/", makeSocketFactoryDouble(), {}, undefined, resolve)
      const { error } = yield* expectEvent(connection, "Disconnected")
      assert.strictEqual(error.reason, "no address for the portal: no DNS server is known")
    }))
})

describe("silence", () => {
  it.scoped("before TCP connects ends after 15 s", () =>
    Effect.gen(function*() {
      const factory = makeSocketFactoryDouble()
      factory.tcp = () => Effect.interruptible(Effect.never)
      const connection = yield* openTo("ws://127.0.0.1:1/", factory)
      yield* passSleep(15_000)
      const { error } = yield* expectEvent(connection, "Disconnected")
      assert.strictEqual(error.reason, "the portal did not let us in within 15 seconds")
    }))

  for (const scheme of ["ws", "wss"]) {
    it.scoped(`after TCP connected ends after 15 s (${scheme})`, () =>
      Effect.gen(function*() {
        const server = yield* makeRawServer((socket) => socket.resume())
        const factory = makeSocketFactoryDouble()
        const connection = yield* openTo(`${scheme}://127.0.0.1:${server.port}/`, factory)
        yield* waitFor("the client's first bytes", () => (server.sockets[0]?.bytesRead ?? 0) > 0)
        yield* passSleep(15_000)
        yield* expectEvent(connection, "Disconnected")
        assert.deepStrictEqual(factory.open(), [])
      }))
  }

  it.scoped("after TLS ends after 15 s", () =>
    Effect.gen(function*() {
      const portal = yield* makeScriptedPortal({ tls: true })
      portal.onUpgrade = () => undefined
      const factory = makeSocketFactoryDouble()
      const connection = yield* openTo(`wss://portal.test:${portal.port}/`, factory, {}, root)
      yield* waitFor("the request", () => portal.requests.length === 1)
      yield* passSleep(15_000)
      yield* expectEvent(connection, "Disconnected")
      assert.deepStrictEqual(factory.open(), [])
    }))

  it.scoped("instead of the join's answer ends after 5 s (test 7)", () =>
    Effect.gen(function*() {
      const { connection, portal } = yield* connect()
      portal.onFrame = () => undefined
      yield* waitFor("the join", () => portal.sessions[0]?.frames.length === 1)
      yield* passSleep(5000)
      const { error } = yield* expectEvent(connection, "Disconnected")
      assert.strictEqual(error.reason, "the portal did not answer the join within 5 s")
      yield* waitFor("the goodbye", () => sessionOf(portal).closedWith === 1000)
    }))
})

describe("the end of a connection", () => {
  const ends: ReadonlyArray<readonly [string, (session: Session) => void, RegExp]> = [
    ["phx_close", (session) => session.push("phx_close", {}), /closed the channel/],
    ["close code 1000", (session) => session.webSocket.close(1000), /code 1000/],
    ["close code 1012", (session) => session.webSocket.close(1012, "restart"), /code 1012/],
    ["a close without a code", (session) => session.webSocket.close(), /code 1005/],
    ["the connection just gone", (session) => session.webSocket.terminate(), /broke/],
    ["half a message", (session) => session.webSocket.send("{\"topic\":\"client\",\"event\":"), /half a message/],
    [
      "a message too large",
      (session) => session.webSocket.send("x".repeat((8 << 20) + 1)),
      /UNSUPPORTED_MESSAGE_LENGTH/
    ],
    [
      "text that is no UTF-8",
      (session) => session.webSocket.send(Uint8Array.of(0xc3, 0x28), { binary: false }),
      /UTF8/
    ],
    ["a frame that is none", (session) => rawSocket(session).write(Uint8Array.of(0xff, 0xff, 0xff)), /WS_ERR/],
    ["disconnect for another reason", (session) => {
      session.push("disconnect", { reason: "certificate_revoked" })
      session.push("phx_close", {})
    }, /ended the session \(certificate_revoked\)/]
  ]
  const rawSocket = (session: Session): net.Socket =>
    (session.webSocket as unknown as { readonly _socket: net.Socket })._socket
  for (const [what, end, reason] of ends) {
    it.scoped(`${what}: tried again (test 8)`, () =>
      Effect.gen(function*() {
        const { connection, factory, portal } = yield* connect()
        yield* expectEvent(connection, "Connected")
        end(sessionOf(portal))
        const { error, retryInMillis } = yield* expectEvent(connection, "Disconnected")
        assert.match(error.reason, reason)
        assert.isFalse(error.requested)
        assert.isTrue(retryInMillis >= 500 && retryInMillis <= 1000)
        yield* passSleep(retryInMillis)
        yield* expectEvent(connection, "Connected")
        yield* waitFor("the old socket to close", () => factory.open().length === 1)
      }))
  }

  it.scoped("token_expired is final (test 9)", () =>
    Effect.gen(function*() {
      const { connection, factory, portal } = yield* connect()
      yield* expectEvent(connection, "Connected")
      sessionOf(portal).push("disconnect", { reason: "token_expired" })
      const { error } = yield* expectEvent(connection, "Failed")
      assert.strictEqual(error._tag, "TokenRejected")
      yield* waitFor("the socket to close", () => factory.open().length === 0)
      yield* connection.reconnect(otherKey)
      yield* TestClock.adjust("1 hour")
      assert.strictEqual(portal.requests.length, 1)
      assert.isFalse(connection.unsafeSend({ _tag: "NoRelays" }))
    }))

  it.scoped("a refused join is final (spec 3.2)", () =>
    Effect.gen(function*() {
      const { connection, portal } = yield* connect()
      portal.onFrame = (session, frame) => session.reply(frame, "error", { reason: "disabled" })
      const { error } = yield* expectEvent(connection, "Failed")
      assert.strictEqual(error.message, "login to the portal failed: disabled")
    }))
})

describe("what cannot work is not tried", () => {
  it.scoped("a URL of another kind", () =>
    Effect.gen(function*() {
      const factory = makeSocketFactoryDouble()
      const { error } = yield* expectEvent(yield* openTo("ftp://127.0.0.1/", factory), "Failed")
      assert.strictEqual(error._tag, "LoginFailed")
      assert.deepStrictEqual(factory.dialled, [])
    }))

  it.scoped("a token that fits into no header", () =>
    Effect.gen(function*() {
      const factory = makeSocketFactoryDouble()
      const connection = yield* openTo("ws://127.0.0.1:1/", factory, { token: Redacted.make("sécret") })
      const { error } = yield* expectEvent(connection, "Failed")
      assert.strictEqual(error._tag, "TokenRejected")
      assert.notInclude(inspect(error), "cret")
      assert.deepStrictEqual(factory.dialled, [])
    }))

  it.scoped("sockets that would lead into the tunnel", () =>
    Effect.gen(function*() {
      const factory = makeSocketFactoryDouble()
      const cause = new SyscallError({ syscall: "setsockopt(SO_MARK)", code: 1, errno: "EPERM" })
      factory.tcp = () => new RoutingLoopPreventionFailed({ cause })
      const { error } = yield* expectEvent(yield* openTo("ws://127.0.0.1:1/", factory), "Failed")
      assert.strictEqual(
        error.message,
        "login to the portal failed: cannot keep our own packets out of the tunnel: setsockopt(SO_MARK): EPERM (1)"
      )
    }))
})

describe("TLS", () => {
  it.scoped("verifies the name under the trusted roots and sends it (SNI)", () =>
    Effect.gen(function*() {
      const portal = yield* makeScriptedPortal({ tls: true })
      const factory = makeSocketFactoryDouble()
      const connection = yield* openTo(`https://portal.test:${portal.port}/`, factory, {}, root)
      yield* expectEvent(connection, "Connected")
      assert.deepStrictEqual(portal.serverNames, ["portal.test"])
      assert.isTrue(connection.unsafeSend({ _tag: "NoRelays" }))
      yield* waitFor("the request", () => sessionOf(portal).events().includes("no_relays"))
    }))

  for (
    const [what, host, roots, reason] of [
      ["another name", "other.test", root, "ERR_TLS_CERT_ALTNAME_INVALID"],
      ["an address that the certificate does not name", "127.0.0.1", root, "ERR_TLS_CERT_ALTNAME_INVALID"],
      ["a root that nobody trusts", "portal.test", undefined, "UNABLE_TO_VERIFY_LEAF_SIGNATURE"]
    ] as const
  ) {
    it.scoped(`refuses ${what}`, () =>
      Effect.gen(function*() {
        const portal = yield* makeScriptedPortal({ tls: true })
        const factory = makeSocketFactoryDouble()
        const connection = yield* openTo(`wss://${host}:${portal.port}/`, factory, {}, roots)
        const { error } = yield* expectEvent(connection, "Disconnected")
        assert.strictEqual(error.reason, `no TLS connection to the portal (${reason})`)
        assert.deepStrictEqual(portal.requests, [])
        assert.deepStrictEqual(factory.open(), [])
      }))
  }

  it.scoped("is not spoken by a plain server", () =>
    Effect.gen(function*() {
      const portal = yield* makeScriptedPortal()
      const factory = makeSocketFactoryDouble()
      const connection = yield* openTo(`wss://portal.test:${portal.port}/`, factory, {}, root)
      const { error } = yield* expectEvent(connection, "Disconnected")
      assert.match(error.reason, /^no TLS connection to the portal/)
      assert.deepStrictEqual(factory.open(), [])
    }))
})

describe("interruption leaves no socket open", () => {
  const stages: ReadonlyArray<
    readonly [string, (portal: ScriptedPortal) => void, (portal: ScriptedPortal) => boolean]
  > = [
    ["in the upgrade", (portal) => (portal.onUpgrade = () => undefined), (portal) => portal.requests.length > 0],
    [
      "in the join",
      (portal) => (portal.onFrame = () => undefined),
      (portal) => (portal.sessions[0]?.frames.length ?? 0) > 0
    ],
    ["in the middle of messages", (portal) => (portal.onFrame = (session, frame) => {
      answerAll(session, frame)
      for (let count = 0; count < 1000; count++) {
        session.push("resource_deleted", "66666666-6666-4666-8666-666666666666")
      }
    }), (portal) => (portal.sessions[0]?.frames.length ?? 0) > 0]
  ]
  for (const [stage, script, reached] of stages) {
    for (const tls of [false, true]) {
      it.scoped(`${stage}${tls ? ", with TLS" : ""}`, () =>
        Effect.gen(function*() {
          const portal = yield* makeScriptedPortal({ tls })
          script(portal)
          const factory = makeSocketFactoryDouble()
          const scope = yield* Scope.make()
          const url = `${tls ? "wss" : "ws"}://portal.test:${portal.port}/`
          yield* Scope.extend(openTo(url, factory, {}, root), scope)
          yield* waitFor("the stage", () => reached(portal))
          yield* Scope.close(scope, Exit.void)
          assert.isAbove(factory.sockets.length, 0)
          assert.deepStrictEqual(factory.open(), [])
          if (portal.sessions.length === 0) return
          yield* waitFor("the goodbye", () => sessionOf(portal).closedWith !== undefined)
          assert.strictEqual(sessionOf(portal).closedWith, 1000)
          assert.deepStrictEqual(portal.errors, [])
        }))
    }
  }

  it.scoped("at any moment of connecting", () =>
    Effect.gen(function*() {
      const portal = yield* makeScriptedPortal({ tls: true })
      const factory = makeSocketFactoryDouble()
      for (let turns = 0; turns < 60; turns++) {
        const scope = yield* Scope.make()
        yield* Scope.extend(openTo(`wss://portal.test:${portal.port}/`, factory, {}, root), scope)
        for (let turn = 0; turn < turns; turn++) {
          yield* Effect.promise(() => new Promise<void>((resolve) => void setImmediate(resolve)))
        }
        yield* Scope.close(scope, Exit.void)
        assert.deepStrictEqual(factory.open(), [])
      }
      assert.isAbove(portal.sessions.length, 0) // the later ones got through
    }))
})

describe("what is logged", () => {
  it.scoped("never the token, even if the portal says it back", () =>
    Effect.gen(function*() {
      const lines: Array<string> = []
      const logger = Logger.make(({ annotations, cause, message }) => {
        lines.push(inspect([message, HashMap.toEntries(annotations), cause], { depth: 10 }))
      })
      const logging = Layer.merge(Logger.replace(Logger.defaultLogger, logger), Logger.minimumLogLevel(LogLevel.All))
      yield* Effect.gen(function*() {
        const portal = yield* makeScriptedPortal()
        const connection = yield* openTo(`ws://127.0.0.1:${portal.port}/`, makeSocketFactoryDouble())
        yield* expectEvent(connection, "Connected")
        const said = `no good: ${cleanedToken} ${encodeURIComponent(cleanedToken)}`
        sessionOf(portal).push(said, {})
        sessionOf(portal).push("config_changed", { [said]: said })
        sessionOf(portal).push("disconnect", { reason: said })
        sessionOf(portal).webSocket.close()
        const ended = yield* expectEvent(connection, "Disconnected")
        assert.include(ended.error.reason, "no good: [token]")
        portal.onUpgrade = refuse(
          403,
          { "Content-Type": "application/problem+json" },
          JSON.stringify({ detail: said, code: said })
        )
        yield* passSleep(ended.retryInMillis)
        const refused = yield* expectEvent(connection, "Disconnected")
        assert.include(refused.error.reason, "403: no good: [token]")
        portal.onUpgrade = undefined
        portal.onFrame = (session, frame) => session.reply(frame, "error", { reason: said })
        yield* passSleep(refused.retryInMillis)
        const failed = yield* expectEvent(connection, "Failed")
        assert.include(failed.error.message, "no good: [token]")
        const everything = inspect([lines, ended, refused, failed, connection.status()], { depth: 20 })
        assert.include(everything, "the portal ends the session")
        assert.notInclude(everything, cleanedToken)
        assert.notInclude(everything, encodeURIComponent(cleanedToken))
      }).pipe(Effect.provide(logging))
    }))

  it.scoped("never the token, and above DEBUG no host and no address", () =>
    Effect.gen(function*() {
      const lines: Array<{ readonly level: LogLevel.LogLevel; readonly text: string }> = []
      const logger = Logger.make(({ annotations, cause, logLevel, message }) => {
        lines.push({ level: logLevel, text: inspect([message, HashMap.toEntries(annotations), cause], { depth: 10 }) })
      })
      const logging = Layer.merge(Logger.replace(Logger.defaultLogger, logger), Logger.minimumLogLevel(LogLevel.All))
      yield* Effect.gen(function*() {
        const portal = yield* makeScriptedPortal()
        const factory = makeSocketFactoryDouble()
        const resolve: Resolve = () => Effect.succeed([ip("127.0.0.1"), ip("::1")])
        const connection = yield* openTo(`ws://portal.test:${portal.port}/`, factory, {}, undefined, resolve)
        yield* expectEvent(connection, "Connected")
        const session = sessionOf(portal)
        session.push("init", { interface: 1 })
        session.push("relays_presence", { connected: [{ addr: "secret.customer.example:1" }] })
        yield* expectEvent(connection, "Message")
        session.webSocket.send("x".repeat((8 << 20) + 1))
        const failures = [yield* expectEvent(connection, "Disconnected")]
        for (const answer of [problem(503, "rate_limit"), refuse(101)]) {
          portal.onUpgrade = answer
          yield* passSleep(failures.at(-1)?.retryInMillis ?? 0)
          failures.push(yield* expectEvent(connection, "Disconnected"))
        }
        portal.onUpgrade = problem(401, "invalid_token")
        yield* passSleep(failures.at(-1)?.retryInMillis ?? 0)
        const failed = yield* expectEvent(connection, "Failed")
        const everything = inspect([lines, failures, failed, connection], { depth: 20 })
        assert.notInclude(everything, cleanedToken)
        assert.notInclude(everything, token.trim())
        assert.notInclude(everything, ".nonce")
        assert.isAbove(lines.filter(({ level }) => level === LogLevel.Debug).length, 0)
        assert.include(everything, "127.0.0.1") // so that the next check means something
        for (const { text } of lines.filter(({ level }) => LogLevel.greaterThan(level, LogLevel.Debug))) {
          assert.notMatch(text, /127\.0\.0\.1|::1|portal\.test|customer/)
        }
      }).pipe(Effect.provide(logging))
    }))
})
