import type { ClientDevices } from "./ClientDevices.ts"
import type { ClientDns } from "./ClientDns.ts"
import { byNameAndId, type ClientResources } from "./ClientResources.ts"
import type { DevicePoolView } from "./types.ts"

/** The device pools as a person sees them, by name and id. */
export const devicePoolViews = (
  resources: ClientResources,
  devices: ClientDevices,
  dns: ClientDns,
  now: number
): ReadonlyArray<DevicePoolView> => {
  const views: Array<DevicePoolView> = []
  for (const { resource } of resources) {
    const { id, name } = resource
    if (resource.type === "static_device_pool") {
      views.push({ id, type: "static", name, devices: devices.devicesOf(id, now) })
    } else if (resource.type === "dynamic_device_pool") {
      const known = dns.devicesOf(id)
      const failure = known?.failure
      views.push({
        id,
        type: "dynamic",
        name,
        address: resource.address,
        devices: Array.from(known?.devices ?? [], ([name, device]) => devices.named(name, device, now)),
        refusal: failure && {
          domain: failure.domain,
          reason: failure.reason,
          violated: [],
          ageMillis: now - failure.at
        }
      })
    }
  }
  return views.sort(byNameAndId)
}
