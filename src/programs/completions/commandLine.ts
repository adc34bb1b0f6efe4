/** The command line as shells complete it: what `--help` shows, and nothing hidden. A test compares it with the parser. */

export type Values =
  | { readonly _tag: "Text" }
  | { readonly _tag: "File" }
  | { readonly _tag: "Folder" }
  /** A network interface of this machine. */
  | { readonly _tag: "Interface" }
  | { readonly _tag: "Choice"; readonly of: ReadonlyArray<string> }

export interface OptionSpec {
  /** With its dashes. */
  readonly long: string
  readonly short?: string
  /** A few words; no quotes, brackets or colons, which shells would read. */
  readonly about: string
  /** A switch has none. */
  readonly values?: Values
  readonly repeats?: boolean
}

export interface CommandSpec {
  readonly name: string
  readonly about: string
  readonly options: ReadonlyArray<OptionSpec>
  /** What comes after the options; without it, nothing does. */
  readonly argument?: { readonly name: string; readonly values: Values }
  readonly commands?: ReadonlyArray<CommandSpec>
}

const text: Values = { _tag: "Text" }
const file: Values = { _tag: "File" }
const folder: Values = { _tag: "Folder" }
const choice = (...of: ReadonlyArray<string>): Values => ({ _tag: "Choice", of })

const option = (long: string, about: string, values?: Values, short?: string): OptionSpec => ({
  long,
  about,
  ...(values === undefined ? {} : { values }),
  ...(short === undefined ? {} : { short })
})

const help = option("--help", "explain it", undefined, "-h")
const json = option("--json", "print JSON")

const command = (
  name: string,
  about: string,
  options: ReadonlyArray<OptionSpec> = [],
  rest: Pick<CommandSpec, "argument" | "commands"> = {}
): CommandSpec => ({ name, about, options: [...options, help], ...rest })

const ping = command("ping", "whether a resource works", [
  option("--count", "so many echo requests", text, "-c"),
  option("--interval", "seconds between them", text, "-i"),
  option("--wait", "seconds for each answer", text, "-W"),
  option("--deadline", "seconds for all of them", text, "-w"),
  option("--ipv4", "take IPv4 addresses alone", undefined, "-4"),
  option("--ipv6", "take IPv6 addresses alone", undefined, "-6"),
  json
], { argument: { name: "RESOURCE", values: text } })

const lab = command("lab", "a small Internet on this machine", [], {
  commands: [
    command("list", "the scenarios", [json]),
    command("run", "run scenarios", [json, option("--logs", "show the output of the client")], {
      argument: { name: "SCENARIO", values: text }
    }),
    command("up", "build the lab and leave it running", [
      { ...option("--without", "leave a host empty", choice("client", "gateway", "relay")), repeats: true }
    ]),
    command("exec", "run a command on a host of the lab", [], {
      argument: {
        name: "HOST",
        values: choice("client", "natw", "natl", "natg", "inet", "gw", "gw2", "res")
      }
    }),
    command("down", "remove the lab")
  ]
})

export const SHELLS = ["bash", "zsh", "fish"] as const
export type Shell = typeof SHELLS[number]

export const commandLine: CommandSpec = {
  name: "firezone-headless-client",
  about: "Firezone client for machines without a screen",
  options: [
    option("--firezone-id", "device id in the portal", text, "-i"),
    option("--firezone-name", "device name in the portal", text),
    option("--token-path", "token file", file),
    option("--log-dir", "also write log files here", folder, "-l"),
    option("--max-partition-time", "give up after this time without the portal", text, "-m"),
    option(
      "--dns-control",
      "how the DNS of the system is pointed at the tunnel",
      choice("auto", "systemd-resolved", "etc-resolv-conf", "disabled")
    ),
    option("--activate-internet-resource", "send all traffic through the tunnel"),
    option("--tun-name", "name of the tunnel interface", { _tag: "Interface" }),
    option("--state-dir", "folder of the device id file", folder),
    option("--control-socket", "where the running client answers", file),
    option("--no-offloads", "packets one by one, to find a fault"),
    option("--metrics-address", "show metrics to Prometheus here", text),
    option("--metrics-allow-remote", "let other machines reach that address"),
    option("--otlp-endpoint", "send metrics to this receiver", text),
    option("--no-telemetry", "accepted, without effect"),
    option("--flow-logs", "accepted, without effect"),
    help,
    option("--version", "print the version", undefined, "-V")
  ],
  commands: [
    command("status", "what the running client does", [json, option("--watch", "follow it")]),
    command("doctor", "what is wrong, and what to do about it", [
      json,
      { ...option("--stun", "ask this server over UDP too", text), repeats: true }
    ]),
    ping,
    command("sign-in", "get a token with a browser, and store it", [
      option("--auth-base-url", "where to sign in", text),
      option("--account-slug", "the account, as in its address", text)
    ]),
    command("sign-out", "remove the stored token", [option("--force", "do not ask", undefined, "-f")]),
    command("route", "ways out of this machine", [], {
      commands: [
        command("explain", "which way a packet leaves outside the tunnel", [json], {
          argument: { name: "ADDRESS", values: text }
        })
      ]
    }),
    command("debug", "for a person who helps", [], {
      commands: [
        command("bundle", "one file with what a person who helps would ask for", [
          option("--force", "replace a file that is there", undefined, "-f")
        ], { argument: { name: "FILE", values: file } })
      ]
    }),
    command("dns-cleanup", "take back the DNS settings of a client that was killed"),
    command("completions", "print completions for a shell", [], {
      argument: { name: "SHELL", values: choice(...SHELLS) }
    }),
    lab,
    command("help", "explain it")
  ]
}

/** A command with the words that lead to it, such as `route explain`; of the root there are none. */
export interface Placed {
  readonly path: ReadonlyArray<string>
  readonly spec: CommandSpec
}

/** Every command, the root first. */
export const everyCommand = (spec: CommandSpec, path: ReadonlyArray<string> = []): ReadonlyArray<Placed> => [
  { path, spec },
  ...(spec.commands ?? []).flatMap((inner) => everyCommand(inner, [...path, inner.name]))
]

export const namesOf = ({ long, short }: OptionSpec): ReadonlyArray<string> =>
  short === undefined ? [long] : [short, long]
