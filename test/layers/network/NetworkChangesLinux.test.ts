/** The kernel's behaviours of host spec section 11.6, in a namespace of this file's own, and what becomes of them. */
import { assert, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Stream from "effect/Stream"
import { execFileSync } from "node:child_process"
import * as fs from "node:fs"
import { afterEach, beforeAll, beforeEach } from "vitest"
import { SyscallError } from "../../../src/ffi/SyscallError.ts"
import * as NetworkChangesLinux from "../../../src/layers/network/NetworkChangesLinux.ts"
import * as ReadinessPollerKoffi from "../../../src/layers/poll/ReadinessPollerKoffi.ts"
import * as RouteResolverLinux from "../../../src/layers/route/RouteResolverLinux.ts"
import { SOCKET_MARK, TABLES } from "../../../src/model/policyRouting.ts"
import { type NetworkChange, NetworkChanges } from "../../../src/services/NetworkChanges.ts"
import { ReadinessPoller } from "../../../src/services/ReadinessPoller.ts"
import { addAddress6, addLink, ipFirst, ipJson, linkExists } from "../../support/links.ts"
import { enterPrivateNetworkNamespace, ip } from "../../support/netns.ts"
import { describeWith } from "../../support/requires.ts"
import { noBus } from "../../support/SystemBusDouble.ts"
import { waitFor } from "../../support/waitFor.ts"

const TUN = "tun-test"
const layerOver = (poller: Layer.Layer<ReadinessPoller>, receiveBuffer?: number) =>
  NetworkChangesLinux.layerWith({ tunnelName: TUN, ...(receiveBuffer === undefined ? {} : { receiveBuffer }) }).pipe(
    Layer.provide(Layer.merge(RouteResolverLinux.layerWith({ tunnelName: TUN, mark: SOCKET_MARK }), noBus)),
    Layer.provide(poller)
  )
const layer = layerOver(ReadinessPollerKoffi.layer)

const indexOf = (name: string): number | undefined => ipFirst(`link show dev ${name}`).ifindex
const batch = (lines: ReadonlyArray<string>): void => {
  execFileSync("ip", ["-batch", "-"], { input: `${lines.join("\n")}\n`, stdio: ["pipe", "ignore", "pipe"] })
}

/** `ip` in turn, each in a turn of the event loop of its own, so that nothing is lost. */
const commands = (...lines: ReadonlyArray<string>) =>
  Effect.forEach(lines, (line) =>
    Effect.zipRight(
      Effect.sync(() => ip(line)),
      Effect.promise(() => new Promise((resolve) => void setImmediate(resolve)))
    ), { discard: true })

let marks = 0

/** Subscribes while the scope lasts. */
const subscribe = Effect.gen(function*() {
  const { changes } = yield* NetworkChanges
  const seen: Array<NetworkChange> = []
  yield* changes.pipe(Stream.runForEach((change) => Effect.sync(() => seen.push(change))), Effect.forkScoped)
  yield* waitFor("the subscription", () => seen.length > 0)
  assert.deepStrictEqual(seen.splice(0), [{ _tag: "Subscribed" }])
  /** What was reported since the last time: a rule's coming says that all before it has been read. */
  const since = Effect.gen(function*() {
    marks += 1
    ip(`rule add fwmark ${marks} lookup 77 priority 5000`)
    const isMark = ({ _tag }: NetworkChange): boolean => _tag === "Rule"
    yield* waitFor("the mark", () => seen.some(isMark))
    return seen.splice(0).filter((change) => !isMark(change))
  })
  /** Waits for a change that has these fields, and forgets all that came until then. */
  const sees = (tag: NetworkChange["_tag"], interfaceIndex?: number) =>
    waitFor(tag, () =>
      seen.some((change) =>
        change._tag === tag &&
        (interfaceIndex === undefined || "interfaceIndex" in change && change.interfaceIndex === interfaceIndex)
      )).pipe(Effect.tap(() => void seen.splice(0)))
  return { sees, since }
})

describeWith({ root: true, programs: ["ip"] }, "NetworkChangesLinux", () => {
  beforeAll(enterPrivateNetworkNamespace)
  beforeEach(() => {
    addLink("eth")
    ip("addr add 192.0.2.2/24 dev eth")
    addAddress6("eth", "2001:db8:1::2/64")
    ip("route add default via 192.0.2.1 dev eth")
    ip("-6 route add default via 2001:db8:1::1 dev eth")
  })
  afterEach(() => {
    for (const name of [TUN, "eth", "wifi"]) if (linkExists(name)) ip(`link del ${name}`)
    ip("rule flush priority 5000")
  })

  it.scopedLive("reports a link that goes down, though its IPv4 routes vanish without a word", () =>
    Effect.gen(function*() {
      const { sees } = yield* subscribe
      ip("link set eth down")
      yield* sees("Link", indexOf("eth"))
      assert.deepStrictEqual(ipJson("-4 route show"), [])
      ip("link set eth up")
      yield* sees("Link", indexOf("eth"))
    }).pipe(Effect.provide(layer)))

  it.scopedLive("reports a carrier that is lost and comes back", () =>
    Effect.gen(function*() {
      const { sees } = yield* subscribe
      for (const state of ["down", "up"]) {
        ip(`link set eth-peer ${state}`)
        yield* sees("Link", indexOf("eth"))
      }
    }).pipe(Effect.provide(layer)))

  it.scopedLive("reports an address that goes, and with it a default route without a word, and one that comes", () =>
    Effect.gen(function*() {
      const { sees, since } = yield* subscribe
      ip("addr del 192.0.2.2/24 dev eth")
      yield* sees("Address", indexOf("eth"))
      assert.deepStrictEqual(ipJson("-4 route show"), [])
      yield* since
      ip("addr add 198.18.0.2/24 dev eth")
      yield* sees("Address", indexOf("eth"))
      yield* since
      ip("-6 addr add 2001:db8:2::2/64 dev eth nodad")
      yield* sees("Address", indexOf("eth"))
    }).pipe(Effect.provide(layer)))

  it.scopedLive("reports routes of any table but ours, and rules of both families", () =>
    Effect.gen(function*() {
      const { sees } = yield* subscribe
      for (
        const change of [
          "route add 203.0.113.0/24 via 192.0.2.9",
          "route replace 203.0.113.0/24 via 192.0.2.10",
          "route del 203.0.113.0/24",
          "-6 route add 2001:db8:9::/48 via 2001:db8:1::9",
          "-6 route del 2001:db8:9::/48",
          "route add 203.0.113.0/24 dev eth table 1000"
        ]
      ) {
        ip(change)
        yield* sees("Route", indexOf("eth"))
      }
      for (const family of ["-4", "-6"]) {
        for (const verb of ["add", "del"]) {
          ip(`${family} rule ${verb} fwmark 3 lookup 1000`)
          yield* sees("Rule")
        }
      }
    }).pipe(Effect.provide(layer)))

  it.scopedLive("reports a new interface and its end", () =>
    Effect.gen(function*() {
      const { sees, since } = yield* subscribe
      addLink("wifi")
      const index = indexOf("wifi")
      yield* sees("Link", index)
      yield* since
      ip("link del wifi")
      yield* sees("Link", index)
    }).pipe(Effect.provide(layer)))

  it.scopedLive("reports nothing of our own tunnel, from its birth to its end", () =>
    Effect.gen(function*() {
      const { since } = yield* subscribe
      const mark = `0x${SOCKET_MARK.toString(16)}`
      yield* commands(
        `tuntap add dev ${TUN} mode tun`,
        `link set ${TUN} mtu 1280`,
        `addr add 100.64.0.5/32 dev ${TUN}`,
        `addr add fd00:2021:1111::5/128 dev ${TUN} nodad`,
        `link set ${TUN} up`,
        ...["-4", "-6"].map((family) =>
          `${family} rule add not fwmark ${mark} lookup ${TABLES.user.table} priority 100 protocol kernel`
        ),
        `route add 10.9.0.0/16 dev ${TUN} table ${TABLES.user.table}`,
        `-6 route add default dev ${TUN} table ${TABLES.internet.table}`,
        `route add 192.0.2.0/24 dev eth scope link table ${TABLES.linkScope.table}`,
        `route add 10.10.0.0/16 dev ${TUN}`,
        `addr del 100.64.0.5/32 dev ${TUN}`,
        `addr add 100.64.0.6/32 dev ${TUN}`,
        `link set ${TUN} down`,
        `link set ${TUN} up`
      )
      assert.deepStrictEqual(yield* since, [])
      yield* commands(
        `link del ${TUN}`,
        `route flush table ${TABLES.linkScope.table}`,
        "rule del priority 100",
        "-6 rule del priority 100"
      )
      assert.deepStrictEqual(yield* since, [])
    }).pipe(Effect.provide(layer)))

  it.scopedLive("knows a tunnel that was there before it", () =>
    Effect.gen(function*() {
      ip(`tuntap add dev ${TUN} mode tun`)
      const { since } = yield* subscribe
      yield* commands(`link set ${TUN} up`, `addr add 100.64.0.5/32 dev ${TUN}`, `link del ${TUN}`)
      assert.deepStrictEqual(yield* since, [])
    }).pipe(Effect.provide(layer)))

  it.scopedLive("reports nothing of what moves no route: lifetimes, neighbours, MTU, names", () =>
    Effect.gen(function*() {
      ip("addr change 192.0.2.2/24 dev eth valid_lft 1000 preferred_lft 1000")
      const { since } = yield* subscribe
      yield* commands(
        "addr change 192.0.2.2/24 dev eth valid_lft 2000 preferred_lft 2000",
        "neigh add 192.0.2.9 lladdr 02:00:00:00:00:09 dev eth",
        "link set eth mtu 1400",
        "link set eth alias uplink"
      )
      assert.deepStrictEqual(yield* since, [])
    }).pipe(Effect.provide(layer)))

  it.scopedLive("says that it lost count, and what it knows afterwards is not older than that (host 18.30)", () =>
    Effect.gen(function*() {
      const { sees, since } = yield* subscribe
      const many = Array.from({ length: 200 }, (_, i) => `10.${i}.0.0/16 via 192.0.2.9 dev eth onlink`)
      // Nothing is read meanwhile. The first lines stay in the buffer; the ones that undo them are lost.
      batch([
        "link set eth-peer down",
        ...many.map((route) => `route add ${route}`),
        ...many.map((route) => `route del ${route}`),
        "link set eth-peer up"
      ])
      yield* sees("Overrun")
      yield* since
      ip("link set eth-peer down")
      yield* sees("Link", indexOf("eth"))
    }).pipe(Effect.provide(layerOver(ReadinessPollerKoffi.layer, 4096))))

  it.live("subscribes anew for each run, and leaves no descriptor behind", () =>
    Effect.gen(function*() {
      const descriptors = (): number => fs.readdirSync("/proc/self/fd").length
      const before = descriptors()
      for (let i = 0; i < 3; i++) {
        yield* Effect.scoped(Effect.flatMap(subscribe, ({ since }) => since))
        yield* waitFor("the end of the subscription", () => descriptors() === before)
      }
    }).pipe(Effect.provide(layer)))

  it.live("fails where the notifications cannot be watched, and leaves no descriptor behind", () =>
    Effect.gen(function*() {
      const cause = new SyscallError({ syscall: "watch", code: 9, errno: "EBADF" })
      const refusing = Layer.succeed(ReadinessPoller, { watch: () => Effect.fail(cause) })
      const before = fs.readdirSync("/proc/self/fd").length
      const failure = yield* Effect.flip(Stream.runDrain(Stream.unwrap(Effect.map(NetworkChanges, (n) => n.changes))))
        .pipe(Effect.provide(layerOver(refusing)))
      assert.strictEqual(failure.cause, cause)
      assert.strictEqual(fs.readdirSync("/proc/self/fd").length, before)
    }))

  it.scopedLive("tells of a roam when the default route moves, and of none when another one does", () =>
    Effect.gen(function*() {
      addLink("wifi")
      ip("addr add 198.18.0.2/24 dev wifi")
      ip("route add default via 198.18.0.1 dev wifi metric 600")
      const { roams } = yield* NetworkChanges
      const { since } = yield* subscribe
      const seen: Array<string> = []
      yield* roams.pipe(Stream.runForEach(({ _tag }) => Effect.sync(() => seen.push(_tag))), Effect.forkScoped)
      ip("route add 203.0.113.0/24 via 198.18.0.9")
      yield* since
      yield* Effect.sleep("700 millis")
      assert.deepStrictEqual(seen, [])
      ip("link set eth down")
      yield* waitFor("the roam", () => seen.length === 2)
      const began = performance.now()
      ip("link set eth up")
      ip("route add default via 192.0.2.1 dev eth")
      yield* waitFor("the way back", () => seen.length === 4)
      assert.isAtLeast(performance.now() - began, 499)
      assert.deepStrictEqual(seen, ["Moving", "Moved", "Moving", "Moved"])
    }).pipe(Effect.provide(layer)))
})
