import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Either from "effect/Either"
import * as Layer from "effect/Layer"
import * as LogLevel from "effect/LogLevel"
import * as Redacted from "effect/Redacted"
import * as fs from "node:fs"
import * as os from "node:os"
import * as path from "node:path"
import { Writable } from "node:stream"
import { filesToDelete } from "../../../src/layers/log/logCleanUp.ts"
import { parseLogFilter } from "../../../src/layers/log/logFilter.ts"
import * as LogLive from "../../../src/layers/log/LogLive.ts"
import { formatJson, formatLine } from "../../../src/layers/log/logRecord.ts"
import { waitFor } from "../../support/waitFor.ts"

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
  it("takes levels as numbers, in any case", () => {
    assert.isTrue(filter("4,tun=TRACE,dns=0").wants("portal", LogLevel.Debug))
    assert.isFalse(filter("4,tun=TRACE,dns=0").wants("dns", LogLevel.Error))
  })
  it("has nothing to do where a directive is about spans only", () => {
    for (const text of ["[packet]=trace", "[{len}]", "[packet{len=3}]"]) {
      assert.isFalse(filter(`warn,${text}`).wants("tun", LogLevel.Info), text)
    }
    assert.isTrue(Either.isLeft(parseLogFilter("[packet]=loud")))
  })
  it("accepts span filters and refuses nonsense", () => {
    assert.isTrue(filter("tun[packet{len=3}]=trace").wants("tun", LogLevel.Trace))
    assert.isFalse(filter("info,tun[packet{len=3,kind=4}]=trace,portal=warn").wants("portal", LogLevel.Info))
    assert.isTrue(Either.isLeft(parseLogFilter("portal=loud")))
    assert.isTrue(Either.isLeft(parseLogFilter("a=b=c")))
  })
})

describe("log lines", () => {
  const record = (message: string, ...fields: ReadonlyArray<readonly [string, unknown]>) => ({
    time: new Date(0),
    level: LogLevel.Warning,
    target: "portal",
    message,
    fields
  })
  const line = (message: string, ...fields: ReadonlyArray<readonly [string, unknown]>) =>
    formatLine(record(message, ...fields), false)

  it("have time, level, target, message and fields", () => {
    assert.strictEqual(
      line("lost", ["n", 1], ["text", "two words"], ["at", "10.0.0.1:53"], ["big", 5n], ["yes", true]),
      "1970-01-01T00:00:00.000Z  WARN portal: lost n=1 text=\"two words\" at=10.0.0.1:53 big=5 yes=true"
    )
    assert.include(formatLine(record("lost"), true), "\u001b[33m WARN\u001b[0m")
  })

  it("cannot be forged, and say nothing to the terminal", () => {
    const forged = "x\n1970-01-01T00:00:00.000Z ERROR portal: signed out\r\u001b[2J\u009b2J\u0000"
    for (const text of [line(forged), line("x", ["reason", forged])]) {
      for (const part of text.split("\n").slice(1)) assert.match(part, /^ {2}/)
      assert.notMatch(text, /[\u0000-\u0009\u000b-\u001f\u007f-\u009f]/)
    }
  })

  it("show what an error says and hide what is secret, however deep", () => {
    const secret = Redacted.make("hunter2")
    const fields = [["error", new Error("no such host")], ["secret", secret], ["deep", { list: [secret] }]] as const
    for (const text of [line("x", ...fields), formatJson(record("x", ...fields))]) {
      assert.include(text, "no such host")
      assert.notInclude(text, "hunter2")
    }
  })

  it("are JSON whatever the values, and keep their own fields", () => {
    const circle: { self?: unknown } = {}
    circle.self = circle
    const text = formatJson(record("m", ["big", 2n ** 70n], ["circle", circle], ["level", "5"], ["none", undefined]))
    assert.deepInclude(JSON.parse(text), { level: "WARN", level_: "5", message: "m", big: "1180591620717411303424" })
  })
})

describe("log files", () => {
  const old = 1_000
  const now = 10_000_000
  const file = (name: string, size: number, modifiedMillis: number) => ({ name, size, modifiedMillis })
  it("deletes the oldest first, keeps young ones, other names and the last one (host 18.6)", () => {
    assert.deepStrictEqual(
      filesToDelete([file("b.log", 60, old + 1), file("a.log", 60, old), file("c.log", 60, now)], 120, now),
      ["a.log"]
    )
    assert.deepStrictEqual(filesToDelete([file("a.log", 500, now - 1000), file("b.log", 1, old)], 10, now), ["b.log"])
    assert.deepStrictEqual(filesToDelete([file("a.log", 500, old)], 10, now), [])
    assert.deepStrictEqual(filesToDelete([file("a.txt", 500, old), file("b.log", 1, old)], 10, now), [])
  })

  /** A console that keeps what is written. */
  const collector = (written: Array<string>) =>
    Object.assign(new Writable({ write: (chunk, _, done) => (written.push(String(chunk)), done()) }), {
      isTTY: false
    }) as unknown as NodeJS.WriteStream
  const log = (folder: string, effect: Effect.Effect<void>, written: Array<string> = []): Promise<void> =>
    Effect.runPromise(
      Effect.orDie(Effect.provide(
        effect,
        LogLive.layer({ filter: "info", folder, base: "test", stream: collector(written) })
      ))
    )

  const logs = (folder: string) => fs.readdirSync(folder).filter((name) => name.endsWith(".log"))
  /** Of all files, in the order of their names. */
  const linesOf = (folder: string): ReadonlyArray<string> =>
    logs(folder).sort().flatMap((name) => fs.readFileSync(path.join(folder, name), "utf8").split("\n").slice(0, -1))

  it("writes JSON lines with mode 0640, and makes the file anew when it is deleted", async () => {
    const folder = fs.mkdtempSync(path.join(os.tmpdir(), "fz-log-"))
    try {
      await log(
        folder,
        Effect.gen(function*() {
          const secret = Redacted.make("hunter2")
          yield* Effect.logInfo("first").pipe(Effect.annotateLogs({ module: "m", n: 1, secret }))
          yield* waitFor("the line", () => linesOf(folder).length === 1)
          const [name = ""] = logs(folder)
          const text = fs.readFileSync(path.join(folder, name), "utf8")
          const record = JSON.parse(text) as Record<string, unknown>
          assert.deepInclude(record, { level: "INFO", message: "first", target: "m", n: 1 })
          assert.notInclude(text, "hunter2")
          assert.strictEqual(fs.statSync(path.join(folder, name)).mode & 0o777, 0o640)
          assert.strictEqual(fs.readlinkSync(path.join(folder, "test.latest")), path.join(folder, name))
          fs.rmSync(path.join(folder, name))
          yield* Effect.logDebug("not wanted")
          yield* Effect.logInfo("second\u001b[31m")
          yield* waitFor("another file", () => linesOf(folder).length === 1)
          assert.include(linesOf(folder)[0] ?? "", "second")
          // As a program would that rotates logs.
          fs.renameSync(path.join(folder, name), path.join(folder, "old"))
          fs.writeFileSync(path.join(folder, name), "")
          yield* Effect.logInfo("third")
          yield* waitFor("the file that is there now", () => linesOf(folder).length === 1)
          assert.include(linesOf(folder)[0] ?? "", "third")
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

  it("write to the console too, with a priority in front of each line for the journal", async () => {
    const folder = fs.mkdtempSync(path.join(os.tmpdir(), "fz-log-"))
    try {
      const written: Array<string> = []
      await log(folder, Effect.logInfo("to both"), written)
      assert.match(written.join(""), /^\S+Z {2}INFO firezone: to both\n$/)
      const { dev, ino } = fs.fstatSync(1)
      const lines = async (journal: string) => {
        const console: Array<string> = []
        await Effect.runPromise(
          Effect.zipRight(Effect.logError("one\ntwo"), Effect.logDebug("fine")).pipe(
            Effect.provide(LogLive.layer({
              filter: "debug",
              folder: undefined,
              base: "test",
              journal,
              stream: Object.assign(collector(console), { fd: 1 })
            })),
            Effect.orDie
          )
        )
        return console.join("")
      }
      assert.match(
        await lines(`${dev}:${ino}`),
        /^<3>\S+Z ERROR firezone: one\n<3> {2}two\n<7>\S+Z DEBUG firezone: fine\n$/
      )
      // The unit's variable, but the output goes elsewhere.
      assert.match(await lines(`${dev}:${ino + 1}`), /^\S+Z ERROR firezone: one\n {2}two\n\S+Z DEBUG firezone: fine\n$/)
    } finally {
      fs.rmSync(folder, { recursive: true })
    }
  })

  it("delete old files at the start, never the newest one nor another kind of file", async () => {
    const folder = fs.mkdtempSync(path.join(os.tmpdir(), "fz-log-"))
    const hourAgo = Date.now() / 1000 - 3600
    try {
      for (
        const [name, megabytes, age] of [["a.log", 60, 3], ["b.log", 60, 2], ["c.log", 30, 1], [
          "d.txt",
          60,
          9
        ]] as const
      ) {
        const file = path.join(folder, name)
        fs.closeSync(fs.openSync(file, "w"))
        fs.truncateSync(file, megabytes << 20) // without blocks
        fs.utimesSync(file, hourAgo, hourAgo - age * 60)
      }
      fs.symlinkSync(path.join(folder, "d.txt"), path.join(folder, "link.log"))
      await log(folder, waitFor("the clean-up", () => !fs.existsSync(path.join(folder, "a.log"))))
      assert.deepStrictEqual(fs.readdirSync(folder).sort(), ["b.log", "c.log", "d.txt", "link.log"])
    } finally {
      fs.rmSync(folder, { recursive: true })
    }
  })

  it("complain once when they cannot be written, and go on when they can again", async () => {
    const folder = fs.mkdtempSync(path.join(os.tmpdir(), "fz-log-"))
    const complaints: Array<string> = []
    const write = process.stderr.write.bind(process.stderr)
    process.stderr.write = (text) => complaints.push(String(text)) > 0
    try {
      await log(
        folder,
        Effect.gen(function*() {
          fs.rmSync(folder, { recursive: true })
          yield* Effect.logInfo("lost")
          yield* waitFor("the complaint", () => complaints.length > 0)
          yield* Effect.logInfo("lost")
          fs.mkdirSync(folder)
          yield* Effect.logInfo("kept")
        })
      )
      assert.strictEqual(JSON.parse(linesOf(folder).at(-1) ?? "{}").message, "kept")
      assert.lengthOf(complaints, 1)
      assert.match(complaints[0] ?? "", /cannot write the log file .*ENOENT/)
    } finally {
      process.stderr.write = write
      fs.rmSync(folder, { recursive: true, force: true })
    }
  })
})
