/** The token in `FIREZONE_TOKEN` or in a file that only root can read (host spec section 3.2). */
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Redacted from "effect/Redacted"
import { randomBytes } from "node:crypto"
import * as fs from "node:fs"
import * as path from "node:path"
import { tokenIn } from "../../protocol/portal/token.ts"
import { ClientConfig, ConfigInvalid } from "../../services/ClientConfig.ts"
import { TokenStore } from "../../services/TokenStore.ts"
import { makeFolder } from "../makeFolder.ts"

/** A service-account token is well below this; whatever is longer is some other file. */
const MAX_TOKEN_BYTES = 64 * 1024

/** Without waiting for the other end of a named pipe. */
const OPEN_FLAGS = fs.constants.O_RDONLY | (fs.constants.O_NONBLOCK ?? 0) // none on Windows

const reason = (cause: unknown): string => cause instanceof Error ? cause.message : String(cause)
const codeOf = (cause: unknown): string | undefined => (cause as NodeJS.ErrnoException | undefined)?.code

/** What is wrong with a token is told without showing any of it. */
const parse = (text: string, what: string, ifEmpty: string): Redacted.Redacted | ConfigInvalid => {
  if (text.trim() === "") return new ConfigInvalid({ what, why: "is empty", next: ifEmpty })
  const token = tokenIn(text)
  return token === undefined
    ? new ConfigInvalid({ what, why: "holds characters that no token has" })
    : Redacted.make(token)
}

const read = (file: string, platform: NodeJS.Platform): Redacted.Redacted | ConfigInvalid => {
  const what = `token file ${file}`
  let descriptor: number
  try {
    descriptor = fs.openSync(file, OPEN_FLAGS)
  } catch (cause) {
    return codeOf(cause) === "ENOENT"
      ? new ConfigInvalid({
        what: "no token",
        why: `the variable FIREZONE_TOKEN is not set and the file ${file} does not exist`,
        next:
          "Sign in with: firezone-headless-client sign-in. Or create a service account in the Firezone admin portal "
          + "and put its token into one of them"
      })
      : new ConfigInvalid({
        what: "no token",
        why: `the variable FIREZONE_TOKEN is not set and the file ${file} cannot be read (${codeOf(cause) ?? "error"})`,
        next: "Run as root, or set FIREZONE_TOKEN"
      })
  }
  try {
    // Checked on the open descriptor: nobody can swap the file between check and read.
    const stat = fs.fstatSync(descriptor)
    if (!stat.isFile()) return new ConfigInvalid({ what, why: "is not a regular file" })
    if (platform !== "win32") {
      if (stat.uid !== 0 || stat.gid !== 0) {
        return new ConfigInvalid({
          what,
          why: `must belong to root and group root, but belongs to ${stat.uid}:${stat.gid}`,
          next: `Run: chown 0:0 ${file}`
        })
      }
      if ((stat.mode & 0o177) !== 0) {
        return new ConfigInvalid({
          what,
          why: `must be readable by root alone (mode 0600 or 0400), but has mode 0${(stat.mode & 0o777).toString(8)}`,
          next: `Run: chmod 0600 ${file}`
        })
      }
    }
    if (stat.size > MAX_TOKEN_BYTES) return new ConfigInvalid({ what, why: `is too long (${stat.size} bytes)` })
    const bytes = Buffer.alloc(MAX_TOKEN_BYTES)
    const length = fs.readSync(descriptor, bytes, 0, MAX_TOKEN_BYTES, 0)
    const text = new TextDecoder("utf-8", { fatal: true }).decode(bytes.subarray(0, length))
    bytes.fill(0)
    return parse(text, what, "Put the service account's token into it")
  } catch (cause) {
    return cause instanceof TypeError
      ? new ConfigInvalid({ what, why: "is not UTF-8 text" })
      : new ConfigInvalid({ what, why: reason(cause) })
  } finally {
    fs.closeSync(descriptor)
  }
}

const checkWritable = (file: string, platform: NodeJS.Platform): void => {
  if (platform !== "win32" && process.getuid?.() !== 0) {
    throw new ConfigInvalid({
      what: `token file ${file}`,
      why: "can only be written by root",
      next: "Try again with sudo"
    })
  }
}

const write = (file: string, token: Redacted.Redacted, platform: NodeJS.Platform): void => {
  checkWritable(file, platform)
  const folder = path.dirname(file)
  makeFolder(folder, 0o755)
  const temporary = path.join(folder, `.token-${randomBytes(8).toString("hex")}`)
  const descriptor = fs.openSync(temporary, "wx", 0o600)
  try {
    try {
      fs.writeSync(descriptor, Redacted.value(token))
      if (platform !== "win32") fs.fchownSync(descriptor, 0, 0)
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

/** `variable` is the token that `bin` took out of the environment, if there was one. */
export const layer = (
  variable: Redacted.Redacted | undefined,
  platform: NodeJS.Platform = process.platform
): Layer.Layer<TokenStore, never, ClientConfig> =>
  Layer.effect(
    TokenStore,
    Effect.gen(function*() {
      const { tokenPath } = yield* ClientConfig
      const failed = (cause: unknown): ConfigInvalid =>
        cause instanceof ConfigInvalid
          ? cause
          : new ConfigInvalid({ what: `token file ${tokenPath}`, why: reason(cause) })
      return TokenStore.of({
        read: Effect.suspend(() => {
          const result = variable === undefined
            ? read(tokenPath, platform)
            : parse(Redacted.value(variable), "FIREZONE_TOKEN", "Unset it to use the token file")
          return result instanceof ConfigInvalid ? result : Effect.succeed(result)
        }),
        write: (token) => Effect.try({ try: () => write(tokenPath, token, platform), catch: failed }),
        writable: Effect.try({ try: () => checkWritable(tokenPath, platform), catch: failed }),
        stored: Effect.try({
          try: () => fs.lstatSync(tokenPath, { throwIfNoEntry: false }) !== undefined,
          catch: failed
        }),
        remove: Effect.try({
          try: () => {
            try {
              fs.unlinkSync(tokenPath)
              return true
            } catch (cause) {
              if (codeOf(cause) === "ENOENT") return false
              throw cause
            }
          },
          catch: failed
        })
      })
    })
  )
