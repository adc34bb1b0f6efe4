import * as Effect from "effect/Effect"
import * as Either from "effect/Either"
import * as Layer from "effect/Layer"
import type * as net from "node:net"
import { errnoName } from "../../ffi/linux/libc.ts"
import { connectSocket, DatagramReader, encodeSockaddr, sendDatagram } from "../../ffi/linux/socket.ts"
import { SyscallError } from "../../ffi/SyscallError.ts"
import { ipFromBytes, ipToBytes, SocketAddress } from "../../protocol/wire/address.ts"
import { DnsMalformed, DnsSocket, type DnsSocketError, DnsTimedOut } from "../../services/DnsSocket.ts"
import { ReadinessPoller } from "../../services/ReadinessPoller.ts"
import { RouteCache } from "../../services/RouteCache.ts"
import { SocketFactory, SocketFailed } from "../../services/SocketFactory.ts"
import { isSourceGone } from "./isSourceGone.ts"

const HEADER = 12 // RFC 1035 section 4.1.1
const MAX_MESSAGE = 65535
const TIMEOUT_MILLIS = 5000

const idOf = (message: Uint8Array): number => (message[0] as number) << 8 | message[1] as number

const checkQuery = (query: Uint8Array): Effect.Effect<void> =>
  query.length >= HEADER && query.length <= MAX_MESSAGE
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
        if (length < HEADER) return malformed()
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
  // One for all: what is received is looked at, and copied if it is the answer, before anything else runs.
  const reader = new DatagramReader(MAX_MESSAGE)

  const exchangeOverUdp = (query: Uint8Array, resolver: SocketAddress) =>
    Effect.gen(function*() {
      const { source } = yield* routes.get(resolver.address)
      const failed = (cause: SyscallError) => new SocketFailed({ operation: `query ${resolver.text}`, cause })
      const fd = yield* sockets.udp(new SocketAddress(source, 0))
      // Connected, the system lets only the resolver's datagrams in and tells when nobody listens there.
      const remote = encodeSockaddr(ipToBytes(resolver.address), resolver.port)
      yield* Either.mapLeft(connectSocket(fd, remote), failed)
      let finish: ((answer: Effect.Effect<Uint8Array, SocketFailed | DnsMalformed>) => void) | undefined
      yield* Effect.mapError(poller.watch(fd, () => finish !== undefined && receive(finish)), failed)
      const receive = (resume: NonNullable<typeof finish>): void => {
        // A few at a time: whoever floods this port must not keep the loop from turning.
        for (let i = 0; i < 16; i++) {
          const received = reader.receive(fd)
          if (Either.isLeft(received)) return resume(failed(received.left))
          if (received.right === undefined) return
          const sender = reader.sender()
          if (sender === undefined || sender.port !== resolver.port) continue
          const family = sender.address.length === 4 ? 4 : 6
          if (ipFromBytes(sender.address, 0, family) !== resolver.address) continue
          if (received.right < 2 || idOf(reader.bytes) !== idOf(query)) continue
          return resume(
            received.right < HEADER
              ? new DnsMalformed({ resolver })
              : Effect.succeed(reader.bytes.slice(0, received.right))
          )
        }
      }
      return yield* Effect.async<Uint8Array, SocketFailed | DnsMalformed>((resume) => {
        finish = (answer) => {
          finish = undefined
          resume(answer)
        }
        const sent = sendDatagram(fd, query)
        if (Either.isLeft(sent)) finish(failed(sent.left))
      })
    }).pipe(Effect.scoped)

  const bounded = <A>(
    exchange: Effect.Effect<A, DnsSocketError>,
    resolver: SocketAddress,
    timeoutMillis: number
  ): Effect.Effect<A, DnsSocketError> =>
    Effect.timeoutFail(exchange, { duration: timeoutMillis, onTimeout: () => new DnsTimedOut({ resolver }) })

  const udp = Effect.fn("DnsSocket.udp")(
    (query: Uint8Array, resolver: SocketAddress, timeoutMillis: number = TIMEOUT_MILLIS) =>
      Effect.zipRight(checkQuery(query), exchangeOverUdp(query, resolver)).pipe(
        Effect.catchTag("SocketFailed", (error) =>
          isSourceGone(error.cause.code)
            ? Effect.zipRight(routes.invalidate(resolver.address, "send-failed"), exchangeOverUdp(query, resolver))
            : Effect.fail(error)),
        (exchange) => bounded(exchange, resolver, timeoutMillis)
      )
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

  return DnsSocket.of({ udp, tcp })
})

/** Linux only: UDP descriptors are read and written by system calls. */
export const layer: Layer.Layer<DnsSocket, never, RouteCache | SocketFactory | ReadinessPoller> = Layer.effect(
  DnsSocket,
  make
)
