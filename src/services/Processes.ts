import * as Context from "effect/Context"
import type * as Effect from "effect/Effect"

export interface ProcessFacts {
  readonly pid: number
  /** Its command's name, at most 15 characters; it may have chosen it itself. */
  readonly name: string
  /** Its command line, for judging and not for showing. */
  readonly words: ReadonlyArray<string>
  /** Whether it is in another network namespace, where it is in nobody's way; as far as that can be told. */
  readonly isElsewhere: boolean
}

/** What runs on this machine, as far as this user may see it. */
export class Processes extends Context.Tag("firezone-headless-client/services/Processes")<Processes, {
  readonly all: Effect.Effect<ReadonlyArray<ProcessFacts>>
  /** The effective capabilities as a bit mask (capabilities(7)); `undefined` if the system does not tell. */
  readonly capabilities: (pid: number | "self") => Effect.Effect<bigint | undefined>
  /** Who has the TUN device of this name open; `undefined` if nobody does whom we may see. */
  readonly holderOfTun: (interfaceName: string) => Effect.Effect<ProcessFacts | undefined>
}>() {}
