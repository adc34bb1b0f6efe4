/** Ids, addresses and messages that the tests of the cores share. */
import type {
  AuthorizationCreated,
  CidrResource,
  ClientPush,
  Filter,
  Init,
  InternetResource,
  Resource
} from "../../../src/protocol/portal/types.ts"
import { ip, type IpNetwork, parseNetwork } from "../../../src/protocol/wire/address.ts"

export const uuid = (number: number): string => `00000000-0000-4000-8000-${number.toString(16).padStart(12, "0")}`

export const CLIENT_4 = "100.64.0.1"
export const CLIENT_6 = "fd00:2021:1111::1"

export const network = (text: string): IpNetwork => {
  const found = parseNetwork(text)
  if (found === undefined) throw new RangeError(text)
  return found
}

export const tcpPort = (start: number, end = start): Filter => ({
  protocol: "tcp",
  portRangeStart: start,
  portRangeEnd: end
})
export const udpPort = (start: number, end = start): Filter => ({
  protocol: "udp",
  portRangeStart: start,
  portRangeEnd: end
})

export const site1 = { id: uuid(0xa1), name: "Berlin" }
export const site2 = { id: uuid(0xa2), name: "Paris" }

export const cidr = (id: number, address: string, more: Partial<CidrResource> = {}): CidrResource => ({
  type: "cidr",
  id: uuid(id),
  name: `resource ${id}`,
  address: network(address),
  sites: [site1],
  filters: [],
  ...more
})

export const internet = (id: number): InternetResource => ({
  type: "internet",
  id: uuid(id),
  name: "Internet Resource",
  sites: [site2]
})

export const init = (resources: ReadonlyArray<Resource>, more: Partial<Init> = {}): ClientPush => ({
  _tag: "Init",
  init: {
    interface: { ipv4: ip(CLIENT_4), ipv6: ip(CLIENT_6), upstreamDo53: [], upstreamDoh: [] },
    resources,
    relays: [],
    authorizations: [],
    ...more
  }
})

export interface Gateway {
  readonly id: string
  readonly ipv4: string
  readonly ipv6: string
  readonly site: string
}
export const gateway = (number: number, site = site1.id): Gateway => ({
  id: uuid(0x900 + number),
  ipv4: `100.64.1.${number}`,
  ipv6: `fd00:2021:1111::1:${number}`,
  site
})

export const grant = (resourceId: string, from: Gateway, more: Partial<AuthorizationCreated> = {}): ClientPush => ({
  _tag: "AuthorizationCreated",
  authorization: {
    resourceId,
    gatewayId: from.id,
    gatewayPublicKey: new Uint8Array(32).fill(1),
    gatewayIpv4: ip(from.ipv4),
    gatewayIpv6: ip(from.ipv6),
    siteId: from.site,
    presharedKey: new Uint8Array(32).fill(2),
    clientIceCredentials: { username: "client", password: "client secret" },
    gatewayIceCredentials: { username: "gateway", password: "gateway secret" },
    useIceless: false,
    ...more
  }
})
