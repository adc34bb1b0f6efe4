/** Raises the kernel's limits of socket buffers when asked to (host spec section 2.1, `--inc-buf`). */
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as fs from "node:fs"
import { ClientConfig } from "../../services/ClientConfig.ts"

const limits = [
  ["/proc/sys/net/core/rmem_max", 16_777_216],
  ["/proc/sys/net/core/wmem_max", 2_097_152]
] as const

/** A limit that cannot be raised is logged: the sockets work with what there is. */
const raise = Effect.forEach(limits, ([file, bytes]) =>
  Effect.try(() => {
    if (Number(fs.readFileSync(file, "utf8")) < bytes) fs.writeFileSync(file, String(bytes))
  }).pipe(
    Effect.catchAll(({ error }) =>
      Effect.logInfo("cannot raise the limit of socket buffers").pipe(
        Effect.annotateLogs({ file, cause: error instanceof Error ? error.message : String(error) })
      )
    )
  ), { discard: true })

/** Does nothing unless the setting `increaseBuffers` asks for it. Never lowers a limit. */
export const layer: Layer.Layer<never, never, ClientConfig> = Layer.effectDiscard(
  Effect.flatMap(
    ClientConfig,
    ({ increaseBuffers }) => increaseBuffers && process.platform === "linux" ? raise : Effect.void
  )
)
