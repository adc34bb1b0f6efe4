/**
 * iperf3 through the lab's direct path, from the client's host to the resource behind the gateway, and through
 * wireguard-go in the same topology in the same run. All programs share this machine's cores: trust the ratios.
 */
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import * as fs from "node:fs"
import * as path from "node:path"
import { LabError } from "../src/lab/LabError.ts"
import { eventually } from "../src/lab/scenario.ts"
import * as topology from "../src/lab/topology.ts"
import type { BenchResult } from "./bench.ts"
import { runToEnd, startLab, withCores } from "./lab.ts"

const SECONDS = 5
const { resource4, resourceNetwork4 } = topology.addresses

interface Rates {
  readonly up: number
  readonly down: number
}

const iperf = (network: topology.Topology, reverse: boolean): Effect.Effect<number, LabError> =>
  Effect.gen(function*() {
    const { stderr, stdout } = yield* network.run("client", [
      ...["iperf3", "-J", "-c", resource4, "-t", String(SECONDS), "-O", "1"],
      ...(reverse ? ["-R"] : [])
    ])
    if (stdout === "") return yield* new LabError({ what: "iperf3", why: stderr.trim() })
    const result = JSON.parse(stdout) as {
      end?: { sum_received?: { bits_per_second: number } }
      error?: string
    }
    const rate = result.end?.sum_received?.bits_per_second
    if (rate === undefined) return yield* new LabError({ what: "iperf3", why: result.error ?? stdout })
    return rate / 1e6
  }).pipe(
    // It sometimes loses its own control connection, more so on a busy machine.
    Effect.tapError((error) => Effect.sync(() => process.stderr.write(`${error.message}\n`))),
    Effect.retry({ times: 2 })
  )

const rates = (network: topology.Topology): Effect.Effect<Rates, LabError> =>
  Effect.gen(function*() {
    yield* iperf(network, false) // warms up code, caches and windows
    return { up: yield* iperf(network, false), down: yield* iperf(network, true) }
  })

const pingMedian = (network: topology.Topology) =>
  Effect.map(
    network.must("client", ["ping", "-n", "-i", "0.02", "-c", "100", "-q", "-W", "2", resource4]),
    ({ stdout }) => Number(/= [0-9.]+\/([0-9.]+)\//.exec(stdout)?.[1])
  )

/** A WireGuard tunnel between the same hosts by wireguard-go, same inner MTU. */
const wireguardGo = (network: topology.Topology): Effect.Effect<void, LabError, Scope.Scope> =>
  Effect.gen(function*() {
    const key = (name: string) =>
      Effect.gen(function*() {
        const file = path.join(network.folder, `${name}.key`)
        const { stdout } = yield* network.must("client", ["wg", "genkey"])
        fs.writeFileSync(file, stdout, { mode: 0o600 })
        const publicKey = yield* network.must("client", ["wg", "pubkey"], { input: stdout })
        return { file, publicKey: publicKey.stdout.trim() }
      })
    const client = yield* key("wg-client")
    const gateway = yield* key("wg-gateway")
    yield* network.nat("natg", "fullcone")
    for (const host of ["gw", "client"] as const) {
      yield* network.daemon(host, `wireguard-go-${host}`, ["wireguard-go", "-f", "wg0"], { LOG_LEVEL: "error" })
      const up = yield* eventually(
        Effect.map(network.run(host, ["wg", "show", "wg0"]), ({ code }) => code === 0),
        5000
      )
      if (up === undefined) return yield* new LabError({ what: "wireguard-go", why: `did not start on ${host}` })
    }
    yield* network.must("gw", [
      "sh",
      "-c",
      `wg set wg0 listen-port 51820 private-key ${gateway.file} peer ${client.publicKey} allowed-ips 10.99.0.1/32
ip addr add 10.99.0.2/24 dev wg0; ip link set wg0 mtu 1280 up
nft add table ip wg; nft add chain ip wg post '{ type nat hook postrouting priority srcnat; }'
nft add rule ip wg post ip saddr 10.99.0.1 oifname res0 masquerade`
    ])
    yield* network.must("client", [
      "sh",
      "-c",
      `wg set wg0 private-key ${client.file} peer ${gateway.publicKey} allowed-ips 10.99.0.2/32,${resourceNetwork4} endpoint 203.0.113.30:51820
ip addr add 10.99.0.1/24 dev wg0; ip link set wg0 mtu 1280 up; ip route add ${resourceNetwork4} dev wg0`
    ])
    const answered = yield* network.run("client", ["ping", "-c", "3", "-W", "5", resource4])
    if (answered.code !== 0) return yield* new LabError({ what: "wireguard-go", why: "no ping through its tunnel" })
  })

const measure = Effect.gen(function*() {
  const network = yield* topology.scoped
  yield* network.daemon("res", "iperf3", ["iperf3", "-s"])
  const ours = yield* Effect.scoped(Effect.gen(function*() {
    const { client } = yield* startLab(network)
    yield* network.must("client", ["ping", "-c", "3", "-W", "10", resource4])
    const [measured, cpu] = yield* withCores(client.pid, rates(network))
    return { ...measured, cpu, ping: yield* pingMedian(network) }
  }))
  const theirs = yield* Effect.scoped(Effect.gen(function*() {
    yield* wireguardGo(network)
    return { ...(yield* rates(network)), ping: yield* pingMedian(network) }
  }))
  return { ours, theirs }
})

export const run = async (): Promise<ReadonlyArray<BenchResult>> => {
  const { ours, theirs } = await runToEnd(measure)
  const ratio = (name: string, value: number): BenchResult => ({ name, value, unit: "x", aim: ">= 1", ok: value >= 1 })
  return [
    { name: "TCP up, this client", value: ours.up, unit: "Mbit/s" },
    { name: "TCP up, wireguard-go", value: theirs.up, unit: "Mbit/s" },
    ratio("up, ratio", ours.up / theirs.up),
    { name: "TCP down, this client", value: ours.down, unit: "Mbit/s" },
    { name: "TCP down, wireguard-go", value: theirs.down, unit: "Mbit/s" },
    ratio("down, ratio", ours.down / theirs.down),
    { name: "client's cores in use", value: ours.cpu, unit: "cores" },
    { name: "ping, this client, mean", value: ours.ping, unit: "ms" },
    { name: "ping, wireguard-go, mean", value: theirs.ping, unit: "ms" }
  ]
}
