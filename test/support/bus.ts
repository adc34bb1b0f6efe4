/** D-Bus message buses for tests: one that the test plays, and the real daemon. */
import * as Effect from "effect/Effect"
import { spawn } from "node:child_process"
import * as fs from "node:fs"
import * as net from "node:net"
import * as os from "node:os"
import * as path from "node:path"
import { type BusMessage, messageLength, MessageType, parseMessage } from "../../src/protocol/wire/dbus.ts"
import { encodeMessage, type Value } from "./dbusMessages.ts"
import { waitFor } from "./waitFor.ts"

export const BUS = "org.freedesktop.DBus"

/** A folder of the test's own. */
export const makeDirectory = Effect.acquireRelease(
  Effect.sync(() => fs.mkdtempSync(path.join(os.tmpdir(), "bus-"))),
  (made) => Effect.sync(() => fs.rmSync(made, { recursive: true, force: true }))
)

export const serialOf = ({ bytes }: BusMessage): number =>
  new DataView(bytes.buffer, bytes.byteOffset).getUint32(8, true)

/** What a call returns. */
export const returning = (
  replySerial: number,
  { body, sender = BUS, signature }: { sender?: string; signature?: string; body?: ReadonlyArray<Value> } = {}
): Uint8Array =>
  encodeMessage({
    type: MessageType.Return,
    fields: [[5, "u", replySerial], [7, "s", sender]],
    ...(signature === undefined || body === undefined ? {} : { signature, body })
  })

export const refusing = (replySerial: number, name: string, reason = "as the test wants", sender = BUS): Uint8Array =>
  encodeMessage({
    type: MessageType.Error,
    fields: [[5, "u", replySerial], [4, "s", name], [7, "s", sender]],
    signature: "s",
    body: [reason]
  })

/** What the bus answers to a call; nothing for one that gets no reply. */
export type Answer = (call: BusMessage, serial: number) => Uint8Array | undefined | Promise<Uint8Array | undefined>

const agree: Answer = (_, serial) => returning(serial)

/** A bus that the test plays: lets everybody in and agrees to all, unless `answer` says otherwise. */
export const serveBus = (socketPath: string, answer: Answer = agree) =>
  Effect.acquireRelease(
    Effect.promise(async () => {
      const connections = new Set<net.Socket>()
      const calls: Array<BusMessage> = []
      const server = net.createServer((socket) => {
        connections.add(socket)
        socket.on("close", () => connections.delete(socket))
        socket.on("error", () => socket.destroy())
        let received = Buffer.alloc(0)
        let isIn = false
        const handle = async (bytes: Uint8Array): Promise<void> => {
          const call = parseMessage(Uint8Array.from(bytes))
          if (call === undefined) return void socket.destroy()
          calls.push(call)
          const reply = await answer(call, serialOf(call))
          if (reply !== undefined) socket.write(reply)
        }
        socket.on("data", (bytes) => {
          received = Buffer.concat([received, bytes])
          const line = isIn ? -1 : received.indexOf("\r\n")
          if (line >= 0) {
            socket.write(`OK ${"0".repeat(32)}\r\n`)
            received = received.subarray(line + 2)
            isIn = true
          }
          if (received.subarray(0, 7).toString() === "BEGIN\r\n") received = received.subarray(7)
          if (!isIn) return
          while (received.length >= 16) {
            const length = messageLength(Uint8Array.from(received.subarray(0, 16))) ?? 0
            if (length === 0 || received.length < length) break
            void handle(received.subarray(0, length))
            received = received.subarray(length)
          }
        })
      })
      await new Promise<void>((resolve) => server.listen(socketPath, resolve))
      return {
        address: `unix:path=${socketPath}`,
        connections,
        calls,
        say: (...messages: ReadonlyArray<Uint8Array>) => {
          for (const socket of connections) socket.write(Buffer.concat(messages))
        },
        hangUp: () => {
          for (const socket of connections) socket.end()
        },
        stop: () => {
          server.close()
          for (const socket of connections) socket.destroy()
        }
      }
    }),
    ({ stop }) => Effect.sync(stop)
  )

/** A program that the scope kills. */
export const running = (program: string, options: ReadonlyArray<string>, environment = process.env) =>
  Effect.acquireRelease(
    Effect.sync(() => spawn(program, options, { env: environment, stdio: ["ignore", "pipe", "ignore"] })),
    (started) =>
      Effect.promise(() =>
        new Promise<void>((resolve) => {
          if (started.exitCode !== null || started.signalCode !== null) return resolve()
          started.once("exit", () => resolve())
          started.kill("SIGKILL")
        })
      )
  )

const CONFIGURATION = (socketPath: string): string =>
  `<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN" "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig><type>system</type><listen>unix:path=${socketPath}</listen><auth>EXTERNAL</auth><policy context="default">
<allow user="*"/><allow own="*"/><allow send_type="method_call"/><allow send_type="signal"/>
<allow send_requested_reply="true" send_type="method_return"/><allow send_requested_reply="true" send_type="error"/>
<allow receive_type="method_call"/><allow receive_type="method_return"/><allow receive_type="error"/>
<allow receive_type="signal"/></policy></busconfig>`

/** The real daemon, with a socket in the folder. */
export const startBusDaemon = (home: string) =>
  Effect.gen(function*() {
    const socketPath = path.join(home, "bus")
    const configuration = path.join(home, "bus.conf")
    fs.writeFileSync(configuration, CONFIGURATION(socketPath))
    const options = [`--config-file=${configuration}`, "--nofork", "--nopidfile", "--print-address=1"]
    const process = yield* running("dbus-daemon", options)
    let isListening = false
    process.stdout.once("data", () => {
      isListening = true
    })
    yield* waitFor("the bus", () => isListening)
    return { address: `unix:path=${socketPath}`, socketPath, process }
  })

/** A program on the bus, with a well-known name if it has one; returns how it says something. */
export const joinBus = (socketPath: string, name?: string) =>
  Effect.acquireRelease(
    Effect.sync(() => {
      const socket = net.connect({ path: socketPath })
      let received = ""
      socket.on("data", (bytes) => {
        received += bytes.toString("latin1")
      })
      socket.on("error", () => socket.destroy())
      const uid = Buffer.from(String(process.geteuid?.())).toString("hex")
      const call = (serial: number, member: string, signature?: string, body?: ReadonlyArray<string | number>) =>
        encodeMessage({
          type: MessageType.Call,
          serial,
          fields: [[1, "o", "/org/freedesktop/DBus"], [2, "s", BUS], [3, "s", member], [6, "s", BUS]],
          ...(signature === undefined || body === undefined ? {} : { signature, body })
        })
      socket.write(`\0AUTH EXTERNAL ${uid}\r\n`)
      socket.once("data", () => {
        socket.write("BEGIN\r\n")
        socket.write(call(1, "Hello"))
        if (name !== undefined) socket.write(call(2, "RequestName", "su", [name, 0]))
      })
      return { socket, isReady: () => received.includes(name ?? ":1.") && received.includes("NameAcquired") }
    }),
    ({ socket }) => Effect.sync(() => socket.destroy())
  ).pipe(
    Effect.tap(({ isReady }) => waitFor("a name", isReady)),
    Effect.map(({ socket }) => (message: Uint8Array) => void socket.write(message))
  )
