/** Tests that need root or a program: they run, or say loudly why not; with CI=true a missing need is a failure. */
import * as fs from "node:fs"
import * as path from "node:path"
import { describe, test } from "vitest"

export interface Needs {
  /** Network namespaces, TUN devices and socket marks need root. */
  readonly root?: boolean
  /** Names of executables on the PATH, in /usr/sbin, or unpacked by `scripts/setup.mjs --test-packages`. */
  readonly programs?: ReadonlyArray<string>
  /** systemd-resolved, installed or unpacked by `scripts/setup.mjs --test-packages`. */
  readonly resolved?: boolean
}

const unpacked = path.resolve(".cache/prometheus/usr/bin")
const directories = [...(process.env["PATH"] ?? "").split(":"), "/usr/sbin", "/sbin", unpacked]

/** Where it is. */
export const findProgram = (program: string): string | undefined =>
  directories.filter((directory) => directory !== "").map((directory) => path.join(directory, program)).find((file) =>
    fs.existsSync(file)
  )

export const hasProgram = (program: string): boolean => findProgram(program) !== undefined

const resolvedFiles = ["/usr/lib/systemd/systemd-resolved", "/lib/systemd/systemd-resolved", ".cache/systemd-resolved"]

/** What is missing, as text for a person; empty if nothing is. */
export const missing = (needs: Needs): ReadonlyArray<string> => [
  ...(needs.root === true && process.getuid?.() !== 0 ? ["root"] : []),
  ...(needs.programs ?? []).filter((program) => !hasProgram(program)),
  ...(needs.resolved === true && !resolvedFiles.some((file) => fs.existsSync(file)) ? ["systemd-resolved"] : [])
]

/** `describe` that is skipped, with its reason in the name, when a need is missing. */
export const describeWith = (needs: Needs, name: string, body: () => void): void => {
  const lacking = missing(needs)
  if (lacking.length === 0) {
    describe(name, body)
  } else if (process.env["CI"] === "true") {
    test(name, () => {
      throw new Error(`cannot run here, and CI must not skip: needs ${lacking.join(", ")}`)
    })
  } else {
    describe.skip(`${name} [needs ${lacking.join(", ")}]`, body)
  }
}
