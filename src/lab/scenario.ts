/** What a scenario is, and how it tells what it finds. */
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import type { LabError } from "./LabError.ts"
import type { Equipment, Lab } from "./services.ts"
import type { Topology } from "./topology.ts"

export interface Check {
  readonly name: string
  readonly ok: boolean
  readonly detail: string
}

export interface Result {
  readonly scenario: string
  readonly ok: boolean
  readonly checks: ReadonlyArray<Check>
  readonly durationMs: number
}

/** Collects checks and shows each one as it is made. */
export interface Recorder {
  /** Something that happened; not judged. */
  readonly note: (text: string) => Effect.Effect<void>
  readonly check: (name: string, ok: boolean, detail: string) => Effect.Effect<boolean>
}

export interface Scenario {
  readonly name: string
  /** One line for `lab list`. */
  readonly about: string
  /** What runs on the hosts, where it is not the usual. */
  readonly equipment?: Equipment
  /** Makes the network what the scenario is about, before anything starts on it. */
  readonly prepare?: (topology: Topology) => Effect.Effect<void, LabError>
  /** Judges from outside the client: exit codes of other programs, packets on links, the emulators' state. */
  readonly run: (lab: Lab, recorder: Recorder) => Effect.Effect<void, LabError, Scope.Scope>
}

/** Polls a fact until it holds; `undefined` if it did not within `withinMillis`. */
export const eventually = <A, E, R>(
  fact: Effect.Effect<A | undefined | false, E, R>,
  withinMillis: number
): Effect.Effect<A | undefined, E, R> =>
  Effect.gen(function*() {
    for (const end = Date.now() + withinMillis;;) {
      const value = yield* fact
      if (value !== undefined && value !== false) return value
      if (Date.now() >= end) return undefined
      yield* Effect.sleep(50)
    }
  })
