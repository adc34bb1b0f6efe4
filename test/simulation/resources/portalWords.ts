/** What the model knows as plain values, in the words of the portal (portal spec 5 and 6). */
import { createHash } from "node:crypto"
import type { Filter, GatewayResource, Resource as PortalResource } from "../../../src/protocol/portal/types.ts"
import { network } from "../../protocol/tunnel/fixtures.ts"
import type { Device } from "./ClientModel.ts"
import type { Filters, Resource } from "./rules.ts"

export const forClient = (resource: Resource, devices: ReadonlyArray<Device>): PortalResource => {
  const { id, name, type } = resource
  const site = "site" in resource ? [{ id: resource.site, name: `site ${resource.site.slice(-1)}` }] : []
  switch (type) {
    case "cidr":
      return {
        type,
        id,
        name,
        address: network(resource.network),
        sites: site,
        filters: resource.filters.map(filterOf)
      }
    case "dns":
      return {
        type,
        id,
        name,
        address: resource.pattern,
        sites: site,
        ipStack: resource.stack,
        filters: resource.filters.map(filterOf)
      }
    case "internet":
      return { type, id, name, sites: site }
    case "dynamic_device_pool":
      return { type, id, name, address: resource.pattern }
    case "static_device_pool":
      return {
        type,
        id,
        name,
        devices: devices.filter(({ id }) => resource.members.includes(id)).map((device) => ({
          clientId: device.id,
          ipv4: network(`${device.ipv4}/32`),
          ipv6: network(`${device.ipv6}/128`)
        })),
        filters: resource.filters.map(filterOf)
      }
  }
}

export const filterOf = (filter: Filters[number]): Filter =>
  filter.protocol === "icmp"
    ? filter
    : { protocol: filter.protocol, portRangeStart: filter.from, portRangeEnd: filter.to }

export const forGateway = (resource: Resource): GatewayResource => {
  const { id, name, type } = resource
  if (type === "cidr") {
    return { type, id, name, address: network(resource.network), filters: resource.filters.map(filterOf) }
  }
  if (type === "dns") return { type, id, name, address: resource.pattern, filters: resource.filters.map(filterOf) }
  return { type: "internet", id }
}

/** Equal for equal keys, as all that two devices share. */
export const credentialsOf = (one: string, other: string) => {
  const text = Buffer.from(hash(`ice ${one} ${other}`)).toString("hex")
  return [
    hash(`psk ${one} ${other}`),
    { username: text.slice(0, 4), password: text.slice(4, 26) },
    { username: text.slice(30, 34), password: text.slice(34, 56) }
  ] as const
}

const hash = (text: string): Uint8Array => Uint8Array.from(createHash("sha256").update(text).digest())
