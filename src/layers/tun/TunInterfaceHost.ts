import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import { UnsupportedPlatform } from "../../model/UnsupportedPlatform.ts"
import type { NetworkChanges } from "../../services/NetworkChanges.ts"
import type { TunInterface } from "../../services/TunInterface.ts"

type HostLayer = Layer.Layer<TunInterface, UnsupportedPlatform, NetworkChanges>

/** Imports only the host's implementation: another one may load a library this host lacks. */
const layers: { readonly [platform in NodeJS.Platform]?: () => Promise<HostLayer> } = {
  linux: async () => (await import("./TunInterfaceLinux.ts")).layer
}

export const layerFor = (platform: NodeJS.Platform): HostLayer => {
  const load = layers[platform]
  return load === undefined
    ? Layer.fail(new UnsupportedPlatform({ platform, what: "tunnel interface settings" }))
    : Layer.unwrapEffect(Effect.promise(load))
}

export const layer: HostLayer = Layer.suspend(() => layerFor(process.platform))
