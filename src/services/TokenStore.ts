import * as Context from "effect/Context"
import type * as Effect from "effect/Effect"
import type * as Redacted from "effect/Redacted"
import type { ConfigInvalid } from "./ClientConfig.ts"

/** The service-account token (host spec section 3.2). It is never logged and never part of an error. */
export class TokenStore extends Context.Tag("firezone-headless-client/services/TokenStore")<TokenStore, {
  /**
   * `FIREZONE_TOKEN` as it is, else the trimmed token file. Fails if there is neither, naming both places, and if the
   * file's owner, mode or content break the rule.
   */
  readonly read: Effect.Effect<Redacted.Redacted, ConfigInvalid>
  /** Writes the file, mode 0600 from creation and owned by root, replacing it atomically. */
  readonly write: (token: Redacted.Redacted) => Effect.Effect<void, ConfigInvalid>
  /** Fails as `write` would for want of privileges: better before a person has typed than after. */
  readonly writable: Effect.Effect<void, ConfigInvalid>
  /** Whether there is a file; its content does not matter. */
  readonly stored: Effect.Effect<boolean, ConfigInvalid>
  /** Whether a file was there to remove. */
  readonly remove: Effect.Effect<boolean, ConfigInvalid>
}>() {}
