/** The choice among adapters of a machine that the test invents; the real calls need Windows. */
import { assert, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import { memoryAddress } from "../../../src/ffi/memory.ts"
import { encodeSockaddrInet } from "../../../src/ffi/windows/ipHelperLayout.ts"
import type { IpHelper } from "../../../src/ffi/windows/iphlpapi.ts"
import { layerOver } from "../../../src/layers/route/RouteResolverWindows.ts"
import { ip, ipToBytes } from "../../../src/protocol/wire/address.ts"
import { RouteResolver } from "../../../src/services/RouteResolver.ts"

interface FakeRoute {
  readonly source: string
  readonly prefixLength: number
  readonly metric: number
  readonly nextHop?: string
  /** What the system wrote instead of a family. */
  readonly family?: number
}

interface FakeAdapter {
  readonly name: string
  readonly down?: boolean
  readonly metric4?: number
  readonly metric6?: number
  /** A number: the error that the call ends with. */
  readonly route: FakeRoute | number
}

const ENTRY = 600 // the structure and its name

interface FakeMachine extends IpHelper {
  /** Lengths of the buffers that were offered. */
  readonly offered: Array<number>
  readonly asked: Array<{ readonly luid: bigint; readonly destination: Uint8Array }>
}

const machine = (adapters: ReadonlyArray<FakeAdapter>, length = adapters.length * ENTRY): FakeMachine => {
  const offered: Array<number> = []
  const asked: FakeMachine["asked"] = []
  return {
    offered,
    asked,
    getAdaptersAddresses: (buffer) => {
      offered.push(buffer.length)
      if (buffer.length < length) return { code: 111, length }
      const view = new DataView(buffer.buffer)
      const base = memoryAddress(buffer)
      adapters.forEach((adapter, i) => {
        const at = i * ENTRY
        view.setUint32(at + 4, 10 + i, true)
        if (i + 1 < adapters.length) view.setBigUint64(at + 8, BigInt(base + at + ENTRY), true)
        view.setBigUint64(at + 72, BigInt(base + at + 448), true)
        ;[...adapter.name].forEach((character, j) => view.setUint16(at + 448 + 2 * j, character.charCodeAt(0), true))
        view.setUint32(at + 104, adapter.down === true ? 2 : 1, true)
        view.setUint32(at + 216, adapter.metric4 ?? 0, true)
        view.setUint32(at + 220, adapter.metric6 ?? 0, true)
        view.setBigUint64(at + 224, 0x6000000000000n + BigInt(i), true)
      })
      return { code: 0, length }
    },
    getBestRoute2: (luid, destination, row, source) => {
      asked.push({ luid, destination: destination.slice() })
      const index = Number(luid - 0x6000000000000n)
      const route = adapters[index]?.route ?? 87
      if (typeof route === "number") return route
      source.set(encodeSockaddrInet(ipToBytes(ip(route.source))))
      const view = new DataView(row.buffer)
      view.setUint32(8, 10 + index, true)
      row[40] = route.prefixLength
      row.set(encodeSockaddrInet(ipToBytes(ip(route.nextHop ?? (route.source.includes(":") ? "::" : "0.0.0.0")))), 44)
      view.setUint32(84, route.metric, true)
      if (route.family !== undefined) source[0] = route.family
      return 0
    }
  }
}

const resolver = (helper: IpHelper) => Effect.provide(RouteResolver, layerOver(helper, { tunnelName: "Firezone" }))
const resolve = (helper: IpHelper, destination = "8.8.8.8") =>
  Effect.flatMap(resolver(helper), ({ resolve }) => resolve(ip(destination)))
const explain = (helper: IpHelper, destination = "8.8.8.8") =>
  Effect.flatMap(resolver(helper), ({ explain }) => explain(ip(destination)))

const byDefault = (source: string, metric: number, nextHop = "192.0.2.1"): FakeRoute => ({
  source,
  prefixLength: 0,
  metric,
  nextHop
})

it.effect("asks each adapter that is up for its best route, and not our tunnel (host 18.22)", () =>
  Effect.gen(function*() {
    const helper = machine([
      { name: "Firezone", route: byDefault("100.64.0.1", 0) },
      { name: "Ethernet", metric4: 25, route: byDefault("192.0.2.7", 10) },
      { name: "Bluetooth", down: true, route: byDefault("192.0.2.9", 0) }
    ])
    assert.deepStrictEqual(yield* resolve(helper), {
      destination: ip("8.8.8.8"),
      source: ip("192.0.2.7"),
      interfaceIndex: 11,
      interfaceName: "Ethernet",
      nextHop: ip("192.0.2.1"),
      prefixLength: 0,
      metric: 35
    })
    assert.deepStrictEqual(helper.asked.map(({ luid }) => luid), [0x6000000000001n])
    assert.deepStrictEqual([...helper.asked[0]?.destination ?? []].slice(0, 8), [2, 0, 0, 0, 8, 8, 8, 8])
  }))

it.effect("takes only the whole name, as it is written, for our tunnel", () =>
  Effect.gen(function*() {
    for (const name of ["firezone", "Firezone 2", "Firezon"]) {
      const route = yield* resolve(machine([{ name, route: byDefault("192.0.2.7", 0) }]))
      assert.strictEqual(route.interfaceName, name)
    }
  }))

it.effect("prefers the longest prefix, whatever the metric: the directly connected network (host 18.19)", () =>
  Effect.gen(function*() {
    const route = yield* resolve(machine([
      { name: "Ethernet", metric4: 1, route: byDefault("192.0.2.7", 0) },
      { name: "WLAN", metric4: 5000, route: { source: "8.8.8.1", prefixLength: 24, metric: 256 } }
    ]))
    assert.deepInclude(route, { interfaceName: "WLAN", prefixLength: 24, metric: 5256 })
    assert.notProperty(route, "nextHop")
  }))

it.effect("then the smallest sum of route and interface metric, of the family in question (host 18.20)", () =>
  Effect.gen(function*() {
    const adapters = [
      { name: "Ethernet", metric4: 50, metric6: 10 },
      { name: "WLAN", metric4: 20, metric6: 60 }
    ]
    const v4 = machine(adapters.map((adapter) => ({ ...adapter, route: byDefault("192.0.2.7", 5) })))
    assert.deepInclude(yield* resolve(v4), { interfaceName: "WLAN", metric: 25 })
    const v6 = machine(
      adapters.map((adapter) => ({ ...adapter, route: byDefault("2001:db8::7", 5, "fe80::1") }))
    )
    assert.deepInclude(yield* resolve(v6, "2606:4700::1"), {
      interfaceName: "Ethernet",
      metric: 15,
      source: ip("2001:db8::7"),
      nextHop: ip("fe80::1")
    })
    // A bad route over a good interface loses against the sum of the other.
    const sums = machine([
      { name: "Ethernet", metric4: 1, route: byDefault("192.0.2.7", 100) },
      { name: "WLAN", metric4: 50, route: byDefault("198.18.0.7", 0) }
    ])
    assert.strictEqual((yield* resolve(sums)).interfaceName, "WLAN")
  }))

it.effect("then the first that the system lists (host 18.21)", () =>
  Effect.gen(function*() {
    const both = ["Ethernet", "WLAN"].map((name) => ({ name, metric4: 5, route: byDefault("192.0.2.7", 5) }))
    assert.strictEqual((yield* resolve(machine(both))).interfaceName, "Ethernet")
    assert.strictEqual((yield* resolve(machine(both.toReversed()))).interfaceName, "WLAN")
  }))

it.effect("skips an adapter whose call fails or that names a source of no Internet family (host 18.22)", () =>
  Effect.gen(function*() {
    const helper = machine([
      { name: "Ethernet", route: 1168 },
      { name: "WLAN", route: { ...byDefault("192.0.2.7", 0), family: 99 } },
      { name: "Cellular", metric4: 900, route: { ...byDefault("198.18.0.7", 0), family: 0 } }
    ])
    assert.deepInclude(yield* resolve(helper), { interfaceName: "Cellular", source: ip("198.18.0.7") })
  }))

it.effect("there may be no way (host 18.22)", () =>
  Effect.gen(function*() {
    for (const adapters of [[], [{ name: "Ethernet", route: 1231 }]]) {
      const error = yield* Effect.flip(resolve(machine(adapters, 600)))
      assert.deepInclude(error, { _tag: "NoRoute", reason: "ERROR_HOST_UNREACHABLE" })
    }
  }))

it.effect("offers as much as the system asks for, once (host 18.26)", () =>
  Effect.gen(function*() {
    const ethernet = { name: "Ethernet", route: byDefault("192.0.2.7", 0) }
    const large = machine([ethernet], 40_000)
    assert.strictEqual((yield* resolve(large)).interfaceName, "Ethernet")
    assert.deepStrictEqual(large.offered, [15_000, 40_000])

    const growing = machine([ethernet])
    let length = 20_000
    const error = yield* Effect.flip(resolve({
      ...growing,
      getAdaptersAddresses: () => ({ code: 111, length: length *= 2 })
    }))
    assert.deepInclude(error, { _tag: "RouteQueryFailed" })
    assert.strictEqual(length, 80_000)
    const refused = yield* Effect.flip(resolve({
      ...growing,
      getAdaptersAddresses: () => ({ code: 8, length: 0 })
    }))
    assert.include(String((refused as { cause?: unknown }).cause), "ERROR_NOT_ENOUGH_MEMORY")
  }))

it.effect("explains the choice and every loser", () =>
  Effect.gen(function*() {
    const { candidates, chosen } = yield* explain(machine([
      { name: "Firezone", route: byDefault("100.64.0.1", 0) },
      { name: "Bluetooth", down: true, route: byDefault("192.0.2.9", 0) },
      { name: "WLAN", metric4: 50, route: byDefault("198.18.0.7", 0) },
      { name: "Ethernet", metric4: 25, route: byDefault("192.0.2.7", 0) },
      { name: "Loopback Pseudo-Interface 1", route: 1231 }
    ]))
    assert.strictEqual(chosen?.interfaceName, "Ethernet")
    assert.deepStrictEqual(candidates.map(({ interfaceName, rejected }) => [interfaceName, rejected]), [
      ["Ethernet", undefined],
      ["Firezone", "it is our own tunnel: the packet would come back to us"],
      ["Bluetooth", "the interface is down"],
      ["WLAN", "its metric 50 is higher than the chosen 25"],
      ["Loopback Pseudo-Interface 1", "it has no route to the destination (ERROR_NETWORK_UNREACHABLE)"]
    ])
    const nothing = yield* explain(machine([{ name: "Ethernet", route: 4711 }]))
    assert.deepStrictEqual(nothing, {
      destination: ip("8.8.8.8"),
      chosen: undefined,
      reason: "ERROR_HOST_UNREACHABLE",
      candidates: [{
        interfaceName: "Ethernet",
        interfaceIndex: 10,
        rejected: "it has no route to the destination (4711)"
      }]
    })
  }))
