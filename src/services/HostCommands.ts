import * as Context from "effect/Context"
import type * as Effect from "effect/Effect"

/** Other programs of this machine, asked for what only they know. */
export class HostCommands extends Context.Tag("firezone-headless-client/services/HostCommands")<HostCommands, {
  /** What it prints; `undefined` if there is no such program, if it fails, or after 3 s. */
  readonly output: (program: string, ...args: ReadonlyArray<string>) => Effect.Effect<string | undefined>
}>() {}
