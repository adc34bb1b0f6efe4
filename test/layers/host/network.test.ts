/** Links, routes, rules and devices of a network namespace of this file's own. */
import { assert, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Either from "effect/Either"
import { beforeAll } from "vitest"
import * as KernelProbeLinux from "../../../src/layers/host/KernelProbeLinux.ts"
import * as NetworkInventoryLinux from "../../../src/layers/host/NetworkInventoryLinux.ts"
import { SOCKET_MARK } from "../../../src/model/policyRouting.ts"
import { ip as address } from "../../../src/protocol/wire/address.ts"
import { KernelProbe } from "../../../src/services/KernelProbe.ts"
import { NetworkInventory } from "../../../src/services/NetworkInventory.ts"
import { addLink, ipJson } from "../../support/links.ts"
import { enterPrivateNetworkNamespace, ip } from "../../support/netns.ts"
import { describeWith } from "../../support/requires.ts"

describeWith({ root: true, programs: ["ip"] }, "what the kernel tells of the network", () => {
  beforeAll(() => {
    enterPrivateNetworkNamespace()
    addLink("eth-a")
    ip("addr add 192.0.2.2/24 dev eth-a")
    ip("addr add 2001:db8::2/64 dev eth-a nodad")
    ip("route add default via 192.0.2.1 dev eth-a metric 100")
    ip("route add 100.64.0.0/10 dev eth-a table 52")
    ip("-6 route add default via 2001:db8::1 dev eth-a metric 7")
    ip("rule add fwmark 0x123 table 52 priority 50")
    ip(`rule add not fwmark ${SOCKET_MARK} table 77 priority 100`)
    ip("rule add to 198.51.100.0/24 unreachable priority 60")
  })

  it.scoped("interfaces, with their drivers", () =>
    Effect.gen(function*() {
      const links = yield* (yield* NetworkInventory).links
      assert.deepInclude(links.find(({ name }) => name === "lo"), { isLoopback: true, isUp: true, kind: undefined })
      const [known] = ipJson("link show dev eth-a")
      assert.deepEqual(links.find(({ name }) => name === "eth-a"), {
        index: known?.ifindex ?? 0,
        name: "eth-a",
        isUp: true,
        isLoopback: false,
        mtu: 1500,
        kind: "veth"
      })
    }).pipe(Effect.provide(NetworkInventoryLinux.layer)))

  it.scoped("routes of every table, defaults and next hops", () =>
    Effect.gen(function*() {
      const routes = yield* (yield* NetworkInventory).routes
      const [known] = ipJson("link show dev eth-a")
      const interfaceIndex = known?.ifindex
      assert.deepInclude(routes, {
        destination: { address: address("0.0.0.0"), bits: 0 },
        table: 254,
        interfaceIndex,
        nextHop: address("192.0.2.1"),
        metric: 100
      })
      assert.deepInclude(routes, {
        destination: { address: address("100.64.0.0"), bits: 10 },
        table: 52,
        interfaceIndex,
        nextHop: undefined,
        metric: 0
      })
      assert.isTrue(routes.some(({ destination, metric }) => destination.address === "::" && metric === 7))
      assert.isFalse(routes.some(({ table }) => table === 255))
    }).pipe(Effect.provide(NetworkInventoryLinux.layer)))

  it.scoped("rules of both families", () =>
    Effect.gen(function*() {
      const rules = yield* (yield* NetworkInventory).rules
      assert.deepInclude(rules, { family: 4, priority: 50, table: 52, mark: 0x123, isInverted: false })
      assert.deepInclude(rules, { family: 4, priority: 100, table: 77, mark: SOCKET_MARK, isInverted: true })
      assert.deepInclude(rules, { family: 4, priority: 60, table: undefined, mark: undefined, isInverted: false })
      assert.isTrue(rules.some(({ family, table }) => family === 6 && table === 254))
    }).pipe(Effect.provide(NetworkInventoryLinux.layer)))

  it.effect("devices and sockets, tried, and nothing left behind", () =>
    Effect.gen(function*() {
      const probe = yield* KernelProbe
      const before = ipJson("link show").map(({ ifname }) => ifname)
      assert.match(Either.getOrThrow(yield* probe.tun), /^(tso,uso|tso|csum|)$/)
      assert.deepStrictEqual(ipJson("link show").map(({ ifname }) => ifname), before)
      assert.isTrue(Either.isRight((yield* probe.sockets).mark))
    }).pipe(Effect.provide(KernelProbeLinux.layer)))

  it.effect("the size of packets to a destination", () =>
    Effect.gen(function*() {
      const probe = yield* KernelProbe
      assert.strictEqual(yield* probe.pathMtu(address("203.0.113.1")), 1500)
      ip("route add 203.0.113.0/24 via 192.0.2.1 mtu lock 1300")
      ip("-6 route add 2001:db8:1::/48 via 2001:db8::1 mtu 1280")
      assert.strictEqual(yield* probe.pathMtu(address("203.0.113.1")), 1300)
      assert.strictEqual(yield* probe.pathMtu(address("2001:db8:1::1")), 1280)
      ip("route add unreachable 198.18.0.0/15")
      assert.isTrue(Either.isLeft(yield* Effect.either(probe.pathMtu(address("198.18.0.1")))))
    }).pipe(Effect.provide(KernelProbeLinux.layer)))
})
