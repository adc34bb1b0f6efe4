/** Log files of one run in a folder, with the clean-up of older ones (host spec section 4). */
import * as Effect from "effect/Effect"
import * as Schedule from "effect/Schedule"
import type * as Scope from "effect/Scope"
import * as fs from "node:fs"
import * as path from "node:path"
import { ConfigInvalid } from "../../services/ClientConfig.ts"
import { makeFolder } from "../makeFolder.ts"

const MAX_TOTAL_BYTES = 100 * 1024 * 1024
const YOUNG_MILLIS = 5 * 60_000

/** Which of a folder's log files to delete: oldest first until `cap` holds, never a young one, never the last one. */
export const filesToDelete = (
  files: ReadonlyArray<{ readonly name: string; readonly size: number; readonly modifiedMillis: number }>,
  cap: number,
  nowMillis: number
): ReadonlyArray<string> => {
  const logs = files.filter(({ name }) => name.endsWith(".log")).sort((a, b) => a.modifiedMillis - b.modifiedMillis)
  let total = logs.reduce((sum, { size }) => sum + size, 0)
  let kept = logs.length
  const doomed: Array<string> = []
  for (const file of logs) {
    if (total <= cap || kept <= 1) break
    if (nowMillis - file.modifiedMillis < YOUNG_MILLIS) continue
    doomed.push(file.name)
    total -= file.size
    kept -= 1
  }
  return doomed
}

const cleanUp = (folder: string): void => {
  const files = fs.readdirSync(folder, { withFileTypes: true }).filter((entry) => entry.isFile()).flatMap(
    ({ name }) => {
      const stat = fs.statSync(path.join(folder, name), { throwIfNoEntry: false })
      return stat === undefined ? [] : [{ name, size: stat.size, modifiedMillis: stat.mtimeMs }]
    }
  )
  for (const name of filesToDelete(files, MAX_TOTAL_BYTES, Date.now())) {
    fs.rmSync(path.join(folder, name), { force: true })
  }
}

/** Deletes the log files of every run, and the links to the latest ones. Goes on after a failure; the last one is told. */
export const clear = (folder: string): Effect.Effect<void, ConfigInvalid> =>
  Effect.suspend(() => {
    let failure: unknown
    try {
      for (const entry of fs.readdirSync(folder, { withFileTypes: true })) {
        if (!/(?:log|latest)$/.test(entry.name) || entry.isDirectory()) continue
        try {
          fs.rmSync(path.join(folder, entry.name), { force: true })
        } catch (cause) {
          failure = cause
        }
      }
    } catch (cause) {
      failure = cause
    }
    return failure === undefined ? Effect.void : new ConfigInvalid({
      what: `log folder ${folder}`,
      why: failure instanceof Error ? failure.message : String(failure)
    })
  })

/** `2026-01-31-23-59-59`, UTC. */
const stamp = (time: Date): string => time.toISOString().slice(0, 19).replaceAll(/[T:]/g, "-")

/**
 * Returns a function that appends one line. The file is made at the first line and again if somebody deletes it; lines
 * are written at once, so none is lost when the process dies. A write error is reported once on stderr: a full disk must
 * not end the tunnel.
 */
export const open = (
  folder: string,
  base: string
): Effect.Effect<(line: string) => void, ConfigInvalid, Scope.Scope> =>
  Effect.gen(function*() {
    // Absolute, or the link would not lead anywhere.
    const file = path.resolve(folder, `${base}.${stamp(new Date())}.log`)
    yield* Effect.try({
      try: () => {
        makeFolder(folder, 0o750)
        fs.accessSync(folder, fs.constants.W_OK)
      },
      catch: (cause) =>
        new ConfigInvalid({ what: `log folder ${folder}`, why: cause instanceof Error ? cause.message : String(cause) })
    })
    let descriptor: number | undefined
    let complained = false
    const reopen = (): number => {
      if (descriptor !== undefined) fs.closeSync(descriptor)
      descriptor = undefined
      const opened = fs.openSync(file, "a", 0o640)
      const link = path.join(folder, `${base}.latest`)
      try {
        fs.rmSync(link, { force: true })
        fs.symlinkSync(file, link)
      } catch {
        // The link is a convenience; Windows refuses it without a privilege.
      }
      return descriptor = opened
    }
    yield* Effect.addFinalizer(() =>
      Effect.sync(() => {
        if (descriptor !== undefined) fs.closeSync(descriptor)
        descriptor = undefined
      })
    )
    yield* Effect.sync(() => cleanUp(folder)).pipe(
      Effect.catchAllDefect(() => Effect.void),
      Effect.repeat(Schedule.spaced("1 hour")),
      Effect.interruptible,
      Effect.forkScoped
    )
    return (line) => {
      try {
        if (descriptor === undefined || !fs.existsSync(file)) reopen()
        if (descriptor !== undefined) fs.writeSync(descriptor, `${line}\n`)
      } catch (cause) {
        if (!complained) process.stderr.write(`cannot write the log file ${file}: ${String(cause)}\n`)
        complained = true
      }
    }
  })
