/** The highest rate of 1200-byte datagrams at which less than 1 % of them are lost. */
import * as Effect from "effect/Effect"
import type { LabError } from "../src/lab/LabError.ts"
import type { Topology } from "../src/lab/topology.ts"
import { type Direction, directions, iperf } from "./iperf.ts"
import { runToEnd } from "./lab.ts"
import { type BenchOptions, type BenchResult, figure, ratios } from "./report.ts"
import { highestRate, type Probe } from "./search.ts"
import { byTurns, pathSettings, roundsSettings, startSides, stated } from "./sides.ts"

const DATAGRAM = 1200
const LOST_PERCENT = 1
const FACTOR = 2

const FIRST_MEGABITS = 100

const steps = ({ quick }: BenchOptions): number => quick ? 2 : 3
const probeSeconds = ({ quick, seconds }: BenchOptions): number => quick ? 1 : Math.max(2, Math.floor(seconds / 2))

export const settings = (options: BenchOptions): ReadonlyArray<string> => [
  ...pathSettings("direct"),
  `iperf3, UDP, ${DATAGRAM} bytes, socket buffers as they are; what counts is received`,
  `the rate is doubled from ${FIRST_MEGABITS} Mbit/s, then the gap halved ${steps(options)} times, ${
    probeSeconds(options)
  } s for each try`,
  "no tunnel is what iperf3 itself can do here",
  ...roundsSettings({ ...options, seconds: probeSeconds(options) })
]

const search = (
  network: Topology,
  target: string,
  direction: Direction,
  options: BenchOptions
): Effect.Effect<number, LabError> =>
  highestRate(
    (rate) =>
      Effect.map(
        iperf(network, target, direction, [
          ...["-u", "-l", String(DATAGRAM), "-b", `${Math.round(rate)}M`],
          ...["-t", String(probeSeconds(options))]
        ]),
        ({ lostPercent, megabitsPerSecond, sentMegabitsPerSecond }): Probe => ({
          passed: lostPercent < LOST_PERCENT,
          achieved: megabitsPerSecond,
          // A sender that cannot do more says nothing about higher rates.
          exhausted: sentMegabitsPerSecond < 0.9 * rate
        })
      ),
    { first: FIRST_MEGABITS, highest: 12_800, steps: steps(options) }
  )

export const run = (options: BenchOptions) =>
  runToEnd(Effect.gen(function*() {
    const { network, ours, plain, wireguardGo } = yield* startSides()
    const sides = [ours, wireguardGo, plain]
    const results: Array<BenchResult> = []
    for (const direction of directions) {
      const rates = yield* byTurns(
        options.rounds,
        sides,
        ({ target }) => search(network, target, direction, options)
      )
      results.push(
        ...stated(sides, direction, "Mbit/s", rates, "higher"),
        figure(`${direction}, ratio`, "x", ratios(rates[0] ?? [], rates[1] ?? []), { atLeast: FACTOR })
      )
    }
    return results
  }))
