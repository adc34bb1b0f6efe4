import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import * as Queue from "effect/Queue"
import type * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"

/** How often it is looked whether our settings are still there: one small file is read. */
const EVERY = "1 second"
/** After a hint: who changes several things one by one has finished then. */
const SETTLED = "250 millis"
/** What is left of a second: two programs that undo each other's settings must not be busy with it. */
const REST = "750 millis"

/** Looks every second, and after a hint twice, at once and soon after; never more often. Runs until its scope ends. */
export const lookAgain = (
  hints: Stream.Stream<void>,
  look: (isHinted: boolean) => Effect.Effect<void>
): Effect.Effect<void, never, Scope.Scope> =>
  Effect.gen(function*() {
    const hinted = yield* Queue.sliding<void>(1)
    yield* hints.pipe(
      Stream.runForEach(() => Queue.offer(hinted, undefined)),
      Effect.interruptible,
      Effect.forkScoped
    )
    yield* Effect.gen(function*() {
      const hint = yield* Effect.timeoutOption(Queue.take(hinted), EVERY)
      yield* look(Option.isSome(hint))
      if (Option.isNone(hint)) return
      yield* Effect.sleep(SETTLED)
      yield* look(true)
      yield* Effect.sleep(REST)
    }).pipe(Effect.forever, Effect.interruptible, Effect.forkScoped)
  }).pipe(Effect.annotateLogs("module", "dns"))
