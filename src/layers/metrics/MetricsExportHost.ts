import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import { ClientConfig, type ConfigInvalid } from "../../services/ClientConfig.ts"
import { MetricsExport } from "../../services/MetricsExport.ts"
import * as EventLoopLive from "./EventLoopLive.ts"
import { takeOtlpVariables } from "./otlpVariables.ts"

/** Loads HTTP and OTLP only if the settings ask for metrics. */
export const layer = (environment: NodeJS.ProcessEnv): Layer.Layer<MetricsExport, ConfigInvalid, ClientConfig> =>
  Layer.unwrapEffect(Effect.gen(function*() {
    const { metricsAddress, otlpEndpoint } = yield* ClientConfig
    if (metricsAddress === undefined && otlpEndpoint === undefined) {
      return Layer.succeed(MetricsExport, { run: () => Effect.void })
    }
    const otlp = yield* takeOtlpVariables(environment)
    const { layerWith } = yield* Effect.promise(() => import("./MetricsExportLive.ts"))
    return Layer.provide(layerWith({ otlp }), EventLoopLive.layer)
  }))
