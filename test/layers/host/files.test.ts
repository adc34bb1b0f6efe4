/** Files, processes and commands, as the real ones are. */
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Either from "effect/Either"
import { execFileSync } from "node:child_process"
import * as fs from "node:fs"
import * as os from "node:os"
import * as path from "node:path"
import { afterAll } from "vitest"
import * as HostCommandsLive from "../../../src/layers/host/HostCommandsLive.ts"
import * as HostFilesLive from "../../../src/layers/host/HostFilesLive.ts"
import * as ProcessesProcfs from "../../../src/layers/host/ProcessesProcfs.ts"
import { HostCommands } from "../../../src/services/HostCommands.ts"
import { HostFiles } from "../../../src/services/HostFiles.ts"
import { Processes } from "../../../src/services/Processes.ts"

const folder = fs.mkdtempSync(path.join(os.tmpdir(), "fz-host-"))
afterAll(() => fs.rmSync(folder, { recursive: true }))
const at = (name: string): string => path.join(folder, name)

describe("files of this machine", () => {
  it.effect("are told with their kind, owner, mode and age", () =>
    Effect.gen(function*() {
      const files = yield* HostFiles
      fs.writeFileSync(at("file"), "text", { mode: 0o640 })
      fs.utimesSync(at("file"), 1_000_000, 1_000_000)
      fs.symlinkSync("../elsewhere/target", at("link"))
      const uid = process.getuid?.() ?? -1
      assert.deepInclude(yield* files.look(at("file")), { kind: "file", uid, mode: 0o640, modifiedAt: 1e9 })
      assert.deepInclude(yield* files.look(at("link")), {
        kind: "link",
        target: path.join(path.dirname(folder), "elsewhere", "target")
      })
      assert.strictEqual((yield* files.look(folder))?.kind, "folder")
      assert.strictEqual((yield* files.look("/dev/null"))?.kind, "device")
      assert.isUndefined(yield* files.look(at("none")))
      assert.isUndefined(yield* files.look(at("file/inside")))
    }).pipe(Effect.provide(HostFilesLive.layer)))

  it.effect("are read up to a limit, and never waited for", () =>
    Effect.gen(function*() {
      const files = yield* HostFiles
      fs.writeFileSync(at("long"), "x".repeat(100_000))
      execFileSync("mkfifo", [at("pipe")])
      assert.strictEqual((yield* files.text(at("long")))?.length, 65_536)
      // Nobody ever writes into it.
      assert.strictEqual(yield* files.text(at("pipe")), "")
      assert.isUndefined(yield* files.text(at("none")))
      const failed = yield* Effect.either(files.text(folder))
      assert.strictEqual(Either.isLeft(failed) && failed.left.code, "EISDIR")
    }).pipe(Effect.provide(HostFilesLive.layer)))

  it.effect("have room", () =>
    Effect.gen(function*() {
      const files = yield* HostFiles
      assert.isAbove((yield* files.freeBytes(folder)) ?? 0, 0)
      assert.isUndefined(yield* files.freeBytes(at("none")))
      assert.isTrue(yield* files.isWritable(folder))
      assert.isFalse(yield* files.isWritable(at("none")))
      assert.include(yield* files.names(path.dirname(folder)), path.basename(folder))
      assert.deepStrictEqual(yield* files.names(at("none")), [])
    }).pipe(Effect.provide(HostFilesLive.layer)))
})

describe("processes", () => {
  it.effect("are this one and others, with what they may do", () =>
    Effect.gen(function*() {
      const processes = yield* Processes
      assert.isTrue((yield* processes.all).some(({ pid }) => pid === process.pid))
      const own = yield* processes.capabilities("self")
      assert.strictEqual(yield* processes.capabilities(process.pid), own)
      assert.strictEqual((own ?? 0n) !== 0n, process.getuid?.() === 0)
      assert.isUndefined(yield* processes.holderOfTun("fz-no-such-tun"))
    }).pipe(Effect.provide(ProcessesProcfs.layer)))

  it.effect("are found by the TUN device that they have open", () => {
    const root = at("proc")
    const put = (file: string, text: string): void => {
      fs.mkdirSync(path.dirname(path.join(root, file)), { recursive: true })
      fs.writeFileSync(path.join(root, file), text)
    }
    put("1/comm", "init\n")
    put("42/comm", "node\n")
    put("42/cmdline", "/usr/bin/node\0client.js\0--tun-name\0tun-a\0")
    for (const [pid, network] of [["self", 1], ["1", 2], ["42", 1]] as const) {
      fs.mkdirSync(path.join(root, `${pid}/ns`), { recursive: true })
      fs.symlinkSync(`net:[${network}]`, path.join(root, `${pid}/ns/net`))
    }
    put("42/status", "Name:\tnode\nCapEff:\t0000000000001000\n")
    put("42/fdinfo/5", "pos:\t0\nflags:\t02\niff:\ttun-a\n")
    fs.mkdirSync(path.join(root, "42/fd"))
    fs.symlinkSync("/dev/net/tun", path.join(root, "42/fd/5"))
    put("self/comm", "no number\n")
    return Effect.gen(function*() {
      const processes = yield* Processes
      assert.deepStrictEqual(yield* processes.all, [
        { pid: 1, name: "init", words: [], isElsewhere: true },
        { pid: 42, name: "node", words: ["/usr/bin/node", "client.js", "--tun-name", "tun-a"], isElsewhere: false }
      ])
      assert.strictEqual(yield* processes.capabilities(42), 1n << 12n)
      assert.isUndefined(yield* processes.capabilities(1))
      assert.strictEqual((yield* processes.holderOfTun("tun-a"))?.pid, 42)
      assert.isUndefined(yield* processes.holderOfTun("tun"))
    }).pipe(Effect.provide(ProcessesProcfs.layerWith(root)))
  })
})

describe("commands", () => {
  it.live("tell what they print, or nothing", () =>
    Effect.gen(function*() {
      const commands = yield* HostCommands
      assert.strictEqual(yield* commands.output("printf", "%s", "a b; c"), "a b; c")
      assert.isUndefined(yield* commands.output("false"))
      assert.isUndefined(yield* commands.output("fz-no-such-program"))
    }).pipe(Effect.provide(HostCommandsLive.layer)))

  it.live("are ended when they take too long", () =>
    Effect.gen(function*() {
      const began = performance.now()
      assert.isUndefined(yield* (yield* HostCommands).output("sleep", "60"))
      assert.isBelow(performance.now() - began, 30_000)
    }).pipe(Effect.provide(HostCommandsLive.layer)), 40_000)
})
