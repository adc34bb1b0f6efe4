/** Resident memory of the client's process in four situations. */
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import type * as Scope from "effect/Scope"
import { addressIn, type Farm } from "../src/lab/gateway/farm.ts"
import { LabError } from "../src/lab/LabError.ts"
import { eventually } from "../src/lab/scenario.ts"
import * as topology from "../src/lab/topology.ts"
import { iperf } from "./iperf.ts"
import { memoryOf, runToEnd, startLab } from "./lab.ts"
import { type BenchOptions, type BenchResult, figure, median } from "./report.ts"
import { byTurns, roundsSettings, startSides, startWireguardGo, wireguardKey } from "./sides.ts"

const FARM: Farm = { gateways: 100, resourcesEach: 1 }
const IDLE_MEBIBYTES = 90
/** Until what the start needed has been given back. */
const settling = ({ quick }: BenchOptions): number => quick ? 1000 : 10_000

export const settings = (options: BenchOptions): ReadonlyArray<string> => [
  "resident memory (VmRSS) of the client's process, in MiB; shared libraries and the node executable are part of it",
  `read ${
    settling(options) / 1000
  } s after what is measured was reached; under load: the median of readings every 200 ms, and the highest`,
  `100 peers: this client has a session with each of 100 gateways; wireguard-go is given 100 peers and has no session`,
  ...roundsSettings(options)
]

type Memory = Effect.Effect<number, LabError, Scope.Scope>

const idle = (options: BenchOptions): Memory =>
  Effect.gen(function*() {
    const network = yield* topology.scoped
    const { client } = yield* startLab(network)
    yield* Effect.sleep(settling(options))
    return memoryOf(client.pid)
  })

const wireguardGo = (peers: number, options: BenchOptions): Memory =>
  Effect.gen(function*() {
    const network = yield* topology.scoped
    const { pid } = yield* startWireguardGo(network, "client")
    const { file } = yield* wireguardKey(network, "own")
    yield* network.must("client", ["wg", "set", "wg0", "private-key", file])
    yield* network.must("client", [
      "sh",
      "-ec",
      `ip link set wg0 mtu 1280 up
for i in $(seq ${peers}); do
  wg set wg0 peer "$(wg genkey | wg pubkey)" allowed-ips 10.$i.0.0/24 endpoint 203.0.113.30:51820
done`
    ])
    yield* Effect.sleep(settling(options))
    return memoryOf(pid)
  })

const manyPeers = (options: BenchOptions): Memory =>
  Effect.gen(function*() {
    const network = yield* topology.scoped
    const { client, lab } = yield* startLab(network, { farm: FARM })
    const targets = Array.from({ length: FARM.gateways }, (_, gateway) => addressIn(gateway, 0))
    const answered = yield* eventually(
      Effect.map(
        network.run("client", [
          "sh",
          "-c",
          `for to in ${targets.join(" ")}; do ping -n -q -c 1 -W 10 $to >/dev/null & pids="$pids $!"; done
for pid in $pids; do wait $pid || exit 1; done`
        ]),
        ({ code }) => code === 0
      ),
      60_000
    )
    const peers = (yield* lab.farm?.state ?? Effect.succeed({ peers: 0 })).peers
    if (answered === undefined || peers !== FARM.gateways) {
      return yield* new LabError({ what: "100 peers", why: `only ${peers} gateways have a connection` })
    }
    yield* Effect.sleep(settling(options))
    return memoryOf(client.pid)
  })

interface Loaded {
  readonly onePeer: number
  readonly median: number
  readonly highest: number
}

/** Of both tunnels, which are up at the same time. */
const onePeerAndLoad = (options: BenchOptions) =>
  Effect.gen(function*() {
    const { network, ours, wireguardGo } = yield* startSides()
    yield* Effect.sleep(settling(options))
    return yield* byTurns(1, [ours, wireguardGo], ({ pids, target }) =>
      Effect.gen(function*() {
        const pid = pids?.client ?? 0
        const onePeer = memoryOf(pid)
        const readings: Array<number> = []
        for (const direction of ["up", "down"] as const) {
          const bulk = yield* Effect.fork(iperf(network, target, direction, ["-t", String(options.seconds), "-P", "4"]))
          while (bulk.unsafePoll() === null) {
            readings.push(memoryOf(pid))
            yield* Effect.sleep(200)
          }
          yield* Fiber.join(bulk)
        }
        const loaded: Loaded = { onePeer, median: median(readings), highest: Math.max(...readings) }
        return loaded
      }))
  })

/** Each in labs of its own, removed before the next. */
export const run = (options: BenchOptions) =>
  runToEnd(Effect.gen(function*() {
    const [ours, theirs] = ["this client", "wireguard-go"]
    const idles: Array<number> = []
    const theirIdles: Array<number> = []
    const many: Array<number> = []
    const theirMany: Array<number> = []
    const loads: Array<Loaded> = []
    const theirLoads: Array<Loaded> = []
    for (let round = 0; round < options.rounds; round++) {
      idles.push(yield* Effect.scoped(idle(options)))
      theirIdles.push(yield* Effect.scoped(wireguardGo(0, options)))
      const [[own], [their]] = (yield* Effect.scoped(onePeerAndLoad(options))) as [[Loaded], [Loaded]]
      loads.push(own)
      theirLoads.push(their)
      many.push(yield* Effect.scoped(manyPeers(options)))
      theirMany.push(yield* Effect.scoped(wireguardGo(FARM.gateways, options)))
    }
    const pair = (what: string, own: ReadonlyArray<number>, their: ReadonlyArray<number>): Array<BenchResult> => [
      figure(`${what}, ${ours}`, "MiB", own, { better: "lower" }),
      figure(`${what}, ${theirs}`, "MiB", their, { better: "lower" })
    ]
    const of = (part: keyof Loaded) => [loads.map((load) => load[part]), theirLoads.map((load) => load[part])] as const
    return [
      figure(`idle, ${ours}`, "MiB", idles, { atMost: IDLE_MEBIBYTES }),
      figure(`idle, ${theirs}`, "MiB", theirIdles, { better: "lower" }),
      ...pair("1 peer", ...of("onePeer")),
      ...pair("100 peers", many, theirMany),
      ...pair("under load", ...of("median")),
      ...pair("under load, highest", ...of("highest"))
    ]
  }))
