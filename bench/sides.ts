/**
 * What is measured and what beside, in one topology at the same time: this client, wireguard-go and no tunnel at all lead
 * from the same host to the same one. Each has an address of its own there, so that measuring them by turns needs no
 * change in between; who is not measured idles.
 */
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import * as fs from "node:fs"
import * as path from "node:path"
import * as coturn from "../src/lab/coturn.ts"
import { LabError } from "../src/lab/LabError.ts"
import { GATEWAY_RELAY_EXPIRY } from "../src/lab/portal/derivations.ts"
import type { Daemon } from "../src/lab/processes.ts"
import { requirePrograms } from "../src/lab/requirePrograms.ts"
import { eventually } from "../src/lab/scenario.ts"
import { noIpv6, onlyRelays } from "../src/lab/scenarios/paths.ts"
import * as services from "../src/lab/services.ts"
import * as topology from "../src/lab/topology.ts"
import { startLab } from "./lab.ts"
import { type BenchOptions, figure } from "./report.ts"

/** On the resource's host. The last two are in no resource. */
export const targets = {
  ours: topology.addresses.resource4,
  wireguardGo: "198.51.100.1",
  plain: "198.51.100.2"
} as const

const WIREGUARD_PORT = 51_820
/** Of the second relay: one that the routers of `onlyRelays` let through. */
const FORWARDER = { address: topology.addresses.secondRelay4, port: 3478 } as const
const GATEWAY = topology.addresses.gatewayRouter4

/** One way to the resource's host. */
export interface Side {
  readonly name: string
  readonly target: string
  /** Its processes, by where they are; none without a tunnel. */
  readonly pids: { readonly client: number; readonly gateway: number } | undefined
}

export interface Sides {
  readonly network: topology.Topology
  readonly lab: services.Lab
  readonly client: Daemon
  readonly ours: Side
  readonly wireguardGo: Side
  readonly plain: Side
}

export type SidePath = "direct" | "relayed"

export const pathSettings = (path: SidePath): ReadonlyArray<string> => [
  "client, NAT router, bridge, NAT router, gateway and resource are namespaces of this machine, joined by veth (MTU 1500)",
  "inner MTU 1280 of both tunnels, 1500 of no tunnel; outside IPv4 alone; all processes share the cores",
  `client and gateway are started as packages start them: ${["node", ...services.NODE.slice(1)].join(" ")}`,
  path === "direct"
    ? "direct path, both tunnels through the same two NAT routers"
    : "relayed: this client by channels of coturn, wireguard-go through socat (UDP4-LISTEN to UDP4), which are on one host"
]

export const roundsSettings = ({ quick, rounds, seconds }: BenchOptions): ReadonlyArray<string> => [
  `${rounds} rounds by turns, ${seconds} s each, medians (smallest .. largest)${
    quick ? "; QUICK: figures mean little" : ""
  }`
]

/** The pid of an emulator, which the kernel knows by the control socket in its command line. */
const emulatorPid = (network: topology.Topology, name: string): Effect.Effect<number, LabError> =>
  Effect.suspend(() => {
    const socket = path.join(network.folder, `${name}.sock`)
    for (const entry of fs.readdirSync("/proc")) {
      if (!/^[0-9]+$/.test(entry)) continue
      try {
        if (fs.readFileSync(`/proc/${entry}/cmdline`, "utf8").includes(socket)) return Effect.succeed(Number(entry))
      } catch {
        // It has ended.
      }
    }
    return new LabError({ what: `${name} emulator`, why: "no process of it was found" })
  })

/** A wireguard-go on a host, its interface there; the scope ends it. */
export const startWireguardGo = (
  network: topology.Topology,
  host: topology.HostName
): Effect.Effect<Daemon, LabError, Scope.Scope> =>
  Effect.gen(function*() {
    yield* requirePrograms(["wireguard-go", "wg"], "wireguard-go wireguard-tools")
    const daemon = yield* network.daemon(host, `wireguard-go-${host}`, ["wireguard-go", "-f", "wg0"], {
      LOG_LEVEL: "error"
    })
    const up = yield* eventually(
      Effect.map(network.run(host, ["wg", "show", "wg0"]), ({ code }) => code === 0),
      10_000
    )
    if (up === undefined) {
      return yield* new LabError({
        what: `wireguard-go on ${host}`,
        why: `did not start:\n${daemon.log().slice(-500)}`
      })
    }
    return daemon
  })

export interface Key {
  readonly file: string
  readonly publicKey: string
}

export const wireguardKey = (network: topology.Topology, name: string): Effect.Effect<Key, LabError> =>
  Effect.gen(function*() {
    const file = path.join(network.folder, `${name}.key`)
    const { stdout } = yield* network.must("client", ["wg", "genkey"])
    fs.writeFileSync(file, stdout, { mode: 0o600 })
    const publicKey = yield* network.must("client", ["wg", "pubkey"], { input: stdout })
    return { file, publicKey: publicKey.stdout.trim() }
  })

const shell = (network: topology.Topology, host: topology.HostName, script: string) =>
  network.must(host, ["sh", "-ec", script])

const wireguardGo = (network: topology.Topology, sidePath: SidePath): Effect.Effect<Side, LabError, Scope.Scope> =>
  Effect.gen(function*() {
    const [client, gateway] = yield* Effect.all([
      wireguardKey(network, "wg-client"),
      wireguardKey(network, "wg-gateway")
    ])
    const endpoint = sidePath === "direct"
      ? `${GATEWAY}:${WIREGUARD_PORT}`
      : `${FORWARDER.address}:${FORWARDER.port}`
    if (sidePath === "relayed") {
      yield* requirePrograms(["socat"], "socat")
      yield* network.daemon("inet", "socat", [
        ...["socat", "-b", "4096", `UDP4-LISTEN:${FORWARDER.port},bind=${FORWARDER.address}`],
        `UDP4:${GATEWAY}:${WIREGUARD_PORT},bind=${FORWARDER.address}`
      ])
    }
    // The responder first: a lost first handshake costs 5 s.
    const [atGateway, atClient] = yield* Effect.all([
      startWireguardGo(network, "gw"),
      startWireguardGo(network, "client")
    ])
    yield* shell(
      network,
      "gw",
      `wg set wg0 listen-port ${WIREGUARD_PORT} private-key ${gateway.file} peer ${client.publicKey} allowed-ips 10.99.0.1/32
ip addr add 10.99.0.2/24 dev wg0; ip link set wg0 mtu 1280 up
nft add table ip wg; nft add chain ip wg post '{ type nat hook postrouting priority srcnat; }'
nft add rule ip wg post ip saddr 10.99.0.1 oifname res0 masquerade`
    )
    yield* shell(
      network,
      "client",
      `wg set wg0 private-key ${client.file} peer ${gateway.publicKey} allowed-ips 10.99.0.2/32,${targets.wireguardGo}/32 endpoint ${endpoint}
ip addr add 10.99.0.1/24 dev wg0; ip link set wg0 mtu 1280 up; ip route add ${targets.wireguardGo} dev wg0`
    )
    return {
      name: "wireguard-go",
      target: targets.wireguardGo,
      pids: { client: atClient.pid, gateway: atGateway.pid }
    }
  })

/** Lets what is for the third address through the gateway's router, and knows the way. */
const plainPath = (network: topology.Topology): Effect.Effect<Side, LabError> =>
  Effect.gen(function*() {
    yield* shell(
      network,
      "natg",
      `nft insert rule ip nat pre ip daddr ${targets.plain} accept
nft insert rule inet fw forward ip daddr ${targets.plain} accept
ip route add ${targets.plain} via ${topology.addresses.gateway4}`
    )
    yield* shell(network, "inet", `ip route add ${targets.plain} via ${GATEWAY}`)
    return { name: "no tunnel", target: targets.plain, pids: undefined }
  })

/** The relays' users are known once the portal has let both sides in. */
const useCoturn = (network: topology.Topology, lab: services.Lab): Effect.Effect<void, LabError, Scope.Scope> =>
  Effect.gen(function*() {
    const { allow } = yield* coturn.start(network)
    const { clients, gateways } = yield* lab.portal.state
    for (const { publicKey } of clients) yield* allow({ publicKey, expiresAt: services.tokensExpireAt })
    for (const { publicKey } of gateways) yield* allow({ publicKey, expiresAt: GATEWAY_RELAY_EXPIRY })
    yield* lab.portal.command("/relays", { relays: services.relays.slice(0, 1) })
  })

export const pathKind = (lab: services.Lab) => Effect.map(lab.gateway.state, ({ peers }) => peers[0]?.path)

/** The first pings may take until the path is found; what follows has to be on the one that is meant. */
const requirePath = (lab: services.Lab, sidePath: SidePath): Effect.Effect<void, LabError> =>
  Effect.gen(function*() {
    const found = yield* eventually(
      Effect.map(pathKind(lab), (path) => path !== undefined && (path.kind === "direct") === (sidePath === "direct")),
      15_000
    )
    const path = yield* pathKind(lab)
    // Not through the other tunnel.
    if (found === undefined || path?.remote.includes("10.99.0.") === true) {
      return yield* new LabError({
        what: `the ${sidePath} path`,
        why: path === undefined ? "there is no path" : `it is ${path.kind}, ${path.local} to ${path.remote}`
      })
    }
  })

export interface SidesOptions {
  readonly path?: SidePath
  readonly equipment?: services.Equipment
  readonly clientEnv?: (network: topology.Topology) => Readonly<Record<string, string>>
  /** Before anything starts on it. */
  readonly prepare?: (network: topology.Topology) => Effect.Effect<void, LabError, Scope.Scope>
}

/** All sides up, each with an answered ping, an iperf3 server behind them; the scope ends it all. */
export const startSides = (
  { clientEnv, equipment = {}, path: sidePath = "direct", prepare }: SidesOptions = {}
): Effect.Effect<Sides, LabError, Scope.Scope> =>
  Effect.gen(function*() {
    yield* requirePrograms(["iperf3", "ping"], "iperf3 iputils-ping")
    const network = yield* topology.scoped
    yield* noIpv6(network)
    yield* network.nat("natg", "fullcone")
    if (sidePath === "relayed") yield* onlyRelays(network)
    if (prepare !== undefined) yield* prepare(network)
    yield* shell(
      network,
      "res",
      [targets.wireguardGo, targets.plain].map((address) => `ip addr add ${address}/32 dev eth0`).join("; ")
    )
    yield* shell(
      network,
      "gw",
      [targets.wireguardGo, targets.plain].map((address) => `ip route add ${address} via ${targets.ours}`).join("; ")
    )
    const plain = yield* plainPath(network)
    // Datagrams have to come back from the address that was asked.
    for (const address of Object.values(targets)) {
      yield* network.daemon("res", `iperf3-${address}`, ["iperf3", "-s", "-B", address])
    }
    const theirs = yield* wireguardGo(network, sidePath)
    const { client, lab } = yield* startLab(
      network,
      { ...equipment, ...(sidePath === "relayed" ? { without: new Set(["relay"] as const) } : {}) },
      clientEnv?.(network)
    )
    if (sidePath === "relayed") yield* useCoturn(network, lab)
    const ours: Side = {
      name: "this client",
      target: targets.ours,
      pids: { client: client.pid, gateway: yield* emulatorPid(network, "gateway") }
    }
    // Without a tunnel there is no way in such a network.
    for (const { name, target } of sidePath === "direct" ? [ours, theirs, plain] : [ours, theirs]) {
      const answered = yield* eventually(
        Effect.map(network.run("client", ["ping", "-n", "-c", "1", "-W", "2", target]), ({ code }) => code === 0),
        20_000
      )
      if (answered === undefined) return yield* new LabError({ what: name, why: `no ping to ${target} is answered` })
    }
    yield* requirePath(lab, sidePath)
    return { network, lab, client, ours, wireguardGo: theirs, plain }
  })

/** Measures every side once a round, one after the other; gives the rounds of each. */
export const byTurns = <A, E, R>(
  rounds: number,
  sides: ReadonlyArray<Side>,
  measure: (side: Side) => Effect.Effect<A, E, R>
): Effect.Effect<ReadonlyArray<ReadonlyArray<A>>, E, R> =>
  Effect.map(
    Effect.forEach(
      Array.from({ length: rounds }, () => sides),
      (sides) => Effect.forEach(sides, measure)
    ),
    (all) => sides.map((_, side) => all.map((round) => round[side] as A))
  )

/** The rounds of each side as figures, side by side. */
export const stated = (
  sides: ReadonlyArray<Side>,
  what: string,
  unit: string,
  rounds: ReadonlyArray<ReadonlyArray<number>>,
  better: "higher" | "lower"
) => sides.map(({ name }, side) => figure(`${what}, ${name}`, unit, rounds[side] ?? [], { better }))
