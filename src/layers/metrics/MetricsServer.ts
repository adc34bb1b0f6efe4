/** `GET /metrics` for Prometheus. Whatever happens on a connection ends that connection, nothing else. */
import * as NodeHttpServer from "@effect/platform-node/NodeHttpServer"
import * as HttpServerRequest from "@effect/platform/HttpServerRequest"
import * as HttpServerResponse from "@effect/platform/HttpServerResponse"
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import * as fs from "node:fs"
import * as http from "node:http"
import * as net from "node:net"
import { dirname } from "node:path"
import { type MetricsAddress, metricsAddressText, MetricsUnavailable } from "../../services/MetricsExport.ts"
import { CONTENT_TYPE } from "./prometheusText.ts"

/** At once; the system turns others away. */
export const MAX_CONNECTIONS = 16
const PATH = "/metrics"

const options: http.ServerOptions = {
  maxHeaderSize: 8192,
  headersTimeout: 5000,
  requestTimeout: 5000,
  keepAliveTimeout: 5000,
  // How often the above are looked after.
  connectionsCheckingInterval: 1000
}
/** Without a byte in either direction, such as to whoever does not read. */
const IDLE_MILLIS = 10_000
/** However busy a connection is. */
const LIFETIME_MILLIS = 60_000

/** Owner and group: a folder with the set-group-ID bit decides which group may ask. */
const SOCKET_MODE = 0o660

const answer = (text: Effect.Effect<string>) =>
  Effect.gen(function*() {
    const { method, url } = yield* HttpServerRequest.HttpServerRequest
    if (url.split("?", 1)[0] !== PATH) return HttpServerResponse.text(`metrics are at ${PATH}\n`, { status: 404 })
    if (method !== "GET" && method !== "HEAD") {
      return HttpServerResponse.text("only GET and HEAD\n", { status: 405, headers: { allow: "GET, HEAD" } })
    }
    return HttpServerResponse.text(yield* text, { contentType: CONTENT_TYPE })
  }).pipe(
    Effect.tapDefect((cause) => Effect.logWarning("a request for metrics failed", cause)),
    Effect.annotateLogs("module", "metrics")
  )

/** Listens until the scope ends; `text` is what is shown. Returns the address, with the port if the system chose it. */
export const serve = (
  address: MetricsAddress,
  text: Effect.Effect<string>
): Effect.Effect<MetricsAddress, MetricsUnavailable, Scope.Scope> =>
  Effect.gen(function*() {
    if (address._tag === "Unix") yield* removeStale(address)
    const handler = yield* NodeHttpServer.makeHandler(answer(text))
    const server = yield* Effect.acquireRelease(listen(address, handler), (server) =>
      Effect.sync(() => {
        server.close() // removes a Unix socket too
        server.closeAllConnections()
      }))
    const bound = server.address()
    return address._tag === "Tcp" && typeof bound === "object" && bound !== null
      ? { ...address, port: bound.port }
      : address
  })

const whyOf = (cause: unknown): string => cause instanceof Error ? cause.message : String(cause)

const unavailable = (address: MetricsAddress, why: string): MetricsUnavailable =>
  new MetricsUnavailable({ address: metricsAddressText(address), why })

const listen = (
  address: MetricsAddress,
  handler: http.RequestListener
): Effect.Effect<http.Server, MetricsUnavailable> =>
  Effect.async((resume) => {
    const server = http.createServer(options, handler)
    server.maxConnections = MAX_CONNECTIONS
    server.setTimeout(IDLE_MILLIS)
    server.on("connection", (socket) => {
      const timer = setTimeout(() => socket.destroy(), LIFETIME_MILLIS)
      socket.once("close", () => clearTimeout(timer))
    })
    const failed = (cause: unknown): void => resume(unavailable(address, whyOf(cause)))
    server.once("error", failed)
    const listening = (): void => {
      // Of `accept`, such as too many open files: those that are open go on.
      server.off("error", failed).on("error", () => undefined)
      resume(Effect.succeed(server))
    }
    try {
      if (address._tag === "Tcp") server.listen({ host: address.host, port: address.port }, listening)
      else listenOnPath(server, address.path, listening)
    } catch (cause) {
      failed(cause)
    }
    return Effect.sync(() => void server.close())
  })

/** Node makes the socket before `listen` returns, so that nobody can come while it has another mode. */
const listenOnPath = (server: http.Server, path: string, listening: () => void): void => {
  const umask = process.umask(0o777 & ~SOCKET_MODE)
  try {
    server.listen({ path }, listening)
  } finally {
    process.umask(umask)
  }
}

/** What a killed client has left is in the way. */
const removeStale = (address: MetricsAddress & { readonly _tag: "Unix" }): Effect.Effect<void, MetricsUnavailable> =>
  Effect.gen(function*() {
    const failed = (cause: unknown) => unavailable(address, whyOf(cause))
    const found = yield* Effect.try({
      try: () => fs.lstatSync(address.path, { throwIfNoEntry: false }),
      catch: failed
    })
    // Node would call it EACCES.
    if (found === undefined && !fs.existsSync(dirname(address.path))) {
      return yield* unavailable(address, "its folder is not there: make it, for whoever is to ask")
    }
    if (found === undefined) return
    if (!found.isSocket()) return yield* unavailable(address, "there is something else of this name")
    if (!(yield* isDead(address.path))) return yield* unavailable(address, "another program listens there")
    yield* Effect.try({ try: () => fs.rmSync(address.path, { force: true }), catch: failed })
  })

const isDead = (path: string): Effect.Effect<boolean> =>
  Effect.async((resume) => {
    const connection = net.connect(path)
    connection.once("connect", () => {
      connection.destroy()
      resume(Effect.succeed(false))
    })
    connection.once("error", ({ code }: NodeJS.ErrnoException) => {
      resume(Effect.succeed(code === "ECONNREFUSED" || code === "ENOENT"))
    })
  })
