/** The command line of `ping`. */
import * as Args from "@effect/cli/Args"
import * as Command from "@effect/cli/Command"
import * as HelpDoc from "@effect/cli/HelpDoc"
import * as Options from "@effect/cli/Options"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import type { ClientSettings } from "../../services/ClientConfig.ts"

/** A day: longer is a mistake. */
const MAX_SECONDS = 86_400

const invalid = (name: string, what: string) => HelpDoc.p(`--${name} must be ${what}`)

const seconds = (name: string, alias: string, least: number) =>
  Options.float(name).pipe(
    Options.withAlias(alias),
    Options.filterMap(
      (value) => value >= least && value <= MAX_SECONDS ? Option.some(value * 1000) : Option.none(),
      `--${name} must be a number of seconds from ${least} to ${MAX_SECONDS}`
    )
  )

const count = Options.integer("count").pipe(
  Options.withAlias("c"),
  Options.mapTryCatch((value) => {
    if (value < 1 || value > 65_535) throw new RangeError()
    return value
  }, () => invalid("count", "a number from 1 to 65535")),
  Options.withDefault(4)
)

/** `settings` are those of the options before the command. */
export const pingCommand = <E, R>(settings: Effect.Effect<ClientSettings, E, R>) =>
  Command.make(
    "ping",
    {
      target: Args.text({ name: "RESOURCE" }),
      json: Options.boolean("json"),
      count,
      // Faster is a flood, which other people's networks are not for.
      interval: Options.withDefault(seconds("interval", "i", 0.2), 1000),
      wait: Options.withDefault(seconds("wait", "W", 0.1), 2000),
      deadline: Options.optional(seconds("deadline", "w", 0.1)),
      ipv4: Options.boolean("ipv4").pipe(Options.withAlias("4")),
      ipv6: Options.boolean("ipv6").pipe(Options.withAlias("6"))
    },
    ({ count, deadline, interval, ipv4, ipv6, json, target, wait }) =>
      Effect.flatMap(
        Effect.all([settings, Effect.promise(() => import("../wiring.ts"))]),
        ([settings, { runPing }]) =>
          runPing(settings, {
            target,
            json,
            count,
            intervalMillis: interval,
            patienceMillis: wait,
            deadlineMillis: Option.getOrUndefined(deadline),
            family: ipv4 === ipv6 ? undefined : ipv4 ? 4 : 6
          })
      )
  )
