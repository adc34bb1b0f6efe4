/** `debug bundle`: one file with what a person who helps would ask for, and no secrets. */
import * as Clock from "effect/Clock"
import * as Console from "effect/Console"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import { gzipSync } from "node:zlib"
import { version } from "../../model/version.ts"
import { encodeTar, type TarFile } from "../../protocol/wire/ustar.ts"
import { BundleStore } from "../../services/BundleStore.ts"
import { TokenStore } from "../../services/TokenStore.ts"
import { bytes } from "../statusScreen.ts"
import { collect, type Part, secretOf } from "./collect.ts"
import { redact } from "./redact.ts"

export interface BundleOptions {
  /** `-` is stdout; without one a name with the time, here. */
  readonly file: string | undefined
  readonly force: boolean
}

const STDOUT = "-"

const WARNING = `It holds names and addresses of this machine, of its network and of the
account's resources, and the client's log. Tokens and keys were taken out of
every file. Look at it before you send it: manifest.json says what is in it.`

const nameAt = (time: string): string => `firezone-debug-${time.slice(0, 19).replaceAll(/[T:]/g, "-")}`

const encode = (text: string): Uint8Array => new TextEncoder().encode(text)

/** The files without secrets, behind a list of them. */
const filesOf = (folder: string, parts: ReadonlyArray<Part>, secrets: ReadonlyArray<string>, time: string) => {
  const contents: Array<object> = []
  const leftOut: Array<object> = []
  const files: Array<TarFile> = []
  let removed = 0
  for (const part of parts) {
    if (!("text" in part)) {
      leftOut.push({ name: part.name, why: redact(part.why, secrets).text })
      continue
    }
    const { count, text } = redact(part.text, secrets)
    removed += count
    const file = { name: `${folder}/${part.name}`, bytes: encode(text) }
    files.push(file)
    contents.push({ name: part.name, what: part.what, bytes: file.bytes.length, removed: count })
  }
  const manifest = { version: 1, client: version, time, contents, leftOut, removed }
  return {
    files: [
      { name: `${folder}/manifest.json`, bytes: encode(`${JSON.stringify(manifest, undefined, 2)}\n`) },
      ...files
    ],
    leftOut: leftOut.length,
    removed
  }
}

/** `doctor` is a run of it that returns what it prints. */
export const bundle = <R>(options: BundleOptions, doctor: Effect.Effect<string | undefined, never, R>) =>
  Effect.gen(function*() {
    const store = yield* BundleStore
    const now = yield* Clock.currentTimeMillis
    const time = new Date(now).toISOString()
    const name = nameAt(time)
    const target = options.file ?? `${name}.tar.gz`
    if (target !== STDOUT && !options.force) yield* store.free(target)
    // What it has to be kept out of is all that it is read for.
    const token = Option.getOrUndefined(yield* Effect.option((yield* TokenStore).read))
    const parts = yield* collect(doctor)
    const { files, leftOut, removed } = filesOf(name, parts, secretOf(token), time)
    const archive = gzipSync(encodeTar(files, Math.floor(now / 1000)))
    if (target === STDOUT) yield* store.writeStdout(archive)
    else yield* store.write(target, archive, { replaces: options.force })
    const done = target === STDOUT ? "The bundle is written" : `The bundle is ${target}`
    yield* Console.error(
      `${done}: ${bytes(archive.length)}, ${files.length} files, ${leftOut} left out,\n`
        + `${removed} secrets or what looked like one removed.\n${WARNING}`
    )
  })
