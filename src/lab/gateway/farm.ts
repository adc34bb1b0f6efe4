/** Many gateways for one client: who they are, and what the portal has to know of them. */
import type { Site } from "../../protocol/portal/types.ts"
import type { PortalConfig, ResourceConfig } from "../portal/config.ts"

export interface Farm {
  readonly gateways: number
  /** Networks behind each of them. */
  readonly resourcesEach: number
}

export interface FarmState {
  /** Connections to clients, of all gateways. */
  readonly peers: number
}

const uuid = (kind: number, index: number): string =>
  `00000000-0000-4000-8000-${kind.toString(16).padStart(4, "0")}${index.toString(16).padStart(8, "0")}`

const siteOf = (gateway: number): string => uuid(1, gateway)
export const externalIdOf = (id: string, gateway: number): string => `${id}-${gateway}`

/** An address in one of the networks of a gateway; at most 256 of each. */
export const addressIn = (gateway: number, resource: number): string => `10.${gateway}.${resource}.1`

/** What the portal has to know: every gateway is alone in a site. `id` is what the names of all of them begin with. */
export const accountOf = (
  { gateways, resourcesEach }: Farm,
  otherSite: Site,
  id: string
): Pick<PortalConfig, "sites" | "resources" | "gatewaySites" | "connectRateLimit"> => {
  const numbers = Array.from({ length: gateways }, (_, index) => index)
  return {
    sites: [otherSite, ...numbers.map((gateway) => ({ id: siteOf(gateway), name: `Site ${gateway}` }))],
    gatewaySites: Object.fromEntries(numbers.map((gateway) => [externalIdOf(id, gateway), siteOf(gateway)])),
    resources: numbers.flatMap((gateway) =>
      Array.from({ length: resourcesEach }, (_, resource): ResourceConfig => ({
        type: "cidr",
        id: uuid(2, gateway * resourcesEach + resource),
        name: `Network ${gateway}.${resource}`,
        address: `10.${gateway}.${resource}.0/24`,
        address_description: null,
        sites: [siteOf(gateway)],
        filters: []
      }))
    ),
    // All of them sign in from one address, with one token.
    connectRateLimit: { perSecond: 1000, burst: 1000 }
  }
}
