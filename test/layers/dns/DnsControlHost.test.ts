/** DNS control with files in a folder of the test's own, and a bus and a `resolvectl` that only write down what they are told. */
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as Layer from "effect/Layer"
import * as Logger from "effect/Logger"
import type * as Scope from "effect/Scope"
import * as TestClock from "effect/TestClock"
import * as fs from "node:fs"
import * as os from "node:os"
import * as path from "node:path"
import * as DnsControlHost from "../../../src/layers/dns/DnsControlHost.ts"
import { isOurs, nameserversOf } from "../../../src/layers/dns/resolvConfText.ts"
import { familyOf, ip, type IpAddress, ipFromBytes, ipToBytes } from "../../../src/protocol/wire/address.ts"
import { parseMessage } from "../../../src/protocol/wire/dbus.ts"
import type { DnsControlMethod } from "../../../src/services/ClientConfig.ts"
import { DnsControl, DnsControlFailed, type DnsTarget } from "../../../src/services/DnsControl.ts"
import { BusRefused } from "../../../src/services/SystemBus.ts"
import { propertiesChanged } from "../../support/dbusMessages.ts"
import { makeSystemBusDouble } from "../../support/SystemBusDouble.ts"
import { waitFor } from "../../support/waitFor.ts"

const target: DnsTarget = {
  interfaceName: "tun-test",
  servers: [ip("100.100.111.1"), ip("fd00:2021:1111:8000:100:100:111:0")],
  searchDomain: "corp.test"
}
const INDEX = 7
// Not UTF-8, CR LF and no line end at the end: bytes must survive.
const ORIGINAL = Buffer.from("# caf\xe9\r\nnameserver 192.0.2.1\nsearch lan.example\noptions ndots:3 edns0", "latin1")
const RENEWED = "nameserver 192.0.2.2\n"

class Machine {
  readonly folder = fs.mkdtempSync(path.join(os.tmpdir(), "dns-control-"))
  readonly paths = {
    resolvConf: path.join(this.folder, "resolv.conf"),
    backup: path.join(this.folder, "resolv.conf.before-firezone"),
    resolved: path.join(this.folder, "resolved.conf")
  }
  readonly commands: Array<string> = []
  readonly bus = makeSystemBusDouble()
  readonly lock = path.join(this.folder, "run", "dns.lock")
  readonly logged: Array<string> = []
  /** The first words of commands that fail, and of those that take a second. */
  readonly failing = new Set<string>()
  readonly slow = new Set<string>()

  constructor() {
    this.write(ORIGINAL)
    fs.chmodSync(this.paths.resolvConf, 0o640)
  }

  read(): Buffer {
    return fs.readFileSync(this.paths.resolvConf)
  }

  readBackup(): Buffer {
    return fs.readFileSync(this.paths.backup)
  }

  write(text: string | Buffer): void {
    fs.writeFileSync(this.paths.resolvConf, text)
  }

  isPointed(): boolean {
    const text = this.read().toString("latin1")
    return isOurs(text) && nameserversOf(text).join() === target.servers.join()
  }

  /** A client on this machine, for as long as the body runs. */
  client<A, E>(
    method: DnsControlMethod,
    body: (control: DnsControl["Type"]) => Effect.Effect<A, E>,
    isCheck = false
  ): Effect.Effect<A, E> {
    const layer = DnsControlHost.layerWith({
      method,
      paths: this.paths,
      lock: this.lock,
      isCheck,
      indexOf: (name) => name === target.interfaceName ? INDEX : undefined,
      hasResolvectl: () => true,
      resolvectl: ([verb = "", ...args]) =>
        Effect.suspend(() => {
          this.commands.push([verb, ...args].join(" "))
          const outcome = this.failing.has(verb)
            ? new DnsControlFailed({ step: `resolvectl ${verb}`, cause: "no bus", hint: "start it" })
            : Effect.void
          return this.slow.has(verb) ? Effect.delay(outcome, "1 second") : outcome
        })
    })
    const logger = Logger.make(({ annotations, logLevel, message }) => {
      const values = Array.from(annotations, ([key, value]) => ` ${key}=${String(value)}`)
      this.logged.push(`${logLevel._tag} ${String(message)}${values.join("")}`)
    })
    return Effect.flatMap(DnsControl, body).pipe(
      Effect.provide(Layer.provide(layer, this.bus.layer)),
      Effect.provide(Logger.replace(Logger.defaultLogger, logger))
    )
  }

  /** A client that points the file and is killed: what it would do at its end did not happen. */
  get crash(): Effect.Effect<void, DnsControlFailed> {
    return this.client("etc-resolv-conf", (control) => Effect.map(control.set(target), () => this.read())).pipe(
      Effect.map((left) => this.write(left))
    )
  }
}

const makeMachine = Effect.acquireRelease(
  Effect.sync(() => new Machine()),
  ({ folder }) => Effect.sync(() => fs.rmSync(folder, { recursive: true }))
)

const onMachine = (name: string, body: (machine: Machine) => Effect.Effect<void, unknown, Scope.Scope>) =>
  it.scoped(name, () => Effect.flatMap(makeMachine, body))

describe("/etc/resolv.conf", () => {
  onMachine(
    "is pointed and reverted in place, byte for byte, however often (host 18.32)",
    (machine) =>
      machine.client("etc-resolv-conf", (control) =>
        Effect.gen(function*() {
          const before = fs.statSync(machine.paths.resolvConf)
          yield* control.prepare
          yield* control.set(target)
          yield* control.set(target)
          assert.isTrue(machine.isPointed())
          assert.include(machine.read().toString("latin1"), "\nsearch corp.test lan.example\n")
          assert.deepStrictEqual(machine.readBackup(), ORIGINAL)
          assert.strictEqual(fs.statSync(machine.paths.backup).mode & 0o777, 0o640)
          yield* control.revert
          yield* control.revert
          assert.deepStrictEqual(machine.read(), ORIGINAL)
          const { ino, mode } = fs.statSync(machine.paths.resolvConf)
          assert.deepStrictEqual({ ino, mode }, { ino: before.ino, mode: before.mode })
          assert.sameMembers(fs.readdirSync(machine.folder), ["resolv.conf", "resolv.conf.before-firezone", "run"])
          yield* control.set({ ...target, servers: [ip("100.100.111.2")], searchDomain: undefined })
          assert.deepStrictEqual(nameserversOf(machine.read().toString()), [ip("100.100.111.2")])
          assert.deepStrictEqual(machine.commands, [])
        }))
  )

  onMachine("is as before when the layer ends", (machine) =>
    Effect.gen(function*() {
      yield* machine.client("etc-resolv-conf", (control) => control.set(target))
      assert.deepStrictEqual(machine.read(), ORIGINAL)
    }))

  onMachine(
    "is brought back by whoever comes after a crash, whatever its method, but the disabled one",
    (machine) =>
      Effect.gen(function*() {
        for (const method of ["etc-resolv-conf", "auto", "systemd-resolved"] as const) {
          yield* machine.crash
          assert.isTrue(machine.isPointed())
          yield* machine.client("disabled", (control) => Effect.zipRight(control.prepare, control.revert))
          assert.isTrue(machine.isPointed())
          yield* machine.client(method, (control) => control.prepare)
          assert.deepStrictEqual(machine.read(), ORIGINAL, method)
        }
        yield* machine.crash
        // As `dns-cleanup` does.
        yield* machine.client("auto", (control) => control.revert)
        assert.deepStrictEqual(machine.read(), ORIGINAL)
      })
  )

  onMachine("keeps the true original in the backup after a crash (host 18.32)", (machine) =>
    Effect.gen(function*() {
      yield* machine.crash
      yield* machine.client("etc-resolv-conf", (control) =>
        Effect.gen(function*() {
          yield* control.set({ ...target, searchDomain: undefined })
          assert.deepStrictEqual(machine.readBackup(), ORIGINAL)
        }))
      assert.deepStrictEqual(machine.read(), ORIGINAL)
    }))

  onMachine(
    "that somebody has written since a crash is the new original (host 18.32)",
    (machine) =>
      Effect.gen(function*() {
        yield* machine.crash
        machine.write(RENEWED)
        yield* machine.client("etc-resolv-conf", (control) =>
          Effect.gen(function*() {
            yield* control.prepare
            yield* control.revert
            // There is a backup, but no marker: untouched.
            assert.strictEqual(machine.read().toString(), RENEWED)
            yield* control.set(target)
            assert.strictEqual(machine.readBackup().toString(), RENEWED)
          }))
        assert.strictEqual(machine.read().toString(), RENEWED)
      })
  )

  onMachine(
    "is left alone without servers, and reverted when there are none any more (host 18.32)",
    (machine) =>
      machine.client("etc-resolv-conf", (control) =>
        Effect.gen(function*() {
          yield* control.set({ ...target, servers: [] })
          assert.deepStrictEqual(machine.read(), ORIGINAL)
          assert.isFalse(fs.existsSync(machine.paths.backup))
          yield* control.set(target)
          yield* control.set({ ...target, servers: [] })
          assert.deepStrictEqual(machine.read(), ORIGINAL)
          yield* TestClock.adjust("1 minute")
          assert.deepStrictEqual(machine.read(), ORIGINAL)
        }))
  )

  onMachine("is refused when it is no file, and says so (host 18.32)", (machine) =>
    Effect.gen(function*() {
      const { folder, paths } = machine
      const other = path.join(folder, "other")
      const says = (words: string) =>
        machine.client("etc-resolv-conf", (control) =>
          Effect.gen(function*() {
            for (const step of [control.prepare, control.set(target)]) {
              const error = yield* Effect.flip(step)
              assert.strictEqual(error.step, `look at ${paths.resolvConf}`)
              assert.include(error.message, words)
            }
            yield* control.revert
          }))
      fs.renameSync(paths.resolvConf, other)
      yield* says("no such file")
      fs.symlinkSync("other", paths.resolvConf)
      yield* says("a symbolic link")
      assert.deepStrictEqual(fs.readFileSync(other), ORIGINAL)
      fs.rmSync(paths.resolvConf)
      fs.mkdirSync(paths.resolvConf)
      yield* says("no file")
      assert.isFalse(fs.existsSync(paths.backup))
    }))

  onMachine("is not touched when the backup cannot be written, or read", (machine) =>
    Effect.gen(function*() {
      const { folder, paths } = machine
      const victim = path.join(folder, "victim")
      fs.writeFileSync(victim, "x")
      fs.symlinkSync(victim, `${paths.backup}.new`)
      fs.mkdirSync(paths.backup)
      yield* machine.client("etc-resolv-conf", (control) =>
        Effect.gen(function*() {
          assert.strictEqual((yield* Effect.flip(control.set(target))).step, `write ${paths.backup}`)
          assert.deepStrictEqual(machine.read(), ORIGINAL)
          assert.strictEqual(fs.readFileSync(victim, "utf8"), "x")
        }))
      fs.rmdirSync(paths.backup)
      yield* machine.crash
      const left = machine.read()
      const refuses = machine.client("etc-resolv-conf", (control) =>
        Effect.gen(function*() {
          for (const step of [control.prepare, control.revert, control.set(target)]) {
            const error = yield* Effect.flip(step)
            assert.strictEqual(error.step, `find what ${paths.resolvConf} was`)
            assert.include(error.message, paths.backup)
          }
        }))
      fs.rmSync(paths.backup)
      yield* refuses
      // Of a client that took its own file for the original.
      fs.writeFileSync(paths.backup, left)
      yield* refuses
      assert.deepStrictEqual(machine.read(), left)
    }))

  onMachine(
    "that others change is pointed again once they have finished, and theirs is the new original",
    (machine) =>
      machine.client("etc-resolv-conf", (control) =>
        Effect.gen(function*() {
          yield* control.set(target)
          // Written step by step: nothing half-way may become the original.
          for (const text of ["", "# new", "# new\nname"]) {
            machine.write(text)
            yield* TestClock.adjust("1 second")
            assert.strictEqual(machine.read().toString(), text)
          }
          fs.writeFileSync(`${machine.paths.resolvConf}.new`, RENEWED)
          fs.renameSync(`${machine.paths.resolvConf}.new`, machine.paths.resolvConf)
          yield* TestClock.adjust("1 second")
          assert.isFalse(machine.isPointed())
          yield* TestClock.adjust("1 second")
          assert.isTrue(machine.isPointed())
          assert.strictEqual(machine.readBackup().toString(), RENEWED)
          // Edited below the marker: ours, so it is written anew.
          machine.write(`${machine.read().toString()}nameserver 192.0.2.9\n`)
          yield* TestClock.adjust("2 seconds")
          assert.isTrue(machine.isPointed())
          assert.strictEqual(machine.readBackup().toString(), RENEWED)
          // Taken away for a while.
          fs.rmSync(machine.paths.resolvConf)
          yield* TestClock.adjust("5 seconds")
          assert.isFalse(fs.existsSync(machine.paths.resolvConf))
          machine.write(ORIGINAL)
          yield* TestClock.adjust("2 seconds")
          assert.isTrue(machine.isPointed())
          yield* control.revert
          yield* TestClock.adjust("1 minute")
          assert.deepStrictEqual(machine.read(), ORIGINAL)
        }))
  )

  onMachine(
    "never holds what the network sends as a search domain, unless it is a name",
    (machine) =>
      machine.client("etc-resolv-conf", (control) =>
        Effect.gen(function*() {
          yield* control.set({ ...target, searchDomain: "corp.test\nnameserver 192.0.2.66" })
          assert.isTrue(machine.isPointed())
          assert.notInclude(machine.read().toString("latin1"), "corp.test")
        }))
  )
})

describe("systemd-resolved by its command", () => {
  const pointing = [
    "domain -- tun-test corp.test ~.",
    "default-route -- tun-test yes",
    "llmnr -- tun-test yes",
    "dnssec -- tun-test no",
    "dnsovertls -- tun-test no",
    "dns -- tun-test 100.100.111.1 fd00:2021:1111:8000:100:100:111:0",
    "flush-caches"
  ]

  onMachine(
    "is told our servers and the search domain beside all names, then to forget; and back",
    (machine) =>
      machine.client("systemd-resolved", (control) =>
        Effect.gen(function*() {
          yield* control.prepare
          assert.deepStrictEqual(machine.commands.splice(0), [])
          yield* control.set(target)
          assert.deepStrictEqual(machine.commands.splice(0), pointing)
          yield* control.set({ ...target, searchDomain: undefined })
          assert.include(machine.commands.splice(0), "domain -- tun-test ~.")
          yield* control.revert
          yield* control.revert
          assert.deepStrictEqual(machine.commands.splice(0), ["revert -- tun-test", "flush-caches", "flush-caches"])
          assert.deepStrictEqual(machine.read(), ORIGINAL)
        }))
  )

  onMachine(
    "must take servers and domains, and may refuse the rest",
    (machine) =>
      machine.client("systemd-resolved", (control) =>
        Effect.gen(function*() {
          for (const step of ["dns", "domain", "llmnr"]) {
            yield* control.revert
            machine.failing.add(step)
            assert.strictEqual((yield* Effect.flip(control.set(target))).step, `resolvectl ${step}`)
            machine.failing.clear()
          }
          for (const step of ["default-route", "dnssec", "dnsovertls", "flush-caches", "revert"]) {
            machine.failing.add(step)
          }
          yield* control.set(target)
          yield* control.revert
        }))
  )

  onMachine(
    "is told again when its servers are not ours any more",
    (machine) =>
      machine.client("systemd-resolved", (control) =>
        Effect.gen(function*() {
          const { resolved } = machine.paths
          yield* control.set(target)
          machine.commands.splice(0)
          // It does not tell: nothing to conclude.
          yield* TestClock.adjust("10 seconds")
          fs.writeFileSync(
            resolved,
            `nameserver 192.0.2.1\n${target.servers.map((it) => `nameserver ${it}\n`).join("")}`
          )
          yield* TestClock.adjust("10 seconds")
          assert.deepStrictEqual(machine.commands, [])
          fs.writeFileSync(resolved, `nameserver 192.0.2.1\nnameserver ${target.servers[0]}\n`)
          machine.failing.add("dns")
          yield* TestClock.adjust("2 seconds")
          assert.deepStrictEqual(machine.commands.splice(0), pointing.slice(0, -1))
          machine.failing.clear()
          yield* TestClock.adjust("1 second")
          assert.deepStrictEqual(machine.commands.splice(0), pointing)
        }))
  )

  onMachine(
    "forgets once more, however many ask for it meanwhile",
    (machine) =>
      machine.client("systemd-resolved", (control) =>
        Effect.gen(function*() {
          machine.slow.add("flush-caches")
          yield* control.flush
          yield* TestClock.adjust("500 millis")
          assert.deepStrictEqual(machine.commands, ["flush-caches"])
          yield* Effect.repeatN(control.flush, 9)
          yield* TestClock.adjust("10 seconds")
          assert.deepStrictEqual(machine.commands, ["flush-caches", "flush-caches"])
        }))
  )
})

/** A daemon that knows the servers of one link, as far as it is told. */
const resolvedOn = (machine: Machine) => {
  const known = { servers: new Array<IpAddress>(), told: new Array<string>(), refused: new Set<string>(), hangs: false }
  machine.bus.answer = ({ body = [], member }) =>
    Effect.suspend(() => {
      if (known.hangs) return Effect.never
      if (known.refused.has(member)) {
        return new BusRefused({ member, error: "org.freedesktop.resolve1.LinkBusy", reason: "it is managed" })
      }
      if (member === "Get") {
        const value = known.servers.map((server) => {
          return [INDEX, familyOf(server) === 4 ? 2 : 10, ipToBytes(server)]
        })
        return Effect.succeed([{ signature: "a(iiay)", value }])
      }
      const shown = JSON.stringify(body, (_, value) => value instanceof Uint8Array ? [...value].join(".") : value)
      known.told.push(`${member}${shown}`)
      if (member === "SetLinkDNS") {
        known.servers = (body[1] as ReadonlyArray<readonly [number, Uint8Array]>).map(([family, bytes]) =>
          ipFromBytes(bytes, 0, family === 2 ? 4 : 6)
        )
      }
      if (member === "RevertLink") known.servers = []
      return Effect.succeed([])
    })
  return known
}

describe("systemd-resolved over D-Bus", () => {
  const pointing = [
    `SetLinkDomains[7,[["corp.test",false],[".",true]]]`,
    `SetLinkDefaultRoute[7,true]`,
    `SetLinkLLMNR[7,"yes"]`,
    `SetLinkDNSSEC[7,"no"]`,
    `SetLinkDNSOverTLS[7,"no"]`,
    `SetLinkDNS[7,[[2,"100.100.111.1"],[10,"253.0.32.33.17.17.128.0.1.0.1.0.1.17.0.0"]]]`,
    "FlushCaches[]"
  ]

  onMachine("is told our servers and the search domain beside all names, then to forget; and back", (machine) => {
    const daemon = resolvedOn(machine)
    return machine.client("systemd-resolved", (control) =>
      Effect.gen(function*() {
        yield* control.prepare
        yield* control.set(target)
        assert.deepStrictEqual(daemon.told.splice(0), pointing)
        yield* control.set({ ...target, searchDomain: undefined })
        assert.include(daemon.told.splice(0), `SetLinkDomains[7,[[".",true]]]`)
        yield* control.flush
        yield* waitFor("the flush", () => daemon.told.length === 1)
        yield* control.revert
        assert.deepStrictEqual(daemon.told, ["FlushCaches[]", "RevertLink[7]", "FlushCaches[]"])
        assert.deepStrictEqual(machine.commands, [])
        assert.deepStrictEqual(machine.read(), ORIGINAL)
      }))
  })

  onMachine("that refuses is told by its command, and why is said once", (machine) => {
    const daemon = resolvedOn(machine)
    daemon.refused.add("SetLinkDomains")
    return machine.client("systemd-resolved", (control) =>
      Effect.gen(function*() {
        yield* control.set(target)
        yield* control.set(target)
        assert.include(machine.commands, "domain -- tun-test corp.test ~.")
        const reason = "SetLinkDomains over D-Bus: org.freedesktop.resolve1.LinkBusy: it is managed"
        assert.deepStrictEqual(
          machine.logged.filter((line) => line.includes("resolvectl")),
          [`Info systemd-resolved is told by resolvectl reason=${reason}`]
        )
        machine.failing.add("dns")
        yield* control.revert
        const error = yield* Effect.flip(control.set(target))
        assert.strictEqual(error.step, "resolvectl dns")
        machine.failing.clear()
        // What is not needed may be refused.
        daemon.refused.clear()
        machine.commands.splice(0)
        for (const member of ["SetLinkDefaultRoute", "SetLinkDNSSEC", "SetLinkDNSOverTLS"]) daemon.refused.add(member)
        yield* control.set(target)
        assert.deepStrictEqual(machine.commands, [])
      }))
  })

  onMachine("that does not answer fails a session", (machine) => {
    const daemon = resolvedOn(machine)
    daemon.hangs = true
    return machine.client("systemd-resolved", (control) =>
      Effect.gen(function*() {
        const failing = yield* Effect.fork(Effect.flip(control.set(target)))
        yield* waitFor("the call", () => machine.bus.calls.length === 1)
        yield* TestClock.adjust("5 seconds")
        const error = yield* Fiber.join(failing)
        assert.include(
          error.message,
          "SetLinkDomains over D-Bus: no answer within 5000 ms; is systemd-resolved running?"
        )
        assert.deepStrictEqual(machine.commands, [])
        daemon.hangs = false
      }))
  })

  onMachine(
    "that takes nothing for a while is told as soon as it does, and names that worked are no reason to end",
    (machine) => {
      const daemon = resolvedOn(machine)
      return machine.client("systemd-resolved", (control) =>
        Effect.gen(function*() {
          yield* control.set(target)
          daemon.told.splice(0)
          daemon.refused.add("SetLinkDNS")
          machine.failing.add("dns")
          const next = { ...target, servers: [ip("100.100.111.2")] }
          yield* control.set(next)
          assert.isTrue(machine.logged.some((line) => line.startsWith("Warning") && line.endsWith("; trying again")))
          yield* TestClock.adjust("5 seconds")
          assert.deepStrictEqual(daemon.servers, target.servers)
          daemon.refused.clear()
          yield* TestClock.adjust("1 second")
          assert.deepStrictEqual(daemon.servers, next.servers)
          const { length } = daemon.told
          yield* TestClock.adjust("10 seconds")
          assert.strictEqual(daemon.told.length, length)
        }))
    }
  )

  onMachine("that hangs holds up a stop by 2 s, whatever is under way", (machine) => {
    const daemon = resolvedOn(machine)
    return machine.client("systemd-resolved", (control) =>
      Effect.gen(function*() {
        const stopsInTime = Effect.gen(function*() {
          const calls = machine.bus.calls.length
          const stop = yield* Effect.fork(control.revert)
          yield* waitFor("the call", () => machine.bus.calls.length > calls)
          yield* TestClock.adjust("1999 millis")
          assert.strictEqual((yield* Fiber.poll(stop))._tag, "None")
          yield* TestClock.adjust("1 millis")
          yield* Fiber.join(stop)
          assert.strictEqual(
            machine.logged.filter((line) => line.includes("systemd-resolved does not answer")).length,
            1
          )
          machine.logged.splice(0)
        })
        yield* control.set(target)
        daemon.hangs = true
        yield* stopsInTime

        // While it is being set.
        const setting = yield* Effect.fork(control.set(target))
        const before = machine.bus.calls.length
        yield* waitFor("the call", () => machine.bus.calls.length > before)
        yield* stopsInTime
        yield* Fiber.join(setting)

        // While it is being repaired.
        daemon.hangs = false
        yield* control.set(target)
        fs.writeFileSync(machine.paths.resolved, "nameserver 192.0.2.1\n")
        daemon.hangs = true
        const calls = machine.bus.calls.length
        yield* TestClock.adjust("2 seconds")
        yield* waitFor("the repair", () => machine.bus.calls.length > calls)
        yield* stopsInTime
      }))
  })

  onMachine(
    "is told again at once when it says that its servers are not ours any more, and once a second at most",
    (machine) => {
      const daemon = resolvedOn(machine)
      // What a bus that is real says after each change.
      const changed = machine.bus.say({
        member: "PropertiesChanged",
        ...parseMessage(propertiesChanged([["DNS", "a(iiay)", []]]))
      })
      return machine.client("systemd-resolved", (control) =>
        Effect.gen(function*() {
          yield* control.set(target)
          daemon.told.splice(0)
          // Its word about our own doing.
          const looks = machine.bus.calls.length
          yield* changed
          yield* waitFor("a look", () => machine.bus.calls.length > looks)
          yield* TestClock.adjust("10 seconds")
          assert.deepStrictEqual(daemon.told, [])

          for (let round = 0; round < 3; round++) {
            const before = machine.bus.calls.length
            daemon.servers = [ip("192.0.2.1")]
            yield* changed
            yield* waitFor("a look", () => machine.bus.calls.length > before)
            assert.deepStrictEqual(daemon.told, [])
            yield* TestClock.adjust("250 millis")
            yield* waitFor("the repair", () => daemon.told.length === pointing.length)
            assert.deepStrictEqual(daemon.told.splice(0), pointing)
            // Somebody undoes it at once.
            daemon.servers = []
            yield* changed
            yield* TestClock.adjust("749 millis")
            assert.deepStrictEqual(daemon.told, [])
            daemon.servers = target.servers.slice()
            yield* TestClock.adjust("10 seconds")
            assert.deepStrictEqual(daemon.told, [])
          }
          // Who owns its name is another one: it was started anew, and has forgotten us.
          daemon.servers = []
          yield* machine.bus.say({ member: "NameOwnerChanged" })
          const before = machine.bus.calls.length
          yield* waitFor("a look", () => machine.bus.calls.length > before)
          yield* TestClock.adjust("250 millis")
          yield* waitFor("the repair", () => daemon.told.length === pointing.length)
        }))
    }
  )
})

describe("a second client", () => {
  const whileOther = <A, E>(machine: Machine, body: Effect.Effect<A, E>) =>
    machine.client("etc-resolv-conf", (other) =>
      Effect.gen(function*() {
        yield* other.prepare
        yield* other.set(target)
        assert.isTrue(machine.isPointed())
        yield* body
        // Nothing has touched what the first one does.
        assert.isTrue(machine.isPointed())
        yield* TestClock.adjust("5 seconds")
        assert.deepStrictEqual(machine.readBackup(), ORIGINAL)
      }))
  const patient = <A, E>(effect: Effect.Effect<A, E>) =>
    Effect.gen(function*() {
      const fiber = yield* Effect.fork(effect)
      yield* TestClock.adjust("10 seconds")
      return yield* Fiber.join(fiber)
    })

  onMachine("is refused, and told who has control", (machine) =>
    whileOther(
      machine,
      Effect.forEach(["etc-resolv-conf", "systemd-resolved"] as const, (method) =>
        machine.client(method, (control) =>
          Effect.gen(function*() {
            const error = yield* Effect.flip(patient(control.prepare))
            assert.strictEqual(
              error.message,
              "cannot control the system's DNS: take control: another client has it, process "
                + `${process.pid}; stop that one, or do without names here: --dns-control disabled`
            )
            assert.strictEqual((yield* Effect.flip(control.set(target))).step, "take control")
            yield* control.revert
          })))
    ))

  onMachine("does without names if it may choose, and says so", (machine) =>
    whileOther(
      machine,
      machine.client("auto", (control) =>
        Effect.gen(function*() {
          assert.strictEqual(control.method, "etc-resolv-conf")
          yield* patient(control.prepare)
          assert.strictEqual(control.method, "disabled")
          assert.isTrue(machine.logged.some((line) =>
            line.startsWith("Warning DNS control: disabled") &&
            line.includes(`another client has it, process ${process.pid}`)
          ))
          yield* control.set(target)
          yield* control.flush
          yield* control.revert
        }))
    ))

  onMachine("that only checks its settings is none", (machine) =>
    whileOther(
      machine,
      machine.client("etc-resolv-conf", (control) => control.prepare, true)
    ))

  onMachine("that only cleans up does nothing, and says so", (machine) =>
    whileOther(
      machine,
      machine.client("auto", (control) =>
        Effect.gen(function*() {
          yield* control.revert
          assert.include(
            machine.logged.at(-1) ?? "nothing",
            `Info the system's DNS is left as it is reason=another client has it, process ${process.pid}`
          )
        }))
    ))

  onMachine("takes over from one that stops", (machine) =>
    Effect.gen(function*() {
      const stopping = yield* Effect.fork(
        machine.client("etc-resolv-conf", (other) =>
          Effect.delay(Effect.zipRight(other.prepare, other.set(target)), 0)
            .pipe(Effect.zipRight(Effect.sleep("3 seconds"))))
      )
      yield* TestClock.adjust("1 millis")
      yield* waitFor("the first one", () => machine.isPointed())
      const next = yield* Effect.fork(
        machine.client("etc-resolv-conf", (control) => Effect.map(control.prepare, () => machine.read()))
      )
      yield* TestClock.adjust("10 seconds")
      yield* Fiber.join(stopping)
      assert.deepStrictEqual(yield* Fiber.join(next), ORIGINAL)
    }))

  onMachine(
    "is none where nothing is controlled, and nothing of a lock is left behind",
    (machine) =>
      Effect.gen(function*() {
        yield* whileOther(
          machine,
          machine.client("disabled", (control) => Effect.zipRight(control.prepare, control.set(target)))
        )
        assert.isFalse(fs.existsSync(path.dirname(machine.lock)))
        yield* machine.client("auto", (control) => control.revert)
        assert.isFalse(fs.existsSync(path.dirname(machine.lock)))
      })
  )

  onMachine("cannot be kept away where no lock can be made, which is no failure", (machine) =>
    Effect.gen(function*() {
      fs.writeFileSync(path.dirname(machine.lock), "no folder")
      yield* machine.client("etc-resolv-conf", (control) =>
        Effect.gen(function*() {
          yield* control.prepare
          yield* control.set(target)
          assert.isTrue(machine.isPointed())
        }))
      assert.deepStrictEqual(machine.read(), ORIGINAL)
    }))
})

describe("disabled", () => {
  onMachine("does nothing at all", (machine) =>
    machine.client("disabled", (control) =>
      Effect.gen(function*() {
        yield* control.prepare
        yield* control.set(target)
        yield* control.flush
        yield* TestClock.adjust("10 seconds")
        yield* control.revert
        assert.deepStrictEqual(machine.commands, [])
        assert.deepStrictEqual(fs.readdirSync(machine.folder), ["resolv.conf"])
        assert.deepStrictEqual(machine.read(), ORIGINAL)
      })))
})
