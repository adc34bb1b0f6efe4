/** One connection to a DNS-over-HTTPS server (RFC 8484) outside the tunnel: bootstrap, TLS, HTTP/2. */
import * as Data from "effect/Data"
import * as Effect from "effect/Effect"
import * as http2 from "node:http2"
import * as net from "node:net"
import * as tls from "node:tls"
import { SocketAddress } from "../../protocol/wire/address.ts"
import type { ForwardOutcome } from "../../services/DnsForwarder.ts"
import type { HostResolver } from "../../services/HostResolver.ts"
import type { SocketFactory } from "../../services/SocketFactory.ts"

const MEDIA_TYPE = "application/dns-message"
const HTTPS_PORT = 443
/** Name, TCP and TLS together. */
const CONNECT_TIMEOUT = "5 seconds"
const PING_EVERY_MILLIS = 5000
const PING_TIMEOUT_MILLIS = 1000
const MAX_MESSAGE = 65_535

export class DohConnectFailed extends Data.TaggedError("DohConnectFailed")<{ readonly reason: string }> {}

export interface DohConnection {
  /** The outcome comes once, after the call has returned, unless what is returned is called before. */
  readonly send: (query: Uint8Array, onOutcome: (outcome: ForwardOutcome) => void) => () => void
  readonly close: () => void
}

export interface DohConnectionOptions {
  readonly factory: SocketFactory["Type"]
  readonly hosts: HostResolver["Type"]
  readonly url: string
  readonly trustedRoots: string | undefined
  /** It cannot be used any more. */
  readonly onClosed: () => void
}

/** Interrupted or failed, it leaves nothing open. */
export const openDohConnection = (
  options: DohConnectionOptions
): Effect.Effect<DohConnection, DohConnectFailed> =>
  Effect.gen(function*() {
    const url = new URL(options.url)
    const host = url.hostname.replace(/^\[|\]$/g, "")
    const addresses = yield* Effect.mapError(
      options.hosts.resolve(host),
      ({ reason }) => new DohConnectFailed({ reason })
    )
    const port = url.port === "" ? HTTPS_PORT : Number(url.port)
    const attempts = addresses.map((address) => connect(options, new SocketAddress(address, port), host))
    const socket = yield* Effect.firstSuccessOf(attempts)
    return wrap(url, socket, options.onClosed)
  }).pipe(
    Effect.timeoutFail({
      duration: CONNECT_TIMEOUT,
      onTimeout: () => new DohConnectFailed({ reason: `not within ${CONNECT_TIMEOUT}` })
    })
  )

const connect = (options: DohConnectionOptions, remote: SocketAddress, host: string) =>
  Effect.acquireUseRelease(
    Effect.mapError(
      options.factory.tcp(remote),
      (error) => new DohConnectFailed({ reason: error._tag === "SocketFailed" ? error.cause.errno : error._tag })
    ),
    (socket) => startTls(options, socket, host),
    (socket, exit) => Effect.sync(() => exit._tag === "Failure" && socket.destroy())
  )

const startTls = (options: DohConnectionOptions, socket: net.Socket, host: string) =>
  Effect.async<tls.TLSSocket, DohConnectFailed>((resume) => {
    const fail = (reason: string) => resume(new DohConnectFailed({ reason }))
    const secure = tls.connect({
      socket,
      host,
      ALPNProtocols: ["h2"],
      ...(net.isIP(host) === 0 ? { servername: host } : {}),
      ...(options.trustedRoots === undefined ? {} : { ca: options.trustedRoots })
    })
    secure.on("error", (error: NodeJS.ErrnoException) => fail(error.code ?? error.message))
    secure.on("close", () => fail("the server hung up"))
    secure.on(
      "secureConnect",
      () => secure.alpnProtocol === "h2" ? resume(Effect.succeed(secure)) : fail("the server does not speak HTTP/2")
    )
  })

const wrap = (url: URL, socket: tls.TLSSocket, onClosed: () => void): DohConnection => {
  const session = http2.connect(url.origin, { createConnection: () => socket })
  let pingTimer: NodeJS.Timeout | undefined
  let isOver = false
  const end = (): void => {
    if (isOver) return
    isOver = true
    clearInterval(pinging)
    clearTimeout(pingTimer)
    onClosed()
  }
  const pinging = setInterval(() => {
    clearTimeout(pingTimer)
    pingTimer = setTimeout(() => session.destroy(), PING_TIMEOUT_MILLIS)
    // An error means that the session is going; its `close` says so.
    session.ping(() => clearTimeout(pingTimer))
  }, PING_EVERY_MILLIS)
  session.on("error", end)
  session.on("close", end)
  // What is under way may finish, but nothing new may begin.
  session.on("goaway", () => {
    end()
    session.close()
  })
  return {
    send: (query, onOutcome) =>
      exchange(session, {
        ":method": "GET",
        ":authority": url.host, // Node would name the port, too
        ":path": `${url.pathname}?dns=${Buffer.from(query).toString("base64url")}`,
        accept: MEDIA_TYPE
      }, onOutcome),
    close: () => {
      end()
      session.destroy()
    }
  }
}

const exchange = (
  session: http2.ClientHttp2Session,
  headers: http2.OutgoingHttpHeaders,
  onOutcome: (outcome: ForwardOutcome) => void
): () => void => {
  let isOver = false
  const finish = (outcome: ForwardOutcome): void => {
    if (isOver) return
    isOver = true
    onOutcome(outcome)
  }
  let stream: http2.ClientHttp2Stream
  try {
    stream = session.request(headers)
  } catch {
    // The session is closing and has not said so yet.
    queueMicrotask(() => finish("failed"))
    return () => {
      isOver = true
    }
  }
  const parts: Array<Buffer> = []
  let length = 0
  let isAnswer = false
  stream.on("response", (headers) => {
    isAnswer = headers[":status"] === 200 && headers["content-type"] === MEDIA_TYPE
    if (!isAnswer) stream.close(http2.constants.NGHTTP2_CANCEL)
  })
  stream.on("data", (part: Buffer) => {
    length += part.length
    if (length <= MAX_MESSAGE) parts.push(part)
    else stream.close(http2.constants.NGHTTP2_CANCEL)
  })
  stream.on("error", () => finish("failed"))
  // Not at `end`, which a stream has that was reset, too.
  stream.on("close", () => {
    const isWhole = isAnswer && stream.rstCode === http2.constants.NGHTTP2_NO_ERROR
    finish(isWhole ? new Uint8Array(Buffer.concat(parts)) : "failed")
  })
  return () => {
    isOver = true
    stream.close(http2.constants.NGHTTP2_CANCEL)
  }
}
