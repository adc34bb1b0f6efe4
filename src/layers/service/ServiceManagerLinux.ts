/** systemd's notification protocol (sd_notify(3)): lines of `NAME=value` in a datagram. */
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Schedule from "effect/Schedule"
import { ERRNO } from "../../ffi/linux/libc.ts"
import { closeSocket } from "../../ffi/linux/socket.ts"
import { encodeSockaddrUn, openUnixDatagram, sendToUnix } from "../../ffi/linux/unixDatagram.ts"
import { ServiceManager } from "../../services/ServiceManager.ts"
import type { NotifyVariables } from "./notifyVariables.ts"

/** A busy systemd lets datagrams wait, a few only (net.unix.max_dgram_qlen). */
const busy = Schedule.intersect(Schedule.spaced("100 millis"), Schedule.recurs(50))
/** Longer is of no use in `systemctl status`. */
const MAX_STATUS = 200

/** The protocol's lines end at a line feed, and some of the text was said by the network. */
const oneLine = (text: string): string => text.replaceAll(/[\0-\x1f\x7f]+/g, " ").slice(0, MAX_STATUS)

export const layerWith = ({ socket, watchdog }: NotifyVariables): Layer.Layer<ServiceManager> =>
  Layer.scoped(
    ServiceManager,
    Effect.gen(function*() {
      const sockaddr = encodeSockaddrUn(socket)
      const fd = yield* Effect.acquireRelease(
        openUnixDatagram(),
        (fd) => Effect.sync(() => closeSocket(fd))
      ).pipe(
        Effect.tapError((error) => Effect.logWarning(`cannot tell the service manager anything: ${error.message}`)),
        Effect.orElseSucceed(() => undefined)
      )
      if (sockaddr === undefined) yield* Effect.logWarning("NOTIFY_SOCKET is no address that this client can send to")

      const notify = (lines: string): Effect.Effect<void> =>
        fd === undefined || sockaddr === undefined ?
          Effect.void :
          Effect.suspend(() => sendToUnix(fd, sockaddr, new TextEncoder().encode(`${lines}\n`))).pipe(
            Effect.retry({ schedule: busy, while: ({ code }) => code === ERRNO.EAGAIN }),
            Effect.catchAll((error) =>
              Effect.logWarning(`cannot tell the service manager: ${error.message}`).pipe(
                Effect.annotateLogs("lines", lines)
              )
            )
          )

      let isReady = false
      let isStopping = false
      let told = ""
      // A timer of the event loop: when something holds it up, the pings stay away.
      if (watchdog !== undefined) {
        yield* notify("WATCHDOG=1").pipe(
          Effect.repeat(Schedule.spaced(Duration.times(watchdog, 0.5))),
          Effect.annotateLogs("module", "service"),
          Effect.forkScoped
        )
      }
      return ServiceManager.of({
        ready: Effect.suspend(() => {
          if (isReady || isStopping) return Effect.void
          isReady = true
          return notify("READY=1")
        }),
        status: (text) =>
          Effect.suspend(() => {
            const line = oneLine(text)
            if (line === told || isStopping) return Effect.void
            told = line
            return notify(`STATUS=${line}`)
          }),
        stopping: Effect.suspend(() => {
          if (isStopping) return Effect.void
          isStopping = true
          return notify("STOPPING=1\nSTATUS=stopping")
        })
      })
    })
  )
