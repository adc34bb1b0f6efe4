/** Round trips to the host behind the gateway, while nothing else is sent and beside bulk TCP. */
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import { LabError } from "../src/lab/LabError.ts"
import type { Topology } from "../src/lab/topology.ts"
import { type Direction, directions, iperf } from "./iperf.ts"
import { runToEnd } from "./lab.ts"
import { type BenchOptions, type BenchResult, figure, quantile } from "./report.ts"
import { byTurns, pathSettings, roundsSettings, type Side, startSides, stated } from "./sides.ts"

const INTERVAL_SECONDS = 0.01
const IDLE_DIFFERENCE_MICROS = 100
const LOADED_P99_MILLIS = 10
/** Until the windows have grown. */
const RAMP_SECONDS = 1.5
/** Of pings before the first figure, to every side: until code is compiled that runs a hundred times a second. */
const WARM_UP_SECONDS = 3

export const settings = (options: BenchOptions): ReadonlyArray<string> => [
  ...pathSettings("direct"),
  `ping every ${
    INTERVAL_SECONDS * 1000
  } ms; a quantile is over the answers of one measurement, the figure its median over rounds`,
  `${WARM_UP_SECONDS} s of pings to every side before the first figure`,
  `load: one TCP stream of iperf3 through the same tunnel, ${RAMP_SECONDS} s before the first ping`,
  ...roundsSettings(options)
]

/** Milliseconds. */
interface Times {
  readonly p50: number
  readonly p99: number
  readonly lostPercent: number
}

const pings = (network: Topology, target: string, seconds: number): Effect.Effect<Times, LabError> =>
  Effect.gen(function*() {
    // Told how long and not how many: lost ones must not make it last longer than what runs beside.
    const { stderr, stdout } = yield* network.run(
      "client",
      ["ping", "-n", "-i", String(INTERVAL_SECONDS), "-w", String(seconds), target],
      { timeoutMillis: (seconds + 60) * 1000 }
    )
    const times = [...stdout.matchAll(/time=([0-9.]+) ms/g)].map((match) => Number(match[1]))
    // The last one may still be on its way when ping ends: what was sent is counted up to the last answer.
    const sent = Math.max(...[...stdout.matchAll(/icmp_seq=(\d+)/g)].map((match) => Number(match[1])))
    if (times.length === 0) return yield* new LabError({ what: `ping ${target}`, why: stderr.trim() || "no answer" })
    return {
      p50: quantile(times, 0.5),
      p99: quantile(times, 0.99),
      lostPercent: (sent - times.length) / sent * 100
    }
  })

const loaded = (network: Topology, { target }: Side, direction: Direction, seconds: number) =>
  Effect.gen(function*() {
    const bulk = yield* Effect.fork(
      iperf(network, target, direction, ["-t", String(Math.ceil(seconds + RAMP_SECONDS) + 2)])
    )
    yield* Effect.sleep(RAMP_SECONDS * 1000)
    const times = yield* pings(network, target, seconds)
    // The pings were beside it for as long as they took, or the figure is not what it says.
    if (bulk.unsafePoll() !== null) yield* new LabError({ what: "iperf3", why: "ended before the pings did" })
    yield* Fiber.join(bulk)
    return times
  })

export const run = ({ rounds, seconds }: BenchOptions) =>
  runToEnd(Effect.gen(function*() {
    const { network, ours, plain, wireguardGo } = yield* startSides()
    const sides = [ours, wireguardGo, plain]
    const results: Array<BenchResult> = []
    const state = (what: string, all: ReadonlyArray<ReadonlyArray<Times>>): void => {
      const of = (part: keyof Times) => all.map((side) => side.map((times) => times[part]))
      results.push(
        ...stated(sides, `${what} p50`, "ms", of("p50"), "lower"),
        ...stated(sides, `${what} p99`, "ms", of("p99"), "lower"),
        ...stated(sides, `${what} lost`, "%", of("lostPercent"), "lower")
      )
    }
    yield* byTurns(1, sides, ({ target }) => pings(network, target, WARM_UP_SECONDS))
    const idle = yield* byTurns(rounds, sides, ({ target }) => pings(network, target, seconds))
    state("idle", idle)
    const added = (idle[0] ?? []).map(({ p50 }, round) => (p50 - (idle[1]?.[round]?.p50 ?? Number.NaN)) * 1000)
    results.push(
      figure("idle p50, more than wireguard-go's", "us", added, { atMost: IDLE_DIFFERENCE_MICROS })
    )
    for (const direction of directions) {
      const load = yield* byTurns(rounds, sides, (side) => loaded(network, side, direction, seconds))
      state(`beside TCP ${direction}`, load)
      results.push(
        figure(`beside TCP ${direction} p99, judged`, "ms", (load[0] ?? []).map(({ p99 }) => p99), {
          below: LOADED_P99_MILLIS
        })
      )
    }
    return results
  }))
