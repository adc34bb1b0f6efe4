import { assert, describe, it } from "@effect/vitest"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Scope from "effect/Scope"
import { execFileSync } from "node:child_process"
import * as fs from "node:fs"
import * as os from "node:os"
import * as path from "node:path"
import { waitlessSink } from "../../../src/layers/log/consoleSink.ts"
import * as LineQueue from "../../../src/layers/log/LineQueue.ts"
import { waitFor } from "../../support/waitFor.ts"

const lines = (from: number, to: number) => Array.from({ length: to - from }, (_, i) => `line ${from + i}`)

/** A sink that waits until it is opened. */
const makeGate = Effect.gen(function*() {
  const opened = yield* Deferred.make<void>()
  const written: Array<string> = []
  const sink: LineQueue.Sink = {
    write: (text) => Effect.zipRight(Deferred.await(opened), Effect.sync(() => void written.push(text))),
    writeNow: (text) => void written.push(text)
  }
  return { opened, sink, text: () => written.join("") }
})
const told = (dropped: number) => `dropped ${dropped}`

describe("lines of the log", () => {
  it.live("are written in order, and at the end all that are left", () =>
    Effect.gen(function*() {
      const gate = yield* makeGate
      yield* Deferred.succeed(gate.opened, undefined)
      yield* Effect.scoped(Effect.gen(function*() {
        const push = yield* LineQueue.make(gate.sink, told)
        for (const line of lines(0, 10)) push(line)
        yield* waitFor("the first ones", () => gate.text().includes("line 9\n"))
        for (const line of lines(10, 500)) push(line)
      }))
      assert.strictEqual(gate.text(), lines(0, 500).map((line) => `${line}\n`).join(""))
    }))

  it.live("are dropped when there are too many or they are too long, and it is told how many", () =>
    Effect.gen(function*() {
      const gate = yield* makeGate
      const scope = yield* Scope.make()
      const push = yield* Scope.extend(LineQueue.make(gate.sink, told), scope)
      push("first")
      yield* Effect.sleep("10 millis") // or not: the bounds below hold for both
      for (const line of lines(0, 5000)) push(line)
      for (let i = 0; i < 10; i++) push("x".repeat(1 << 20))
      yield* Deferred.succeed(gate.opened, undefined)
      yield* waitFor("what was dropped", () => gate.text().includes("dropped"))
      yield* Scope.close(scope, Exit.void)
      const kept = gate.text().split("\n").slice(0, -1)
      const dropped = Number(/^dropped (\d+)$/m.exec(gate.text())?.[1])
      assert.isAtMost(kept.length, LineQueue.CAPACITY + 2)
      assert.strictEqual(kept.filter((line) => !line.startsWith("dropped")).length + dropped, 5011)
      assert.deepStrictEqual(kept.slice(0, 3), ["first", "line 0", "line 1"])
    }))

  it.live("do not hold up the end when nobody takes them", () =>
    Effect.gen(function*() {
      const gate = yield* makeGate
      const began = performance.now()
      yield* Effect.scoped(Effect.gen(function*() {
        const push = yield* LineQueue.make(gate.sink, told)
        for (const line of lines(0, 10)) push(line)
      }))
      assert.isBelow(performance.now() - began, 5000)
    }))

  it.live("wait for a terminal that is stopped, and nothing else does", () =>
    Effect.gen(function*() {
      const folder = fs.mkdtempSync(path.join(os.tmpdir(), "fz-terminal-"))
      const fifo = path.join(folder, "fifo")
      execFileSync("mkfifo", [fifo])
      // Both ends, so that nobody waits for anybody to open it.
      const reader = fs.openSync(fifo, fs.constants.O_RDWR | fs.constants.O_NONBLOCK)
      yield* Effect.addFinalizer(() =>
        Effect.sync(() => {
          fs.closeSync(reader)
          fs.rmSync(folder, { recursive: true })
        })
      )
      const push = yield* LineQueue.make(waitlessSink(fifo), told)
      const all = lines(0, 1000).map((line) => line.padEnd(300, "."))
      for (const line of all) push(line)
      // More than fits; this test goes on all the same.
      yield* Effect.sleep("50 millis")
      let text = ""
      const bytes = Buffer.alloc(1 << 16)
      yield* waitFor("all of it", () => {
        try {
          text += bytes.toString("utf8", 0, fs.readSync(reader, bytes))
        } catch (error) {
          assert.strictEqual((error as NodeJS.ErrnoException).code, "EAGAIN")
        }
        return text.length >= 301_000
      })
      assert.strictEqual(text, all.map((line) => `${line}\n`).join(""))
    }).pipe(Effect.scoped))
})
