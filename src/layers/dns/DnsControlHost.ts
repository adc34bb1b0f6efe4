import * as Clock from "effect/Clock"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Either from "effect/Either"
import * as Layer from "effect/Layer"
import * as Queue from "effect/Queue"
import * as Stream from "effect/Stream"
import { busRequest } from "../../protocol/dbus/BusConnection.ts"
import type { ClientSettings, DnsControlMethod } from "../../services/ClientConfig.ts"
import { DnsControl, DnsControlFailed, type DnsTarget } from "../../services/DnsControl.ts"
import { SystemBus } from "../../services/SystemBus.ts"
import type { Backend } from "./Backend.ts"
import { choose, factsOf } from "./chooseMethod.ts"
import { CONTROL_LOCK } from "./ControlLock.ts"
import { etcResolvConf } from "./etcResolvConf.ts"
import { makeGuard, noGuard } from "./guard.ts"
import { lookAgain } from "./lookAgain.ts"
import { isSearchDomain } from "./resolvConfText.ts"
import { hasResolvectl, type Resolvectl, resolvectl } from "./resolvectl.ts"
import { systemdResolved } from "./systemdResolved.ts"
import { type ResolvConfPaths, resolvConfPaths } from "./systemServers.ts"

/** A repair is news if there was none for so long; two programs may be at it for ever. */
const QUIET_MILLIS = 60_000

export interface DnsControlOptions {
  readonly method: DnsControlMethod
  readonly paths: ResolvConfPaths
  readonly resolvectl: Resolvectl
  readonly hasResolvectl: () => boolean
  /** The file whose lock makes us the only one. */
  readonly lock: string
  /** Nothing is going to be set: that another client has control is no failure. */
  readonly isCheck?: boolean
  /** Of an interface in this network namespace, if not the kernel's word. */
  readonly indexOf?: (interfaceName: string) => number | undefined
}

const disabled: Backend = {
  prepare: Effect.void,
  apply: () => Effect.void,
  damage: () => Effect.succeed(undefined),
  hints: Stream.empty,
  revert: Effect.void,
  flush: Effect.void
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
    const { indexOf, paths } = options
    const bus = yield* SystemBus
    const canTellResolved = Effect.suspend(() =>
      options.hasResolvectl() ? Effect.succeed(true) : Effect.isSuccess(bus.call(busRequest("GetId")))
    )
    const choice = options.method === "auto"
      ? choose(paths.resolvConf, factsOf(paths.resolvConf, yield* canTellResolved))
      : undefined
    const method = choice?.method ?? (options.method as Exclude<DnsControlMethod, "auto">)
    const backends = {
      "systemd-resolved": () =>
        systemdResolved({ bus, paths, resolvectl: options.resolvectl, ...(indexOf === undefined ? {} : { indexOf }) }),
      "etc-resolv-conf": () => etcResolvConf(paths),
      disabled: () => disabled,
      nrpt: () => nrpt
    }
    const backend = backends[method]()
    const isGuarded = method === "systemd-resolved" || method === "etc-resolv-conf"
    const guard = isGuarded ? yield* makeGuard(options.lock) : noGuard

    /** Another client has control: this one does without. */
    let isLeftAlone = false
    /** What is to be; repaired while it is set. */
    let wanted: DnsTarget | undefined
    /** What is wanted could not be set: other programs are starting anew, such as systemd-resolved. */
    let isPending = false
    /** Names have worked in this session. */
    let hasWorked = false
    /** Whether there may be something to take back. */
    let hasSet = false
    /** Done while a `revert` waits for what is under way, which a daemon that hangs would hold up. */
    let isOver = yield* Deferred.make<void>()
    const serially = (yield* Effect.makeSemaphore(1)).withPermits(1)

    const prepare = Effect.gen(function*() {
      const isCheck = options.isCheck === true
      const control = yield* Effect.either(guard.take({ isPatient: !isCheck }))
      if (Either.isRight(control)) {
        yield* backend.prepare
        return yield* (choice?.method === "disabled" ? Effect.logWarning : Effect.logInfo)(`DNS control: ${method}`)
          .pipe(Effect.annotateLogs(choice === undefined ? {} : { reason: choice.reason }))
      }
      if (choice === undefined && !isCheck) return yield* control.left
      isLeftAlone = true
      yield* Effect.logWarning("DNS control: disabled").pipe(
        Effect.annotateLogs(
          "reason",
          `${String(control.left.cause)}: names of this one's resources will not resolve; addresses and networks work`
        )
      )
    })

    const revert = Effect.suspend(() => Deferred.succeed(isOver, undefined)).pipe(
      Effect.zipRight(serially(Effect.gen(function*() {
        isOver = yield* Deferred.make<void>()
        wanted = undefined
        hasSet = false
        hasWorked = false
        if (isLeftAlone) return
        const control = yield* Effect.either(guard.takeIfThere)
        if (Either.isRight(control)) return yield* backend.revert
        yield* Effect.logInfo("the system's DNS is left as it is").pipe(
          Effect.annotateLogs("reason", String(control.left.cause))
        )
      }))),
      Effect.uninterruptible,
      Effect.withSpan("DnsControl.revert")
    )

    const usableDomain = (searchDomain: string | undefined) =>
      searchDomain === undefined || isSearchDomain(searchDomain)
        ? Effect.succeed(searchDomain)
        : Effect.as(Effect.logWarning("the account's search domain is no name: left out"), undefined)

    /** Whether it is applied: not if a `revert` came before. */
    const applied = (target: DnsTarget) =>
      Effect.raceFirst(
        Effect.interruptible(Effect.as(backend.apply(target), true)),
        Effect.interruptible(Effect.as(Deferred.await(isOver), false))
      )

    const set = Effect.fn("DnsControl.set")(
      function*(target: DnsTarget) {
        if (method === "disabled" || isLeftAlone) return
        yield* guard.take({ isPatient: false })
        const before = wanted
        // Should it fail now, what is half done must not be repaired.
        wanted = undefined
        isPending = false
        hasSet = true
        if (target.servers.length === 0) {
          yield* Effect.logWarning("there are no DNS servers to forward to: the system's DNS is left alone")
          return yield* backend.revert
        }
        const usable = { ...target, searchDomain: yield* usableDomain(target.searchDomain) }
        const isApplied = yield* applied(usable).pipe(
          // A method that cannot work here has failed before; connections that work are not to end with names.
          Effect.catchAll((error) => {
            if (!hasWorked) return error
            isPending = true
            return Effect.as(Effect.logWarning(`${error.message}; trying again`), true)
          })
        )
        if (!isApplied) return
        wanted = usable
        hasWorked = true
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
    const repair = (isHinted: boolean) =>
      Effect.gen(function*() {
        const target = wanted
        const damage = target && (isPending ? "not set yet" : yield* backend.damage(target, isHinted))
        const isSettled = damage !== undefined && damage === seen
        seen = damage
        if (target === undefined || !isSettled || !(yield* applied(target))) return
        complaint = undefined
        isPending = false
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
    yield* lookAgain(backend.hints, repair)

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
      get method() {
        return isLeftAlone ? "disabled" : method
      },
      prepare: serially(prepare),
      set,
      revert,
      flush: Effect.asVoid(Effect.unless(Queue.offer(flushes, undefined), () => isLeftAlone))
    })
  })

export const layerWith = (options: DnsControlOptions): Layer.Layer<DnsControl, never, SystemBus> =>
  Layer.scoped(DnsControl, make(options))

export const layer = (
  { check, dnsControl }: Pick<ClientSettings, "check" | "dnsControl">
): Layer.Layer<DnsControl, never, SystemBus> =>
  layerWith({
    // Only Linux has the others.
    method: process.platform === "linux" || dnsControl === "nrpt" ? dnsControl : "disabled",
    paths: resolvConfPaths,
    resolvectl,
    hasResolvectl,
    lock: CONTROL_LOCK,
    isCheck: check
  })
