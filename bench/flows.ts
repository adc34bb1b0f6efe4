/** How many new flows a second get through, and whether that holds up to 100,000 of them. */
import * as Effect from "effect/Effect"
import * as fs from "node:fs"
import { dig } from "../src/lab/dig.ts"
import * as dnsmasq from "../src/lab/dnsmasq.ts"
import { LabError } from "../src/lab/LabError.ts"
import { requirePrograms } from "../src/lab/requirePrograms.ts"
import { eventually } from "../src/lab/scenario.ts"
import { hostRecords, named } from "../src/lab/scenarios/dns.ts"
import { networks } from "../src/lab/services.ts"
import { addresses, type Topology } from "../src/lab/topology.ts"
import { runToEnd, serveArgv, toldBy } from "./lab.ts"
import { type BenchOptions, figure, median, ratios } from "./report.ts"
import { byTurns, pathSettings, roundsSettings, type Side, startSides, stated, targets } from "./sides.ts"

export interface FlowsConfig {
  readonly address: string
  readonly firstPort: number
  readonly sockets: number
  readonly count: number
  /** How many wait for their answer at a time. */
  readonly window: number
  /** After how many answers the time is taken. */
  readonly bucket: number
}

export interface EchoConfig {
  readonly addresses: ReadonlyArray<string>
  readonly firstPort: number
  /** Ports of each address. */
  readonly count: number
}

export interface FlowsResult {
  /** Answered ones a second. */
  readonly rate: number
  readonly lost: number
  /** Of one bucket after the other. */
  readonly rates: ReadonlyArray<number>
}

const NAME = "flows.corp.test"
const SENTINEL = "100.100.111.1"
const FIRST_PORT = 20_000
/** Of the answering program; as many flows of one port here. */
const PORTS = 200
const WINDOW = 256
/** The slowest tenth of the flows against the median one: below that is a cliff. */
const CLIFF = 0.5
const LOST_PERCENT = 0.1
const CONNTRACK = "/proc/sys/net/netfilter/nf_conntrack_max"

const countOf = ({ quick }: BenchOptions): number => quick ? 10_000 : 100_000

export const settings = (options: BenchOptions): ReadonlyArray<string> => [
  ...pathSettings("direct"),
  `${
    countOf(options)
  } flows in a row, each a new pair of UDP ports (${PORTS} of them there), one datagram there and back, ${WINDOW} waiting at a time; not answered within 1 s is lost`,
  "the sender and the answering program are single-threaded Node programs: no tunnel is what they can do here",
  `no cliff: the slowest tenth has at least ${CLIFF} of the median tenth's rate`,
  ...roundsSettings(options)
]

const startEcho = (network: Topology) =>
  Effect.gen(function*() {
    const config: EchoConfig = { addresses: Object.values(targets), firstPort: FIRST_PORT, count: PORTS }
    const daemon = yield* network.daemon("res", "flow-echo", serveArgv("echo", config))
    yield* toldBy(daemon, "ready", 15_000)
  })

/** What the kernels on the way remember of the flows, whose tables are not what is measured. */
const forget = (network: Topology, target: string) =>
  Effect.forEach(
    ["gw", "res", "natl", "natg"] as const,
    (host) => network.run(host, ["conntrack", "-D", "-p", "udp", "-d", target]),
    { discard: true }
  )

const proxyOf = (network: Topology): Effect.Effect<string, LabError> =>
  Effect.gen(function*() {
    const found = yield* eventually(
      Effect.map(
        dig(network, "client", [`@${SENTINEL}`, "+time=2", NAME, "A"]),
        ({ records, status }) => status === "NOERROR" && records[0]?.data
      ),
      10_000
    )
    return found ?? (yield* new LabError({ what: `DNS resource ${NAME}`, why: "the client has no address for it" }))
  })

export const run = (options: BenchOptions) =>
  runToEnd(Effect.gen(function*() {
    yield* requirePrograms(["conntrack", "dnsmasq"], "conntrack dnsmasq-base")
    const count = countOf(options)
    const room = Number(fs.readFileSync(CONNTRACK, "utf8"))
    if (room < 1.2 * count) {
      return yield* new LabError({
        what: `the kernel's flow table is too small: ${room}`,
        why: `try again after: sysctl net.netfilter.nf_conntrack_max=${2 * count}`
      })
    }
    const { network, ours, plain, wireguardGo } = yield* startSides({
      equipment: { resources: [...networks, named(1, NAME)] },
      prepare: (network) =>
        Effect.gen(function*() {
          yield* dnsmasq.start(network, "res", [hostRecords(NAME)])
          yield* dnsmasq.forGateway(network)
        })
    })
    yield* startEcho(network)
    const proxy = yield* proxyOf(network)
    const sides: ReadonlyArray<Side> = [
      { ...ours, name: "this client, CIDR resource" },
      { ...ours, name: "this client, DNS resource", target: proxy },
      wireguardGo,
      plain
    ]
    // The gateway resolves the name at the first packet.
    const answered = yield* eventually(
      Effect.map(network.run("client", ["ping", "-n", "-c", "1", "-W", "2", proxy]), ({ code }) => code === 0),
      20_000
    )
    if (answered === undefined) return yield* new LabError({ what: NAME, why: `no ping to ${proxy} is answered` })
    const measure = (count: number) => (side: Side) =>
      Effect.gen(function*() {
        const config: FlowsConfig = {
          address: side.target,
          firstPort: FIRST_PORT,
          sockets: Math.ceil(count / PORTS),
          count,
          window: WINDOW,
          bucket: count / 10
        }
        const { stdout } = yield* network.must("client", serveArgv("flows", config), { timeoutMillis: 600_000 })
        yield* forget(network, side.target === proxy ? addresses.resource4 : side.target)
        const { lost, rate, rates } = JSON.parse(stdout) as FlowsResult
        return {
          rate,
          lost: lost / count * 100,
          slowest: Math.min(...rates) / median(rates)
        }
      })
    yield* byTurns(1, sides, measure(5000))
    const all = yield* byTurns(options.rounds, sides, measure(count))
    const rates = all.map((side) => side.map(({ rate }) => rate))
    return [
      ...stated(sides, "new flows", "flows/s", rates, "higher"),
      figure("CIDR resource, ratio to wireguard-go", "x", ratios(rates[0] ?? [], rates[2] ?? []), { better: "higher" }),
      figure("DNS resource, ratio to wireguard-go", "x", ratios(rates[1] ?? [], rates[2] ?? []), { better: "higher" }),
      ...sides.flatMap(({ name, pids }, side) => {
        const own = pids === ours.pids
        const slowest = all[side]?.map(({ slowest }) => slowest) ?? []
        const lost = all[side]?.map(({ lost }) => lost) ?? []
        return [
          figure(`slowest tenth, ${name}`, "of median", slowest, own ? { atLeast: CLIFF } : { better: "higher" }),
          figure(`lost, ${name}`, "%", lost, own ? { atMost: LOST_PERCENT } : { better: "lower" })
        ]
      })
    ]
  }))
