/** The portal emulator on real sockets: HTTP/1.1 without TLS, and the WebSockets that come of it. */
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import { randomBytes } from "node:crypto"
import * as http from "node:http"
import type * as net from "node:net"
import type { Duplex } from "node:stream"
import { type WebSocket, WebSocketServer } from "ws"
import { parseIp } from "../../protocol/wire/address.ts"
import { serveControl } from "../control.ts"
import { LabError } from "../LabError.ts"
import { handleControl } from "./commands.ts"
import type { PortalConfig } from "./config.ts"
import type { Refusal } from "./login.ts"
import { PortalServer } from "./PortalServer.ts"
import type { PortalState } from "./state.ts"

export type { PortalConfig } from "./config.ts"
export type { PortalState } from "./state.ts"

export interface PortalProcess {
  readonly port: number
  /** A request as it comes over the control socket. */
  readonly control: (path: string, body?: unknown) => PortalState
}

const MAX_MESSAGE = 8 * 1024 * 1024
/** Of a peer that does not read. */
const MAX_UNSENT = 8 * 1024 * 1024
/** Beyond what a timer takes, and often enough. */
const LONGEST_SLEEP = 60_000

/** Runs until the scope closes; returns when it listens. */
export const run = (config: PortalConfig): Effect.Effect<PortalProcess, LabError, Scope.Scope> =>
  Effect.gen(function*() {
    const server = yield* Effect.try({
      try: () =>
        new PortalServer(config, { randomBytes: (length) => randomBytes(length), unixEpochMillis: Date.now() - now() }),
      catch: (error) => new LabError({ what: "portal configuration", why: String(error) })
    })
    const sockets = new Sockets(server)
    yield* Effect.addFinalizer(() => Effect.sync(() => sockets.close()))
    const port = yield* Effect.async<number, LabError>((resume) => {
      sockets.listen(
        config,
        (port) => resume(Effect.succeed(port)),
        ({ message }) => resume(Effect.fail(new LabError({ what: `portal port ${config.port}`, why: message })))
      )
    })
    const control = handleControl({
      server,
      now,
      restart: (downMillis) => sockets.restart({ ...config, port }, downMillis)
    })
    return {
      port,
      control: (path, body) => {
        try {
          return control(path, body)
        } finally {
          sockets.drain()
        }
      }
    }
  })

const now = (): number => performance.now()

/** Carries frames between the machine and the connections. */
class Sockets {
  readonly #portal: PortalServer
  readonly #webSockets = new WebSocketServer({ noServer: true, perMessageDeflate: false, maxPayload: MAX_MESSAGE })
  readonly #open = new Map<number, WebSocket>()
  #http: http.Server | undefined
  #timer: NodeJS.Timeout | undefined
  #restartTimer: NodeJS.Timeout | undefined

  constructor(portal: PortalServer) {
    this.#portal = portal
  }

  listen(
    { host, port }: PortalConfig,
    onListening: (port: number) => void,
    onError: (error: Error) => void
  ): void {
    const server = http.createServer((request, response) => {
      // Whatever is no upgrade is refused by the same rules.
      const refusal = this.#judge(request)
      const { body, headers, status } = answerOf(
        typeof refusal === "number" ? { _tag: "Refused", status: 400 } : refusal
      )
      response.writeHead(status, headers).end(body)
    })
    server.on("upgrade", (request, socket, head) => this.#upgrade(request, socket, head))
    server.once("error", onError)
    server.listen(port, host, () => {
      server.off("error", onError)
      onListening((server.address() as net.AddressInfo).port)
    })
    this.#http = server
  }

  /** Everybody is sent away, and for a while nobody listens. */
  restart(config: PortalConfig, downMillis: number): void {
    this.#portal.restart(now())
    this.drain()
    if (downMillis === 0) return
    this.#http?.close()
    this.#http?.closeAllConnections()
    clearTimeout(this.#restartTimer)
    this.#restartTimer = setTimeout(() => {
      this.listen(config, () => {}, (error) => {
        throw error
      })
    }, downMillis)
  }

  close(): void {
    clearTimeout(this.#timer)
    clearTimeout(this.#restartTimer)
    for (const socket of this.#open.values()) socket.terminate()
    this.#http?.close()
    this.#http?.closeAllConnections()
    this.#open.clear()
  }

  drain(): void {
    for (let output = this.#portal.pollOutput(); output !== undefined; output = this.#portal.pollOutput()) {
      const socket = this.#open.get(output.session)
      if (output._tag === "Send") {
        if (socket !== undefined && socket.bufferedAmount > MAX_UNSENT) socket.terminate()
        else socket?.send(output.text)
      } else if (output._tag === "Close") socket?.close(output.code, output.reason)
      else socket?.terminate()
    }
    clearTimeout(this.#timer)
    const at = this.#portal.pollTimeout()
    if (at === undefined) return
    this.#timer = setTimeout(() => {
      this.#portal.handleTimeout(now())
      this.drain()
    }, Math.min(LONGEST_SLEEP, Math.max(0, at - now())))
  }

  #judge(request: http.IncomingMessage): number | Refusal {
    return this.#portal.handleUpgrade({
      method: request.method ?? "",
      url: request.url ?? "",
      headers: request.headers,
      remoteAddress: parseIp(request.socket.remoteAddress ?? "") ?? ""
    }, now())
  }

  #upgrade(request: http.IncomingMessage, socket: Duplex, head: Buffer): void {
    socket.on("error", () => socket.destroy())
    const session = this.#judge(request)
    if (typeof session !== "number") {
      const { body, headers, status } = answerOf(session)
      const lines = Object.entries({ ...headers, connection: "close" }).map(([name, value]) => `${name}: ${value}\r\n`)
      const head = `HTTP/1.1 ${status} ${http.STATUS_CODES[status] ?? "Unknown"}\r\n`
      socket.end(`${head}date: ${new Date().toUTCString()}\r\n${lines.join("")}\r\n${body}`)
      return
    }
    this.#webSockets.handleUpgrade(request, socket, head, (connection) => this.#attach(session, connection))
    // It has answered the request itself if it found something that the machine did not look at.
    if (!this.#open.has(session)) this.#portal.handleClosed(session, now())
    this.drain()
  }

  #attach(session: number, connection: WebSocket): void {
    this.#open.set(session, connection)
    const then = (handle: () => void) => (): void => {
      handle()
      this.drain()
    }
    connection.on("message", (bytes: Buffer, isBinary) => {
      if (isBinary) this.#portal.handleBinary(session, now())
      else this.#portal.handleText(session, bytes.toString(), now())
      this.drain()
    })
    connection.on("ping", then(() => this.#portal.handleActivity(session, now())))
    connection.on("pong", then(() => this.#portal.handleActivity(session, now())))
    connection.on("error", (error) => this.#portal.handleProtocolError(session, error.message))
    connection.on(
      "close",
      then(() => {
        this.#open.delete(session)
        this.#portal.handleClosed(session, now())
      })
    )
  }
}

/** A problem document (RFC 9457) where the portal sends one. */
const answerOf = ({ body, code, detail, retryAfter, status }: Refusal) => {
  const title = http.STATUS_CODES[status] ?? "Unknown"
  const text = body?.text ?? JSON.stringify({ type: "about:blank", title, status, detail, code })
  return {
    status,
    body: text,
    headers: {
      "content-type": body?.type ?? "application/problem+json; charset=utf-8",
      "content-length": String(Buffer.byteLength(text)),
      ...(retryAfter === undefined ? {} : { "retry-after": retryAfter })
    }
  }
}

/** `lab serve portal`: until the process is told to stop. */
export const serve = (
  config: PortalConfig & { readonly control: string }
): Effect.Effect<never, LabError, Scope.Scope> =>
  Effect.gen(function*() {
    const portal = yield* run(config)
    yield* serveControl(config.control, portal.control)
    return yield* Effect.never
  })
