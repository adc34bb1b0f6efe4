/** What a long transfer does to the client's event loop and heap. */
import * as Effect from "effect/Effect"
import { directions, iperf } from "./iperf.ts"
import { runToEnd } from "./lab.ts"
import { LAG_RESOLUTION_MILLIS, monitored, observe } from "./monitor.ts"
import { type BenchOptions, type BenchResult, figure } from "./report.ts"
import { pathSettings, roundsSettings, startSides } from "./sides.ts"

const LAG_P99_MILLIS = 20
const MAJOR_PAUSE_MILLIS = 5
/** Of the heap in use between the first transfer and the last, which may differ by what is not yet collected. */
const GROWTH_MEBIBYTES = 10
const MEBIBYTE = 2 ** 20

/** Of one transfer in one direction. */
const transferSize = ({ quick }: BenchOptions): string => quick ? "200M" : "10G"

export const settings = (options: BenchOptions): ReadonlyArray<string> => [
  ...pathSettings("direct"),
  `iperf3, 4 TCP streams, ${transferSize(options)}B (units of 2^10) in each direction of each round`,
  `a file that Node loads before the client samples the event loop every ${LAG_RESOLUTION_MILLIS} ms and gets every garbage collection from V8; --trace-gc is on`,
  "major: a stop of a mark-compact; its incremental steps, which also stop the program, are stated apart",
  ...roundsSettings(options)
]

/** The sizes of the heap after each mark-compact, in MiB, as `--trace-gc` tells them. */
export const tracedHeap = (log: string): ReadonlyArray<number> =>
  [...log.matchAll(/(?:Mark-[Cc]ompact|Mark-sweep)[^\n]*?-> ([0-9.]+) \(/g)].map((match) => Number(match[1]))

export const run = (options: BenchOptions) =>
  runToEnd(Effect.gen(function*() {
    const { client, network, ours } = yield* startSides({ clientEnv: (network) => monitored(network) })
    const transfer = (direction: (typeof directions)[number], size: string) =>
      iperf(network, ours.target, direction, ["-n", size, "-P", "4"])
    for (const direction of directions) yield* transfer(direction, options.quick ? "100M" : "1G")
    const start = yield* observe(network, client)
    const results: Array<BenchResult> = []
    const heaps: Array<number> = [start.heapUsed]
    for (const direction of directions) {
      const rounds: Array<{
        readonly rate: number
        readonly p50: number
        readonly p99: number
        readonly max: number
        readonly majors: number
        readonly worst: number
        readonly step: number
        readonly minors: number
        readonly share: number
      }> = []
      for (let round = 0; round < options.rounds; round++) {
        yield* observe(network, client)
        const { megabitsPerSecond } = yield* transfer(direction, transferSize(options))
        const { heapUsed, lag, pauses, seconds } = yield* observe(network, client)
        heaps.push(heapUsed)
        const worst = (kind: string): number =>
          pauses.reduce((most, pause) => pause.kind === kind ? Math.max(most, pause.millis) : most, 0)
        const count = (kind: string): number => pauses.filter((pause) => pause.kind === kind).length
        rounds.push({
          rate: megabitsPerSecond,
          ...lag,
          majors: count("major"),
          worst: worst("major"),
          step: worst("incremental"),
          minors: count("minor"),
          share: pauses.reduce((sum, { millis }) => sum + millis, 0) / (seconds * 10)
        })
      }
      const of = (part: keyof (typeof rounds)[number]) => rounds.map((round) => round[part])
      results.push(
        figure(`${direction}, rate meanwhile`, "Mbit/s", of("rate"), { better: "higher" }),
        figure(`${direction}, lag p50`, "ms", of("p50"), { better: "lower" }),
        figure(`${direction}, lag p99`, "ms", of("p99"), { below: LAG_P99_MILLIS }),
        figure(`${direction}, lag, worst`, "ms", of("max"), { better: "lower" }),
        figure(`${direction}, major collections`, "", of("majors"), { better: "lower" }),
        figure(`${direction}, longest major pause`, "ms", [Math.max(...of("worst"))], { atMost: MAJOR_PAUSE_MILLIS }),
        figure(`${direction}, longest incremental step`, "ms", of("step"), { better: "lower" }),
        figure(`${direction}, minor collections`, "", of("minors"), { better: "lower" }),
        figure(`${direction}, time in collections`, "%", of("share"), { better: "lower" })
      )
    }
    const traced = tracedHeap(client.log())
    const [first, last] = [traced[0], traced.at(-1)]
    return [
      ...results,
      figure("heap in use, growth over all of it", "MiB", [
        ((heaps.at(-1) ?? Number.NaN) - start.heapUsed) / MEBIBYTE
      ], { atMost: GROWTH_MEBIBYTES }),
      ...(first === undefined || last === undefined
        ? []
        : [figure("heap after a mark-compact, last", "MiB", [last], { better: "lower" })])
    ]
  }))
