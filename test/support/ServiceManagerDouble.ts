/** A service manager that keeps what it was told. */
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import { ServiceManager } from "../../src/services/ServiceManager.ts"

export interface ServiceManagerDouble {
  /** `ready`, `stopping` or the text of a status, oldest first. */
  readonly told: Array<string>
  readonly layer: Layer.Layer<ServiceManager>
}

export const makeServiceManagerDouble = (): ServiceManagerDouble => {
  const told: Array<string> = []
  const tell = (what: string) => Effect.sync(() => void told.push(what))
  return {
    told,
    layer: Layer.succeed(ServiceManager, { ready: tell("ready"), status: tell, stopping: tell("stopping") })
  }
}
