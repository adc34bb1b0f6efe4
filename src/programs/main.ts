/** The process around a program: signals, the token variable, the exit code. */
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Redacted from "effect/Redacted"
import { takeVariable } from "../layers/host/ownSecrets.ts"
import { NAME, type ProcessInput, run } from "./cli.ts"
import { EXIT } from "./outcome.ts"

/** npm and npx pass a Ctrl+C on that the terminal has sent us already: within this time it is the same one. */
const SAME_SIGNAL_MILLIS = 300
const TOKEN_VARIABLE = "FIREZONE_TOKEN"

export interface Program {
  readonly name: string
  readonly run: (input: ProcessInput) => Effect.Effect<number>
}

export const main = (args: ReadonlyArray<string>, { name, run: program }: Program = { name: NAME, run }): void => {
  const variable = process.env[TOKEN_VARIABLE]
  const fiber = Effect.runFork(
    variable === undefined
      ? program({ args, token: undefined })
      : Effect.zipRight(
        Effect.promise(() => takeVariable(TOKEN_VARIABLE)),
        program({ args, token: Redacted.make(variable) })
      )
  )
  let interruptedAt: number | undefined
  const stop = (): void => {
    if (interruptedAt === undefined) {
      interruptedAt = performance.now()
      fiber.unsafeInterruptAsFork(fiber.id())
    } else if (performance.now() - interruptedAt > SAME_SIGNAL_MILLIS) {
      process.exit(EXIT.interrupted)
    }
  }
  // Else Node would open its debugger, over which every user of the machine could do what we may.
  if (process.platform !== "win32") process.on("SIGUSR1", () => undefined)
  process.on("SIGINT", stop)
  process.on("SIGTERM", stop)
  // To a client that runs it means a reset (connect.ts). While one starts or stops it must not end it with everything left
  // behind, as by default; on Windows the console closes.
  if (args[0] !== "lab") process.on("SIGHUP", process.platform === "win32" ? stop : () => undefined)
  // A bug outside of every fiber, in a callback of Node's: what the program holds of the system must be given back.
  let crashed = false
  process.on("uncaughtException", (error) => {
    process.stderr.write(`${name}: internal error: ${error instanceof Error ? error.stack : String(error)}\n`)
    if (crashed) process.exit(EXIT.failed)
    crashed = true
    fiber.unsafeInterruptAsFork(fiber.id())
  })
  // A reader that goes away (`| head`, EPIPE), a terminal that closes (EIO) or a full disk (ENOSPC) takes our words, not
  // the tunnel.
  for (const stream of [process.stdout, process.stderr]) stream.on("error", () => undefined)
  fiber.addObserver((exit) => {
    if (crashed) return process.exit(EXIT.failed)
    if (Exit.isSuccess(exit)) return process.exit(exit.value)
    // To stop is what an interrupted client was asked for; an interrupted lab has not answered its question.
    if (Exit.isInterrupted(exit)) return process.exit(args[0] === "lab" ? EXIT.interrupted : EXIT.done)
    process.stderr.write(`${name}: internal error: ${String(exit.cause)}\n`)
    process.exit(EXIT.failed)
  })
}
