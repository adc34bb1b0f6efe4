import * as fc from "fast-check"
import { describe, expect, it } from "vitest"
import { SentinelMap } from "../../../src/protocol/dns/SentinelMap.ts"
import {
  effectiveUpstreams,
  sanitizeResolvers,
  type Upstream,
  upstreamKey
} from "../../../src/protocol/dns/upstreams.ts"
import { clientRanges } from "../../../src/protocol/tunnel/clientRanges.ts"
import { ip } from "../../../src/protocol/wire/address.ts"
import { wordsOf } from "../../../src/protocol/wire/ipWords.ts"

const ips = (...texts: ReadonlyArray<string>) => texts.map(ip)
const config = (do53: ReadonlyArray<string>, doh: ReadonlyArray<string> = []) => ({
  upstreamDo53: ips(...do53),
  upstreamDoh: doh
})
const keys = (config_: ReturnType<typeof config>, system: ReadonlyArray<string>) => {
  const { isCustom, upstreams } = effectiveUpstreams(config_, ips(...system))
  return [isCustom, ...upstreams.map(upstreamKey)]
}

describe("effective upstreams (tunnel spec 12.1)", () => {
  it("are the portal's resolvers, else its DoH servers, else the system's", () => {
    const url = "https://dns.example/dns-query"
    expect(keys(config(["9.9.9.9", "1.1.1.1"], [url]), ["192.0.2.1"])).toEqual([true, "9.9.9.9", "1.1.1.1"])
    expect(keys(config([], [url, url]), ["192.0.2.1"])).toEqual([true, url])
    expect(keys(config([]), ["192.0.2.2", "192.0.2.1"])).toEqual([false, "192.0.2.2", "192.0.2.1"])
    expect(keys(config([]), [])).toEqual([false])
  })
  it("are no sentinels of ours, and each once", () => {
    expect(sanitizeResolvers(ips("1.1.1.1", "100.100.111.1", "1.1.1.1"))).toEqual(["1.1.1.1"])
    expect(sanitizeResolvers(ips("fd00:2021:1111:8000:100:100:111:7", "::1"))).toEqual(["::1"])
    expect(keys(config(["100.100.111.9", "9.9.9.9", "9.9.9.9"]), [])).toEqual([true, "9.9.9.9"])
  })
})

const do53 = (...addresses: ReadonlyArray<string>): ReadonlyArray<Upstream> =>
  ips(...addresses).map((address) => ({ _tag: "Do53", address }))
const doh = (url: string): Upstream => ({ _tag: "DoH", url })
const addressesOf = (map: SentinelMap) => map.sentinels.map(({ address }) => address)
const at = (map: SentinelMap, address: string) => map.at(address.includes(":") ? 6 : 4, wordsOf(ip(address)))

describe("SentinelMap (tunnel spec 12.2 and 21.3)", () => {
  const system = do53("1.1.1.1", "1.0.0.1", "2606:4700:4700::1111")
  const first = ips("100.100.111.1", "100.100.111.2", "fd00:2021:1111:8000:100:100:111:0")

  it("gives each upstream the lowest address that the list before did not use", () => {
    const map = new SentinelMap(clientRanges(0).sentinels)
    expect(map.update(system)).toBe(true)
    expect(addressesOf(map)).toEqual(first)
    expect(map.update(do53("9.9.9.9"))).toBe(true)
    expect(addressesOf(map)).toEqual(["100.100.111.3"])
    expect(map.update(system)).toBe(true)
    expect(addressesOf(map)).toEqual(first)
    expect(map.update([...system])).toBe(false)
  })
  it("gives DNS over HTTPS an IPv4 address", () => {
    const map = new SentinelMap(clientRanges(0).sentinels)
    map.update([doh("https://dns.example/dns-query")])
    expect(addressesOf(map)).toEqual(["100.100.111.1"])
  })
  it("follows a change of the order", () => {
    const map = new SentinelMap(clientRanges(0).sentinels)
    map.update(do53("1.1.1.1", "9.9.9.9"))
    expect(map.update(do53("9.9.9.9", "1.1.1.1"))).toBe(true)
    expect(map.sentinels.map(({ address, upstream }) => `${address} ${upstreamKey(upstream)}`)).toEqual([
      "100.100.111.3 9.9.9.9",
      "100.100.111.4 1.1.1.1"
    ])
  })
  it("finds its own addresses and no others", () => {
    const map = new SentinelMap(clientRanges(0).sentinels)
    map.update(system)
    for (const sentinel of map.sentinels) expect(at(map, sentinel.address)).toBe(sentinel)
    for (const other of ["100.100.111.3", "100.100.112.1", "fd00:2021:1111:8000:100:100:111:1", "1.1.1.1"]) {
      expect(at(map, other)).toBeUndefined()
    }
  })
  it("leaves out what there is no address for", () => {
    const map = new SentinelMap(clientRanges(0).sentinels)
    map.update(do53(...Array.from({ length: 300 }, (_, i) => `10.0.${i >> 8}.${i & 255}`)))
    expect([map.sentinels.length, map.sentinels.at(-1)?.address]).toEqual([158, "100.100.111.158"])
  })
  it("never uses an address twice in a row, and keeps the order", () => {
    const upstream = fc.oneof(
      fc.nat(250).map((n) => ({ _tag: "Do53" as const, address: ip(`192.0.2.${n}`) })),
      fc.nat(250).map((n) => ({ _tag: "Do53" as const, address: ip(`2001:db8::${n}`) })),
      fc.nat(9).map((n) => doh(`https://dns${n}.example/`))
    )
    const list = fc.uniqueArray(upstream, { selector: upstreamKey, maxLength: 20 })
    fc.assert(fc.property(fc.array(list, { maxLength: 8 }), (lists) => {
      const map = new SentinelMap(clientRanges(0).sentinels)
      for (const upstreams of lists) {
        const before = addressesOf(map)
        const changed = map.update(upstreams)
        expect(map.sentinels.map((sentinel) => sentinel.upstream)).toEqual(upstreams)
        expect(addressesOf(map).filter((address) => before.includes(address))).toEqual(changed ? [] : before)
      }
    }))
  })
})
