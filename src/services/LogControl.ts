import * as Context from "effect/Context"
import type * as Effect from "effect/Effect"
import type * as Either from "effect/Either"
import type { ConfigInvalid } from "./ClientConfig.ts"

/** What may be changed about the log of a process while it runs. */
export class LogControl extends Context.Tag("firezone-headless-client/services/LogControl")<LogControl, {
  /** Checks a filter in the syntax of `RUST_LOG`; the effect puts it in force. */
  readonly filter: (text: string) => Either.Either<Effect.Effect<void>, ConfigInvalid>
  /** Deletes the log files; what is logged from now on starts new ones. */
  readonly clear: Effect.Effect<void, ConfigInvalid>
}>() {}
