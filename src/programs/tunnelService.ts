/** The tunnel service: runs sessions for a GUI, one GUI at a time (host spec sections 7.4 and 7.5). */
import * as Effect from "effect/Effect"
import { ClientConfig } from "../services/ClientConfig.ts"
import { DeviceIdentity } from "../services/DeviceIdentity.ts"
import { GuiServer } from "../services/GuiServer.ts"
import { ServiceManager } from "../services/ServiceManager.ts"
import { TunnelSessions } from "../services/TunnelSessions.ts"
import { greetingOf } from "./greeting.ts"
import { serveGui } from "./serveGui.ts"

export const tunnelService = Effect.gen(function*() {
  yield* greetingOf("firezone-client-tunnel")
  for (const warning of (yield* ClientConfig).warnings) yield* Effect.logWarning(warning)
  const { restoreDns } = yield* TunnelSessions
  const identity = yield* DeviceIdentity
  const manager = yield* ServiceManager
  yield* Effect.scoped(Effect.gen(function*() {
    const { accept } = yield* (yield* GuiServer).listen
    yield* manager.ready
    yield* Effect.addFinalizer(() => Effect.zipRight(manager.stopping, Effect.logInfo("stopping")))

    const serveNext = Effect.gen(function*() {
      yield* manager.status("waiting for the GUI")
      const gui = yield* accept
      const { id } = yield* identity.facts
      yield* serveGui(gui, id)
    }).pipe(
      Effect.scoped,
      Effect.catchTag("ConfigInvalid", (error) => Effect.logError(error.message)),
      // A bug that one GUI has met must not take the service from the next. Not at once: it may be met again.
      Effect.catchAllCause((cause) => Effect.delay(Effect.logError("serving a GUI failed", cause), "100 millis"))
    )
    // First what a GUI, or a run of the service that died, has left.
    yield* Effect.forever(Effect.zipRight(restoreDns, serveNext))
  })).pipe(Effect.annotateLogs("module", "gui"))
})
