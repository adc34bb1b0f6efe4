/** One client at a time controls a machine's DNS: a locked file, whose lock the kernel takes back however we end. */
import * as fs from "node:fs"
import * as path from "node:path"
import { flock, LOCK_EX, LOCK_NB } from "../../ffi/linux/file.ts"
import { ERRNO, lastError } from "../../ffi/linux/libc.ts"
import { makeFolder } from "../makeFolder.ts"

/** Of root, like what is fought for; `/run` is a host's own wherever `/etc` is. */
export const CONTROL_LOCK = "/run/dev.firezone.client/dns-control.lock"

/** Ours; another process's, with its id if it tells; or nobody's, as the file cannot be made here. */
export type LockOutcome =
  | { readonly _tag: "Held" }
  | { readonly _tag: "Taken"; readonly by: number | undefined }
  | { readonly _tag: "Unguarded"; readonly reason: string }

export class ControlLock {
  readonly #file: string
  #fd: number | undefined
  #madeFolder = false

  constructor(file: string) {
    this.#file = file
  }

  /** Without waiting. */
  take(): LockOutcome {
    if (this.#fd !== undefined) return { _tag: "Held" }
    try {
      this.#madeFolder = makeFolder(path.dirname(this.#file), 0o755) || this.#madeFolder
      return this.#open(fs.constants.O_CREAT) ?? { _tag: "Unguarded", reason: "it comes and goes" }
    } catch (error) {
      return { _tag: "Unguarded", reason: (error as Error).message }
    }
  }

  /** Whether another process has it; takes it if there is one to take, but makes none. */
  takeIfThere(): LockOutcome {
    if (this.#fd !== undefined || !fs.existsSync(this.#file)) return { _tag: "Held" }
    try {
      return this.#open(0) ?? { _tag: "Held" }
    } catch (error) {
      return { _tag: "Unguarded", reason: (error as Error).message }
    }
  }

  /** Leaves nothing behind. */
  release(): void {
    if (this.#fd === undefined) return
    try {
      // While it is ours: whoever opened it before finds that it is not the file there any more, and looks again.
      fs.rmSync(this.#file, { force: true })
      if (this.#madeFolder) fs.rmdirSync(path.dirname(this.#file))
    } catch {
      // Others have put files there, or the folder is gone.
    }
    fs.closeSync(this.#fd)
    this.#fd = undefined
  }

  /** `undefined` if the file is not the same twice. */
  #open(creating: number): LockOutcome | undefined {
    for (let attempt = 0; attempt < 3; attempt++) {
      const fd = fs.openSync(this.#file, fs.constants.O_RDWR | fs.constants.O_NOFOLLOW | creating, 0o600)
      let isOurs = false
      try {
        if (flock()(fd, LOCK_EX | LOCK_NB) !== 0) {
          const error = lastError("flock")
          return error.code === ERRNO.EAGAIN
            ? { _tag: "Taken", by: holderOf(fs.readFileSync(fd, "latin1")) }
            : { _tag: "Unguarded", reason: error.message }
        }
        const there = fs.statSync(this.#file, { throwIfNoEntry: false })
        const mine = fs.fstatSync(fd)
        isOurs = there?.ino === mine.ino && there.dev === mine.dev
        if (!isOurs) continue
        fs.ftruncateSync(fd)
        fs.writeSync(fd, `${process.pid}\n`, 0)
        this.#fd = fd
        return { _tag: "Held" }
      } finally {
        if (!isOurs) fs.closeSync(fd)
      }
    }
    return undefined
  }
}

const holderOf = (text: string): number | undefined => /^\d{1,10}\n$/.test(text) ? Number(text) : undefined
