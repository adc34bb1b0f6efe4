/** Asks on the controlling terminal and on stdin. */
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Redacted from "effect/Redacted"
import * as fs from "node:fs"
import * as readline from "node:readline"
import * as tty from "node:tty"
import { UnsupportedPlatform } from "../../model/UnsupportedPlatform.ts"
import { NoTerminal, Prompt } from "../../services/Prompt.ts"
import { typed } from "./secretLine.ts"

const CONTROLLING_TERMINAL = "/dev/tty" // tty(4)

const codeOf = (cause: unknown): string => (cause as NodeJS.ErrnoException).code ?? String(cause)

/** In raw mode until the scope ends: no echo, no signals of keys, and lines longer than the kernel's 4095 bytes. */
const openTerminal = Effect.acquireRelease(
  Effect.try({
    try: () => {
      const descriptor = fs.openSync(CONTROLLING_TERMINAL, "r+")
      const terminal = new tty.ReadStream(descriptor)
      terminal.setRawMode(true)
      return { terminal, write: (text: string) => fs.writeSync(descriptor, text) }
    },
    catch: (cause) => new NoTerminal({ why: `${CONTROLLING_TERMINAL}: ${codeOf(cause)}` })
  }),
  ({ terminal, write }) =>
    Effect.sync(() => {
      terminal.setRawMode(false)
      write("\n")
      terminal.destroy()
    })
)

const secret = (question: string) =>
  Effect.scoped(Effect.gen(function*() {
    const { terminal, write } = yield* openTerminal
    write(question)
    return yield* Effect.async<Redacted.Redacted | undefined, NoTerminal>((resume) => {
      let text = ""
      terminal.setEncoding("utf8").on("data", (input: string) => {
        const result = typed(text, input)
        if (result._tag === "More") text = result.text
        else {
          resume(Effect.succeed(result._tag === "Done" ? Redacted.make(result.text) : undefined))
        }
      })
      terminal.once("error", (cause) => resume(new NoTerminal({ why: codeOf(cause) })))
      terminal.once("end", () => resume(Effect.succeed(undefined)))
    })
  }))

const line = (question: string) =>
  Effect.async<string | undefined>((resume) => {
    process.stdout.write(question)
    const lines = readline.createInterface({ input: process.stdin })
    lines.once("line", (text) => resume(Effect.succeed(text)))
    lines.once("close", () => resume(Effect.succeed(undefined)))
    return Effect.sync(() => lines.close())
  }).pipe(Effect.ensuring(Effect.sync(() => process.stdin.pause())))

/** `platform` is an argument so that every platform tests what the others say. */
export const layerFor = (platform: NodeJS.Platform): Layer.Layer<Prompt> =>
  Layer.succeed(Prompt, {
    secret: (question) =>
      platform === "win32"
        ? Effect.fail(new UnsupportedPlatform({ platform, what: "asking for a secret on the console" }))
        : secret(question),
    line
  })

export const layer = Layer.suspend(() => layerFor(process.platform))
