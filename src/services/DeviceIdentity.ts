import * as Context from "effect/Context"
import type * as Effect from "effect/Effect"
import type { ConfigInvalid } from "./ClientConfig.ts"

export interface DeviceFacts {
  /** What the portal knows this device by, before the UUID rule of the login URL. */
  readonly id: string
  readonly serial?: string | undefined
  readonly uuid?: string | undefined
}

/** Who this device is (host spec sections 3.3 and 3.4). */
export class DeviceIdentity extends Context.Tag("firezone-headless-client/services/DeviceIdentity")<DeviceIdentity, {
  /** The configured id, else the id file's, else one derived from the machine id, else a new one that is written. */
  readonly facts: Effect.Effect<DeviceFacts, ConfigInvalid>
}>() {}
