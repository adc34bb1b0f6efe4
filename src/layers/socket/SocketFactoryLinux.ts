import * as Effect from "effect/Effect"
import * as Either from "effect/Either"
import * as Exit from "effect/Exit"
import * as Layer from "effect/Layer"
import * as net from "node:net"
import { ERRNO } from "../../ffi/linux/libc.ts"
import {
  AF_INET,
  AF_INET6,
  bindSocket,
  closeSocket,
  connectSocket,
  getOption,
  IPV6_ADDR_PREFERENCES,
  IPV6_PREFER_SRC_PUBLIC,
  IPV6_V6ONLY,
  openSocket,
  setOption,
  SO_MARK,
  SO_RCVBUF,
  SO_RCVBUFFORCE,
  SO_SNDBUF,
  SO_SNDBUFFORCE,
  SOCK_DGRAM,
  SOCK_STREAM,
  SOL_IPV6,
  SOL_SOCKET,
  SOL_TCP,
  takeSocketError,
  TCP_NODELAY,
  TCP_REPAIR
} from "../../ffi/linux/socket.ts"
import { SyscallError } from "../../ffi/SyscallError.ts"
import { SOCKET_MARK } from "../../model/policyRouting.ts"
import { type IpAddress, parseIp, SocketAddress } from "../../protocol/wire/address.ts"
import { ReadinessPoller } from "../../services/ReadinessPoller.ts"
import { RouteCache } from "../../services/RouteCache.ts"
import {
  ConnectTimedOut,
  type DescriptorOptions,
  RoutingLoopPreventionFailed,
  SocketFactory,
  SocketFailed
} from "../../services/SocketFactory.ts"
import { isSourceGone } from "./isSourceGone.ts"
import { sockaddrOf } from "./sockaddrOf.ts"

const CONNECT_TIMEOUT = "5 seconds"
const SMALLEST_BUFFER = 65536

export interface SocketFactoryOptions {
  /** `SO_MARK` of every socket; `undefined` sets none, for use where there is no tunnel. */
  readonly mark: number | undefined
}

/** It has an `error` listener, so a reset before its owner listens does not end the process; the owner looks at `destroyed`. */
const wrap = (fd: number): net.Socket =>
  new net.Socket({ fd, readable: true, writable: true }).on("error", () => undefined)

const open = (family: 4 | 6, type: number, operation: string): Either.Either<number, SocketFailed> =>
  Either.mapLeft(
    openSocket(family === 4 ? AF_INET : AF_INET6, type),
    (cause) => new SocketFailed({ operation, cause })
  )

const setMark = (fd: number, mark: number | undefined): Either.Either<void, RoutingLoopPreventionFailed> =>
  mark === undefined ? Either.void : Either.mapLeft(
    setOption(fd, SOL_SOCKET, SO_MARK, mark, "SO_MARK"),
    (cause) =>
      new RoutingLoopPreventionFailed({
        cause: cause.code === ERRNO.EPERM
          ? new SyscallError({
            syscall: cause.syscall,
            code: cause.code,
            errno: cause.errno,
            hint: "marking sockets needs root or the capability CAP_NET_ADMIN"
          })
          : cause
      })
  )

/** What the kernel reports afterwards; `undefined` if it refuses every size down to 64 KiB. */
const setBuffer = (fd: number, bytes: number, force: number, plain: number, name: string): number | undefined => {
  // Forced is not limited by wmem_max or rmem_max, but needs CAP_NET_ADMIN; plain is clamped without a word.
  let done = Either.isRight(setOption(fd, SOL_SOCKET, force, bytes, `${name}FORCE`))
  for (let size = bytes; !done && size >= SMALLEST_BUFFER; size = Math.floor(size / 2)) {
    done = Either.isRight(setOption(fd, SOL_SOCKET, plain, size, name))
  }
  return done ? Either.getOrUndefined(getOption(fd, SOL_SOCKET, plain, name)) : undefined
}

const setBuffers = (fd: number, options: DescriptorOptions, socket: string): Effect.Effect<void> =>
  Effect.gen(function*() {
    for (
      const [bytes, force, plain, name] of [
        [options.sendBuffer, SO_SNDBUFFORCE, SO_SNDBUF, "SO_SNDBUF"],
        [options.receiveBuffer, SO_RCVBUFFORCE, SO_RCVBUF, "SO_RCVBUF"]
      ] as const
    ) {
      if (bytes === undefined) continue
      const granted = setBuffer(fd, bytes, force, plain, name)
      const log = granted === undefined
        ? Effect.logWarning("cannot set a socket buffer")
        : Effect.logDebug("socket buffer")
      yield* Effect.annotateLogs(log, { socket, option: name, asked: bytes, granted: granted ?? "default" })
    }
  })

const bindUdp = (
  local: SocketAddress,
  mark: number | undefined
): Either.Either<number, SocketFailed | RoutingLoopPreventionFailed> =>
  Either.gen(function*() {
    const operation = `bind ${local.text}`
    const fd = yield* open(local.family, SOCK_DGRAM, operation)
    if (local.family === 6) {
      setOption(fd, SOL_IPV6, IPV6_V6ONLY, 1, "IPV6_V6ONLY")
      setOption(fd, SOL_IPV6, IPV6_ADDR_PREFERENCES, IPV6_PREFER_SRC_PUBLIC, "IPV6_ADDR_PREFERENCES") // best effort
    }
    // Marked before it is bound: then the descriptor can never have sent an unmarked packet.
    const ready = Either.flatMap(setMark(fd, mark), () =>
      Either.mapLeft(bindSocket(fd, sockaddrOf(local)), (cause) => new SocketFailed({ operation, cause })))
    if (Either.isLeft(ready)) {
      closeSocket(fd)
      return yield* Either.left(ready.left)
    }
    return fd
  })

const make = (options: SocketFactoryOptions) =>
  Effect.gen(function*() {
    const routes = yield* RouteCache
    const poller = yield* ReadinessPoller
    const descriptors = new WeakMap<net.Socket, number>()

    const udp = (local: SocketAddress, descriptor: DescriptorOptions = {}) =>
      Effect.acquireRelease(
        Effect.suspend(() => bindUdp(local, options.mark)),
        (fd) => Effect.sync(() => closeSocket(fd))
      ).pipe(Effect.tap((fd) => setBuffers(fd, descriptor, local.text)))

    /** The descriptor, bound to `source` and connecting. */
    const startConnecting = (
      remote: SocketAddress,
      source: IpAddress
    ): Either.Either<number, SocketFailed | RoutingLoopPreventionFailed> =>
      Either.gen(function*() {
        const connect = `connect to ${remote.text}`
        const fd = yield* open(remote.family, SOCK_STREAM, connect)
        const failed = (operation: string) => (cause: SyscallError) => new SocketFailed({ operation, cause })
        const started = Either.gen(function*() {
          yield* setMark(fd, options.mark)
          const local = new SocketAddress(source, 0)
          yield* Either.mapLeft(bindSocket(fd, sockaddrOf(local)), failed(`bind ${local.text}`))
          yield* Either.mapLeft(setOption(fd, SOL_TCP, TCP_NODELAY, 1, "TCP_NODELAY"), failed(connect))
          yield* Either.mapLeft(connectSocket(fd, sockaddrOf(remote)), failed(connect))
        })
        if (Either.isLeft(started)) {
          closeSocket(fd)
          return yield* Either.left(started.left)
        }
        return fd
      })

    const connected = (fd: number, remote: SocketAddress): Effect.Effect<void, SocketFailed> => {
      const operation = `connect to ${remote.text}`
      return Effect.gen(function*() {
        const writable = yield* Effect.makeLatch()
        const watch = yield* poller.watch(fd, (_readable, isWritable) => {
          if (isWritable) writable.unsafeOpen()
        })
        watch.setWritable(true)
        yield* writable.await
        yield* takeSocketError(fd, "connect")
      }).pipe(
        Effect.mapError((cause) => new SocketFailed({ operation, cause })),
        Effect.scoped
      )
    }

    // Interruptible even where the caller is not, as in `acquireRelease`: connecting may take 5 s, and the descriptor is
    // closed here whatever happens.
    const finishConnecting = (fd: number, remote: SocketAddress) =>
      Effect.exit(
        Effect.interruptible(connected(fd, remote)).pipe(
          Effect.timeoutFail({ duration: CONNECT_TIMEOUT, onTimeout: () => new ConnectTimedOut({ remote }) })
        )
      ).pipe(
        Effect.flatMap((exit) => {
          if (Exit.isSuccess(exit)) {
            return Effect.sync(() => {
              const socket = wrap(fd)
              descriptors.set(socket, fd)
              return socket
            })
          }
          closeSocket(fd)
          return Effect.failCause(exit.cause)
        })
      )

    const connect = Effect.fnUntraced(function*(remote: SocketAddress) {
      const { source } = yield* Effect.interruptible(routes.get(remote.address))
      return yield* Effect.flatMap(startConnecting(remote, source), (fd) => finishConnecting(fd, remote))
    })

    const tcp = (remote: SocketAddress) =>
      connect(remote).pipe(
        Effect.catchTag("SocketFailed", (error) =>
          isSourceGone(error.cause.code)
            ? Effect.zipRight(routes.invalidate(remote.address, "connect-failed"), connect(remote))
            : Effect.fail(error)),
        Effect.uninterruptible
      )

    const isStranded = ({ localAddress = "", remoteAddress = "" }: net.Socket): Effect.Effect<boolean> => {
      const remote = parseIp(remoteAddress)
      if (remote === undefined) return Effect.succeed(false)
      return routes.get(remote).pipe(
        Effect.map(({ source }) => source !== parseIp(localAddress)),
        Effect.orElseSucceed(() => true)
      )
    }
    const abandonStranded = (socket: net.Socket) =>
      Effect.map(isStranded(socket), (stranded) => {
        const fd = descriptors.get(socket)
        // The number of a socket that is destroyed may be another's.
        if (!stranded || fd === undefined || socket.destroyed) return false
        // tcp(7) does not tell: closed in repair mode, a connection is just forgotten.
        setOption(fd, SOL_TCP, TCP_REPAIR, 1, "TCP_REPAIR")
        socket.destroy()
        return true
      })

    return SocketFactory.of({
      udp,
      unsafeUdp: (local) => bindUdp(local, options.mark),
      tcp,
      abandonStranded,
      sourceFor: (destination) => Effect.map(routes.get(destination), (route) => route.source)
    })
  })

export const layerWith = (
  options: SocketFactoryOptions
): Layer.Layer<SocketFactory, never, RouteCache | ReadinessPoller> => Layer.effect(SocketFactory, make(options))

export const layer = layerWith({ mark: SOCKET_MARK })
