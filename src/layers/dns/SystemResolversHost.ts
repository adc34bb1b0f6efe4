import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Schedule from "effect/Schedule"
import * as Stream from "effect/Stream"
import { sanitizeResolvers } from "../../protocol/dns/upstreams.ts"
import { SENTINEL_RANGES } from "../../protocol/tunnel/ranges.ts"
import { networkContains, withZone } from "../../protocol/wire/address.ts"
import type { IpAddress } from "../../protocol/wire/address.ts"
import { SystemBus } from "../../services/SystemBus.ts"
import { SystemResolvers } from "../../services/SystemResolvers.ts"
import { readServers, type ResolvedServer, serverChanges } from "./resolve1.ts"
import {
  asksResolved,
  nodeServers,
  readResolvConf,
  type ResolvConfPaths,
  resolvConfPaths,
  resolvConfTexts
} from "./systemServers.ts"

/** Some small files are read; who writes them does not tell us. */
const EVERY = Schedule.spaced("5 seconds")
/** The only port that we ask. */
const DNS_PORT = 53

/** A daemon that is starting knows none for a moment; without any, names would stop working at once. */
const BELIEVE_NONE = "2 seconds"

const isOurs = ({ address }: ResolvedServer): boolean =>
  SENTINEL_RANGES.some((range) => networkContains(range, address))

interface Source {
  readonly current: Effect.Effect<ReadonlyArray<IpAddress>>
  /** Reasons to read it again. */
  readonly hints: Stream.Stream<void>
}

/** The files, and where they lead to systemd-resolved what it says itself: it knows ports and whose servers they are. */
const linux = (paths: ResolvConfPaths, bus: typeof SystemBus.Service): Source => ({
  current: Effect.suspend(() =>
    asksResolved(paths)
      ? readServers(bus, isOurs).pipe(
        Effect.map((servers) =>
          servers.filter(({ port }) => port === DNS_PORT).map(({ address, interfaceIndex }) =>
            withZone(address, interfaceIndex === 0 ? "" : String(interfaceIndex))
          )
        ),
        Effect.catchAll((error) =>
          Effect.as(
            Effect.logDebug(`reading systemd-resolved's servers from its file: ${error.message}`),
            readResolvConf(paths)
          )
        )
      )
      : Effect.succeed(readResolvConf(paths))
  ),
  hints: Stream.merge(
    Stream.repeatEffectWithSchedule(Effect.sync(() => resolvConfTexts(paths)), EVERY).pipe(
      Stream.changes,
      Stream.map(() => undefined)
    ),
    serverChanges(bus)
  )
})

const elsewhere: Source = {
  current: Effect.sync(nodeServers),
  hints: Stream.map(Stream.fromSchedule(EVERY), () => undefined)
}

const ofSource = ({ current, hints }: Source) => {
  // Ours are there while a session runs, and come and go at our own doing.
  const usable = Effect.map(current, sanitizeResolvers)
  const believed = Effect.flatMap(
    usable,
    (servers) => servers.length > 0 ? Effect.succeed(servers) : Effect.delay(usable, BELIEVE_NONE)
  )
  return SystemResolvers.of({
    current: usable,
    changes: Stream.fromEffect(usable).pipe(
      // A hint while it waits is a reason to look at once.
      Stream.concat(Stream.flatMap(hints, () => Stream.fromEffect(believed), { switch: true })),
      Stream.changesWith((a, b) => a.join() === b.join())
    )
  })
}

export const layerWith = (paths: ResolvConfPaths): Layer.Layer<SystemResolvers, never, SystemBus> =>
  Layer.effect(SystemResolvers, Effect.map(SystemBus, (bus) => ofSource(linux(paths, bus))))

export const layer: Layer.Layer<SystemResolvers, never, SystemBus> = process.platform === "linux"
  ? layerWith(resolvConfPaths)
  : Layer.succeed(SystemResolvers, ofSource(elsewhere))
