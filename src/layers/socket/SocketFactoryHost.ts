import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import { UnsupportedPlatform } from "../../model/UnsupportedPlatform.ts"
import type { ReadinessPoller } from "../../services/ReadinessPoller.ts"
import type { RouteCache } from "../../services/RouteCache.ts"
import type { SocketFactory } from "../../services/SocketFactory.ts"

type HostLayer = Layer.Layer<SocketFactory, UnsupportedPlatform, RouteCache | ReadinessPoller>

/** Imports only the host's implementation: another one may load a library this host lacks. */
const layers: { readonly [platform in NodeJS.Platform]?: () => Promise<HostLayer> } = {
  linux: async () => (await import("./SocketFactoryLinux.ts")).layer
}

export const layerFor = (platform: NodeJS.Platform): HostLayer => {
  const load = layers[platform]
  // No plain sockets instead: unmarked ones would send our own packets into the tunnel.
  return load === undefined
    ? Layer.fail(new UnsupportedPlatform({ platform, what: "sockets outside the tunnel" }))
    : Layer.unwrapEffect(Effect.promise(load))
}

export const layer: HostLayer = Layer.suspend(() => layerFor(process.platform))

/** Of a user who may not mark sockets: what they send may go through a tunnel that is up. For diagnosis alone. */
export const unmarked: HostLayer = Layer.suspend(() =>
  process.platform === "linux"
    ? Layer.unwrapEffect(
      Effect.promise(async () => (await import("./SocketFactoryLinux.ts")).layerWith({ mark: undefined }))
    )
    : layerFor(process.platform)
)
