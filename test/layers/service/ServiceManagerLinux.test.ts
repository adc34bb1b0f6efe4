import { describe, expect, it } from "@effect/vitest"
import * as Context from "effect/Context"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Layer from "effect/Layer"
import * as Scope from "effect/Scope"
import * as TestClock from "effect/TestClock"
import * as fs from "node:fs"
import * as os from "node:os"
import * as path from "node:path"
import { closeSocket } from "../../../src/ffi/linux/socket.ts"
import { encodeSockaddrUn, openUnixDatagram } from "../../../src/ffi/linux/unixDatagram.ts"
import { takeNotifyVariables } from "../../../src/layers/service/notifyVariables.ts"
import { layerFor } from "../../../src/layers/service/ServiceManagerHost.ts"
import { layerWith } from "../../../src/layers/service/ServiceManagerLinux.ts"
import { ServiceManager } from "../../../src/services/ServiceManager.ts"
import { waitFor } from "../../support/waitFor.ts"
import { bindReceiver } from "./receiver.ts"

/** A receiver at a path in a folder of its own, or at an abstract name. */
const receiver = (kind: "path" | "abstract") =>
  Effect.acquireRelease(
    Effect.sync(() => {
      const folder = fs.mkdtempSync(path.join(os.tmpdir(), "notify-"))
      const name = kind === "path" ? path.join(folder, "socket") : `@${path.basename(folder)}`
      return { folder, name, ...bindReceiver(name) }
    }),
    ({ close, folder }) =>
      Effect.sync(() => {
        close()
        fs.rmSync(folder, { recursive: true })
      })
  )

const manager = (socket: string, watchdog?: Duration.Duration) =>
  Effect.map(Layer.build(layerWith({ socket, watchdog })), Context.get(ServiceManager))

describe("notifications", () => {
  for (const kind of ["path", "abstract"] as const) {
    it.scoped(`reach a socket with ${kind === "path" ? "a path" : "an abstract name"}`, () =>
      Effect.gen(function*() {
        const { name, received } = yield* receiver(kind)
        const { ready, status, stopping } = yield* manager(name)
        yield* status("not signed in yet")
        yield* ready
        yield* status("signed in")
        yield* stopping
        expect(received()).toEqual([
          "STATUS=not signed in yet\n",
          "READY=1\n",
          "STATUS=signed in\n",
          "STOPPING=1\nSTATUS=stopping\n"
        ])
      }))
  }

  it.scoped("are told once, and not after the stop", () =>
    Effect.gen(function*() {
      const { name, received } = yield* receiver("path")
      const { ready, status, stopping } = yield* manager(name)
      yield* Effect.all([ready, ready, status("one"), status("one"), status("two"), status("one")])
      expect(received()).toEqual(["READY=1\n", "STATUS=one\n", "STATUS=two\n", "STATUS=one\n"])
      yield* Effect.all([stopping, stopping, status("three"), ready])
      expect(received()).toEqual(["STOPPING=1\nSTATUS=stopping\n"])
    }))

  it.scoped("cannot be forged by the text of a status, nor grow with it", () =>
    Effect.gen(function*() {
      const { name, received } = yield* receiver("path")
      const { status } = yield* manager(name)
      yield* status(`refused\r\nMAINPID=1\n\0${"x".repeat(100_000)}`)
      const [text = ""] = received()
      expect(text.startsWith("STATUS=refused MAINPID=1 xxx")).toBe(true)
      expect(text.indexOf("\n")).toBe(text.length - 1)
      expect(text.length).toBeLessThan(300)
    }))

  it.scoped("wait for a receiver that has too many waiting", () =>
    Effect.gen(function*() {
      const { name, received } = yield* receiver("path")
      const { ready, status } = yield* manager(name)
      const told = yield* Effect.fork(Effect.all([...Array.from({ length: 400 }, (_, n) => status(`${n}`)), ready]))
      const all: Array<string> = []
      yield* TestClock.adjust("50 millis")
      expect(told.unsafePoll()).toBeNull()
      while (told.unsafePoll() === null) {
        all.push(...received())
        yield* TestClock.adjust("100 millis")
      }
      yield* Fiber.join(told)
      all.push(...received())
      expect(all).toHaveLength(401)
      expect(all.at(-1)).toBe("READY=1\n")
    }))

  it.scoped("to nobody are given up, and the client goes on", () =>
    Effect.gen(function*() {
      for (const name of ["/nonexistent/socket", "@nobody-listens-here", "vsock:2:1", `/${"x".repeat(108)}`]) {
        const { ready, stopping } = yield* manager(name)
        yield* ready
        yield* stopping
      }
    }))

  it.scoped("do nothing without a socket, and on other platforms", () =>
    Effect.gen(function*() {
      const { name, received } = yield* receiver("path")
      for (const layer of [layerFor(undefined, "linux"), layerFor({ socket: name, watchdog: undefined }, "win32")]) {
        yield* Effect.provide(Effect.flatMap(ServiceManager, ({ ready }) => ready), layer)
      }
      expect(received()).toEqual([])
      yield* Effect.provide(
        Effect.flatMap(ServiceManager, ({ ready }) => ready),
        layerFor({ socket: name, watchdog: undefined }, "linux")
      )
      expect(received()).toEqual(["READY=1\n"])
    }))
})

describe("the watchdog", () => {
  it.scoped("is pinged at half of its time, from a timer, until the end of the scope", () =>
    Effect.gen(function*() {
      const { name, received } = yield* receiver("path")
      const scope = yield* Scope.make()
      yield* Scope.extend(manager(name, Duration.seconds(30)), scope)
      yield* TestClock.adjust("0 millis")
      expect(received()).toEqual(["WATCHDOG=1\n"])
      yield* TestClock.adjust("14999 millis")
      expect(received()).toEqual([])
      yield* TestClock.adjust("1 millis")
      expect(received()).toEqual(["WATCHDOG=1\n"])
      yield* TestClock.adjust("60 seconds")
      expect(received()).toHaveLength(4)
      yield* Scope.close(scope, Exit.void)
      yield* TestClock.adjust("60 seconds")
      expect(received()).toEqual([])
    }))

  it.scopedLive("notices an event loop that is stuck", () =>
    Effect.gen(function*() {
      const { name, received } = yield* receiver("path")
      yield* manager(name, Duration.millis(20))
      yield* waitFor("a ping", () => received().length > 0)
      const pingsOfAStuckLoop = yield* Effect.sync(() => {
        received()
        for (const until = performance.now() + 200; performance.now() < until;) continue
        return received()
      })
      expect(pingsOfAStuckLoop).toEqual([])
      yield* waitFor("a ping of the loop that turns again", () => received().length > 0)
    }))
})

describe("takeNotifyVariables", () => {
  const take = (env: NodeJS.ProcessEnv) => ({ taken: takeNotifyVariables(env, 42), left: env })

  it("takes all of them out of the environment", () => {
    const env = { PATH: "/bin", NOTIFY_SOCKET: "@x", WATCHDOG_PID: "42", WATCHDOG_USEC: "3000000" }
    expect(take(env)).toEqual({ taken: { socket: "@x", watchdog: Duration.seconds(3) }, left: { PATH: "/bin" } })
    expect(take({ WATCHDOG_USEC: "3000000" })).toEqual({ taken: undefined, left: {} })
    expect(take({ NOTIFY_SOCKET: "" }).taken).toBeUndefined()
  })

  it("leaves a watchdog alone that is another process's, or that has no time", () => {
    const watchdog = (env: NodeJS.ProcessEnv) => take({ NOTIFY_SOCKET: "/x", ...env }).taken?.watchdog
    expect(watchdog({ WATCHDOG_USEC: "2000000" })).toEqual(Duration.seconds(2))
    expect(watchdog({ WATCHDOG_USEC: "2000000", WATCHDOG_PID: "43" })).toBeUndefined()
    for (const time of ["0", "-1", "1e6", " 5", "x", "9".repeat(40)]) {
      expect(watchdog({ WATCHDOG_USEC: time })).toBeUndefined()
    }
  })
})

describe("encodeSockaddrUn", () => {
  it("ends a path with a zero and an abstract name with the address", () => {
    expect(encodeSockaddrUn("/a")).toEqual(Uint8Array.of(1, 0, 0x2f, 0x61, 0))
    expect(encodeSockaddrUn("@a")).toEqual(Uint8Array.of(1, 0, 0, 0x61))
  })

  it("refuses what is no address, or too long", () => {
    for (
      const name of ["", "/", "@", "a", "vsock:2:3", "/a\0b", "@a\0b", `/${"a".repeat(107)}`, `@${"a".repeat(108)}`]
    ) {
      expect(encodeSockaddrUn(name)).toBeUndefined()
    }
    expect(encodeSockaddrUn(`/${"a".repeat(106)}`)).toHaveLength(110)
    expect(encodeSockaddrUn(`@${"a".repeat(107)}`)).toHaveLength(110)
  })

  it("opens sockets that children do not inherit", () => {
    const fd = openUnixDatagram()
    if (fd._tag === "Left") throw fd.left
    const flags = Number.parseInt(
      /flags:\s*(\d+)/.exec(fs.readFileSync(`/proc/self/fdinfo/${fd.right}`, "utf8"))?.[1] ?? "",
      8
    )
    closeSocket(fd.right)
    expect(flags & 0o2004000).toBe(0o2004000)
  })
})
