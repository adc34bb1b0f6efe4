import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import { execFile } from "node:child_process"
import { HostCommands } from "../../services/HostCommands.ts"

const LONGEST_MILLIS = 3000
const MAX_OUTPUT = 256 * 1024

export const layer: Layer.Layer<HostCommands> = Layer.succeed(
  HostCommands,
  HostCommands.of({
    output: (program, ...args) =>
      Effect.async((resume) => {
        const child = execFile(program, args, {
          timeout: LONGEST_MILLIS,
          killSignal: "SIGKILL",
          maxBuffer: MAX_OUTPUT,
          // The PATH of a person may be short.
          env: { PATH: `${process.env["PATH"] ?? ""}:/usr/sbin:/usr/bin:/sbin:/bin`, LC_ALL: "C" }
        }, (error, stdout) => resume(Effect.succeed(error === null ? stdout : undefined)))
        return Effect.sync(() => child.kill("SIGKILL"))
      })
  })
)
