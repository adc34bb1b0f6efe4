/** What the client's process does under load, by V8's profiler: explains figures of the other benches. */
import * as Effect from "effect/Effect"
import * as fs from "node:fs"
import * as os from "node:os"
import * as path from "node:path"
import { LabError } from "../src/lab/LabError.ts"
import type { Daemon } from "../src/lab/processes.ts"
import { eventually } from "../src/lab/scenario.ts"
import type { Topology } from "../src/lab/topology.ts"
import { type Direction, directions, iperf, type IperfResult } from "./iperf.ts"
import { runToEnd } from "./lab.ts"
import { type BenchOptions, type BenchResult, figure } from "./report.ts"
import { pathSettings, type SidePath, startSides } from "./sides.ts"

const SAMPLE_MICROS = 500
/** Functions that are stated; all are in the file. */
const STATED = 10
const RAMP_SECONDS = 1

/** Where the profiles stay: they open in the developer tools of Chrome and in editors. */
const folder = path.join(os.tmpdir(), `firezone-profiles-${process.pid}`)

export const settings = ({ seconds }: BenchOptions): ReadonlyArray<string> => [
  ...pathSettings("direct"),
  "then the same relayed: by channels of coturn",
  `the client's process beside one TCP stream of iperf3, ${seconds} s for each profiler`,
  "by perf, where it is installed and the kernel lets it: parts of the processor time",
  `by V8, a sample every ${SAMPLE_MICROS} us, which makes the client slower: a function's own time, in % of the time that it was not idle`,
  `V8's profiles: ${folder}/PATH-DIRECTION.cpuprofile`
]

const IDLE = "(idle)"
/** V8 has one name for all functions that koffi makes, and it is the wrong one. */
const NATIVE = "system calls and ciphers"

/** The parts of V8's format (Profiler.Profile of the inspector protocol) that are used here. */
export interface CpuProfile {
  readonly nodes: ReadonlyArray<{
    readonly id: number
    readonly callFrame: { readonly functionName: string; readonly url: string; readonly lineNumber: number }
  }>
  readonly samples: ReadonlyArray<number>
  readonly timeDeltas: ReadonlyArray<number>
}

const nameOf = ({ functionName, lineNumber, url }: CpuProfile["nodes"][number]["callFrame"]): string =>
  url !== ""
    ? `${functionName || "anonymous"} ${path.basename(url)}:${lineNumber + 1}`
    : functionName.startsWith("(")
    ? functionName
    : NATIVE

/** Own time by function in microseconds, most first, and what was spent idle. */
export const ownTimes = ({ nodes, samples, timeDeltas }: CpuProfile) => {
  const names = new Map(nodes.map(({ callFrame, id }) => [id, nameOf(callFrame)]))
  const times = new Map<string, number>()
  samples.forEach((id, i) => {
    const name = names.get(id) ?? "unknown"
    // A sample stands for the time until the next one.
    times.set(name, (times.get(name) ?? 0) + Math.max(0, timeDeltas[i + 1] ?? 0))
  })
  const idle = times.get(IDLE) ?? 0
  times.delete(IDLE)
  return { idle, functions: [...times].toSorted(([, a], [, b]) => b - a) }
}

const partOf = (line: string): string =>
  line.includes("[kernel")
    ? "kernel"
    : line.includes("[JIT]")
    ? "compiled JavaScript"
    : /chacha/i.test(line)
    ? "ChaCha20"
    : /poly1305/i.test(line)
    ? "Poly1305"
    : "node, koffi and libraries"

/** Percent of the samples by part, most first, of `perf report` by object and symbol. */
export const perfParts = (report: string): ReadonlyArray<readonly [string, number]> => {
  const parts = new Map<string, number>()
  for (const [line, percent] of report.matchAll(/^ *([0-9.]+)% .*$/gm)) {
    parts.set(partOf(line), (parts.get(partOf(line)) ?? 0) + Number(percent))
  }
  return [...parts].toSorted(([, a], [, b]) => b - a)
}

const fileOf = (network: Topology): string => path.join(network.folder, "profile.json")

const script = (file: string): string =>
  `"use strict"
const fs = require("node:fs")
const { Session } = require("node:inspector")
// Of this process alone.
delete process.env.NODE_OPTIONS
const session = new Session()
session.connect()
session.post("Profiler.enable")
session.post("Profiler.setSamplingInterval", { interval: ${SAMPLE_MICROS} })
let running = false
const write = (value) => {
  fs.writeFileSync(${JSON.stringify(`${file}.part`)}, JSON.stringify(value))
  fs.renameSync(${JSON.stringify(`${file}.part`)}, ${JSON.stringify(file)})
}
process.on("SIGUSR2", () => {
  running = !running
  if (running) session.post("Profiler.start", () => write({}))
  else session.post("Profiler.stop", (error, result) => write(error ?? result.profile))
})
`

const profiled = (network: Topology): Readonly<Record<string, string>> => {
  const file = path.join(network.folder, "profile.cjs")
  fs.writeFileSync(file, script(fileOf(network)), { mode: 0o600 })
  return { NODE_OPTIONS: `--require=${file}` }
}

/** Starts the profiler, or ends it: then the profile is what is returned. */
const toggle = (network: Topology, client: Daemon): Effect.Effect<string, LabError> =>
  Effect.gen(function*() {
    const file = fileOf(network)
    fs.rmSync(file, { force: true })
    client.signal("SIGUSR2")
    const written = yield* eventually(
      Effect.sync(() => fs.existsSync(file) ? fs.readFileSync(file, "utf8") : undefined),
      30_000
    )
    return written ?? (yield* new LabError({ what: "the profiled client", why: "does not tell what it saw" }))
  })

/** Nothing where perf is missing, or not allowed. */
const perf = (network: Topology, { pid }: Daemon, seconds: number) =>
  Effect.gen(function*() {
    const data = path.join(network.folder, "perf.data")
    const record = ["perf", "record", "-q", "-F", "999", "-p", String(pid), "-o", data, "--", "sleep", String(seconds)]
    const { code } = yield* network.run("client", record, { timeoutMillis: (seconds + 60) * 1000 })
    if (code !== 0) return []
    const report = ["perf", "report", "--stdio", "--no-children", "-F", "overhead,dso,symbol", "-i", data]
    return perfParts((yield* network.run("client", report, { timeoutMillis: 60_000 })).stdout)
  })

const measure = (sidePath: SidePath, seconds: number) =>
  Effect.gen(function*() {
    const { client, network, ours } = yield* startSides({ path: sidePath, clientEnv: profiled })
    const transfer = (direction: Direction, lasting: number) =>
      iperf(network, ours.target, direction, ["-t", String(lasting)])
    /** `profile` runs in the midst of a transfer. */
    const beside = <A, E>(direction: Direction, profile: Effect.Effect<A, E>) =>
      Effect.all([
        transfer(direction, seconds + 2 * RAMP_SECONDS),
        Effect.delay(profile, RAMP_SECONDS * 1000)
      ], { concurrency: "unbounded" })
    // Until the code is compiled.
    for (const direction of directions) yield* transfer(direction, 3)
    const results: Array<BenchResult> = []
    for (const direction of directions) {
      const what = `${sidePath} ${direction}`
      const percent = (name: string, value: number) => figure(`${what}, ${name}`, "%", [value])
      const rate = (by: string, { megabitsPerSecond }: IperfResult) =>
        figure(`${what}, rate beside ${by}`, "Mbit/s", [megabitsPerSecond])
      const [undisturbed, parts] = yield* beside(direction, perf(network, client, seconds))
      if (parts.length > 0) {
        results.push(rate("perf", undisturbed), ...parts.map(([part, value]) => percent(`perf, ${part}`, value)))
      }
      const [slower, profile] = yield* beside(
        direction,
        Effect.zipRight(toggle(network, client), Effect.delay(toggle(network, client), seconds * 1000))
      )
      fs.writeFileSync(path.join(folder, `${sidePath}-${direction}.cpuprofile`), profile)
      const { functions, idle } = ownTimes(JSON.parse(profile) as CpuProfile)
      const busy = functions.reduce((sum, [, micros]) => sum + micros, 0)
      results.push(
        rate("V8's profiler", slower),
        percent("not idle", busy / (busy + idle) * 100),
        ...functions.slice(0, STATED).map(([name, micros]) => percent(name, micros / busy * 100))
      )
    }
    return results
  })

export const run = async ({ seconds }: BenchOptions): Promise<ReadonlyArray<BenchResult>> => {
  fs.mkdirSync(folder, { mode: 0o700 })
  return [
    ...await runToEnd(measure("direct", seconds)),
    ...await runToEnd(measure("relayed", seconds))
  ]
}
