import * as Effect from "effect/Effect"
import * as fs from "node:fs"
import * as path from "node:path"

/**
 * Gives the group of this process the file that holds the device's id, and its folder, so that a GUI of that group may read
 * it (host spec section 7.4). Nothing if there is no file; failure is only logged. Needs no capability: they are ours.
 */
export const shareIdentity = (stateDir: string): Effect.Effect<void> =>
  Effect.try(() => {
    const file = path.join(stateDir, "firezone-id.json")
    const group = process.getegid?.() ?? 0
    if (group === 0 || !fs.existsSync(file)) return
    for (const each of [file, stateDir]) {
      const { gid, uid } = fs.lstatSync(each)
      if (gid !== group) fs.lchownSync(each, uid, group)
    }
  }).pipe(
    Effect.catchAll(({ error }) =>
      Effect.logWarning("the device's id cannot be shared with the GUI").pipe(
        Effect.annotateLogs({ folder: stateDir, why: error instanceof Error ? error.message : String(error) })
      )
    )
  )
