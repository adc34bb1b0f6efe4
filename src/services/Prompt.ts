import * as Context from "effect/Context"
import * as Data from "effect/Data"
import type * as Effect from "effect/Effect"
import type * as Redacted from "effect/Redacted"
import type { UnsupportedPlatform } from "../model/UnsupportedPlatform.ts"

/** There is nobody to ask. */
export class NoTerminal extends Data.TaggedError("NoTerminal")<{ readonly why: string }> {
  override get message(): string {
    return `there is no terminal to ask on: ${this.why}. Run this in one, or put the token into a file or FIREZONE_TOKEN`
  }
}

/** Asks the person in front of the program. `undefined`: gave up (Ctrl+C, Ctrl+D, end of input). */
export class Prompt extends Context.Tag("firezone-headless-client/services/Prompt")<Prompt, {
  /** From the controlling terminal, not from stdin, and without showing it. */
  readonly secret: (
    question: string
  ) => Effect.Effect<Redacted.Redacted | undefined, NoTerminal | UnsupportedPlatform>
  /** One line of stdin, which may be a script's. */
  readonly line: (question: string) => Effect.Effect<string | undefined>
}>() {}
