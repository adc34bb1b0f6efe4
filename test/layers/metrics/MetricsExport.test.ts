/** The whole of the export, over real sockets. */
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Layer from "effect/Layer"
import * as Logger from "effect/Logger"
import * as Scope from "effect/Scope"
import * as TestClock from "effect/TestClock"
import * as fs from "node:fs"
import * as http from "node:http"
import * as net from "node:net"
import * as os from "node:os"
import * as path from "node:path"
import * as MetricsExportHost from "../../../src/layers/metrics/MetricsExportHost.ts"
import { MAX_CONNECTIONS } from "../../../src/layers/metrics/MetricsServer.ts"
import { ClientConfig, type ClientSettings } from "../../../src/services/ClientConfig.ts"
import { type MetricsAddress, MetricsExport } from "../../../src/services/MetricsExport.ts"
import { settings } from "../../support/settings.ts"
import { tunnelStatus } from "../../support/TunnelDouble.ts"
import { waitFor } from "../../support/waitFor.ts"
import { parseExposition } from "./exposition.ts"
import { decodeExport, type Exported } from "./otlpReader.ts"

interface Running {
  readonly log: Array<string>
  readonly stop: () => Promise<void>
}

const start = async (
  changes: Partial<ClientSettings>,
  environment: NodeJS.ProcessEnv = {},
  status = Effect.sync(() => tunnelStatus())
): Promise<Running> => {
  const log: Array<string> = []
  const scope = Effect.runSync(Scope.make())
  const logger = Logger.make(({ logLevel, message }) => void log.push(`${logLevel.label} ${String(message)}`))
  await Effect.runPromise(
    Effect.flatMap(MetricsExport, (metrics) => metrics.run({ status })).pipe(
      Effect.provide(MetricsExportHost.layer(environment)),
      Effect.provide(Layer.succeed(ClientConfig, settings(changes))),
      Effect.provide(Logger.replace(Logger.defaultLogger, logger)),
      Scope.extend(scope)
    )
  )
  return { log, stop: () => Effect.runPromise(Scope.close(scope, Exit.void)) }
}

/** In a folder of its own, gone afterwards. */
const withSocket = async (body: (socket: string, address: MetricsAddress) => Promise<void>): Promise<void> => {
  const folder = fs.mkdtempSync(path.join(os.tmpdir(), "fz-metrics-"))
  const socket = path.join(folder, "metrics.sock")
  try {
    await body(socket, { _tag: "Unix", path: socket })
  } finally {
    fs.rmSync(folder, { recursive: true, force: true })
  }
}
const withServer = (body: (socket: string, running: Running) => Promise<void>, status?: typeof okStatus) =>
  withSocket(async (socket, metricsAddress) => {
    const running = await start({ metricsAddress }, {}, status)
    try {
      await Effect.runPromise(waitFor("the socket", () => running.log.some((line) => line.includes("are shown"))))
      await body(socket, running)
    } finally {
      await running.stop()
    }
  })
const okStatus = Effect.sync(() => tunnelStatus())

interface Answer {
  readonly status: number | undefined
  readonly headers: http.IncomingHttpHeaders
  readonly body: string
}
const ask = (socketPath: string, options: http.RequestOptions = {}): Promise<Answer> =>
  new Promise((resolve, reject) => {
    const request = http.request({ socketPath, path: "/metrics", agent: false, ...options }, (response) => {
      let body = ""
      response.setEncoding("utf8").on("data", (part) => (body += part))
      response.on("end", () => resolve({ status: response.statusCode, headers: response.headers, body }))
    })
    request.on("error", reject).end()
  })
const open = (socket: string): net.Socket => net.connect(socket).on("error", () => undefined)
const closed = (socket: net.Socket): Promise<void> =>
  new Promise((resolve) => {
    socket.once("close", () => resolve()).resume()
  })

describe("metrics for Prometheus", () => {
  it("are text that keeps to the format, for GET and HEAD, and nothing else is there", () =>
    withServer(async (socket) => {
      const { body, headers, status } = await ask(socket)
      assert.deepStrictEqual([status, headers["content-type"]], [200, "text/plain; version=0.0.4; charset=utf-8"])
      const families = parseExposition(body)
      assert.strictEqual(
        families.get("firezone_tun_read_bytes_total")?.samples.get("firezone_tun_read_bytes_total"),
        1400
      )
      const head = await ask(socket, { method: "HEAD" })
      assert.deepStrictEqual([head.status, head.body], [200, ""])
      const others = [{ method: "POST" }, { method: "DELETE" }, { path: "/" }, { path: "/metrics/x" }, { path: "//" }]
      assert.deepStrictEqual(await Promise.all(others.map(async (each) => (await ask(socket, each)).status)), [
        405,
        405,
        404,
        404,
        404
      ])
      assert.strictEqual((await ask(socket, { path: "/metrics?x=1" })).status, 200)
    }))

  it("are read once for all who ask within a second", async () => {
    let read = 0
    await withServer(
      async (socket) => {
        await Promise.all(Array.from({ length: 10 }, () => ask(socket)))
        assert.isBelow(read, 10)
      },
      Effect.sync(() => {
        read += 1
        return tunnelStatus()
      })
    )
  })

  it("fail alone when there is a bug in the figures", () =>
    withServer(
      async (socket, { log }) => {
        assert.strictEqual((await ask(socket)).status, 500)
        assert.include(log.join("\n"), "a request for metrics failed")
        assert.strictEqual((await ask(socket, { path: "/" })).status, 404)
      },
      Effect.dieMessage("a bug")
    ))

  it("are on a socket for owner and group, which replaces one that a killed client has left", () =>
    withSocket(async (socket, metricsAddress) => {
      // Bound, and its listener gone without removing it, as after `kill -9`.
      const dead = net.createServer()
      await new Promise<void>((resolve) => dead.listen(`${socket}.dead`, resolve))
      fs.renameSync(`${socket}.dead`, socket)
      await new Promise((resolve) => dead.close(resolve))
      assert.isTrue(fs.lstatSync(socket).isSocket())
      const umask = process.umask()
      const running = await start({ metricsAddress })
      await Effect.runPromise(waitFor("the socket", () => running.log.some((line) => line.includes("are shown"))))
      assert.strictEqual(fs.statSync(socket).mode & 0o777, 0o660)
      assert.strictEqual(process.umask(), umask)
      assert.strictEqual((await ask(socket)).status, 200)
      await running.stop()
      assert.isFalse(fs.existsSync(socket))
    }))

  it.each([
    ["a file", (socket: string) => fs.writeFileSync(socket, "kept"), "something else of this name"],
    ["a folder that is missing", (socket: string) => fs.rmdirSync(path.dirname(socket)), "its folder is not there"]
  ])(
    "do not take the place of %s; the client goes on",
    (_, prepare, why) =>
      withSocket(async (socket, metricsAddress) => {
        prepare(socket)
        const running = await start({ metricsAddress })
        await Effect.runPromise(waitFor("a warning", () => running.log.length > 0))
        assert.match(running.log.join("\n"), new RegExp(`WARN cannot show metrics on unix:.*${why}.*tried again`))
        await running.stop()
        fs.mkdirSync(path.dirname(socket), { recursive: true })
      })
  )

  it("leave an address alone that is in use, and say so once", async () => {
    const other = net.createServer()
    await new Promise<void>((resolve) => other.listen(0, "127.0.0.1", resolve))
    const { port } = other.address() as net.AddressInfo
    const running = await start({ metricsAddress: { _tag: "Tcp", host: "127.0.0.1", port } })
    try {
      await Effect.runPromise(waitFor("a warning", () => running.log.length > 0))
      assert.match(running.log.join("\n"), new RegExp(`WARN cannot show metrics on 127.0.0.1:${port}: .*EADDRINUSE`))
    } finally {
      await running.stop()
      other.close()
    }
  })
})

describe("metrics on an address that was in use", () => {
  it.scoped("are there half a minute after it is free", () =>
    Effect.gen(function*() {
      const other = net.createServer()
      yield* Effect.promise(() => new Promise<void>((resolve) => other.listen(0, "127.0.0.1", resolve)))
      const { port } = other.address() as net.AddressInfo
      const log: Array<string> = []
      const metrics = yield* MetricsExport.pipe(
        Effect.provide(MetricsExportHost.layer({})),
        Effect.provide(
          Layer.succeed(ClientConfig, settings({ metricsAddress: { _tag: "Tcp", host: "127.0.0.1", port } }))
        )
      )
      yield* metrics.run({ status: okStatus }).pipe(
        Effect.provide(
          Logger.replace(Logger.defaultLogger, Logger.make(({ message }) => void log.push(String(message))))
        )
      )
      yield* waitFor("a warning", () => log.length === 1)
      yield* TestClock.adjust("30 seconds")
      assert.lengthOf(log, 1, "it is told once")
      yield* Effect.promise(() => new Promise((resolve) => other.close(resolve)))
      yield* TestClock.adjust("60 seconds")
      yield* waitFor("metrics", () => log.includes("metrics are shown"))
    }))
})

describe("metrics, asked badly", () => {
  it(
    "end the connections of whoever says nothing, too much or nonsense, and go on",
    () =>
      withServer(async (socket) => {
        const silent = open(socket)
        const slow = open(socket)
        slow.write("GET /metrics HTTP/1.1\r\nHost: x\r\nX: ")
        const nonsense = open(socket)
        nonsense.write("\x16\x03\x01\x00\n\r\n")
        const long = open(socket)
        long.write(`GET /${"x".repeat(20_000)} HTTP/1.1\r\n`)
        const headers = open(socket)
        headers.write(`GET /metrics HTTP/1.1\r\nHost: x\r\nX: ${"y".repeat(20_000)}\r\n\r\n`)
        await Promise.all([silent, slow, nonsense, long, headers].map(closed))
        assert.strictEqual((await ask(socket)).status, 200)
      }),
    30_000
  )

  it(
    "are at most 16 connections' at once, and there is room again when they are gone",
    () =>
      withServer(async (socket) => {
        const all = Array.from({ length: 100 }, () => open(socket))
        const over = all.slice(MAX_CONNECTIONS).map(closed)
        await Promise.all(over)
        for (const each of all) each.destroy()
        let status: number | undefined
        for (let attempt = 0; attempt < 100 && status !== 200; attempt++) {
          status = (await ask(socket).catch(() => undefined))?.status
        }
        assert.strictEqual(status, 200)
      }),
    30_000
  )

  it("do not hold up the end of the client", () =>
    withServer(async (socket, { stop }) => {
      const reader = open(socket)
      reader.pause()
      for (let i = 0; i < 50; i++) reader.write("GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
      await ask(socket)
      const gone = closed(reader)
      await stop()
      await gone
    }))
})

/** A receiver; what it got, and what it answers. */
const withReceiver = async (
  body: (
    url: URL,
    got: ReadonlyArray<{ readonly headers: http.IncomingHttpHeaders; readonly data: Exported }>
  ) => Promise<
    void
  >,
  answer: (response: http.ServerResponse) => void = (response) => response.end()
): Promise<void> => {
  const got: Array<{ readonly headers: http.IncomingHttpHeaders; readonly data: Exported }> = []
  const server = http.createServer((request, response) => {
    const parts: Array<Buffer> = []
    request.on("data", (part: Buffer) => parts.push(part))
    request.on("end", () => {
      got.push({ headers: { ...request.headers, ":path": request.url }, data: decodeExport(Buffer.concat(parts)) })
      answer(response)
    })
  })
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve))
  try {
    await body(new URL(`http://127.0.0.1:${(server.address() as net.AddressInfo).port}/v1/metrics`), got)
  } finally {
    server.closeAllConnections()
    await new Promise((resolve) => server.close(resolve))
  }
}

const every = (millis: number) => ({ OTEL_METRIC_EXPORT_INTERVAL: String(millis) })

describe("metrics by OTLP", () => {
  it("are the same as Prometheus sees, with the headers of the variable, which children do not inherit", () =>
    withReceiver((url, got) =>
      withSocket(async (socket, metricsAddress) => {
        const environment: NodeJS.ProcessEnv = {
          ...every(1000),
          OTEL_EXPORTER_OTLP_HEADERS: "authorization=Bearer%20hunter2, x-scope=a"
        }
        const running = await start({ otlpEndpoint: url, metricsAddress }, environment)
        assert.isUndefined(environment["OTEL_EXPORTER_OTLP_HEADERS"])
        await Effect.runPromise(
          waitFor("a request", () => got.length > 0 && running.log.some((line) => line.includes("are shown")))
        )
        const families = parseExposition((await ask(socket)).body)
        await running.stop()
        const [{ data, headers } = assert.fail("nothing came")] = got
        assert.deepInclude(headers, {
          ":path": "/v1/metrics",
          "content-type": "application/x-protobuf",
          "authorization": "Bearer hunter2",
          "x-scope": "a"
        })
        assert.deepInclude(data.resource, { "service.name": "firezone-headless-client" })
        assert.deepStrictEqual(data.metrics.map(({ name }) => name).sort(), [...families.keys()].sort())
        for (const metric of data.metrics) {
          const family = families.get(metric.name)
          assert.strictEqual(metric.description, family?.help)
          assert.strictEqual(
            metric.kind,
            { counter: "sum", gauge: "gauge", histogram: "histogram" }[family?.type ?? ""]
          )
          if (metric.kind === "sum") assert.isTrue(metric.isMonotonic && metric.isCumulative, metric.name)
          // Those of this process go on meanwhile.
          if (metric.kind === "histogram" || /^process_|_lag_/.test(metric.name)) continue
          assert.sameDeepMembers(
            metric.points.map(({ attributes, value }) => [attributes, value]),
            family?.labels.map(({ labels, value }) => [Object.fromEntries(labels), value]) ?? [],
            metric.name
          )
        }
      })
    ))

  it("are sent once more at the end", () =>
    withReceiver(async (url, got) => {
      const running = await start({ otlpEndpoint: url })
      await Effect.runPromise(waitFor("the first", () => got.length > 0))
      await running.stop()
      assert.lengthOf(got, 2)
    }))

  it("are tried again when the receiver refuses them, which is told once, without a secret", () => {
    let refuses = true
    return withReceiver(
      async (url, got) => {
        const running = await start({ otlpEndpoint: url }, {
          ...every(1000),
          OTEL_EXPORTER_OTLP_HEADERS: "authorization=hunter2"
        })
        await Effect.runPromise(waitFor("two requests", () => got.length >= 2))
        refuses = false
        await Effect.runPromise(waitFor("recovery", () => running.log.some((line) => line.startsWith("INFO"))))
        await running.stop()
        const lines = running.log.filter((line) => !line.startsWith("DEBUG"))
        assert.match(lines[0] ?? "", /^WARN metrics do not reach their receiver/)
        assert.deepStrictEqual(lines.slice(1), ["INFO metrics reach their receiver again"])
        assert.notInclude(running.log.join("\n"), "hunter2")
      },
      (response) => response.writeHead(refuses ? 401 : 200).end()
    )
  })

  it("do not hold up the end of the client when the receiver says nothing", () =>
    withReceiver(async (url, got) => {
      const running = await start({ otlpEndpoint: url })
      await Effect.runPromise(waitFor("a request", () => got.length > 0))
      const began = performance.now()
      await running.stop()
      assert.isBelow(performance.now() - began, 5000)
    }, () => undefined))

  it.each([
    [{ OTEL_EXPORTER_OTLP_HEADERS: "hunter2" }, "OTEL_EXPORTER_OTLP_HEADERS"],
    [{ OTEL_EXPORTER_OTLP_HEADERS: "a=hunter2%0d%0aX: y" }, "OTEL_EXPORTER_OTLP_HEADERS"],
    [{ OTEL_EXPORTER_OTLP_HEADERS: "a=%hunter2" }, "OTEL_EXPORTER_OTLP_HEADERS"],
    [{ OTEL_METRIC_EXPORT_INTERVAL: "5" }, "OTEL_METRIC_EXPORT_INTERVAL"]
  ])("need variables that make sense: %o", async (environment, name) => {
    const url = new URL("http://127.0.0.1:9/v1/metrics")
    const failure = await start({ otlpEndpoint: url }, environment).catch((error: unknown) => String(error))
    assert.include(failure, name)
    assert.notInclude(failure, "hunter2")
  })
})
