import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Logger from "effect/Logger"
import { execFileSync } from "node:child_process"
import * as fs from "node:fs"
import * as os from "node:os"
import * as path from "node:path"
import { afterAll } from "vitest"
import * as AdvancedSettingsFile from "../../../src/layers/config/AdvancedSettingsFile.ts"
import { AdvancedSettingsStore } from "../../../src/services/AdvancedSettingsStore.ts"
import { ClientConfig } from "../../../src/services/ClientConfig.ts"
import { settings } from "../../support/settings.ts"

const root = fs.mkdtempSync(path.join(os.tmpdir(), "fz-settings-"))
afterAll(() => fs.rmSync(root, { recursive: true }))
let folders = 0
const newFolder = (): string => path.join(root, `state-${folders++}`, "config")

const storeIn = (stateDir: string) =>
  Effect.provide(
    AdvancedSettingsStore,
    Layer.provide(AdvancedSettingsFile.layer, Layer.succeed(ClientConfig, settings({ stateDir })))
  )

const mine = { auth_url: "https://app.test/", api_url: "wss://api.test/", log_filter: "debug" }

describe("the advanced settings", () => {
  it.effect("are kept in a file of root's alone, in a folder that the group may read", () =>
    Effect.gen(function*() {
      const folder = newFolder()
      const store = yield* storeIn(folder)
      assert.isUndefined(yield* store.load)
      yield* store.save(mine)
      yield* store.save({ ...mine, log_filter: "trace" })
      const file = path.join(folder, "advanced_settings.json")
      assert.deepStrictEqual(fs.readdirSync(folder), ["advanced_settings.json"])
      assert.deepStrictEqual(JSON.parse(fs.readFileSync(file, "utf8")), { ...mine, log_filter: "trace" })
      assert.strictEqual(fs.statSync(file).mode & 0o777, 0o600)
      assert.strictEqual(fs.statSync(folder).mode & 0o777, 0o750)
      assert.deepStrictEqual(yield* (yield* storeIn(folder)).load, { ...mine, log_filter: "trace" })
      // Whoever made it otherwise.
      fs.chmodSync(folder, 0o777)
      yield* store.save(mine)
      assert.strictEqual(fs.statSync(folder).mode & 0o777, 0o750)
    }))

  it.effect("that cannot be read are as none, and what is wrong is logged", () =>
    Effect.gen(function*() {
      for (const text of ["", "{", "null", "{\"auth_url\":1}", "x".repeat(70_000)]) {
        const folder = newFolder()
        fs.mkdirSync(folder, { recursive: true })
        fs.writeFileSync(path.join(folder, "advanced_settings.json"), text)
        const lines: Array<string> = []
        const logger = Logger.make(({ message }) => void lines.push(String(message)))
        const loaded = yield* Effect.flatMap(storeIn(folder), (store) => store.load).pipe(
          Effect.provide(Logger.replace(Logger.defaultLogger, logger))
        )
        assert.isUndefined(loaded)
        assert.lengthOf(lines, 1, text.slice(0, 20))
      }
    }))

  it.effect("are waited for at no pipe", () =>
    Effect.gen(function*() {
      const folder = newFolder()
      fs.mkdirSync(folder, { recursive: true })
      execFileSync("mkfifo", [path.join(folder, "advanced_settings.json")])
      const store = yield* storeIn(folder)
      assert.isUndefined(yield* store.load)
      yield* store.save(mine)
      assert.deepStrictEqual(yield* store.load, mine)
    }))

  it.effect("that cannot be kept are an error that names the file", () =>
    Effect.gen(function*() {
      const store = yield* storeIn("/dev/null/config")
      const error = yield* Effect.flip(store.save(mine))
      assert.include(error.message, "/dev/null/config/advanced_settings.json")
    }))
})
