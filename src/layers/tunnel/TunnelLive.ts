/** The session: one protocol core, driven with device, sockets and portal (design section 2). */
import * as Cause from "effect/Cause"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Layer from "effect/Layer"
import * as PubSub from "effect/PubSub"
import * as Queue from "effect/Queue"
import * as Ref from "effect/Ref"
import * as Stream from "effect/Stream"
import type { SavedName } from "../../protocol/dns/ResourceResolver.ts"
import { upstreamKey } from "../../protocol/dns/upstreams.ts"
import { Node } from "../../protocol/node/Node.ts"
import { ClientTunnel } from "../../protocol/tunnel/ClientTunnel.ts"
import type { ClientTunnelEvent } from "../../protocol/tunnel/types.ts"
import { familyOf, type IpAddress, SocketAddress } from "../../protocol/wire/address.ts"
import { ClientConfig } from "../../services/ClientConfig.ts"
import { DnsControl } from "../../services/DnsControl.ts"
import { DnsForwarder } from "../../services/DnsForwarder.ts"
import { HostResolver } from "../../services/HostResolver.ts"
import { NetworkChanges, NetworkMonitorFailed, resubscribe, type Roam } from "../../services/NetworkChanges.ts"
import { PeerSocket, type PeerSockets } from "../../services/PeerSocket.ts"
import { Portal, type PortalEvent, type PortalProtocol } from "../../services/Portal.ts"
import { ProtocolCrypto } from "../../services/ProtocolCrypto.ts"
import { RouteCache } from "../../services/RouteCache.ts"
import { SystemResolvers } from "../../services/SystemResolvers.ts"
import { TunDevice, type TunInterfaceConfig } from "../../services/TunDevice.ts"
import {
  Tunnel,
  TunnelCrashed,
  type TunnelError,
  type TunnelEvent,
  type TunnelOptions,
  type TunnelSession,
  type TunnelStatus
} from "../../services/Tunnel.ts"
import { makeDataPlane } from "./dataPlane.ts"
import { makeSessionSockets } from "./sessionSockets.ts"

/** Monotonic milliseconds. */
const now = (): number => performance.now()

const DNS_PORT = 53
/** Whoever reads events that slowly loses the oldest; a new reader gets the latest so many. */
const EVENTS_KEPT = 256
/** How long a stop waits for goodbyes that the system's send buffer has no room for (tunnel spec 17). */
const LONGEST_FLUSH = 1000

/** What the core wants done outside it. Requests to the portal are sent on the spot. */
type CoreEvent = Exclude<ClientTunnelEvent, { readonly _tag: "Request" }>

/** What moved us may have taken rules, routes and addresses away, such as a network manager that starts again. */
interface InterfaceDoubtful {
  readonly _tag: "InterfaceDoubtful"
}

/** Of the session before: applications may still use its addresses for names. */
export type SavedNames = Ref.Ref<ReadonlyArray<SavedName>>

const make = Effect.fnUntraced(function*(savedNames: SavedNames) {
  const config = yield* ClientConfig
  const crypto = yield* ProtocolCrypto
  const devices = yield* TunDevice
  const peerSockets = yield* PeerSocket
  const portals = yield* Portal
  const network = yield* NetworkChanges
  const routes = yield* RouteCache
  const resolvers = yield* SystemResolvers
  const hosts = yield* HostResolver
  const forwarder = yield* DnsForwarder
  const dnsControl = yield* DnsControl

  const start = Effect.fn("Tunnel.start")(function*(options: TunnelOptions) {
    const failed = yield* Deferred.make<never, TunnelError>()
    const events = yield* PubSub.sliding<TunnelEvent>({ capacity: EVENTS_KEPT, replay: EVENTS_KEPT })
    const publish = (event: TunnelEvent): Effect.Effect<void> => Effect.asVoid(PubSub.publish(events, event))
    // Filled by plain calls, emptied by one fiber, so that things happen in the core's order. The core coalesces what
    // repeats, and the rest is bounded by its peers and resources.
    const coreEvents = yield* Queue.unbounded<CoreEvent | InterfaceDoubtful>()

    const tun = yield* devices.open({ name: config.tunName, offloads: config.offloads })
    const began = now()
    const unixEpochMillis = Date.now() - began
    const node = new Node({ crypto, now: began, unixEpochMillis })
    const core = new ClientTunnel({
      node,
      crypto,
      savedNames: yield* savedNames,
      unixEpochMillis,
      instance: tun.instance
    })
    core.setInternetResourceState(config.activateInternetResource, began)
    const forwarding = yield* forwarder.open((id, outcome) => {
      core.dnsResponse(id, outcome, now())
      dataPlane.settle()
    })

    const dataPlane = makeDataPlane({
      core,
      tun,
      now,
      onSettled: () => {
        for (let query = core.pollDnsQuery(); query !== undefined; query = core.pollDnsQuery()) {
          forwarding.forward(query)
        }
        for (let event = core.pollEvent(); event !== undefined; event = core.pollEvent()) {
          // What must not get lost while the portal is away is held back by the core.
          if (event._tag === "Request") portal.unsafeSend(event.request)
          else Queue.unsafeOffer(coreEvents, event)
        }
      },
      onDefect: (cause) => Deferred.unsafeDone(failed, Exit.fail(new TunnelCrashed({ cause })))
    })
    yield* Effect.addFinalizer(() =>
      Effect.suspend(() => {
        dataPlane.stop()
        return Ref.set(savedNames, core.savedNames())
      })
    )
    /** Calls into the core, then sends what came of it. */
    const tell = (call: () => void): Effect.Effect<void> =>
      Effect.sync(() => {
        call()
        dataPlane.settle()
      })

    const sockets = yield* makeSessionSockets(peerSockets.open(dataPlane.socketHandlers), dataPlane.setSockets)

    /** The core may use them as upstreams, and whoever dials hosts of ours asks them. */
    const setResolvers = (found: ReadonlyArray<IpAddress>) =>
      Effect.gen(function*() {
        let usable: ReadonlyArray<IpAddress> = []
        yield* tell(() => {
          usable = core.setSystemResolvers(found)
        })
        yield* hosts.setServers(usable.map((address) => new SocketAddress(address, DNS_PORT)))
      })
    yield* Effect.flatMap(resolvers.current, setResolvers)

    const portal = yield* portals.open({
      role: "client",
      url: config.apiUrl,
      token: options.token,
      externalId: options.device.id,
      name: config.name,
      deviceSerial: options.device.serial,
      deviceUuid: options.device.uuid,
      publicKey: node.publicKey,
      maxPartitionTime: config.maxPartitionTime
    })
    yield* tun.start(dataPlane.tunHandlers)
    // Runs while sockets and device are still there.
    yield* Effect.addFinalizer(() => Effect.zipRight(tell(() => core.close(now())), flushed(sockets.current)))

    let interfaceConfig: TunInterfaceConfig | undefined
    let interfaceStatus: TunnelStatus["interface"]
    let dnsStatus: TunnelStatus["dns"]
    const handleCoreEvent = (event: CoreEvent | InterfaceDoubtful) =>
      Effect.gen(function*() {
        switch (event._tag) {
          case "TunConfigUpdated": {
            const { dnsBySentinel, ipv4, ipv6, routes, searchDomain } = event.config
            forwarding.prepare([...dnsBySentinel.values()])
            interfaceConfig = { ipv4, ipv6, routes }
            // Routes before DNS: nobody is to be sent to addresses that lead nowhere yet.
            const works = yield* tun.configure(interfaceConfig)
            const servers = [...dnsBySentinel].filter(([server]) => familyOf(server) === 4 ? works.ipv4 : works.ipv6)
            yield* dnsControl.set({
              interfaceName: tun.name,
              servers: servers.map(([server]) => server),
              searchDomain
            })
            interfaceStatus = { name: tun.name, ipv4, ipv6, works }
            dnsStatus = {
              method: dnsControl.method,
              servers: servers.map(([address, upstream]) => ({ address, upstream: upstreamKey(upstream) })),
              searchDomain
            }
            yield* publish({ _tag: "InterfaceUp", ipv4, ipv6, searchDomain })
            return
          }
          case "InterfaceDoubtful":
            if (interfaceConfig !== undefined) yield* tun.configure(interfaceConfig)
            return
          case "PeerConnected": {
            const peer = core.status(now()).peers.find(({ peer }) => peer === event.peer)
            // It may have gone again; then `PeerLost` follows.
            if (peer !== undefined) yield* publish({ _tag: "PeerConnected", peer })
            return
          }
          case "UnusablePattern":
            return yield* Effect.logWarning("the pattern of a resource is none: its names will not be resolved").pipe(
              Effect.annotateLogs("resource", event.resourceId)
            )
          case "ResourcesUpdated":
            // What names stand for has changed.
            yield* dnsControl.flush
            yield* publish(event)
            return
          default:
            yield* publish(event)
        }
      })

    const handlePortalEvent = (event: PortalEvent<PortalProtocol["client"]["push"]>) => {
      switch (event._tag) {
        case "Connected":
          return Effect.zipRight(
            tell(() => {
              portal.unsafeSend({ _tag: "SetSnownetCapabilities", iceless: true })
              core.portalConnected(now())
            }),
            publish({ _tag: "SignedIn" })
          )
        case "Disconnected":
          return Effect.zipRight(
            tell(() => core.portalDisconnected(now())),
            // A roam asks for a new connection; that is no loss.
            Effect.unless(
              publish({ _tag: "PortalLost", reason: event.error.message, retryInMillis: event.retryInMillis }),
              () => event.error.requested
            )
          )
        case "Message":
          return tell(() => core.handlePush(event.push, now()))
        case "Failed":
          return Effect.fail(event.error)
      }
    }

    /** Cache, sockets, peers, portal: each needs the one before it (design section 5). */
    const lock = yield* Effect.makeSemaphore(1)
    const reset = (reason: string) =>
      Effect.gen(function*() {
        yield* routes.invalidateAll("reset")
        yield* sockets.rebind
        // Before the core asks again what is under way.
        forwarding.reset()
        yield* tell(() => {
          // Candidates of the new network are for the connection that comes; the old one may not carry them any more.
          core.portalDisconnected(now())
          core.reset(now())
        })
        yield* Effect.flatMap(resolvers.current, setResolvers)
        yield* portal.reconnect(node.publicKey)
        yield* Queue.offer(coreEvents, { _tag: "InterfaceDoubtful" })
        yield* publish({ _tag: "Reset", reason })
      }).pipe(lock.withPermits(1), Effect.uninterruptible)

    const handleRoam = (roam: Roam) => {
      switch (roam._tag) {
        case "Moving":
          return Effect.sync(() => dataPlane.setSockets(undefined))
        case "Stayed":
          return Effect.sync(() => dataPlane.setSockets(sockets.current()))
        case "Moved":
          return reset(roam.reason)
      }
    }

    /** Nothing here may end: a failure or a bug ends the session. */
    const supervise = <E extends TunnelError>(name: string, loop: Effect.Effect<unknown, E>) =>
      loop.pipe(
        Effect.sandbox,
        Effect.catchAll((cause): Effect.Effect<unknown> => {
          if (Cause.isInterruptedOnly(cause)) return Effect.void
          const error = Cause.failureOption(cause)
          return Deferred.fail(failed, error._tag === "Some" ? error.value : new TunnelCrashed({ cause }))
        }),
        Effect.annotateLogs("module", name),
        Effect.interruptible,
        Effect.forkScoped
      )
    yield* supervise("tunnel", Effect.forever(Effect.flatMap(Queue.take(coreEvents), handleCoreEvent)))
    yield* supervise("portal", Effect.forever(Effect.flatMap(Queue.take(portal.events), handlePortalEvent)))
    yield* supervise("tun", tun.closed)
    yield* supervise("dns", Stream.runForEach(resolvers.changes, setResolvers))
    yield* supervise(
      "network",
      network.roams.pipe(
        Stream.runForEach(handleRoam),
        // What became of a move that had begun is not known.
        Effect.ensuring(Effect.sync(() => dataPlane.setSockets(sockets.current()))),
        Effect.zipRight(new NetworkMonitorFailed({ cause: new Error("the stream of roams ended") })),
        Effect.tapError((error) =>
          error._tag === "NetworkMonitorFailed"
            ? Effect.logWarning("cannot follow the network, subscribing again").pipe(
              Effect.annotateLogs("cause", String(error.cause))
            )
            : Effect.void
        ),
        Effect.retry({ schedule: resubscribe, while: (error) => error._tag === "NetworkMonitorFailed" }),
        Effect.catchTag("NetworkMonitorFailed", Effect.die)
      )
    )

    // Before everything else ends: names work all the time.
    yield* Effect.addFinalizer(() => Effect.catchAll(dnsControl.revert, (error) => Effect.logError(error.message)))

    const status = Effect.gen(function*() {
      const routeCache = yield* routes.stats
      const { devicePools, dnsCounts, dropped, internetResourceActive, peers, relays, resources } = core.status(now())
      const { lastError, state } = portal.status()
      return {
        portal: { state: state === "failed" ? "disconnected" : state, lastError },
        interface: interfaceStatus,
        dns: dnsStatus,
        resources,
        devicePools,
        peers,
        relays,
        tun: tun.stats(),
        sockets: sockets.stats(),
        routeCache,
        dropped,
        dnsCounts,
        internetResourceActive
      } satisfies TunnelStatus
    })
    // A reader that is busy for a second has missed nothing: the next status says it all.
    const statuses = Stream.fromEffect(status).pipe(
      Stream.concat(
        Stream.fromPubSub(events).pipe(
          Stream.buffer({ capacity: 1, strategy: "sliding" }),
          Stream.mapEffect(() => Effect.delay(status, "1 second"))
        )
      )
    )

    return {
      events: Stream.fromPubSub(events),
      status,
      statuses,
      reset: (reason) => Effect.catchAll(reset(reason), (error) => Effect.asVoid(Deferred.fail(failed, error))),
      setInternetResourceState: (active) => tell(() => core.setInternetResourceState(active, now())),
      failed: Deferred.await(failed)
    } satisfies TunnelSession
  })
  return Tunnel.of({ start })
})

/** Waits until nothing is left in the backlog of the sockets, for a second at most. */
const flushed = (sockets: () => PeerSockets | undefined): Effect.Effect<void> =>
  Effect.sleep("10 millis").pipe(
    Effect.repeat({ while: () => sockets()?.blocked() === true }),
    Effect.timeoutTo({ duration: LONGEST_FLUSH, onSuccess: () => undefined, onTimeout: () => undefined }),
    Effect.interruptible,
    Effect.when(() => sockets()?.blocked() === true),
    Effect.asVoid
  )

/** Sessions of several such layers, one after the other, that keep each other's names. */
export const layerWith = (savedNames: SavedNames) => Layer.effect(Tunnel, make(savedNames))

export const noNames: Effect.Effect<SavedNames> = Ref.make<ReadonlyArray<SavedName>>([])

export const layer = Layer.unwrapEffect(Effect.map(noNames, layerWith))
