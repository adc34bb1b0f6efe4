import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import { interfaceIndexOf } from "../../ffi/linux/interfaceIndex.ts"
import type { BusRequest } from "../../protocol/wire/dbus.ts"
import { DnsControlFailed, type DnsTarget } from "../../services/DnsControl.ts"
import type { BusError, SystemBus } from "../../services/SystemBus.ts"
import type { Backend } from "./Backend.ts"
import { restoreFile, revertFile, sayReverted } from "./etcResolvConf.ts"
import { ResolvConfFile } from "./ResolvConfFile.ts"
import { nameserversOf } from "./resolvConfText.ts"
import { flushCaches, pointing, readLinkServers, revertLink, serverChanges } from "./resolve1.ts"
import { commands, type Resolvectl } from "./resolvectl.ts"
import { readText, type ResolvConfPaths } from "./systemServers.ts"

/** A daemon that hangs must not hold up a stop: its settings vanish with the interface all the same. */
const LONGEST_REVERT = Duration.seconds(2)

export interface SystemdResolvedOptions {
  readonly paths: ResolvConfPaths
  readonly bus: typeof SystemBus.Service
  readonly resolvectl: Resolvectl
  readonly indexOf?: (interfaceName: string) => number | undefined
}

const HINT = "is systemd-resolved running? --dns-control disabled does without names"

/** The method that tells systemd-resolved (host spec section 13.1): over D-Bus, and else by its command. */
export const systemdResolved = (
  { bus, indexOf = interfaceIndexOf, paths, resolvectl }: SystemdResolvedOptions
): Backend => {
  const file = new ResolvConfFile(paths)
  /** Whose settings there are to take back. */
  let pointed: string | undefined
  let saidWhy: string | undefined

  const failed = (error: BusError) =>
    new DnsControlFailed({ step: "tell systemd-resolved", cause: error.message, hint: HINT })

  /** By its command if the bus cannot, or the daemon refuses. One that does not answer would not answer its command. */
  const otherwise = (byCommand: Effect.Effect<void, DnsControlFailed>) => (error: BusError) =>
    error._tag === "BusTimedOut" ? failed(error) : Effect.gen(function*() {
      const isNews = error.message !== saidWhy
      saidWhy = error.message
      yield* (isNews ? Effect.logInfo : Effect.logDebug)("systemd-resolved is told by resolvectl").pipe(
        Effect.annotateLogs("reason", error.message)
      )
      yield* byCommand
    })

  const tell = (request: BusRequest, args: ReadonlyArray<string>) =>
    bus.call(request).pipe(Effect.asVoid, Effect.catchAll(otherwise(resolvectl(args))))
  const flush = tell(flushCaches, ["flush-caches"])

  const applyByCommand = (target: DnsTarget) =>
    Effect.forEach(
      commands(target),
      ({ args, isNeeded }) =>
        isNeeded ? resolvectl(args) : Effect.catchAll(resolvectl(args), (error) => Effect.logDebug(error.message)),
      {
        discard: true
      }
    )
  const applyOverBus = (index: number, target: DnsTarget) =>
    Effect.forEach(
      pointing(index, target),
      ({ isNeeded, request }) =>
        isNeeded ? bus.call(request) : Effect.catchAll(bus.call(request), (error) => Effect.logDebug(error.message)),
      { discard: true }
    )

  /** The servers of all its links are in this file, which it writes anew when one changes. */
  const missingInFile = ({ servers }: DnsTarget): string | undefined => {
    const text = readText(paths.resolved)
    const known = nameserversOf(text)
    return text === "" || servers.every((server) => known.includes(server)) ? undefined : "servers are missing"
  }
  const missingOverBus = ({ interfaceName, servers }: DnsTarget) =>
    Effect.gen(function*() {
      const index = indexOf(interfaceName)
      // Without its interface there is nothing to set; without an answer, nothing to conclude.
      if (index === undefined) return undefined
      const known = yield* Effect.option(readLinkServers(bus, index))
      return Option.isNone(known) || servers.every((server) => known.value.includes(server))
        ? undefined
        : "servers are missing"
    })

  const forget = (interfaceName: string) =>
    Effect.gen(function*() {
      const index = indexOf(interfaceName)
      if (index !== undefined) {
        const args = ["revert", "--", interfaceName]
        yield* Effect.catchAll(tell(revertLink(index), args), (error) => Effect.logDebug(error.message))
      }
      yield* flush
    })

  return {
    prepare: restoreFile(file, paths),
    apply: (target) =>
      Effect.gen(function*() {
        pointed = target.interfaceName
        const index = indexOf(target.interfaceName)
        yield* index === undefined
          ? applyByCommand(target)
          : Effect.catchAll(applyOverBus(index, target), otherwise(applyByCommand(target)))
        yield* Effect.catchAll(flush, (error) => Effect.logWarning(error.message))
      }),
    damage: (target, isHinted) =>
      Effect.suspend(() => {
        const missing = missingInFile(target)
        return missing === undefined && isHinted ? missingOverBus(target) : Effect.succeed(missing)
      }),
    hints: serverChanges(bus),
    revert: Effect.gen(function*() {
      const interfaceName = pointed
      pointed = undefined
      // First, as it cannot hang.
      const wasOurs = yield* Effect.either(revertFile(file))
      const forgotten = yield* (interfaceName === undefined ? flush : forget(interfaceName)).pipe(
        Effect.catchAll((error) => Effect.logDebug(error.message)),
        Effect.interruptible,
        Effect.timeoutOption(LONGEST_REVERT)
      )
      if (Option.isNone(forgotten)) {
        yield* Effect.logWarning("systemd-resolved does not answer: what it knows of us goes with the interface")
      }
      yield* sayReverted((yield* wasOurs) || interfaceName !== undefined)
    }),
    flush
  }
}
