import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import { UnsupportedPlatform } from "../../model/UnsupportedPlatform.ts"
import type { ClientConfig } from "../../services/ClientConfig.ts"
import { ControlServer } from "../../services/ControlServer.ts"
import type { RouteCache } from "../../services/RouteCache.ts"

type HostLayer = Layer.Layer<ControlServer, never, ClientConfig | RouteCache>

/** Imports only the host's implementation: another one may load a library this host lacks. */
const layers: { readonly [platform in NodeJS.Platform]?: () => Promise<HostLayer> } = {
  linux: async () => (await import("./ControlServerUnix.ts")).layer
}

/** Says so when it is to serve: the tunnel does not need it. */
const unsupported = (platform: NodeJS.Platform): HostLayer =>
  Layer.succeed(ControlServer, {
    serve: () => Effect.fail(new UnsupportedPlatform({ platform, what: "control socket" }))
  })

export const layerFor = (platform: NodeJS.Platform): HostLayer => {
  const load = layers[platform]
  return load === undefined ? unsupported(platform) : Layer.unwrapEffect(Effect.promise(load))
}

export const layer: HostLayer = Layer.suspend(() => layerFor(process.platform))
