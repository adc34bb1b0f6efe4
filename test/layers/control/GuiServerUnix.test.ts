/** The GUI's socket: other programs, and GUIs that behave badly. */
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Logger from "effect/Logger"
import * as Redacted from "effect/Redacted"
import * as Scope from "effect/Scope"
import { spawn } from "node:child_process"
import { once } from "node:events"
import * as fs from "node:fs"
import * as net from "node:net"
import * as os from "node:os"
import * as path from "node:path"
import { afterAll } from "vitest"
import * as GuiServerHost from "../../../src/layers/control/GuiServerHost.ts"
import { MAX_WAITING } from "../../../src/layers/control/GuiServerUnix.ts"
import { noMdmSettings, type ServiceMessage } from "../../../src/model/gui.ts"
import { MAX_FRAME_BYTES } from "../../../src/protocol/gui/frames.ts"
import { GuiServer } from "../../../src/services/GuiServer.ts"
import { openedSince, openSockets } from "../../support/descriptors.ts"
import { describeWith } from "../../support/requires.ts"
import { waitFor } from "../../support/waitFor.ts"

const folder = fs.mkdtempSync(path.join(os.tmpdir(), "fz-gui-"))
afterAll(() => fs.rmSync(folder, { recursive: true }))
let sockets = 0
const newSocket = (): string => path.join(folder, `run-${sockets++}`, "tunnel.sock")
/** This process is the GUI too. */
const gui = fs.realpathSync(process.execPath)

/** Listens in this scope. */
const listen = (socket: string, options: { readonly guiPath?: string; readonly patienceMillis?: number } = {}) =>
  Effect.flatMap(GuiServer, (server) => server.listen).pipe(
    Effect.provide(GuiServerHost.layerFor("linux", { socket, guiPath: gui, ...options }))
  )

/** What a test says and hears as the GUI, with a codec of its own. */
const connect = (socket: string) =>
  Effect.promise(async () => {
    const connection = net.connect(socket)
    let isOver = false
    let bytes = Buffer.alloc(0)
    connection.on("error", () => undefined).on("close", () => (isOver = true)).on("end", () => (isOver = true))
    connection.on("data", (part: Buffer) => (bytes = Buffer.concat([bytes, part])))
    await once(connection, "connect")
    return {
      connection,
      isOver: () => isOver,
      say: (value: unknown) => connection.write(frameOf(Buffer.from(JSON.stringify(value)))),
      heard: () => {
        const messages: Array<unknown> = []
        for (let at = 0; at + 4 <= bytes.length && at + 4 + bytes.readUInt32BE(at) <= bytes.length;) {
          const end = at + 4 + bytes.readUInt32BE(at)
          messages.push(JSON.parse(bytes.toString("utf8", at + 4, end)))
          at = end
        }
        return messages
      }
    }
  })
const frameOf = (body: Uint8Array): Buffer => {
  const header = Buffer.alloc(4)
  header.writeUInt32BE(body.length)
  return Buffer.concat([header, body])
}

const hello: ServiceMessage = {
  _tag: "Hello",
  value: {
    firezone_id: "x",
    advanced_settings: { auth_url: "", api_url: "", log_filter: "" },
    mdm_settings: noMdmSettings
  }
}

/** The lines that were logged while the effect ran. */
const logged = <A, E, R>(effect: Effect.Effect<A, E, R>) => {
  const lines: Array<string> = []
  const logger = Logger.make(({ annotations, message }) => void lines.push(`${String(message)} ${String(annotations)}`))
  return Effect.map(
    Effect.provide(effect, Logger.replace(Logger.defaultLogger, logger)),
    (value) => [value, lines] as const
  )
}

describe("the GUI's socket", () => {
  it.scopedLive("carries messages both ways, and is the group's", () =>
    Effect.gen(function*() {
      const socket = newSocket()
      const { accept } = yield* listen(socket)
      assert.strictEqual(fs.statSync(socket).mode & 0o777, 0o660)
      assert.strictEqual(fs.statSync(socket).gid, process.getegid?.())
      const client = yield* connect(socket)
      const server = yield* accept
      client.say({ Connect: { token: "t", is_internet_resource_active: true } })
      client.say("Disconnect")
      const message = yield* server.receive
      assert.strictEqual(message._tag === "Connect" && Redacted.value(message.value.token), "t")
      assert.deepStrictEqual(yield* server.receive, { _tag: "Disconnect" })
      yield* server.send(hello)
      yield* server.send({ _tag: "TerminatingGracefully" })
      yield* waitFor("both", () => client.heard().length === 2)
      assert.deepStrictEqual(client.heard()[1], "TerminatingGracefully")
      client.connection.end()
      assert.strictEqual((yield* Effect.flip(server.receive)).reason, "it closed the connection")
    }))

  it.scopedLive("is served in turn: who waits is heard when it is its turn, and who has left is not missed", () =>
    Effect.gen(function*() {
      const socket = newSocket()
      const { accept } = yield* listen(socket)
      const first = yield* connect(socket)
      const scope = yield* Scope.make()
      yield* Scope.extend(accept, scope)
      const leaver = yield* connect(socket)
      leaver.connection.destroy()
      const last = yield* connect(socket)
      last.say("ClearLogs")
      yield* Scope.close(scope, Exit.void)
      const server = yield* accept
      assert.deepStrictEqual(yield* server.receive, { _tag: "ClearLogs" })
      yield* waitFor("the first to be sent away", first.isOver)
      assert.deepStrictEqual(last.heard(), [])
    }))

  it.live("goes with the service, and all that wait with it; the next service replaces what a killed one left", () =>
    Effect.gen(function*() {
      const socket = newSocket()
      const waiting = yield* Effect.scoped(Effect.zipRight(listen(socket), connect(socket)))
      yield* waitFor("it to be sent away", waiting.isOver)
      assert.isFalse(fs.existsSync(path.dirname(socket)))
      yield* Effect.scoped(Effect.gen(function*() {
        yield* listen(socket)
        const error = yield* Effect.flip(listen(socket))
        assert.include(error.message, `socket ${socket} for the GUI: another tunnel service answers on it`)
      }))
      fs.mkdirSync(path.dirname(socket))
      const code =
        `require("node:net").createServer().listen(process.argv[1], () => process.kill(process.pid, "SIGKILL"))`
      const child = spawn(process.execPath, ["-e", code, socket])
      yield* Effect.promise(() => once(child, "exit"))
      assert.isTrue(fs.existsSync(socket))
      yield* Effect.scoped(Effect.gen(function*() {
        const { accept } = yield* listen(socket)
        yield* connect(socket)
        yield* accept
      }))
    }))

  it.scopedLive("is of no use on other systems", () =>
    Effect.gen(function*() {
      const layer = GuiServerHost.layerFor("darwin", { socket: newSocket(), guiPath: gui })
      const error = yield* Effect.flip(Effect.provide(Effect.flatMap(GuiServer, (server) => server.listen), layer))
      assert.strictEqual(error._tag, "UnsupportedPlatform")
    }))
})

describe("host spec 18, test 12: wrong executable is rejected", () => {
  it.scopedLive("without a word, and the log says it once", () =>
    Effect.gen(function*() {
      const wrong = newSocket()
      const [, lines] = yield* logged(Effect.gen(function*() {
        yield* listen(wrong, { guiPath: "/usr/bin/firezone-client-gui" })
        const client = yield* connect(wrong)
        yield* waitFor("it to be sent away", client.isOver)
        assert.deepStrictEqual(client.heard(), [])
        const again = yield* connect(wrong)
        yield* waitFor("it to be sent away again", again.isOver)
        assert.deepStrictEqual(again.heard(), [])
      }))
      assert.lengthOf(lines, 1)
      assert.include(lines[0], `it runs ${gui}, which is not /usr/bin/firezone-client-gui`)
    }))
})

describeWith({ root: true, programs: ["unshare", "mount"] }, "host spec 18, test 12: wrong executable", () => {
  // Tells what becomes of its connection.
  const code = `
process.stdin.once("data", () => {
  const s = require("node:net").connect(process.argv[1])
  let heard = ""
  s.on("data", (d) => (heard += d)).on("error", (e) => (heard += e.code)).on("close", () => console.log(heard || "nothing"))
})
console.log("ready")`
  const start = (argv: ReadonlyArray<string>) =>
    Effect.acquireRelease(
      Effect.promise(async () => {
        const [command = "", ...args] = argv
        const child = spawn(command, args, { stdio: ["pipe", "pipe", "inherit"] })
        let said = ""
        child.stdout.setEncoding("utf8").on("data", (text: string) => (said += text))
        await once(child.stdout, "data")
        return { child, said: () => said }
      }),
      ({ child }) => Effect.sync(() => child.kill("SIGKILL"))
    )
  const copy = (name: string): string => {
    const file = path.join(folder, name)
    fs.copyFileSync(gui, file)
    return file
  }

  it.scopedLive(
    "of the GUI's name in a mount namespace of its own, and one that was replaced since",
    () =>
      Effect.gen(function*() {
        const socket = newSocket()
        const guiPath = copy("the-gui")
        const other = copy("another")
        const { accept } = yield* listen(socket, { guiPath })
        const hidden = yield* start([
          ...["unshare", "--mount", "sh", "-ec", "mount --bind \"$1\" \"$2\"; exec \"$2\" -e \"$3\" \"$4\"", "sh"],
          ...[other, guiPath, code, socket]
        ])
        const replaced = yield* start([guiPath, "-e", code, socket])
        fs.renameSync(other, guiPath)
        const right = yield* start([guiPath, "-e", code, socket])
        for (const each of [hidden, replaced]) {
          each.child.stdin.write("go\n")
          yield* waitFor("it to be sent away", () => each.said().includes("nothing") || each.said().includes("ECONN"))
        }
        right.child.stdin.write("go\n")
        const server = yield* accept
        yield* server.send({ _tag: "DisconnectedGracefully" })
        yield* server.send({ _tag: "TerminatingGracefully" })
        right.child.kill("SIGKILL")
        assert.strictEqual((yield* Effect.flip(server.receive))._tag, "GuiGone")
      }),
    30_000
  )
})

describe("a GUI that behaves badly", () => {
  it.scopedLive("is sent away for what cannot be read, without a word of it in the log", () =>
    Effect.gen(function*() {
      const socket = newSocket()
      const { accept } = yield* listen(socket)
      const bodies = [
        Buffer.from("{\"Connect\":{\"token\":5,\"is_internet_resource_active\":true}}"),
        Buffer.from("\"Panic\""),
        Buffer.from("{"),
        Buffer.from([0xff, 0xfe]),
        Buffer.alloc(0),
        Buffer.from("[".repeat(1_000_000)),
        Buffer.from("{\"Connect\":{\"token\":\"precious\",\"is_internet_resource_active\":1}}")
      ]
      const [, lines] = yield* logged(Effect.forEach(bodies, (body) =>
        Effect.scoped(Effect.gen(function*() {
          const client = yield* connect(socket)
          client.connection.write(frameOf(body))
          const server = yield* accept
          const gone = yield* Effect.flip(server.receive)
          assert.include(gone.reason, "cannot be read")
          assert.notInclude(gone.reason, "precious")
          yield* waitFor("it to be sent away", client.isOver)
          assert.strictEqual((yield* Effect.flip(server.send(hello)))._tag, "GuiGone")
        }))))
      assert.deepStrictEqual(lines, [])
    }))

  it.scopedLive("is sent away for a frame that is too long, as soon as it announces it", () =>
    Effect.gen(function*() {
      const socket = newSocket()
      const { accept } = yield* listen(socket)
      const client = yield* connect(socket)
      const header = Buffer.alloc(4)
      header.writeUInt32BE(MAX_FRAME_BYTES + 1)
      client.connection.write(header)
      const server = yield* accept
      assert.include((yield* Effect.flip(server.receive)).reason, "longer than 8388608 bytes")
      yield* waitFor("it to be sent away", client.isOver)
    }))

  it.scopedLive("is sent away for a frame that it does not end, also while it waits", () =>
    Effect.gen(function*() {
      const socket = newSocket()
      const { accept } = yield* listen(socket, { patienceMillis: 300 })
      const client = yield* connect(socket)
      const server = yield* accept
      const waiting = yield* connect(socket)
      for (const each of [client, waiting]) each.connection.write(Buffer.from([0, 0x7f, 0, 0, 1, 2, 3]))
      assert.include((yield* Effect.flip(server.receive)).reason, "was begun and not ended")
      yield* waitFor("the one that waits to be sent away", waiting.isOver)
    }))

  it.scopedLive("is sent away when it does not read, and what it was told is not kept", () =>
    Effect.gen(function*() {
      const socket = newSocket()
      const { accept } = yield* listen(socket, { patienceMillis: 300 })
      const client = yield* connect(socket)
      client.connection.pause()
      const server = yield* accept
      const long: ServiceMessage = {
        _tag: "OnDisconnect",
        value: { error_msg: "x".repeat(4_000_000), requires_sign_in: false }
      }
      const gone = yield* Effect.flip(Effect.forever(server.send(long)))
      assert.include(gone.reason, "does not read")
      assert.strictEqual((yield* Effect.flip(server.receive))._tag, "GuiGone")
    }))

  it.scopedLive("is not told what is longer than a frame, and hears the next", () =>
    Effect.gen(function*() {
      const socket = newSocket()
      const { accept } = yield* listen(socket)
      const client = yield* connect(socket)
      const server = yield* accept
      const [, lines] = yield* logged(server.send({
        _tag: "OnDisconnect",
        value: { error_msg: "x".repeat(MAX_FRAME_BYTES), requires_sign_in: false }
      }))
      assert.lengthOf(lines, 1)
      yield* server.send({ _tag: "DisconnectedGracefully" })
      yield* waitFor("the next", () => client.heard().length === 1)
    }))

  it.scopedLive("costs no more than its allowance, and the process has time for others", () =>
    Effect.gen(function*() {
      const socket = newSocket()
      const { accept } = yield* listen(socket)
      const client = yield* connect(socket)
      const server = yield* accept
      for (let i = 0; i < 5000; i++) client.say("ClearLogs")
      let taken = 0
      yield* Effect.forever(Effect.tap(server.receive, () => Effect.sync(() => (taken += 1)))).pipe(
        Effect.ignore,
        Effect.forkScoped
      )
      yield* waitFor("those that are free", () => taken >= 100)
      const began = performance.now()
      yield* waitFor("some more", () => taken >= 120)
      const millis = performance.now() - began
      assert.isAtLeast(millis, 500)
      assert.isBelow(taken, 5000)
    }))

  it.scopedLive(
    "and a thousand of it: a few wait, the others are sent away, and no descriptor is left",
    () =>
      Effect.gen(function*() {
        const socket = newSocket()
        const before = openSockets()
        const clients: Array<Effect.Effect.Success<ReturnType<typeof connect>>> = []
        yield* Effect.scoped(Effect.gen(function*() {
          const { accept } = yield* listen(socket)
          const served = yield* connect(socket)
          const server = yield* accept
          for (let i = 0; i < 1000; i++) clients.push(yield* connect(socket))
          yield* waitFor(
            "the rest to be sent away",
            () => clients.filter((each) => each.isOver()).length >= 1000 - MAX_WAITING
          )
          yield* server.send({ _tag: "DisconnectedGracefully" })
          yield* waitFor("the one that is served to be served", () => served.heard().length === 1)
          // Who goes makes room.
          for (const { connection } of clients) connection.destroy()
          const listenerAndBothEnds = 3
          yield* waitFor("the others to be gone", () => openedSince(before) === listenerAndBothEnds)
          const late = yield* connect(socket)
          late.say("Disconnect")
          served.connection.destroy()
          assert.deepStrictEqual(yield* (yield* accept).receive, { _tag: "Disconnect" })
        }))
        yield* waitFor("every descriptor to be closed", () => openedSince(before) === 0)
      }),
    30_000
  )
})
