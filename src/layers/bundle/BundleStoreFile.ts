import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import { randomBytes } from "node:crypto"
import * as fs from "node:fs"
import * as path from "node:path"
import { BundleNotWritten, BundleStore, type LogLimits, type LogTail } from "../../services/BundleStore.ts"

const reason = (cause: unknown): string => cause instanceof Error ? cause.message : String(cause)
const codeOf = (cause: unknown): string | undefined => (cause as NodeJS.ErrnoException).code
const { O_NOFOLLOW = 0, O_NONBLOCK = 0, O_RDONLY } = fs.constants // the first two are not on Windows
const EXISTS = "it is there already; choose another name, or --force"

const attempt = <A>(file: string, call: () => A): Effect.Effect<A, BundleNotWritten> =>
  Effect.try({
    try: call,
    catch: (cause) => new BundleNotWritten({ file, why: codeOf(cause) === "EEXIST" ? EXISTS : reason(cause) })
  })

/** From its last whole line on that fits. */
const tail = (file: string, limit: number): { readonly text: string; readonly size: number } => {
  // A pipe that has taken the file's place must not make us wait.
  const fd = fs.openSync(file, O_RDONLY | O_NOFOLLOW | O_NONBLOCK)
  try {
    const stat = fs.fstatSync(fd)
    if (!stat.isFile()) throw new Error("it is no file")
    const { size } = stat
    const bytes = Buffer.alloc(Math.min(size, limit))
    const length = fs.readSync(fd, bytes, 0, bytes.length, size - bytes.length)
    const read = bytes.subarray(0, length)
    return { size, text: read.subarray(size > limit ? read.indexOf("\n") + 1 : 0).toString("utf8") }
  } finally {
    fs.closeSync(fd)
  }
}

/** Of one file: it may have been cleaned away, or be another user's. */
const unlessGone = <A>(call: () => A): A | undefined => {
  try {
    return call()
  } catch {
    return undefined
  }
}

const logs = (folder: string, { perFile, total }: LogLimits) => {
  const found = fs.readdirSync(folder, { withFileTypes: true }).filter((entry) =>
    entry.isFile() && entry.name.endsWith(".log")
  ).map(({ name }) => ({
    name,
    modifiedAt: unlessGone(() => fs.lstatSync(path.join(folder, name)).mtimeMs) ?? 0
  })).sort((a, b) => b.modifiedAt - a.modifiedAt)
  const tails: Array<LogTail> = []
  let left = total
  for (const { name } of found) {
    if (left <= 0) break
    const limit = Math.min(perFile, left)
    const end = unlessGone(() => tail(path.join(folder, name), limit))
    if (end === undefined) continue
    tails.push({ name, ...end })
    left -= Math.min(end.size, limit)
  }
  return { tails, leftOut: found.length - tails.length }
}

const write = (file: string, bytes: Uint8Array, replaces: boolean): void => {
  const temporary = path.join(path.dirname(file), `.bundle-${randomBytes(8).toString("hex")}`)
  const fd = fs.openSync(temporary, "wx", 0o600)
  try {
    try {
      fs.writeFileSync(fd, bytes)
    } finally {
      fs.closeSync(fd)
    }
    if (replaces) return fs.renameSync(temporary, file)
    // Unlike a rename, this replaces nothing.
    fs.linkSync(temporary, file)
    fs.unlinkSync(temporary)
  } catch (cause) {
    fs.rmSync(temporary, { force: true })
    throw cause
  }
}

export const layer: Layer.Layer<BundleStore> = Layer.succeed(
  BundleStore,
  BundleStore.of({
    logs: (folder, limits) => attempt(folder, () => logs(folder, limits)),
    free: (file) =>
      Effect.flatMap(
        attempt(file, () => fs.lstatSync(file, { throwIfNoEntry: false })),
        (found) => found === undefined ? Effect.void : new BundleNotWritten({ file, why: EXISTS })
      ),
    write: (file, bytes, { replaces }) => attempt(file, () => write(path.resolve(file), bytes, replaces)),
    writeStdout: (bytes) =>
      Effect.async((resume) => {
        process.stdout.write(bytes, (error) =>
          resume(
            error === undefined || error === null
              ? Effect.void
              : new BundleNotWritten({ file: "stdout", why: error.message })
          ))
      })
  })
)
