import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import { ServiceManager } from "../../services/ServiceManager.ts"
import type { NotifyVariables } from "./notifyVariables.ts"

/** Nobody wants to be told anything. */
const none = Layer.succeed(ServiceManager, { ready: Effect.void, status: () => Effect.void, stopping: Effect.void })

/** Imports the implementation only if there is somebody to tell: it loads a native library. */
export const layerFor = (
  variables: NotifyVariables | undefined,
  platform: NodeJS.Platform
): Layer.Layer<ServiceManager> =>
  variables === undefined || platform !== "linux" ? none : Layer.unwrapEffect(
    Effect.map(Effect.promise(() => import("./ServiceManagerLinux.ts")), ({ layerWith }) => layerWith(variables))
  )

export const layer = (variables: NotifyVariables | undefined) => layerFor(variables, process.platform)
