import * as Clock from "effect/Clock"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Queue from "effect/Queue"
import type { DnsControlMethod } from "../../services/ClientConfig.ts"
import { DnsControl, DnsControlFailed, type DnsTarget } from "../../services/DnsControl.ts"
import { choose, factsOf } from "./chooseMethod.ts"
import { ResolvConfFile } from "./ResolvConfFile.ts"
import { isSearchDomain, nameserversOf } from "./resolvConfText.ts"
import { commands, hasResolvectl, type Resolvectl, resolvectl } from "./resolvectl.ts"
import { readText, type ResolvConfPaths, resolvConfPaths } from "./systemServers.ts"

/** How often it is looked whether our settings are still there: one small file is read. */
const EVERY = "1 second"
/** A repair is news if there was none for so long; two programs may be at it for ever. */
const QUIET_MILLIS = 60_000

/** How a method does it. What they fail with is fatal in `apply` of a session, else logged. */
interface Backend {
  readonly prepare: Effect.Effect<void, DnsControlFailed>
  readonly apply: (target: DnsTarget) => Effect.Effect<void, DnsControlFailed>
  /** What others made of it since, as a text that stays the same while they leave it; `undefined` while all is well. */
  readonly damage: (target: DnsTarget) => string | undefined
  readonly revert: Effect.Effect<void, DnsControlFailed>
  readonly flush: Effect.Effect<void, DnsControlFailed>
}

export interface DnsControlOptions {
  readonly method: DnsControlMethod
  readonly paths: ResolvConfPaths
  readonly resolvectl: Resolvectl
  readonly hasResolvectl: () => boolean
}

const attempt = <A>(call: () => A): Effect.Effect<A, DnsControlFailed> =>
  Effect.try({
    try: call,
    catch: (cause) =>
      cause instanceof DnsControlFailed
        ? cause
        : new DnsControlFailed({ step: "internal error", cause, hint: "--dns-control disabled does without names" })
  })

const disabled: Backend = {
  prepare: Effect.void,
  apply: () => Effect.void,
  damage: () => undefined,
  revert: Effect.void,
  flush: Effect.void
}

/** Whatever the method is now: what a run that died has left in the file tells for itself. */
const revertFile = (file: ResolvConfFile): Effect.Effect<boolean, DnsControlFailed> => attempt(() => file.revert())

const sayRestored = (paths: ResolvConfPaths) => (wasOurs: boolean) =>
  wasOurs
    ? Effect.logWarning("an earlier run did not end properly: brought the system's DNS back").pipe(
      Effect.annotateLogs("file", paths.resolvConf)
    )
    : Effect.void

const sayReverted = (wasOurs: boolean) => wasOurs ? Effect.logInfo("the system's DNS is as it was before") : Effect.void

const etcResolvConf = ({ paths }: DnsControlOptions): Backend => {
  const file = new ResolvConfFile(paths)
  return {
    prepare: Effect.zipRight(
      attempt(() => file.check()),
      Effect.flatMap(revertFile(file), sayRestored(paths))
    ),
    apply: (target) => attempt(() => file.point(target)),
    damage: () => file.damage(),
    revert: Effect.flatMap(revertFile(file), sayReverted),
    flush: Effect.void
  }
}

const systemdResolved = ({ paths, resolvectl }: DnsControlOptions): Backend => {
  const file = new ResolvConfFile(paths)
  const flush = resolvectl(["flush-caches"])
  let pointed: string | undefined
  return {
    prepare: Effect.flatMap(revertFile(file), sayRestored(paths)),
    apply: (target) =>
      Effect.gen(function*() {
        pointed = target.interfaceName
        for (const { args, isNeeded } of commands(target)) {
          yield* isNeeded
            ? resolvectl(args)
            : Effect.catchAll(resolvectl(args), (error) => Effect.logDebug(error.message))
        }
        yield* Effect.catchAll(flush, (error) => Effect.logWarning(error.message))
      }),
    // The servers of all its links are in this file, which it writes anew when one changes.
    damage: ({ servers }) => {
      const text = readText(paths.resolved)
      const known = nameserversOf(text)
      return text === "" || servers.every((server) => known.includes(server)) ? undefined : "servers are missing"
    },
    revert: Effect.gen(function*() {
      const interfaceName = pointed
      pointed = undefined
      // The settings vanish with the interface at the latest.
      if (interfaceName !== undefined) {
        yield* Effect.catchAll(resolvectl(["revert", "--", interfaceName]), (error) => Effect.logDebug(error.message))
      }
      const wasOurs = yield* revertFile(file)
      yield* Effect.catchAll(flush, (error) => Effect.logDebug(error.message))
      yield* sayReverted(wasOurs || interfaceName !== undefined)
    }),
    flush
  }
}

const nrpt: Backend = {
  ...disabled,
  prepare: new DnsControlFailed({
    step: "set rules",
    cause: "not implemented in this version",
    hint: "use --dns-control disabled"
  })
}

const make = (options: DnsControlOptions) =>
  Effect.gen(function*() {
    const { paths } = options
    const choice = options.method === "auto"
      ? choose(paths.resolvConf, factsOf(paths.resolvConf, options.hasResolvectl()))
      : undefined
    const method = choice?.method ?? (options.method as Exclude<DnsControlMethod, "auto">)
    const backends = {
      "systemd-resolved": systemdResolved,
      "etc-resolv-conf": etcResolvConf,
      disabled: () => disabled,
      nrpt: () => nrpt
    }
    const backend = backends[method](options)

    /** What is to be; repaired while it is set. */
    let wanted: DnsTarget | undefined
    /** Whether there may be something to take back. */
    let hasSet = false
    const serially = (yield* Effect.makeSemaphore(1)).withPermits(1)

    const prepare = Effect.gen(function*() {
      yield* backend.prepare
      yield* (choice?.method === "disabled" ? Effect.logWarning : Effect.logInfo)(`DNS control: ${method}`).pipe(
        Effect.annotateLogs(choice === undefined ? {} : { reason: choice.reason })
      )
    })

    const revert = Effect.suspend(() => {
      wanted = undefined
      hasSet = false
      return backend.revert
    }).pipe(serially, Effect.uninterruptible, Effect.withSpan("DnsControl.revert"))

    const usableDomain = (searchDomain: string | undefined) =>
      searchDomain === undefined || isSearchDomain(searchDomain)
        ? Effect.succeed(searchDomain)
        : Effect.as(Effect.logWarning("the account's search domain is no name: left out"), undefined)

    const set = Effect.fn("DnsControl.set")(
      function*(target: DnsTarget) {
        if (method === "disabled") return
        const before = wanted
        // Should it fail now, what is half done must not be repaired.
        wanted = undefined
        hasSet = true
        if (target.servers.length === 0) {
          yield* Effect.logWarning("there are no DNS servers to forward to: the system's DNS is left alone")
          return yield* backend.revert
        }
        const usable = { ...target, searchDomain: yield* usableDomain(target.searchDomain) }
        yield* backend.apply(usable)
        wanted = usable
        if (before === undefined) {
          yield* Effect.logInfo("the system's DNS points at the tunnel").pipe(
            Effect.annotateLogs({ method, servers: usable.servers.join(" ") })
          )
        }
      },
      serially,
      Effect.uninterruptible
    )

    let seen: string | undefined
    let complaint: string | undefined
    let repairedAt = Number.NEGATIVE_INFINITY
    /** Once it is the same for two looks: who writes step by step has finished then. */
    const repair = Effect.gen(function*() {
      const damage = wanted && backend.damage(wanted)
      const isSettled = damage !== undefined && damage === seen
      seen = damage
      if (wanted === undefined || !isSettled) return
      yield* backend.apply(wanted)
      complaint = undefined
      const now = yield* Clock.currentTimeMillis
      const isNews = now - repairedAt > QUIET_MILLIS
      repairedAt = now
      yield* (isNews ? Effect.logWarning : Effect.logDebug)(
        "another program had changed the system's DNS: pointed it at the tunnel again"
      )
    }).pipe(
      Effect.catchAll((error) => {
        const isNews = error.message !== complaint
        complaint = error.message
        return isNews ? Effect.logWarning(error.message) : Effect.void
      }),
      serially,
      Effect.uninterruptible
    )
    yield* Effect.addFinalizer(() =>
      Effect.catchAll(Effect.when(revert, () => hasSet), (error) => Effect.logError(error.message))
    )
    yield* Effect.forever(Effect.delay(repair, EVERY)).pipe(
      Effect.annotateLogs("module", "dns"),
      Effect.interruptible,
      Effect.forkScoped
    )

    // However many ask for it while one is under way, one more is enough.
    const flushes = yield* Queue.sliding<void>(1)
    yield* Effect.flatMap(Queue.take(flushes), () => backend.flush).pipe(
      Effect.catchAll((error) => Effect.logWarning(error.message)),
      Effect.forever,
      Effect.annotateLogs("module", "dns"),
      Effect.interruptible,
      Effect.forkScoped
    )

    return DnsControl.of({
      method,
      prepare: serially(prepare),
      set,
      revert,
      flush: Effect.asVoid(Queue.offer(flushes, undefined))
    })
  })

export const layerWith = (options: DnsControlOptions): Layer.Layer<DnsControl> =>
  Layer.scoped(DnsControl, make(options))

export const layer = ({ dnsControl }: { readonly dnsControl: DnsControlMethod }): Layer.Layer<DnsControl> =>
  layerWith({
    // Only Linux has the others.
    method: process.platform === "linux" || dnsControl === "nrpt" ? dnsControl : "disabled",
    paths: resolvConfPaths,
    resolvectl,
    hasResolvectl
  })
