/** Whom the client asks (tunnel spec 12.1), and at which of its own addresses it is asked in turn (12.2). */
import type { InterfaceConfig } from "../portal/types.ts"
import { SENTINEL_RANGES } from "../tunnel/ranges.ts"
import { familyOf, type IpAddress, networkContains } from "../wire/address.ts"

export type Upstream =
  | { readonly _tag: "Do53"; readonly address: IpAddress }
  | { readonly _tag: "DoH"; readonly url: string }

/** What tells two upstreams apart. */
export const upstreamKey = (upstream: Upstream): string => upstream._tag === "Do53" ? upstream.address : upstream.url

/** Without our own sentinels, which would be asked for ever, and without repetitions. */
export const sanitizeResolvers = (resolvers: ReadonlyArray<IpAddress>): ReadonlyArray<IpAddress> =>
  [...new Set(resolvers)].filter((address) => !SENTINEL_RANGES.some((range) => networkContains(range, address)))

export interface EffectiveUpstreams {
  readonly upstreams: ReadonlyArray<Upstream>
  /** The portal chose them, not the system. */
  readonly isCustom: boolean
}

export const effectiveUpstreams = (
  config: Pick<InterfaceConfig, "upstreamDo53" | "upstreamDoh">,
  system: ReadonlyArray<IpAddress>
): EffectiveUpstreams => {
  const do53 = (addresses: ReadonlyArray<IpAddress>): ReadonlyArray<Upstream> =>
    sanitizeResolvers(addresses).map((address) => ({ _tag: "Do53", address }))
  if (config.upstreamDo53.length > 0) return { upstreams: do53(config.upstreamDo53), isCustom: true }
  if (config.upstreamDoh.length > 0) {
    return { upstreams: [...new Set(config.upstreamDoh)].map((url) => ({ _tag: "DoH", url })), isCustom: true }
  }
  return { upstreams: do53(system), isCustom: false }
}

/** How an upstream is reached decides which of our families stands for it. */
export const sentinelFamily = (upstream: Upstream): 4 | 6 => upstream._tag === "DoH" ? 4 : familyOf(upstream.address)
