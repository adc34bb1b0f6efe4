/**
 * Programs that the lab runs and processes that it starts. Each is the leader of a session of its own: a Ctrl+C of the
 * terminal reaches the lab alone, which then ends them in order, and what `lab up` starts outlives the terminal.
 */
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import { type ChildProcess, spawn as nodeSpawn, spawnSync } from "node:child_process"
import * as fs from "node:fs"
import * as os from "node:os"
import { LabError } from "./LabError.ts"

export interface Output {
  readonly code: number
  readonly stdout: string
  readonly stderr: string
}

export interface RunOptions {
  readonly input?: string
  readonly env?: Readonly<Record<string, string>>
  /** Ends the command and what it started after this long; its code is then 124. Default 60 s. */
  readonly timeoutMillis?: number
}

const OUTPUT_LIMIT = 16 * 1024 * 1024
const GRACE_MILLIS = 5000

/** Settings of a client that the caller may have around him; the lab gives its own. Not FIREZONE_LOG, which only shows more. */
const isClientSetting = (name: string): boolean =>
  name.startsWith("FIREZONE_") && name !== "FIREZONE_LOG" ||
  ["LOG_DIR", "MAX_PARTITION_TIME", "OTLP_GRPC_ENDPOINT", "NOTIFY_SOCKET", "JOURNAL_STREAM"].includes(name)

/** The caller's environment, fit for our programs: `su` leaves a PATH without those of the administrator. */
export const environment = (own: Readonly<Record<string, string>> = {}): NodeJS.ProcessEnv => ({
  ...Object.fromEntries(Object.entries(process.env).filter(([name]) => !isClientSetting(name))),
  PATH: `${process.env["PATH"] ?? "/usr/bin:/bin"}:/usr/sbin:/sbin`,
  ...own
})

const hasEnded = (child: ChildProcess): boolean => child.exitCode !== null || child.signalCode !== null

/** Kills a child that we have not yet seen end, so that its pid is still its own, with all that it started. */
const killGroup = (child: ChildProcess): void => {
  if (child.pid === undefined || hasEnded(child)) return
  try {
    process.kill(-child.pid, "SIGKILL")
  } catch {
    // It has gone already.
  }
}

/** Runs a command to its end. A non-zero code is a result, not an error. Interruption ends the command. */
export const run = (argv: ReadonlyArray<string>, options: RunOptions = {}): Effect.Effect<Output, LabError> =>
  Effect.async((resume) => {
    const [command = "", ...args] = argv
    const child = nodeSpawn(command, args, {
      stdio: ["pipe", "pipe", "pipe"],
      env: environment(options.env),
      detached: true
    })
    let stdout = ""
    let stderr = ""
    const finish = (code: number): void => {
      clearTimeout(timer)
      resume(Effect.succeed({ code, stdout, stderr }))
    }
    const timer = setTimeout(() => {
      killGroup(child)
      // Should a grandchild have left the group, it still holds the pipes: nobody waits for it.
      finish(124)
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
    child.on("close", (code) => finish(code ?? 128))
    return Effect.sync(() => {
      clearTimeout(timer)
      killGroup(child)
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
export const quietly = (argv: ReadonlyArray<string>): void => {
  const [command = "", ...args] = argv
  spawnSync(command, args, { stdio: "ignore", env: environment() })
}

export interface Daemon {
  readonly pid: number
  readonly logFile: string
  /** The exit code once the process has ended. */
  readonly exit: Effect.Effect<number>
  readonly hasExited: () => boolean
  readonly log: () => string
  readonly signal: (name: NodeJS.Signals) => void
}

/** Starts a process whose output goes to `logFile`; SIGTERM, then SIGKILL, when the scope ends. */
export const daemon = (
  argv: ReadonlyArray<string>,
  logFile: string,
  env: Readonly<Record<string, string>> = {}
): Effect.Effect<Daemon, LabError, Scope.Scope> =>
  Effect.acquireRelease(
    spawn(argv, logFile, env),
    (daemon) =>
      Effect.gen(function*() {
        daemon.signal("SIGTERM")
        yield* Effect.timeout(Effect.interruptible(daemon.exit), GRACE_MILLIS)
      }).pipe(
        Effect.catchAll(() => {
          daemon.signal("SIGKILL")
          return daemon.exit
        }),
        Effect.unless(daemon.hasExited)
      )
  )

/** As `daemon`, of a process that outlives us. */
export const spawn = (
  argv: ReadonlyArray<string>,
  logFile: string,
  env: Readonly<Record<string, string>> = {}
): Effect.Effect<Daemon, LabError> =>
  Effect.async((resume) => {
    const [command = "", ...args] = argv
    const log = fs.openSync(logFile, "w", 0o600)
    const child = nodeSpawn(command, args, { stdio: ["ignore", log, log], env: environment(env), detached: true })
    fs.closeSync(log)
    let code: number | undefined
    const waiting = new Set<(code: number) => void>()
    child.on("exit", (status, signal) => {
      code = status ?? (signal === "SIGKILL" ? 137 : 128)
      for (const wake of waiting) wake(code)
      waiting.clear()
    })
    child.on("error", (error) =>
      resume(Effect.fail(new LabError({ what: `cannot start ${command}`, why: error.message }))))
    child.on("spawn", () =>
      resume(Effect.succeed({
        // There is one once it has been spawned.
        pid: child.pid as number,
        logFile,
        exit: Effect.async<number>((resume) => {
          if (code !== undefined) {
            return resume(Effect.succeed(code))
          }
          const wake = (code: number): void =>
            resume(Effect.succeed(code))
          waiting.add(wake)
          return Effect.sync(() => waiting.delete(wake))
        }),
        hasExited: () => code !== undefined,
        log: () => fs.readFileSync(logFile, "utf8"),
        signal: (name) => {
          // Node sends none to a child that it has seen end.
          child.kill(name)
        }
      })))
  })

/**
 * Runs a command with our own terminal, to its exit code. It shares our process group, so what the terminal sends (Ctrl+C)
 * reaches it anyway and we only wait; what we alone are sent is passed on.
 */
export const foreground = (argv: ReadonlyArray<string>): Effect.Effect<number, LabError> =>
  Effect.uninterruptible(Effect.async((resume) => {
    const [command = "", ...args] = argv
    const child = nodeSpawn(command, args, { stdio: "inherit" })
    for (const signal of ["SIGINT", "SIGQUIT"] as const) process.removeAllListeners(signal).on(signal, () => {})
    for (const signal of ["SIGTERM", "SIGHUP"] as const) {
      process.removeAllListeners(signal).on(signal, () => child.kill(signal))
    }
    child.on(
      "error",
      (error) => resume(Effect.fail(new LabError({ what: `cannot run ${command}`, why: error.message })))
    )
    child.on(
      "exit",
      (code, signal) => resume(Effect.succeed(code ?? 128 + (signal === null ? 0 : os.constants.signals[signal])))
    )
  }))
