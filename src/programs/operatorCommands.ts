/** The commands that an operator types beside a client that runs, or before one does. */
import * as Command from "@effect/cli/Command"
import * as Options from "@effect/cli/Options"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import type { ClientSettings } from "../services/ClientConfig.ts"
import { nonEmpty, parseAuthBaseUrl, text } from "./options.ts"

const wiring = Effect.promise(() => import("./wiring.ts"))

/** `settings` are those of the options before the command. */
export const statusCommand = <E, R>(settings: Effect.Effect<ClientSettings, E, R>) =>
  Command.make(
    "status",
    { json: Options.boolean("json"), watch: Options.boolean("watch") },
    (options) =>
      Effect.flatMap(Effect.all([settings, wiring]), ([settings, { runStatus }]) => runStatus(settings, options))
  )

/** As `statusCommand`. */
export const signInCommand = <E, R>(settings: Effect.Effect<ClientSettings, E, R>) =>
  Command.make(
    "sign-in",
    {
      authBaseUrl: text("auth-base-url", "FIREZONE_AUTH_BASE_URL", parseAuthBaseUrl),
      accountSlug: text("account-slug", "FIREZONE_ACCOUNT_SLUG", nonEmpty)
    },
    ({ accountSlug, authBaseUrl }) =>
      Effect.flatMap(Effect.all([settings, wiring]), ([settings, { runSignIn }]) =>
        runSignIn(settings, {
          authBaseUrl: Option.getOrElse(authBaseUrl, () => new URL("https://app.firezone.dev/")),
          accountSlug: Option.getOrUndefined(accountSlug)
        }))
  )

/** As `statusCommand`. */
export const signOutCommand = <E, R>(settings: Effect.Effect<ClientSettings, E, R>) =>
  Command.make(
    "sign-out",
    { force: Options.boolean("force").pipe(Options.withAlias("f")) },
    ({ force }) =>
      Effect.flatMap(Effect.all([settings, wiring]), ([settings, { runSignOut }]) => runSignOut(settings, force))
  )
