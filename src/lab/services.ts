/** The lab's hosts at work: portal, relay, gateway and web server emulators, and the real client, each its own process. */
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import * as fs from "node:fs"
import * as path from "node:path"
import { ask } from "./control.ts"
import type { GatewayConfig, GatewayState } from "./gateway/gatewayProcess.ts"
import { LabError } from "./LabError.ts"
import type { PortalConfig, PortalState } from "./portal/portalProcess.ts"
import type { Daemon } from "./processes.ts"
import type { RelayConfig, RelayState } from "./relay/relayProcess.ts"
import { eventually } from "./scenario.ts"
import { addresses, type HostName, type Topology } from "./topology.ts"

/** The roles whose host `lab up --without` leaves empty, for a reference program in its place. */
export const roles = ["client", "gateway", "relay"] as const
export type Role = (typeof roles)[number]

export const ids = {
  site: "88888888-8888-4888-8888-888888888888",
  cidr4: "66666666-6666-4666-8666-666666666664",
  cidr6: "66666666-6666-4666-8666-666666666666"
} as const

/** Tokens that the portal emulator accepts; nothing else knows them. */
export const tokens = { client: ".lab-client-token", gateway: ".lab-gateway-token", relay: ".lab-relay-token" } as const
const STAMP_SECRET = "4c98bf59c99b3e467ecd7cf9d6b3e5279645fca59be67bc5bb4af3cf653761ab"

const RELAY_PORT = 3478

export const apiUrl = `ws://${addresses.portal}:${addresses.portalPort}/`

export const clientEnvironment: Readonly<Record<string, string>> = {
  FIREZONE_TOKEN: tokens.client,
  FIREZONE_API_URL: apiUrl,
  FIREZONE_ID: "lab-client",
  FIREZONE_NAME: "lab-client"
}
export const gatewayEnvironment: Readonly<Record<string, string>> = {
  FIREZONE_TOKEN: tokens.gateway,
  FIREZONE_API_URL: apiUrl,
  FIREZONE_ID: "lab-gateway",
  FIREZONE_NAME: "lab-gateway"
}

export const gatewayInterfaces: GatewayConfig = { uplink: "eth0", inside: "res0" }
export const relayEnvironment: Readonly<Record<string, string>> = {
  FIREZONE_TOKEN: tokens.relay,
  FIREZONE_API_URL: apiUrl,
  PUBLIC_IP4_ADDR: addresses.relay4,
  PUBLIC_IP6_ADDR: addresses.relay6
}

export interface Lab {
  readonly topology: Topology
  readonly portal: {
    readonly state: Effect.Effect<PortalState, LabError>
    readonly command: (path: string, body?: unknown) => Effect.Effect<unknown, LabError>
  }
  readonly relay: {
    readonly state: Effect.Effect<RelayState, LabError>
    readonly command: (path: string, body?: unknown) => Effect.Effect<unknown, LabError>
  }
  readonly gateway: {
    readonly state: Effect.Effect<GatewayState, LabError>
    readonly command: (path: string, body?: unknown) => Effect.Effect<unknown, LabError>
  }
  /** Starts the client as a user would: the built executable with nothing but flags and environment. */
  readonly startClient: (
    options?: { readonly args?: ReadonlyArray<string>; readonly env?: Readonly<Record<string, string>> }
  ) => Effect.Effect<Daemon, LabError, Scope.Scope>
}

/** The arguments of the client in the lab. */
export const clientArguments = (topology: Topology): ReadonlyArray<string> => [
  "--dns-control",
  "disabled",
  "--state-dir",
  path.join(topology.folder, "client-state")
]

const socket = (topology: Topology, name: string): string => path.join(topology.folder, `${name}.sock`)

export interface StartOptions {
  readonly without?: ReadonlySet<Role>
  /** The client's executable, which also runs the emulators; the running program unless given. */
  readonly executable?: string
}

/** Starts `lab serve NAME` on a host and waits until its control socket answers. */
const serve = (
  topology: Topology,
  executable: string,
  host: HostName,
  name: string,
  config: object,
  env: Readonly<Record<string, string>> = {}
): Effect.Effect<Daemon, LabError, Scope.Scope> =>
  Effect.gen(function*() {
    const daemon = yield* topology.daemon(
      host,
      name,
      [
        ...[process.execPath, executable, "lab", "serve", name],
        JSON.stringify({ ...config, control: socket(topology, name) })
      ],
      env
    )
    const ready = yield* eventually(
      Effect.suspend(() =>
        daemon.hasExited()
          ? Effect.fail(
            new LabError({ what: `${name} emulator`, why: `ended at start:\n${daemon.log().slice(-2000)}` })
          )
          : Effect.orElseSucceed(Effect.as(ask(socket(topology, name), "/state"), true), () => false)
      ),
      15_000
    )
    if (ready === undefined) {
      return yield* new LabError({ what: `${name} emulator`, why: `did not start:\n${daemon.log().slice(-2000)}` })
    }
    return daemon
  })

const relayConfig: RelayConfig = {
  ipv4: addresses.relay4,
  ipv6: addresses.relay6,
  port: RELAY_PORT,
  stampSecret: STAMP_SECRET
}

/** Without the relay emulator the portal knows of none until one signs in. */
const portalConfig = (relayEmulator: boolean): PortalConfig => ({
  host: "::",
  port: addresses.portalPort,
  clientTokens: [tokens.client],
  gatewayTokens: [tokens.gateway],
  relayTokens: [tokens.relay],
  iceless: false,
  relays: relayEmulator
    ? [{ stampSecret: STAMP_SECRET, ipv4: addresses.relay4, ipv6: addresses.relay6, port: RELAY_PORT }]
    : [],
  sites: [{ id: ids.site, name: "Lab" }],
  resources: [
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
  ],
  gatewaySite: ids.site
})

/** Starts every emulator but those left out, and waits until they are ready for a client. */
export const start = (
  topology: Topology,
  { executable = path.resolve(process.argv[1] ?? ""), without = new Set() }: StartOptions = {}
): Effect.Effect<Lab, LabError, Scope.Scope> =>
  Effect.gen(function*() {
    yield* Effect.all([
      serve(topology, executable, "res", "web", { echo: [addresses.resource4, addresses.resource6] }),
      serve(topology, executable, "inet", "portal", portalConfig(!without.has("relay"))),
      ...(without.has("relay") ? [] : [serve(topology, executable, "inet", "relay", relayConfig)])
    ], { concurrency: "unbounded", discard: true })
    const endpoint = <State>(name: string) => ({
      state: ask<State>(socket(topology, name), "/state"),
      command: (path: string, body?: unknown) => ask<unknown>(socket(topology, name), path, body)
    })
    const portal = endpoint<PortalState>("portal")
    if (!without.has("gateway")) {
      yield* serve(topology, executable, "gw", "gateway", gatewayInterfaces, gatewayEnvironment)
      const online = yield* eventually(
        Effect.map(portal.state, (state) => state.gateways.some((gateway) => gateway.connected)),
        15_000
      )
      if (online === undefined) {
        return yield* new LabError({
          what: "gateway emulator",
          why: `did not sign in:\n${fs.readFileSync(path.join(topology.folder, "gateway.log"), "utf8").slice(-2000)}`
        })
      }
    }
    return {
      topology,
      portal,
      relay: endpoint<RelayState>("relay"),
      gateway: endpoint<GatewayState>("gateway"),
      startClient: ({ args = [], env = {} } = {}) =>
        topology.daemon("client", "client", [process.execPath, executable, ...clientArguments(topology), ...args], {
          ...clientEnvironment,
          ...env
        })
    }
  })
