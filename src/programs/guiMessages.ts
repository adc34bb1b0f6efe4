/** What a GUI is told of a session. */
import type { GuiResource, ServiceMessage } from "../model/gui.ts"
import type { TunnelEvent, TunnelStatus } from "../services/Tunnel.ts"

const resourceOf = (
  { address, addressDescription, id, name, sites, status, type }: TunnelStatus["resources"][number]
): GuiResource => {
  const common = { id, name, sites: sites.map(({ id, name }) => ({ id, name })), status }
  return type === "internet"
    ? { type, ...common }
    : { type, ...common, address, address_description: addressDescription ?? null }
}

export const resourcesMessage = (
  { connectedDevices, resources }: Extract<TunnelEvent, { readonly _tag: "ResourcesUpdated" }>
): ServiceMessage => ({
  _tag: "OnUpdateResources",
  value: {
    resources: resources.map(resourceOf),
    connected_devices: connectedDevices.map(({ id, ipv4, ipv6, name, pools }) => ({
      id,
      name,
      tun_ipv4: ipv4,
      tun_ipv6: ipv6,
      pools
    }))
  }
})

export const ok = { Ok: null } as const
export const failed = (message: string) => ({ Err: message }) as const
