import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Either from "effect/Either"
import * as fs from "node:fs"
import * as os from "node:os"
import * as path from "node:path"
import { Writable } from "node:stream"
import { afterAll } from "vitest"
import * as LogLive from "../../../src/layers/log/LogLive.ts"
import { LogControl } from "../../../src/services/LogControl.ts"
import { waitFor } from "../../support/waitFor.ts"

const folder = fs.mkdtempSync(path.join(os.tmpdir(), "fz-log-control-"))
afterAll(() => fs.rmSync(folder, { recursive: true }))

/** Of a terminal's stream only `write` is used. */
const nowhere = new Writable({ write: (_chunk, _encoding, done) => done() }) as unknown as NodeJS.WriteStream

describe("a log that is changed while it is written", () => {
  it.effect("follows its filter, and starts anew when it was cleared", () =>
    Effect.gen(function*() {
      for (const name of ["older.log", "other.latest", "firezone-id.json"]) {
        fs.writeFileSync(path.join(folder, name), "")
      }
      fs.mkdirSync(path.join(folder, "folder.log"))
      const control = yield* LogControl
      const latest = path.join(folder, "tunnel-service.latest")
      const text = () => fs.existsSync(latest) ? fs.readFileSync(latest, "utf8") : ""
      const written = (word: string) => waitFor(word, () => text().includes(word))
      yield* Effect.logDebug("two")
      yield* Effect.logInfo("one")
      yield* written("one")
      assert.notInclude(text(), "two")
      yield* Either.getOrThrow(control.filter("firezone=debug"))
      yield* Effect.logDebug("three")
      yield* written("three")
      const wrong = control.filter("a=b=c")
      assert.isTrue(Either.isLeft(wrong) && wrong.left.message.startsWith("log filter: "))
      yield* Effect.logDebug("four")
      yield* written("four")

      yield* control.clear
      assert.deepStrictEqual(fs.readdirSync(folder).sort(), ["firezone-id.json", "folder.log"])
      yield* Effect.logInfo("five")
      yield* written("five")
      assert.notInclude(text(), "four")
    }).pipe(
      Effect.provide(LogLive.controlled({ filter: undefined, folder, base: "tunnel-service", stream: nowhere }))
    ))

  it.effect("has nothing to clear without a folder, and says which one it cannot clear", () =>
    Effect.gen(function*() {
      const control = (folder: string | undefined) =>
        Effect.provide(LogControl, LogLive.controlled({ filter: undefined, folder, base: "x", stream: nowhere }))
      yield* (yield* control(undefined)).clear
      const gone = path.join(folder, "gone")
      const { clear } = yield* control(gone)
      fs.rmdirSync(gone)
      assert.include((yield* Effect.flip(clear)).message, gone)
    }))
})
