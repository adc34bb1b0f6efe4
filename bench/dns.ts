/**
 * dnsperf from the client's host against a sentinel, beside dnsperf straight at the same resolver on the Internet. Client,
 * dnsperf, resolver and routers share this machine's cores.
 */
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as Schedule from "effect/Schedule"
import type * as Scope from "effect/Scope"
import * as fs from "node:fs"
import * as path from "node:path"
import { dig } from "../src/lab/dig.ts"
import { LabError } from "../src/lab/LabError.ts"
import { requirePrograms } from "../src/lab/requirePrograms.ts"
import { eventually } from "../src/lab/scenario.ts"
import { ids } from "../src/lab/services.ts"
import * as topology from "../src/lab/topology.ts"
import { memoryOf, runToEnd, startLab, withCores } from "./lab.ts"
import type { BenchOptions, BenchResult } from "./report.ts"
import { atMost } from "./timing.ts"

const SECONDS = 5
/** Queries that wait for an answer at the same time. */
const OUTSTANDING = 100
/** Where latency and processor time are looked at. */
const MODERATE_RATE = 1000
/** Until caches, pools and the heap have the size that they keep. */
const WARM_UP_NAMES = 500_000
/** Of the names that memory is looked at over, to look at it before and after. */
const LOOK_SHARE = 0.2
const LOOK_MILLIS = 200
const manyNames = ({ quick }: BenchOptions): number => quick ? 100_000 : 1_000_000
const SENTINEL = "100.100.111.1"
const RESOURCE = "www.corp.test"
const { dns4 } = topology.addresses

interface Rate {
  readonly perSecond: number
  readonly lost: number
}

const numberIn = (text: string, label: string): number => Number(new RegExp(`${label}:\\s+([0-9.]+)`).exec(text)?.[1])

const dnsperf = (network: topology.Topology, server: string, file: string, options: ReadonlyArray<string>) =>
  Effect.map(
    network.must("client", ["dnsperf", "-s", server, "-d", file, ...options], { timeoutMillis: 600_000 }),
    ({ stdout }) => stdout
  )

const flatOut = (network: topology.Topology, server: string, file: string, until: ReadonlyArray<string>) =>
  Effect.map(
    dnsperf(network, server, file, ["-q", String(OUTSTANDING), "-O", "suppress=timeouts", ...until]),
    (text): Rate => ({
      perSecond: numberIn(text, "Queries per second"),
      lost: numberIn(text, "Queries lost")
    })
  )

/** The least that a process has in memory meanwhile, in MiB: it goes up and down with V8's collections. */
const lowestMemory = <A, E, R>(pid: number, effect: Effect.Effect<A, E, R>): Effect.Effect<number, E, R> =>
  Effect.gen(function*() {
    let lowest = Number.POSITIVE_INFINITY
    const look = Effect.sync(() => void (lowest = Math.min(lowest, memoryOf(pid))))
    const looking = yield* Effect.fork(Effect.repeat(look, Schedule.spaced(LOOK_MILLIS)))
    yield* effect
    yield* Fiber.interrupt(looking)
    return lowest
  })

/** Microseconds, of the queries that were answered. */
const latencies = (network: topology.Topology, server: string, file: string) =>
  Effect.map(
    dnsperf(network, server, file, ["-Q", String(MODERATE_RATE), "-l", String(SECONDS), "-v"]),
    (text) => {
      const times = [...text.matchAll(/^> NOERROR \S+ \S+ ([0-9.]+)$/gm)].map(([, seconds]) => Number(seconds) * 1e6)
      times.sort((a, b) => a - b)
      const quantile = (q: number): number => times[Math.floor(times.length * q)] ?? NaN
      return { p50: quantile(0.5), p99: quantile(0.99) }
    }
  )

/** A resolver that knows every name of `example.`, and answers faster than any client asks. */
const startResolver = (network: topology.Topology): Effect.Effect<void, LabError, Scope.Scope> =>
  Effect.gen(function*() {
    const config = path.join(network.folder, "unbound.conf")
    const lines = [
      ...["do-daemonize: no", "chroot: \"\"", "username: \"\"", "use-syslog: no", "logfile: \"\"", "pidfile: \"\""],
      ...["module-config: \"iterator\"", "access-control: 0.0.0.0/0 allow", `interface: ${dns4}`, "so-rcvbuf: 4m"],
      ...["local-zone: \"example.\" redirect", "local-data: \"example. 60 IN A 203.0.113.2\""]
    ]
    const text = lines.map((line) => `  ${line}\n`).join("")
    fs.writeFileSync(config, `server:\n${text}remote-control:\n  control-enable: no\n`)
    const daemon = yield* network.daemon("inet", "unbound", ["unbound", "-d", "-c", config])
    const isUp = yield* eventually(
      Effect.map(dig(network, "inet", [`@${dns4}`, "ready.example"]), ({ status }) => status === "NOERROR"),
      5000
    )
    if (isUp === undefined) return yield* new LabError({ what: "unbound", why: daemon.log().slice(-1000) })
    // Each query has a port of its own, which the router would remember for longer than its table is large.
    yield* network.must("natl", ["sh", "-c", "echo 1 > /proc/sys/net/netfilter/nf_conntrack_udp_timeout"])
  })

export const settings = (options: BenchOptions): ReadonlyArray<string> => [
  "client, two NAT routers, bridge, resolver (unbound, which answers every name by itself) and dnsperf share the cores",
  `dnsperf, ${OUTSTANDING} queries outstanding; forwarded: ${
    manyNames(options)
  } names asked once each, after ${WARM_UP_NAMES} others, memory the lowest before and after; answered locally: one name of a DNS resource, ${SECONDS} s`,
  `latencies: ${MODERATE_RATE} queries/s for ${SECONDS} s`,
  "one round"
]

const measure = (many: number) =>
  Effect.gen(function*() {
    yield* requirePrograms(["dnsperf", "unbound", "dig"], "dnsperf unbound bind9-dnsutils")
    const network = yield* topology.scoped
    yield* startResolver(network)
    const file = (name: string, lines: Iterable<string>): string => {
      const target = path.join(network.folder, name)
      fs.writeFileSync(target, `${[...lines].join("\n")}\n`)
      return target
    }
    // Asked once each: none is answered from a cache.
    let next = 0
    const fresh = (count: number): string => file("fresh", Array.from({ length: count }, () => `n${next++}.example A`))
    const local = file("local", [`${RESOURCE} A`])
    const { client } = yield* startLab(network, {
      resources: [{
        type: "dns",
        id: "77777777-7777-4777-8777-777777777777",
        name: RESOURCE,
        address: RESOURCE,
        sites: [ids.site],
        filters: []
      }]
    })
    const answered = yield* eventually(
      Effect.map(
        dig(network, "client", [`@${SENTINEL}`, "+time=1", "ready.example"]),
        ({ status }) => status === "NOERROR"
      ),
      5000
    )
    if (answered === undefined) return yield* new LabError({ what: "client", why: "forwards no query" })

    const straight = yield* flatOut(network, dns4, fresh(many), ["-l", String(SECONDS)])
    yield* flatOut(network, SENTINEL, fresh(WARM_UP_NAMES), ["-n", "1"])
    const memory = lowestMemory(
      client.pid,
      Effect.suspend(() => flatOut(network, SENTINEL, fresh(many * LOOK_SHARE), ["-n", "1"]))
    )
    const before = yield* memory
    const [forwarded, forwardingCores] = yield* withCores(
      client.pid,
      flatOut(network, SENTINEL, fresh(many), ["-n", "1"])
    )
    const growth = (yield* memory) - before
    const [answers, answeringCores] = yield* withCores(
      client.pid,
      flatOut(network, SENTINEL, local, ["-l", String(SECONDS)])
    )
    const moderate = (): string => fresh(MODERATE_RATE * SECONDS)
    const without = yield* latencies(network, dns4, moderate())
    const [through, share] = yield* withCores(client.pid, latencies(network, SENTINEL, moderate()))
    return { straight, forwarded, forwardingCores, growth, answers, answeringCores, without, through, share }
  })

const atLeast = (name: string, value: number, unit: string, limit: number): BenchResult => ({
  name,
  value,
  unit,
  aim: `>= ${limit}`,
  ok: value >= limit
})

export const run = async (options: BenchOptions): Promise<ReadonlyArray<BenchResult>> => {
  const many = manyNames(options)
  const { answeringCores, answers, forwarded, forwardingCores, growth, share, straight, through, without } =
    await runToEnd(measure(many))
  return [
    { name: "straight at the resolver", value: straight.perSecond, unit: "queries/s" },
    atLeast("forwarded", forwarded.perSecond, "queries/s", 10_000),
    atMost("forwarded, lost", forwarded.lost, `of ${many} queries`, 0),
    { name: "forwarded, client's cores in use", value: forwardingCores, unit: "cores" },
    { name: "forwarded, for each core", value: forwarded.perSecond / forwardingCores, unit: "queries/s" },
    // Not even 20 bytes for each name.
    atMost(`memory, growth over ${many} names`, growth, "MiB", 20),
    atLeast("answered locally", answers.perSecond, "queries/s", 50_000),
    { name: "answered locally, lost", value: answers.lost, unit: "queries" },
    { name: "answered locally, client's cores in use", value: answeringCores, unit: "cores" },
    { name: "answered locally, for each core", value: answers.perSecond / answeringCores, unit: "queries/s" },
    { name: `straight, p50 at ${MODERATE_RATE} queries/s`, value: without.p50, unit: "us" },
    { name: `straight, p99 at ${MODERATE_RATE} queries/s`, value: without.p99, unit: "us" },
    atMost("added by the client, p50", through.p50 - without.p50, "us", 300),
    { name: "added by the client, p99", value: through.p99 - without.p99, unit: "us" },
    atMost(`client's share of a core at ${MODERATE_RATE} queries/s`, share * 100, "%", 15)
  ]
}
