/** Which routes are copied (host spec section 8.5), on a real stack; when, in virtual time. */
import { assert, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Either from "effect/Either"
import * as TestClock from "effect/TestClock"
import { afterEach, beforeAll, beforeEach } from "vitest"
import { NetlinkRequests } from "../../../src/ffi/linux/netlink.ts"
import { keepLinkScopeCopy, syncLinkScope } from "../../../src/layers/tun/linkScopeCopy.ts"
import { TABLES } from "../../../src/model/policyRouting.ts"
import { NetworkChanges, NetworkMonitorFailed } from "../../../src/services/NetworkChanges.ts"
import { addLink, ipJson, linkExists, loseCarrier } from "../../support/links.ts"
import { enterPrivateNetworkNamespace, ip } from "../../support/netns.ts"
import { makeNetworkChangesDouble } from "../../support/NetworkChangesDouble.ts"
import { describeWith } from "../../support/requires.ts"
import { waitFor } from "../../support/waitFor.ts"
import { collectLogs, routesOf, TUN } from "./support.ts"

const { table } = TABLES.linkScope
const copied = (family: 4 | 6 = 4): ReadonlyArray<string> => routesOf(family, table)

let netlink: NetlinkRequests
const sync = (): void => {
  const tunnel = ipJson("link show").find(({ ifname }) => ifname === TUN)?.ifindex ?? 0
  assert.deepStrictEqual(Either.getOrThrow(syncLinkScope(netlink, tunnel, table)), [])
}

const timePassesUntil = (what: string, holds: () => boolean): Effect.Effect<void> =>
  TestClock.adjust("100 millis").pipe(
    Effect.zipRight(Effect.promise(() => new Promise<void>((resolve) => void setImmediate(resolve)))),
    Effect.repeat({ until: () => holds(), times: 1000 }),
    Effect.andThen(() => assert.isTrue(holds(), what))
  )

describeWith({ root: true, programs: ["ip"] }, "link-scope copy", () => {
  beforeAll(() => {
    enterPrivateNetworkNamespace()
    netlink = Either.getOrThrow(NetlinkRequests.open())
  })
  beforeEach(() => {
    addLink("eth")
    ip("addr add 192.0.2.2/24 dev eth")
    ip("addr add 2001:db8:1::2/64 dev eth nodad")
  })
  afterEach(() => {
    for (const name of [TUN, "eth", "wifi"]) if (linkExists(name)) ip(`link del ${name}`)
    sync()
    assert.deepStrictEqual([...copied(4), ...copied(6)], [])
  })

  it("copies the networks of both families unchanged, and no route through a gateway", () => {
    ip("route add default via 192.0.2.1 dev eth")
    ip("-6 route add default via 2001:db8:1::1 dev eth")
    ip("-6 route add 2001:db8:8::/64 dev eth proto ra")
    ip("-6 route add 2001:db8:9::/64 via 2001:db8:1::1 dev eth proto ra")
    ip("route add 198.51.100.0/24 dev eth scope link metric 7 src 192.0.2.2")
    sync()
    assert.deepStrictEqual(copied(4), ["192.0.2.0/24 eth", "198.51.100.0/24 eth"])
    assert.deepStrictEqual(copied(6), ["2001:db8:1::/64 eth", "2001:db8:8::/64 eth"])
    const [connected, other] = ipJson(`-details route show table ${table}`)
    assert.deepInclude({ ...connected }, { scope: "link", prefsrc: "192.0.2.2", protocol: "kernel" })
    assert.deepInclude({ ...other }, { scope: "link", prefsrc: "192.0.2.2", metric: 7 })
  })

  it("leaves out a default route, though it may have link scope: it would beat the internet resource", () => {
    ip("route add default dev eth scope link")
    sync()
    assert.deepStrictEqual(copied(4), ["192.0.2.0/24 eth"])
  })

  it("leaves out our own tunnel, and links that are not known to be up", () => {
    addLink(TUN)
    ip(`addr add 100.64.0.5/24 dev ${TUN}`)
    ip("tuntap add dev wifi mode tun")
    ip("link set wifi up")
    ip("addr add 198.18.0.2/24 dev wifi")
    ip("addr add 198.19.0.1/24 dev lo")
    sync()
    ip("addr del 198.19.0.1/24 dev lo")
    assert.deepStrictEqual(copied(4), ["192.0.2.0/24 eth"])
  })

  it("copies the routes of two links in the same network", () => {
    addLink("wifi")
    ip("addr add 192.0.2.3/24 dev wifi")
    ip("addr add 2001:db8:1::3/64 dev wifi nodad")
    sync()
    assert.deepStrictEqual(copied(4), ["192.0.2.0/24 eth", "192.0.2.0/24 wifi"])
    assert.deepStrictEqual(copied(6), ["2001:db8:1::/64 eth", "2001:db8:1::/64 wifi"])
    ip("link del eth")
    sync()
    assert.deepStrictEqual(copied(4), ["192.0.2.0/24 wifi"])
    assert.deepStrictEqual(copied(6), ["2001:db8:1::/64 wifi"])
  })

  it("withdraws what has gone, and the networks of a link without carrier", () => {
    addLink("wifi")
    ip("addr add 198.18.0.2/24 dev wifi")
    sync()
    sync() // nothing to do
    assert.deepStrictEqual(copied(4), ["192.0.2.0/24 eth", "198.18.0.0/24 wifi"])
    loseCarrier("wifi")
    ip("addr add 203.0.113.2/24 dev eth")
    ip("addr del 192.0.2.2/24 dev eth")
    ip("addr del 2001:db8:1::2/64 dev eth")
    sync()
    assert.deepStrictEqual(copied(4), ["203.0.113.0/24 eth"])
    assert.deepStrictEqual(copied(6), [])
  })

  it("tells what it could not change", () => {
    process.seteuid?.(65_534)
    try {
      const failures = Either.getOrThrow(syncLinkScope(Either.getOrThrow(NetlinkRequests.open()), 0, table))
      assert.deepStrictEqual(failures.map(({ errno }) => errno), ["EPERM", "EPERM"])
      assert.include(failures[0]?.message, "copy local network")
    } finally {
      process.seteuid?.(0)
    }
  })

  it.scoped("follows changes after 500 ms, even if they never end, and subscribes again after a failure (host 18.18)", () =>
    Effect.gen(function*() {
      const network = yield* makeNetworkChangesDouble
      const lines: Array<string> = []
      const change = network.change({ _tag: "Address" })
      yield* Effect.flatMap(NetworkChanges, ({ changes }) => keepLinkScopeCopy(netlink, changes, 0, table)).pipe(
        Effect.provide(network.layer),
        Effect.provide(collectLogs(lines))
      )
      yield* waitFor("a subscription", () => network.subscriptions() === 1)
      yield* TestClock.adjust("499 millis")
      assert.deepStrictEqual(copied(), [])
      yield* TestClock.adjust("1 millis")
      yield* waitFor("the first copy", () => copied().length === 1)

      ip("addr add 198.18.0.2/24 dev eth")
      for (let i = 0; i < 7; i++) {
        yield* change
        yield* TestClock.adjust("100 millis")
      }
      yield* waitFor("the copy amid changes", () => copied().length === 2)

      yield* network.change(new NetworkMonitorFailed({ cause: new Error("gone") }))
      yield* timePassesUntil("the failure", () => lines.length > 0)
      assert.deepStrictEqual(lines, ["cannot follow the local networks, trying again"])
      ip("addr add 198.19.0.2/24 dev eth")
      yield* timePassesUntil("the third copy", () => copied().length === 3)
      assert.strictEqual(network.subscriptions(), 2)
    }))
})
