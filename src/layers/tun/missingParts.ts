/** What a configuration wants of the kernel, and what of it is not there. */
import * as Either from "effect/Either"
import type { RouteMessage } from "../../ffi/linux/rtnetlinkDecode.ts"
import type { DeviceRoute } from "../../ffi/linux/rtnetlinkEncode.ts"
import { AF_INET, AF_INET6, IFF } from "../../ffi/linux/rtnetlinkLayout.ts"
import type { PolicyTables } from "../../model/policyRouting.ts"
import type { IpNetwork } from "../../model/Route.ts"
import { ipToBytes } from "../../protocol/wire/address.ts"
import type { TunInterfaceConfig } from "../../services/TunDevice.ts"
import type { InterfaceRequests, Step } from "./InterfaceRequests.ts"

export interface WorkingFamilies {
  readonly ipv4: boolean
  readonly ipv6: boolean
}

export interface WantedRoute extends DeviceRoute {
  readonly key: string
}

export const isSameAddress = (left: Uint8Array, right: Uint8Array): boolean =>
  left.length === right.length && left.every((byte, i) => byte === right[i])

/** Equal for a route of the kernel's and the wanted one that it is, apart from the interface. */
export const routeKey = ({ destination, family, prefixLength, table }: RouteMessage): string =>
  `${table} ${destination ?? new Uint8Array(family === AF_INET ? 4 : 16)}/${prefixLength}`

export const wantedRoute = (network: IpNetwork, index: number, tables: PolicyTables): WantedRoute => {
  const destination = ipToBytes(network.address)
  const { table } = network.bits === 0 ? tables.internet : tables.user
  return { destination, prefixLength: network.bits, table, index, key: `${table} ${destination}/${network.bits}` }
}

export const wantedRoutes = (
  { routes }: TunInterfaceConfig,
  works: WorkingFamilies,
  index: number,
  tables: PolicyTables
): ReadonlyArray<WantedRoute> =>
  routes.map((network) => wantedRoute(network, index, tables))
    .filter(({ destination }) => destination.length === 4 ? works.ipv4 : works.ipv6)

const counted = (count: number, what: string): ReadonlyArray<string> =>
  count === 0 ? [] : [`${count} ${what}${count === 1 ? "" : "s"}`]

/** What the kernel has lost of a configuration that it had, for a person; empty if all is there. */
export const missingParts = (
  requests: InterfaceRequests,
  interfaceName: string,
  config: TunInterfaceConfig,
  works: WorkingFamilies,
  tables: PolicyTables
): Step<ReadonlyArray<string>> =>
  Either.gen(function*() {
    const { flags, index } = yield* requests.link(interfaceName)
    const addresses = yield* requests.addresses(index)
    const missing: Array<string> = (flags & IFF.UP) === 0 ? ["link state"] : []
    for (
      const { address, family, name } of [
        ...works.ipv4 ? [{ name: "IPv4", family: AF_INET, address: ipToBytes(config.ipv4) } as const] : [],
        ...works.ipv6 ? [{ name: "IPv6", family: AF_INET6, address: ipToBytes(config.ipv6) } as const] : []
      ]
    ) {
      if (!addresses.some((other) => isSameAddress(other.address, address))) missing.push(`${name} address`)
      const rules = yield* requests.rules(family, tables)
      if (rules === undefined) continue
      const lost = Object.values(tables).filter(({ priority, table }) =>
        !rules.some((rule) => rule.priority === priority && rule.table === table)
      )
      missing.push(...counted(lost.length, `${name} rule`))
    }
    const routes = new Set(wantedRoutes(config, works, index, tables).map(({ key }) => key))
    for (const { table } of [tables.user, tables.internet]) {
      for (const route of yield* requests.routes(table)) {
        if (route.outputInterface === index) routes.delete(routeKey(route))
      }
    }
    missing.push(...counted(routes.size, "route"))
    return missing
  })
