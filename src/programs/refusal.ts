/** What the portal's reasons for a refusal mean, and what to do about them. */
import type { Refusal } from "../model/status.ts"

/** What was refused. */
export type Refused = "resource" | "device" | "name"

export interface Explanation {
  readonly means: string
  readonly nextStep: string
}

const CONDITIONS: { readonly [property: string]: string } = {
  remote_ip_location_region: "the country of this machine's address",
  remote_ip: "this machine's address",
  auth_provider_id: "how the user has signed in",
  current_utc_datetime: "the time",
  client_verified: "that this device is not verified"
}

const resourceReasons: { readonly [reason: string]: Explanation } = {
  offline: {
    means: "no gateway of its sites is online, or none has answered the portal",
    nextStep: "Start a gateway of the site, or see in the admin portal why it is not connected"
  },
  not_found: {
    means: "this client may not reach it any more",
    nextStep: "See in the admin portal whether the resource and a policy for this user are still there"
  },
  forbidden: {
    means: "the conditions of no policy are met",
    nextStep: "Compare the conditions of the resource's policies in the admin portal with this user, device and network"
  },
  version_mismatch: {
    means: "the versions of its gateways do not go with this client's",
    nextStep: "Update the gateways of the site, or this client"
  }
}

const deviceReasons: { readonly [reason: string]: Explanation } = {
  offline: {
    means: "the device is not signed in",
    nextStep: "Start the client on the device, or see why it is not signed in"
  },
  forbidden: {
    means: "no pool that this client may reach has the device any more",
    nextStep: "See in the admin portal whether the device is still in the pool, and which policies the pool has"
  },
  not_found: {
    means: "this client may not reach the pool any more",
    nextStep: "See in the admin portal whether the pool and a policy for this user are still there"
  },
  version_mismatch: {
    means: "the version of the client on the device does not go with this client's",
    nextStep: "Update the client on the device, or this one"
  }
}

const nameReasons: { readonly [reason: string]: Explanation } = {
  ...deviceReasons,
  not_found: { means: "no device of the pool has this name", nextStep: "See the names of devices in the admin portal" }
}

const REASONS = { resource: resourceReasons, device: deviceReasons, name: nameReasons }

/** The reason is an open string from the portal, to be made printable by who prints it. */
export const explainRefusal = ({ reason, violated }: Refusal, what: Refused): Explanation => {
  const reasons = REASONS[what]
  const known = Object.hasOwn(reasons, reason) ? reasons[reason] : undefined
  if (known === undefined) {
    return { means: `${reason}, which this version does not know`, nextStep: `Look at the ${what} in the admin portal` }
  }
  const conditions = violated.map((property) => Object.hasOwn(CONDITIONS, property) ? CONDITIONS[property] : property)
  return conditions.length === 0 ? known : { ...known, means: `${known.means}: ${conditions.join(", ")}` }
}
