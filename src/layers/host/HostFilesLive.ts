import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as fs from "node:fs"
import * as path from "node:path"
import { type FileFacts, FileUnreadable, HostFiles } from "../../services/HostFiles.ts"

const LONGEST = 64 * 1024

/** `undefined` if the file is missing. */
const attempt = <A>(file: string, call: () => A): Effect.Effect<A | undefined, FileUnreadable> =>
  Effect.suspend(() => {
    try {
      return Effect.succeed(call())
    } catch (error) {
      const { code = "error" } = error as NodeJS.ErrnoException
      return code === "ENOENT" || code === "ENOTDIR"
        ? Effect.succeed(undefined)
        : new FileUnreadable({ file, code })
    }
  })

const kindOf = (stat: fs.Stats): FileFacts["kind"] =>
  stat.isFile()
    ? "file"
    : stat.isDirectory()
    ? "folder"
    : stat.isSymbolicLink()
    ? "link"
    : stat.isCharacterDevice() || stat.isBlockDevice()
    ? "device"
    : stat.isSocket()
    ? "socket"
    : "other"

const look = (file: string): FileFacts => {
  const stat = fs.lstatSync(file)
  return {
    kind: kindOf(stat),
    uid: stat.uid,
    gid: stat.gid,
    mode: stat.mode & 0o7777,
    modifiedAt: stat.mtimeMs,
    ...(stat.isSymbolicLink() ? { target: path.resolve(path.dirname(file), fs.readlinkSync(file)) } : {})
  }
}

const read = (file: string): string => {
  // A named pipe would keep us waiting for its other end.
  const fd = fs.openSync(file, fs.constants.O_RDONLY | fs.constants.O_NONBLOCK)
  try {
    const bytes = Buffer.alloc(LONGEST)
    return bytes.toString("utf8", 0, fs.readSync(fd, bytes, 0, LONGEST, null))
  } finally {
    fs.closeSync(fd)
  }
}

const orElse = <A>(call: () => A, otherwise: A): Effect.Effect<A> =>
  Effect.sync(() => {
    try {
      return call()
    } catch {
      return otherwise
    }
  })

export const layer: Layer.Layer<HostFiles> = Layer.succeed(
  HostFiles,
  HostFiles.of({
    look: (file) => attempt(file, () => look(file)),
    text: (file) => attempt(file, () => read(file)),
    names: (folder) => orElse<ReadonlyArray<string>>(() => fs.readdirSync(folder), []),
    isWritable: (file) =>
      orElse(() => {
        fs.accessSync(file, fs.constants.W_OK)
        return true
      }, false),
    freeBytes: (folder) =>
      orElse<number | undefined>(() => {
        const { bavail, bsize } = fs.statfsSync(folder)
        return bavail * bsize
      }, undefined)
  })
)
