/** The session between doubles of its neighbours, with the real protocol core. */
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Layer from "effect/Layer"
import * as Redacted from "effect/Redacted"
import * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import { assert, describe, it } from "vitest"
import { SyscallError } from "../../../src/ffi/SyscallError.ts"
import * as ProtocolCryptoLive from "../../../src/layers/crypto/ProtocolCryptoLive.ts"
import * as RouteCacheInvalidation from "../../../src/layers/route/RouteCacheInvalidation.ts"
import * as RouteCacheLive from "../../../src/layers/route/RouteCacheLive.ts"
import * as TunnelLive from "../../../src/layers/tunnel/TunnelLive.ts"
import { upstreamKey } from "../../../src/protocol/dns/upstreams.ts"
import type { ClientPush, Init, Resource } from "../../../src/protocol/portal/types.ts"
import { formatNetwork, ip, parseNetwork, SocketAddress } from "../../../src/protocol/wire/address.ts"
import { encodeQuery, RecordType } from "../../../src/protocol/wire/dns.ts"
import { udpPacket } from "../../../src/protocol/wire/udp.ts"
import { ClientConfig, type ClientSettings } from "../../../src/services/ClientConfig.ts"
import { DnsControlFailed } from "../../../src/services/DnsControl.ts"
import { PortalDisconnected, TokenRejected } from "../../../src/services/Portal.ts"
import { RouteCache } from "../../../src/services/RouteCache.ts"
import { SocketFailed } from "../../../src/services/SocketFactory.ts"
import { TunFailed } from "../../../src/services/TunDevice.ts"
import { Tunnel, type TunnelEvent, type TunnelSession } from "../../../src/services/Tunnel.ts"
import { type DnsControlDouble, makeDnsControlDouble } from "../../support/DnsControlDouble.ts"
import { makeDnsForwarderDouble } from "../../support/DnsForwarderDouble.ts"
import { makeHostResolverDouble } from "../../support/HostResolverDouble.ts"
import { makeNetworkChangesDouble, type NetworkChangesDouble } from "../../support/NetworkChangesDouble.ts"
import { makePeerSocketDouble } from "../../support/PeerSocketDouble.ts"
import { makePortalDouble } from "../../support/PortalDouble.ts"
import { makeRouteCacheDouble } from "../../support/RouteCacheDouble.ts"
import { makeRouteResolverDouble, routeVia } from "../../support/RouteResolverDouble.ts"
import { settings } from "../../support/settings.ts"
import { makeSystemResolversDouble } from "../../support/SystemResolversDouble.ts"
import { makeTunDeviceDouble } from "../../support/TunDeviceDouble.ts"

const RESOURCE = "66666666-6666-4666-8666-666666666664"
const SITE = { id: "88888888-8888-4888-8888-888888888888", name: "Lab" }
const network = (text: string) => {
  const parsed = parseNetwork(text)
  if (parsed === undefined) throw new Error(text)
  return parsed
}
const init = (changes: Partial<Init> = {}): ClientPush => ({
  _tag: "Init",
  init: {
    interface: { ipv4: ip("100.64.0.1"), ipv6: ip("fd00:2021:1111::1"), upstreamDo53: [], upstreamDoh: [] },
    resources: [
      { type: "cidr", id: RESOURCE, name: "Lab", address: network("10.20.0.0/16"), sites: [SITE], filters: [] }
    ],
    relays: [],
    authorizations: [],
    ...changes
  }
})

/** An IPv4 UDP packet without checksum from the tunnel address to 10.20.0.1. */
const packetToResource = (): Uint8Array => {
  const packet = new Uint8Array(32)
  packet.set([0x45, 0, 0, 32, 0, 1, 0, 0, 64, 17, 0, 0, 100, 64, 0, 1, 10, 20, 0, 1, 0x30, 0x39, 0, 7, 0, 12, 0, 0])
  let sum = 0
  for (let i = 0; i < 20; i += 2) sum += (packet[i] as number) << 8 | (packet[i + 1] as number)
  sum = (sum & 0xffff) + (sum >> 16)
  packet[10] = ~sum >> 8 & 0xff
  packet[11] = ~sum & 0xff
  return packet
}

const named: Resource = {
  type: "dns",
  id: RESOURCE,
  name: "Names",
  address: "*.corp.test",
  sites: [SITE],
  ipStack: "dual",
  filters: []
}

/** An application's query for an A record at the first sentinel. */
const queryPacket = (name = "example.com"): Uint8Array =>
  udpPacket({
    source: ip("100.64.0.1"),
    sourcePort: 40_053,
    destination: ip("100.100.111.1"),
    destinationPort: 53
  }, encodeQuery(7, name, RecordType.A) ?? new Uint8Array())

const makeParts = Effect.gen(function*() {
  const network: NetworkChangesDouble = yield* makeNetworkChangesDouble
  return {
    portal: makePortalDouble<"client">(),
    tun: makeTunDeviceDouble(),
    sockets: makePeerSocketDouble(),
    routes: makeRouteCacheDouble(),
    resolvers: makeSystemResolversDouble(),
    forwarder: makeDnsForwarderDouble(),
    dnsControl: makeDnsControlDouble(),
    hosts: makeHostResolverDouble(),
    network
  }
})
type Parts = Effect.Effect.Success<typeof makeParts>

const layerOf = (
  parts: Parts,
  changes: Partial<ClientSettings> = {},
  layer = TunnelLive.layer,
  routes: Layer.Layer<RouteCache> = parts.routes.layer
) =>
  layer.pipe(
    Layer.provide([
      parts.portal.layer,
      parts.tun.layer,
      parts.sockets.layer,
      routes,
      parts.network.layer,
      parts.resolvers.layer,
      parts.forwarder.layer,
      parts.dnsControl.layer,
      parts.hosts.layer,
      ProtocolCryptoLive.layer
    ]),
    Layer.provide(Layer.succeed(ClientConfig, settings({ tunName: "tun-test", ...changes })))
  )

const options = {
  token: Redacted.make(".token"),
  device: { id: "device", serial: "serial", uuid: "uuid" }
}

/** Waits for a fact; the test's own time limit ends a wait for something that never comes. */
const eventually = (fact: () => boolean): Effect.Effect<void> =>
  Effect.repeat(Effect.sleep("1 millis"), { until: fact }).pipe(Effect.asVoid)

interface Running extends Parts {
  readonly session: TunnelSession
  readonly seen: Array<TunnelEvent>
  /** Ends the session. */
  readonly stop: Effect.Effect<void>
}

const withSession = (
  body: (running: Running) => Effect.Effect<void, unknown>,
  changes: Partial<ClientSettings> = {}
): Promise<void> =>
  Effect.gen(function*() {
    const parts = yield* makeParts
    const scope = yield* Scope.make()
    yield* Effect.gen(function*() {
      const session = yield* Scope.extend(Effect.flatMap(Tunnel, (tunnel) => tunnel.start(options)), scope)
      const seen: Array<TunnelEvent> = []
      const reader = yield* Effect.fork(
        Stream.runForEach(session.events, (event) => Effect.sync(() => seen.push(event)))
      )
      yield* body({ ...parts, session, seen, stop: Scope.close(scope, Exit.void) })
      yield* Fiber.interrupt(reader)
    }).pipe(Effect.ensuring(Scope.close(scope, Exit.void)), Effect.provide(layerOf(parts, changes)))
  }).pipe(Effect.runPromise)

/** Where DNS was to point, oldest first. */
const targetsOf = ({ calls }: DnsControlDouble) => calls.filter((call) => typeof call === "object")

const failure = (session: TunnelSession) => Effect.flip(session.failed)

describe("tunnel session", () => {
  it("opens device, sockets and portal with the settings and one key", () =>
    withSession(({ portal, sockets, tun }) =>
      Effect.sync(() => {
        assert.deepStrictEqual(tun.opened, [{ name: "tun-test", offloads: false }])
        assert.strictEqual(sockets.opened, 1)
        const [opened] = portal.opened
        assert.strictEqual(opened?.publicKey.length, 32)
        assert.deepInclude(opened, { role: "client", externalId: "device", deviceSerial: "serial", deviceUuid: "uuid" })
      }), { offloads: false }))

  it("signs in, sets the interface up, and asks for what traffic wants", () =>
    withSession(({ portal, seen, session, tun }) =>
      Effect.gen(function*() {
        portal.emit({ _tag: "Connected" })
        portal.emit({ _tag: "Message", push: init() })
        yield* eventually(() => seen.some(({ _tag }) => _tag === "InterfaceUp"))
        assert.deepStrictEqual(portal.sent[0], { _tag: "SetSnownetCapabilities", iceless: true })
        const [configured] = tun.configured
        if (configured === undefined) throw new Error("not configured")
        assert.deepStrictEqual([configured.ipv4, configured.ipv6], [ip("100.64.0.1"), ip("fd00:2021:1111::1")])
        assert.include(configured.routes.map(formatNetwork), "10.20.0.0/16")
        assert.strictEqual(seen[0]?._tag, "SignedIn")
        assert.isTrue(tun.deliver(packetToResource()))
        assert.deepInclude(portal.sent.at(-1), { _tag: "RequestAuthorization", resourceId: RESOURCE })
        const status = yield* session.status
        assert.strictEqual(status.portal.state, "connected")
        assert.deepStrictEqual(status.interface?.works, { ipv4: true, ipv6: true })
        assert.deepStrictEqual(status.resources.map(({ id, status }) => ({ id, status })), [
          { id: RESOURCE, status: "Unknown" }
        ])
      })
    ))

  it("tells a late reader what happened before, and every reader the status", () =>
    withSession(({ portal, seen, session }) =>
      Effect.gen(function*() {
        portal.emit({ _tag: "Connected" })
        portal.emit({ _tag: "Message", push: init() })
        yield* eventually(() => seen.some(({ _tag }) => _tag === "InterfaceUp"))
        const late = yield* session.events.pipe(
          Stream.takeUntil(({ _tag }) => _tag === "InterfaceUp"),
          Stream.runCollect
        )
        assert.deepStrictEqual([...late], seen.slice(0, late.length))
        const [first] = yield* session.statuses.pipe(Stream.take(1), Stream.runCollect)
        assert.strictEqual(first?.resources.length, 1)
      })
    ))

  it("says that the portal is away, goes on, and takes the resources of the next init", () =>
    withSession(({ portal, seen, session }) =>
      Effect.gen(function*() {
        portal.emit({ _tag: "Connected" })
        portal.emit({ _tag: "Message", push: init() })
        portal.emit({
          _tag: "Disconnected",
          error: new PortalDisconnected({ reason: "gone", requested: false }),
          retryInMillis: 100
        })
        yield* eventually(() => seen.some(({ _tag }) => _tag === "PortalLost"))
        assert.strictEqual((yield* session.status).resources.length, 1)
        portal.emit({ _tag: "Connected" })
        portal.emit({ _tag: "Message", push: init({ resources: [] }) })
        yield* eventually(() => seen.some((event) => event._tag === "ResourcesUpdated" && event.resources.length === 0))
      })
    ))

  it("fails when the portal gives up, the device goes, or the interface cannot be set up", async () => {
    await withSession(({ portal, session }) =>
      Effect.gen(function*() {
        portal.emit({ _tag: "Failed", error: new TokenRejected({ detail: "expired" }) })
        assert.strictEqual((yield* failure(session))._tag, "TokenRejected")
      })
    )
    await withSession(({ session, tun }) =>
      Effect.gen(function*() {
        tun.remove(new TunFailed({ step: "read", cause: "gone" }))
        assert.strictEqual((yield* failure(session))._tag, "TunFailed")
      })
    )
    await withSession(({ portal, session, tun }) =>
      Effect.gen(function*() {
        tun.configureFailure = new TunFailed({ step: "add address", cause: "EPERM" })
        portal.emit({ _tag: "Connected" })
        portal.emit({ _tag: "Message", push: init() })
        const error = yield* failure(session)
        assert.include(error.message, "add address")
      })
    )
  })

  it("leaves nothing open when it cannot start", () =>
    Effect.gen(function*() {
      const parts = yield* makeParts
      parts.sockets.failure = new SocketFailed({
        operation: "bind 0.0.0.0:0",
        cause: new SyscallError({ syscall: "bind", code: 13, errno: "EACCES" })
      })
      const error = yield* Effect.flatMap(Tunnel, (tunnel) => tunnel.start(options)).pipe(
        Effect.scoped,
        Effect.flip,
        Effect.provide(layerOf(parts))
      )
      assert.strictEqual(error._tag, "SocketFailed")
      assert.isFalse(parts.tun.isOpen())
      assert.deepStrictEqual(parts.portal.opened, [])
    }).pipe(Effect.runPromise))

  it("roams: cache, sockets, peers, portal, in this order and under a new key (host 18.25)", () =>
    withSession(({ network, portal, routes, seen, sockets }) =>
      Effect.gen(function*() {
        // What each step finds of the one before it.
        const found: Array<unknown> = []
        const reconnects = portal.reconnects.push.bind(portal.reconnects)
        portal.reconnects.push = (key) => {
          found.push({ invalidated: [...routes.invalidated], opened: sockets.opened, open: sockets.isOpen() })
          return reconnects(key)
        }
        portal.emit({ _tag: "Connected" })
        yield* eventually(() => seen.some(({ _tag }) => _tag === "SignedIn"))
        // The subscription of the session begins with it; a roam before that would be nobody's.
        yield* network.roam({ _tag: "Moved", reason: "test" }).pipe(
          Effect.zipRight(Effect.sleep("1 millis")),
          Effect.repeat({ until: () => portal.reconnects.length > 0 })
        )
        assert.deepStrictEqual(found[0], { invalidated: ["reset"], opened: 2, open: true })
        assert.notDeepEqual(portal.reconnects[0], portal.opened[0]?.publicKey)
        yield* eventually(() => seen.some(({ _tag }) => _tag === "Reset"))
      })
    ))

  it("host spec 17, decision 8: a change while the tunnel is being made empties the cache; only the reset waits", () =>
    Effect.gen(function*() {
      const parts = yield* makeParts
      const resolver = makeRouteResolverDouble()
      const portalAddress = ip("192.0.2.80")
      // As the wiring has it, with the real cache in the place of the double.
      const cached = Layer.provideMerge(RouteCacheInvalidation.layer, RouteCacheLive.layer).pipe(
        Layer.provide([resolver.layer, parts.network.layer])
      )
      yield* Effect.gen(function*() {
        const cache = yield* RouteCache
        const session = yield* Effect.flatMap(Tunnel, (tunnel) => tunnel.start(options))
        const seen: Array<TunnelEvent> = []
        yield* Effect.forkScoped(Stream.runForEach(session.events, (event) => Effect.sync(() => seen.push(event))))
        const interfaceName = Effect.map(cache.get(portalAddress), (route) => route.interfaceName)
        // The portal has not answered: there is no interface.
        assert.strictEqual(yield* interfaceName, "eth0")
        resolver.answer = (destination) => Effect.succeed(routeVia("wlan0", destination))
        assert.strictEqual(yield* interfaceName, "eth0", "it is the cache that answers")
        yield* parts.network.roam({ _tag: "Moving" })
        yield* parts.network.change({ _tag: "Route", interfaceIndex: 2 })
        while ((yield* interfaceName) !== "wlan0") yield* Effect.sleep("1 millis")
        assert.deepStrictEqual(
          [parts.portal.reconnects.length, seen],
          [0, []],
          "the reset waits for the network to settle"
        )
        yield* parts.network.roam({ _tag: "Moved", reason: "another network" })
        yield* eventually(() => seen.some(({ _tag }) => _tag === "Reset"))
        assert.lengthOf(parts.portal.reconnects, 1)
        parts.portal.emit({ _tag: "Connected" })
        parts.portal.emit({ _tag: "Message", push: init() })
        yield* eventually(() => seen.some(({ _tag }) => _tag === "InterfaceUp"))
      }).pipe(Effect.scoped, Effect.provide(Layer.merge(layerOf(parts, {}, TunnelLive.layer, cached), cached)))
    }).pipe(Effect.runPromise))

  it("sends nothing while the network moves", () =>
    withSession(({ network, portal, seen, session, sockets }) =>
      Effect.gen(function*() {
        portal.emit({ _tag: "Connected" })
        let relays = 0
        /** Whether the first request to a relay that the core has not known before is sent. */
        const isHeard = Effect.gen(function*() {
          relays += 1
          const v4 = new SocketAddress(ip(`203.0.113.${relays}`), 3478)
          portal.emit({
            _tag: "Message",
            push: init({
              relays: [{ id: `relay-${relays}`, v4, username: "user", password: "password" }],
              resources: []
            })
          })
          const before = seen.length
          portal.emit({ _tag: "Message", push: init() })
          yield* eventually(() => seen.slice(before).some(({ _tag }) => _tag === "ResourcesUpdated"))
          assert.deepInclude((yield* session.status).relays.map(({ addresses }) => addresses), [v4])
          return sockets.sent.some(({ destination }) => destination.text === v4.text)
        })
        assert.isTrue(yield* isHeard)
        // Again and again, because the subscription of the session begins with it.
        for (const roam of [{ _tag: "Moving" }, { _tag: "Stayed" }, { _tag: "Moving" }] as const) {
          yield* Effect.zipRight(network.roam(roam), isHeard).pipe(
            Effect.repeat({ until: (heard) => heard === (roam._tag === "Stayed") })
          )
        }
        yield* network.roam({ _tag: "Moved", reason: "test" })
        yield* eventually(() => portal.reconnects.length > 0)
        assert.isTrue(yield* isHeard)
      })
    ))

  it("sets the interface up again after a reset, in case somebody took its routes away", () =>
    withSession(({ portal, seen, session, tun }) =>
      Effect.gen(function*() {
        yield* session.reset("before there is an interface")
        portal.emit({ _tag: "Connected" })
        portal.emit({ _tag: "Message", push: init() })
        yield* eventually(() => seen.some(({ _tag }) => _tag === "InterfaceUp"))
        assert.lengthOf(tun.configured, 1)
        yield* session.reset("test")
        yield* eventually(() => tun.configured.length === 2)
        assert.deepStrictEqual(tun.configured[1], tun.configured[0])
        assert.lengthOf(seen.filter(({ _tag }) => _tag === "InterfaceUp"), 1)
      })
    ))

  it("says why when it cannot bind again after a roam", () =>
    withSession(({ session, sockets }) =>
      Effect.gen(function*() {
        sockets.failure = new SocketFailed({
          operation: "bind 0.0.0.0:0",
          cause: new SyscallError({ syscall: "bind", code: 13, errno: "EACCES" })
        })
        yield* session.reset("test")
        assert.strictEqual((yield* failure(session))._tag, "SocketFailed")
      })
    ))

  it("waits for a full send buffer when it stops, but not for ever, and closes what it opened", () =>
    withSession(({ sockets, stop, tun }) =>
      Effect.gen(function*() {
        sockets.setBlocked(true)
        const stopped = yield* Deferred.make<void>()
        yield* Effect.fork(Effect.zipRight(stop, Deferred.succeed(stopped, undefined)))
        yield* Effect.sleep("20 millis")
        assert.isTrue(sockets.isOpen() && tun.isOpen())
        yield* Deferred.await(stopped)
        assert.isFalse(sockets.isOpen() || tun.isOpen())
      })
    ))

  it("uses the system's resolvers, follows their changes, and asks outside what it cannot answer", () =>
    withSession(({ forwarder, hosts, portal, resolvers, seen, session, tun }) =>
      Effect.gen(function*() {
        assert.deepStrictEqual(hosts.servers, [])
        yield* resolvers.set([ip("192.0.2.53"), ip("100.100.111.1")])
        yield* eventually(() => hosts.servers.length > 0)
        // Our own are nobody's servers.
        assert.deepStrictEqual(hosts.servers.map(({ text }) => text), ["192.0.2.53:53"])
        portal.emit({ _tag: "Connected" })
        portal.emit({ _tag: "Message", push: init() })
        yield* eventually(() => seen.some(({ _tag }) => _tag === "InterfaceUp"))
        assert.deepStrictEqual(forwarder.prepared, [{ _tag: "Do53", address: ip("192.0.2.53") }])
        tun.deliver(queryPacket())
        const [query] = forwarder.queries
        if (query === undefined) throw new Error("nothing was asked")
        assert.deepInclude(query, { transport: "udp", upstream: { _tag: "Do53", address: ip("192.0.2.53") } })
        const answer = query.message.slice()
        answer[2] = 0x81
        answer[3] = 3
        forwarder.answer(query.id, answer)
        assert.lengthOf(tun.written, 1)
        assert.deepStrictEqual(tun.written[0]?.slice(28), answer)
        // What was asked in the old network is forgotten.
        tun.deliver(queryPacket())
        yield* session.reset("test")
        assert.strictEqual(forwarder.resets, 1)
        forwarder.answer(forwarder.queries[1]?.id ?? -1, answer)
        assert.lengthOf(tun.written, 1)
        yield* resolvers.set([ip("198.51.100.53")])
        yield* eventually(() => forwarder.prepared.some((upstream) => upstreamKey(upstream) === "198.51.100.53"))
        assert.deepStrictEqual(hosts.servers.map(({ text }) => text), ["198.51.100.53:53"])
      })
    ))

  it("points the system's DNS at itself once its routes are there, and back before they go (host 18.37)", () =>
    withSession(({ dnsControl, portal, resolvers, session, stop, tun }) =>
      Effect.gen(function*() {
        let routesAtSet = 0
        let isOpenAtRevert: boolean | undefined
        dnsControl.onCall = (what) => {
          if (what === "revert") isOpenAtRevert = tun.isOpen()
          else if (typeof what === "object") routesAtSet = tun.configured.at(-1)?.routes.length ?? 0
        }
        yield* resolvers.set([ip("192.0.2.1"), ip("2001:db8::1")])
        portal.emit({ _tag: "Connected" })
        const { init: facts } = init() as Extract<ClientPush, { _tag: "Init" }>
        portal.emit({
          _tag: "Message",
          push: init({ interface: { ...facts.interface, searchDomain: "corp.test" } })
        })
        // What follows a change of the resolvers may come second.
        yield* eventually(() =>
          targetsOf(dnsControl).some(({ servers }) => servers.length > 0) && dnsControl.calls.includes("flush")
        )
        assert.deepStrictEqual(targetsOf(dnsControl).at(-1), {
          interfaceName: "tun-test",
          servers: [ip("100.100.111.1"), ip("fd00:2021:1111:8000:100:100:111:0")],
          searchDomain: "corp.test"
        })
        assert.isAbove(routesAtSet, 0)
        assert.deepStrictEqual((yield* session.status).dns, {
          method: "etc-resolv-conf",
          servers: [
            { address: ip("100.100.111.1"), upstream: "192.0.2.1" },
            { address: ip("fd00:2021:1111:8000:100:100:111:0"), upstream: "2001:db8::1" }
          ],
          searchDomain: "corp.test"
        })
        assert.notInclude(dnsControl.calls, "revert")
        yield* stop
        assert.isTrue(isOpenAtRevert)
        assert.strictEqual(dnsControl.calls.at(-1), "revert")
      })
    ))

  it("leaves out servers of a family that does not work on the tunnel", () =>
    withSession(({ dnsControl, portal, resolvers, tun }) =>
      Effect.gen(function*() {
        tun.works = { ipv4: true, ipv6: false }
        yield* resolvers.set([ip("192.0.2.1"), ip("2001:db8::1")])
        portal.emit({ _tag: "Connected" })
        portal.emit({ _tag: "Message", push: init() })
        // What follows a change of the resolvers may come second.
        yield* eventually(() => targetsOf(dnsControl).some(({ servers }) => servers.length > 0))
        assert.deepStrictEqual(targetsOf(dnsControl).at(-1)?.servers, [ip("100.100.111.1")])
      })
    ))

  it("fails, and has DNS reverted, when it cannot be pointed at the tunnel", () =>
    withSession(({ dnsControl, portal, session, stop }) =>
      Effect.gen(function*() {
        dnsControl.setFailure = new DnsControlFailed({ step: "resolvectl dns", cause: "no bus", hint: "start it" })
        portal.emit({ _tag: "Connected" })
        portal.emit({ _tag: "Message", push: init() })
        const error = yield* failure(session)
        assert.strictEqual(error.message, "cannot control the system's DNS: resolvectl dns: no bus; start it")
        yield* stop
        assert.strictEqual(dnsControl.calls.at(-1), "revert")
      })
    ))

  it.each([
    ["of one layer", false],
    ["of another layer that was given its names, as in the tunnel service", true]
  ])(
    "gives names of resources the addresses that they had in the session before %s",
    (_, isAnother) =>
      Effect.gen(function*() {
        const parts = yield* makeParts
        const names = yield* TunnelLive.noNames
        yield* parts.resolvers.set([ip("192.0.2.53")])
        const addressIn = (name: string) =>
          Effect.gen(function*() {
            const session = yield* Effect.flatMap(Tunnel, (tunnel) => tunnel.start(options))
            parts.portal.emit({ _tag: "Connected" })
            parts.portal.emit({ _tag: "Message", push: init({ resources: [named] }) })
            yield* session.events.pipe(Stream.takeUntil(({ _tag }) => _tag === "InterfaceUp"), Stream.runDrain)
            parts.tun.written.length = 0
            parts.tun.deliver(queryPacket(name))
            return [...parts.tun.written[0]?.slice(-4) ?? []]
          }).pipe(
            Effect.scoped,
            (session) => isAnother ? Effect.provide(session, layerOf(parts, {}, TunnelLive.layerWith(names))) : session
          )
        yield* Effect.gen(function*() {
          const first = yield* addressIn("a.corp.test")
          assert.deepStrictEqual(first, [100, 96, 0, 4])
          assert.deepStrictEqual(yield* addressIn("b.corp.test"), [100, 96, 0, 8])
          assert.deepStrictEqual(yield* addressIn("a.corp.test"), first)
        }).pipe(Effect.provide(layerOf(parts)))
      }).pipe(Effect.runPromise)
  )

  it("asks nobody any more when it has ended", () =>
    withSession(({ forwarder, stop }) =>
      Effect.gen(function*() {
        assert.isTrue(forwarder.isOpen)
        yield* stop
        assert.isFalse(forwarder.isOpen)
      })
    ))

  it("counts datagrams that mean nothing and goes on", () =>
    withSession(({ session, sockets }) =>
      Effect.gen(function*() {
        const local = new SocketAddress(ip("127.0.0.1"), 52625)
        const from = new SocketAddress(ip("127.0.0.1"), 4000)
        sockets.deliver(local, from, [new Uint8Array(0), Uint8Array.of(0xff), new Uint8Array(1300).fill(4)])
        const status = yield* session.status
        assert.isAbove(status.dropped["unreadable-datagram"] ?? 0, 0)
      })
    ))
})
