/** The built executable as a user runs it. `npm test` builds it first. */
import { spawn, type SpawnOptionsWithoutStdio } from "node:child_process"
import * as fs from "node:fs"
import * as path from "node:path"
import { fileURLToPath } from "node:url"

const root = path.join(path.dirname(fileURLToPath(import.meta.url)), "..", "..")
export const executable = path.join(root, "dist", "bin", "firezone-headless-client.js")

export interface Result {
  readonly code: number | null
  readonly signal: NodeJS.Signals | null
  readonly stdout: string
  readonly stderr: string
}

/** A clean environment: nothing of the caller's FIREZONE_ variables leaks into the program. */
const environment = (env: Readonly<Record<string, string>>): NodeJS.ProcessEnv => ({
  PATH: process.env["PATH"] ?? "/usr/sbin:/usr/bin:/sbin:/bin",
  HOME: "/nonexistent",
  ...env
})

export const start = (
  args: ReadonlyArray<string>,
  env: Readonly<Record<string, string>> = {},
  options: SpawnOptionsWithoutStdio = {}
) => {
  if (!fs.existsSync(executable)) throw new Error(`${executable} is not built: npm run build`)
  const child = spawn(process.execPath, [executable, ...args], { ...options, env: environment(env) })
  let stdout = ""
  let stderr = ""
  child.stdout.setEncoding("utf8").on("data", (text: string) => (stdout += text))
  child.stderr.setEncoding("utf8").on("data", (text: string) => (stderr += text))
  const result = new Promise<Result>((resolve, reject) => {
    child.on("error", reject)
    child.on("close", (code, signal) => resolve({ code, signal, stdout, stderr }))
  })
  return { child, result, output: () => stdout + stderr }
}

export const run = (args: ReadonlyArray<string>, env?: Readonly<Record<string, string>>): Promise<Result> =>
  start(args, env).result
