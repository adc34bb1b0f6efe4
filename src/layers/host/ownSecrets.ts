/** Keeps what this process knows from other processes. Where the system is not Linux, it does nothing. */
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"

const ownProcess = Effect.promise(() => import("../../ffi/linux/ownProcess.ts"))

/** For programs that know a token or keys: no core is written of them, and nobody but root with all of its rights looks in. */
export const layer: Layer.Layer<never> = Layer.effectDiscard(
  process.platform === "linux" ? Effect.map(ownProcess, ({ refuseDumps }) => refuseDumps()) : Effect.void
)

/** Takes a variable out of the environment: neither children nor whoever reads /proc/PID/environ see its value. */
export const takeVariable = async (name: string): Promise<void> => {
  try {
    if (process.platform === "linux") (await import("../../ffi/linux/ownProcess.ts")).wipeVariable(name)
  } finally {
    delete process.env[name]
  }
}
