/** What asking the route cache costs, and how seldom it asks the system: with a real resolver, on Linux. */
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import { spawn } from "node:child_process"
import * as fs from "node:fs"
import * as os from "node:os"
import * as path from "node:path"
import * as ReadinessPollerKoffi from "../src/layers/poll/ReadinessPollerKoffi.ts"
import * as RouteCacheLive from "../src/layers/route/RouteCacheLive.ts"
import * as RouteResolverHost from "../src/layers/route/RouteResolverHost.ts"
import * as DnsSocketLive from "../src/layers/socket/DnsSocketLive.ts"
import * as SocketFactoryLinux from "../src/layers/socket/SocketFactoryLinux.ts"
import { ip, type IpAddress, SocketAddress } from "../src/protocol/wire/address.ts"
import { encodeQuery, RecordType } from "../src/protocol/wire/dns.ts"
import { DnsSocket } from "../src/services/DnsSocket.ts"
import { RouteCache } from "../src/services/RouteCache.ts"
import { RouteResolver } from "../src/services/RouteResolver.ts"
import type { BenchResult } from "./report.ts"
import { atMost, nanosPerCall } from "./timing.ts"

const EXCHANGES = 1000

/** The host's resolver, its lookups counted and put off by a turn of the event loop, as on a busy machine. */
const makeCounted = () => {
  const counted = { lookups: 0 }
  const layer = Layer.effect(
    RouteResolver,
    Effect.map(RouteResolver, (resolver) =>
      RouteResolver.of({
        ...resolver,
        resolve: (destination) =>
          Effect.sync(() => void (counted.lookups += 1)).pipe(
            Effect.zipRight(Effect.async<void>((resume) => void setImmediate(() => resume(Effect.void)))),
            Effect.zipRight(resolver.resolve(destination))
          )
      }))
  ).pipe(Layer.provide(RouteResolverHost.layer))
  return { counted, layer: Layer.provideMerge(RouteCacheLive.layer, layer) }
}

const loopback = (count: number): ReadonlyArray<IpAddress> =>
  Array.from({ length: count }, (_, i) => ip(`127.0.${i >> 8}.${i & 255}`))

const hits = Effect.gen(function*() {
  const cache = yield* RouteCache
  const destinations = loopback(64)
  yield* Effect.forEach(destinations, cache.get)
  const [one = ip("127.0.0.0")] = destinations
  const { peek } = cache
  const peekOne = nanosPerCall(1_000_000, (calls) => {
    for (let i = 0; i < calls; i++) if (peek(one) === undefined) throw new Error("a miss")
  })
  const peekMany = nanosPerCall(1_000_000, (calls) => {
    for (let i = 0; i < calls; i++) if (peek(destinations[i & 63] as IpAddress) === undefined) throw new Error("a miss")
  })
  const getMany = nanosPerCall(50_000, (calls) =>
    Effect.runSync(Effect.gen(function*() {
      for (let i = 0; i < calls; i++) yield* cache.get(destinations[i & 63] as IpAddress)
    })))
  return [
    atMost("peek, hit, one destination", peekOne, "ns", 150),
    atMost("peek, hit, 64 destinations in turn", peekMany, "ns", 150),
    atMost("get, hit, 64 destinations in turn", getMany / 1000, "us", 3)
  ]
}).pipe(Effect.provide(makeCounted().layer))

const misses = Effect.gen(function*() {
  const resolver = yield* RouteResolver
  const nanos = nanosPerCall(2000, (calls) =>
    Effect.runSync(Effect.gen(function*() {
      for (let i = 0; i < calls; i++) yield* resolver.resolve(ip("127.0.0.1"))
    })))
  const result: BenchResult = { name: "lookup by the system, as at a miss", value: nanos / 1000, unit: "us" }
  return result
}).pipe(Effect.provide(RouteResolverHost.layer))

const concurrent = Effect.gen(function*() {
  const { counted, layer } = makeCounted()
  const routes = yield* Effect.flatMap(
    RouteCache,
    ({ get }) =>
      Effect.forEach(Array.from({ length: 10_000 }, () => ip("127.0.0.1")), get, { concurrency: "unbounded" })
  ).pipe(
    Effect.provide(layer)
  )
  if (routes.length !== 10_000) throw new Error("answers are missing")
  const result: BenchResult = {
    name: "lookups for 10,000 concurrent gets of one destination",
    value: counted.lookups,
    unit: "lookups",
    aim: "= 1",
    ok: counted.lookups === 1
  }
  return result
})

/** A process that sends every query back, so that its work does not count as ours; gives its port. */
const dnsServer = Effect.acquireRelease(
  Effect.sync(() =>
    spawn(process.execPath, [
      "--eval",
      `const socket = require("node:dgram").createSocket("udp4")
      socket.on("message", (bytes, { address, port }) => socket.send(bytes, port, address))
      socket.bind(0, "127.0.0.1", () => console.log(socket.address().port))`
    ], { stdio: ["ignore", "pipe", "inherit"] })
  ),
  (server) => Effect.sync(() => server.kill("SIGKILL"))
).pipe(
  Effect.flatMap((server) =>
    Effect.promise(() =>
      new Promise<number>((resolve) => void server.stdout.once("data", (line: Buffer) => resolve(Number(line))))
    )
  )
)

const exchanges = Effect.gen(function*() {
  const { counted, layer } = makeCounted()
  const dns = DnsSocketLive.layer.pipe(
    // Nothing to keep out of a tunnel here, and marking needs a capability.
    Layer.provide(SocketFactoryLinux.layerWith({ mark: undefined })),
    Layer.provide(Layer.merge(ReadinessPollerKoffi.layer, layer))
  )
  const measured = yield* Effect.gen(function*() {
    const port = yield* dnsServer
    const { udp } = yield* DnsSocket
    const resolver = new SocketAddress(ip("127.0.0.1"), port)
    const query = encodeQuery(1, "example.test", RecordType.A) as Uint8Array
    const run = Effect.gen(function*() {
      for (let i = 0; i < EXCHANGES; i++) yield* udp(query, resolver)
    })
    const traced = yield* Effect.tryPromise(() => trace(() => Effect.runPromise(run))).pipe(
      Effect.catchAll(({ error }) =>
        Effect.as(
          Effect.sync(() => process.stderr.write(`no count by strace: ${String(error)}\n`)),
          undefined
        )
      )
    )
    if (traced === undefined) yield* run
    const before = process.cpuUsage()
    yield* run // untraced
    const { system, user } = process.cpuUsage(before)
    return { traced, micros: (system + user) / EXCHANGES }
  }).pipe(Effect.scoped, Effect.provide(dns))
  const results: ReadonlyArray<BenchResult> = [
    { name: "processor time of one DNS exchange over UDP", value: measured.micros, unit: "us" },
    atMost(`lookups in ${2 * EXCHANGES} DNS exchanges, by the resolver`, counted.lookups, "lookups", 1),
    ...measured.traced === undefined
      ? []
      : [atMost(`lookups in ${EXCHANGES} DNS exchanges, by strace`, measured.traced, "lookups", 1)]
  ]
  return results
})

/**
 * How many routes this process asks the kernel for while `body` runs, by strace. A lookup also asks for the entry that
 * matched (FIB_MATCH), which is not counted again.
 */
const trace = async (body: () => Promise<void>): Promise<number> => {
  const folder = fs.mkdtempSync(path.join(os.tmpdir(), "fz-bench-"))
  try {
    const log = path.join(folder, "strace")
    const strace = spawn(
      "strace",
      ["-f", "-e", "trace=sendto,sendmsg", "-s", "64", "-o", log, "-p", String(process.pid)],
      { stdio: ["ignore", "ignore", "pipe"] }
    )
    const ended = new Promise<void>((resolve) => void strace.once("close", () => resolve()))
    await new Promise<void>((resolve, reject) => {
      let said = ""
      strace.once("error", reject)
      strace.once("close", () => reject(new Error(said.trim())))
      strace.stderr.on("data", (chunk: Buffer) => {
        said += chunk.toString()
        if (/attached/.test(said)) resolve()
      })
    })
    await body()
    strace.kill("SIGINT") // detaches
    await ended
    const calls = fs.readFileSync(log, "utf8").split("\n")
    const datagrams = calls.filter((call) => call.includes("example")).length
    if (datagrams < EXCHANGES) throw new Error(`strace saw only ${datagrams} queries`) // else zero would mean nothing
    return calls.filter((call) => call.includes("RTM_GETROUTE") && !call.includes("FIB_MATCH")).length
  } finally {
    fs.rmSync(folder, { recursive: true })
  }
}

export const settings = (): ReadonlyArray<string> => [
  "in the bench's own process, with this machine's routes; times of hits are the best of nine series, of the rest one round",
  `DNS exchanges: twice ${EXCHANGES} over UDP with a server on the loopback, the first time watched by strace where it is installed`
]

export const run = (): Promise<ReadonlyArray<BenchResult>> =>
  Effect.runPromise(Effect.gen(function*() {
    return [...(yield* hits), yield* misses, yield* concurrent, ...(yield* exchanges)]
  }))
