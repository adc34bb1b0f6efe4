import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Either from "effect/Either"
import * as Layer from "effect/Layer"
import * as LogLevel from "effect/LogLevel"
import * as Redacted from "effect/Redacted"
import * as fs from "node:fs"
import * as os from "node:os"
import * as path from "node:path"
import { filesToDelete } from "../../../src/layers/log/LogFile.ts"
import { parseLogFilter } from "../../../src/layers/log/logFilter.ts"
import * as LogLive from "../../../src/layers/log/LogLive.ts"

const filter = (text: string) => Either.getOrThrow(parseLogFilter(text))

describe("log filter", () => {
  it("takes a bare level", () => {
    assert.isTrue(filter("debug").wants("portal", LogLevel.Debug))
    assert.isFalse(filter("debug").wants("portal", LogLevel.Trace))
    assert.isTrue(filter("").wants("portal", LogLevel.Info))
    assert.isFalse(filter("off").wants("portal", LogLevel.Error))
  })
  it("lets the longest target prefix win", () => {
    const { minimum, wants } = filter("info,portal=debug,portal::ws=error")
    assert.isTrue(wants("portal", LogLevel.Debug))
    assert.isFalse(wants("portal::ws", LogLevel.Warning))
    assert.isFalse(wants("tun", LogLevel.Debug))
    assert.deepStrictEqual(minimum, LogLevel.Debug)
  })
  it("accepts span filters and refuses nonsense", () => {
    assert.isTrue(filter("tun[packet{len=3}]=trace").wants("tun", LogLevel.Trace))
    assert.isTrue(Either.isLeft(parseLogFilter("portal=loud")))
    assert.isTrue(Either.isLeft(parseLogFilter("a=b=c")))
  })
})

describe("log files", () => {
  const old = 1_000
  const now = 10_000_000
  const file = (name: string, size: number, modifiedMillis: number) => ({ name, size, modifiedMillis })
  it("deletes the oldest first, keeps young ones, other names and the last one", () => {
    assert.deepStrictEqual(
      filesToDelete([file("b.log", 60, old + 1), file("a.log", 60, old), file("c.log", 60, now)], 120, now),
      ["a.log"]
    )
    assert.deepStrictEqual(filesToDelete([file("a.log", 500, now - 1000), file("b.log", 1, old)], 10, now), ["b.log"])
    assert.deepStrictEqual(filesToDelete([file("a.log", 500, old)], 10, now), [])
    assert.deepStrictEqual(filesToDelete([file("a.txt", 500, old), file("b.log", 1, old)], 10, now), [])
  })

  const log = (folder: string, effect: Effect.Effect<void>): Promise<void> =>
    Effect.runPromise(
      Effect.provide(
        effect,
        LogLive.layer({ filter: "info", folder, base: "test", stream: process.stderr })
      ) as Effect.Effect<void>
    )

  it("writes JSON lines with mode 0640, and makes the file anew when it is deleted", async () => {
    const folder = fs.mkdtempSync(path.join(os.tmpdir(), "fz-log-"))
    try {
      await log(
        folder,
        Effect.gen(function*() {
          const secret = Redacted.make("hunter2")
          yield* Effect.logInfo("first").pipe(Effect.annotateLogs({ module: "m", n: 1, secret }))
          const [name = ""] = fs.readdirSync(folder).filter((name) => name.endsWith(".log"))
          const text = fs.readFileSync(path.join(folder, name), "utf8")
          const record = JSON.parse(text) as Record<string, unknown>
          assert.deepInclude(record, { level: "INFO", message: "first", target: "m", n: 1 })
          assert.notInclude(text, "hunter2")
          assert.strictEqual(fs.statSync(path.join(folder, name)).mode & 0o777, 0o640)
          assert.strictEqual(fs.readlinkSync(path.join(folder, "test.latest")), path.join(folder, name))
          fs.rmSync(path.join(folder, name))
          yield* Effect.logInfo("second\u001b[31m")
          yield* Effect.logDebug("not wanted")
          assert.strictEqual(fs.readFileSync(path.join(folder, name), "utf8").trim().split("\n").length, 1)
        })
      )
    } finally {
      fs.rmSync(folder, { recursive: true })
    }
  })

  it("refuses a folder that cannot be one", async () => {
    const parent = fs.mkdtempSync(path.join(os.tmpdir(), "fz-log-"))
    try {
      fs.writeFileSync(path.join(parent, "file"), "")
      const exit = await Effect.runPromiseExit(Effect.scoped(
        Layer.build(LogLive.layer({ filter: undefined, folder: path.join(parent, "file", "logs"), base: "test" }))
      ))
      assert.include(String(exit), "log folder")
    } finally {
      fs.rmSync(parent, { recursive: true })
    }
  })
})
