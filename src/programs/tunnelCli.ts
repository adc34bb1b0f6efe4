/** The command line of the tunnel service (host spec section 7): a program of its own, for a GUI's package to start. */
import * as CliConfig from "@effect/cli/CliConfig"
import * as Command from "@effect/cli/Command"
import * as NodeContext from "@effect/platform-node/NodeContext"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import { version } from "../model/version.ts"
import { complaintOf, type ProcessInput, wantsHelp } from "./cli.ts"
import { clientOptions, nonEmpty, text } from "./options.ts"
import { EXIT, outcome } from "./outcome.ts"

export const NAME = "firezone-client-tunnel"
const LOG_DIR = "/var/log/dev.firezone.client"
const SOCKET = "/run/dev.firezone.client/tunnel.sock"
const GUI = "/usr/bin/firezone-client-gui"
/** What runs the service. */
const RUN = ["run", "run-interactive"] as const
/** For the unit, however the service has ended. */
const CLEAN_UP = "dns-cleanup"

const help = `${NAME} ${version}

Runs the tunnel for a GUI of the same machine, which connects to
${SOCKET}.

USAGE
  ${NAME} [OPTIONS] run
        as a service, in the foreground
  ${NAME} [OPTIONS] run-interactive
        the same in a terminal, until Ctrl+C
  ${NAME} dns-cleanup
        takes back what a service that died has left of its DNS settings

OPTIONS, and the variables for them
      --dns-control METHOD    FIREZONE_DNS_CONTROL
        how the system is pointed at the client's DNS: auto, systemd-resolved,
        etc-resolv-conf or disabled [auto]
  -l, --log-dir FOLDER        LOG_DIR
        where log files go [${LOG_DIR}]
  -m, --max-partition-time DURATION    MAX_PARTITION_TIME
        how long a lost portal is looked for, such as 5m, 1h 30m or 30d [30d]
      --metrics-address ADDRESS        FIREZONE_METRICS_ADDRESS
        show metrics to Prometheus while there is a tunnel, on 127.0.0.1:9090,
        [::1]:9090 or unix:/PATH
      --metrics-allow-remote           FIREZONE_METRICS_ALLOW_REMOTE
        on addresses that other machines can reach, too
      --otlp-endpoint URL              OTEL_EXPORTER_OTLP_ENDPOINT
        send metrics to this receiver by OTLP over HTTP
  -h, --help                  this text
  -V, --version               the version

The level of the log is that of RUST_LOG, else the one that was set in the GUI,
else info. It needs root. Only members of the group firezone-client may connect,
and of their programs only the GUI.
`

/** The hidden ones are for tests, and for packages that put the GUI elsewhere. */
const complaint = complaintOf({
  program: NAME,
  known: new Set(
    "--dns-control --log-dir -l --max-partition-time -m --no-telemetry --tun-name --state-dir --control-socket --firezone-id -i --firezone-name --no-offloads --aead --metrics-address --metrics-allow-remote --otlp-endpoint --gui-socket --gui-path"
      .split(" ")
  ),
  switches: new Set(["--no-offloads", "--no-telemetry", "--metrics-allow-remote"])
})

const commandOf = () => {
  const root = Command.make(NAME, {
    settings: clientOptions,
    socket: text("gui-socket", "FIREZONE_GUI_SOCKET", nonEmpty),
    guiPath: text("gui-path", "FIREZONE_GUI_PATH", nonEmpty)
  })
  const command = (name: typeof RUN[number]) =>
    Command.make(name, {}, () =>
      Effect.gen(function*() {
        const { guiPath, settings, socket } = yield* root
        // Imported when it runs: `--help` must not wait for WebSockets and native libraries.
        const wiring = yield* Effect.promise(() => import("./tunnelServiceWiring.ts"))
        return yield* wiring.runTunnelService(
          { ...settings, logDir: settings.logDir ?? LOG_DIR },
          { socket: Option.getOrElse(socket, () => SOCKET), guiPath: Option.getOrElse(guiPath, () => GUI) }
        )
      }))
  const cleanUp = Command.make(
    CLEAN_UP,
    {},
    () => Effect.flatMap(Effect.promise(() => import("./wiring.ts")), (wiring) => wiring.runDnsCleanup)
  )
  return Command.withSubcommands(root, [command("run"), command("run-interactive"), cleanUp])
}

/** Runs a command to its exit code; interruption of the returned effect is a clean stop. */
export const run = ({ args }: ProcessInput): Effect.Effect<number> =>
  Effect.gen(function*() {
    if (args[0] === "help" || wantsHelp(args)) {
      process.stdout.write(help)
      return EXIT.done
    }
    if (args.includes("--version") || args.includes("-V")) {
      process.stdout.write(`${NAME} ${version}\n`)
      return EXIT.done
    }
    const hasCommand = [...RUN, CLEAN_UP].some((name) => name === args.at(-1))
    const wrong = complaint(args) ??
      (hasCommand ? undefined : `what is to be done comes last: ${RUN.join(" or ")}; see ${NAME} --help`)
    if (wrong !== undefined) {
      process.stderr.write(`${NAME}: ${wrong}\n`)
      return EXIT.usage
    }
    const exit = yield* Command.run(commandOf(), { name: NAME, version })(["node", NAME, ...args]).pipe(
      Effect.provide([NodeContext.layer, CliConfig.layer({ showBuiltIns: false, isCaseSensitive: true })]),
      Effect.exit
    )
    const { code, message } = outcome(exit)
    if (message !== undefined) process.stderr.write(`${NAME}: ${message}\n`)
    return code
  })
