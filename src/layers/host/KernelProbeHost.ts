import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import { UnsupportedPlatform } from "../../model/UnsupportedPlatform.ts"
import type { KernelProbe } from "../../services/KernelProbe.ts"

type HostLayer = Layer.Layer<KernelProbe, UnsupportedPlatform>

/** Imports only the host's implementation: another one may load a library this host lacks. */
const layers: { readonly [platform in NodeJS.Platform]?: () => Promise<HostLayer> } = {
  linux: async () => (await import("./KernelProbeLinux.ts")).layer
}

export const layerFor = (platform: NodeJS.Platform): HostLayer => {
  const load = layers[platform]
  return load === undefined
    ? Layer.fail(new UnsupportedPlatform({ platform, what: "doctor" }))
    : Layer.unwrapEffect(Effect.promise(load))
}

export const layer: HostLayer = Layer.suspend(() => layerFor(process.platform))
