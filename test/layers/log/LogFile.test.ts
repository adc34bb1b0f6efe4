import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as TestClock from "effect/TestClock"
import { execFileSync } from "node:child_process"
import * as fs from "node:fs"
import * as os from "node:os"
import * as path from "node:path"
import * as LogFile from "../../../src/layers/log/LogFile.ts"
import { describeWith } from "../../support/requires.ts"
import { waitFor } from "../../support/waitFor.ts"

const withFolder = <A, E, R>(body: (folder: string) => Effect.Effect<A, E, R>) =>
  Effect.acquireUseRelease(
    Effect.sync(() => fs.mkdtempSync(path.join(os.tmpdir(), "fz-logs-"))),
    body,
    (folder) => Effect.sync(() => fs.rmSync(folder, { recursive: true }))
  )
const logs = (folder: string) => fs.readdirSync(folder).filter((name) => name.endsWith(".log")).sort()

describe("log files of a long run", () => {
  it.scoped(
    "are as many as it takes, each with its own name, and nothing is lost in between",
    () =>
      withFolder((folder) =>
        Effect.gen(function*() {
          const { write } = yield* LogFile.open(folder, "test", 100)
          let written = 0
          const writeLine = Effect.suspend(() => write(`{"line":${written++}}${".".repeat(40)}\n`))
          yield* writeLine
          const [first] = logs(folder)
          const old = path.join(folder, "old.log")
          fs.writeFileSync(old, "")
          fs.truncateSync(old, 200 << 20) // without blocks
          fs.utimesSync(old, 1, 1)
          // A name for each second: until the next one begins they go on with the file that they have.
          while (logs(folder).filter((name) => name !== "old.log").length < 3) {
            yield* Effect.zipRight(writeLine, waitFor("a moment", () => true))
          }
          yield* waitFor("the clean-up", () => !fs.existsSync(old))
          for (const name of logs(folder)) assert.match(name, /^test\.\d{4}(-\d\d){5}\.log$/)
          const text = logs(folder).map((name) => fs.readFileSync(path.join(folder, name), "utf8")).join("")
          const numbers = text.split("\n").slice(0, -1).map((line) =>
            Number(/^\{"line":(\d+)\}\.{40}$/.exec(line)?.[1])
          )
          assert.deepStrictEqual(numbers, Array.from({ length: written }, (_, i) => i))
          assert.strictEqual(
            fs.readlinkSync(path.join(folder, "test.latest")),
            path.join(folder, logs(folder).at(-1) ?? "")
          )
          assert.strictEqual(logs(folder)[0], first)
        })
      ),
    30_000
  )

  it.scoped("have mode 0640 whatever the umask is, and follow no link that somebody has put there", () =>
    withFolder((folder) =>
      Effect.gen(function*() {
        const umask = process.umask(0o077)
        yield* Effect.addFinalizer(() => Effect.sync(() => process.umask(umask)))
        const { write } = yield* LogFile.open(folder, "test")
        yield* write("one\n")
        const file = path.join(folder, logs(folder)[0] ?? "")
        assert.strictEqual(fs.statSync(file).mode & 0o777, 0o640)
        const precious = path.join(folder, "precious")
        fs.writeFileSync(precious, "")
        fs.rmSync(file)
        fs.symlinkSync(precious, file)
        const complaints: Array<string> = []
        const original = process.stderr.write.bind(process.stderr)
        process.stderr.write = (text) => complaints.push(String(text)) > 0
        yield* Effect.ensuring(write("two\n"), Effect.sync(() => (process.stderr.write = original)))
        assert.strictEqual(fs.readFileSync(precious, "utf8"), "")
        assert.match(complaints.join(""), /ELOOP/)
      })
    ))

  it.scoped("are cleaned up again every hour", () =>
    withFolder((folder) =>
      Effect.gen(function*() {
        yield* LogFile.open(folder, "test")
        yield* TestClock.adjust("10 minutes")
        const old = (name: string, minutesAgo: number): void => {
          const file = path.join(folder, name)
          fs.writeFileSync(file, "")
          fs.truncateSync(file, 60 << 20) // without blocks
          const then = Date.now() / 1000 - minutesAgo * 60
          fs.utimesSync(file, then, then)
        }
        old("a.log", 20)
        old("b.log", 10)
        old("c.log", 2)
        yield* TestClock.adjust("60 minutes")
        yield* waitFor("the clean-up", () => !fs.existsSync(path.join(folder, "b.log")))
        // The youngest is both.
        assert.deepStrictEqual(logs(folder), ["c.log"])
      })
    ))
})

describeWith({ root: true, programs: ["mount", "umount"] }, "log files on a full disk", () => {
  it.scoped("lose lines, and hold whole ones again when there is room", () =>
    withFolder((folder) =>
      Effect.gen(function*() {
        yield* Effect.acquireRelease(
          Effect.sync(() => execFileSync("mount", ["-t", "tmpfs", "-o", "size=16k", "none", folder])),
          () => Effect.sync(() => execFileSync("umount", ["-l", folder]))
        )
        const complaints: Array<string> = []
        const original = process.stderr.write.bind(process.stderr)
        process.stderr.write = (text) => complaints.push(String(text)) > 0
        yield* Effect.addFinalizer(() => Effect.sync(() => (process.stderr.write = original)))
        fs.writeFileSync(path.join(folder, "big"), Buffer.alloc(8192))
        const { write } = yield* LogFile.open(folder, "test")
        for (let i = 0; i < 40; i++) yield* write(`{"line":${i},"more":"${"x".repeat(500)}"}\n`)
        fs.rmSync(path.join(folder, "big"))
        yield* write("{\"line\":\"last\"}\n")
        const lines = fs.readFileSync(path.join(folder, logs(folder)[0] ?? ""), "utf8").split("\n").slice(0, -1)
        const isWhole = (line: string): boolean => {
          try {
            return typeof JSON.parse(line) === "object"
          } catch {
            return false
          }
        }
        assert.strictEqual(lines.at(-1), "{\"line\":\"last\"}")
        assert.isAtMost(lines.filter((line) => !isWhole(line)).length, 1)
        assert.isAbove(lines.length, 5)
        assert.lengthOf(complaints, 1)
        assert.match(complaints[0] ?? "", /cannot write the log file .*ENOSPC/)
      }).pipe(Effect.scoped)
    ))
})
