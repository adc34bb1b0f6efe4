/**
 * The DNS server that a gateway offers to its clients inside the tunnel (tunnel spec 14.8): it hands queries on to the
 * name server of the gateway's own host. Of several it asks the first; it does not look for the fastest.
 */
import * as Effect from "effect/Effect"
import * as FiberSet from "effect/FiberSet"
import * as Schedule from "effect/Schedule"
import type * as Scope from "effect/Scope"
import * as dgram from "node:dgram"
import * as net from "node:net"
import { familyOf, type IpAddress, SocketAddress } from "../../protocol/wire/address.ts"
import { decodeDns, encodeDns, isResponseTo, ResponseCode, responseTo } from "../../protocol/wire/dns.ts"
import { DnsSocket } from "../../services/DnsSocket.ts"
import { SystemResolvers } from "../../services/SystemResolvers.ts"
import { LabError } from "../LabError.ts"

export const DNS_SERVER_PORT = 53_535
const NAME_SERVER_PORT = 53
const TIMEOUT_MILLIS = 5000
const MAX_UDP_REPLY = 1200
/** More than that at once are not answered. */
const MAX_QUERIES = 1000
/** Per address. */
const MAX_CONNECTIONS = 100
const IDLE_MILLIS = 30_000
/** A new interface may take a moment until its addresses can be bound to. */
const binding = Schedule.intersect(Schedule.recurs(2), Schedule.spaced("100 millis"))

type Transport = "udp" | "tcp"
/** What to do with a query; what comes back, if anything does, is for whoever asked. */
type Ask = (query: Uint8Array, reply: (answer: Uint8Array) => void) => void

/** The answer of the first of the host's name servers; SERVFAIL if there is none, `undefined` for what is no query. */
const forward = (
  transport: Transport,
  bytes: Uint8Array
): Effect.Effect<Uint8Array | undefined, never, DnsSocket | SystemResolvers> =>
  Effect.gen(function*() {
    const query = decodeDns(bytes)
    if (query === undefined || query.isResponse || query.questions.length !== 1) return undefined
    const failed = encodeDns(responseTo(query, ResponseCode.ServerFailure))
    const [server] = yield* Effect.flatMap(SystemResolvers, ({ current }) => current)
    if (server === undefined) return failed
    const socket = yield* DnsSocket
    const reply = yield* Effect.catchAll(
      socket[transport](bytes, new SocketAddress(server, NAME_SERVER_PORT), TIMEOUT_MILLIS),
      (error) =>
        Effect.as(
          Effect.logDebug("a query of a client failed").pipe(Effect.annotateLogs("reason", error.message)),
          undefined
        )
    )
    const message = reply === undefined ? undefined : decodeDns(reply)
    if (reply === undefined || message === undefined || !isResponseTo(message, query)) return failed
    return transport === "udp" && reply.length > MAX_UDP_REPLY ? encodeDns(message, MAX_UDP_REPLY) ?? failed : reply
  })

/** Both transports on port 53535 of `addresses`, as long as the scope lasts. */
export const serve = (
  addresses: ReadonlyArray<IpAddress>
): Effect.Effect<void, LabError, Scope.Scope | DnsSocket | SystemResolvers> =>
  Effect.gen(function*() {
    const run = yield* FiberSet.makeRuntime<DnsSocket | SystemResolvers>()
    let open = 0
    const ask = (transport: Transport): Ask => (query, reply) => {
      if (open >= MAX_QUERIES) return
      open += 1
      forward(transport, query).pipe(
        Effect.tap((answer) => {
          if (answer !== undefined) reply(answer)
        }),
        Effect.ensuring(Effect.sync(() => open -= 1)),
        // Whoever acquires us may not be: its end would wait for every query.
        Effect.interruptible,
        run
      )
    }
    for (const address of addresses) {
      yield* Effect.retry(listenUdp(address, ask("udp")), binding)
      yield* Effect.retry(listenTcp(address, ask("tcp")), binding)
    }
  })

const cannotListen = (address: IpAddress, error: Error): LabError =>
  new LabError({ what: `DNS server on ${new SocketAddress(address, DNS_SERVER_PORT).text}`, why: error.message })

const listenUdp = (address: IpAddress, ask: Ask): Effect.Effect<void, LabError, Scope.Scope> =>
  Effect.acquireRelease(
    Effect.async<dgram.Socket, LabError>((resume) => {
      const socket = dgram.createSocket(familyOf(address) === 4 ? "udp4" : "udp6")
      // Later ones are about single datagrams, and lost with them.
      socket.on("error", (error) => resume(Effect.fail(cannotListen(address, error))))
      socket.on("message", (query, { address: host, port }) => ask(query, (answer) => socket.send(answer, port, host)))
      socket.bind({ address, port: DNS_SERVER_PORT, exclusive: true }, () => resume(Effect.succeed(socket)))
    }),
    (socket) => Effect.sync(() => socket.close())
  ).pipe(Effect.asVoid)

const listenTcp = (address: IpAddress, ask: Ask): Effect.Effect<void, LabError, Scope.Scope> =>
  Effect.gen(function*() {
    const connections = new Set<net.Socket>()
    yield* Effect.acquireRelease(
      Effect.async<net.Server, LabError>((resume) => {
        const server = net.createServer((connection) => {
          connections.add(connection)
          connection.on("close", () => connections.delete(connection))
          talk(connection, ask)
        })
        server.maxConnections = MAX_CONNECTIONS
        server.on("error", (error) => resume(Effect.fail(cannotListen(address, error))))
        server.listen({ host: address, port: DNS_SERVER_PORT, exclusive: true }, () => resume(Effect.succeed(server)))
      }),
      (server) =>
        Effect.sync(() => {
          server.close()
          for (const connection of connections) connection.destroy()
        })
    )
  })

/** Messages with their length in front, any number, answered as answers come (RFC 7766 sections 6.2.1 and 8). */
const talk = (connection: net.Socket, ask: Ask): void => {
  let received = Buffer.alloc(0)
  connection.setTimeout(IDLE_MILLIS, () => connection.destroy())
  connection.on("error", () => connection.destroy())
  connection.on("data", (chunk) => {
    received = Buffer.concat([received, chunk])
    while (received.length >= 2 && received.length >= 2 + received.readUInt16BE(0)) {
      const end = 2 + received.readUInt16BE(0)
      const query = received.subarray(2, end)
      received = received.subarray(end)
      ask(query, (answer) => {
        if (connection.destroyed) return
        connection.write(Buffer.concat([Uint8Array.of(answer.length >> 8, answer.length), answer]))
      })
    }
  })
}
