/** The gateway emulator: a real gateway in all that its clients and the portal can see, around `GatewayTunnel`. */
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Layer from "effect/Layer"
import * as Queue from "effect/Queue"
import type * as Redacted from "effect/Redacted"
import type * as Scope from "effect/Scope"
import * as ScopedRef from "effect/ScopedRef"
import { makeCrypto } from "../../layers/crypto/makeCrypto.ts"
import * as LogLive from "../../layers/log/LogLive.ts"
import * as TunDeviceHost from "../../layers/tun/TunDeviceHost.ts"
import * as TunInterfaceHost from "../../layers/tun/TunInterfaceHost.ts"
import { makeDataPlane } from "../../layers/tunnel/dataPlane.ts"
import { TUNNEL_NAME_LINUX } from "../../model/policyRouting.ts"
import { outside } from "../../programs/wiring.ts"
import { Node } from "../../protocol/node/Node.ts"
import type { PathKind, PeerStatus, RelayId } from "../../protocol/node/types.ts"
import { GatewayTunnel } from "../../protocol/tunnel/GatewayTunnel.ts"
import type { GatewayTunnelEvent, GatewayTunnelStatus } from "../../protocol/tunnel/types.ts"
import type { IpAddress } from "../../protocol/wire/address.ts"
import type { DnsSocket } from "../../services/DnsSocket.ts"
import { HostResolver } from "../../services/HostResolver.ts"
import { PeerSocket, type PeerSocketStats } from "../../services/PeerSocket.ts"
import { Portal, type PortalEvent, type PortalProtocol, type PortalStatus } from "../../services/Portal.ts"
import type { SystemResolvers } from "../../services/SystemResolvers.ts"
import { TunDevice, type TunStats } from "../../services/TunDevice.ts"
import { serveControl } from "../control.ts"
import { LabError } from "../LabError.ts"
import * as dnsServer from "./dnsServer.ts"
import { forward } from "./forwarding.ts"

/** What a gateway's host is told by its operator. The rest comes from the environment, as of a real gateway. */
export interface GatewayConfig {
  /** The interface that leads to the Internet. */
  readonly uplink: string
  /** The interface that leads to the resources. */
  readonly inside: string
}

export interface GatewayEnvironment {
  readonly token: Redacted.Redacted
  readonly apiUrl: URL
  readonly id: string
  readonly name: string
}

export interface GatewayPeerState extends Omit<PeerStatus, "path"> {
  readonly path?: {
    readonly kind: PathKind
    readonly local: string
    readonly remote: string
    readonly relay?: RelayId | undefined
  } | undefined
}

export interface GatewayState {
  readonly portal: PortalStatus
  /** The tunnel addresses, once the device has them. */
  readonly addresses?: { readonly ipv4: string; readonly ipv6: string } | undefined
  readonly clients: GatewayTunnelStatus["clients"]
  readonly peers: ReadonlyArray<GatewayPeerState>
  readonly dropped: GatewayTunnelStatus["dropped"]
  readonly tun: TunStats
  readonly sockets: PeerSocketStats
}

/** Monotonic milliseconds. */
const now = (): number => performance.now()

const peerState = ({ path, ...peer }: PeerStatus): GatewayPeerState => ({
  ...peer,
  path: path === undefined ? undefined : { ...path, local: path.local.text, remote: path.remote.text }
})

/** What the core wants done outside it. Requests to the portal are sent on the spot. */
type CoreEvent = Exclude<GatewayTunnelEvent, { readonly _tag: "Request" }>

interface Gateway {
  readonly state: () => GatewayState
  /** Never succeeds; fails when the gateway cannot go on. */
  readonly failed: Effect.Effect<never, LabError>
}

const failure = (error: { readonly message: string }): LabError =>
  error instanceof LabError ? error : new LabError({ what: "gateway", why: error.message })

type Needs = Portal | PeerSocket | TunDevice | HostResolver | DnsSocket | SystemResolvers

/** Runs until the scope closes, which says goodbye to every client. */
export const start = (
  environment: GatewayEnvironment
): Effect.Effect<Gateway, LabError, Scope.Scope | Needs> =>
  Effect.gen(function*() {
    const failed = yield* Deferred.make<never, LabError>()
    const coreEvents = yield* Queue.unbounded<CoreEvent>()
    const { crypto } = makeCrypto()
    const tun = yield* Effect.flatMap(TunDevice, (devices) => devices.open({ name: TUNNEL_NAME_LINUX, offloads: true }))
    const began = now()
    const unixEpochMillis = Date.now() - began
    const node = new Node({ crypto, now: began, unixEpochMillis })
    const core = new GatewayTunnel({ node, unixEpochMillis })
    const dataPlane = makeDataPlane({
      core,
      tun,
      now,
      onSettled: () => {
        for (let event = core.pollEvent(); event !== undefined; event = core.pollEvent()) {
          if (event._tag === "Request") portal.unsafeSend(event.request)
          else Queue.unsafeOffer(coreEvents, event)
        }
      },
      onDefect: (cause) =>
        Deferred.unsafeDone(
          failed,
          Exit.fail(
            new LabError({
              what: "gateway",
              why: cause instanceof Error ? cause.stack ?? cause.message : String(cause)
            })
          )
        )
    })
    yield* Effect.addFinalizer(() => Effect.sync(dataPlane.stop))
    /** Calls into the core, then sends what came of it. */
    const tell = (call: () => void): Effect.Effect<void> =>
      Effect.sync(() => {
        call()
        dataPlane.settle()
      })
    const sockets = yield* Effect.flatMap(PeerSocket, (factory) => factory.open(dataPlane.socketHandlers))
    dataPlane.setSockets(sockets)
    const portal = yield* Effect.flatMap(Portal, (portals) =>
      portals.open({
        role: "gateway",
        url: environment.apiUrl,
        token: environment.token,
        externalId: environment.id,
        name: environment.name,
        publicKey: node.publicKey
      }))
    yield* tun.start(dataPlane.tunHandlers)
    // Runs while sockets and portal are still there.
    yield* Effect.addFinalizer(() => tell(() => core.close(now())))

    /** Every address of a name behind the gateway: none if the host's name servers and its hosts file know none. */
    const hosts = yield* HostResolver
    const resolve = (domain: string) =>
      hosts.resolve(domain).pipe(
        Effect.catchTag("HostUnresolved", (error) =>
          Effect.as(
            Effect.logDebug("a name has no address").pipe(Effect.annotateLogs("reason", error.message)),
            [] as ReadonlyArray<IpAddress>
          )),
        Effect.flatMap((found) => tell(() => core.domainResolved(domain, found, now())))
      )

    const dns = yield* ScopedRef.make<void>(() => undefined)
    let addresses: GatewayState["addresses"]
    const handleCoreEvent = (event: CoreEvent) =>
      Effect.gen(function*() {
        switch (event._tag) {
          case "TunConfigUpdated": {
            const { ipv4, ipv6 } = event.config
            yield* tun.configure(event.config)
            yield* ScopedRef.set(dns, dnsServer.serve([ipv4, ipv6]))
            addresses = { ipv4, ipv6 }
            yield* Effect.logInfo("tunnel interface is up").pipe(Effect.annotateLogs({ ipv4, ipv6 }))
            return
          }
          case "ResolveDomain":
            // Not awaited: names do not wait for each other.
            yield* Effect.forkScoped(resolve(event.domain))
            return
          case "PeerConnected":
            yield* Effect.logInfo("a client is connected").pipe(Effect.annotateLogs({ peer: event.peer }))
            return
          case "PeerLost":
            yield* Effect.logInfo("connection to a client ended").pipe(
              Effect.annotateLogs({ peer: event.peer, reason: event.reason })
            )
        }
      })
    const handlePortalEvent = (event: PortalEvent<PortalProtocol["gateway"]["push"]>) => {
      switch (event._tag) {
        case "Connected":
          return Effect.zipRight(
            tell(() => {
              portal.unsafeSend({ _tag: "SetSnownetCapabilities", iceless: true })
              core.portalConnected(now())
            }),
            Effect.logInfo("signed in to the portal")
          )
        case "Disconnected":
          return Effect.zipRight(
            tell(() => core.portalDisconnected(now())),
            Effect.logWarning("portal connection lost").pipe(
              Effect.annotateLogs({ reason: event.error.message, retryInMillis: event.retryInMillis })
            )
          )
        case "Message":
          return tell(() => core.handlePush(event.push, now()))
        case "Failed":
          return Effect.fail(event.error)
      }
    }
    /** Nothing here may end: a failure or a bug ends the gateway. */
    const supervise = <E extends { readonly message: string }, R>(loop: Effect.Effect<unknown, E, R>) =>
      loop.pipe(
        Effect.catchAll((error) => Deferred.fail(failed, failure(error))),
        Effect.catchAllDefect((defect) =>
          Deferred.fail(failed, new LabError({ what: "gateway", why: String(defect) }))
        ),
        Effect.interruptible,
        Effect.forkScoped
      )
    yield* supervise(Effect.forever(Effect.flatMap(Queue.take(coreEvents), handleCoreEvent)))
    yield* supervise(Effect.forever(Effect.flatMap(Queue.take(portal.events), handlePortalEvent)))
    yield* supervise(tun.closed)

    return {
      state: () => {
        const { clients, dropped, peers } = core.status(now())
        return {
          portal: portal.status(),
          addresses,
          clients,
          peers: peers.map(peerState),
          dropped,
          tun: tun.stats(),
          sockets: sockets.stats()
        }
      },
      failed: Deferred.await(failed)
    } satisfies Gateway
  }).pipe(Effect.mapError(failure))

const settings = {
  offloads: true,
  tunName: TUNNEL_NAME_LINUX,
  udpSendBuffer: undefined,
  udpReceiveBuffer: undefined
}

/** All that gateways need but their devices. */
export const outsideLayer = outside(settings).pipe(
  Layer.provideMerge(
    LogLive.layer({
      filter: process.env["RUST_LOG"] ?? process.env["FIREZONE_LOG"],
      folder: undefined,
      base: "gateway"
    })
  ),
  Layer.mapError(failure)
)

const layers = TunDeviceHost.layer.pipe(
  Layer.provide(TunInterfaceHost.layer),
  Layer.mapError(failure),
  Layer.provideMerge(outsideLayer)
)

/** The variables of a real gateway (portal spec 14.2). */
export const readEnvironment = (
  token: Redacted.Redacted | undefined
): Effect.Effect<GatewayEnvironment, LabError> =>
  Effect.try({
    try: () => {
      const { FIREZONE_API_URL: url, FIREZONE_ID: id, FIREZONE_NAME: name } = process.env
      if (token === undefined || url === undefined || id === undefined || name === undefined) {
        throw new Error("FIREZONE_TOKEN, FIREZONE_API_URL, FIREZONE_ID and FIREZONE_NAME have to be set")
      }
      return { token, apiUrl: new URL(url), id, name }
    },
    catch: (error) => new LabError({ what: "gateway", why: (error as Error).message })
  })

/** `lab serve gateway`: until the process is told to stop. The control socket knows one request, `/state`. */
export const serve = (
  config: GatewayConfig & { readonly control: string },
  token: Redacted.Redacted | undefined
): Effect.Effect<never, LabError> =>
  Effect.scoped(Effect.gen(function*() {
    const environment = yield* readEnvironment(token)
    yield* forward([config.uplink, config.inside])
    const gateway = yield* start(environment)
    yield* serveControl(config.control, (path) => {
      if (path !== "/state") throw new Error(`no such request: ${path}`)
      return gateway.state()
    })
    return yield* gateway.failed
  })).pipe(Effect.provide(layers))
