/** The probe against servers of every kind on loopback, with real sockets and certificates. */
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import * as http from "node:http"
import * as https from "node:https"
import * as net from "node:net"
import * as PortalProbeLive from "../../../src/layers/portal/PortalProbeLive.ts"
import { ip, SocketAddress } from "../../../src/protocol/wire/address.ts"
import { type PortalAnswer, PortalProbe } from "../../../src/services/PortalProbe.ts"
import { makeSocketFactoryDouble } from "../../support/SocketFactoryDouble.ts"
import { certificate, privateKey, root } from "./certificates.ts"

/** Its port, until the scope ends; whoever is still connected is cut off. */
const listening = (server: net.Server): Effect.Effect<number, never, Scope.Scope> => {
  const open = new Set<net.Socket>()
  server.on("connection", (socket: net.Socket) => open.add(socket.on("error", () => undefined)))
  return Effect.acquireRelease(
    Effect.async<number>((resume) => {
      server.listen(0, "127.0.0.1", () => resume(Effect.succeed((server.address() as net.AddressInfo).port)))
    }),
    () =>
      Effect.async<void>((resume) => {
        for (const socket of open) socket.destroy()
        server.close(() => resume(Effect.void))
      })
  )
}

const TIME = "Sun, 06 Nov 1994 08:49:37 GMT"
const refuse: http.RequestListener = (_request, response) => {
  response.writeHead(401, { "content-type": "application/problem+json; charset=utf-8", "date": TIME })
  response.end(JSON.stringify({ code: "missing_token", detail: "secret detail" }))
}

interface Probing {
  readonly url: string
  readonly port: number
  readonly trustedRoots?: string
}

const probe = ({ port, trustedRoots, url }: Probing) => {
  const sockets = makeSocketFactoryDouble()
  return Effect.gen(function*() {
    const answer = yield* (yield* PortalProbe).ask(new SocketAddress(ip("127.0.0.1"), port), new URL(url))
    assert.deepStrictEqual(sockets.open(), [], "a socket is left open")
    return answer
  }).pipe(
    Effect.provide(PortalProbeLive.layerWith({ trustedRoots })),
    Effect.provide(sockets.layer)
  ) as Effect.Effect<PortalAnswer>
}

describe("portal probe", () => {
  it.live("tells what a portal answers, and sends no token", () =>
    Effect.scoped(Effect.gen(function*() {
      const seen: Array<http.IncomingMessage> = []
      const port = yield* listening(
        https.createServer({ cert: certificate, key: privateKey }, (request, response) => {
          seen.push(request)
          refuse(request, response)
        })
      )
      const answer = yield* probe({ port, url: `wss://portal.test:${port}/base/`, trustedRoots: root })
      assert.isUndefined(answer.failure)
      assert.strictEqual(answer.tcp?.source, "127.0.0.1")
      assert.deepInclude(answer.tls, { subject: "portal.test", issuer: "Test root", protocol: "TLSv1.3" })
      assert.notProperty(answer.tls, "refusal")
      assert.isAbove(answer.tls?.validTo ?? 0, Date.parse("2100-01-01"))
      assert.deepInclude(answer.http, { status: 401, code: "missing_token" })
      assert.strictEqual(answer.http?.clock?.theirs, Date.parse(TIME))
      const [request] = seen
      assert.strictEqual(request?.url, "/base/client/v2/websocket")
      assert.strictEqual(request?.headers.upgrade, "websocket")
      assert.notProperty(request?.headers, "x-authorization")
    })))

  it.live("says why a certificate is not to be trusted, and goes on", () =>
    Effect.scoped(Effect.gen(function*() {
      const port = yield* listening(https.createServer({ cert: certificate, key: privateKey }, refuse))
      const unknown = yield* probe({ port, url: `wss://portal.test:${port}/` })
      assert.include(["UNABLE_TO_VERIFY_LEAF_SIGNATURE", "UNABLE_TO_GET_ISSUER_CERT_LOCALLY"], unknown.tls?.refusal)
      assert.strictEqual(unknown.http?.status, 401)
      const misnamed = yield* probe({ port, url: `wss://other.test:${port}/`, trustedRoots: root })
      assert.strictEqual(misnamed.tls?.refusal, "ERR_TLS_CERT_ALTNAME_INVALID")
    })))

  it.live("speaks without TLS where the address says so", () =>
    Effect.scoped(Effect.gen(function*() {
      const port = yield* listening(http.createServer(refuse))
      const answer = yield* probe({ port, url: `ws://127.0.0.1:${port}/` })
      assert.isUndefined(answer.tls)
      assert.strictEqual(answer.http?.status, 401)
    })))

  it.live("tells where somebody wants us to go", () =>
    Effect.scoped(Effect.gen(function*() {
      const port = yield* listening(
        http.createServer((_request, response) => response.writeHead(302, { location: "http://login.test/" }).end())
      )
      const answer = yield* probe({ port, url: `ws://127.0.0.1:${port}/` })
      assert.deepInclude(answer.http, { status: 302, location: "http://login.test/" })
    })))

  it.live("tells what does not speak TLS or HTTP, refuses, or never answers", () =>
    Effect.scoped(Effect.gen(function*() {
      const odd = yield* listening(net.createServer((socket) => socket.end("220 mail\r\n")))
      const silent = yield* listening(net.createServer())
      const closed = yield* Effect.scoped(listening(net.createServer()))
      const url = (scheme: string, port: number) => ({ port, url: `${scheme}://127.0.0.1:${port}/` })
      const [noTls, noHttp, noHandshake, noAnswer, refused] = yield* Effect.all([
        probe(url("wss", odd)),
        probe(url("ws", odd)),
        probe(url("wss", silent)),
        probe(url("ws", silent)),
        probe(url("ws", closed))
      ], { concurrency: "unbounded" })
      assert.match(noTls.failure ?? "", /no TLS connection/)
      assert.match(noHttp.failure ?? "", /does not speak HTTP/)
      assert.match(noHandshake.failure ?? "", /TLS handshake in time/)
      assert.match(noAnswer.failure ?? "", /no answer over HTTP in time/)
      assert.strictEqual(refused.failure, "refuses connections (ECONNREFUSED)")
      assert.isUndefined(refused.tcp)
    })))
})
