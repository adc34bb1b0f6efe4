/** The lab's hosts at work: portal, relay, gateway and web server emulators, and the real client, each its own process. */
import * as Effect from "effect/Effect"
import * as Scope from "effect/Scope"
import * as fs from "node:fs"
import * as path from "node:path"
import { ask } from "./control.ts"
import { accountOf, type Farm, type FarmState } from "./gateway/farm.ts"
import type { GatewayConfig, GatewayState } from "./gateway/gatewayProcess.ts"
import { LabError } from "./LabError.ts"
import type { DnsConfig, PoolConfig, ResourceConfig, StaticRelay } from "./portal/config.ts"
import type { PortalConfig, PortalState } from "./portal/portalProcess.ts"
import type { Daemon, Output } from "./processes.ts"
import type { RelayConfig, RelayState } from "./relay/relayProcess.ts"
import { eventually } from "./scenario.ts"
import { addresses, type HostName, type Topology } from "./topology.ts"

/** How the packages start Node. */
export const NODE: ReadonlyArray<string> = [process.execPath, "--v8-pool-size=1"]

/** The roles whose host `lab up --without` leaves empty, for a reference program in its place. */
export const roles = ["client", "gateway", "relay"] as const
export type Role = (typeof roles)[number]

export const ids = {
  site: "88888888-8888-4888-8888-888888888888",
  secondSite: "88888888-8888-4888-8888-888888888889",
  cidr4: "66666666-6666-4666-8666-666666666664",
  cidr6: "66666666-6666-4666-8666-666666666666"
} as const

/** Tokens that the portal emulator accepts; nothing else knows them. */
export const tokens = { client: ".lab-client-token", gateway: ".lab-gateway-token", relay: ".lab-relay-token" } as const

export const apiUrl = `ws://${addresses.portal}:${addresses.portalPort}/`
export const apiUrl6 = `ws://[${addresses.portal6}]:${addresses.portalPort}/`

export const clientEnvironment: Readonly<Record<string, string>> = {
  FIREZONE_TOKEN: tokens.client,
  FIREZONE_API_URL: apiUrl,
  FIREZONE_ID: "lab-client",
  FIREZONE_NAME: "lab-client"
}
const otherClientEnvironment = {
  ...clientEnvironment,
  FIREZONE_ID: "lab-client-2",
  FIREZONE_NAME: "lab-client-2"
}
export const gatewayEnvironment = {
  FIREZONE_TOKEN: tokens.gateway,
  FIREZONE_API_URL: apiUrl,
  FIREZONE_ID: "lab-gateway",
  FIREZONE_NAME: "lab-gateway"
}

const secondGatewayEnvironment = {
  ...gatewayEnvironment,
  FIREZONE_ID: "lab-gateway-2",
  FIREZONE_NAME: "lab-gateway-2"
}

export const gatewayInterfaces: GatewayConfig = { uplink: "eth0", inside: "res0" }
export const relayEnvironment: Readonly<Record<string, string>> = {
  FIREZONE_TOKEN: tokens.relay,
  FIREZONE_API_URL: apiUrl,
  PUBLIC_IP4_ADDR: addresses.relay4,
  PUBLIC_IP6_ADDR: addresses.relay6
}

/** Unix seconds. */
export const tokensExpireAt = Math.floor(Date.now() / 1000) + 30 * 24 * 60 * 60

/** As the portal and the relays know them. */
export const relays = [
  {
    stampSecret: "4c98bf59c99b3e467ecd7cf9d6b3e5279645fca59be67bc5bb4af3cf653761ab",
    ipv4: addresses.relay4,
    ipv6: addresses.relay6,
    port: 3478
  },
  {
    stampSecret: "a3b7d0e5f1c24986b5e07d3fa91c6d8820f4be17c95a63d1e8720b4f96dc35ea",
    ipv4: addresses.secondRelay4,
    ipv6: addresses.secondRelay6,
    port: 3478
  }
] as const satisfies ReadonlyArray<StaticRelay & RelayConfig>

export interface Emulator<State> {
  readonly state: Effect.Effect<State, LabError>
  readonly command: (path: string, body?: unknown) => Effect.Effect<unknown, LabError>
  /** Ends the process: SIGKILL leaves it no time to say goodbye to anybody. */
  readonly end: (signal: "SIGTERM" | "SIGKILL") => Effect.Effect<void>
  /** Starts it again; returns when it answers us. */
  readonly start: Effect.Effect<void, LabError>
}

export interface Lab {
  readonly topology: Topology
  readonly portal: Emulator<PortalState>
  /** One, or two if the scenario wants a second one. */
  readonly relays: ReadonlyArray<Emulator<RelayState>>
  readonly gateways: ReadonlyArray<Emulator<GatewayState>>
  /** If the scenario wants one. */
  readonly farm: Emulator<FarmState> | undefined
  /** The first ones. */
  readonly relay: Emulator<RelayState>
  readonly gateway: Emulator<GatewayState>
  /** Starts the client as a user would: the built executable with nothing but flags and environment. */
  readonly startClient: (options?: ClientOptions) => Effect.Effect<Daemon, LabError, Scope.Scope>
  /** Another one beside it, with the interface `tun-two`. */
  readonly startClientBeside: Effect.Effect<Daemon, LabError, Scope.Scope>
  /** Another one, on the second gateway's host: nothing else may be there. */
  readonly startOtherClient: Effect.Effect<Daemon, LabError, Scope.Scope>
  /** Runs one of its commands to the end, with its settings of the lab. */
  readonly runClient: (options?: ClientOptions) => Effect.Effect<Output, LabError>
}

export interface ClientOptions {
  readonly args?: ReadonlyArray<string>
  readonly env?: Readonly<Record<string, string>>
  /** Of `--dns-control`; `disabled` unless given. */
  readonly dnsControl?: string
}

/** The arguments of the client in the lab. */
export const clientArguments = (
  topology: Topology,
  dnsControl = "disabled",
  name = "client"
): ReadonlyArray<string> => ["--dns-control", dnsControl, "--state-dir", path.join(topology.folder, `${name}-state`)]

/** What is on the hosts. */
export interface Equipment {
  readonly without?: ReadonlySet<Role>
  readonly secondRelay?: boolean
  /** Whether the account has the path mode. */
  readonly iceless?: boolean
  /** Of the same site, not behind a NAT. */
  readonly secondGateway?: boolean
  /** The second gateway is alone in `ids.secondSite`. */
  readonly secondSite?: boolean
  /** A web server on the Internet, on every address there, beside the one behind the gateway. */
  readonly publicWeb?: boolean
  /** Where the first gateway finds the portal. */
  readonly gatewayApiUrl?: string
  /** In the place of the networks behind the gateway. */
  readonly resources?: ReadonlyArray<ResourceConfig>
  /** Of clients that may reach each other. */
  readonly pools?: ReadonlyArray<PoolConfig>
  /** What the account has for every client. */
  readonly dns?: DnsConfig
  /** These gateways and their networks in the place of the others. */
  readonly farm?: Farm
}

export interface StartOptions extends Equipment {
  /** The client's executable, which also runs the emulators; the running program unless given. */
  readonly executable?: string
}

interface Place {
  readonly host: HostName
  /** Of its log and its control socket. */
  readonly name: string
}

type EmulatorRole = "web" | "portal" | "relay" | "gateway" | "gateways" | "gui"

/** An emulator that is not running yet. */
export const emulator = <State>(
  topology: Topology,
  executable: string,
  role: EmulatorRole,
  { host, name }: Place,
  config: object,
  env: Readonly<Record<string, string>> = {}
): Effect.Effect<Emulator<State>, never, Scope.Scope> =>
  Effect.map(Effect.scope, (scope) => {
    const control = path.join(topology.folder, `${name}.sock`)
    const argv = [
      ...[...NODE, executable, "lab", "serve", role],
      JSON.stringify({ ...config, control })
    ]
    let daemon: Daemon | undefined
    const failure = (why: string): LabError =>
      new LabError({ what: `${name} emulator`, why: `${why}:\n${daemon?.log().slice(-2000)}` })
    return {
      state: ask<State>(control, "/state"),
      command: (path, body) => ask<unknown>(control, path, body),
      end: (signal) =>
        Effect.suspend(() => {
          daemon?.signal(signal)
          return Effect.asVoid(daemon?.exit ?? Effect.void)
        }),
      start: Effect.gen(function*() {
        // One that was killed has left it.
        fs.rmSync(control, { force: true })
        const started = yield* Scope.extend(topology.daemon(host, name, argv, env), scope)
        daemon = started
        const isReady = yield* eventually(
          Effect.suspend(() =>
            started.hasExited()
              ? Effect.fail(failure("ended at start"))
              : Effect.orElseSucceed(Effect.as(ask(control, "/state"), true), () => false)
          ),
          15_000
        )
        if (isReady === undefined) return yield* failure("did not start")
      })
    }
  })

/** The networks behind the gateway. */
export const networks: ReadonlyArray<ResourceConfig> = [
  {
    type: "cidr",
    id: ids.cidr4,
    name: "Lab network",
    address: addresses.resourceNetwork4,
    address_description: null,
    sites: [ids.site],
    filters: []
  },
  {
    type: "cidr",
    id: ids.cidr6,
    name: "Lab network (IPv6)",
    address: addresses.resourceNetwork6,
    address_description: null,
    sites: [ids.site],
    filters: []
  }
]

/** A relay that the portal is not told of here has to sign in. */
const portalConfig = (
  relays: ReadonlyArray<StaticRelay>,
  { dns, farm, iceless = false, pools, resources = networks, secondSite = false }: Pick<
    Equipment,
    "dns" | "farm" | "iceless" | "pools" | "resources" | "secondSite"
  >
): PortalConfig => ({
  host: "::",
  port: addresses.portalPort,
  clientTokens: [tokens.client],
  gatewayTokens: [tokens.gateway],
  relayTokens: [tokens.relay],
  tokensExpireAt,
  iceless,
  relays,
  dns,
  pools,
  gatewaySite: ids.site,
  ...(farm === undefined
    ? {
      sites: [{ id: ids.site, name: "Lab" }, ...(secondSite ? [{ id: ids.secondSite, name: "Second lab" }] : [])],
      ...(secondSite ? { gatewaySites: { [secondGatewayEnvironment.FIREZONE_ID]: ids.secondSite } } : {}),
      resources
    }
    : accountOf(farm, { id: ids.site, name: "Lab" }, gatewayEnvironment.FIREZONE_ID))
})

/** Starts every emulator but those left out, and waits until they are ready for a client. */
export const start = (
  topology: Topology,
  {
    executable = path.resolve(process.argv[1] ?? ""),
    gatewayApiUrl = apiUrl,
    publicWeb = false,
    secondGateway = false,
    secondRelay = false,
    without = new Set(),
    ...account
  }: StartOptions = {}
): Effect.Effect<Lab, LabError, Scope.Scope> =>
  Effect.gen(function*() {
    const make = <State>(
      role: EmulatorRole,
      place: Place,
      config: object,
      env?: Readonly<Record<string, string>>
    ) => emulator<State>(topology, executable, role, place, config, env)
    const web = yield* make("web", { host: "res", name: "web" }, { echo: [addresses.resource4, addresses.resource6] })
    const otherWeb = yield* make("web", { host: "inet", name: "public-web" }, { echo: [] })
    const present = relays.slice(0, without.has("relay") ? 0 : secondRelay ? 2 : 1)
    const portal = yield* make<PortalState>("portal", { host: "inet", name: "portal" }, portalConfig(present, account))
    const relay = yield* make<RelayState>("relay", { host: "inet", name: "relay" }, relays[0])
    const other = yield* make<RelayState>("relay", { host: "inet", name: "relay2" }, relays[1])
    const gateway = yield* make<GatewayState>("gateway", { host: "gw", name: "gateway" }, gatewayInterfaces, {
      ...gatewayEnvironment,
      FIREZONE_API_URL: gatewayApiUrl
    })
    const otherGateway = yield* make<GatewayState>(
      "gateway",
      { host: "gw2", name: "gateway2" },
      gatewayInterfaces,
      secondGatewayEnvironment
    )
    const farm = account.farm &&
      (yield* make<FarmState>("gateways", { host: "gw", name: "gateways" }, account.farm, gatewayEnvironment))
    const gateways = without.has("gateway") || farm !== undefined
      ? []
      : secondGateway
      ? [gateway, otherGateway]
      : [gateway]
    const startAll = (emulators: ReadonlyArray<Emulator<unknown>>) =>
      Effect.forEach(emulators, ({ start }) => start, { concurrency: "unbounded", discard: true })
    yield* startAll([web, ...(publicWeb ? [otherWeb] : []), portal, ...[relay, other].slice(0, present.length)])
    yield* startAll(farm === undefined ? gateways : [farm])
    const expected = account.farm?.gateways ?? gateways.length
    const online = yield* eventually(
      Effect.map(
        portal.state,
        (state) => state.gateways.filter(({ connected }) => connected).length === expected
      ),
      15_000
    )
    if (online === undefined) {
      return yield* new LabError({
        what: "gateway emulator",
        why: `did not sign in:\n${fs.readFileSync(path.join(topology.folder, "gateway.log"), "utf8").slice(-2000)}`
      })
    }
    const clientArgv = ({ args = [], dnsControl }: ClientOptions): ReadonlyArray<string> => [
      ...[...NODE, executable],
      ...clientArguments(topology, dnsControl),
      ...args
    ]
    return {
      topology,
      portal,
      relay,
      gateway,
      relays: [relay, other].slice(0, present.length),
      gateways,
      farm,
      startClient: (options = {}) =>
        topology.daemon("client", "client", clientArgv(options), { ...clientEnvironment, ...options.env }),
      startClientBeside: topology.daemon(
        "client",
        "client2",
        [...NODE, executable, ...clientArguments(topology, undefined, "client2"), "--tun-name", "tun-two"],
        otherClientEnvironment
      ),
      startOtherClient: topology.daemon(
        "gw2",
        "client2",
        [...NODE, executable, ...clientArguments(topology, undefined, "client2")],
        otherClientEnvironment
      ),
      runClient: (options = {}) =>
        topology.run("client", clientArgv(options), { env: { ...clientEnvironment, ...options.env } })
    }
  })
