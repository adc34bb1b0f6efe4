/** A socket factory that dials with Node's own sockets, where the test says; keeps every socket that it made. */
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as net from "node:net"
import { SyscallError } from "../../src/ffi/SyscallError.ts"
import type { SocketAddress } from "../../src/model/Route.ts"
import { SocketFactory, SocketFailed } from "../../src/services/SocketFactory.ts"

type Dial = SocketFactory["Type"]["tcp"]

export interface SocketFactoryDouble {
  /** Every address asked for, oldest first. */
  readonly dialled: Array<SocketAddress>
  /** Every TCP socket begun, oldest first. */
  readonly sockets: Array<net.Socket>
  /** Those not destroyed. */
  readonly open: () => ReadonlyArray<net.Socket>
  /** Settable; by default `dialPlainly`. */
  tcp: Dial
  /** Without mark, source or time limit; as the real one, it can be interrupted wherever it is called. */
  readonly dialPlainly: Dial
  /** Settable: whether no socket can say goodbye any more. */
  stranded: boolean
  readonly layer: Layer.Layer<SocketFactory>
}

export const makeSocketFactoryDouble = (): SocketFactoryDouble => {
  const dialPlainly: Dial = (remote) =>
    Effect.suspend(() => {
      const socket = net.connect({ host: remote.address, port: remote.port, noDelay: true })
      double.sockets.push(socket)
      return Effect.async<net.Socket, SocketFailed>((resume) => {
        socket.once("connect", () => resume(Effect.succeed(socket)))
        socket.on("error", (error: NodeJS.ErrnoException) =>
          resume(
            new SocketFailed({
              operation: `connect to ${remote.text}`,
              cause: new SyscallError({
                syscall: "connect",
                code: Math.abs(error.errno ?? 0),
                errno: error.code ?? "UNKNOWN"
              })
            })
          ))
      }).pipe(
        Effect.interruptible,
        Effect.onError(() => Effect.sync(() => socket.destroy()))
      )
    }).pipe(Effect.uninterruptible)
  const double: SocketFactoryDouble = {
    dialled: [],
    sockets: [],
    open: () => double.sockets.filter((socket) => !socket.destroyed),
    tcp: dialPlainly,
    dialPlainly,
    stranded: false,
    layer: Layer.sync(SocketFactory, () =>
      SocketFactory.of({
        udp: () => Effect.dieMessage("no UDP socket is expected here"),
        unsafeUdp: () => {
          throw new Error("no UDP socket is expected here")
        },
        tcp: (remote) =>
          Effect.suspend(() => {
            double.dialled.push(remote)
            return double.tcp(remote)
          }),
        abandonStranded: (socket) =>
          Effect.sync(() => {
            if (double.stranded) socket.destroy()
            return double.stranded
          }),
        sourceFor: () => Effect.dieMessage("no source is expected to be asked for")
      }))
  }
  return double
}
