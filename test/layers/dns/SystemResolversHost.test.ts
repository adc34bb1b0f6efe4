/** The system's resolvers, with files in a folder of the test's own and a bus that the test plays. */
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import type * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import * as TestClock from "effect/TestClock"
import * as fs from "node:fs"
import * as os from "node:os"
import * as path from "node:path"
import * as SystemResolversHost from "../../../src/layers/dns/SystemResolversHost.ts"
import type { ResolvConfPaths } from "../../../src/layers/dns/systemServers.ts"
import { ip, ipToBytes } from "../../../src/protocol/wire/address.ts"
import { parseMessage } from "../../../src/protocol/wire/dbus.ts"
import { BusRefused } from "../../../src/services/SystemBus.ts"
import { SystemResolvers } from "../../../src/services/SystemResolvers.ts"
import { propertiesChanged } from "../../support/dbusMessages.ts"
import { makeSystemBusDouble } from "../../support/SystemBusDouble.ts"
import { waitFor } from "../../support/waitFor.ts"

const STUB = "nameserver 127.0.0.53\noptions edns0 trust-ad\n"

const onSystem = Effect.gen(function*() {
  const folder = yield* Effect.acquireRelease(
    Effect.sync(() => fs.mkdtempSync(path.join(os.tmpdir(), "resolvers-"))),
    (made) => Effect.sync(() => fs.rmSync(made, { recursive: true }))
  )
  const paths: ResolvConfPaths = {
    resolvConf: path.join(folder, "resolv.conf"),
    backup: path.join(folder, "backup"),
    resolved: path.join(folder, "resolved")
  }
  const bus = makeSystemBusDouble()
  const daemon = { servers: new Array<string>(), port: 53, reads: 0 }
  const answer: typeof bus.answer = ({ body, member }) =>
    Effect.suspend(() => {
      if (body?.[1] !== "DNSEx") return new BusRefused({ member, error: "UnknownProperty", reason: "" })
      daemon.reads += 1
      const value = daemon.servers.map((text) => [2, text.includes(":") ? 10 : 2, ipToBytes(ip(text)), daemon.port, ""])
      return Effect.succeed([{ signature: "a(iiayqs)", value }])
    })
  const context = yield* Layer.build(Layer.provide(SystemResolversHost.layerWith(paths), bus.layer))
  const resolvers = yield* Effect.provide(SystemResolvers, context)
  const seen: Array<string> = []
  const follow: Effect.Effect<void, never, Scope.Scope> = Effect.asVoid(
    resolvers.changes.pipe(Stream.runForEach((now) => Effect.sync(() => seen.push(now.join(" ")))), Effect.forkScoped)
  )
  const changed = bus.say({ member: "PropertiesChanged", ...parseMessage(propertiesChanged([["DNS", "as", []]])) })
  return { paths, bus, daemon, answer, resolvers, seen, follow, changed }
})

describe("SystemResolvers", () => {
  it.scoped("has with a link-local server the link that systemd-resolved has it of", () =>
    Effect.gen(function*() {
      const { answer, bus, daemon, paths, resolvers } = yield* onSystem
      bus.answer = answer
      fs.writeFileSync(paths.resolvConf, STUB)
      daemon.servers = ["fe80::53", "2001:db8::53"]
      assert.deepStrictEqual<ReadonlyArray<string>>(yield* resolvers.current, ["fe80::53%2", "2001:db8::53"])
    }))
  it.scoped("says what they are now, and every change of the files within 5 s, but nothing twice", () =>
    Effect.gen(function*() {
      const { follow, paths, resolvers, seen } = yield* onSystem
      const write = (...servers: ReadonlyArray<string>) =>
        fs.writeFileSync(paths.resolvConf, servers.map((server) => `nameserver ${server}\n`).join(""))
      write("192.0.2.1")
      assert.deepStrictEqual(yield* resolvers.current, [ip("192.0.2.1")])
      yield* follow
      yield* waitFor("the first", () => seen.length === 1)
      const [a, b] = ["192.0.2.1", "192.0.2.2"]
      for (const step of [[a], [a, b], [a, b], [a, b, a], [b, a], []] satisfies ReadonlyArray<ReadonlyArray<string>>) {
        write(...step)
        yield* TestClock.adjust("5 seconds")
      }
      yield* TestClock.adjust("5 seconds")
      yield* waitFor("the last", () => seen.at(-1) === "")
      assert.deepStrictEqual(seen, [a, `${a} ${b}`, `${b} ${a}`, ""])
    }))

  it.scoped("asks systemd-resolved where it is asked, at once when it says that they are others", () =>
    Effect.gen(function*() {
      const { answer, bus, changed, daemon, follow, paths, seen } = yield* onSystem
      bus.answer = answer
      fs.writeFileSync(paths.resolvConf, STUB)
      fs.writeFileSync(paths.resolved, "nameserver 192.0.2.66\n")
      daemon.servers = ["192.0.2.1", "2001:db8::1"]
      yield* follow
      yield* waitFor("the first", () => seen.length === 1)
      // Its file, and that we listen, are reasons to look.
      yield* TestClock.adjust("1 millis")
      daemon.servers = ["192.0.2.2"]
      yield* changed
      yield* waitFor("the second", () => seen.length === 2)
      // It is started anew.
      daemon.servers = ["192.0.2.3"]
      yield* bus.say({ member: "NameOwnerChanged" })
      yield* waitFor("the third", () => seen.length === 3)
      // So is the bus.
      daemon.servers = ["192.0.2.4"]
      yield* bus.listening
      yield* waitFor("the fourth", () => seen.length === 4)
      assert.deepStrictEqual(seen, ["192.0.2.1 2001:db8::1", "192.0.2.2", "192.0.2.3", "192.0.2.4"])
      // Nobody keeps it awake: only what changes is a reason to ask.
      yield* TestClock.adjust("1 minute")
      const { reads } = daemon
      yield* TestClock.adjust("1 hour")
      assert.strictEqual(daemon.reads, reads)
    }))

  it.scoped("is not woken by what we set ourselves", () =>
    Effect.gen(function*() {
      const { answer, bus, changed, daemon, follow, paths, seen } = yield* onSystem
      bus.answer = answer
      fs.writeFileSync(paths.resolvConf, STUB)
      daemon.servers = ["192.0.2.1"]
      yield* follow
      yield* waitFor("the first", () => seen.length === 1)
      daemon.servers = ["192.0.2.1", "100.100.111.1", "fd00:2021:1111:8000:100:100:111:1"]
      const { reads } = daemon
      yield* changed
      yield* waitFor("a look", () => daemon.reads > reads)
      daemon.servers = ["192.0.2.2", "100.100.111.1"]
      yield* changed
      yield* waitFor("a change", () => seen.length === 2)
      assert.deepStrictEqual(seen, ["192.0.2.1", "192.0.2.2"])
    }))

  it.scoped("believes that there are none when it is still so after 2 s", () =>
    Effect.gen(function*() {
      const { answer, bus, changed, daemon, follow, paths, seen } = yield* onSystem
      bus.answer = answer
      fs.writeFileSync(paths.resolvConf, STUB)
      daemon.servers = ["192.0.2.1"]
      yield* follow
      yield* waitFor("the first", () => seen.length === 1)
      const loses = Effect.gen(function*() {
        const { reads } = daemon
        daemon.servers = []
        yield* changed
        yield* waitFor("a look", () => daemon.reads > reads)
        yield* TestClock.adjust("1 second")
      })
      yield* loses
      daemon.servers = ["192.0.2.2"]
      yield* TestClock.adjust("1 second")
      yield* waitFor("the second", () => seen.length === 2)
      yield* loses
      yield* TestClock.adjust("1 second")
      yield* waitFor("none", () => seen.length === 3)
      assert.deepStrictEqual(seen, ["192.0.2.1", "192.0.2.2", ""])
    }))

  it.scoped("leaves servers on other ports out, and reads the file if the bus does not tell", () =>
    Effect.gen(function*() {
      const { answer, bus, daemon, paths, resolvers } = yield* onSystem
      fs.writeFileSync(paths.resolvConf, STUB)
      fs.writeFileSync(paths.resolved, "nameserver 192.0.2.66\n")
      assert.deepStrictEqual(yield* resolvers.current, [ip("192.0.2.66")])
      bus.answer = answer
      daemon.servers = ["192.0.2.1"]
      assert.deepStrictEqual(yield* resolvers.current, [ip("192.0.2.1")])
      daemon.port = 5353
      assert.deepStrictEqual(yield* resolvers.current, [])
      // A program that only says that it is the daemon.
      bus.answer = () => Effect.succeed([{ signature: "s", value: "192.0.2.1" }])
      assert.deepStrictEqual(yield* resolvers.current, [ip("192.0.2.66")])
    }))
})
