/** What the kernel has after each step of host spec sections 8.3 and 8.4, in a namespace of this file's own. */
import { assert, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as HashMap from "effect/HashMap"
import * as Layer from "effect/Layer"
import * as Logger from "effect/Logger"
import * as Option from "effect/Option"
import * as Scope from "effect/Scope"
import * as fs from "node:fs"
import { isDeepStrictEqual } from "node:util"
import { afterEach, beforeAll } from "vitest"
import { MAX_INSTANCES, SOCKET_MARK, TABLES, tablesOf } from "../../../src/model/policyRouting.ts"
import { clientRanges } from "../../../src/protocol/tunnel/clientRanges.ts"
import { ip as address } from "../../../src/protocol/wire/address.ts"
import { TunDevice } from "../../../src/services/TunDevice.ts"
import { TunInterface } from "../../../src/services/TunInterface.ts"
import { addLink, ipFirst, ipJson, linkExists } from "../../support/links.ts"
import { enterPrivateNetworkNamespace, ip } from "../../support/netns.ts"
import { describeWith } from "../../support/requires.ts"
import { waitFor } from "../../support/waitFor.ts"
import { collectLogs, config, deviceLayer, interfaceLayer, openTun, routesOf, TUN } from "./support.ts"

const { internet, linkScope, user } = TABLES

/** Our rules of a family, as `ip` shows them. */
const rulesOf = (family: 4 | 6): ReadonlyArray<string> =>
  ipJson(`-${family} rule show`)
    .filter(({ table }) => Object.values(TABLES).some((ours) => String(ours.table) === table))
    .map((rule) => `${rule.priority} ${"not" in rule ? "not " : ""}${rule.fwmark} ${rule.table}`)

const ourRules = [user, linkScope, internet].map(({ priority, table }) =>
  `${priority} not 0x${SOCKET_MARK.toString(16)} ${table}`
)
const addresses = (): ReadonlyArray<string> =>
  (ipFirst(`addr show dev ${TUN}`).addr_info ?? []).map(({ local, prefixlen }) => `${local}/${prefixlen}`)
const link = () => ipFirst(`link show dev ${TUN}`)
const egress = (destination: string, mark: string): string | undefined => ipFirst(`route get ${destination}${mark}`).dev

const addUplink = (): void => {
  addLink("eth")
  ip("addr add 192.0.2.2/24 dev eth")
  ip("addr add 2001:db8:1::2/64 dev eth nodad")
  ip("route add default via 192.0.2.1 dev eth")
  ip("-6 route add default via 2001:db8:1::1 dev eth")
}

/** Lines that name what was missing. */
const collectLossLogs = (lines: Array<string>): Layer.Layer<never> =>
  Logger.replace(
    Logger.defaultLogger,
    Logger.make(({ annotations, message }) => {
      const missing = HashMap.get(annotations, "missing")
      if (Option.isSome(missing)) lines.push(`${String(message)}: ${String(missing.value)}`)
    })
  )

describeWith({ root: true, programs: ["ip"] }, "TunInterfaceLinux", () => {
  beforeAll(enterPrivateNetworkNamespace)
  afterEach(() => {
    for (const name of [TUN, "eth", "other"]) if (linkExists(name)) ip(`link del ${name}`)
    assert.deepStrictEqual([...rulesOf(4), ...rulesOf(6)], [])
    for (const { table } of Object.values(TABLES)) {
      assert.deepStrictEqual([...routesOf(4, table), ...routesOf(6, table)], [])
    }
  })

  it.scopedLive("sets addresses, MTU, queue length and link state", () =>
    Effect.gen(function*() {
      const tun = yield* openTun
      assert.strictEqual(link().txqlen, 10_000)
      assert.deepStrictEqual(addresses(), [])
      assert.deepStrictEqual(yield* tun.configure(config()), { ipv4: true, ipv6: true })
      assert.deepStrictEqual(addresses(), ["100.64.0.5/32", "fd00:2021:1111::5/128"])
      assert.strictEqual(link().mtu, 1280)
      assert.isTrue(link().flags?.includes("UP"))
      assert.strictEqual(tun.interfaceIndex, link().ifindex)
    }).pipe(Effect.provide(deviceLayer)))

  it.scopedLive("adds the rules of both families and routes to the user and the internet table", () =>
    Effect.gen(function*() {
      const tun = yield* openTun
      yield* tun.configure(config("10.9.0.0/16", "0.0.0.0/0", "fd00:9::/64", "::/0", "192.0.2.77/32"))
      assert.deepStrictEqual(rulesOf(4), ourRules)
      assert.deepStrictEqual(rulesOf(6), ourRules)
      for (const family of [4, 6]) {
        for (const rule of ipJson(`-details -${family} rule show priority 100`)) {
          assert.strictEqual(rule.protocol, "kernel") // network daemons leave those alone
        }
      }
      assert.deepStrictEqual(routesOf(4, user.table), [`10.9.0.0/16 ${TUN}`, `192.0.2.77 ${TUN}`])
      assert.deepStrictEqual(routesOf(6, user.table), [`fd00:9::/64 ${TUN}`])
      assert.deepStrictEqual(routesOf(4, internet.table), [`default ${TUN}`])
      assert.deepStrictEqual(routesOf(6, internet.table), [`default ${TUN}`])
      const route = ipFirst(`-details route show table ${user.table}`)
      assert.deepInclude(route, { protocol: "static", type: "unicast" })
      assert.isUndefined(route.gateway)
    }).pipe(Effect.provide(deviceLayer)))

  it.scopedLive("routes resources before the LAN, the LAN before the internet, and marked packets past all of it (host 18.16)", () =>
    Effect.gen(function*() {
      addUplink()
      const tun = yield* openTun
      yield* tun.configure(config("192.0.2.128/25", "0.0.0.0/0", "::/0"))
      ip(`route add 192.0.2.0/24 dev eth table ${linkScope.table}`)
      const mark = ` mark ${SOCKET_MARK}`
      assert.strictEqual(egress("192.0.2.200", ""), TUN)
      assert.strictEqual(egress("192.0.2.20", ""), "eth")
      assert.strictEqual(egress("8.8.8.8", ""), TUN)
      assert.strictEqual(egress("2606:4700::1", ""), TUN)
      for (const destination of ["192.0.2.200", "8.8.8.8", "2606:4700::1"]) {
        assert.strictEqual(egress(destination, mark), "eth")
      }
    }).pipe(Effect.provide(deviceLayer)))

  it.scopedLive("replaces what an earlier configuration set, and leaves alone what stays", () =>
    Effect.gen(function*() {
      const tun = yield* openTun
      yield* tun.configure(config("10.9.0.0/16", "10.10.0.0/16", "0.0.0.0/0", "fd00:9::/64"))
      yield* tun.configure({
        ...config("10.10.0.0/16", "10.11.0.0/16", "10.11.0.0/16"),
        ipv4: address("100.64.0.6")
      })
      assert.deepStrictEqual(addresses(), ["100.64.0.6/32", "fd00:2021:1111::5/128"])
      assert.deepStrictEqual(routesOf(4, user.table), [`10.10.0.0/16 ${TUN}`, `10.11.0.0/16 ${TUN}`])
      assert.deepStrictEqual(routesOf(4, internet.table), [])
      assert.deepStrictEqual(routesOf(6, user.table), [])
      assert.deepStrictEqual(rulesOf(4), ourRules)
    }).pipe(Effect.provide(deviceLayer)))

  it.scopedLive("puts back what somebody else took away", () =>
    Effect.gen(function*() {
      const tun = yield* openTun
      const wanted = config("10.9.0.0/16", "fd00:9::/64")
      yield* tun.configure(wanted)
      ip(`link set ${TUN} mtu 1400`)
      ip(`link set ${TUN} down`) // takes all routes with it, and the IPv6 address
      ip(`addr add 198.51.100.1/24 dev ${TUN}`)
      ip("-6 rule del priority 200")
      yield* tun.configure(wanted)
      assert.deepStrictEqual(addresses(), ["100.64.0.5/32", "fd00:2021:1111::5/128"])
      assert.strictEqual(link().mtu, 1280)
      assert.deepStrictEqual(routesOf(4, user.table), [`10.9.0.0/16 ${TUN}`])
      assert.deepStrictEqual(routesOf(6, user.table), [`fd00:9::/64 ${TUN}`])
      assert.deepStrictEqual(rulesOf(6), ourRules)
    }).pipe(Effect.provide(deviceLayer)))

  it.scopedLive("notices by itself what somebody else took away, puts it back and says what it was, once", () => {
    const lines: Array<string> = []
    return Effect.gen(function*() {
      const tun = yield* openTun
      yield* tun.configure(config("10.9.0.0/16", "fd00:9::/64"))
      ip(`link set ${TUN} down`) // takes all routes with it, and the IPv6 address
      ip("-6 rule del priority 200")
      const isWhole = (): boolean =>
        isDeepStrictEqual(addresses(), ["100.64.0.5/32", "fd00:2021:1111::5/128"])
        && isDeepStrictEqual(routesOf(4, user.table), [`10.9.0.0/16 ${TUN}`])
        && isDeepStrictEqual(routesOf(6, user.table), [`fd00:9::/64 ${TUN}`])
        && isDeepStrictEqual(rulesOf(6), ourRules)
      yield* waitFor("the repair", isWhole)
      assert.isTrue(link().flags?.includes("UP"))
      yield* waitFor("the line", () => lines.length > 0)
      assert.deepStrictEqual(lines, [
        "somebody removed parts of the tunnel's network configuration, put back: link state, IPv6 address, 1 IPv6 rule, 2 routes"
      ])
    }).pipe(Effect.provide(Layer.merge(deviceLayer, collectLossLogs(lines))))
  })

  it.scopedLive("removes what an earlier run left, and only that", () =>
    Effect.gen(function*() {
      addUplink()
      const mark = `0x${SOCKET_MARK.toString(16)}`
      for (const family of ["-4", "-6"]) {
        ip(`${family} rule add not fwmark ${mark} lookup ${user.table} priority 100 protocol kernel`)
        ip(`${family} rule add not fwmark ${mark} lookup ${internet.table} priority 777`)
        ip(`${family} rule add fwmark 0x5 lookup 5 priority 50`)
      }
      ip(`route add 10.1.0.0/16 dev eth table ${user.table}`)
      ip(`route add unreachable 10.2.0.0/16 table ${linkScope.table}`)
      ip(`route add 10.3.0.0/16 dev eth table 5`)
      ip(`-6 route add fd00:1::/64 dev eth table ${internet.table}`)
      const tun = yield* openTun
      assert.deepStrictEqual([...rulesOf(4), ...rulesOf(6)], [])
      assert.deepStrictEqual(
        [...routesOf(4, user.table), ...routesOf(4, linkScope.table), ...routesOf(6, internet.table)],
        [`100.64.0.0/11 ${TUN}`] // which says that the tables are ours
      )
      assert.deepStrictEqual(routesOf(4, 5), ["10.3.0.0/16 eth"])
      assert.lengthOf(ipJson("rule show priority 50"), 1)
      assert.lengthOf(ipJson("-6 rule show priority 50"), 1)
      yield* tun.configure(config("10.9.0.0/16"))
      for (const family of ["-4", "-6"]) ip(`${family} rule del priority 50`)
    }).pipe(Effect.provide(deviceLayer)))

  it.scopedLive("goes on with IPv4 where IPv6 is switched off, and says so", () =>
    Effect.gen(function*() {
      fs.writeFileSync("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1")
      yield* Effect.addFinalizer(() =>
        Effect.sync(() => fs.writeFileSync("/proc/sys/net/ipv6/conf/default/disable_ipv6", "0"))
      )
      const lines: Array<string> = []
      const tun = yield* openTun
      const works = yield* tun.configure(config("10.9.0.0/16", "fd00:9::/64", "::/0")).pipe(
        Effect.provide(collectLogs(lines))
      )
      assert.deepStrictEqual(lines, ["an address family does not work on the tunnel"])
      assert.deepStrictEqual(works, { ipv4: true, ipv6: false })
      assert.deepStrictEqual(addresses(), ["100.64.0.5/32"])
      assert.deepStrictEqual(routesOf(4, user.table), [`10.9.0.0/16 ${TUN}`])
      assert.deepStrictEqual(rulesOf(4), ourRules)
      assert.deepStrictEqual(rulesOf(6), [])
    }).pipe(Effect.provide(deviceLayer)))

  it.scopedLive("adds and removes thousands of routes", () =>
    Effect.gen(function*() {
      const tun = yield* openTun
      const many = Array.from({ length: 3000 }, (_, i) => `10.${i >> 8}.${i & 255}.0/24`)
      yield* tun.configure(config(...many))
      assert.lengthOf(routesOf(4, user.table), many.length)
      yield* tun.configure(config(...many.slice(0, 10)))
      assert.lengthOf(routesOf(4, user.table), 10)
    }).pipe(Effect.provide(deviceLayer)))

  it.live("removes device, rules and routes when the scope ends, also after a failure in it", () =>
    Effect.gen(function*() {
      const failure = yield* Effect.gen(function*() {
        const tun = yield* openTun
        yield* tun.configure(config("10.9.0.0/16", "::/0"))
        return yield* Effect.fail("the session ended" as const)
      }).pipe(Effect.scoped, Effect.flip, Effect.provide(deviceLayer))
      assert.strictEqual(failure, "the session ended")
      assert.isFalse(linkExists(TUN)) // the rest: after each test
    }))

  it.scopedLive("takes the tables of a client that has died, but not those of one that is running", () =>
    Effect.gen(function*() {
      // As if its process had been killed: nobody has the persistent device open, and its routes stay.
      ip("tuntap add mode tun name left")
      ip("link set left up")
      ip(`route add 100.64.0.0/11 dev left table ${user.table}`)
      // And one beside it, of which the kernel has kept the rules and the copies of local networks.
      const beside = tablesOf(2)
      ip(`rule add not fwmark ${SOCKET_MARK} lookup ${beside.user.table} priority ${beside.user.priority}`)
      ip(`route add 192.0.2.0/24 dev lo table ${beside.linkScope.table}`)
      ip(`route add 10.9.0.0/16 dev left table ${user.table}`)
      const devices = yield* TunDevice
      const first = yield* devices.open({ name: "other", offloads: false })
      assert.strictEqual(first.instance, 0)
      assert.deepStrictEqual(routesOf(4, user.table), ["100.64.0.0/11 other"]) // the claim
      assert.deepStrictEqual(routesOf(4, beside.linkScope.table), [])
      assert.deepStrictEqual(ipJson(`rule show priority ${beside.user.priority}`), [])
      ip("link del left")
      yield* first.configure(config("10.9.0.0/16"))
      const before = [rulesOf(4), rulesOf(6), routesOf(4, user.table), routesOf(6, user.table)]
      yield* Effect.scoped(Effect.gen(function*() {
        const tun = yield* openTun
        assert.strictEqual(tun.instance, 1)
        const { routes } = clientRanges(1)
        yield* tun.configure({ ...config("10.9.1.0/24", "10.8.0.0/16", "0.0.0.0/0"), routes: [...routes] })
        yield* tun.configure({ ...config(), routes: [...routes, ...config("10.9.1.0/24", "10.8.0.0/16").routes] })
        // The parts of the shared ranges that are the second one's, and its resources, reach it before the first one.
        for (const { address: destination } of routes) assert.strictEqual(egress(destination, ""), TUN)
        assert.deepStrictEqual([egress("10.9.1.1", ""), egress("10.9.2.1", "")], [TUN, "other"])
      }))
      assert.deepStrictEqual([rulesOf(4), rulesOf(6), routesOf(4, user.table), routesOf(6, user.table)], before)
      for (const { table } of Object.values(tablesOf(1))) {
        assert.deepStrictEqual(
          [...ipJson("rule show"), ...ipJson("-6 rule show")].filter((rule) => rule.table === `${table}`),
          []
        )
        assert.deepStrictEqual([...routesOf(4, table), ...routesOf(6, table)], [])
      }
    }).pipe(Effect.provide(deviceLayer)))

  it.scopedLive("lets as many clients run as there are tables for, and says who has them", () =>
    Effect.gen(function*() {
      const devices = yield* TunDevice
      const names = Array.from({ length: MAX_INSTANCES }, (_, i) => `other${i}`)
      const opened = yield* Effect.forEach(names, (name) => devices.open({ name, offloads: false }), {
        concurrency: "unbounded"
      })
      assert.deepStrictEqual(opened.map(({ instance }) => instance).sort(), names.map((_, i) => i))
      const failure = yield* Effect.scoped(Effect.flip(openTun))
      assert.match(failure.message, /as many clients as there can be .* other0, other1, other2, other3; stop one/)
      assert.isFalse(linkExists(TUN))
    }).pipe(Effect.provide(deviceLayer)))

  it.live("fails where the interface has gone, and still removes its rules", () =>
    Effect.gen(function*() {
      const scope = yield* Scope.make()
      const tun = yield* Scope.extend(openTun, scope)
      yield* tun.configure(config("10.9.0.0/16"))
      ip(`link del ${TUN}`)
      const failure = yield* Effect.flip(tun.configure(config()))
      assert.include(failure.message, `cannot set up the tunnel device: find interface: find interface ${TUN}: ENODEV`)
      assert.deepStrictEqual(rulesOf(4), ourRules)
      yield* Scope.close(scope, Exit.void)
      assert.deepStrictEqual(rulesOf(4), [])
    }).pipe(Effect.provide(deviceLayer)))

  it.scopedLive("names the interface that it was to manage when there is none", () =>
    Effect.gen(function*() {
      const failure = yield* Effect.flip(Effect.flatMap(TunInterface, (tuns) => tuns.manage("nowhere")))
      assert.match(failure.message, /find interface nowhere: ENODEV/)
    }).pipe(Effect.provide(interfaceLayer)))

  it.scopedLive("says what is needed when it may not", () =>
    Effect.gen(function*() {
      ip("link add other type veth peer name eth-peer")
      const tuns = yield* TunInterface
      yield* Effect.acquireRelease(
        Effect.sync(() => process.seteuid?.(65_534)),
        () => Effect.sync(() => process.seteuid?.(0))
      )
      const failure = yield* Effect.flip(Effect.flatMap(tuns.manage("other"), (managed) => managed.configure(config())))
      assert.match(failure.message, /EPERM.*root or CAP_NET_ADMIN/)
    }).pipe(Effect.provide(Layer.merge(interfaceLayer, collectLogs([])))))

  it.scopedLive("keeps a copy of the local networks, and withdraws it at the end (host 18.18)", () =>
    Effect.gen(function*() {
      const tun = yield* openTun
      yield* tun.configure(config("0.0.0.0/0"))
      addUplink()
      const local = ["192.0.2.0/24 eth"]
      yield* waitFor("the copy", () => isDeepStrictEqual(routesOf(4, linkScope.table), local))
      assert.strictEqual(egress("192.0.2.20", ""), "eth")
      assert.strictEqual(egress("8.8.8.8", ""), TUN)
      ip("addr del 192.0.2.2/24 dev eth")
      yield* waitFor("the withdrawal", () => routesOf(4, linkScope.table).length === 0)
    }).pipe(Effect.provide(deviceLayer)))
})
