/** The control socket, asked by our own client and by others that behave badly. */
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as Layer from "effect/Layer"
import * as Logger from "effect/Logger"
import * as LogLevel from "effect/LogLevel"
import * as Schema from "effect/Schema"
import * as Stream from "effect/Stream"
import { spawn, spawnSync } from "node:child_process"
import { once } from "node:events"
import * as fs from "node:fs"
import * as net from "node:net"
import * as os from "node:os"
import * as path from "node:path"
import { afterAll } from "vitest"
import * as ControlClientSocket from "../../../src/layers/control/ControlClientSocket.ts"
import * as ControlServerHost from "../../../src/layers/control/ControlServerHost.ts"
import { MAX_CONNECTIONS } from "../../../src/layers/control/ControlServerUnix.ts"
import { ControlResponse, MAX_REQUEST_BYTES } from "../../../src/model/control.ts"
import { ClientConfig } from "../../../src/services/ClientConfig.ts"
import { ControlClient } from "../../../src/services/ControlClient.ts"
import { ControlServer } from "../../../src/services/ControlServer.ts"
import { makeRouteCacheDouble } from "../../support/RouteCacheDouble.ts"
import { settings } from "../../support/settings.ts"
import { makeTunnelDouble, type TunnelDouble, tunnelStatus } from "../../support/TunnelDouble.ts"
import { waitFor } from "../../support/waitFor.ts"

const folder = fs.mkdtempSync(path.join(os.tmpdir(), "fz-control-"))
// Other users must come as far as the socket.
fs.chmodSync(folder, 0o755)
afterAll(() => fs.rmSync(folder, { recursive: true }))
let sockets = 0
const newSocket = (): string => path.join(folder, `run-${sockets++}`, "control.sock")

const layerOf = (controlSocket: string, platform: NodeJS.Platform = "linux") =>
  Layer.merge(ControlServerHost.layerFor(platform), ControlClientSocket.layerFor(platform)).pipe(
    Layer.provide([makeRouteCacheDouble().layer, Layer.succeed(ClientConfig, settings({ controlSocket }))])
  )

const serve = (tunnel: TunnelDouble) => Effect.flatMap(ControlServer, (server) => server.serve(tunnel.session))

/** A session that is served on a socket of its own until the body ends. */
const serving = (body: (tunnel: TunnelDouble, socket: string) => Effect.Effect<void, unknown, ControlClient>) => {
  const socket = newSocket()
  return Effect.gen(function*() {
    const tunnel = yield* makeTunnelDouble
    yield* Effect.scoped(Effect.zipRight(serve(tunnel), body(tunnel, socket)))
  }).pipe(Effect.provide(layerOf(socket)))
}

/** What `serve` fails with on a socket. */
const refusedAt = (socket: string, platform?: NodeJS.Platform) =>
  Effect.flatMap(makeTunnelDouble, (tunnel) => Effect.flip(Effect.scoped(serve(tunnel)))).pipe(
    Effect.provide(layerOf(socket, platform))
  )

const connect = (socket: string) =>
  Effect.promise(async () => {
    const connection = net.connect({ path: socket, allowHalfOpen: true })
    connection.on("error", () => undefined)
    await once(connection, "connect")
    return connection
  })

/** All that comes back until the server closes. */
const readAll = (connection: net.Socket): Effect.Effect<string> =>
  Effect.promise(async () => {
    let text = ""
    connection.setEncoding("utf8").on("data", (part: string) => (text += part)).once("end", () => connection.destroy())
    connection.resume()
    if (!connection.closed) await once(connection, "close")
    return text
  })

const decode = Schema.decodeUnknownSync(Schema.parseJson(ControlResponse))
const exchange = (socket: string, request: string) =>
  Effect.gen(function*() {
    const connection = yield* connect(socket)
    connection.end(request)
    return decode(yield* readAll(connection))
  })
const kind = (response: ControlResponse): string => response.type === "error" ? response.code : response.type
const request = (name: string): string => `${JSON.stringify({ version: 1, request: name })}\n`

const statusWorks = Effect.gen(function*() {
  const { signedIn } = yield* (yield* ControlClient).status
  assert.isTrue(signedIn)
})

describe("control socket", () => {
  it.live("tells the status as it is now, in the documented shape", () =>
    serving((tunnel) =>
      Effect.gen(function*() {
        const client = yield* ControlClient
        const { client: process_, ...report } = yield* client.status
        assert.strictEqual(process_.pid, process.pid)
        const { peers: _, relays: _relays, ...status } = tunnelStatus()
        assert.deepEqual(report, {
          ...status,
          version: 1,
          signedIn: true,
          portal: { url: "ws://127.0.0.1:8081/", state: "connected" },
          relays: [{
            id: "99999999-9999-4999-8999-999999999999",
            addresses: ["192.0.2.9:3478", "[2001:db8::9]:3478"],
            rttMillis: 4.5
          }],
          peers: [{
            id: "77777777-7777-4777-8777-777777777777",
            kind: "gateway",
            state: "connected",
            path: {
              kind: "relayed-by-us",
              local: "192.0.2.9:49999",
              remote: "[2001:db8::9]:52625",
              relay: "99999999-9999-4999-8999-999999999999"
            },
            rttMillis: 12.34,
            handshakeAgeMillis: 61_500,
            bytesSent: 1500,
            bytesReceived: 2_500_000
          }]
        })
        tunnel.status = tunnelStatus({ portal: { state: "disconnected", lastError: "no route" }, interface: undefined })
        const later = yield* client.status
        assert.isFalse(later.signedIn)
        assert.strictEqual(later.portal.lastError, "no route")
        assert.isUndefined(later.interface)
      })
    ))

  it.live("tells it again to whoever watches, until the client ends", () => {
    const socket = newSocket()
    return Effect.gen(function*() {
      const tunnel = yield* makeTunnelDouble
      const seen: Array<boolean> = []
      const watching = yield* Effect.scoped(Effect.gen(function*() {
        yield* serve(tunnel)
        const { statuses } = yield* ControlClient
        const fiber = yield* Effect.forkDaemon(
          Effect.flip(Stream.runForEach(statuses, ({ signedIn }) => Effect.sync(() => void seen.push(signedIn))))
        )
        yield* waitFor("a status", () => seen.length > 0)
        tunnel.status = tunnelStatus({ portal: { state: "disconnected" } })
        yield* waitFor("the next one", () => seen.includes(false))
        return fiber
      }))
      assert.isTrue(seen[0])
      assert.strictEqual((yield* Fiber.join(watching))._tag, "ClientStopped")
    }).pipe(Effect.provide(layerOf(socket)))
  })

  it.live("starts over, and lists routes, when asked by hand", () =>
    serving((tunnel, socket) =>
      Effect.gen(function*() {
        assert.deepStrictEqual(yield* exchange(socket, request("reset")), { version: 1, type: "reset" })
        assert.deepStrictEqual(tunnel.resets, ["control socket"])
        assert.deepStrictEqual(yield* exchange(socket, request("routes")), { version: 1, type: "routes", routes: [] })
      })
    ))

  it.live("is for its owner alone, in a folder that others may look into, and goes with the client", () =>
    Effect.gen(function*() {
      const socket = newSocket()
      yield* Effect.flatMap(makeTunnelDouble, (tunnel) =>
        Effect.scoped(Effect.gen(function*() {
          yield* serve(tunnel)
          assert.strictEqual(fs.statSync(socket).mode & 0o777, 0o600)
          assert.strictEqual(fs.statSync(path.dirname(socket)).mode & 0o777, 0o755)
        }))).pipe(Effect.provide(layerOf(socket)))
      assert.isFalse(fs.existsSync(path.dirname(socket)))
      assert.isTrue(fs.existsSync(folder), "was there before")
    }))

  it.live("replaces what a killed client left", () => {
    const socket = newSocket()
    fs.mkdirSync(path.dirname(socket))
    // Ends without closing its server.
    const code =
      `require("node:net").createServer().listen(process.argv[1], () => process.kill(process.pid, "SIGKILL"))`
    spawnSync(process.execPath, ["-e", code, socket])
    assert.isTrue(fs.statSync(socket).isSocket())
    return Effect.flatMap(makeTunnelDouble, (tunnel) => Effect.scoped(Effect.zipRight(serve(tunnel), statusWorks)))
      .pipe(
        Effect.provide(layerOf(socket)),
        Effect.tap(() => assert.isTrue(fs.existsSync(path.dirname(socket)), "was there before"))
      )
  })

  it.live("leaves a living client's socket alone, and whatever else there is", () =>
    serving((_tunnel, socket) =>
      Effect.gen(function*() {
        assert.strictEqual((yield* refusedAt(socket))._tag, "ControlSocketTaken")
        yield* statusWorks
        const file = newSocket()
        fs.mkdirSync(path.dirname(file))
        fs.writeFileSync(file, "precious")
        assert.strictEqual((yield* refusedAt(file))._tag, "ControlUnavailable")
        assert.strictEqual(fs.readFileSync(file, "utf8"), "precious")
        assert.strictEqual((yield* refusedAt(path.join(file, "in-a-file.sock")))._tag, "ControlUnavailable")
        assert.include((yield* refusedAt(path.join(folder, "x".repeat(108)))).message, "107 bytes")
      })
    ))

  it.live("says on other systems that it is not supported there", () =>
    Effect.gen(function*() {
      const socket = "\\\\.\\pipe\\firezone"
      assert.strictEqual((yield* refusedAt(socket, "win32"))._tag, "UnsupportedPlatform")
      const { status } = yield* Effect.provide(ControlClient, layerOf(socket, "win32"))
      assert.strictEqual((yield* Effect.flip(status))._tag, "UnsupportedPlatform")
    }))

  it.live("is missed where no client runs", () =>
    Effect.gen(function*() {
      for (const socket of [newSocket(), path.join("/dev/null", "x.sock")]) {
        const { status } = yield* Effect.provide(ControlClient, layerOf(socket))
        const error = yield* Effect.flip(status)
        assert.strictEqual(error._tag, "ClientNotRunning")
        assert.include(error.message, socket)
      }
    }))
})

describe("control socket, asked badly", () => {
  it.live("answers nonsense with a reason", () =>
    serving((_tunnel, socket) =>
      Effect.gen(function*() {
        const cases: ReadonlyArray<readonly [string, string]> = [
          ["\n", "bad-request"],
          ["null\n", "bad-request"],
          ["{\"version\":1}\n", "bad-request"],
          ["{\"version\":1,\"request\":\"__proto__\"}\n", "bad-request"],
          ["{\"version\":2,\"request\":\"new-thing\"}\n", "unsupported-version"],
          ["GET / HTTP/1.1\r\n\r\n", "bad-request"],
          ["\0\xff\n", "bad-request"],
          ["x".repeat(MAX_REQUEST_BYTES), "bad-request"],
          ["x".repeat(1_000_000), "bad-request"],
          [request("status") + request("reset"), "status"]
        ]
        for (const [text, expected] of cases) {
          assert.strictEqual(kind(yield* exchange(socket, text)), expected, text.slice(0, 50))
        }
        yield* statusWorks
      })
    ))

  it.live("takes a request in pieces, and forgets who leaves in the middle of one", () =>
    serving((_tunnel, socket) =>
      Effect.gen(function*() {
        const slow = yield* connect(socket)
        for (const byte of request("status")) {
          slow.write(byte)
          yield* Effect.sleep(1)
        }
        assert.strictEqual(kind(decode(yield* readAll(slow))), "status")
        const half = yield* connect(socket)
        half.end("{\"version\"")
        assert.strictEqual(yield* readAll(half), "")
        for (let i = 0; i < 3 * MAX_CONNECTIONS; i++) (yield* connect(socket)).destroy()
        yield* Effect.retry(statusWorks, { times: 100 })
      })
    ))

  it.live(
    "serves a few at once, sends the rest away, and comes back when they have gone",
    () =>
      serving((_tunnel, socket) =>
        Effect.gen(function*() {
          const client = yield* ControlClient
          const idle: Array<net.Socket> = []
          for (let i = 0; i < 1000; i++) idle.push(yield* connect(socket))
          const error = yield* Effect.flip(client.status)
          assert.strictEqual(error._tag, "ControlFailed")
          yield* waitFor(
            "the rest to be sent away",
            () =>
              idle.filter((connection) => connection.resume().destroyed || connection.readableEnded).length >=
                1000 - MAX_CONNECTIONS
          )
          for (const connection of idle) connection.destroy()
          yield* Effect.retry(statusWorks, { times: 1000 })
        })
      ),
    20_000
  )

  it.live(
    "gives up on whoever reads nothing, or says nothing",
    () =>
      serving((tunnel, socket) =>
        Effect.gen(function*() {
          // More than any socket buffer holds.
          const resource = tunnelStatus().resources[0]
          tunnel.status = tunnelStatus({
            resources: Array.from({ length: 10_000 }, (_, i) => ({ ...resource!, id: `${i}`, name: "n".repeat(200) }))
          })
          const began = performance.now()
          const deaf = yield* connect(socket)
          deaf.pause().write(request("watch"))
          // So that the other one is given up before this one.
          yield* Effect.sleep("1 second")
          const mute = yield* connect(socket)
          assert.strictEqual(yield* readAll(mute), "")
          const millis = performance.now() - began
          assert.isTrue(millis > 5000 && millis < 10_000, `sent away after ${millis} ms`)
          // What the kernel held is all that it gets.
          const got = yield* readAll(deaf)
          assert.isBelow(got.length, 3_000_000)
          assert.isBelow(got.indexOf("\n"), 0)
          const { resources } = yield* (yield* ControlClient).status
          assert.lengthOf(resources, 10_000)
        })
      ),
    20_000
  )

  it.live("survives a session whose status fails", () =>
    serving((tunnel, socket) =>
      Effect.gen(function*() {
        const good = tunnel.status
        tunnel.status = undefined as never
        const connection = yield* connect(socket)
        connection.write(request("status"))
        assert.strictEqual(yield* readAll(connection), "")
        tunnel.status = good
        yield* statusWorks
      })
    ).pipe(Effect.provide(Logger.minimumLogLevel(LogLevel.None))))

  it.live.skipIf(process.getuid?.() !== 0)(
    "refuses other users, even if somebody opens the socket to them [needs root]",
    () =>
      serving((_tunnel, socket) =>
        Effect.gen(function*() {
          const ask = `
const s = require("node:net").connect(process.argv[1], () => s.write('${request("status").trim()}\\n'))
s.on("data", (d) => process.stdout.write(d)).on("error", (e) => console.log(e.code))`
          const asNobody = () =>
            Effect.promise(async () => {
              const child = spawn("setpriv", [
                "--reuid=65534",
                "--regid=65534",
                "--clear-groups",
                process.execPath,
                "-e",
                ask,
                socket
              ])
              let text = ""
              child.stdout.setEncoding("utf8").on("data", (part: string) => (text += part))
              await once(child, "close")
              return text
            })
          assert.strictEqual(yield* asNobody(), "EACCES\n")
          const { status } = yield* ControlClient
          process.seteuid?.(65534)
          const refused = yield* Effect.ensuring(Effect.flip(status), Effect.sync(() => process.seteuid?.(0)))
          assert.strictEqual(refused._tag, "ControlNotPermitted")
          fs.chmodSync(socket, 0o666)
          assert.strictEqual(kind(decode(yield* asNobody())), "not-permitted")
          yield* statusWorks
        })
      ),
    20_000
  )
})
