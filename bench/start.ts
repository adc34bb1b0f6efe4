/** How long a user waits: from the start of the process to the first byte from behind the gateway. */
import * as Effect from "effect/Effect"
import { LabError } from "../src/lab/LabError.ts"
import type { Lab } from "../src/lab/services.ts"
import * as topology from "../src/lab/topology.ts"
import { runToEnd, serveArgv, startEmulators, toldBy, waitForInterface } from "./lab.ts"
import { monitored, observe } from "./monitor.ts"
import { type BenchOptions, figure } from "./report.ts"

const FIRST_BYTE_MILLIS = 1500
/** A start is short: more of them. */
const startsOf = ({ quick, rounds }: BenchOptions): number => quick ? 1 : 3 * rounds

export const settings = (options: BenchOptions): ReadonlyArray<string> => [
  `${startsOf(options)} starts each way by turns, medians (smallest .. largest)${
    options.quick ? "; QUICK: figures mean little" : ""
  }`,
  "a program on the client's host begins a new TCP connection to a web server behind the gateway every 5 ms; the first byte of the first answer counts",
  "portal, relay, gateway and web server are up, files are in the page cache, the client has its state folder from an earlier start",
  "modules: other starts, in which V8's debugger interface tells of each script; node itself: until the first module of the program is wanted"
]

interface Start {
  readonly firstByte: number
  readonly node: number
  readonly modules: number
  readonly count: number
}

/** Milliseconds since the client's process was started. */
const startOnce = (lab: Lab, watched: boolean) =>
  Effect.scoped(Effect.gen(function*() {
    const { topology: network } = lab
    const prober = yield* network.daemon(
      "client",
      "prober",
      serveArgv("first-byte", { address: topology.addresses.resource4, port: 80 })
    )
    yield* toldBy(prober, "ready", 15_000)
    const began = performance.timeOrigin + performance.now()
    const client = yield* lab.startClient(watched ? { env: monitored(network, true) } : {})
    const { at } = yield* toldBy(prober, "at", 30_000)
    if (typeof at !== "number") return yield* new LabError({ what: "client", why: "no byte came through the tunnel" })
    yield* waitForInterface(lab, client)
    const result: Start = { firstByte: at - began, node: Number.NaN, modules: Number.NaN, count: Number.NaN }
    if (!watched) return result
    const seen = yield* observe(network, client)
    return {
      ...result,
      node: seen.bootstrapped - seen.began,
      modules: seen.modules.lastAt - seen.bootstrapped,
      count: seen.modules.count
    }
  }))

export const run = (options: BenchOptions) =>
  runToEnd(Effect.gen(function*() {
    const network = yield* topology.scoped
    const lab = yield* startEmulators(network)
    yield* startOnce(lab, false)
    const plain: Array<Start> = []
    const watched: Array<Start> = []
    for (let i = 0; i < startsOf(options); i++) {
      plain.push(yield* startOnce(lab, false))
      watched.push(yield* startOnce(lab, true))
    }
    return [
      figure("start to first byte", "ms", plain.map(({ firstByte }) => firstByte), { atMost: FIRST_BYTE_MILLIS }),
      figure("start to first byte, watched", "ms", watched.map(({ firstByte }) => firstByte), { better: "lower" }),
      figure("node itself, watched", "ms", watched.map(({ node }) => node), { better: "lower" }),
      figure("then until the last module, watched", "ms", watched.map(({ modules }) => modules), { better: "lower" }),
      figure("modules", "files", watched.map(({ count }) => count), { better: "lower" })
    ]
  }))
