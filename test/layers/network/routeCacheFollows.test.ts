/** The shared route cache on a machine whose routes change: every layer is the real one. */
import { assert, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import { afterEach, beforeAll, beforeEach } from "vitest"
import * as NetworkChangesHost from "../../../src/layers/network/NetworkChangesHost.ts"
import * as ReadinessPollerKoffi from "../../../src/layers/poll/ReadinessPollerKoffi.ts"
import * as RouteCacheInvalidation from "../../../src/layers/route/RouteCacheInvalidation.ts"
import * as RouteCacheLive from "../../../src/layers/route/RouteCacheLive.ts"
import * as RouteResolverLinux from "../../../src/layers/route/RouteResolverLinux.ts"
import * as TunDeviceHost from "../../../src/layers/tun/TunDeviceHost.ts"
import * as TunInterfaceHost from "../../../src/layers/tun/TunInterfaceHost.ts"
import { TUNNEL_NAME_LINUX } from "../../../src/model/policyRouting.ts"
import { ip as address, parseNetwork } from "../../../src/protocol/wire/address.ts"
import { RouteCache } from "../../../src/services/RouteCache.ts"
import { TunDevice } from "../../../src/services/TunDevice.ts"
import { addAddress6, addLink, ipFirst, linkExists } from "../../support/links.ts"
import { enterPrivateNetworkNamespace, ip } from "../../support/netns.ts"
import { describeWith } from "../../support/requires.ts"
import { noBus } from "../../support/SystemBusDouble.ts"
import { waitFor } from "../../support/waitFor.ts"

const layer = Layer.mergeAll(RouteCacheInvalidation.layer, TunDeviceHost.layer).pipe(
  Layer.provideMerge(RouteCacheLive.layer),
  Layer.provide(TunInterfaceHost.layer),
  Layer.provide(NetworkChangesHost.layer),
  Layer.provide(Layer.merge(RouteResolverLinux.layer, noBus)),
  Layer.provide(ReadinessPollerKoffi.layer)
)

/** How the cache says that a destination is reached; the word of an error if it is not. */
const via = (destination: string) =>
  Effect.flatMap(RouteCache, (cache) => cache.get(address(destination))).pipe(
    Effect.map(({ interfaceName, nextHop, source }) => `${interfaceName} ${source} ${nextHop ?? "-"}`),
    Effect.catchTag("NoRoute", ({ reason }) => Effect.succeed(reason))
  )

/** Waits, in real time, until the cache says so; nobody tells it but the kernel. */
const becomes = (destination: string, expected: string) =>
  Effect.gen(function*() {
    const deadline = performance.now() + 5000
    let now = yield* via(destination)
    while (now !== expected && performance.now() < deadline) {
      yield* Effect.sleep("5 millis")
      now = yield* via(destination)
    }
    assert.strictEqual(now, expected)
  })

const V4 = "8.8.8.8"
const V6 = "2606:4700::1"
const generation = Effect.flatMap(RouteCache, (cache) => Effect.map(cache.stats, (stats) => stats.generation))

describeWith({ root: true, programs: ["ip"] }, "the route cache follows", () => {
  beforeAll(enterPrivateNetworkNamespace)
  beforeEach(() => {
    addLink("eth")
    addLink("wifi")
    ip("addr add 192.0.2.2/24 dev eth")
    addAddress6("eth", "2001:db8:1::2/64")
    ip("addr add 198.18.0.2/24 dev wifi")
    ip("route add default via 192.0.2.1 dev eth metric 100")
    ip("route add default via 198.18.0.1 dev wifi metric 600")
    ip("-6 route add default via 2001:db8:1::1 dev eth metric 100")
  })
  afterEach(() => {
    for (const name of ["eth", "wifi"]) if (linkExists(name)) ip(`link del ${name}`)
    ip("rule flush priority 5000")
    ip("-6 rule flush priority 5000")
  })

  const eth = "eth 192.0.2.2 192.0.2.1"
  const wifi = "wifi 198.18.0.2 198.18.0.1"
  const eth6 = "eth 2001:db8:1::2 2001:db8:1::1"

  it.scopedLive("links, addresses, routes and rules, and forgets what was", () =>
    Effect.gen(function*() {
      yield* becomes(V4, eth)
      yield* becomes(V6, eth6)
      // Asked again and again it looks up nothing.
      const cache = yield* RouteCache
      const { misses } = yield* cache.stats
      for (let i = 0; i < 100; i++) assert.strictEqual(yield* via(V4), eth)
      assert.strictEqual((yield* cache.stats).misses, misses)
      assert.strictEqual(cache.peek(address(V4))?.interfaceName, "eth")

      ip("link set eth down") // IPv4 routes vanish without a word
      yield* becomes(V4, wifi)
      yield* becomes(V6, "ENETUNREACH")
      ip("link set eth up")
      ip("addr add 2001:db8:1::2/64 dev eth nodad")
      ip("-6 route add default via 2001:db8:1::1 dev eth metric 100")
      ip("route add default via 192.0.2.1 dev eth metric 100")
      yield* becomes(V4, eth)
      yield* becomes(V6, eth6)

      ip("route add 8.8.8.0/24 via 198.18.0.9")
      yield* becomes(V4, "wifi 198.18.0.2 198.18.0.9")
      ip("route replace 8.8.8.0/24 via 198.18.0.10")
      yield* becomes(V4, "wifi 198.18.0.2 198.18.0.10")
      ip("route del 8.8.8.0/24")
      yield* becomes(V4, eth)

      ip("addr add 192.0.2.3/24 dev eth")
      ip("route replace default via 192.0.2.1 dev eth metric 100 src 192.0.2.3")
      yield* becomes(V4, "eth 192.0.2.3 192.0.2.1")
      ip("addr del 192.0.2.2/24 dev eth") // takes the other one with it, and the default route without a word
      yield* becomes(V4, wifi)

      ip("route add unreachable default table 5")
      ip("rule add to 8.8.8.8 lookup 5 priority 40")
      yield* becomes(V4, "EHOSTUNREACH")
      ip("rule del priority 40")
      yield* becomes(V4, wifi)

      ip("link del wifi")
      yield* becomes(V4, "ENETUNREACH")
    }).pipe(Effect.provide(layer)))

  it.scopedLive("nothing of our own tunnel: its set-up and its end leave the cache as it is", () =>
    Effect.gen(function*() {
      yield* becomes(V4, eth)
      yield* becomes(V6, eth6)
      const before = yield* generation
      yield* Effect.scoped(Effect.gen(function*() {
        const tun = yield* (yield* TunDevice).open({ name: TUNNEL_NAME_LINUX, offloads: true })
        yield* tun.configure({
          ipv4: address("100.64.0.5"),
          ipv6: address("fd00:2021:1111::5"),
          routes: ["0.0.0.0/0", "::/0", "10.9.0.0/16"].flatMap((text) => parseNetwork(text) ?? [])
        })
        assert.strictEqual(ipFirst(`route get ${V4}`).dev, TUNNEL_NAME_LINUX)
        assert.strictEqual(yield* via(V4), eth)
        assert.strictEqual(yield* via(V6), eth6)
        assert.strictEqual(yield* via("1.1.1.1"), eth) // one that was not asked for before
      }))
      ip("route add 203.0.113.0/24 via 198.18.0.9") // the first that counts
      const after = yield* generation.pipe(
        Effect.delay("5 millis"),
        Effect.repeat({ until: (now) => now !== before }),
        Effect.timeout("5 seconds")
      )
      assert.strictEqual(after, before + 1)
    }).pipe(Effect.provide(layer)))

  /** Of host spec section 11.6. */
  const changes: ReadonlyArray<readonly [what: string, ...commands: ReadonlyArray<string>]> = [
    ["an interface that is set down", "link set eth down"],
    ["an interface that is set up again", "link set down-before up"],
    ["a carrier that is lost", "link set eth-peer down"],
    ["an IPv4 address that is removed", "addr del 192.0.2.2/24 dev eth"],
    ["an IPv4 address that is added", "addr add 203.0.113.2/24 dev eth"],
    ["an IPv6 address that is added", "addr add 2001:db8:2::2/64 dev eth"],
    ["a route that is replaced", "route replace default via 192.0.2.9 dev eth metric 100"],
    ["a rule that is added", "rule add fwmark 3 lookup 1000 priority 5000"],
    ["an IPv6 rule that is added", "-6 rule add fwmark 3 lookup 1000 priority 5000"],
    ["a rule that is removed", "rule del fwmark 4 lookup 1000 priority 5000"],
    ["an interface that is deleted", "link del eth"]
  ]
  it.scopedLive.each(changes)("%s, and is empty afterwards (host 18.29)", ([, ...commands]) =>
    Effect.gen(function*() {
      ip("rule add fwmark 4 lookup 1000 priority 5000")
      ip("link add down-before type veth peer name down-peer")
      yield* Effect.addFinalizer(() => Effect.sync(() => ip("link del down-before")))
      const cache = yield* RouteCache
      // Nothing of all this is under way any more.
      yield* becomes(V4, eth)
      let before = yield* generation
      for (let quiet = 0; quiet < 20; quiet++) {
        yield* Effect.sleep("5 millis")
        const now = yield* generation
        if (now !== before) quiet = 0
        before = now
      }
      for (const destination of [V4, V6, "198.18.0.77"]) yield* via(destination)
      assert.strictEqual((yield* cache.stats).size, 3)
      for (const command of commands) ip(command)
      yield* waitFor("an empty cache", () => Effect.runSync(cache.stats).size === 0)
      assert.isAbove(yield* generation, before)
    }).pipe(Effect.provide(layer)))
})
