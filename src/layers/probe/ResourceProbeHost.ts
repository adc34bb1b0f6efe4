import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import { UnsupportedPlatform } from "../../model/UnsupportedPlatform.ts"
import type { ReadinessPoller } from "../../services/ReadinessPoller.ts"
import { ResourceProbe } from "../../services/ResourceProbe.ts"

/** Imports only the host's implementation: another one may load a library this host lacks. */
export const layerFor = (platform: NodeJS.Platform): Layer.Layer<ResourceProbe, never, ReadinessPoller> => {
  if (platform === "linux") {
    return Layer.unwrapEffect(
      Effect.map(Effect.promise(() => import("./ResourceProbeLinux.ts")), ({ layer }) => layer)
    )
  }
  const unsupported = Effect.fail(new UnsupportedPlatform({ platform, what: "ping" }))
  return Layer.succeed(ResourceProbe, { lookUp: () => unsupported, open: () => unsupported })
}

export const layer = Layer.suspend(() => layerFor(process.platform))
