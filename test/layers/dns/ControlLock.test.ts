import { assert, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import { spawn } from "node:child_process"
import * as fs from "node:fs"
import * as os from "node:os"
import * as path from "node:path"
import { ControlLock } from "../../../src/layers/dns/ControlLock.ts"
import { describeWith } from "../../support/requires.ts"
import { waitFor } from "../../support/waitFor.ts"

const makeFile = Effect.acquireRelease(
  Effect.sync(() => fs.mkdtempSync(path.join(os.tmpdir(), "lock-"))),
  (folder) => Effect.sync(() => fs.rmSync(folder, { recursive: true, force: true }))
).pipe(Effect.map((folder) => path.join(folder, "run", "dns.lock")))

describeWith({ programs: ["flock"] }, "ControlLock", () => {
  it.scoped("is one process's, as long as it lives", () =>
    Effect.gen(function*() {
      const file = yield* makeFile
      fs.mkdirSync(path.dirname(file))
      const lock = new ControlLock(file)
      const other = yield* Effect.acquireRelease(
        Effect.sync(() => spawn("flock", ["--exclusive", "--no-fork", file, "sh", "-c", "echo held; exec sleep 60"])),
        (child) => Effect.sync(() => child.kill("SIGKILL"))
      )
      let said = ""
      other.stdout.on("data", (text) => (said += String(text)))
      yield* waitFor("the other's lock", () => said === "held\n")
      assert.deepStrictEqual(lock.take(), { _tag: "Taken", by: undefined })
      assert.deepStrictEqual(lock.takeIfThere(), { _tag: "Taken", by: undefined })
      const ended = new Promise((resolve) => other.once("exit", resolve))
      other.kill("SIGKILL")
      yield* Effect.promise(() => ended)
      assert.deepStrictEqual(lock.take(), { _tag: "Held" })
      assert.deepStrictEqual(lock.take(), { _tag: "Held" })
      lock.release()
    }))

  it.scoped("tells who has it, and leaves nothing behind", () =>
    Effect.gen(function*() {
      const file = yield* makeFile
      const [first, second] = [new ControlLock(file), new ControlLock(file)]
      assert.deepStrictEqual(second.takeIfThere(), { _tag: "Held" })
      assert.isFalse(fs.existsSync(path.dirname(file)))
      assert.deepStrictEqual(first.take(), { _tag: "Held" })
      assert.strictEqual(fs.statSync(file).mode & 0o777, 0o600)
      assert.deepStrictEqual(second.take(), { _tag: "Taken", by: process.pid })
      first.release()
      first.release()
      assert.isFalse(fs.existsSync(path.dirname(file)))
      assert.deepStrictEqual(second.take(), { _tag: "Held" })
      fs.writeFileSync(path.join(path.dirname(file), "of others"), "")
      second.release()
      assert.deepStrictEqual(fs.readdirSync(path.dirname(file)), ["of others"])
    }))

  it.scoped("is not what a link leads to, nor in a folder that cannot be made", () =>
    Effect.gen(function*() {
      const file = yield* makeFile
      const folder = path.dirname(file)
      fs.mkdirSync(folder)
      const victim = path.join(folder, "victim")
      fs.writeFileSync(victim, "x")
      fs.symlinkSync(victim, file)
      assert.strictEqual(new ControlLock(file).take()._tag, "Unguarded")
      assert.strictEqual(new ControlLock(file).takeIfThere()._tag, "Unguarded")
      assert.strictEqual(fs.readFileSync(victim, "utf8"), "x")
      assert.strictEqual(new ControlLock(path.join(victim, "folder", "lock")).take()._tag, "Unguarded")
    }))
})
