import * as fc from "fast-check"
import { describe, expect, it } from "vitest"
import { MAX_NAMES, nameNumberOf, proxyAddressBytes, proxyAddresses } from "../../../src/protocol/dns/proxyAddresses.ts"
import { PROXY_RANGES, SENTINEL_RANGES } from "../../../src/protocol/tunnel/ranges.ts"
import { ip, ipToBytes, networkContains } from "../../../src/protocol/wire/address.ts"
import { wordsOf } from "../../../src/protocol/wire/ipWords.ts"

const numberOf = (address: string): number => nameNumberOf(address.includes(":") ? 6 : 4, wordsOf(ip(address)))

describe("the addresses that stand for names", () => {
  it("begin where the spec says and skip the sentinels", () => {
    expect(proxyAddresses(0, 4)).toEqual(["100.96.0.1", "100.96.0.2", "100.96.0.3", "100.96.0.4"])
    expect(proxyAddresses(0, 6)).toEqual([0, 1, 2, 3].map((i) => ip(`fd00:2021:1111:8000::${i}`)))
    expect(proxyAddresses(1, 4)[0]).toBe("100.96.0.5")
    // 100.100.110.252 to 100.100.110.255, with the sentinels' /24 in between.
    expect(proxyAddresses(72_639, 4)).toEqual([
      "100.100.110.253",
      "100.100.110.254",
      "100.100.110.255",
      "100.100.112.0"
    ])
    expect(proxyAddresses(72_640, 4)[0]).toBe("100.100.112.1")
    expect(MAX_NAMES).toBe(524_223)
    // Three addresses are left: no name gets fewer than four.
    expect(proxyAddresses(MAX_NAMES - 1, 4)[3]).toBe("100.127.255.252")
  })
  it("lead back to the name's number, and lie where they should", () => {
    fc.assert(fc.property(
      fc.oneof(fc.nat(MAX_NAMES - 1), fc.integer({ min: 72_600, max: 72_700 })),
      fc.constantFrom(4 as const, 6 as const),
      (number, family) => {
        const addresses = proxyAddresses(number, family)
        expect(new Set(addresses).size).toBe(4)
        expect(addresses.map(numberOf)).toEqual([number, number, number, number])
        expect(addresses.flatMap((address) => [...ipToBytes(address)])).toEqual([...proxyAddressBytes(number, family)])
        const within = (ranges: typeof PROXY_RANGES | typeof SENTINEL_RANGES) =>
          addresses.filter((address) => ranges.some((range) => networkContains(range, address))).length
        expect([within(PROXY_RANGES), within(SENTINEL_RANGES)]).toEqual([4, 0])
      }
    ))
  })
  it.each([
    "100.96.0.0",
    "100.95.255.255",
    "100.128.0.1",
    "100.100.111.1",
    "fd00:2021:1111:8000:100:100:111:0",
    "fd00:2021:1111:8000::20:0",
    "fd00:2021:1111::1",
    "::1"
  ])("%s is none", (address) => {
    expect(numberOf(address)).toBe(-1)
  })
})
