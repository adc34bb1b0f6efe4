/** The system bus: one that the test plays, and the real daemon. */
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as Layer from "effect/Layer"
import * as Stream from "effect/Stream"
import * as TestClock from "effect/TestClock"
import * as fs from "node:fs"
import * as path from "node:path"
import * as SystemBusLive from "../../../src/layers/bus/SystemBusLive.ts"
import { busRequest, MOST_CALLS } from "../../../src/protocol/dbus/BusConnection.ts"
import { parsePropertiesChanged } from "../../../src/protocol/wire/dbus.ts"
import { SystemBus } from "../../../src/services/SystemBus.ts"
import {
  type Answer,
  joinBus,
  makeDirectory,
  refusing,
  returning,
  serveBus,
  startBusDaemon
} from "../../support/bus.ts"
import { encodeMessage, PRIMARY, propertiesChanged } from "../../support/dbusMessages.ts"
import { describeWith } from "../../support/requires.ts"
import { waitFor } from "../../support/waitFor.ts"

const MANAGER = "org.freedesktop.NetworkManager"
const rule = {
  sender: MANAGER,
  path: "/org/freedesktop/NetworkManager",
  interface: "org.freedesktop.DBus.Properties",
  member: "PropertiesChanged"
}
const request = { destination: "org.example", path: "/", interface: "org.example", member: "Do" }

const connectTo = (address: string) =>
  Effect.flatMap(Layer.build(SystemBusLive.layerWith({ address })), (context) => Effect.provide(SystemBus, context))

const listenTo = (bus: typeof SystemBus.Service, to = rule) =>
  Effect.gen(function*() {
    const heard: Array<string> = []
    const fiber = yield* bus.signals(to).pipe(
      Stream.runForEach((signal) =>
        Effect.sync(() =>
          heard.push(
            signal._tag === "Listening" ? "listening" : parsePropertiesChanged(signal.message)?.changed[0] ?? ""
          )
        )
      ),
      Effect.forkScoped
    )
    return { heard, fiber }
  })

/** Answers every call of `org.example` by `answer`. */
const played = (answer: Answer) =>
  Effect.gen(function*() {
    const socketPath = path.join(yield* makeDirectory, "bus")
    return yield* serveBus(
      socketPath,
      (call, serial) => call.destination === request.destination ? answer(call, serial) : returning(serial)
    )
  })

describe("a call", () => {
  it.scoped("brings the values of its reply, over one connection for all, which ends with the scope", () =>
    Effect.gen(function*() {
      const served = yield* played((call, serial) =>
        returning(serial, { sender: ":1.5", signature: "s", body: [`${call.member} done`] })
      )
      yield* Effect.scoped(Effect.gen(function*() {
        const bus = yield* connectTo(served.address)
        assert.strictEqual(served.connections.size, 0)
        const members = ["A", "B", "C"]
        const replies = yield* Effect.forEach(members, (member) => bus.call({ ...request, member }), {
          concurrency: "unbounded"
        })
        assert.deepStrictEqual(replies, [["A done"], ["B done"], ["C done"]])
        assert.strictEqual(served.connections.size, 1)
      }))
      yield* waitFor("the end of the connection", () => served.connections.size === 0)
    }))

  it.scoped("is refused with the name and the reason of the error", () =>
    Effect.gen(function*() {
      const served = yield* played((_, serial) => refusing(serial, "org.example.Error.No", "not today", ":1.5"))
      const error = yield* Effect.flip((yield* connectTo(served.address)).call(request))
      assert.strictEqual(error._tag, "BusRefused")
      assert.strictEqual(error.message, "Do over D-Bus: org.example.Error.No: not today")
    }))

  it.scoped("that nobody answers ends in time, also where nothing can be interrupted, and so does what came behind it", () =>
    Effect.gen(function*() {
      const served = yield* played(() => undefined)
      const bus = yield* connectTo(served.address)
      const fiber = yield* Effect.fork(
        Effect.flip(Effect.uninterruptible(bus.call(request, { timeoutMillis: 1000 })))
      )
      yield* waitFor("the call", () => served.calls.some(({ member }) => member === "Do"))
      yield* TestClock.adjust("1 second")
      const error = yield* Fiber.join(fiber)
      assert.strictEqual(error._tag, "BusTimedOut")
      assert.strictEqual(error.message, "Do over D-Bus: no answer within 1000 ms")
      // Those that ended leave room for others.
      const many = yield* Effect.fork(
        Effect.forEach(Array(MOST_CALLS + 1).fill(0), () => Effect.flip(bus.call(request)), {
          concurrency: "unbounded"
        })
      )
      yield* waitFor("the calls", () => served.calls.filter(({ member }) => member === "Do").length === MOST_CALLS + 1)
      yield* TestClock.adjust("5 seconds")
      const tags = (yield* Fiber.join(many)).map(({ _tag }) => _tag)
      assert.strictEqual(tags.filter((tag) => tag === "BusTimedOut").length, MOST_CALLS)
      assert.strictEqual(tags.filter((tag) => tag === "BusUnavailable").length, 1)
    }))

  it.scoped("is not possible without a bus, by one that hangs, or when it goes away", () =>
    Effect.gen(function*() {
      const home = yield* makeDirectory
      const reasonOf = (address: string) =>
        Effect.flatMap(
          connectTo(address),
          (bus) => Effect.map(Effect.flip(bus.call(request)), (error) => error.message)
        )
      assert.include(yield* reasonOf("unix:abstract=none"), "this system has none")
      assert.include(yield* reasonOf(`unix:path=${home}/none`), "ENOENT")
      assert.include(yield* reasonOf(`unix:path=/${"x".repeat(500)}`), "cannot be used")

      const mute = yield* serveBus(path.join(home, "mute"), () => undefined)
      const hanging = yield* Effect.fork(reasonOf(mute.address))
      yield* waitFor("Hello", () => mute.calls.length === 1)
      yield* TestClock.adjust("2 seconds")
      assert.include(yield* Fiber.join(hanging), "it did not answer within 2000 ms")
      yield* waitFor("the end of the attempt", () => mute.connections.size === 0)

      const served = yield* played(() => undefined)
      const cut = yield* Effect.fork(reasonOf(served.address))
      yield* waitFor("the call", () => served.calls.length === 2)
      served.hangUp()
      assert.include(yield* Fiber.join(cut), "it went away")
    }))

  it.scoped("connects anew after the bus went away", () =>
    Effect.gen(function*() {
      const served = yield* played((_, serial) => returning(serial, { sender: ":1.5" }))
      const bus = yield* connectTo(served.address)
      yield* bus.call(request)
      served.hangUp()
      yield* waitFor("the end", () => served.connections.size === 0)
      // We hear of it when our event loop does.
      yield* Effect.retry(bus.call(request), { times: 100, while: ({ _tag }) => _tag === "BusUnavailable" })
      assert.strictEqual(served.connections.size, 1)
    }))
})

describe("signals", () => {
  it.scoped("are told to who listens, of one connection for all, and again after the bus came back", () =>
    Effect.gen(function*() {
      const home = yield* makeDirectory
      const socketPath = path.join(home, "bus")
      const bus = yield* connectTo(`unix:path=${socketPath}`)
      const first = yield* listenTo(bus)
      const other = yield* listenTo(bus, { ...rule, path: "/other" })
      let served = yield* serveBus(socketPath)
      const everySecond = (what: string, holds: () => boolean) =>
        Effect.gen(function*() {
          const waiting = yield* Effect.fork(waitFor(what, holds))
          while ((yield* Fiber.poll(waiting))._tag === "None") {
            yield* TestClock.adjust("1 second")
            yield* Effect.promise(() => new Promise((resolve) => void setTimeout(resolve, 5)))
          }
          yield* Fiber.join(waiting)
        })
      yield* everySecond("both subscriptions", () => first.heard.length + other.heard.length === 2)
      assert.strictEqual(served.connections.size, 1)
      served.say(
        propertiesChanged(PRIMARY),
        encodeMessage({ fields: [[1, "o", rule.path], [3, "s", "StateChanged"]] }),
        propertiesChanged(PRIMARY, [], { destination: ":1.2" }),
        propertiesChanged([["State", "u", 1]])
      )
      yield* waitFor("the signals", () => first.heard.length === 3)
      assert.deepStrictEqual(first.heard, ["listening", "PrimaryConnection", "State"])
      assert.deepStrictEqual(other.heard, ["listening"])

      served.stop()
      served = yield* serveBus(socketPath)
      yield* everySecond("the next subscriptions", () => first.heard.length === 4 && other.heard.length === 2)
      served.say(new TextEncoder().encode("no message of D-Bus"))
      yield* everySecond("the third", () => first.heard.length === 5)
      assert.strictEqual(first.heard[4], "listening")

      yield* Fiber.interrupt(first.fiber)
      yield* waitFor("the end of the rule", () => served.calls.some(({ member }) => member === "RemoveMatch"))
      served.say(propertiesChanged(PRIMARY))
      assert.strictEqual(first.heard.length, 5)
    }))
})

describeWith({ programs: ["dbus-daemon"] }, "the real bus", () => {
  it.scopedLive("answers calls, refuses those to nobody, and passes on what the rule wants", () =>
    Effect.gen(function*() {
      const home = yield* makeDirectory
      const daemon = yield* startBusDaemon(home)
      const bus = yield* connectTo(daemon.address)
      const [id] = yield* bus.call(busRequest("GetId"))
      assert.match(String(id), /^[0-9a-f]{32}$/)
      assert.include((yield* bus.call(busRequest("ListNames")))[0] as ReadonlyArray<string>, ":1.0")
      const refused = yield* Effect.flip(bus.call(request))
      assert.include(refused.message, "org.freedesktop.DBus.Error.")

      const { heard } = yield* listenTo(bus)
      const owners: Array<string> = []
      yield* bus.signals({
        sender: "org.freedesktop.DBus",
        path: "/org/freedesktop/DBus",
        interface: "org.freedesktop.DBus",
        member: "NameOwnerChanged",
        firstValue: MANAGER
      }).pipe(Stream.runForEach(({ _tag }) => Effect.sync(() => owners.push(_tag))), Effect.forkScoped)
      yield* waitFor("listening", () => heard.length === 1 && owners.length === 1)
      yield* joinBus(daemon.socketPath, "org.example.Other")
      const manager = yield* joinBus(daemon.socketPath, MANAGER)
      manager(propertiesChanged(PRIMARY))
      yield* waitFor("the signal", () => heard.length === 2)
      assert.deepStrictEqual(owners, ["Listening", "Signal"])

      daemon.process.kill("SIGKILL")
      yield* waitFor("the end", () => daemon.process.signalCode !== null)
      fs.rmSync(daemon.socketPath)
      const next = yield* startBusDaemon(home)
      yield* waitFor("listening again", () => heard.length === 3)
      const again = yield* joinBus(next.socketPath, MANAGER)
      again(propertiesChanged(PRIMARY))
      yield* waitFor("the signal", () => heard.length === 4)
    }))
})
