/** The client under a service manager: the scenario is the manager, at the other end of the notification socket. */
import * as Effect from "effect/Effect"
import type * as Either from "effect/Either"
import * as path from "node:path"
import { bindSocket, closeSocket, DatagramReader } from "../../ffi/linux/socket.ts"
import { encodeSockaddrUn, openUnixDatagram } from "../../ffi/linux/unixDatagram.ts"
import type { SyscallError } from "../../ffi/SyscallError.ts"
import { LabError } from "../LabError.ts"
import { eventually, type Scenario } from "../scenario.ts"
import { addresses } from "../topology.ts"
import { TUN, tunAddresses } from "./checks.ts"

const WATCHDOG_MILLIS = 500

const attempt = <A>(result: Either.Either<A, SyscallError>) =>
  Effect.mapError(result, ({ message }) => new LabError({ what: "notification socket", why: message }))

/** Every line that came so far, oldest first. */
const listen = (file: string) =>
  Effect.gen(function*() {
    const sockaddr = encodeSockaddrUn(file)
    if (sockaddr === undefined) return yield* new LabError({ what: "notification socket", why: `${file} is too long` })
    const fd = yield* Effect.acquireRelease(
      attempt(openUnixDatagram()),
      (fd) => Effect.sync(() => closeSocket(fd))
    )
    yield* attempt(bindSocket(fd, sockaddr))
    const reader = new DatagramReader(4096)
    const lines: Array<string> = []
    return Effect.gen(function*() {
      while (true) {
        const length = yield* attempt(reader.receive(fd))
        if (length === undefined) return lines
        lines.push(...new TextDecoder().decode(reader.bytes.subarray(0, length)).trimEnd().split("\n"))
      }
    })
  })

export const service: Scenario = {
  name: "service",
  about: "a service manager is told when the tunnel is up, how it stands, that the client lives, and that it stops",
  run: (lab, recorder) =>
    Effect.gen(function*() {
      const socket = path.join(lab.topology.folder, "notify")
      const lines = yield* listen(socket)
      const told = (what: (lines: ReadonlyArray<string>) => boolean, withinMillis: number) =>
        eventually(Effect.map(lines, (lines) => what(lines)), withinMillis)
      const pings = Effect.map(lines, (lines) => lines.filter((line) => line === "WATCHDOG=1").length)
      const client = yield* lab.startClient({
        env: { NOTIFY_SOCKET: socket, WATCHDOG_USEC: String(WATCHDOG_MILLIS * 1000) }
      })

      const ready = yield* told((lines) => lines.includes("READY=1"), 20_000)
      const route = yield* lab.topology.run("client", ["ip", "route", "get", addresses.resource4])
      yield* recorder.check(
        "ready once the tunnel is up (host 18.36)",
        ready === true && route.stdout.includes(` dev ${TUN} `) && (yield* tunAddresses(lab)) !== undefined,
        ready === true
          ? `then the way to the resource is: ${route.stdout.trim().split("\n")[0]}`
          : client.log().slice(-1500)
      )
      const resources = (yield* lab.portal.state).resources.length
      const text = `STATUS=signed in; resources: ${resources}, online: 0`
      const signedIn = yield* told((lines) => lines.includes(text), 5000)
      yield* recorder.check(
        "how it stands",
        signedIn === true,
        (yield* lines).filter((l) => l.startsWith("STATUS")).join("; ")
      )

      client.signal("SIGSTOP")
      yield* Effect.sleep(WATCHDOG_MILLIS) // what it has sent before it stopped
      const before = yield* pings
      yield* Effect.sleep(3 * WATCHDOG_MILLIS)
      const missed = (yield* pings) === before
      client.signal("SIGCONT")
      const again = yield* eventually(Effect.map(pings, (now) => now > before + 2), 10_000)
      yield* recorder.check(
        "signs of life",
        before > 0 && missed && again === true,
        `${before} at first, ${missed ? "none" : "some"} while it stood still, ${
          again === true ? "and again" : "none"
        } after`
      )

      client.signal("SIGTERM")
      const stopping = yield* told((lines) => lines.includes("STOPPING=1"), 5000)
      const code = yield* client.exit
      const readies = (yield* lines).filter((line) => line === "READY=1").length
      yield* recorder.check(
        "stopping, and ready once (host 18.36)",
        stopping === true && code === 0 && readies === 1,
        `${stopping === true ? "told" : "not told"}, exit code ${code}, ready told ${readies} times`
      )
    })
}
