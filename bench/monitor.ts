/**
 * Watches a Node process from inside: it is loaded before the program by `--require`, so that the program itself is the
 * product as it is. SIGUSR2 makes it write what it saw since the latest one.
 */
import * as Effect from "effect/Effect"
import * as fs from "node:fs"
import * as path from "node:path"
import { LabError } from "../src/lab/LabError.ts"
import type { Daemon } from "../src/lab/processes.ts"
import { eventually } from "../src/lab/scenario.ts"
import type { Topology } from "../src/lab/topology.ts"

export const LAG_RESOLUTION_MILLIS = 5

export interface GcPause {
  readonly kind: "minor" | "major" | "incremental" | "weak callbacks"
  readonly millis: number
}

export interface Observed {
  readonly seconds: number
  /** How much later than due timers ran, in milliseconds. */
  readonly lag: { readonly p50: number; readonly p99: number; readonly max: number }
  readonly pauses: ReadonlyArray<GcPause>
  readonly heapUsed: number
  readonly rss: number
  readonly external: number
  /** Unix milliseconds at which the process began, and at which Node was ready for the program's first module. */
  readonly began: number
  readonly bootstrapped: number
  /** The scripts of files that V8 has been given, and when the last one was, if that was asked for. */
  readonly modules: { readonly count: number; readonly lastAt: number }
}

/** Follows the loading of modules by V8's debugger interface, which makes it a little slower. */
const moduleScript = `const { Session } = require("node:inspector")
const session = new Session()
session.connect()
session.on("Debugger.scriptParsed", ({ params: { url } }) => {
  if (!url.startsWith("file:")) return
  modules = { count: modules.count + 1, lastAt: performance.timeOrigin + performance.now() }
})
session.post("Debugger.enable")
`

const script = (file: string, followModules: boolean): string =>
  `"use strict"
const fs = require("node:fs")
const { monitorEventLoopDelay, performance, PerformanceObserver } = require("node:perf_hooks")
require("node:v8").setFlagsFromString("--trace-gc")
// Of this process alone.
delete process.env.NODE_OPTIONS
const bootstrapped = performance.timeOrigin + performance.now()
const resolution = ${LAG_RESOLUTION_MILLIS}
const kinds = { 1: "minor", 2: "minor", 4: "major", 8: "incremental", 16: "weak callbacks" }
const delay = monitorEventLoopDelay({ resolution })
let pauses = []
let modules = { count: 0, lastAt: 0 }
let since = performance.now()
${followModules ? moduleScript : ""}const take = (list) => {
  for (const entry of list.getEntries()) {
    if (pauses.length < 100000) pauses.push({ kind: kinds[entry.detail.kind] ?? "major", millis: entry.duration })
  }
}
const observer = new PerformanceObserver(take)
observer.observe({ entryTypes: ["gc"] })
delay.enable()
process.on("SIGUSR2", () => {
  const now = performance.now()
  const millis = (nanos) => Math.max(0, nanos / 1e6 - resolution)
  const { external, heapUsed, rss } = process.memoryUsage()
  take({ getEntries: () => observer.takeRecords() })
  const lag = { p50: millis(delay.percentile(50)), p99: millis(delay.percentile(99)), max: millis(delay.max) }
  const observed = { seconds: (now - since) / 1000, lag, pauses, heapUsed, rss, external,
    began: performance.timeOrigin, bootstrapped, modules }
  fs.writeFileSync(${JSON.stringify(`${file}.part`)}, JSON.stringify(observed))
  fs.renameSync(${JSON.stringify(`${file}.part`)}, ${JSON.stringify(file)})
  since = performance.now()
  pauses = []
  delay.reset()
})
`

const fileOf = (network: Topology): string => path.join(network.folder, "monitor.json")

/** The environment of a process that is to be watched; one in a lab. */
export const monitored = (network: Topology, followModules = false): Readonly<Record<string, string>> => {
  const file = path.join(network.folder, "monitor.cjs")
  fs.writeFileSync(file, script(fileOf(network), followModules), { mode: 0o600 })
  return { NODE_OPTIONS: `--require=${file}` }
}

/** What it saw since it was asked before. */
export const observe = (network: Topology, process: Daemon): Effect.Effect<Observed, LabError> =>
  Effect.gen(function*() {
    const file = fileOf(network)
    const read = Effect.sync((): Observed | undefined => {
      try {
        return JSON.parse(fs.readFileSync(file, "utf8")) as Observed
      } catch {
        return undefined
      }
    })
    // One that a process before this one wrote is not its word.
    fs.rmSync(file, { force: true })
    process.signal("SIGUSR2")
    const found = yield* eventually(read, 30_000)
    return found ?? (yield* new LabError({ what: "the watched process", why: "does not tell what it saw" }))
  })
