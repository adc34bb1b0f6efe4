import * as Effect from "effect/Effect"
import * as Schedule from "effect/Schedule"
import type * as Scope from "effect/Scope"
import { DnsControlFailed } from "../../services/DnsControl.ts"
import { ControlLock, type LockOutcome } from "./ControlLock.ts"

/** For a client that is stopping, which it has done by then; one that runs on stays. */
const PATIENCE = Schedule.intersect(Schedule.spaced("250 millis"), Schedule.recurs(20))

const unlessTaken = (outcome: LockOutcome): Effect.Effect<void, DnsControlFailed> => {
  switch (outcome._tag) {
    case "Held":
      return Effect.void
    case "Unguarded":
      return Effect.logDebug(`nothing keeps a second client away from the system's DNS: ${outcome.reason}`)
    case "Taken":
      return new DnsControlFailed({
        step: "take control",
        cause: `another client has it${outcome.by === undefined ? "" : `, process ${outcome.by}`}`,
        hint: "stop that one, or do without names here: --dns-control disabled"
      })
  }
}

/** Keeps two clients of one machine from undoing each other's settings. Fails if another one has them. */
export interface Guard {
  /** Ours until the scope ends. `isPatient`: waits 5 s for a client that is stopping. */
  readonly take: (options: { readonly isPatient: boolean }) => Effect.Effect<void, DnsControlFailed>
  /** Makes no lock where there is none: whoever only cleans up leaves nothing. */
  readonly takeIfThere: Effect.Effect<void, DnsControlFailed>
}

export const makeGuard = (file: string): Effect.Effect<Guard, never, Scope.Scope> =>
  Effect.gen(function*() {
    const lock = new ControlLock(file)
    yield* Effect.addFinalizer(() => Effect.sync(() => lock.release()))
    const take = Effect.suspend(() => unlessTaken(lock.take()))
    return {
      take: ({ isPatient }) => isPatient ? Effect.retry(take, PATIENCE) : take,
      takeIfThere: Effect.suspend(() => unlessTaken(lock.takeIfThere()))
    }
  })

/** Where there is nothing to fight for. */
export const noGuard: Guard = { take: () => Effect.void, takeIfThere: Effect.void }
