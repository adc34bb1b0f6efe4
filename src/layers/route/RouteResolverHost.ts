import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import type { SyscallError } from "../../ffi/SyscallError.ts"
import { SOCKET_MARK, TUNNEL_NAME_LINUX, TUNNEL_NAME_WINDOWS } from "../../model/policyRouting.ts"
import { UnsupportedPlatform } from "../../model/UnsupportedPlatform.ts"
import type { RouteResolver } from "../../services/RouteResolver.ts"

type HostLayer = Layer.Layer<RouteResolver, UnsupportedPlatform | SyscallError>

/** Imports only the host's implementation: another one may load a library this host lacks. */
const layers: { readonly [platform in NodeJS.Platform]?: (tunnelName: string) => Promise<HostLayer> } = {
  linux: async (tunnelName) => (await import("./RouteResolverLinux.ts")).layerWith({ tunnelName, mark: SOCKET_MARK }),
  win32: async (tunnelName) => (await import("./RouteResolverWindows.ts")).layerWith({ tunnelName })
}

export const layerFor = (platform: NodeJS.Platform, tunnelName: string): HostLayer => {
  const load = layers[platform]
  return load === undefined
    ? Layer.fail(new UnsupportedPlatform({ platform, what: "route lookups" }))
    : Layer.unwrapEffect(Effect.promise(() => load(tunnelName)))
}

/** `tunnelName` is the interface that no route of ours may use. */
export const layerWith = ({ tunnelName }: { readonly tunnelName: string }): HostLayer =>
  Layer.suspend(() => layerFor(process.platform, tunnelName))

export const layer: HostLayer = Layer.suspend(() =>
  layerFor(process.platform, process.platform === "win32" ? TUNNEL_NAME_WINDOWS : TUNNEL_NAME_LINUX)
)
