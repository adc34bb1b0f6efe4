/** Other clients and the pools that list them, for the tests of the client's core. */
import type {
  ClientPush,
  DeviceAccessAuthorized,
  Filter,
  ResourceId,
  StaticDevicePool
} from "../../../src/protocol/portal/types.ts"
import { ip } from "../../../src/protocol/wire/address.ts"
import { type ClientHarness, via } from "./client.ts"
import { network, uuid } from "./fixtures.ts"
import { udp } from "./packets.ts"

export interface Device {
  readonly id: string
  readonly ipv4: string
  readonly ipv6: string
}

export const device = (number: number): Device => ({
  id: uuid(0xd00 + number),
  ipv4: `100.64.2.${number}`,
  ipv6: `fd00:2021:1111::2:${number}`
})

export const poolOf = (
  id: number,
  devices: ReadonlyArray<Device>,
  filters: ReadonlyArray<Filter> = []
): StaticDevicePool => ({
  type: "static_device_pool",
  id: uuid(id),
  name: `pool ${id}`,
  devices: devices.map(({ id, ipv4, ipv6 }) => ({
    clientId: id,
    ipv4: network(`${ipv4}/32`),
    ipv6: network(`${ipv6}/128`)
  })),
  filters
})

/** As the one who asked gets it. */
export const access = (to: Device, more: Partial<DeviceAccessAuthorized> = {}): ClientPush => ({
  _tag: "DeviceAccessAuthorized",
  access: {
    clientId: to.id,
    clientName: "alpha",
    clientPublicKey: new Uint8Array(32).fill(3),
    clientIpv4: ip(to.ipv4),
    clientIpv6: ip(to.ipv6),
    presharedKey: new Uint8Array(32).fill(4),
    localIceCredentials: { username: "us", password: "our secret" },
    remoteIceCredentials: { username: "them", password: "their secret" },
    iceRole: "controlling",
    useIceless: false,
    ...more
  }
})

/** As the one who is to be reached gets it. */
export const inboundAccess = (
  from: Device,
  resource: ResourceId,
  filters: ReadonlyArray<Filter> = [],
  expiresAt?: number
): ClientPush => access(from, { iceRole: "controlled", resource: { id: resource, filters }, expiresAt })

/** The connection to the device comes up; what that brings is told and lost. */
export const establish = (client: ClientHarness, { id }: Device): void => {
  client.node.establish(id)
  client.nudge()
  client.events()
  client.sent()
}

/** Asks for the device and is connected to it. */
export const connectTo = (client: ClientHarness, to: Device, port = 5000): void => {
  client.fromTun(udp(via(to.ipv4), port))
  client.push(access(to))
  establish(client, to)
}
