/** The kernel's behaviours of host spec section 11.5, each on a real network stack, and what the resolver makes of them. */
import * as Effect from "effect/Effect"
import * as Either from "effect/Either"
import { execFileSync } from "node:child_process"
import { afterEach, assert, beforeAll, beforeEach, it } from "vitest"
import { NetlinkRequests } from "../../../src/ffi/linux/netlink.ts"
import type { AddressMessage, RouteMessage } from "../../../src/ffi/linux/rtnetlinkDecode.ts"
import { decodeLink, decodeRoute } from "../../../src/ffi/linux/rtnetlinkDecode.ts"
import { dumpRoutes, getLinkByName, getRoute } from "../../../src/ffi/linux/rtnetlinkEncode.ts"
import { AF_INET, AF_INET6, IFA_F, ROUTE_TYPE, RT_TABLE, RTM_F } from "../../../src/ffi/linux/rtnetlinkLayout.ts"
import { layer, stableSource } from "../../../src/layers/route/RouteResolverLinux.ts"
import { SOCKET_MARK, TABLES } from "../../../src/model/policyRouting.ts"
import type { Route, RouteExplanation } from "../../../src/model/Route.ts"
import { ip as address, ipFromBytes, ipToBytes } from "../../../src/protocol/wire/address.ts"
import type { RouteError } from "../../../src/services/RouteResolver.ts"
import { RouteResolver } from "../../../src/services/RouteResolver.ts"
import { addLink, loseCarrier } from "../../support/links.ts"
import { enterPrivateNetworkNamespace, ip } from "../../support/netns.ts"
import { describeWith } from "../../support/requires.ts"
import { attemptIp, sysctl } from "./links.ts"

const resolve = (destination: string): Route | RouteError =>
  Effect.runSync(
    Effect.flatMap(RouteResolver, (resolver) => resolver.resolve(address(destination))).pipe(
      Effect.merge,
      Effect.provide(layer),
      Effect.orDie
    )
  )
const explain = (destination: string): RouteExplanation =>
  Effect.runSync(
    Effect.flatMap(RouteResolver, (resolver) => resolver.explain(address(destination))).pipe(
      Effect.provide(layer),
      Effect.orDie
    )
  )

/** What `ip route get` says for a packet with our mark. */
const kernelSays = (destination: string): { dev: string; prefsrc: string; gateway?: string } =>
  JSON.parse(ip(`-json route get ${destination} mark ${SOCKET_MARK}`))[0]

let netlink: NetlinkRequests
const ask = (
  destination: string,
  options: { mark?: number; flags?: number; outputInterface?: number } = {}
): RouteMessage | number => {
  const answer = netlink.ask(
    getRoute(ipToBytes(address(destination)), { mark: SOCKET_MARK, ...options }),
    "test",
    decodeRoute
  )
  return Either.isRight(answer) ? answer.right : -answer.left.code
}
const found = (answer: RouteMessage | number): RouteMessage => {
  if (typeof answer === "number") throw new Error(`error ${answer}`)
  return answer
}
const indexOf = (name: string): number => {
  const link = netlink.ask(getLinkByName(name), "test", decodeLink)
  return Either.getOrThrow(link).index
}
const text = (bytes: Uint8Array | undefined): string | undefined =>
  bytes === undefined ? undefined : ipFromBytes(bytes, 0, bytes.length === 4 ? 4 : 6)

/** A tunnel with the internet resource, and the rules that keep marked packets out of it. */
const addTunnel = ({ rules }: { rules: boolean }) => {
  ip("tuntap add dev tun-firezone mode tun")
  ip("link set tun-firezone up")
  ip("addr add 100.64.0.5/32 dev tun-firezone")
  ip("addr add fd00:2021:1111::5/128 dev tun-firezone")
  for (const family of ["-4", "-6"]) {
    if (rules) {
      ip(`${family} route add default dev tun-firezone table ${TABLES.internet.table}`)
      ip(`${family} rule add not fwmark ${SOCKET_MARK} lookup ${TABLES.internet.table} priority 300`)
    } else {
      ip(`${family} route add default dev tun-firezone metric 1`)
    }
  }
}

describeWith({ root: true, programs: ["ip"] }, "RouteResolverLinux (host 18.28)", () => {
  beforeAll(() => {
    enterPrivateNetworkNamespace()
    netlink = Either.getOrThrow(NetlinkRequests.open())
  })

  beforeEach(() => {
    addLink("eth")
    ip("addr add 192.0.2.2/24 dev eth")
    ip("addr add 2001:db8:1::2/64 dev eth nodad")
    ip("route add default via 192.0.2.1 dev eth")
    ip("-6 route add default via 2001:db8:1::1 dev eth")
  })

  afterEach(() => {
    for (const name of ["eth", "wifi", "tun-firezone"]) attemptIp(`link del ${name}`)
    attemptIp("rule del priority 300")
    attemptIp("-6 rule del priority 300")
    for (const family of ["-4", "-6"]) {
      for (const type of ["unreachable", "prohibit", "blackhole"]) {
        attemptIp(`${family} route del ${type} ${family === "-4" ? "203.0.113.0/24" : "2001:db8:f::/48"}`)
      }
    }
  })

  it("with the mark: egress interface and its address, in both families", () => {
    addTunnel({ rules: true })
    for (const destination of ["8.8.8.8", "2606:4700::1"]) {
      const route = resolve(destination) as Route
      const expected = kernelSays(destination)
      assert.strictEqual(route.interfaceName, "eth")
      assert.strictEqual(route.source, expected.prefsrc as typeof route.source)
      assert.strictEqual(route.nextHop, expected.gateway as typeof route.nextHop)
      assert.strictEqual(route.prefixLength, 0)
      assert.strictEqual(route.table, 254)
    }
  })

  it("without the mark, the internet table active: the tunnel and its address, exactly the loop", () => {
    addTunnel({ rules: true })
    const answer = found(ask("8.8.8.8", { mark: 0 }))
    assert.strictEqual(answer.outputInterface, indexOf("tun-firezone"))
    assert.strictEqual(text(answer.preferredSource), "100.64.0.5")
  })

  it("an own address: of type local, on lo, from itself", () => {
    const answer = found(ask("192.0.2.2"))
    assert.strictEqual(answer.type, ROUTE_TYPE.LOCAL)
    for (const [own, length] of [["192.0.2.2", 32], ["2001:db8:1::2", 128]] as const) {
      const route = resolve(own) as Route
      assert.deepInclude(route, { source: address(own), prefixLength: length, table: 255 })
      assert.isUndefined(route.nextHop)
    }
    assert.strictEqual((resolve("192.0.2.2") as Route).interfaceName, "lo")
  })

  it("no route: -101 in both families", () => {
    ip("route del default")
    ip("-6 route del default")
    for (const destination of ["8.8.8.8", "2606:4700::1"]) {
      assert.strictEqual(ask(destination), -101)
      assert.deepInclude(resolve(destination), { _tag: "NoRoute", reason: "ENETUNREACH" })
    }
  })

  it.each([
    ["unreachable", -113, "EHOSTUNREACH"],
    ["prohibit", -13, "EACCES"],
    ["blackhole", -22, "EINVAL"]
  ])("an IPv4 %s route: %d", (type, code, reason) => {
    ip(`route add ${type} 203.0.113.0/24`)
    assert.strictEqual(ask("203.0.113.9"), code)
    assert.deepInclude(resolve("203.0.113.9"), { _tag: "NoRoute", reason })
  })

  it("an IPv6 unreachable route: -113", () => {
    ip("-6 route add unreachable 2001:db8:f::/48")
    assert.strictEqual(ask("2001:db8:f::9"), -113)
    assert.deepInclude(resolve("2001:db8:f::9"), { _tag: "NoRoute", reason: "EHOSTUNREACH" })
  })

  it("a normal IPv4 reply says /32; the matching entry says the real prefix and metric", () => {
    ip("route add 198.51.100.0/24 via 192.0.2.9 dev eth metric 42")
    assert.strictEqual(found(ask("198.51.100.7")).prefixLength, 32)
    const match = found(ask("198.51.100.7", { flags: RTM_F.FIB_MATCH }))
    assert.deepInclude(match, { prefixLength: 24, priority: 42 })
    assert.strictEqual(text(match.destination), "198.51.100.0")
    assert.strictEqual(text(match.gateway), "192.0.2.9")
    assert.strictEqual(match.outputInterface, indexOf("eth"))
    assert.isUndefined(match.preferredSource)
    assert.deepInclude(resolve("198.51.100.7") as Route, { prefixLength: 24, metric: 42, source: "192.0.2.2" as never })
  })

  it("the matching entry names a source only if the route has one, and then it is the administrator's choice", () => {
    ip("addr add 192.0.2.77/24 dev eth")
    ip("route add 198.51.100.0/24 via 192.0.2.9 dev eth src 192.0.2.77")
    assert.strictEqual(text(found(ask("198.51.100.7", { flags: RTM_F.FIB_MATCH })).preferredSource), "192.0.2.77")
    assert.strictEqual((resolve("198.51.100.7") as Route).source, address("192.0.2.77"))
  })

  it("IPv4 tells the table only on demand, IPv6 always", () => {
    addTunnel({ rules: true })
    const { table } = TABLES.internet
    assert.strictEqual(found(ask("8.8.8.8", { mark: 0 })).table, 254)
    assert.strictEqual(found(ask("8.8.8.8", { mark: 0, flags: RTM_F.LOOKUP_TABLE })).table, table)
    assert.strictEqual(found(ask("2606:4700::1", { mark: 0 })).table, table)
  })

  it("IPv4 assumes that everything is on a given interface; only the matching entry tells the truth", () => {
    addLink("wifi")
    ip("addr add 198.18.0.2/24 dev wifi")
    const wifi = indexOf("wifi")
    const assumed = found(ask("8.8.8.8", { outputInterface: wifi }))
    assert.strictEqual(assumed.outputInterface, wifi)
    assert.isUndefined(assumed.gateway)
    assert.strictEqual(ask("8.8.8.8", { outputInterface: wifi, flags: RTM_F.FIB_MATCH }), -113)
    assert.strictEqual(ask("2606:4700::1", { outputInterface: wifi }), -101)
  })

  it("an IPv4 route may have an IPv6 gateway", () => {
    ip("route add 198.51.100.0/24 via inet6 2001:db8:1::9 dev eth")
    assert.strictEqual((resolve("198.51.100.1") as Route).nextHop, address("2001:db8:1::9"))
  })

  it("rules missing: chooses among the other links by prefix, then metric, never the tunnel", () => {
    addTunnel({ rules: false })
    addLink("wifi")
    ip("addr add 198.18.0.2/24 dev wifi")
    ip("addr add 2001:db8:2::2/64 dev wifi nodad")
    ip("route add default via 198.18.0.1 dev wifi metric 600")
    ip("-6 route add default via 2001:db8:2::1 dev wifi metric 600")
    assert.strictEqual(kernelSays("8.8.8.8").dev, "eth") // metric 0 of the tunnel's rival
    ip("route del default via 192.0.2.1 dev eth")
    ip("route add default via 192.0.2.1 dev eth metric 700")
    assert.strictEqual(kernelSays("8.8.8.8").dev, "tun-firezone")
    assert.deepInclude(resolve("8.8.8.8"), {
      interfaceName: "wifi",
      source: address("198.18.0.2"),
      nextHop: address("198.18.0.1"),
      metric: 600,
      prefixLength: 0
    })
    assert.strictEqual(kernelSays("2606:4700::1").dev, "tun-firezone")
    assert.deepInclude(resolve("2606:4700::1"), { interfaceName: "wifi", source: address("2001:db8:2::2") })
    ip("route add 8.0.0.0/8 via 192.0.2.1 dev eth metric 5000")
    ip("route add 8.8.8.0/24 dev tun-firezone")
    assert.deepInclude(resolve("8.8.8.8"), { interfaceName: "eth", prefixLength: 8, metric: 5000 })
    ip("link set wifi down")
    ip("link set eth down")
    assert.deepInclude(resolve("8.8.8.8"), { _tag: "NoRoute", reason: "EHOSTUNREACH" })
  })

  it("pins a stable IPv6 address although the kernel prefers a temporary one", () => {
    ip("addr flush dev eth scope global")
    sysctl("net.ipv6.conf.eth.use_tempaddr", "2")
    ip("addr add 2001:db8:1::2/64 dev eth nodad mngtmpaddr")
    ip("-6 route replace default via 2001:db8:1::1 dev eth")
    const temporary = JSON.parse(ip("-6 -json addr show dev eth temporary"))[0]?.addr_info?.[0]?.local
    assert.isDefined(temporary)
    assert.strictEqual(text(found(ask("2606:4700::1")).preferredSource), temporary)
    assert.strictEqual((resolve("2606:4700::1") as Route).source, address("2001:db8:1::2"))
  })

  it("broadcast and multicast destinations have no route of ours", () => {
    assert.deepInclude(resolve("192.0.2.255"), { _tag: "NoRoute", reason: "broadcast" })
    assert.deepInclude(resolve("224.0.0.1"), { _tag: "NoRoute", reason: "multicast" })
  })

  it("explains the choice and every loser", () => {
    addTunnel({ rules: true })
    addLink("wifi")
    ip("addr add 198.18.0.2/24 dev wifi")
    ip("route add default via 198.18.0.1 dev wifi metric 600")
    const explanation = explain("8.8.8.8")
    assert.strictEqual(explanation.chosen?.interfaceName, "eth")
    const why = new Map(explanation.candidates.map(({ interfaceName, rejected }) => [interfaceName, rejected]))
    assert.isUndefined(why.get("eth"))
    assert.strictEqual(why.get("wifi"), "its metric 600 is higher than the chosen 0")
    assert.strictEqual(why.get("tun-firezone"), "it is our own tunnel: the packet would come back to us")
    assert.strictEqual(why.get("eth-peer"), "it has no route to the destination (EHOSTUNREACH)")
    const wifi = explanation.candidates.find(({ interfaceName }) => interfaceName === "wifi")
    assert.deepInclude(wifi, { source: address("198.18.0.2"), nextHop: address("198.18.0.1"), prefixLength: 0 })
    ip("route add default via 198.18.0.1 dev wifi table 77")
    ip("rule add pref 50 lookup 77")
    const ruled = explain("8.8.8.8")
    assert.strictEqual(ruled.chosen?.table, 77)
    const eth = ruled.candidates.find(({ interfaceName }) => interfaceName === "eth")
    assert.deepInclude(eth, { table: 254, rejected: "the system's policy rules ask another table first" })
    ip("rule del pref 50")
    loseCarrier("wifi")
    assert.include(explain("8.8.8.8").candidates.map(({ rejected }) => rejected), "the interface has no carrier")
    ip("link set wifi down")
    assert.include(explain("8.8.8.8").candidates.map(({ rejected }) => rejected), "the interface is down")
  })

  it("explains why there is nothing", () => {
    ip("route add prohibit 203.0.113.0/24")
    const { candidates, chosen, reason } = explain("203.0.113.9")
    assert.isUndefined(chosen)
    assert.strictEqual(reason, "EACCES")
    assert.isTrue(candidates.every(({ rejected }) => rejected !== undefined))
  })

  it("answers as `ip route get` does, whatever the destination", () => {
    ip("route add 198.51.100.0/24 via 192.0.2.9 dev eth metric 42")
    ip("-6 route add 2001:db8:f::/48 via 2001:db8:1::9 dev eth")
    for (
      const destination of [
        ...["1.1.1.1", "198.51.100.200", "192.0.2.2", "192.0.2.50", "127.0.0.1", "100.64.0.1"],
        ...["2606::1", "2001:db8:f::1", "2001:db8:1::2", "2001:db8:1::50", "::1"]
      ]
    ) {
      const { dev, gateway, prefsrc } = kernelSays(destination)
      const route = resolve(destination)
      assert.deepInclude(route, { interfaceName: dev, source: prefsrc as never }, destination)
      assert.strictEqual((route as Route).nextHop, gateway as never, destination)
    }
  })

  it("answers every dump whole, however large", () => {
    const batch = Array.from({ length: 3000 }, (_, i) => `route add 10.${i >> 8}.${i & 255}.0/24 dev eth\n`).join("")
    execFileSync("ip", ["-batch", "-"], { input: batch })
    const routes = Either.getOrThrow(netlink.dump(dumpRoutes(AF_INET, RT_TABLE.MAIN), "test", decodeRoute))
    const destinations = new Set(routes.map(({ destination }) => text(destination)))
    for (let i = 0; i < 3000; i++) assert.isTrue(destinations.has(`10.${i >> 8}.${i & 255}.0`), `route ${i}`)
    assert.deepInclude(resolve("10.11.183.9"), { interfaceName: "eth", prefixLength: 24 })
  })
})

const stable = ipToBytes(address("2001:db8:1::2"))
const temporary = ipToBytes(address("2001:db8:1::7"))
const listed = (bytes: Uint8Array, flags: number, prefixLength = 64): AddressMessage => ({
  family: AF_INET6,
  prefixLength,
  flags,
  scope: 0,
  index: 2,
  address: bytes
})

it("replaces a temporary or deprecated source by a stable one of its prefix", () => {
  const good = listed(stable, 0)
  for (const flags of [IFA_F.TEMPORARY, IFA_F.DEPRECATED, IFA_F.TEMPORARY | IFA_F.DEPRECATED]) {
    assert.strictEqual(stableSource(temporary, [listed(temporary, flags), good]), stable)
  }
  assert.strictEqual(stableSource(temporary, [listed(temporary, 0), good]), temporary)
  assert.strictEqual(stableSource(temporary, [good]), temporary) // not ours to judge
})

it.each([
  ["temporary itself", listed(stable, IFA_F.TEMPORARY)],
  ["deprecated", listed(stable, IFA_F.DEPRECATED)],
  ["a duplicate", listed(stable, IFA_F.DADFAILED)],
  ["not yet known to be unique", listed(stable, IFA_F.TENTATIVE)],
  ["of another prefix", listed(ipToBytes(address("2001:db8:2::2")), 0)],
  ["of another prefix length", listed(stable, 0, 128)]
])("keeps the source if the other address is %s", (_, other) => {
  assert.strictEqual(stableSource(temporary, [listed(temporary, IFA_F.TEMPORARY), other]), temporary)
})

it("takes an address that is used while it is being checked", () => {
  const optimistic = listed(stable, IFA_F.TENTATIVE | IFA_F.OPTIMISTIC)
  assert.strictEqual(stableSource(temporary, [listed(temporary, IFA_F.TEMPORARY), optimistic]), stable)
})
