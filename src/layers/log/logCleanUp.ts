/** Which log files of a folder stay (host spec section 4). */
import * as Effect from "effect/Effect"
import * as fs from "node:fs"
import * as fsp from "node:fs/promises"
import * as path from "node:path"
import { ConfigInvalid } from "../../services/ClientConfig.ts"

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

export const cleanUp = async (folder: string): Promise<void> => {
  const files: Array<Parameters<typeof filesToDelete>[0][number]> = []
  for (const entry of await fsp.readdir(folder, { withFileTypes: true })) {
    if (!entry.isFile()) continue
    const stat = await fsp.stat(path.join(folder, entry.name)).catch(() => undefined)
    if (stat !== undefined) files.push({ name: entry.name, size: stat.size, modifiedMillis: stat.mtimeMs })
  }
  for (const name of filesToDelete(files, MAX_TOTAL_BYTES, Date.now())) {
    await fsp.rm(path.join(folder, name), { force: true })
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
