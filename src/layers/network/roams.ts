import * as Clock from "effect/Clock"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import * as Queue from "effect/Queue"
import * as Stream from "effect/Stream"
import { ip } from "../../protocol/wire/address.ts"
import type { NetworkChange, NetworkMonitorFailed, Roam } from "../../services/NetworkChanges.ts"
import type { RouteResolver } from "../../services/RouteResolver.ts"

/**
 * Public destinations whose routes stand for all: one in each quarter of the address space, because a VPN may split its
 * default route in two or four. They are only looked up; nothing is sent to them.
 */
const PROBES = [
  ip("1.0.0.1"),
  ip("65.0.0.1"),
  ip("129.0.0.1"),
  ip("193.0.0.1"),
  ip("2001::1"),
  ip("2600::1"),
  ip("2a00::1"),
  ip("2c00::1")
]

/** How public destinations are reached now, comparable with `===`. */
export const egressSnapshot = (resolver: typeof RouteResolver.Service): Effect.Effect<string> =>
  Effect.forEach(PROBES, (probe) =>
    resolver.resolve(probe).pipe(
      Effect.map(({ interfaceIndex, nextHop, source }) => `${source} ${interfaceIndex} ${nextHop ?? "-"}`),
      Effect.orElseSucceed(() => "none")
    )).pipe(Effect.map((routes) => routes.join(", ")))

const QUIET_MILLIS = 500
/** A network that never gets quiet is looked at all the same. */
const LONGEST_WAIT_MILLIS = 5000
const CLOSEST_MOVES_MILLIS = 1000

/** Monotonic: the wall clock may be set, also back. */
const nowMillis = Effect.map(Clock.currentTimeNanos, (nanos) => Number(nanos / 1_000_000n))

interface RoamSources {
  /** The first one only tells that the subscription stands. */
  readonly changes: Stream.Stream<NetworkChange, NetworkMonitorFailed>
  readonly sleeps: Stream.Stream<void>
  /** Something else saw a change: a reason to look, which moves nothing by itself. */
  readonly hints: Stream.Stream<void>
  /** How the outside is reached; whether it is as before is all that counts. */
  readonly snapshot: Effect.Effect<string>
}

/**
 * `Moving` as soon as `snapshot` is not what it was; what came of it after 500 ms of quiet, and not within 1 s of the last
 * move (host spec section 12). A sleep is a move whatever the snapshot says.
 */
export const roamsOf = ({ changes, hints, sleeps, snapshot }: RoamSources): Stream.Stream<Roam, NetworkMonitorFailed> =>
  Stream.unwrapScoped(Effect.gen(function*() {
    const changed = yield* Queue.sliding<void>(1)
    const ended = yield* Deferred.make<void, NetworkMonitorFailed>()
    yield* changes.pipe(
      Stream.runForEach(() => Queue.offer(changed, undefined)),
      Effect.intoDeferred(ended),
      Effect.interruptible,
      Effect.forkScoped
    )
    yield* hints.pipe(
      Stream.runForEach(() => Queue.offer(changed, undefined)),
      Effect.interruptible,
      Effect.forkScoped
    )
    let known: string | undefined
    let hasSlept = false
    let isMoving = false
    let lastMove = Number.NEGATIVE_INFINITY
    yield* sleeps.pipe(
      Stream.runForEach(() => {
        hasSlept = true
        return Queue.offer(changed, undefined)
      }),
      Effect.interruptible,
      Effect.forkScoped
    )
    const quiet = Effect.gen(function*() {
      const began = yield* nowMillis
      while ((yield* nowMillis) - began < LONGEST_WAIT_MILLIS) {
        const more = yield* Effect.timeoutOption(Queue.take(changed), QUIET_MILLIS)
        if (Option.isNone(more)) return
      }
    })
    const moving = Effect.gen(function*() {
      while (true) {
        yield* Queue.take(changed)
        const now = yield* snapshot
        known ??= now
        if (now !== known || hasSlept) return { _tag: "Moving" } as const
      }
    })
    const settled = Effect.gen(function*() {
      yield* quiet
      const tooSoon = lastMove + CLOSEST_MOVES_MILLIS - (yield* nowMillis)
      if (tooSoon > 0) yield* Effect.sleep(tooSoon)
      const slept = hasSlept
      hasSlept = false
      const now = yield* snapshot
      if (now === known && !slept) return { _tag: "Stayed" } as const
      known = now
      lastMove = yield* nowMillis
      return { _tag: "Moved", reason: slept ? "the system slept" : "the network changed" } as const
    })
    const next = Effect.suspend(() => {
      const roam: Effect.Effect<Roam> = isMoving ? settled : moving
      isMoving = !isMoving
      return roam
    })
    return Stream.interruptWhenDeferred(Stream.repeatEffect(next), ended)
  }))
