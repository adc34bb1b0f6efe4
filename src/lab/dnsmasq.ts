/** dnsmasq as the name server of the Internet (`inet`) and of the private network (`res`). */
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import { dig } from "./dig.ts"
import { LabError } from "./LabError.ts"
import type { Daemon } from "./processes.ts"
import { requirePrograms } from "./requirePrograms.ts"
import { eventually } from "./scenario.ts"
import { addresses, type Topology } from "./topology.ts"

export const nameServers = {
  inet: [addresses.dns4, addresses.dns6],
  res: [addresses.resourceDns4, addresses.resourceDns6]
} as const

/** What it is asked first, to see that it is up. */
const READY = "ready.lab.test"

/** An option without its dashes, such as `host-record=www.corp.test,172.20.0.10`. */
type Options = ReadonlyArray<string>

/**
 * Starts it with these records; it knows nothing else and asks nobody. Its log has a line for each query: `query[A] NAME from
 * ADDRESS`.
 */
export const start = (
  topology: Topology,
  host: keyof typeof nameServers,
  options: Options,
  /** Where it listens; one that is not the host's first has addresses of its own. */
  [ipv4, ipv6]: readonly [ipv4: string, ipv6: string] = nameServers[host]
): Effect.Effect<Daemon, LabError, Scope.Scope> =>
  Effect.gen(function*() {
    yield* requirePrograms(["dnsmasq", "dig"], "dnsmasq-base bind9-dnsutils")
    const name = `dnsmasq-${host}${ipv4 === nameServers[host][0] ? "" : `-${ipv4}`}`
    const daemon = yield* topology.daemon(host, name, [
      ...["dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--no-resolv", "--no-hosts", "--bind-interfaces"],
      ...["--user=root", `--pid-file=/run/${name}.pid`, `--listen-address=${ipv4},${ipv6}`],
      ...["--log-queries", "--log-facility=-", `--host-record=${READY},${ipv4}`],
      ...options.map((option) => `--${option}`)
    ])
    const isUp = yield* eventually(
      Effect.map(dig(topology, host, [`@${ipv4}`, READY]), ({ status }) => status === "NOERROR" || daemon.hasExited()),
      5000
    )
    if (isUp === undefined || daemon.hasExited()) {
      return yield* new LabError({ what: `dnsmasq on ${host}`, why: daemon.log().slice(-1000) })
    }
    return daemon
  })

/** Makes the private network's name server a gateway's. */
export const forGateway = (topology: Topology, host: "gw" | "gw2" = "gw"): Effect.Effect<void, LabError> =>
  Effect.asVoid(topology.must(host, ["sh", "-c", `echo nameserver ${addresses.resourceDns4} > /etc/resolv.conf`]))
