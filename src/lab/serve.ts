/** `lab serve NAME CONFIG`: runs one emulator in this process until it is told to stop. Hidden: the lab starts these. */
import * as Effect from "effect/Effect"
import type * as Redacted from "effect/Redacted"
import { serveControl } from "./control.ts"
import type { Farm } from "./gateway/farm.ts"
import type { GatewayConfig } from "./gateway/gatewayProcess.ts"
import type { GuiConfig } from "./gui/guiProcess.ts"
import { LabError } from "./LabError.ts"
import type { PortalConfig } from "./portal/portalProcess.ts"
import type { RelayConfig } from "./relay/relayProcess.ts"
import type { WebConfig } from "./web.ts"

interface ServeConfig {
  readonly control: string
}

const web = (config: ServeConfig & WebConfig) =>
  Effect.gen(function*() {
    const { serve } = yield* Effect.promise(() => import("./web.ts"))
    yield* Effect.tryPromise({
      try: () => serve(config),
      catch: (error) => new LabError({ what: "web server", why: String(error) })
    })
    yield* serveControl(config.control, () => ({}))
    return yield* Effect.never
  })

/** `token` is FIREZONE_TOKEN, which has been taken out of the environment. */
export const serve = (
  name: string,
  text: string,
  token: Redacted.Redacted | undefined
): Effect.Effect<number, LabError> =>
  Effect.scoped(Effect.gen(function*() {
    const config = yield* Effect.try({
      try: () => JSON.parse(text) as ServeConfig,
      catch: (error) => new LabError({ what: `lab serve ${name}`, why: (error as Error).message })
    })
    switch (name) {
      case "web":
        return yield* web(config as ServeConfig & WebConfig)
      case "portal": {
        const portal = yield* Effect.promise(() => import("./portal/portalProcess.ts"))
        return yield* portal.serve(config as ServeConfig & PortalConfig)
      }
      case "relay": {
        const relay = yield* Effect.promise(() => import("./relay/relayProcess.ts"))
        return yield* relay.serve(config as ServeConfig & RelayConfig)
      }
      case "gateway": {
        const gateway = yield* Effect.promise(() => import("./gateway/gatewayProcess.ts"))
        return yield* gateway.serve(config as ServeConfig & GatewayConfig, token)
      }
      case "gateways": {
        const farm = yield* Effect.promise(() => import("./gateway/farmProcess.ts"))
        return yield* farm.serve(config as ServeConfig & Farm, token)
      }
      case "gui": {
        const gui = yield* Effect.promise(() => import("./gui/guiProcess.ts"))
        return yield* gui.serve(config as ServeConfig & GuiConfig)
      }
      default:
        return yield* new LabError({ what: `lab serve ${name}`, why: "is no emulator" })
    }
  }))
