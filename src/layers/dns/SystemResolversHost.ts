import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Schedule from "effect/Schedule"
import * as Stream from "effect/Stream"
import type { IpAddress } from "../../protocol/wire/address.ts"
import { SystemResolvers } from "../../services/SystemResolvers.ts"
import { systemServers } from "./systemServers.ts"

/** Two small files are read; systemd-resolved and all others write them when something changes. */
const EVERY = "5 seconds"

export interface SystemResolversOptions {
  readonly read: () => ReadonlyArray<IpAddress>
}

export const layerWith = ({ read }: SystemResolversOptions): Layer.Layer<SystemResolvers> => {
  const current = Effect.sync(read)
  return Layer.succeed(
    SystemResolvers,
    SystemResolvers.of({
      current,
      changes: Stream.repeatEffectWithSchedule(current, Schedule.spaced(EVERY)).pipe(
        Stream.changesWith((a, b) => a.join() === b.join())
      )
    })
  )
}

export const layer = layerWith({ read: systemServers })
