import * as Effect from "effect/Effect"
import * as Stream from "effect/Stream"
import { DnsControlFailed } from "../../services/DnsControl.ts"
import type { Backend } from "./Backend.ts"
import { ResolvConfFile } from "./ResolvConfFile.ts"
import type { ResolvConfPaths } from "./systemServers.ts"

const attempt = <A>(call: () => A): Effect.Effect<A, DnsControlFailed> =>
  Effect.try({
    try: call,
    catch: (cause) =>
      cause instanceof DnsControlFailed
        ? cause
        : new DnsControlFailed({ step: "internal error", cause, hint: "--dns-control disabled does without names" })
  })

/** Brings back what a run has left; whatever the method is now: the file tells for itself. Returns whether it was ours. */
export const revertFile = (file: ResolvConfFile): Effect.Effect<boolean, DnsControlFailed> =>
  attempt(() => file.revert())

/** At the start of a run. */
export const restoreFile = (file: ResolvConfFile, { resolvConf }: ResolvConfPaths) =>
  Effect.flatMap(revertFile(file), (wasOurs) =>
    wasOurs
      ? Effect.logWarning("an earlier run did not end properly: brought the system's DNS back").pipe(
        Effect.annotateLogs("file", resolvConf)
      )
      : Effect.void)

export const sayReverted = (wasOurs: boolean) =>
  wasOurs ? Effect.logInfo("the system's DNS is as it was before") : Effect.void

/** The method that writes the file (host spec section 13.2). */
export const etcResolvConf = (paths: ResolvConfPaths): Backend => {
  const file = new ResolvConfFile(paths)
  return {
    prepare: Effect.zipRight(attempt(() => file.check()), restoreFile(file, paths)),
    apply: (target) => attempt(() => file.point(target)),
    damage: () => Effect.sync(() => file.damage()),
    hints: Stream.empty,
    revert: Effect.flatMap(revertFile(file), sayReverted),
    flush: Effect.void
  }
}
