import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import { UnsupportedPlatform } from "../../model/UnsupportedPlatform.ts"
import type { PeerSocket } from "../../services/PeerSocket.ts"
import type { ReadinessPoller } from "../../services/ReadinessPoller.ts"
import type { RouteCache } from "../../services/RouteCache.ts"
import type { SocketFactory } from "../../services/SocketFactory.ts"
import type { PeerSocketOptions } from "./PeerSocketLinux.ts"

type HostLayer = Layer.Layer<PeerSocket, UnsupportedPlatform, SocketFactory | RouteCache | ReadinessPoller>

/** Imports only the host's implementation: another one may load a library this host lacks. */
const layers: {
  readonly [platform in NodeJS.Platform]?: (options: Partial<PeerSocketOptions>) => Promise<HostLayer>
} = {
  linux: async (options) => (await import("./PeerSocketLinux.ts")).layerWith(options)
}

export const layerFor = (platform: NodeJS.Platform, options: Partial<PeerSocketOptions>): HostLayer => {
  const load = layers[platform]
  return load === undefined
    ? Layer.fail(new UnsupportedPlatform({ platform, what: "peer sockets" }))
    : Layer.unwrapEffect(Effect.promise(() => load(options)))
}

export const layerWith = (options: Partial<PeerSocketOptions>): HostLayer =>
  Layer.suspend(() => layerFor(process.platform, options))

export const layer: HostLayer = layerWith({})
