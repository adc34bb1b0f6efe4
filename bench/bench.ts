/** `npm run bench -- NAME`: benchmarks with their aims. They never gate a build by time. */
import * as fs from "node:fs"
import { compare, comparisonTable, differences, readReport } from "./compare.ts"
import { describeEnvironment, readEnvironment } from "./environment.ts"
import { type CommandLine, parseCommandLine } from "./options.ts"
import { type BenchModule, type BenchOptions, type BenchRun, type Report, REPORT_FORMAT, table } from "./report.ts"

interface Bench {
  readonly about: string
  /** It measures nothing that has an aim: `all` leaves it out. */
  readonly explains?: boolean
  readonly load: () => Promise<BenchModule>
}

/** In the order in which `all` runs them. */
const benches: { readonly [name: string]: Bench } = {
  throughput: {
    about: "TCP, 1 and 4 streams, both directions, direct path; beside wireguard-go (root)",
    load: () => import("./throughput.ts")
  },
  relayed: {
    about: "the same through coturn; beside wireguard-go through socat (root)",
    load: () => import("./relayed.ts")
  },
  udp: {
    about: "the highest rate of 1200-byte datagrams with less than 1 % lost; beside wireguard-go (root)",
    load: () => import("./udp.ts")
  },
  ping: {
    about: "round trips, idle and beside bulk TCP; beside wireguard-go and no tunnel (root)",
    load: () => import("./ping.ts")
  },
  cpu: {
    about: "processor time for each gigabyte; beside wireguard-go and no tunnel (root)",
    load: () => import("./cpu.ts")
  },
  crypto: {
    about: "sealing and opening one packet, by implementation, beside openssl speed; handshakes",
    load: () => import("./crypto.ts")
  },
  memory: {
    about: "resident memory: idle, 1 peer, 100 peers, under load; beside wireguard-go (root)",
    load: () => import("./memory.ts")
  },
  start: {
    about: "from the start of the process to the first byte through the tunnel; loading of modules apart (root)",
    load: () => import("./start.ts")
  },
  flows: {
    about: "new flows per second through a CIDR and a DNS resource, up to 100,000; beside wireguard-go (root)",
    load: () => import("./flows.ts")
  },
  lag: {
    about: "the event loop's lag and garbage collection over a long transfer (root)",
    load: () => import("./lag.ts")
  },
  dns: {
    about: "dnsperf through the client's resolver in the lab, beside dnsperf straight at the same server (root)",
    load: () => import("./dns.ts")
  },
  "route-cache": { about: "hits, misses and shared lookups of the route cache", load: () => import("./routeCache.ts") },
  hostile: {
    about: "datagrams of an attacker: time of each, memory after a million",
    load: () => import("./hostile.ts")
  },
  profile: {
    about: "what the client does under load, by perf and by V8's profiler: explains figures of the others (root)",
    explains: true,
    load: () => import("./profile.ts")
  }
}

const usage = `Usage: npm run bench -- NAME... [--rounds N] [--seconds N] [--quick] [--json] [--output FILE]
       npm run bench -- all [...]
       npm run bench -- compare BASE.json [NEW.json] [--json]

${Object.entries(benches).map(([name, { about }]) => `  ${name.padEnd(14)} ${about}`).join("\n")}
  ${"all".padEnd(14)} every one of them but profile
  ${
  "compare".padEnd(14)
} what changed since BASE.json, which --output wrote; runs the same again unless NEW.json is given

  --rounds N     measure each side N times, by turns (default 3); figures are medians
  --seconds N    of one measurement (default 5)
  --quick        one short round: whether a bench works, not what it measures
  --json         write the figures as JSON instead of a table
  --output FILE  write them as JSON to a file as well
`

type Say = (text: string) => void

/** Where a person reads; apart from what another program reads. */
const saying = ({ json }: CommandLine): Say => (text) =>
  void (json ? process.stderr : process.stdout).write(`${text}\n`)

const runOne = async (bench: string, options: BenchOptions): Promise<BenchRun> => {
  const began = performance.now()
  const since = (): number => (performance.now() - began) / 1000
  try {
    const module = await present(benches[bench]).load()
    const results = await module.run(options)
    return { bench, durationSeconds: since(), settings: module.settings?.(options) ?? [], results }
  } catch (error) {
    const why = error instanceof Error ? error.message : String(error)
    return { bench, durationSeconds: since(), settings: [], results: [], error: why }
  }
}

const present = (bench: Bench | undefined): Bench => {
  if (bench === undefined) throw new Error("there is no such benchmark any more")
  return bench
}

/** One after the other; a bench that fails is told, and the others go on. */
const runAll = async (names: ReadonlyArray<string>, options: BenchOptions, say: Say): Promise<Report> => {
  const startedAt = new Date().toISOString()
  const environment = readEnvironment()
  say(describeEnvironment(environment))
  const runs: Array<BenchRun> = []
  let interrupted = false
  for (const signal of ["SIGINT", "SIGTERM"] as const) {
    process.on(signal, () => {
      interrupted = true
    })
  }
  for (const name of names) {
    if (interrupted) break
    say(`running ${name} ...`)
    const run = await runOne(name, options)
    runs.push(run)
    say(table(run))
  }
  return { format: REPORT_FORMAT, startedAt, environment, options, benches: runs }
}

const write = (report: Report, { json, output }: CommandLine): void => {
  if (output !== undefined) fs.writeFileSync(output, `${JSON.stringify(report, undefined, 2)}\n`)
  if (json) process.stdout.write(`${JSON.stringify(report)}\n`)
}

const failedOf = (report: Report): boolean => report.benches.some(({ error }) => error !== undefined)

const runCompare = async (files: ReadonlyArray<string>, line: CommandLine): Promise<number> => {
  const [baseFile, newFile] = files
  if (baseFile === undefined || files.length > 2) throw new Error("compare takes BASE.json and perhaps NEW.json")
  const base = readReport(baseFile)
  const next = newFile === undefined
    ? await runAll(base.benches.map(({ bench }) => bench), base.options, saying(line))
    : readReport(newFile)
  if (line.output !== undefined) write(next, { ...line, json: false })
  const changes = compare(base, next)
  const unlike = differences(base, next)
  if (line.json) process.stdout.write(`${JSON.stringify({ differences: unlike, changes })}\n`)
  else {
    for (const difference of unlike) process.stdout.write(`not the same: ${difference}\n`)
    process.stdout.write(`${comparisonTable(base, next, changes)}\n`)
  }
  return failedOf(next) ? 1 : 0
}

const main = async (): Promise<number> => {
  const [command, role = "", config = ""] = process.argv.slice(2)
  if (command === "serve") {
    const { serve } = await import("./serve.ts")
    serve(role, config)
    return new Promise(() => {})
  }
  let line: CommandLine
  try {
    line = parseCommandLine(process.argv.slice(2))
  } catch (error) {
    process.stderr.write(`${(error as Error).message}\n\n${usage}`)
    return 2
  }
  const [first, ...rest] = line.names
  if (first === "compare") return runCompare(rest, line)
  const names = first === "all" && rest.length === 0
    ? Object.keys(benches).filter((name) => benches[name]?.explains !== true)
    : line.names
  const unknown = names.find((name) => benches[name] === undefined)
  if (names.length === 0 || unknown !== undefined) {
    process.stderr.write(unknown === undefined ? usage : `no benchmark "${unknown}"\n\n${usage}`)
    return 2
  }
  const report = await runAll(names, line.options, saying(line))
  write(report, line)
  return failedOf(report) ? 1 : 0
}

main().then(
  (code) => process.exit(code),
  (error: unknown) => {
    process.stderr.write(`${error instanceof Error ? error.message : String(error)}\n`)
    process.exit(1)
  }
)
