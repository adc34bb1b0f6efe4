/** TCP, TLS and one HTTP request without a token, each told for itself (portal spec sections 2.1 to 2.5). */
import * as Clock from "effect/Clock"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import { randomBytes } from "node:crypto"
import * as http from "node:http"
import type * as net from "node:net"
import * as tls from "node:tls"
import { isIpLiteral } from "../../protocol/portal/loginUrl.ts"
import { parseIp, type SocketAddress } from "../../protocol/wire/address.ts"
import { type HttpFacts, type PortalAnswer, PortalProbe, type TlsFacts } from "../../services/PortalProbe.ts"
import { SocketFactory } from "../../services/SocketFactory.ts"

const HTTP_LIMIT = "2500 millis"
/** A problem document is a few hundred bytes. */
const MAX_BODY = 16_384

/** What is known so far, kept when a later stage is given up. */
type Progress = { -readonly [member in keyof PortalAnswer]: PortalAnswer[member] }

export interface PortalProbeOptions {
  /** PEM of the roots that are trusted instead of the bundled ones. */
  readonly trustedRoots?: string | undefined
}

const wordOf = (error: NodeJS.ErrnoException): string => error.code ?? error.message

/** `undefined` for what is no date. */
const timeOf = (text: string | undefined): number | undefined => {
  const time = Date.parse(text ?? "")
  return Number.isNaN(time) ? undefined : time
}

const nameOf = ({ CN, O }: { readonly CN?: string | Array<string>; readonly O?: string | Array<string> }): string =>
  [CN, O].flatMap((part) => part ?? []).join(", ")

const tlsFacts = (stream: tls.TLSSocket): TlsFacts => {
  const { issuer, subject, valid_from: from, valid_to: to } = stream.getPeerCertificate()
  const refusal = stream.authorized ? undefined : stream.authorizationError as Error | string | undefined
  return {
    protocol: stream.getProtocol() ?? "TLS",
    subject: nameOf(subject ?? {}),
    issuer: nameOf(issuer ?? {}),
    validFrom: timeOf(from) ?? 0,
    validTo: timeOf(to) ?? 0,
    ...(stream.authorized
      ? {}
      : { refusal: refusal instanceof Error ? wordOf(refusal) : refusal ?? "not authorized" })
  }
}

const startTls = (
  socket: net.Socket,
  host: string,
  { trustedRoots }: PortalProbeOptions
): Effect.Effect<tls.TLSSocket, string> =>
  Effect.async((resume) => {
    const stream = tls.connect({
      socket,
      host,
      servername: isIpLiteral(host) ? "" : host, // RFC 6066 section 3: names only
      minVersion: "TLSv1.2",
      rejectUnauthorized: false, // it is judged, and nothing secret is sent
      ...(trustedRoots === undefined ? {} : { ca: trustedRoots })
    })
    stream.once("secureConnect", () => resume(Effect.succeed(stream)))
    stream.on("error", (error) => resume(Effect.fail(`no TLS connection (${wordOf(error)})`)))
    stream.once("close", () => resume(Effect.fail("the connection was closed during the TLS handshake")))
  })

const codeIn = (body: string, type: string | undefined): string | undefined => {
  if (type?.split(";")[0]?.trim().toLowerCase() !== "application/problem+json") return undefined
  try {
    const { code } = JSON.parse(body) as { readonly code?: unknown }
    return typeof code === "string" && /^[\w-]{1,64}$/.test(code) ? code : undefined
  } catch {
    return undefined
  }
}

const readBody = (response: http.IncomingMessage): Effect.Effect<string> =>
  Effect.async((resume) => {
    let text = ""
    const done = () => resume(Effect.succeed(text))
    response.setEncoding("utf8").on("data", (part: string) => {
      text += part
      if (text.length >= MAX_BODY) done()
    })
    response.on("end", done).on("error", done).on("close", done)
  })

/** An upgrade request as the client's, but for the token. */
const request = (stream: net.Socket, url: URL): Effect.Effect<http.IncomingMessage, string> =>
  Effect.async((resume) => {
    const base = url.pathname.endsWith("/") ? url.pathname.slice(0, -1) : url.pathname
    const asked = http.request({
      createConnection: () => stream,
      path: `${base}/client/v2/websocket`,
      headers: {
        host: url.host,
        connection: "Upgrade",
        upgrade: "websocket",
        "sec-websocket-version": "13",
        "sec-websocket-key": randomBytes(16).toString("base64")
      }
    })
    asked.once("response", (response) => resume(Effect.succeed(response)))
    asked.once("upgrade", (response) => resume(Effect.succeed(response)))
    asked.on("error", (error: NodeJS.ErrnoException) =>
      resume(
        Effect.fail(
          error.code?.startsWith("HPE_") === true
            ? `what answers does not speak HTTP (${error.code})`
            : `no answer over HTTP (${wordOf(error)})`
        )
      ))
    asked.end()
  })

const httpFacts = (response: http.IncomingMessage): Effect.Effect<HttpFacts> =>
  Effect.gen(function*() {
    const ours = yield* Clock.currentTimeMillis
    const theirs = timeOf(response.headers.date)
    const isUpgrade = response.statusCode === 101
    const body = isUpgrade ? "" : yield* readBody(response)
    return {
      status: response.statusCode ?? 0,
      ...(theirs === undefined ? {} : { clock: { theirs, ours } }),
      code: codeIn(body, response.headers["content-type"]),
      location: response.headers.location
    }
  })

const glosses: { readonly [errno: string]: string } = {
  ECONNREFUSED: "refuses connections (ECONNREFUSED)",
  EHOSTUNREACH: "nobody answers for the next hop (EHOSTUNREACH)",
  ENETUNREACH: "no route to it (ENETUNREACH)"
}

const whyNotConnected = (error: Effect.Effect.Error<ReturnType<SocketFactory["Type"]["tcp"]>>): string => {
  switch (error._tag) {
    case "SocketFailed":
      return glosses[error.cause.errno] ?? error.cause.errno
    case "ConnectTimedOut":
      return "no answer within 5 s"
    case "NoRoute":
      return `no route to it (${error.reason})`
    default:
      return error.message
  }
}

const make = (options: PortalProbeOptions) =>
  Effect.gen(function*() {
    const sockets = yield* SocketFactory

    const ask = (remote: SocketAddress, url: URL): Effect.Effect<PortalAnswer> =>
      Effect.gen(function*() {
        const progress: Progress = { remote }
        const began = performance.now()
        const isSecure = url.protocol === "wss:" || url.protocol === "https:"
        const host = url.hostname.startsWith("[") ? url.hostname.slice(1, -1) : url.hostname

        const overTcp = (socket: net.Socket): Effect.Effect<void, string> =>
          Effect.gen(function*() {
            const source = parseIp(socket.localAddress ?? "")
            if (source !== undefined) progress.tcp = { millis: performance.now() - began, source }
            let stream = socket
            if (isSecure) {
              const secured = yield* startTls(socket, host, options)
              progress.tls = tlsFacts(secured)
              stream = secured
            }
            progress.http = yield* Effect.flatMap(request(stream, url), httpFacts)
          }).pipe(
            Effect.timeoutFail({
              duration: HTTP_LIMIT,
              onTimeout: () =>
                isSecure && progress.tls === undefined
                  ? "no answer to the TLS handshake in time"
                  : "no answer over HTTP in time"
            })
          )

        yield* Effect.acquireUseRelease(
          // Has a time limit of its own, and is interruptible wherever it is called.
          Effect.mapError(sockets.tcp(remote), (error) => {
            progress.hasNoRoute = error._tag === "NoRoute"
            return whyNotConnected(error)
          }),
          overTcp,
          (socket) => Effect.sync(() => socket.destroy())
        ).pipe(
          Effect.catchAll((failure) =>
            Effect.sync(() => {
              progress.failure = failure
            })
          )
        )
        return progress
      })

    return PortalProbe.of({ ask })
  })

export const layerWith = (options: PortalProbeOptions): Layer.Layer<PortalProbe, never, SocketFactory> =>
  Layer.effect(PortalProbe, make(options))

export const layer = layerWith({})
