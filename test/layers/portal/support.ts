/** A portal on loopback that follows the test's script, and the client layer connected to it. */
import { assert } from "@effect/vitest"
import * as Chunk from "effect/Chunk"
import * as Clock from "effect/Clock"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Queue from "effect/Queue"
import * as Redacted from "effect/Redacted"
import * as TestClock from "effect/TestClock"
import * as http from "node:http"
import * as https from "node:https"
import * as net from "node:net"
import type { Duplex } from "node:stream"
import { type WebSocket, WebSocketServer } from "ws"
import * as PortalLive from "../../../src/layers/portal/PortalLive.ts"
import type { IpAddress } from "../../../src/model/Route.ts"
import { ip, parseIp } from "../../../src/protocol/wire/address.ts"
import { HostResolver, type HostUnresolved } from "../../../src/services/HostResolver.ts"
import {
  Portal,
  type PortalConnection,
  type PortalEvent,
  type PortalOptions,
  type PortalProtocol,
  type PortalRole
} from "../../../src/services/Portal.ts"
import { makeSocketFactoryDouble, type SocketFactoryDouble } from "../../support/SocketFactoryDouble.ts"
import { certificate, privateKey } from "./certificates.ts"

/** Real time, whatever the test's clock is. Fails with `what` after ten seconds. */
export const waitFor = (what: string, holds: () => boolean): Effect.Effect<void> =>
  Effect.promise(async () => {
    const deadline = performance.now() + 10_000
    while (!holds()) {
      if (performance.now() > deadline) throw new Error(`waited in vain for: ${what}`)
      await new Promise((resolve) => {
        setTimeout(resolve, 1)
      })
    }
  })

/** Waits until somebody sleeps for exactly so long from now, then lets that time pass. */
export const passSleep = (millis: number): Effect.Effect<void> =>
  Effect.gen(function*() {
    const until = (yield* Clock.currentTimeMillis) + millis
    let sleeps: ReadonlyArray<number> = []
    for (let tries = 0; tries < 2000 && !sleeps.includes(until); tries++) {
      yield* Effect.promise(() => new Promise<void>((resolve) => void setTimeout(resolve, 1)))
      sleeps = Chunk.toReadonlyArray(yield* TestClock.sleeps())
    }
    assert.include(sleeps, until)
    yield* TestClock.adjust(millis)
  })

export interface Frame {
  readonly topic: string
  readonly event: string
  readonly payload: unknown
  readonly ref: number
}

export interface Session {
  readonly url: URL
  readonly headers: http.IncomingHttpHeaders
  /** Where the client connects from. */
  readonly remote: string | undefined
  readonly webSocket: WebSocket
  /** As received, oldest first. */
  readonly frames: Array<Frame>
  readonly events: () => ReadonlyArray<string>
  closedWith: number | undefined
  readonly push: (event: string, payload: unknown, topic?: string) => void
  readonly reply: (frame: Frame, status?: "ok" | "error", response?: unknown) => void
}

export interface ScriptedPortal {
  readonly port: number
  /** Upgrades that were accepted. */
  readonly sessions: Array<Session>
  /** The URL of every request. */
  readonly requests: Array<string>
  /** Names that clients asked for by SNI. */
  readonly serverNames: Array<string | false>
  /** Of its sockets, such as resets. */
  readonly errors: Array<Error>
  /** Takes an upgrade request instead of accepting it. */
  onUpgrade: ((socket: Duplex, request: http.IncomingMessage) => void) | undefined
  /** Settable; by default joins and heartbeats are answered at once. */
  onFrame: (session: Session, frame: Frame) => void
}

/** Answers with a status and ends the connection. */
export const refuse =
  (status: number, headers: { readonly [name: string]: string } = {}, body = "") => (socket: Duplex): void => {
    const lines = Object.entries({ "Content-Length": String(Buffer.byteLength(body)), ...headers })
    socket.end(
      `HTTP/1.1 ${status} Status\r\n${lines.map(([name, value]) => `${name}: ${value}\r\n`).join("")}\r\n${body}`
    )
  }

export const problem = (status: number, code?: string) =>
  refuse(
    status,
    { "Content-Type": "application/problem+json; charset=utf-8" },
    JSON.stringify({ type: "about:blank", title: "Refused", status, detail: "For a reason", code })
  )

export const answerAll = (session: Session, frame: Frame): void => {
  if (frame.event === "phx_join" || frame.event === "heartbeat") session.reply(frame)
}

export const makeScriptedPortal = (options: { readonly tls?: boolean; readonly address?: string } = {}) =>
  Effect.acquireRelease(
    Effect.promise(async () => {
      const server = options.tls === true
        ? https.createServer({ cert: certificate, key: privateKey })
        : http.createServer()
      const webSockets = new WebSocketServer({ noServer: true, perMessageDeflate: true })
      const sockets = new Set<net.Socket>()
      server.on("connection", (socket) => sockets.add(socket.on("error", (error: Error) => portal.errors.push(error))))
      server.on("secureConnection", (socket) => portal.serverNames.push(socket.servername ?? false))
      server.on("upgrade", (request, socket, head) => {
        portal.requests.push(request.url ?? "")
        socket.on("error", () => undefined)
        if (portal.onUpgrade !== undefined) return portal.onUpgrade(socket, request)
        webSockets.handleUpgrade(request, socket, head, (webSocket) => serve(webSocket, request))
      })
      const serve = (webSocket: WebSocket, request: http.IncomingMessage): void => {
        const session: Session = {
          url: new URL(request.url ?? "", "ws://portal"),
          headers: request.headers,
          remote: request.socket.remoteAddress,
          webSocket,
          frames: [],
          events: () => session.frames.map(({ event }) => event),
          closedWith: undefined,
          push: (event, payload, topic = "client") =>
            webSocket.send(JSON.stringify({ topic, event, payload, ref: null })),
          reply: ({ ref, topic }, status = "ok", response = {}) =>
            webSocket.send(JSON.stringify({ topic, event: "phx_reply", payload: { status, response }, ref }))
        }
        webSocket.on("error", () => undefined)
        webSocket.on("close", (code) => (session.closedWith = code))
        webSocket.on("message", (data: Buffer) => {
          const frame = JSON.parse(data.toString()) as Frame
          session.frames.push(frame)
          portal.onFrame(session, frame)
        })
        portal.sessions.push(session)
      }
      await new Promise<void>((resolve) => server.listen(0, options.address ?? "127.0.0.1", resolve))
      const portal: ScriptedPortal = {
        port: (server.address() as net.AddressInfo).port,
        sessions: [],
        requests: [],
        serverNames: [],
        errors: [],
        onUpgrade: undefined,
        onFrame: answerAll
      }
      return { portal, server, sockets }
    }),
    ({ server, sockets }) =>
      Effect.sync(() => {
        for (const socket of sockets) socket.destroy()
        server.close()
      })
  ).pipe(Effect.map(({ portal }) => portal))

/** A TCP server that does only what `onConnection` does. */
export const makeRawServer = (onConnection: (socket: net.Socket) => void, address = "127.0.0.1", port = 0) =>
  Effect.acquireRelease(
    Effect.promise(async () => {
      const sockets: Array<net.Socket> = []
      const server = net.createServer((socket) => {
        sockets.push(socket.on("error", () => undefined))
        onConnection(socket)
      })
      await new Promise<void>((resolve) => server.listen(port, address, resolve))
      return { server, sockets, port: (server.address() as net.AddressInfo).port }
    }),
    ({ server, sockets }) =>
      Effect.sync(() => {
        for (const socket of sockets) socket.destroy()
        server.close()
      })
  )

export const token = ".nonce-and fragment\n"
export const cleanedToken = ".nonce-andfragment"
export const key = Uint8Array.from({ length: 32 }, (_, index) => index)
export const otherKey = Uint8Array.from({ length: 32 }, (_, index) => 255 - index)

export const optionsFor = <Role extends PortalRole>(
  role: Role,
  url: string,
  changes: Partial<PortalOptions<Role>> = {}
): PortalOptions<Role> => ({
  role,
  url: new URL(url),
  token: Redacted.make(token),
  externalId: "2f6c1e6a-6a4e-4b57-9c55-0d4f2c0f8b11",
  name: "test",
  publicKey: key,
  ...changes
})

export type Resolve = (host: string) => Effect.Effect<ReadonlyArray<IpAddress>, HostUnresolved>
/** Every name is on loopback. */
export const onLoopback: Resolve = (host) => Effect.succeed([parseIp(host) ?? ip("127.0.0.1")])

export const portalLayer = (
  factory: SocketFactoryDouble,
  trustedRoots?: string,
  resolve: Resolve = onLoopback
): Layer.Layer<Portal> =>
  PortalLive.layerWith({ trustedRoots }).pipe(
    Layer.provide(factory.layer),
    Layer.provide(Layer.mock(HostResolver, { resolve }))
  )

export type EventOf<Role extends PortalRole> = PortalEvent<PortalProtocol[Role]["push"]>

/** The next event, which must be of this kind. */
export const expectEvent = <Role extends PortalRole, Tag extends EventOf<Role>["_tag"]>(
  connection: PortalConnection<Role>,
  tag: Tag
): Effect.Effect<Extract<EventOf<Role>, { readonly _tag: Tag }>> =>
  Effect.map(Queue.take(connection.events), (event) => {
    assert.strictEqual(event._tag, tag, JSON.stringify(event))
    return event as Extract<EventOf<Role>, { readonly _tag: Tag }>
  })

/** A connection of a client. */
export const openTo = (
  url: string,
  factory: SocketFactoryDouble,
  changes: Partial<PortalOptions<"client">> = {},
  trustedRoots?: string,
  resolve: Resolve = onLoopback
) =>
  Effect.flatMap(
    Effect.provide(Portal, portalLayer(factory, trustedRoots, resolve)),
    ({ open }) => open(optionsFor("client", url, changes))
  )

/** A connection of a client to a portal on loopback. */
export const connect = (changes: Partial<PortalOptions<"client">> = {}) =>
  Effect.gen(function*() {
    const portal = yield* makeScriptedPortal()
    const factory = makeSocketFactoryDouble()
    const connection = yield* openTo(`ws://127.0.0.1:${portal.port}/`, factory, changes)
    return { portal, factory, connection }
  })

export const sessionOf = (portal: ScriptedPortal, index = 0): Session => {
  const session = portal.sessions[index]
  assert.isDefined(session)
  return session
}
