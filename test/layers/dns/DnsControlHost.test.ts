/** DNS control with files in a folder of the test's own, and a `resolvectl` that only writes down what it is told. */
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import * as TestClock from "effect/TestClock"
import * as fs from "node:fs"
import * as os from "node:os"
import * as path from "node:path"
import * as DnsControlHost from "../../../src/layers/dns/DnsControlHost.ts"
import { isOurs, nameserversOf } from "../../../src/layers/dns/resolvConfText.ts"
import { ip } from "../../../src/protocol/wire/address.ts"
import type { DnsControlMethod } from "../../../src/services/ClientConfig.ts"
import { DnsControl, DnsControlFailed, type DnsTarget } from "../../../src/services/DnsControl.ts"

const target: DnsTarget = {
  interfaceName: "tun-test",
  servers: [ip("100.100.111.1"), ip("fd00:2021:1111:8000:100:100:111:0")],
  searchDomain: "corp.test"
}
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
    body: (control: DnsControl["Type"]) => Effect.Effect<A, E>
  ): Effect.Effect<A, E> {
    return Effect.flatMap(DnsControl, body).pipe(Effect.provide(DnsControlHost.layerWith({
      method,
      paths: this.paths,
      hasResolvectl: () => true,
      resolvectl: ([verb = "", ...args]) =>
        Effect.suspend(() => {
          this.commands.push([verb, ...args].join(" "))
          const outcome = this.failing.has(verb)
            ? new DnsControlFailed({ step: `resolvectl ${verb}`, cause: "no bus", hint: "start it" })
            : Effect.void
          return this.slow.has(verb) ? Effect.delay(outcome, "1 second") : outcome
        })
    })))
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
    "is pointed and reverted in place, byte for byte, however often",
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
          assert.deepStrictEqual(fs.readdirSync(machine.folder).length, 2)
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

  onMachine("keeps the true original in the backup after a crash", (machine) =>
    Effect.gen(function*() {
      yield* machine.crash
      yield* machine.client("etc-resolv-conf", (control) =>
        Effect.gen(function*() {
          yield* control.set({ ...target, searchDomain: undefined })
          assert.deepStrictEqual(machine.readBackup(), ORIGINAL)
        }))
      assert.deepStrictEqual(machine.read(), ORIGINAL)
    }))

  onMachine("that somebody has written since a crash is the new original", (machine) =>
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
    }))

  onMachine(
    "is left alone without servers, and reverted when there are none any more",
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

  onMachine("is refused when it is no file, and says so", (machine) =>
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

describe("systemd-resolved", () => {
  const pointing = [
    "dns -- tun-test 100.100.111.1 fd00:2021:1111:8000:100:100:111:0",
    "domain -- tun-test corp.test ~.",
    "llmnr -- tun-test yes",
    "dnssec -- tun-test no",
    "dnsovertls -- tun-test no",
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
            machine.failing.add(step)
            assert.strictEqual((yield* Effect.flip(control.set(target))).step, `resolvectl ${step}`)
            machine.failing.clear()
          }
          for (const step of ["dnssec", "dnsovertls", "flush-caches", "revert"]) machine.failing.add(step)
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
          assert.deepStrictEqual(machine.commands.splice(0), pointing.slice(0, 1))
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
