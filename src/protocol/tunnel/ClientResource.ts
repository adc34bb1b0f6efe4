import type { GatewayId, Resource, Site } from "../portal/types.ts"
import { formatNetwork } from "../wire/address.ts"
import type { GatewayPeer } from "./GatewayPeer.ts"
import { PortFilter, sameFilters } from "./PortFilter.ts"
import type { PrefixEntry } from "./PrefixTable.ts"
import type { Refused } from "./Refused.ts"

/** One resource of the portal's list, and through whom it is reached. */
export class ClientResource implements PrefixEntry {
  readonly id: string
  readonly filter: PortFilter
  /** Replaced when only what people read has changed. */
  resource: Resource
  /** Set while the portal's grant stands. */
  gateway: GatewayPeer | undefined
  /** The gateway to ask for first; outlives a reset, but not the loss of the connection. */
  preferred: GatewayId | undefined
  /** When a packet was last sent to its gateway. */
  usedAt = Number.NEGATIVE_INFINITY
  /** When a gateway's refusal last made us ask the portal again. */
  renewedAt = Number.NEGATIVE_INFINITY
  /** The portal's latest, until it grants. */
  refused: Refused | undefined

  constructor(resource: Resource) {
    this.id = resource.id
    this.resource = resource
    this.filter = new PortFilter(filtersOf(resource))
  }

  get sites(): ReadonlyArray<Site> {
    return sitesOf(this.resource)
  }
}

/**
 * Whether `after` routes as `before` did, so that connections can stay (tunnel spec 5.2). Static device pools always do:
 * their changes are followed member by member.
 */
export const routesAlike = (before: Resource, after: Resource): boolean =>
  before.type === after.type && (before.type === "static_device_pool" ||
    addressOf(before) === addressOf(after) && ipStackOf(before) === ipStackOf(after) &&
      sitesKey(before) === sitesKey(after) && sameFilters(filtersOf(before), filtersOf(after)))

export const sitesOf = (resource: Resource): ReadonlyArray<Site> => "sites" in resource ? resource.sites : []

/** The text form; empty for resources without one address. */
export const addressOf = (resource: Resource): string => {
  switch (resource.type) {
    case "cidr":
      return formatNetwork(resource.address)
    case "dns":
    case "dynamic_device_pool":
      return resource.address
    case "internet":
    case "static_device_pool":
      return ""
  }
}

const filtersOf = (resource: Resource) => "filters" in resource ? resource.filters : []

const ipStackOf = (resource: Resource): string => resource.type === "dns" ? resource.ipStack : ""

const sitesKey = (resource: Resource): string => [...new Set(sitesOf(resource).map(({ id }) => id))].sort().join()
