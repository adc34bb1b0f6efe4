/** Which way packets take through every kind of network between client and gateway. */
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import * as coturn from "../coturn.ts"
import type { LabError } from "../LabError.ts"
import { GATEWAY_RELAY_EXPIRY } from "../portal/derivations.ts"
import { eventually, type Recorder, type Scenario } from "../scenario.ts"
import { apiUrl6, type Lab, relays, tokensExpireAt } from "../services.ts"
import { addresses, type HostName, type NatType, type Router, type Topology } from "../topology.ts"
import * as traffic from "../traffic.ts"
import { bringUp, connect, download, noViolations } from "./checks.ts"

const FILE_BYTES = 10_000_000
/**
 * The portal's round trips, then the first checks of a pair (spec 9.6: 0, 250, 750, 1750 ms), of which relayed ones wait
 * for channels; a request to a relay that is lost is sent again after 1 s.
 */
export const CONNECT_BOUND = 3000

interface Expected {
  readonly path: "direct" | "relayed"
  readonly clientEnv?: Readonly<Record<string, string>>
}

export const clientRouters: ReadonlyArray<Router> = ["natw", "natl"]
const allRouters: ReadonlyArray<Router> = [...clientRouters, "natg"]

export const nats = (topology: Topology, routers: ReadonlyArray<Router>, type: NatType) =>
  Effect.forEach(routers, (router) => topology.nat(router, type), { discard: true })

const uplinksOf: { readonly [host in "client" | "gw"]: ReadonlyArray<string> } = {
  client: ["wifi0", "lan0"],
  gw: ["eth0"]
}

/** Leaves a host nothing of a family but the loopback, and what the tunnel brings. */
export const without = (topology: Topology, host: "client" | "gw", family: "ipv4" | "ipv6") =>
  Effect.forEach(uplinksOf[host], (device) =>
    topology.must(
      host satisfies HostName,
      family === "ipv4"
        ? ["ip", "-4", "addr", "flush", "dev", device]
        : ["sh", "-c", `echo 1 > /proc/sys/net/ipv6/conf/${device}/disable_ipv6`]
    ), { discard: true })

const total = ({ relays: [first, second] }: traffic.Traffic): number => first.bytes + second.bytes

/** Downloads from the resources of both families, and looks where the packets went. */
const judgePath = (lab: Lab, recorder: Recorder, path: Expected["path"]) =>
  Effect.gen(function*() {
    for (const address of [addresses.resource4, addresses.resource6]) {
      const [{ detail, right }, seen] = yield* traffic.during(
        lab.topology,
        download(lab, address, FILE_BYTES, { seconds: 20 })
      )
      yield* recorder.check(`${FILE_BYTES / 1e6} MB from ${address}`, right, detail)
      const relayed = total(seen)
      const counts = `direct ${seen.direct.bytes} bytes, through relays ${
        seen.relays.map(({ bytes }) => bytes).join(" and ")
      } bytes of data`
      yield* path === "direct"
        ? recorder.check("direct, nothing relayed", seen.direct.bytes >= FILE_BYTES && relayed === 0, counts)
        : recorder.check("relayed, nothing direct", seen.direct.bytes === 0 && relayed >= FILE_BYTES, counts)
    }
    const kind = (yield* lab.gateway.state).peers[0]?.path?.kind
    yield* recorder.check(
      "the gateway agrees",
      kind !== undefined && (kind === "direct") === (path === "direct"),
      `it says ${kind}`
    )
  })

const run = ({ clientEnv = {}, path }: Expected) => (lab: Lab, recorder: Recorder) =>
  Effect.gen(function*() {
    yield* traffic.observe(lab.topology)
    yield* bringUp(lab, recorder, { env: clientEnv })
    const began = Date.now()
    yield* connect(lab, recorder, addresses.resource4, CONNECT_BOUND)
    // From then on a path that is not the best would be a mistake.
    yield* Effect.sleep(Math.max(0, began + CONNECT_BOUND - Date.now()))
    yield* judgePath(lab, recorder, path)
    yield* noViolations(lab, recorder)
  })

/** What coturn holds for clients and gateways, by the sockets of its host. */
const allocations = (lab: Lab): Effect.Effect<number, LabError> =>
  Effect.map(
    lab.topology.must("inet", ["ss", "-Hun", "-a", "src", `${addresses.relay4}`]),
    ({ stdout }) =>
      stdout.split("\n").filter((line) => line !== "" && !line.includes(`${addresses.relay4}:3478 `)).length
  )

/** The portal hands coturn out once it lets both in: only then are their keys known, of which their names are made. */
const runWithCoturn = (lab: Lab, recorder: Recorder): Effect.Effect<void, LabError, Scope.Scope> =>
  Effect.gen(function*() {
    yield* traffic.observe(lab.topology)
    const { allow } = yield* coturn.start(lab.topology)
    yield* bringUp(lab, recorder)
    const { clients, gateways } = yield* lab.portal.state
    for (const { publicKey } of clients) yield* allow({ publicKey, expiresAt: tokensExpireAt })
    for (const { publicKey } of gateways) yield* allow({ publicKey, expiresAt: GATEWAY_RELAY_EXPIRY })
    yield* lab.portal.command("/relays", { relays: relays.slice(0, 1) })
    yield* eventually(Effect.map(allocations(lab), (count) => count >= 2), 10_000)
    const held = yield* allocations(lab)
    yield* recorder.check("coturn holds allocations", held === 2, `${held}: one for each side makes two`)
    yield* connect(lab, recorder, addresses.resource4, CONNECT_BOUND)
    yield* judgePath(lab, recorder, "relayed")
    yield* noViolations(lab, recorder)
  })

export const noIpv6 = (topology: Topology) => without(topology, "gw", "ipv6")
const symmetricNats = (topology: Topology) => Effect.zipRight(noIpv6(topology), nats(topology, allRouters, "symmetric"))
export const onlyRelays = (topology: Topology) => nats(topology, clientRouters, "udp-3478-only")

export const nat: Scenario = {
  name: "nat",
  about: "both sides behind home NATs: a direct path, and no data through a relay after 3 s",
  equipment: { secondRelay: true },
  prepare: noIpv6,
  run: run({ path: "direct" })
}

export const symmetric: Scenario = {
  name: "symmetric",
  about: "both sides behind symmetric NATs: data takes the way through relays",
  equipment: { secondRelay: true },
  prepare: symmetricNats,
  run: run({ path: "relayed" })
}

export const symmetricCoturn: Scenario = {
  name: "symmetric-coturn",
  about: "both sides behind symmetric NATs, and the relay is coturn",
  equipment: { without: new Set(["relay"]) },
  prepare: symmetricNats,
  run: runWithCoturn
}

export const relayOnly: Scenario = {
  name: "relay-only",
  about: "the client's side lets no UDP out but to port 3478: data takes the way through its relay",
  equipment: { secondRelay: true },
  prepare: onlyRelays,
  run: run({ path: "relayed" })
}

export const relayOnlyCoturn: Scenario = {
  name: "relay-only-coturn",
  about: "the client's side lets no UDP out but to port 3478, and the relay is coturn",
  equipment: { without: new Set(["relay"]) },
  prepare: onlyRelays,
  run: runWithCoturn
}

export const ipv4Only: Scenario = {
  name: "ipv4-only",
  about: "the client's side has no IPv6: a direct path, resources of both families",
  prepare: (topology) => without(topology, "client", "ipv6"),
  run: run({ path: "direct" })
}

export const ipv6Only: Scenario = {
  name: "ipv6-only",
  about: "the client's side has no IPv4: a direct path, resources of both families",
  prepare: (topology) => without(topology, "client", "ipv4"),
  run: run({ path: "direct", clientEnv: { FIREZONE_API_URL: apiUrl6 } })
}

export const mixed: Scenario = {
  name: "mixed",
  about: "the client has IPv4 alone and the gateway IPv6 alone: a relay that has both joins them",
  equipment: { gatewayApiUrl: apiUrl6 },
  prepare: (topology) => Effect.zipRight(without(topology, "client", "ipv6"), without(topology, "gw", "ipv4")),
  run: run({ path: "relayed" })
}

export const mixedReverse: Scenario = {
  name: "mixed-reverse",
  about: "the client has IPv6 alone and the gateway IPv4 alone: a relay that has both joins them",
  prepare: (topology) => Effect.zipRight(without(topology, "client", "ipv4"), without(topology, "gw", "ipv6")),
  run: run({ path: "relayed", clientEnv: { FIREZONE_API_URL: apiUrl6 } })
}
