/** Processor time for each gigabyte of TCP, by the kernel's accounts of the processes and of the whole machine. */
import * as Effect from "effect/Effect"
import { directions, iperf } from "./iperf.ts"
import { cpuMillis, machineMillis, runToEnd } from "./lab.ts"
import { type BenchOptions, type BenchResult, figure, ratios } from "./report.ts"
import { byTurns, pathSettings, roundsSettings, type Side, startSides, stated } from "./sides.ts"

const GIGABYTE = 1e9
const WANTED_SHARE = 1 / 3

export const settings = (options: BenchOptions): ReadonlyArray<string> => [
  ...pathSettings("direct"),
  "iperf3, 1 TCP stream; a gigabyte is 10^9 bytes that arrived; time of a process is user and system time (10 ms ticks)",
  "machine: all cores, with iperf3 and the kernel's own work; meant for a machine that does nothing else",
  ...roundsSettings(options)
]

interface Spent {
  readonly client: number
  readonly both: number
  readonly machine: number
}

export const run = ({ rounds, seconds }: BenchOptions) =>
  runToEnd(Effect.gen(function*() {
    const { network, ours, plain, wireguardGo } = yield* startSides()
    const sides = [ours, wireguardGo, plain]
    const times = ({ pids }: Side) => ({
      client: pids === undefined ? 0 : cpuMillis(pids.client),
      gateway: pids === undefined ? 0 : cpuMillis(pids.gateway),
      machine: machineMillis()
    })
    const results: Array<BenchResult> = []
    for (const direction of directions) {
      const transfer = (side: Side) => iperf(network, side.target, direction, ["-t", String(seconds)])
      yield* byTurns(1, sides, transfer)
      const all = yield* byTurns(rounds, sides, (side) =>
        Effect.gen(function*() {
          const before = times(side)
          const { bytes } = yield* transfer(side)
          const after = times(side)
          const perGigabyte = (millis: number): number => millis / 1000 / (bytes / GIGABYTE)
          const client = after.client - before.client
          const spent: Spent = {
            client: perGigabyte(client),
            both: perGigabyte(client + after.gateway - before.gateway),
            machine: perGigabyte(after.machine - before.machine)
          }
          return spent
        }))
      const tunnels = [ours, wireguardGo]
      const of = (part: keyof Spent) => all.map((side) => side.map((spent) => spent[part]))
      const share = (what: string, part: keyof Spent): BenchResult => {
        const [own = [], their = []] = of(part)
        const shares = ratios(own, their)
        return figure(what, "of it", shares, { below: Number(WANTED_SHARE.toFixed(3)) })
      }
      results.push(
        ...stated(tunnels, `${direction}, client's process`, "s/GB", of("client"), "lower"),
        share(`${direction}, client's process, share of wireguard-go's`, "client"),
        ...stated(tunnels, `${direction}, both ends`, "s/GB", of("both"), "lower"),
        share(`${direction}, both ends, share of wireguard-go's`, "both"),
        ...stated(sides, `${direction}, machine`, "s/GB", of("machine"), "lower")
      )
    }
    return results
  }))
