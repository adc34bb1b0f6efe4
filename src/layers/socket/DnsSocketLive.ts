import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import type * as net from "node:net"
import { EpollSet } from "../../ffi/linux/epoll.ts"
import { errnoName } from "../../ffi/linux/libc.ts"
import { DatagramReader } from "../../ffi/linux/socket.ts"
import { SyscallError } from "../../ffi/SyscallError.ts"
import type { SocketAddress } from "../../protocol/wire/address.ts"
import { DnsMalformed, DnsSocket, type DnsSocketError, DnsTimedOut } from "../../services/DnsSocket.ts"
import { ReadinessPoller } from "../../services/ReadinessPoller.ts"
import { RouteCache } from "../../services/RouteCache.ts"
import { SocketFactory, SocketFailed } from "../../services/SocketFactory.ts"
import { DNS_HEADER, idOf, UdpQueries } from "./UdpQueries.ts"

const MAX_MESSAGE = 65535
const TIMEOUT_MILLIS = 5000

const checkQuery = (query: Uint8Array): Effect.Effect<void> =>
  query.length >= DNS_HEADER && query.length <= MAX_MESSAGE
    ? Effect.void
    : Effect.die(new RangeError(`a DNS query of ${query.length} bytes`))

/** A `net.Socket` reports errors of libuv, whose numbers are negative on Linux. */
const socketError = (operation: string, error: NodeJS.ErrnoException): SocketFailed => {
  const code = Math.abs(error.errno ?? 0)
  return new SocketFailed({
    operation,
    cause: new SyscallError({ syscall: error.syscall ?? "socket", code, errno: error.code ?? errnoName(code) })
  })
}

/** Sends a query with its length in front and takes the one message that comes back (RFC 7766 section 8). */
const exchangeOverTcp = (
  socket: net.Socket,
  query: Uint8Array,
  resolver: SocketAddress
): Effect.Effect<Uint8Array, SocketFailed | DnsMalformed> =>
  Effect.async((resume) => {
    const malformed = () => resume(new DnsMalformed({ resolver }))
    if (socket.destroyed) return malformed()
    let received = new Uint8Array(2)
    let filled = 0
    let headed = false
    socket.on("error", (error) => resume(socketError(`query ${resolver.text} over TCP`, error)))
    socket.on("end", malformed)
    socket.on("close", malformed)
    socket.on("data", (chunk: Uint8Array) => {
      for (let taken = 0; taken < chunk.length && filled < received.length;) {
        const part = chunk.subarray(taken, taken + received.length - filled)
        received.set(part, filled)
        taken += part.length
        filled += part.length
        if (filled < received.length) return
        if (headed) return idOf(received) === idOf(query) ? resume(Effect.succeed(received)) : malformed()
        const length = (received[0] as number) << 8 | received[1] as number
        if (length < DNS_HEADER) return malformed()
        headed = true
        received = new Uint8Array(length)
        filled = 0
      }
    })
    const framed = new Uint8Array(2 + query.length)
    framed[0] = query.length >> 8
    framed[1] = query.length
    framed.set(query, 2)
    socket.write(framed) // one write, one segment: RFC 7766 section 8
  })

const make = Effect.gen(function*() {
  const routes = yield* RouteCache
  const sockets = yield* SocketFactory
  const poller = yield* ReadinessPoller
  const ready = yield* Effect.acquireRelease(
    Effect.orDie(Effect.suspend(EpollSet.open)),
    (set) => Effect.sync(() => set.close())
  )
  // One reader for all: what is received is looked at, and copied if it is the answer, before anything else runs.
  const queries = new UdpQueries(routes, sockets, ready, new DatagramReader(MAX_MESSAGE))
  yield* Effect.addFinalizer(() => Effect.sync(() => queries.closeAll()))
  yield* Effect.orDie(poller.watch(ready.fd, () => queries.onReady()))

  const bounded = <A>(
    exchange: Effect.Effect<A, DnsSocketError>,
    resolver: SocketAddress,
    timeoutMillis: number
  ): Effect.Effect<A, DnsSocketError> =>
    Effect.timeoutFail(exchange, { duration: timeoutMillis, onTimeout: () => new DnsTimedOut({ resolver }) })

  const udp = Effect.fn("DnsSocket.udp")(
    (query: Uint8Array, resolver: SocketAddress, timeoutMillis: number = TIMEOUT_MILLIS) =>
      Effect.zipRight(
        checkQuery(query),
        Effect.async<Uint8Array, DnsSocketError>((resume) => {
          const cancel = queries.send(query, resolver, resume)
          return Effect.sync(cancel)
        })
      ).pipe((exchange) => bounded(exchange, resolver, timeoutMillis))
  )

  const tcp = Effect.fn("DnsSocket.tcp")(
    (query: Uint8Array, resolver: SocketAddress, timeoutMillis: number = TIMEOUT_MILLIS) =>
      checkQuery(query).pipe(
        Effect.zipRight(Effect.acquireUseRelease(
          sockets.tcp(resolver),
          (socket) => exchangeOverTcp(socket, query, resolver),
          (socket) => Effect.sync(() => socket.destroy())
        )),
        (exchange) => bounded(exchange, resolver, timeoutMillis)
      )
  )

  return DnsSocket.of({ udp, unsafeUdp: (query, resolver, onOutcome) => queries.send(query, resolver, onOutcome), tcp })
})

/** Linux only: UDP descriptors are read and written by system calls. */
export const layer: Layer.Layer<DnsSocket, never, RouteCache | SocketFactory | ReadinessPoller> = Layer.scoped(
  DnsSocket,
  make
)
