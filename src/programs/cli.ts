/** The command line: arguments and environment in, a program and its exit code out. */
import * as Args from "@effect/cli/Args"
import * as CliConfig from "@effect/cli/CliConfig"
import * as Command from "@effect/cli/Command"
import * as Options from "@effect/cli/Options"
import * as NodeContext from "@effect/platform-node/NodeContext"
import * as Effect from "effect/Effect"
import type * as Redacted from "effect/Redacted"
import { version } from "../model/version.ts"
import { parseIp } from "../protocol/wire/address.ts"
import type { ClientSettings } from "../services/ClientConfig.ts"
import { debugCommand } from "./bundle/command.ts"
import { completionsCommand } from "./completions/command.ts"
import { commandLine } from "./completions/commandLine.ts"
import { doctorCommand } from "./doctor/command.ts"
import { helpFor } from "./help.ts"
import { signInCommand, signOutCommand, statusCommand } from "./operatorCommands.ts"
import { clientOptions } from "./options.ts"
import { EXIT, outcome } from "./outcome.ts"
import { pingCommand } from "./ping/command.ts"
import { wrap } from "./statusScreen.ts"

export const NAME = "firezone-headless-client"

/** Long and short names of the client's options; a test keeps them equal to what the parser takes. */
export const knownFlags: ReadonlySet<string> = new Set(
  ("--api-url -u --firezone-name --firezone-id -i --token-path --log-dir -l --max-partition-time -m --dns-control "
    + "--activate-internet-resource --check --exit --inc-buf --tun-name --state-dir --control-socket --no-offloads --aead "
    + "--udp-send-buffer-size --udp-recv-buffer-size --metrics-address --metrics-allow-remote --otlp-endpoint "
    + "--no-telemetry --metrics --otlp-grpc-endpoint --flow-logs").split(" ")
)

/** Those of them that take no value. */
export const switches: ReadonlySet<string> = new Set(
  "--activate-internet-resource --check --exit --inc-buf --no-offloads --metrics-allow-remote --no-telemetry --flow-logs"
    .split(" ")
)

/** A program's options, by their long and short names. */
interface Flags {
  readonly program: string
  readonly known: ReadonlySet<string>
  /** Those of them that take no value. */
  readonly switches: ReadonlySet<string>
}

/**
 * What @effect/cli would explain badly: an unknown option or a missing value (it blames the subcommand), one option as the
 * value of another (it takes it), and a token on the command line.
 */
export const complaintOf =
  ({ known, program, switches }: Flags) => (args: ReadonlyArray<string>): string | undefined => {
    const token = args.findIndex((arg) => arg === "--token" || arg.startsWith("--token="))
    if (token >= 0 && !args.slice(0, token).includes("--")) {
      return "the token cannot be an option, every user could read it: set FIREZONE_TOKEN or use --token-path FILE"
    }
    for (let at = 0; args[at]?.startsWith("-") === true && args[at] !== "--"; at++) {
      const [name = "", value] = (args[at] as string).split("=", 2)
      if (!known.has(name)) return `unknown option ${name}; see ${program} --help`
      if (switches.has(name) || value !== undefined) continue
      const next = args[++at]
      if (next === undefined || known.has(next)) return `the option ${name} needs a value; see ${program} --help`
    }
    return undefined
  }
export const complaint = complaintOf({ program: NAME, known: knownFlags, switches })

/** The command and what follows it: what is left without the options before it and their values. */
export const commandWords = (args: ReadonlyArray<string>): ReadonlyArray<string> => {
  let at = 0
  for (; args[at]?.startsWith("-") === true; at++) {
    const name = args[at] as string
    if (knownFlags.has(name) && !switches.has(name)) at += 1
  }
  return args.slice(at)
}

/** What a program needs of the process: `bin` fills it, tests replace it. */
export interface ProcessInput {
  /** Without the executable and the script. */
  readonly args: ReadonlyArray<string>
  /** `FIREZONE_TOKEN`, already taken out of the environment. */
  readonly token: Redacted.Redacted | undefined
}

// The programs are imported when they run: `--help` must not wait for WebSockets and native libraries.
const client = (settings: ClientSettings, token: Redacted.Redacted | undefined) =>
  Effect.flatMap(Effect.promise(() => import("./wiring.ts")), (wiring) => wiring.runClient(settings, token))

export const command = (token: Redacted.Redacted | undefined) => {
  const root = Command.make(NAME, { settings: clientOptions }, ({ settings }) => client(settings, token))
  const standalone = Command.make(
    "standalone",
    {},
    () => Effect.flatMap(root, ({ settings }) => client(settings, token))
  )
  const explain = Command.make(
    "explain",
    { address: Args.text({ name: "ADDRESS" }), json: Options.boolean("json") },
    ({ address, json }) =>
      Effect.gen(function*() {
        const destination = parseIp(address)
        if (destination === undefined) {
          complain(`"${address}" is not an IP address`)
          return yield* Effect.fail({ _tag: "UsageError", reported: true })
        }
        const { settings } = yield* root
        const wiring = yield* Effect.promise(() => import("./wiring.ts"))
        return yield* wiring.runRouteExplain(settings, destination, json)
      })
  )
  const showHelpOf = (command: string) => Effect.sync(() => void process.stdout.write(helpFor([command], version)))
  const route = Command.make("route", {}, () => showHelpOf("route")).pipe(Command.withSubcommands([explain]))
  const dnsCleanup = Command.make(
    "dns-cleanup",
    {},
    () => Effect.flatMap(Effect.promise(() => import("./wiring.ts")), (wiring) => wiring.runDnsCleanup)
  )
  const settings = Effect.map(root, ({ settings }) => settings)
  const operator = [
    statusCommand(settings),
    doctorCommand(settings, token),
    pingCommand(settings),
    debugCommand(settings, token, showHelpOf("debug")),
    signInCommand(settings),
    signOutCommand(settings)
  ] as const
  return Command.withSubcommands(root, [standalone, ...operator, route, dnsCleanup, completionsCommand])
}

/** On stderr; a terminal would break its lines in the middle of words. */
const complain = (message: string): void => {
  const { columns = Number.POSITIVE_INFINITY } = process.stderr
  const lines = `${NAME}: ${message}`.split("\n").flatMap((line) => wrap(line, columns))
  process.stderr.write(`${lines.join("\n")}\n`)
}

export const wantsHelp = (args: ReadonlyArray<string>): boolean =>
  args.slice(0, args.includes("--") ? args.indexOf("--") : args.length).some((arg) => arg === "-h" || arg === "--help")

const commands = new Set(["standalone", ...(commandLine.commands ?? []).map(({ name }) => name)])

/** Runs a command to its exit code; interruption of the returned effect is a clean stop. */
export const run = (input: ProcessInput): Effect.Effect<number> =>
  Effect.gen(function*() {
    const { args } = input
    if (args[0] === "lab") {
      const lab = yield* Effect.promise(() => import("../lab/cli.ts"))
      return yield* lab.run(args.slice(1), input.token)
    }
    if (args[0] === "help" || wantsHelp(args)) {
      process.stdout.write(helpFor(commandWords(args), version))
      return EXIT.done
    }
    if (args.includes("--version") || args.includes("-V")) {
      process.stdout.write(`${NAME} ${version}\n`)
      return EXIT.done
    }
    const wrong = complaint(args)
    if (wrong !== undefined) {
      complain(wrong)
      return EXIT.usage
    }
    const [first] = commandWords(args)
    if (first !== undefined && !commands.has(first)) {
      complain(`unknown command ${first}; see ${NAME} --help`)
      return EXIT.usage
    }
    const exit = yield* Command.run(command(input.token), { name: NAME, version })(["node", NAME, ...args]).pipe(
      Effect.provide([NodeContext.layer, CliConfig.layer({ showBuiltIns: false, isCaseSensitive: true })]),
      Effect.exit
    )
    const { code, message } = outcome(exit)
    if (message !== undefined) complain(message)
    else if (code === EXIT.usage && first !== undefined) complain(`see ${NAME} ${first} --help`)
    return code
  })
