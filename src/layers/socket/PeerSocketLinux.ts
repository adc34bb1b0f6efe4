import * as Effect from "effect/Effect"
import * as Either from "effect/Either"
import * as Layer from "effect/Layer"
import * as LogLevel from "effect/LogLevel"
import * as Runtime from "effect/Runtime"
import type * as Scope from "effect/Scope"
import {
  IP_MTU_DISCOVER,
  IP_PKTINFO,
  IP_RECVTOS,
  IPV6_DONTFRAG,
  IPV6_MTU_DISCOVER,
  IPV6_RECVPKTINFO,
  IPV6_RECVTCLASS,
  localSockaddr,
  PMTUDISC_PROBE,
  setOption,
  SOL_IP,
  SOL_IPV6,
  SOL_UDP,
  UDP_GRO,
  UDP_SEGMENT
} from "../../ffi/linux/socket.ts"
import type { SyscallError } from "../../ffi/SyscallError.ts"
import { ip, SocketAddress } from "../../protocol/wire/address.ts"
import type { Family } from "../../protocol/wire/address.ts"
import { type DatagramHandlers, PeerSocket, type PeerSockets } from "../../services/PeerSocket.ts"
import { ReadinessPoller, type Watch } from "../../services/ReadinessPoller.ts"
import { RouteCache } from "../../services/RouteCache.ts"
import { type RoutingLoopPreventionFailed, SocketFactory, SocketFailed } from "../../services/SocketFactory.ts"
import { MAX_DATAGRAM, PeerCounters, type Report } from "./PeerCounters.ts"
import { PeerReceiver } from "./PeerReceiver.ts"
import { PeerSender } from "./PeerSender.ts"
import { WaitingRoom } from "./WaitingRoom.ts"

export interface PeerSocketOptions {
  /** Segmentation on send and coalescing on receive; off for diagnosis. */
  readonly offloads: boolean
  /** Tried first, before any free port. */
  readonly port: number
  /** Bytes. */
  readonly sendBuffer: number
  readonly receiveBuffer: number
}

/** Host spec sections 1 and 10.2. */
export const defaults: PeerSocketOptions = {
  offloads: true,
  port: 52625,
  sendBuffer: 2 * 1024 * 1024,
  receiveBuffer: 16 * 1024 * 1024
}

const unspecified = (family: Family, port: number): SocketAddress =>
  new SocketAddress(ip(family === 4 ? "0.0.0.0" : "::"), port)

/** Best effort, by the table of host spec section 10.2. Returns whether segmentation offload may be used. */
const setPeerOptions = (fd: number, family: Family, offloads: boolean): boolean => {
  if (family === 4) {
    setOption(fd, SOL_IP, IP_PKTINFO, 1, "IP_PKTINFO")
    setOption(fd, SOL_IP, IP_RECVTOS, 1, "IP_RECVTOS")
    setOption(fd, SOL_IP, IP_MTU_DISCOVER, PMTUDISC_PROBE, "IP_MTU_DISCOVER")
  } else {
    setOption(fd, SOL_IPV6, IPV6_RECVPKTINFO, 1, "IPV6_RECVPKTINFO")
    setOption(fd, SOL_IPV6, IPV6_RECVTCLASS, 1, "IPV6_RECVTCLASS")
    setOption(fd, SOL_IPV6, IPV6_MTU_DISCOVER, PMTUDISC_PROBE, "IPV6_MTU_DISCOVER")
    setOption(fd, SOL_IPV6, IPV6_DONTFRAG, 1, "IPV6_DONTFRAG")
  }
  if (!offloads) return false
  setOption(fd, SOL_UDP, UDP_GRO, 1, "UDP_GRO")
  // Only to learn whether the kernel knows it (Linux 4.18); messages say for themselves how to be cut.
  return Either.isRight(setOption(fd, SOL_UDP, UDP_SEGMENT, MAX_DATAGRAM, "UDP_SEGMENT")) &&
    Either.isRight(setOption(fd, SOL_UDP, UDP_SEGMENT, 0, "UDP_SEGMENT"))
}

interface Endpoint {
  readonly port: number
  readonly sender: PeerSender
}

const make = (options: PeerSocketOptions) =>
  Effect.gen(function*() {
    const routes = yield* RouteCache
    const sockets = yield* SocketFactory
    const poller = yield* ReadinessPoller
    const runFork = Runtime.runFork(yield* Effect.runtime<never>())
    const report: Report = (level, message, annotations) => {
      runFork(
        Effect.logWithLevel(LogLevel.fromLiteral(level), message).pipe(
          Effect.annotateLogs({ ...annotations, service: "PeerSocket" })
        )
      )
    }

    const bind = (family: Family) => {
      const buffers = { sendBuffer: options.sendBuffer, receiveBuffer: options.receiveBuffer }
      return sockets.udp(unspecified(family, options.port), buffers).pipe(
        Effect.catchTag("SocketFailed", (error) =>
          Effect.logDebug("cannot have the preferred port, using any").pipe(
            Effect.annotateLogs("error", error.message),
            Effect.zipRight(sockets.udp(unspecified(family, 0), buffers))
          ))
      )
    }

    const openFamily = (
      family: Family,
      handlers: DatagramHandlers,
      counters: PeerCounters,
      room: WaitingRoom,
      onUnblocked: () => void
    ): Effect.Effect<Endpoint, SocketFailed | RoutingLoopPreventionFailed, Scope.Scope> =>
      Effect.gen(function*() {
        const fd = yield* bind(family)
        const failed = (cause: SyscallError) => new SocketFailed({ operation: `open UDP over IPv${family}`, cause })
        const segmentation = setPeerOptions(fd, family, options.offloads)
        const { port } = yield* Either.mapLeft(localSockaddr(fd), failed)
        const receiver = new PeerReceiver(fd, family, port, handlers, counters, report)
        let watch: Watch | undefined
        const setWritable = (wanted: boolean): void => {
          watch?.setWritable(wanted)
          if (!wanted) onUnblocked()
        }
        const sender = new PeerSender(fd, family, segmentation, counters, room, setWritable, report)
        watch = yield* Effect.mapError(
          poller.watch(fd, (readable, writable) => {
            if (writable) sender.onWritable()
            if (readable) receiver.drain()
          }),
          failed
        )
        // The number of a closed descriptor may soon be another's: whoever still holds these must not use it.
        yield* Effect.addFinalizer(() =>
          Effect.sync(() => {
            sender.close()
            receiver.close()
          })
        )
        return { port, sender }
      })

    const open = Effect.fn("PeerSocket.open")(function*(handlers: DatagramHandlers) {
      const counters = new PeerCounters()
      const senderOf = (address: SocketAddress): PeerSender | undefined => address.family === 4 ? sender4 : sender6
      const flush = (): void => {
        sender4?.flush()
        sender6?.flush()
      }
      const room = new WaitingRoom(
        routes,
        counters,
        (source, destination, ecn, bytes, retried) => {
          const sender = senderOf(destination.address)
          if (sender === undefined) return counters.drop("no-socket")
          sender.enqueue(source, true, retried, destination, ecn, bytes, 0, bytes.length)
        },
        flush
      )
      const blocked = (family?: Family): boolean =>
        family !== 6 && sender4?.blocked === true || family !== 4 && sender6?.blocked === true
      const onUnblocked = (): void => handlers.onUnblocked?.()
      yield* Effect.addFinalizer(() => Effect.sync(() => room.close()))
      const v4 = yield* Effect.either(openFamily(4, handlers, counters, room, onUnblocked))
      if (Either.isLeft(v4) && v4.left._tag === "RoutingLoopPreventionFailed") return yield* v4.left
      const v6 = yield* Effect.either(openFamily(6, handlers, counters, room, onUnblocked))
      if (Either.isLeft(v6) && v6.left._tag === "RoutingLoopPreventionFailed") return yield* v6.left
      if (Either.isLeft(v4) && Either.isLeft(v6)) return yield* v4.left
      for (const family of [v4, v6]) {
        if (Either.isLeft(family)) yield* Effect.logInfo("peers are reachable over one IP version only", family.left)
      }
      const sender4 = Either.isRight(v4) ? v4.right.sender : undefined
      const sender6 = Either.isRight(v6) ? v6.right.sender : undefined

      const send: PeerSockets["send"] = (source, to, ecn, buffer, offset, length) => {
        if (offset < 0 || length < 0 || offset + length > buffer.length) {
          throw new RangeError(`datagram [${offset}, ${offset + length}) of a buffer of ${buffer.length} bytes`)
        }
        if (length === 0) return counters.drop("empty")
        if (length > MAX_DATAGRAM) return counters.drop("oversized")
        const sender = senderOf(to)
        if (sender === undefined) return counters.drop("no-socket")
        const destination = room.destination(to)
        if (source === undefined) {
          const chosen = room.source(destination)
          if (chosen === undefined) {
            room.wait(destination, ecn & 3, buffer.slice(offset, offset + length), false)
          } else {
            sender.enqueue(chosen, true, false, destination, ecn & 3, buffer, offset, length)
          }
        } else if (source.family === to.family) {
          sender.enqueue(source.address, false, false, destination, ecn & 3, buffer, offset, length)
        } else {
          counters.drop("send-error")
        }
      }
      const opened: PeerSockets = {
        send,
        flush,
        blocked,
        port4: Either.isRight(v4) ? v4.right.port : undefined,
        port6: Either.isRight(v6) ? v6.right.port : undefined,
        stats: () => counters.snapshot()
      }
      return opened
    })

    return PeerSocket.of({ open })
  })

export const layerWith = (
  options: Partial<PeerSocketOptions>
): Layer.Layer<PeerSocket, never, SocketFactory | RouteCache | ReadinessPoller> =>
  Layer.effect(PeerSocket, make({ ...defaults, ...options }))

export const layer = layerWith({})
