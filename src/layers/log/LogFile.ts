/** The log files of one run in a folder (host spec section 4). */
import * as Effect from "effect/Effect"
import * as Queue from "effect/Queue"
import type * as Scope from "effect/Scope"
import * as fs from "node:fs"
import * as fsp from "node:fs/promises"
import * as path from "node:path"
import { ConfigInvalid } from "../../services/ClientConfig.ts"
import { makeFolder } from "../makeFolder.ts"
import type { Sink } from "./LineQueue.ts"
import { cleanUp } from "./logCleanUp.ts"

/** A run that goes on for months has many files, so that old ones can go. */
export const MAX_FILE_BYTES = 10 * 1024 * 1024
const FILE_MODE = 0o640
/** A link of that name, which another user has put there, leads nowhere. Windows has none. */
const FLAGS = fs.constants.O_WRONLY | fs.constants.O_APPEND | fs.constants.O_CREAT | (fs.constants.O_NOFOLLOW ?? 0)

/** `2026-01-31-23-59-59`, UTC. */
const stamp = (time: Date): string => time.toISOString().slice(0, 19).replaceAll(/[T:]/g, "-")

interface Opened {
  readonly file: string
  readonly handle: fsp.FileHandle
  readonly inode: number
  size: number
}

/** Writes to the newest file, and makes another one when that is full, or gone, or another program has put one in its place. */
class Writer {
  readonly #folder: string
  readonly #base: string
  readonly #maxBytes: number
  readonly #onRotated: () => void
  #file: string
  #opened: Opened | undefined
  /** Whether the file ends in the middle of a line. */
  #isTorn = false
  #hasComplained = false

  constructor(folder: string, base: string, maxBytes: number, onRotated: () => void) {
    this.#folder = folder
    this.#base = base
    this.#maxBytes = maxBytes
    this.#onRotated = onRotated
    this.#file = this.#newName()
  }

  async write(text: string): Promise<void> {
    try {
      const opened = await this.#current()
      await this.#writeAll(opened, Buffer.from(this.#isTorn ? `\n${text}` : text))
    } catch (cause) {
      this.#complain(cause)
    }
  }

  writeNow(text: string): void {
    if (this.#opened === undefined) fs.appendFileSync(this.#file, text, { mode: FILE_MODE })
    else fs.writeSync(this.#opened.handle.fd, text)
  }

  async close(): Promise<void> {
    const opened = this.#opened
    this.#opened = undefined
    await opened?.handle.close().catch(() => undefined)
  }

  /** Absolute, or the link would not lead anywhere. */
  #newName(): string {
    return path.resolve(this.#folder, `${this.#base}.${stamp(new Date())}.log`)
  }

  async #writeAll(opened: Opened, bytes: Buffer): Promise<void> {
    for (let at = 0; at < bytes.length;) {
      const { bytesWritten } = await opened.handle.write(bytes, at)
      at += bytesWritten
      opened.size += bytesWritten
      this.#isTorn = at < bytes.length
    }
  }

  async #current(): Promise<Opened> {
    const opened = this.#opened
    if (opened !== undefined) {
      const isThere = (await fsp.stat(opened.file).catch(() => undefined))?.ino === opened.inode
      const name = opened.size < this.#maxBytes ? opened.file : this.#newName()
      // A name for each second: one that is full within a second goes on.
      if (isThere && name === opened.file) return opened
      await this.close()
      this.#file = name
      if (isThere) this.#onRotated()
    }
    return this.#open(this.#file)
  }

  async #open(file: string): Promise<Opened> {
    const handle = await fsp.open(file, FLAGS, FILE_MODE)
    const { ino, size } = await handle.stat()
    // Whatever our umask is; there are file systems without modes.
    await handle.chmod(FILE_MODE).catch(() => undefined)
    this.#isTorn = false
    const link = path.join(this.#folder, `${this.#base}.latest`)
    try {
      await fsp.rm(link, { force: true })
      await fsp.symlink(file, link)
    } catch {
      // The link is a convenience; Windows refuses it without a privilege.
    }
    return this.#opened = { file, handle, inode: ino, size }
  }

  /** Once: a full disk must not end the tunnel, nor fill the terminal. */
  #complain(cause: unknown): void {
    if (!this.#hasComplained) process.stderr.write(`cannot write the log file ${this.#file}: ${String(cause)}\n`)
    this.#hasComplained = true
  }
}

/**
 * The files of this run in a folder, for a queue of lines. One is made at the first line, again if somebody deletes it, and
 * another one when it is full. A write error is reported once on stderr.
 */
export const open = (
  folder: string,
  base: string,
  maxFileBytes = MAX_FILE_BYTES
): Effect.Effect<Sink, ConfigInvalid, Scope.Scope> =>
  Effect.gen(function*() {
    yield* Effect.try({
      try: () => {
        makeFolder(folder, 0o750)
        fs.accessSync(folder, fs.constants.W_OK)
      },
      catch: (cause) =>
        new ConfigInvalid({ what: `log folder ${folder}`, why: cause instanceof Error ? cause.message : String(cause) })
    })
    const rotated = yield* Queue.sliding<void>(1)
    const writer = yield* Effect.acquireRelease(
      Effect.sync(() => new Writer(folder, base, maxFileBytes, () => rotated.unsafeOffer())),
      (writer) =>
        Effect.promise(() => writer.close()).pipe(
          Effect.disconnect,
          Effect.interruptible,
          Effect.timeoutOption("1 second") // a disk that is stuck
        )
    )
    yield* Effect.ignore(Effect.tryPromise(() => cleanUp(folder))).pipe(
      Effect.zipRight(Effect.raceFirst(Effect.sleep("1 hour"), Queue.take(rotated))),
      Effect.forever,
      Effect.interruptible,
      Effect.forkScoped
    )
    return {
      write: (text) => Effect.promise(() => writer.write(text)),
      writeNow: (text) => writer.writeNow(text)
    }
  })
