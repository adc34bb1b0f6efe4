/** `npm run bench -- NAME [--json]`: benchmarks with their aims. They never gate a build by time. */
import * as os from "node:os"

export interface BenchResult {
  readonly name: string
  readonly value: number
  readonly unit: string
  /** What we want, such as `<= 150`. */
  readonly aim?: string | undefined
  readonly ok?: boolean | undefined
}

interface Bench {
  readonly about: string
  readonly load: () => Promise<{ readonly run: () => Promise<ReadonlyArray<BenchResult>> }>
}

const benches: { readonly [name: string]: Bench } = {
  "route-cache": { about: "hits, misses and shared lookups of the route cache", load: () => import("./routeCache.ts") },
  crypto: { about: "sealing and opening one packet, by implementation; handshakes", load: () => import("./crypto.ts") },
  dns: {
    about: "dnsperf through the client's resolver in the lab, beside dnsperf straight at the same server (root)",
    load: () => import("./dns.ts")
  },
  hostile: {
    about: "datagrams of an attacker: time of each, memory after a million",
    load: () => import("./hostile.ts")
  },
  throughput: {
    about: "iperf3 through the lab's direct path, beside wireguard-go in the same topology (root)",
    load: () => import("./throughput.ts")
  }
}

const usage = `Usage: npm run bench -- NAME [--json]

${Object.entries(benches).map(([name, { about }]) => `  ${name.padEnd(14)} ${about}`).join("\n")}
`

const machine = (): string =>
  `${os.cpus().length} x ${os.cpus()[0]?.model.trim() ?? "unknown CPU"}, ${
    Math.round(os.totalmem() / 2 ** 30)
  } GiB, ${os.type()} ${os.release()}, Node ${process.versions.node}`

const main = async (): Promise<number> => {
  const args = process.argv.slice(2)
  const json = args.includes("--json")
  const [name] = args.filter((arg) => !arg.startsWith("-"))
  const bench = name === undefined ? undefined : benches[name]
  if (name === undefined || bench === undefined) {
    process.stderr.write(name === undefined ? usage : `no benchmark "${name}"\n\n${usage}`)
    return 2
  }
  const results = await (await bench.load()).run()
  if (json) {
    process.stdout.write(`${JSON.stringify({ bench: name, machine: machine(), results })}\n`)
    return 0
  }
  process.stdout.write(`${name} on ${machine()}\n`)
  const width = Math.max(...results.map(({ name }) => name.length))
  for (const { aim, name, ok, unit, value } of results) {
    const number = value >= 100 ? value.toFixed(0) : value.toPrecision(3)
    const verdict = aim === undefined ? "" : `   aim ${aim}${ok === undefined ? "" : ok ? ", met" : ", MISSED"}`
    process.stdout.write(`  ${name.padEnd(width)}  ${number.padStart(10)} ${unit}${verdict}\n`)
  }
  return 0
}

main().then(
  (code) => process.exit(code),
  (error: unknown) => {
    process.stderr.write(`${error instanceof Error ? error.stack ?? error.message : String(error)}\n`)
    process.exit(1)
  }
)
