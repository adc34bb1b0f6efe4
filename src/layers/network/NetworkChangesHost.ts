import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import { TUNNEL_NAME_LINUX } from "../../model/policyRouting.ts"
import { UnsupportedPlatform } from "../../model/UnsupportedPlatform.ts"
import type { NetworkChanges } from "../../services/NetworkChanges.ts"
import type { ReadinessPoller } from "../../services/ReadinessPoller.ts"
import type { RouteResolver } from "../../services/RouteResolver.ts"
import type { SystemBus } from "../../services/SystemBus.ts"

type HostLayer = Layer.Layer<NetworkChanges, UnsupportedPlatform, ReadinessPoller | RouteResolver | SystemBus>

export interface NetworkChangesOptions {
  /** The interface that `--tun-name` chose: what happens to it is our own doing. */
  readonly tunnelName: string
}

/** Imports only the host's implementation: another one may load a library this host lacks. */
const layers: {
  readonly [platform in NodeJS.Platform]?: (options: NetworkChangesOptions) => Promise<HostLayer>
} = {
  linux: async (options) => (await import("./NetworkChangesLinux.ts")).layerWith(options)
}

export const layerFor = (platform: NodeJS.Platform, options: NetworkChangesOptions): HostLayer => {
  const load = layers[platform]
  // Nothing instead that never says a word: a route cache that nobody empties sends into black holes.
  return load === undefined
    ? Layer.fail(new UnsupportedPlatform({ platform, what: "following network changes" }))
    : Layer.unwrapEffect(Effect.promise(() => load(options)))
}

export const layerWith = (options: NetworkChangesOptions): HostLayer =>
  Layer.suspend(() => layerFor(process.platform, options))

export const layer: HostLayer = layerWith({ tunnelName: TUNNEL_NAME_LINUX })
