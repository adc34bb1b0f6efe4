/** From addresses to an open WebSocket: TCP outside the tunnel, TLS, upgrade (portal spec sections 2.2, 2.4 and 2.5). */
import * as Data from "effect/Data"
import * as Effect from "effect/Effect"
import type { IncomingMessage } from "node:http"
import type * as net from "node:net"
import * as tls from "node:tls"
import { type ClientOptions, WebSocket } from "ws"
import type { SocketAddress } from "../../model/Route.ts"
import { isIpLiteral } from "../../protocol/portal/loginUrl.ts"
import { classifyRefusal, type Refusal } from "../../protocol/portal/refusal.ts"
import type { RoutingLoopPreventionFailed, SocketFactory } from "../../services/SocketFactory.ts"

/** TCP, TLS and upgrade together. */
const CONNECT_TIMEOUT = "15 seconds"
/** No message of the portal comes near; what a message may cost us is bounded by it. */
const MAX_MESSAGE = 8 << 20
/** Of a refusal: a problem document is a few hundred bytes. */
const MAX_BODY = 16_384
const BODY_TIMEOUT = "2 seconds"
/** Real time that the other side has for its part of the closing handshake. */
const CLOSE_TIMEOUT_MILLIS = 1000

/** `reason` names no host and no address: it is logged at INFO. */
export class ConnectFailed extends Data.TaggedError("ConnectFailed")<{
  readonly reason: string
  readonly cause?: unknown
}> {}

/** The portal answered the upgrade with another status than 101. */
export class UpgradeRefused extends Data.TaggedError("UpgradeRefused")<{ readonly refusal: Refusal }> {}

export interface UpgradeRequest {
  readonly url: URL
  /** As in the URL, without brackets. */
  readonly host: string
  readonly secure: boolean
  readonly headers: { readonly [name: string]: string }
  /** Takes out of an answer what nobody may read. */
  readonly hide: (text: string) => string
  /** PEM of the roots that are trusted instead of the bundled ones. */
  readonly trustedRoots?: string | undefined
}

export interface OpenedWebSocket {
  /** Paused, so that nothing is missed: listen first, then resume. */
  readonly webSocket: WebSocket
  readonly remote: SocketAddress
  /** What it runs on, under TLS if there is any. */
  readonly socket: net.Socket
}

/** The TCP connection that everything else is built on: destroying it ends every later stage too. */
interface Foundation {
  socket?: net.Socket
  remote?: SocketAddress
}

/**
 * Dials every address at once; the first TCP connection wins. For `acquireRelease`: although that cannot be interrupted,
 * this can while it waits, and then, as after a failure, leaves nothing open.
 */
export const openWebSocket = (
  sockets: SocketFactory["Type"],
  remotes: ReadonlyArray<SocketAddress>,
  request: UpgradeRequest
): Effect.Effect<OpenedWebSocket, ConnectFailed | UpgradeRefused | RoutingLoopPreventionFailed> =>
  Effect.suspend(() => {
    const foundation: Foundation = {}
    const stages = Effect.gen(function*() {
      const { socket, remote } = yield* connectFirst(sockets, remotes, foundation)
      const stream = request.secure ? yield* startTls(socket, request) : socket
      return { webSocket: yield* upgrade(stream, request), remote, socket }
    }).pipe(
      Effect.timeoutFail({
        duration: CONNECT_TIMEOUT,
        onTimeout: () => new ConnectFailed({ reason: `the portal did not let us in within ${CONNECT_TIMEOUT}` })
      })
    )
    return Effect.interruptible(stages).pipe(
      Effect.onError(() => Effect.sync(() => foundation.socket?.destroy()))
    )
  })

type TcpError = Effect.Effect.Error<ReturnType<SocketFactory["Type"]["tcp"]>>

/** What went wrong, without the addresses that the system puts into its messages. */
const wordOf = (error: NodeJS.ErrnoException): string => error.code ?? error.message

const connectFirst = (sockets: SocketFactory["Type"], remotes: ReadonlyArray<SocketAddress>, foundation: Foundation) =>
  Effect.gen(function*() {
    const failures: Array<TcpError> = []
    // Not interruptible around `tcp`, which is inside: a connection made at the last moment must not get lost.
    const dial = (remote: SocketAddress) =>
      sockets.tcp(remote).pipe(
        Effect.tapError((error) => {
          failures.push(error)
          return Effect.annotateLogs(Effect.logDebug("cannot reach the portal"), {
            address: remote.text,
            reason: error.message
          })
        }),
        Effect.map((socket) => {
          if (foundation.socket !== undefined) return void socket.destroy()
          foundation.socket = socket
          foundation.remote = remote
        }),
        Effect.uninterruptible
      )
    yield* Effect.logDebug("dialling the portal").pipe(
      Effect.annotateLogs("addresses", remotes.map(({ text }) => text).join(" "))
    )
    yield* Effect.raceAll(remotes.map(dial)).pipe(Effect.catchAll(() => Effect.void))
    const { remote, socket } = foundation
    if (socket !== undefined && remote !== undefined) return { socket, remote }
    const loop = failures.find((error) => error._tag === "RoutingLoopPreventionFailed")
    if (loop !== undefined) return yield* loop
    const [first] = failures
    return yield* new ConnectFailed({ reason: `cannot connect to the portal (${whyOf(first)})`, cause: first })
  })

const whyOf = (error: TcpError | undefined): string => {
  switch (error?._tag) {
    case "SocketFailed":
      return error.cause.errno
    case "ConnectTimedOut":
      return "no answer within 5 s"
    case "NoRoute":
      return "no route"
    default:
      return error?._tag ?? "no address"
  }
}

const startTls = (
  socket: net.Socket,
  { host, trustedRoots }: UpgradeRequest
): Effect.Effect<tls.TLSSocket, ConnectFailed> =>
  Effect.async((resume) => {
    const failed = (why: string) => resume(new ConnectFailed({ reason: `no TLS connection to the portal (${why})` }))
    if (socket.destroyed) return failed("connection lost")
    const stream = tls.connect({
      socket,
      host,
      servername: isIpLiteral(host) ? "" : host, // RFC 6066 section 3: names only
      minVersion: "TLSv1.2",
      rejectUnauthorized: true, // whatever the environment says
      ...(trustedRoots === undefined ? {} : { ca: trustedRoots })
    })
    stream.once("secureConnect", () => resume(Effect.succeed(stream)))
    stream.on("error", (error) => failed(wordOf(error)))
    stream.once("close", () => failed("connection lost"))
  })

const upgrade = (
  stream: net.Socket,
  { headers, hide, url }: UpgradeRequest
): Effect.Effect<WebSocket, ConnectFailed | UpgradeRefused> =>
  Effect.async((resume) => {
    const options: ClientOptions & { readonly closeTimeout: number } = {
      createConnection: () => stream,
      headers,
      perMessageDeflate: false,
      followRedirects: false,
      maxPayload: MAX_MESSAGE,
      closeTimeout: CLOSE_TIMEOUT_MILLIS
    }
    const webSocket = new WebSocket(url, options)
    webSocket.once("open", () => {
      webSocket.pause()
      resume(Effect.succeed(webSocket))
    })
    webSocket.once("unexpected-response", (_request, response) => resume(readRefusal(response, hide)))
    // Stays: an error after the upgrade must find a listener.
    webSocket.on("error", (error) =>
      resume(
        new ConnectFailed({ reason: upgradeFailure(error) })
      ))
  })

/** llhttp's codes begin with HPE_: bytes came, but no HTTP. */
const upgradeFailure = (error: NodeJS.ErrnoException): string =>
  error.code?.startsWith("HPE_") === true
    ? `what answers as the portal does not speak HTTP (${error.code})`
    : `the WebSocket upgrade with the portal failed (${wordOf(error)})`

/** The body counts only for what it says of the refusal; what came in time is enough. */
const readRefusal = (
  response: IncomingMessage,
  hide: UpgradeRequest["hide"]
): Effect.Effect<never, UpgradeRefused> =>
  Effect.gen(function*() {
    const chunks: Array<Buffer> = []
    yield* Effect.async<void>((resume) => {
      let length = 0
      response.on("data", (chunk: Buffer) => {
        chunks.push(chunk)
        length += chunk.length
        if (length >= MAX_BODY) resume(Effect.void)
      })
      const done = () => resume(Effect.void)
      response.on("end", done).on("error", done).on("close", done)
    }).pipe(Effect.timeoutOption(BODY_TIMEOUT))
    const clock = yield* Effect.clock
    return yield* new UpgradeRefused({
      refusal: classifyRefusal({
        status: response.statusCode ?? 0,
        contentType: response.headers["content-type"],
        retryAfter: response.headers["retry-after"],
        body: hide(Buffer.concat(chunks).subarray(0, MAX_BODY).toString("utf8"))
      }, clock.unsafeCurrentTimeMillis())
    })
  })

/** Ends it with close code 1000, or at once if it is past that. Takes a second of real time at most, even if interrupted. */
export const closeWebSocket = (webSocket: WebSocket): Effect.Effect<void> =>
  Effect.async<void>((resume) => {
    if (webSocket.readyState === WebSocket.CLOSED) return resume(Effect.void)
    webSocket.removeAllListeners("message")
    webSocket.once("close", () => resume(Effect.void))
    if (webSocket.readyState !== WebSocket.OPEN) return webSocket.terminate()
    webSocket.resume() // the answer must be read
    webSocket.close(1000)
  }).pipe(Effect.uninterruptible)
