/** Upgrades that the portal refuses, and for how long it is asked again. */
import { assert, describe, it } from "@effect/vitest"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Queue from "effect/Queue"
import * as TestClock from "effect/TestClock"
import { makeSocketFactoryDouble } from "../../support/SocketFactoryDouble.ts"
import { connect, expectEvent, openTo, passSleep, problem, refuse, sessionOf, waitFor } from "./support.ts"

describe("refused upgrades (spec 2.5, test 4)", () => {
  for (
    const [status, code] of [
      [301, undefined],
      [400, "invalid_connect_params"],
      [400, undefined],
      [402, "limits_exceeded"],
      [403, "device_untrusted"],
      [403, "account_disabled"],
      [408, undefined],
      [409, "gateway_already_connected"],
      [429, undefined],
      [500, "unhandled_connect_error"],
      [503, "rate_limit"]
    ] as const
  ) {
    it.scoped(`${status} ${code ?? "without a code"} is tried again`, () =>
      Effect.gen(function*() {
        const { connection, factory, portal } = yield* connect()
        portal.onUpgrade = code === undefined ? refuse(status, { Location: "/elsewhere" }) : problem(status, code)
        const { error, retryInMillis } = yield* expectEvent(connection, "Disconnected")
        assert.strictEqual(
          error.reason,
          `the portal answered with HTTP status ${status}${code === undefined ? "" : `: For a reason (${code})`}`
        )
        assert.strictEqual(retryInMillis, 1000)
        assert.deepStrictEqual(factory.open(), [])
        assert.strictEqual(portal.requests.length, 1)
        portal.onUpgrade = undefined
        yield* passSleep(1000)
        yield* expectEvent(connection, "Connected")
      }))
  }

  for (
    const [what, answer, tag, detail] of [
      ["invalid_token", problem(401, "invalid_token"), "TokenRejected", "For a reason"],
      ["missing_token", problem(401, "missing_token"), "TokenRejected", "For a reason"],
      ["another code", problem(401, "no_idea"), "AuthenticationFailed", "For a reason"],
      ["no code", problem(401), "AuthenticationFailed", "For a reason"],
      ["a page", refuse(401, { "Content-Type": "text/html" }, "<p>no"), "AuthenticationFailed", "no reason provided"],
      ["nothing", refuse(401), "AuthenticationFailed", "no reason provided"]
    ] as const
  ) {
    it.scoped(`401 with ${what} is final`, () =>
      Effect.gen(function*() {
        const { connection, factory, portal } = yield* connect()
        portal.onUpgrade = answer
        const { error } = yield* expectEvent(connection, "Failed")
        assert.strictEqual(error._tag, tag)
        assert.deepInclude(error, { detail })
        assert.deepInclude(connection.status(), { state: "failed", lastError: error.message, joins: 0 })
        assert.deepStrictEqual(factory.open(), [])
        yield* TestClock.adjust("1 hour")
        assert.strictEqual(portal.requests.length, 1)
      }))
  }

  it.scoped("404 on both endpoints is tried again, from v2", () =>
    Effect.gen(function*() {
      const { connection, portal } = yield* connect()
      portal.onUpgrade = refuse(404)
      yield* expectEvent(connection, "Disconnected")
      portal.onUpgrade = undefined
      yield* passSleep(1000)
      yield* expectEvent(connection, "Connected")
      assert.deepStrictEqual(portal.requests.map((url) => url.split("?")[0]), [
        "/client/v2/websocket",
        "/client/websocket",
        "/client/v2/websocket"
      ])
    }))

  for (
    const [value, millis] of [
      ["7", 7000],
      ["Thu, 01 Jan 1970 00:00:09 GMT", 9000],
      ["Thu, 01 Jan 1970 00:00:00 GMT", 500],
      ["0", 500],
      ["99999999", 3_600_000],
      ["-1", 1000],
      ["soon", 1000]
    ] as const
  ) {
    it.scoped(`Retry-After: ${value} gives ${millis} ms`, () =>
      Effect.gen(function*() {
        const { connection, portal } = yield* connect()
        portal.onUpgrade = refuse(503, { "Retry-After": value })
        const { retryInMillis } = yield* expectEvent(connection, "Disconnected")
        assert.strictEqual(retryInMillis, millis)
      }))
  }

  it.scoped("Retry-After costs no budget", () =>
    Effect.gen(function*() {
      const { connection, portal } = yield* connect()
      portal.onUpgrade = refuse(503, { "Retry-After": "1" })
      for (let attempts = 0; attempts < 20; attempts++) {
        yield* expectEvent(connection, "Disconnected")
        yield* passSleep(1000)
      }
      portal.onUpgrade = undefined
      for (let joined = false; !joined;) {
        const event = yield* Queue.take(connection.events)
        joined = event._tag === "Connected"
        if (event._tag === "Disconnected") yield* passSleep(1000)
      }
    }))

  it.scoped("a body without end counts for what came of it", () =>
    Effect.gen(function*() {
      const { connection, factory, portal } = yield* connect()
      portal.onUpgrade = (socket) => {
        socket.write("HTTP/1.1 401 No\r\nContent-Type: application/problem+json\r\nTransfer-Encoding: chunked\r\n\r\n")
        socket.write("2\r\n{}\r\n")
      }
      yield* waitFor("the request", () => portal.requests.length === 1)
      yield* passSleep(2000)
      const { error } = yield* expectEvent(connection, "Failed")
      assert.strictEqual(error._tag, "AuthenticationFailed")
      assert.deepStrictEqual(factory.open(), [])
    }))

  it.scoped("a body too large is not read to its end", () =>
    Effect.gen(function*() {
      const { connection, factory, portal } = yield* connect()
      portal.onUpgrade = (socket) => {
        socket.write("HTTP/1.1 503 No\r\nContent-Length: 1000000000\r\n\r\n")
        const more = (): void => {
          if (!socket.destroyed) socket.write("x".repeat(65_536), more)
        }
        more()
      }
      yield* expectEvent(connection, "Disconnected")
      assert.deepStrictEqual(factory.open(), [])
      assert.isBelow(factory.sockets[0]?.bytesRead ?? Infinity, 4 << 20)
    }))
})

describe("the budget (spec 4, test 5)", () => {
  it.scoped("is 15 delays of 1 s before the first join", () =>
    Effect.gen(function*() {
      const factory = makeSocketFactoryDouble()
      const connection = yield* openTo("ws://127.0.0.1:1/", factory, { maxPartitionTime: Duration.days(1) })
      for (let attempts = 0; attempts < 15; attempts++) {
        const { retryInMillis } = yield* expectEvent(connection, "Disconnected")
        assert.strictEqual(retryInMillis, 1000)
        yield* passSleep(1000)
      }
      const { error } = yield* expectEvent(connection, "Failed")
      assert.strictEqual(
        error.message,
        "no connection to the portal at 127.0.0.1:1 after retrying for 15 s: cannot connect to the portal (ECONNREFUSED); "
          + "check the network, and that FIREZONE_API_URL is right"
      )
      assert.strictEqual(factory.dialled.length, 16)
    }))

  it.scoped("is what the options say after a join, with growing delays", () =>
    Effect.gen(function*() {
      const { connection, portal } = yield* connect({ maxPartitionTime: Duration.seconds(20) })
      yield* expectEvent(connection, "Connected")
      portal.onUpgrade = refuse(500)
      sessionOf(portal).webSocket.close(1012)
      let total = 0
      for (let base = 500;; base *= 1.5) {
        const event = yield* Queue.take(connection.events)
        if (event._tag === "Failed") {
          assert.deepInclude(event.error, { _tag: "RetriesExhausted", budgetMillis: 20_000 })
          assert.isAbove(total + 2 * base, 20_000)
          break
        }
        assert.strictEqual(event._tag, "Disconnected")
        const { retryInMillis } = event as Extract<typeof event, { readonly _tag: "Disconnected" }>
        assert.isTrue(retryInMillis >= Math.floor(base) && retryInMillis <= Math.ceil(2 * base), String(retryInMillis))
        total += retryInMillis
        assert.isAtMost(total, 20_003)
        yield* passSleep(retryInMillis)
      }
    }))

  it.scoped("does not end without a limit", () =>
    Effect.gen(function*() {
      const { connection, portal } = yield* connect()
      yield* expectEvent(connection, "Connected")
      portal.onUpgrade = refuse(500)
      sessionOf(portal).webSocket.close(1012)
      for (let attempts = 0; attempts < 30; attempts++) {
        const { retryInMillis } = yield* expectEvent(connection, "Disconnected")
        assert.isAtMost(retryInMillis, 120_000)
        yield* passSleep(retryInMillis)
      }
    }))
})
