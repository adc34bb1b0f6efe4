/** /etc/resolv.conf on the disk: plain synchronous calls, because a process that ends has no time for others. */
import * as fs from "node:fs"
import * as os from "node:os"
import * as path from "node:path"
import { DnsControlFailed, type DnsTarget } from "../../services/DnsControl.ts"
import { isOurs, pointedAt } from "./resolvConfText.ts"
import type { ResolvConfPaths } from "./systemServers.ts"

const attempt = <A>(step: string, call: () => A): A => {
  try {
    return call()
  } catch (cause) {
    if (cause instanceof DnsControlFailed) throw cause
    throw new DnsControlFailed({
      step,
      cause,
      hint: "only root can write it, and only where it is not read-only; --dns-control disabled does without names"
    })
  }
}

export type FileKind = "missing" | "file" | "link" | "other"

export const kindOf = (file: string): FileKind => {
  const stat = fs.lstatSync(file, { throwIfNoEntry: false })
  return stat === undefined ? "missing" : stat.isFile() ? "file" : stat.isSymbolicLink() ? "link" : "other"
}

/** The functions that change the file throw `DnsControlFailed` and nothing else. Bytes stay bytes: the text is Latin-1. */
export class ResolvConfFile {
  readonly #file: string
  readonly #backup: string
  #written: string | undefined

  constructor({ backup, resolvConf }: Pick<ResolvConfPaths, "backup" | "resolvConf">) {
    this.#file = resolvConf
    this.#backup = backup
  }

  /** Throws unless it is a regular file: a link belongs to the program whose file it leads to. */
  check(): void {
    const kind = attempt(`look at ${this.#file}`, () => kindOf(this.#file))
    if (kind === "file") return
    throw new DnsControlFailed({
      step: `look at ${this.#file}`,
      cause: kind === "missing" ? "there is no such file" : kind === "link" ? "it is a symbolic link" : "it is no file",
      hint: "--dns-control auto takes what this machine uses"
    })
  }

  /** Points the file at the servers, after keeping the original in the backup. */
  point({ searchDomain, servers }: Pick<DnsTarget, "searchDomain" | "servers">): void {
    this.check()
    const current = this.#read(this.#file)
    const original = isOurs(current) ? this.#readBackup() : current
    if (!isOurs(current)) this.#keep(original)
    const text = pointedAt(original, { servers, searchDomain, hostDomain: hostDomain(), backup: this.#backup })
    if (text !== current) this.#write(text)
    this.#written = text
  }

  /** What has become of the file since `point`: `undefined` if nothing has. */
  damage(): string | undefined {
    try {
      const kind = kindOf(this.#file)
      const text = kind === "file" ? fs.readFileSync(this.#file, "latin1") : kind
      return text === this.#written ? undefined : text
    } catch (error) {
      return String(error)
    }
  }

  /** Brings the original back; returns whether there was anything of ours. What others wrote since stays. */
  revert(): boolean {
    if (attempt(`look at ${this.#file}`, () => kindOf(this.#file)) !== "file") return false
    if (!isOurs(this.#read(this.#file))) return false
    this.#write(this.#readBackup())
    return true
  }

  #read(file: string): string {
    return attempt(`read ${file}`, () => fs.readFileSync(file, "latin1"))
  }

  #readBackup(): string {
    const text = attempt(`find what ${this.#file} was`, () => fs.readFileSync(this.#backup, "latin1"))
    if (!isOurs(text)) return text
    throw new DnsControlFailed({
      step: `find what ${this.#file} was`,
      cause: `${this.#backup} is itself a file of ours`,
      hint: `write your name servers into ${this.#file}`
    })
  }

  /** Replaces the backup in one step that survives a loss of power. */
  #keep(text: string): void {
    const folder = path.dirname(this.#backup)
    const temporary = `${this.#backup}.new`
    attempt(`write ${this.#backup}`, () => {
      const { mode } = fs.statSync(this.#file)
      // Of a run that died here; or a link, which would have us write elsewhere.
      fs.rmSync(temporary, { force: true })
      fs.writeFileSync(temporary, text, { encoding: "latin1", mode: mode & 0o777, flag: "wx", flush: true })
      fs.renameSync(temporary, this.#backup)
      sync(folder)
    })
  }

  /**
   * In place: in a container the file is a mount, which nothing can be renamed to. Line ends fill it up to its old length
   * before it is cut, so that nobody ever reads a mixture or an empty file.
   */
  #write(text: string): void {
    attempt(`write ${this.#file}`, () => {
      const fd = fs.openSync(this.#file, fs.constants.O_RDWR | fs.constants.O_NOFOLLOW)
      try {
        fs.writeSync(fd, text.padEnd(fs.fstatSync(fd).size, "\n"), 0, "latin1")
        fs.ftruncateSync(fd, text.length)
        fs.fsyncSync(fd)
      } finally {
        fs.closeSync(fd)
      }
    })
  }
}

const sync = (folder: string): void => {
  const fd = fs.openSync(folder, "r")
  try {
    fs.fsyncSync(fd)
  } finally {
    fs.closeSync(fd)
  }
}

const hostDomain = (): string | undefined => {
  const [, ...labels] = os.hostname().split(".")
  return labels.length === 0 ? undefined : labels.join(".")
}
