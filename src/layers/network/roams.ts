import * as Clock from "effect/Clock"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import * as Queue from "effect/Queue"
import * as Stream from "effect/Stream"
import { ip } from "../../protocol/wire/address.ts"
import type { NetworkChange, NetworkMonitorFailed } from "../../services/NetworkChanges.ts"
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
const CLOSEST_ROAMS_MILLIS = 1000

/**
 * One element each time that `snapshot` is not what it was, after `changes` were quiet for 500 ms and not within 1 s of
 * the last one (host spec section 12). The first change only tells that the subscription stands.
 */
export const roamsOf = (
  changes: Stream.Stream<NetworkChange, NetworkMonitorFailed>,
  snapshot: Effect.Effect<string>
): Stream.Stream<void, NetworkMonitorFailed> =>
  Stream.unwrapScoped(Effect.gen(function*() {
    const changed = yield* Queue.sliding<void>(1)
    const ended = yield* Deferred.make<void, NetworkMonitorFailed>()
    yield* changes.pipe(
      Stream.runForEach(() => Queue.offer(changed, undefined)),
      Effect.intoDeferred(ended),
      Effect.interruptible,
      Effect.forkScoped
    )
    let known: string | undefined
    let lastRoam = Number.NEGATIVE_INFINITY
    const quiet = Effect.gen(function*() {
      const began = yield* Clock.currentTimeMillis
      while ((yield* Clock.currentTimeMillis) - began < LONGEST_WAIT_MILLIS) {
        const more = yield* Effect.timeoutOption(Queue.take(changed), QUIET_MILLIS)
        if (Option.isNone(more)) return
      }
    })
    const next = Effect.gen(function*() {
      while (true) {
        yield* Queue.take(changed)
        if (known === undefined) {
          known = yield* snapshot
          continue
        }
        yield* quiet
        const tooSoon = lastRoam + CLOSEST_ROAMS_MILLIS - (yield* Clock.currentTimeMillis)
        if (tooSoon > 0) yield* Effect.sleep(tooSoon)
        const now = yield* snapshot
        if (now === known) continue
        known = now
        lastRoam = yield* Clock.currentTimeMillis
        return
      }
    })
    return Stream.interruptWhenDeferred(Stream.repeatEffect(next), ended)
  }))
