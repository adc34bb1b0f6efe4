/** What a GUI is told of a session. */
import type { GuiResource, ServiceMessage } from "../model/gui.ts"
import type { TunnelStatus } from "../services/Tunnel.ts"

const resourceOf = (
  { address, addressDescription, id, name, sites, status, type }: TunnelStatus["resources"][number]
): GuiResource => {
  const common = { id, name, sites: sites.map(({ id, name }) => ({ id, name })), status }
  return type === "internet"
    ? { type, ...common }
    : { type, ...common, address, address_description: addressDescription ?? null }
}

export const resourcesMessage = ({ resources }: Pick<TunnelStatus, "resources">): ServiceMessage => ({
  _tag: "OnUpdateResources",
  value: { resources: resources.map(resourceOf), connected_devices: [] }
})

export const ok = { Ok: null } as const
export const failed = (message: string) => ({ Err: message }) as const
