/** The command line of `debug bundle`. */
import * as Args from "@effect/cli/Args"
import * as Command from "@effect/cli/Command"
import * as Options from "@effect/cli/Options"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import type * as Redacted from "effect/Redacted"
import type { ClientSettings } from "../../services/ClientConfig.ts"

/** `settings` are those of the options before the command; `showHelp` is for `debug` alone. */
export const debugCommand = <E, R>(
  settings: Effect.Effect<ClientSettings, E, R>,
  token: Redacted.Redacted | undefined,
  showHelp: Effect.Effect<void>
) =>
  Command.make("debug", {}, () => showHelp).pipe(Command.withSubcommands([
    Command.make(
      "bundle",
      {
        file: Args.optional(Args.text({ name: "FILE" })),
        force: Options.boolean("force").pipe(Options.withAlias("f"))
      },
      ({ file, force }) =>
        Effect.flatMap(
          Effect.all([settings, Effect.promise(() => import("./wiring.ts"))]),
          ([settings, { runBundle }]) => runBundle(settings, token, { file: Option.getOrUndefined(file), force })
        )
    )
  ]))
