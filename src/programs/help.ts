import { completionsHelp } from "./completions/helpText.ts"
import { doctorHelp } from "./doctor/helpText.ts"

/**
 * What `--help` prints, for terminals of 80 columns. Hidden options (host spec section 2.1) stay out; a test compares it
 * with the parser.
 */
export const rootHelp = (version: string, defaultDnsControl: string): string =>
  `firezone-headless-client ${version}
Connects this machine to a Firezone network: signs in with a service account's
token, opens a tunnel device, and carries traffic for the resources that the
account may reach to their gateways, encrypted with WireGuard.

Usage:
  firezone-headless-client [OPTIONS]           run the client until Ctrl+C
  firezone-headless-client [OPTIONS] COMMAND   see the commands below

For a start:
  sudo firezone-headless-client sign-in        or set FIREZONE_TOKEN
  sudo firezone-headless-client                connects; in another terminal:
  sudo firezone-headless-client status --watch

Commands (firezone-headless-client COMMAND --help says more of each):
  status               what the running client does; --watch follows it
  doctor               what is wrong, and what to do about it
  ping RESOURCE        whether a resource works, and if not, where it breaks
  sign-in              get a token with a browser, and store it
  sign-out             remove the stored token
  route explain ADDR   which way a packet to ADDR leaves outside the tunnel
  debug bundle [FILE]  one file with what a person who helps would ask for
  dns-cleanup          take back the DNS settings of a client that was killed
  completions SHELL    teach bash, zsh or fish this command line
  lab COMMAND          a small Internet on this machine to try the client in

The token comes from the variable FIREZONE_TOKEN, or from a file that only root
can read. It cannot be given as an option, because every user can see the
options of a running program.

Options, which come before the command. Each has a variable; the option wins.
In brackets: what is taken without either.
  -i, --firezone-id ID              FIREZONE_ID
          device id in the portal [derived from the machine id]
      --firezone-name NAME          FIREZONE_NAME
          device name in the portal [host name]
      --token-path FILE             FIREZONE_TOKEN_PATH
          token file [/etc/dev.firezone.client/token]
  -l, --log-dir DIR                 LOG_DIR
          also write log files into this folder [no]
  -m, --max-partition-time TIME     MAX_PARTITION_TIME
          give up after this time without the portal: 5m, 1h 30m, 30d [never]
      --dns-control METHOD          FIREZONE_DNS_CONTROL
          how the system's DNS is pointed at the tunnel: systemd-resolved,
          etc-resolv-conf, disabled, or auto: what this machine uses [${defaultDnsControl}]
      --activate-internet-resource  FIREZONE_ACTIVATE_INTERNET_RESOURCE
          send all traffic through the tunnel, if a policy allows it [no]
      --tun-name NAME               FIREZONE_TUN_NAME
          name of the tunnel interface [tun-firezone]
      --state-dir DIR               FIREZONE_STATE_DIR
          folder of the device id file [/var/lib/dev.firezone.client/config]
      --control-socket PATH         FIREZONE_CONTROL_SOCKET
          where the running client answers the commands; NAME is that of the
          interface [/run/dev.firezone.client/headless-NAME.sock]
      --no-offloads                 FIREZONE_NO_OFFLOADS
          send and receive packets one by one, to find a fault [no]
      --metrics-address ADDR        FIREZONE_METRICS_ADDRESS
          show metrics to Prometheus on 127.0.0.1:9090, [::1]:9090 or
          unix:/PATH [no]
      --metrics-allow-remote        FIREZONE_METRICS_ALLOW_REMOTE
          let that be an address that other machines reach [no]
      --otlp-endpoint URL           OTEL_EXPORTER_OTLP_ENDPOINT
          send metrics to this receiver by OTLP over HTTP [no]
      --no-telemetry                FIREZONE_NO_TELEMETRY
          accepted; this client sends no telemetry of its own
      --flow-logs                   FIREZONE_FLOW_LOGS
          accepted; this client keeps no flow logs
  -h, --help                        print this
  -V, --version                     print the version

Log level: RUST_LOG or FIREZONE_LOG (error, warn, info, debug, trace; or
target=level,...) [info]. Colours are left out where NO_COLOR is set.

Exit codes of the client; commands say theirs in their --help:
    0  done
    1  configuration, or another error
    2  wrong usage
    3  the portal refused the token
    4  the tunnel device cannot be made
    5  the portal was out of reach for too long
  130  interrupted twice

Try it without an account, as root:
  firezone-headless-client lab run direct
`

const routeHelp = `Usage: firezone-headless-client [--tun-name NAME] route explain ADDRESS [--json]

Shows which local address, interface and next hop a packet to ADDRESS uses
outside the tunnel, and why the other ways lost. ADDRESS is an IPv4 or IPv6
address.

  --json    print one JSON object

Exit codes: 0 shown; 1 there is no way; 2 wrong usage.
`

const statusHelp = `Usage: firezone-headless-client [OPTIONS] status [--json] [--watch]

Shows what the client that runs on this machine does: whether it is signed in,
its addresses, the state of each resource, the path to each gateway, traffic,
the route cache and what was dropped. Only root and the user that the client
runs as may ask. A client with another --tun-name or --control-socket is found
with the same options, before the command.

  --json    print one JSON object, as docs/status.md describes it
  --watch   go on once a second until q, Ctrl+C or the end of the client; on a
            terminal the screen is redrawn, otherwise and with --json one
            status follows the other

Exit codes: 0 it runs and is signed in; 1 no client runs, or it gave no answer;
2 wrong usage; 4 not permitted; 5 it runs and is not signed in now.
With --watch: 0 after q or Ctrl+C, 1 when the client ends.
`

const pingHelp = `Usage: firezone-headless-client [OPTIONS] ping [OPTIONS] RESOURCE

Shows whether a resource works, and if not, where it breaks: the client, the
name, the route, access, the path to the gateway, and then echo requests
through the tunnel and back. RESOURCE is the name, id or address of a resource,
or the address or name of a host inside one. Needs root, as status does, and a
client that runs; one with another --tun-name or --control-socket is found with
the same options, before the command.

  -c, --count N        so many echo requests [4]
  -i, --interval SEC   between them [1]
  -W, --wait SEC       for the answer to each [2]; the first has 10 at least
  -w, --deadline SEC   for all of them [no]
  -4, --ipv4           take IPv4 addresses of a name alone
  -6, --ipv6           take IPv6 addresses of a name alone
      --json           print a JSON object a line, as docs/ping.md describes

Exit codes: 0 it works; 1 it does not, or no client runs; 2 wrong usage;
4 not permitted.
`

const debugHelp = `Usage: firezone-headless-client [OPTIONS] debug bundle [--force] [FILE]

Writes a .tar.gz with what a person who helps would ask for: versions, settings,
status, doctor's report, the ends of the log files (of --log-dir) and of the
service's journal, interfaces, addresses, routes, DNS, and how systemd sees the
service. Tokens and keys are taken out; names and addresses are not. Its
manifest.json says what is in it, and what is not and why. Run it as root to
have all of it, with the options and variables of the client.

FILE is firezone-debug-TIME.tar.gz if not given; - writes to stdout. Only its
owner can read it.

  -f, --force    replace a file that is there

Exit codes: 0 written; 1 it cannot be written, or there is such a file;
2 wrong usage.
`

const signInHelp = `Usage: firezone-headless-client [--token-path FILE] sign-in [OPTIONS]

Shows an address to sign in at with a browser on any machine, asks for the
token that you get there, without showing it, and stores it where only root can
read it. Needs root and a terminal. Nothing is sent anywhere.

  --auth-base-url URL    FIREZONE_AUTH_BASE_URL
          where to sign in [https://app.firezone.dev]
  --account-slug SLUG    FIREZONE_ACCOUNT_SLUG
          the account, as in its address [asked for in the browser]

Exit codes: 0 stored, or cancelled; 1 it cannot be stored, or there is no
terminal; 2 wrong usage.
`

const signOutHelp = `Usage: firezone-headless-client [--token-path FILE] sign-out [--force]

Removes the stored token from this machine. The portal is not told: delete the
token there if somebody else may have it.

  -f, --force    do not ask

Exit codes: 0 removed, cancelled, or there was none; 1 it cannot be removed;
2 wrong usage.
`

const dnsCleanupHelp = `Usage: firezone-headless-client dns-cleanup

Takes back what a client that was killed has left of its DNS settings, as its
next start would. Changes nothing if there is nothing to take back, or while a
client that runs has control. Needs root where there is something to do.

Exit codes: 0 done, or there was nothing to do; 1 it could not be done; 2 wrong
usage.
`

const commandHelp: { readonly [command: string]: string } = {
  "route": routeHelp,
  "status": statusHelp,
  "doctor": doctorHelp,
  "completions": completionsHelp,
  "ping": pingHelp,
  "debug": debugHelp,
  "sign-in": signInHelp,
  "sign-out": signOutHelp,
  "dns-cleanup": dnsCleanupHelp
}

/** Of the command that `words` begin with, else of the whole. */
export const helpFor = (words: ReadonlyArray<string>, version: string): string => {
  const command = (words[0] === "help" ? words[1] : words[0]) ?? ""
  return Object.hasOwn(commandHelp, command) ? commandHelp[command] as string : rootHelp(version, "auto")
}
