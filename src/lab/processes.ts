/** Processes that the lab starts, and ends by their own pid. */
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import { type ChildProcess, spawn as nodeSpawn, spawnSync } from "node:child_process"
import * as fs from "node:fs"
import { LabError } from "./LabError.ts"

export interface Output {
  readonly code: number
  readonly stdout: string
  readonly stderr: string
}

export interface RunOptions {
  readonly input?: string
  readonly env?: Readonly<Record<string, string>>
  /** Ends the command after this long; its code is then 124. Default 60 s. */
  readonly timeoutMillis?: number
}

const OUTPUT_LIMIT = 16 * 1024 * 1024

/** Runs a command to its end. A non-zero code is a result, not an error. Interruption ends the command. */
export const run = (argv: ReadonlyArray<string>, options: RunOptions = {}): Effect.Effect<Output, LabError> =>
  Effect.async((resume) => {
    const [command = "", ...args] = argv
    const child = nodeSpawn(command, args, {
      stdio: ["pipe", "pipe", "pipe"],
      env: { ...process.env, ...options.env }
    })
    let stdout = ""
    let stderr = ""
    let timedOut = false
    const timer = setTimeout(() => {
      timedOut = true
      child.kill("SIGKILL")
    }, options.timeoutMillis ?? 60_000)
    child.stdout.setEncoding("utf8").on("data", (text: string) => {
      if (stdout.length < OUTPUT_LIMIT) stdout += text
    })
    child.stderr.setEncoding("utf8").on("data", (text: string) => {
      if (stderr.length < OUTPUT_LIMIT) stderr += text
    })
    child.stdin.on("error", () => {})
    child.stdin.end(options.input ?? "")
    child.on("error", (error) => {
      clearTimeout(timer)
      resume(Effect.fail(new LabError({ what: `cannot run ${command}`, why: error.message })))
    })
    child.on("close", (code) => {
      clearTimeout(timer)
      resume(Effect.succeed({ code: timedOut ? 124 : code ?? 128, stdout, stderr }))
    })
    return Effect.sync(() => {
      clearTimeout(timer)
      child.kill("SIGKILL")
    })
  })

/** Runs a command that has to succeed; its error output is the reason if it does not. */
export const must = (
  what: string,
  argv: ReadonlyArray<string>,
  options: RunOptions = {}
): Effect.Effect<Output, LabError> =>
  Effect.flatMap(
    run(argv, options),
    (output) =>
      output.code === 0
        ? Effect.succeed(output)
        : Effect.fail(
          new LabError({ what, why: output.stderr.trim() || output.stdout.trim() || `exit code ${output.code}` })
        )
  )

/** For finalizers and clean-up, which must not be interrupted half-way: runs at once, ignores failure. */
export const quietly = (argv: ReadonlyArray<string>): string => {
  const [command = "", ...args] = argv
  return spawnSync(command, args, { encoding: "utf8", stdio: ["ignore", "pipe", "ignore"] }).stdout ?? ""
}

export const isAlive = (pid: number): boolean => {
  try {
    process.kill(pid, 0)
    return true
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === "EPERM"
  }
}

/** Ends processes by pid: SIGTERM, then SIGKILL after `graceMillis`; waits until they have gone. */
export const end = (pids: ReadonlyArray<number>, graceMillis = 5000): Effect.Effect<void> =>
  Effect.gen(function*() {
    const signal = (name: NodeJS.Signals): void => {
      for (const pid of pids) {
        try {
          process.kill(pid, name)
        } catch {
          // It has gone already.
        }
      }
    }
    const gone = (millis: number) =>
      Effect.gen(function*() {
        for (let waited = 0; waited < millis && pids.some(isAlive); waited += 20) yield* Effect.sleep(20)
        return !pids.some(isAlive)
      })
    signal("SIGTERM")
    if (yield* gone(graceMillis)) return
    signal("SIGKILL")
    yield* gone(2000)
  })

export interface Daemon {
  readonly pid: number
  readonly logFile: string
  /** The exit code once the process has ended. */
  readonly exit: Effect.Effect<number>
  readonly hasExited: () => boolean
  readonly log: () => string
  readonly signal: (name: NodeJS.Signals) => void
}

/** Starts a process whose output goes to `logFile`. The scope ends it. */
export const daemon = (
  argv: ReadonlyArray<string>,
  logFile: string,
  env: Readonly<Record<string, string>> = {}
): Effect.Effect<Daemon, LabError, Scope.Scope> =>
  Effect.acquireRelease(
    Effect.async<Daemon, LabError>((resume) => {
      const [command = "", ...args] = argv
      const log = fs.openSync(logFile, "w", 0o600)
      const child: ChildProcess = nodeSpawn(command, args, {
        stdio: ["ignore", log, log],
        env: { ...process.env, ...env }
      })
      fs.closeSync(log)
      let code: number | undefined
      const waiting: Array<(code: number) => void> = []
      child.on("exit", (status, signal) => {
        code = status ?? (signal === "SIGKILL" ? 137 : 128)
        for (const wake of waiting.splice(0)) wake(code)
      })
      child.on("error", (error) =>
        resume(Effect.fail(new LabError({ what: `cannot start ${command}`, why: error.message }))))
      child.on("spawn", () => {
        const pid = child.pid
        if (pid === undefined) {
          return
        }
        resume(Effect.succeed({
          pid,
          logFile,
          exit: Effect.async<number>((wake) => {
            if (code !== undefined) {
              wake(Effect.succeed(code))
            } else {waiting.push((value) =>
                wake(Effect.succeed(value))
              )}
          }),
          hasExited: () => code !== undefined,
          log: () => fs.readFileSync(logFile, "utf8"),
          signal: (name) => {
            if (code === undefined) child.kill(name)
          }
        }))
      })
    }),
    (process) => process.hasExited() ? Effect.void : end([process.pid])
  )
