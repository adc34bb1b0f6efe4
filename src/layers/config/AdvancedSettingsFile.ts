/** The tunnel service's settings in its state folder (host spec section 7.4). */
import * as Effect from "effect/Effect"
import * as Either from "effect/Either"
import * as Layer from "effect/Layer"
import * as Schema from "effect/Schema"
import { randomBytes } from "node:crypto"
import * as fs from "node:fs"
import * as path from "node:path"
import { AdvancedSettings } from "../../model/gui.ts"
import { AdvancedSettingsStore } from "../../services/AdvancedSettingsStore.ts"
import { ClientConfig, ConfigInvalid } from "../../services/ClientConfig.ts"
import { makeFolder } from "../makeFolder.ts"
import { readPlainFile } from "./readPlainFile.ts"

const FILE = "advanced_settings.json"
const MAX_BYTES = 64 * 1024

const decode = Schema.decodeUnknownEither(Schema.parseJson(AdvancedSettings))
const codeOf = (cause: unknown): string | undefined => (cause as NodeJS.ErrnoException).code

const load = (file: string): Effect.Effect<AdvancedSettings | undefined> =>
  Effect.suspend(() => {
    const unusable = (why: string) =>
      Effect.as(
        Effect.logWarning("the stored settings cannot be used: going on with the defaults").pipe(
          Effect.annotateLogs({ file, why })
        ),
        undefined
      )
    try {
      const settings = decode(readPlainFile(file, MAX_BYTES))
      return Either.isRight(settings) ? Effect.succeed(settings.right) : unusable("it does not hold settings")
    } catch (cause) {
      return codeOf(cause) === "ENOENT"
        ? Effect.succeed(undefined)
        : unusable(cause instanceof Error ? cause.message : String(cause))
    }
  })

const save = (file: string, settings: AdvancedSettings): void => {
  const folder = path.dirname(file)
  makeFolder(folder, 0o750)
  // The GUI's group may look into it, whoever made it.
  fs.chmodSync(folder, 0o750)
  const temporary = path.join(folder, `.settings-${randomBytes(8).toString("hex")}`)
  try {
    const descriptor = fs.openSync(temporary, "wx", 0o600)
    try {
      fs.writeSync(descriptor, JSON.stringify(settings))
      fs.fsyncSync(descriptor)
    } finally {
      fs.closeSync(descriptor)
    }
    fs.renameSync(temporary, file)
  } catch (cause) {
    fs.rmSync(temporary, { force: true })
    throw cause
  }
}

export const layer: Layer.Layer<AdvancedSettingsStore, never, ClientConfig> = Layer.effect(
  AdvancedSettingsStore,
  Effect.map(ClientConfig, ({ stateDir }) => {
    const file = path.join(stateDir, FILE)
    return AdvancedSettingsStore.of({
      load: load(file),
      save: (settings) =>
        Effect.try({
          try: () => save(file, settings),
          catch: (cause) =>
            new ConfigInvalid({ what: file, why: cause instanceof Error ? cause.message : String(cause) })
        })
    })
  })
)
