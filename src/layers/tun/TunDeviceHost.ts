import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import type { ReadinessPoller } from "../../services/ReadinessPoller.ts"
import { TunDevice, TunFailed } from "../../services/TunDevice.ts"
import type { TunInterface } from "../../services/TunInterface.ts"

type HostLayer = Layer.Layer<TunDevice, never, ReadinessPoller | TunInterface>

/** Imports only the host's implementation: another one may load a library this host lacks. */
const layers: { readonly [platform in NodeJS.Platform]?: () => Promise<HostLayer> } = {
  linux: async () => (await import("./TunDeviceLinux.ts")).layer
}

/** What there is no device for says so when one is opened: the other commands work there. */
const unsupported = (platform: NodeJS.Platform): HostLayer =>
  Layer.succeed(TunDevice, {
    open: ({ name }) =>
      Effect.fail(
        new TunFailed({
          step: `open ${name}`,
          cause: `the ${platform === "win32" ? "Windows" : platform} tunnel device is not implemented in this version`,
          hint: "run the client on Linux"
        })
      )
  })

export const layerFor = (platform: NodeJS.Platform): HostLayer => {
  const load = layers[platform]
  return load === undefined ? unsupported(platform) : Layer.unwrapEffect(Effect.promise(load))
}

export const layer: HostLayer = Layer.suspend(() => layerFor(process.platform))
