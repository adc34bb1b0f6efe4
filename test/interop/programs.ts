/** Foreign programs that run beside a test, in the network namespace of its choice. */
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import { type ChildProcess, spawn } from "node:child_process"

export interface Finished {
  readonly code: number | null
  readonly stdout: string
  readonly stderr: string
}

/** Runs a program to its end while this process goes on. */
export const runBeside = (argv: ReadonlyArray<string>): Effect.Effect<Finished> =>
  Effect.async((resume) => {
    const [program = "", ...args] = argv
    const child = spawn(program, args, { stdio: ["ignore", "pipe", "pipe"] })
    let stdout = ""
    let stderr = ""
    child.stdout.setEncoding("utf8").on("data", (text: string) => (stdout += text))
    child.stderr.setEncoding("utf8").on("data", (text: string) => (stderr += text))
    child.on("error", (error) => resume(Effect.die(error)))
    child.on("close", (code) => resume(Effect.succeed({ code, stdout, stderr })))
    return Effect.sync(() => child.kill("SIGKILL"))
  })

export interface Daemon {
  readonly pid: number
  /** Whether it has not ended by itself. */
  readonly isRunning: () => boolean
  /** What it has printed on both channels. */
  readonly output: () => string
}

const hasEnded = (child: ChildProcess): boolean => child.exitCode !== null || child.signalCode !== null

/** Starts a program that runs until the scope closes. `argv` replaces itself by it, so that its pid is the child's. */
export const daemon = (
  argv: ReadonlyArray<string>,
  options: { readonly env?: Readonly<Record<string, string>>; readonly cwd?: string } = {}
): Effect.Effect<Daemon, never, Scope.Scope> =>
  Effect.acquireRelease(
    Effect.sync(() => {
      const [program = "", ...args] = argv
      const env = { ...process.env, ...options.env }
      const child = spawn(program, args, { stdio: ["ignore", "pipe", "pipe"], env, cwd: options.cwd })
      let output = ""
      for (const stream of [child.stdout, child.stderr]) {
        stream.setEncoding("utf8").on("data", (text: string) => {
          if (output.length < 1e6) output += text
        })
      }
      child.on("error", (error) => (output += String(error)))
      return { child, pid: child.pid ?? 0, isRunning: () => !hasEnded(child), output: () => output }
    }),
    ({ child }) =>
      Effect.async<void>((resume) => {
        if (hasEnded(child) || child.pid === undefined) return resume(Effect.void)
        child.once("close", () => resume(Effect.void))
        child.kill("SIGKILL")
      })
  )
