/** The labs of this machine: what they are called, and how one is removed with all that belongs to it. */
import * as Effect from "effect/Effect"
import * as fs from "node:fs"
import * as path from "node:path"
import { quietly } from "./processes.ts"
import { namespaceKey, processesIn, startOf } from "./procfs.ts"

/** Not the caller's TMPDIR: the next run has to find what a killed one left, and a socket's path must be short. */
const FOLDERS = "/tmp"
const NAMESPACES = "/run/netns"

/** The lab of `lab up`. The others carry their owner's pid and start, which name a process as long as the machine runs. */
export const PERSISTENT = "fzlabup"
export const nameFor = (owner: number): string => `fzlab${owner}t${startOf(owner) ?? 0}`
const isOurs = (lab: string): boolean => /^fzlab(up|[0-9]+t[0-9]+)$/.test(lab)

export const namespaceOf = (lab: string, host: string): string => `${lab}-${host}`
/** The file that stands for a host's network namespace. */
export const namespaceFile = (lab: string, host: string): string => path.join(NAMESPACES, namespaceOf(lab, host))
export const folderOf = (lab: string): string => path.join(FOLDERS, `${lab}.lab`)

/** The names of our namespaces that are there. */
const namespaces = (): ReadonlyArray<string> =>
  fs.existsSync(NAMESPACES) ? fs.readdirSync(NAMESPACES).filter((name) => isOurs(name.split("-", 1)[0] ?? "")) : []

/** Whether a directory is one that `create` made, and not what another user put into a directory open to all. */
export const isOwnFolder = (folder: string): boolean => {
  const stat = fs.lstatSync(folder, { throwIfNoEntry: false })
  return stat !== undefined && stat.isDirectory() && stat.uid === process.getuid?.() && (stat.mode & 0o077) === 0
}

const labs = (): ReadonlySet<string> =>
  new Set([
    ...namespaces().map((name) => name.split("-", 1)[0] ?? ""),
    ...fs.readdirSync(FOLDERS).filter((name) => name.endsWith(".lab") && isOwnFolder(path.join(FOLDERS, name)))
      .map((name) => name.slice(0, -".lab".length)).filter(isOurs)
  ])

export const exists = (lab: string): boolean => labs().has(lab)

const GRACE_MILLIS = 3000
const LAST_MILLIS = 2000

/**
 * Ends everything that runs in the lab's namespaces, then removes namespaces and folder. Runs to the end once begun. Who is
 * in a namespace is asked anew before each signal: a pid that was there may belong to a stranger by now.
 */
export const remove = (lab: string): Effect.Effect<void> =>
  Effect.uninterruptible(Effect.gen(function*() {
    const names = namespaces().filter((name) => name.startsWith(`${lab}-`))
    const keys = new Set(
      names.map((name) => namespaceKey(path.join(NAMESPACES, name))).filter((key) => key !== undefined)
    )
    const signalAll = (signal: NodeJS.Signals): void => {
      for (const pid of processesIn(keys)) {
        try {
          process.kill(pid, signal)
        } catch {
          // It has gone already.
        }
      }
    }
    const areGone = (withinMillis: number) =>
      Effect.gen(function*() {
        for (const end = Date.now() + withinMillis; processesIn(keys).length > 0; yield* Effect.sleep(10)) {
          if (Date.now() >= end) return false
        }
        return true
      })
    signalAll("SIGTERM")
    if (!(yield* areGone(GRACE_MILLIS))) {
      signalAll("SIGKILL")
      yield* areGone(LAST_MILLIS)
    }
    for (const name of names) quietly(["ip", "netns", "del", name])
    if (isOwnFolder(folderOf(lab))) fs.rmSync(folderOf(lab), { recursive: true, force: true })
  }))

/** Removes what labs left whose owner was killed. */
export const removeLeftovers: Effect.Effect<void> = Effect.gen(function*() {
  for (const lab of labs()) {
    if (lab === PERSISTENT) continue
    const [pid, start] = lab.slice("fzlab".length).split("t")
    if (startOf(Number(pid)) !== start) yield* remove(lab)
  }
})
