/** NetworkManager's word about its primary connection: from a bus that the test plays, and over a real one. */
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as Layer from "effect/Layer"
import * as Logger from "effect/Logger"
import * as LogLevel from "effect/LogLevel"
import * as Stream from "effect/Stream"
import * as TestClock from "effect/TestClock"
import { spawn, spawnSync } from "node:child_process"
import * as fs from "node:fs"
import * as net from "node:net"
import * as os from "node:os"
import * as path from "node:path"
import { beforeAll } from "vitest"
import * as NetworkChangesLinux from "../../../src/layers/network/NetworkChangesLinux.ts"
import { primaryConnections } from "../../../src/layers/network/primaryConnections.ts"
import * as ReadinessPollerKoffi from "../../../src/layers/poll/ReadinessPollerKoffi.ts"
import { MessageType } from "../../../src/protocol/wire/dbus.ts"
import { NetworkChanges } from "../../../src/services/NetworkChanges.ts"
import { encodeMessage, PRIMARY, propertiesChanged } from "../../support/dbusMessages.ts"
import { enterPrivateNetworkNamespace } from "../../support/netns.ts"
import { describeWith } from "../../support/requires.ts"
import { makeRouteResolverDouble, routeVia } from "../../support/RouteResolverDouble.ts"
import { waitFor } from "../../support/waitFor.ts"

const BUS = "org.freedesktop.DBus"
const MANAGER = "org.freedesktop.NetworkManager"

const directory = Effect.acquireRelease(
  Effect.sync(() => fs.mkdtempSync(path.join(os.tmpdir(), "bus-"))),
  (made) => Effect.sync(() => fs.rmSync(made, { recursive: true, force: true }))
)

/** Listens at the address; counts what comes, and notes what is logged with its level. */
const listen = (address: string) =>
  Effect.gen(function*() {
    const heard = { count: 0, logged: new Array<string>() }
    const logger = Logger.make(({ logLevel, message }) => void heard.logged.push(`${logLevel._tag} ${String(message)}`))
    const fiber = yield* primaryConnections(address).pipe(
      Stream.runForEach(() => Effect.sync(() => heard.count++)),
      Effect.provide(Logger.replace(Logger.defaultLogger, logger)),
      Logger.withMinimumLogLevel(LogLevel.All),
      Effect.forkScoped
    )
    return { fiber, heard }
  })

const reply = (replySerial: number) =>
  encodeMessage({ type: MessageType.Return, fields: [[5, "u", replySerial], [7, "s", BUS]] })

/** A bus that agrees to all, though not before `agreement`, and says what the test says. */
const serve = (socketPath: string, agreement: Promise<void> = Promise.resolve()) =>
  Effect.acquireRelease(
    Effect.promise(async () => {
      const connections = new Set<net.Socket>()
      const server = net.createServer((socket) => {
        connections.add(socket)
        socket.on("close", () => connections.delete(socket))
        socket.on("error", () => socket.destroy())
        socket.once("data", () => {
          socket.write(`OK ${"0".repeat(32)}\r\n`)
          socket.once("data", () => void agreement.then(() => socket.write(Buffer.concat([reply(1), reply(2)]))))
        })
      })
      await new Promise<void>((resolve) => server.listen(socketPath, resolve))
      return {
        connections,
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

describe("NetworkManager's primary connection", () => {
  it.scoped("is told of when it changes, and when listening begins", () =>
    Effect.gen(function*() {
      const socketPath = path.join(yield* directory, "bus")
      const bus = yield* serve(socketPath)
      const { heard } = yield* listen(`unix:path=${socketPath}`)
      yield* waitFor("the subscription", () => heard.count === 1)
      bus.say(propertiesChanged(PRIMARY))
      yield* waitFor("a change", () => heard.count === 2)
      bus.say(propertiesChanged([["State", "u", 70]], ["PrimaryConnection"], { isBigEndian: true }))
      yield* waitFor("an invalidation", () => heard.count === 3)
      bus.say(
        propertiesChanged([["State", "u", 70]]),
        propertiesChanged([["PrimaryConnectionType", "s", "vpn"]], ["ActiveConnections"]),
        propertiesChanged(PRIMARY, [], { destination: ":1.2" }),
        encodeMessage({ fields: [[3, "s", "StateChanged"]], signature: "u", body: [70] })
      )
      bus.hangUp()
      // All that came before the end has been heard by then.
      yield* waitFor("the end", () => heard.logged.length === 1)
      assert.strictEqual(heard.count, 3)
    }))

  it.scoped("is told of again when the bus went away and came back", () =>
    Effect.gen(function*() {
      const socketPath = path.join(yield* directory, "bus")
      const { fiber, heard } = yield* listen(`unix:path=${socketPath}`)
      yield* waitFor("a first attempt in vain", () => heard.logged.length === 1)
      const bus = yield* serve(socketPath)
      yield* TestClock.adjust("30 seconds")
      yield* waitFor("the subscription", () => heard.count === 1)
      bus.hangUp()
      yield* waitFor("the loss", () => heard.logged.length === 2)
      yield* TestClock.adjust("29 seconds")
      assert.strictEqual(bus.connections.size, 0)
      yield* TestClock.adjust("1 second")
      yield* waitFor("the next subscription", () => heard.count === 2)
      bus.say(propertiesChanged(PRIMARY))
      yield* waitFor("a change", () => heard.count === 3)
      bus.say(new TextEncoder().encode("no message of D-Bus"))
      yield* waitFor("the end of that connection", () => heard.logged.length === 3 && bus.connections.size === 0)
      yield* TestClock.adjust("30 seconds")
      yield* waitFor("the third subscription", () => heard.count === 4)
      assert.isTrue(heard.logged.every((line) => line.startsWith("Debug not listening to NetworkManager: ")))
      assert.strictEqual(bus.connections.size, 1)
      yield* Fiber.interrupt(fiber)
      yield* waitFor("the connection's end with its stream", () => bus.connections.size === 0)
    }))

  it.scoped("is nothing where there is no bus", () =>
    Effect.gen(function*() {
      const none = yield* listen("unix:abstract=none")
      yield* Fiber.join(none.fiber)
      assert.deepStrictEqual(none.heard, { count: 0, logged: [] })
      // More than the address of a socket can hold.
      const long = yield* listen(`unix:path=/${"x".repeat(500)}`)
      yield* waitFor("an attempt in vain", () => long.heard.logged.length === 1)
      assert.strictEqual(long.heard.count, 0)
    }))
})

const CONFIGURATION = (socketPath: string): string =>
  `<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN" "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig><type>system</type><listen>unix:path=${socketPath}</listen><auth>EXTERNAL</auth><policy context="default">
<allow user="*"/><allow own="*"/><allow send_type="method_call"/><allow send_type="signal"/>
<allow send_requested_reply="true" send_type="method_return"/><allow send_requested_reply="true" send_type="error"/>
<allow receive_type="method_call"/><allow receive_type="method_return"/><allow receive_type="error"/>
<allow receive_type="signal"/></policy></busconfig>`

/** A program that the scope kills. */
const running = (program: string, options: ReadonlyArray<string>, environment = process.env) =>
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

const daemon = (home: string) =>
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

/** A program on the bus, with a well-known name if it has one. */
const join = (socketPath: string, name?: string) =>
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

let serial = 10
const primaryChanged = (options: { readonly isBigEndian?: boolean; readonly destination?: string } = {}) =>
  propertiesChanged(PRIMARY, [], { ...options, serial: serial++ })

describeWith({ programs: ["dbus-daemon"] }, "NetworkManager's primary connection on a real bus", () => {
  it.scoped("is told of, in either byte order, when who owns the name says so, and nobody else", () =>
    Effect.gen(function*() {
      const bus = yield* daemon(yield* directory)
      const { heard } = yield* listen(bus.address)
      yield* waitFor("the subscription", () => heard.count === 1)
      const manager = yield* join(bus.socketPath, MANAGER)
      manager(primaryChanged())
      yield* waitFor("a change", () => heard.count === 2)
      manager(primaryChanged({ isBigEndian: true }))
      yield* waitFor("a change in the other byte order", () => heard.count === 3)

      // Ours was the first connection to this bus.
      const impostor = yield* join(bus.socketPath, "org.example.NetworkManager")
      impostor(primaryChanged())
      impostor(primaryChanged({ destination: ":1.0" }))
      manager(propertiesChanged([["State", "u", 70]], [], { serial: serial++ }))
      // The bus has served all that was written before once it has named another program.
      yield* join(bus.socketPath)
      bus.process.kill("SIGKILL")
      // All that the bus had passed on has been heard by then.
      yield* waitFor("the end", () => heard.logged.length === 1)
      assert.strictEqual(heard.count, 3)
    }))

  it.scoped("is told of again on the bus that took the place of one that died", () =>
    Effect.gen(function*() {
      const home = yield* directory
      const bus = yield* daemon(home)
      const { heard } = yield* listen(bus.address)
      yield* waitFor("the subscription", () => heard.count === 1)
      bus.process.kill("SIGKILL")
      yield* waitFor("the loss", () => heard.logged.length === 1)
      fs.rmSync(bus.socketPath)
      const next = yield* daemon(home)
      yield* TestClock.adjust("30 seconds")
      yield* waitFor("the next subscription", () => heard.count === 2)
      const manager = yield* join(next.socketPath, MANAGER)
      manager(primaryChanged())
      yield* waitFor("a change", () => heard.count === 3)
      assert.deepStrictEqual(heard.logged, ["Debug not listening to NetworkManager: the bus went away"])
    }))
})

describeWith({ root: true }, "roams", () => {
  beforeAll(enterPrivateNetworkNamespace)

  it.scopedLive("begin when NetworkManager speaks and the egress has moved, though the kernel told us nothing", () =>
    Effect.gen(function*() {
      const socketPath = path.join(yield* directory, "bus")
      let agree = (): void => {}
      const bus = yield* serve(
        socketPath,
        new Promise((resolve) => {
          agree = resolve
        })
      )
      const resolver = makeRouteResolverDouble()
      const seen: Array<string> = []
      const { roams } = yield* NetworkChanges.pipe(
        Effect.provide(NetworkChangesLinux.layerWith({ tunnelName: "tun-test", bus: `unix:path=${socketPath}` })),
        Effect.provide(Layer.merge(ReadinessPollerKoffi.layer, resolver.layer))
      )
      yield* roams.pipe(Stream.runForEach(({ _tag }) => Effect.sync(() => seen.push(_tag))), Effect.forkScoped)
      const looks = (): number => [...resolver.asked.values()][0] ?? 0
      yield* waitFor("a look as the kernel is listened to", () => looks() === 1)
      agree()
      yield* waitFor("a look as the bus is listened to", () => looks() === 2)
      bus.say(propertiesChanged(PRIMARY))
      yield* waitFor("a look as NetworkManager speaks", () => looks() === 3)
      assert.deepStrictEqual(seen, [])
      resolver.answer = (to) => Effect.succeed(routeVia("wlan0", to, { interfaceIndex: 9 }))
      bus.say(propertiesChanged(PRIMARY))
      yield* waitFor("the roam", () => seen.length === 2)
      assert.deepStrictEqual(seen, ["Moving", "Moved"])
    }))
})

/** NetworkManager with two uplinks in namespaces of its own, where nothing that it does stays. */
const MANAGED = `set -e
mount -t tmpfs tmpfs /run
mount -t tmpfs tmpfs /var/lib
mount -t sysfs sysfs /sys
mount -o remount,ro,bind /sys # a writable one makes it wait for udev
mkdir /run/NetworkManager /var/lib/NetworkManager
for i in 0 1; do
  ip link add eth$i type veth peer name peer$i
  ip link set eth$i up
  ip link set peer$i up
done
exec NetworkManager --no-daemon --config="$1" --config-dir=/run/none`
const MANAGER_CONFIGURATION = `[main]
plugins=keyfile
dns=none
rc-manager=unmanaged
no-auto-default=*
auth-polkit=false
[keyfile]
path=/run/NetworkManager/system-connections
[connectivity]
enabled=false
`

describeWith(
  { root: true, programs: ["dbus-daemon", "NetworkManager", "nmcli", "unshare"] },
  "the primary connection of a real NetworkManager",
  () => {
    it.scopedLive("is told of as uplinks come and go", () =>
      Effect.gen(function*() {
        const home = yield* directory
        const bus = yield* daemon(home)
        const environment = { ...process.env, DBUS_SYSTEM_BUS_ADDRESS: bus.address }
        const configuration = path.join(home, "NetworkManager.conf")
        fs.writeFileSync(configuration, MANAGER_CONFIGURATION)
        const { heard } = yield* listen(bus.address)
        yield* waitFor("the subscription", () => heard.count === 1)
        yield* running("unshare", ["-m", "-n", "sh", "-c", MANAGED, "sh", configuration], environment)
        const nmcli = (args: string): number | null =>
          spawnSync("nmcli", args.split(" "), { env: environment, stdio: "ignore" }).status
        yield* waitFor("NetworkManager", () => nmcli("general status") === 0)
        for (const [i, metric] of [600, 100].entries()) {
          const addresses = `ipv4.method manual ipv4.addresses 10.60.${i}.2/24 ipv4.gateway 10.60.${i}.1`
          const options = `${addresses} ipv4.route-metric ${metric} ipv6.method disabled autoconnect no`
          assert.strictEqual(nmcli(`con add save no type ethernet ifname eth${i} con-name uplink${i} ${options}`), 0)
        }
        for (const change of ["up uplink0", "up uplink1", "down uplink1", "down uplink0"]) {
          const before = heard.count
          assert.strictEqual(nmcli(`con ${change}`), 0, change)
          yield* waitFor(change, () => heard.count > before)
        }
      }))
  }
)
