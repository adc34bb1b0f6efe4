import * as Effect from "effect/Effect"
import * as fs from "node:fs"
import * as path from "node:path"
import { LabError } from "./LabError.ts"
import { environment } from "./processes.ts"

/** Fails with what to install unless this machine has all `programs`. */
export const requirePrograms = (programs: ReadonlyArray<string>, packages: string): Effect.Effect<void, LabError> =>
  Effect.suspend(() => {
    const directories = (environment()["PATH"] ?? "").split(":").filter((directory) => directory !== "")
    return programs.every((program) => directories.some((directory) => fs.existsSync(path.join(directory, program))))
      ? Effect.void
      : new LabError({
        what: `the lab needs ${programs.join(" and ")}`,
        why: `on Debian and Ubuntu: apt-get install ${packages}`
      })
  })
