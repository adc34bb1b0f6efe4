import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import { UnsupportedPlatform } from "../../model/UnsupportedPlatform.ts"
import { GuiServer } from "../../services/GuiServer.ts"
import type { GuiServerOptions } from "./GuiServerUnix.ts"

/** Imports only the host's implementation: another one may load a library this host lacks. */
export const layerFor = (platform: NodeJS.Platform, options: GuiServerOptions): Layer.Layer<GuiServer> =>
  platform === "linux"
    ? Layer.unwrapEffect(
      Effect.map(Effect.promise(() => import("./GuiServerUnix.ts")), ({ layerWith }) => layerWith(options))
    )
    : Layer.succeed(GuiServer, {
      listen: Effect.fail(new UnsupportedPlatform({ platform, what: "the tunnel service for a GUI" }))
    })

export const layer = (options: GuiServerOptions): Layer.Layer<GuiServer> =>
  Layer.suspend(() => layerFor(process.platform, options))
