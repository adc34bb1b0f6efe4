/** TCP through both tunnels by turns, with 1 and 4 streams in both directions. */
import * as Effect from "effect/Effect"
import { directions, iperf } from "./iperf.ts"
import { runToEnd } from "./lab.ts"
import { type BenchOptions, type BenchResult, figure, ratios } from "./report.ts"
import { byTurns, pathSettings, roundsSettings, type SidePath, startSides, stated } from "./sides.ts"

const STREAMS = [1, 4]
/** Left out of each measurement: windows grow, code gets compiled. */
const OMITTED_SECONDS = 1

export const tcpSettings = (path: SidePath) => (options: BenchOptions): ReadonlyArray<string> => [
  ...pathSettings(path),
  `iperf3, TCP, the first ${OMITTED_SECONDS} s left out`,
  ...roundsSettings(options)
]

/** `factor`: how many times wireguard-go's rate is wanted. */
export const measureTcp = (path: SidePath, factor: number, { rounds, seconds }: BenchOptions) =>
  runToEnd(Effect.gen(function*() {
    const { network, ours, wireguardGo } = yield* startSides({ path })
    const sides = [ours, wireguardGo]
    const options = (streams: number) => ["-t", String(seconds), "-O", String(OMITTED_SECONDS), "-P", String(streams)]
    // Until the compiler has seen it.
    for (const direction of directions) {
      yield* byTurns(1, sides, ({ target }) => iperf(network, target, direction, options(1)))
    }
    const results: Array<BenchResult> = []
    for (const streams of STREAMS) {
      for (const direction of directions) {
        const runs = yield* byTurns(
          rounds,
          sides,
          ({ target }) => iperf(network, target, direction, options(streams))
        )
        const rates = runs.map((run) => run.map(({ megabitsPerSecond }) => megabitsPerSecond))
        const what = `${streams} stream${streams === 1 ? "" : "s"} ${direction}`
        results.push(
          ...stated(sides, what, "Mbit/s", rates, "higher"),
          figure(`${what}, ratio`, "x", ratios(rates[0] ?? [], rates[1] ?? []), { atLeast: factor }),
          ...stated(
            sides,
            `${what}, retransmits`,
            "segments",
            runs.map((run) => run.map((r) => r.retransmits)),
            "lower"
          )
        )
      }
    }
    return results
  }))
