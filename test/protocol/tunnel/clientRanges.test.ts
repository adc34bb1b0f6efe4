import * as fc from "fast-check"
import { describe, expect, it } from "vitest"
import { MAX_INSTANCES as TABLED } from "../../../src/model/policyRouting.ts"
import { MAX_NAMES, nameNumberOf, proxyAddresses } from "../../../src/protocol/dns/proxyAddresses.ts"
import { SentinelMap } from "../../../src/protocol/dns/SentinelMap.ts"
import { clientRanges, MAX_INSTANCES } from "../../../src/protocol/tunnel/clientRanges.ts"
import { PROXY_RANGES, SENTINEL_RANGES } from "../../../src/protocol/tunnel/ranges.ts"
import { formatNetwork, ip, type IpAddress, networkContains } from "../../../src/protocol/wire/address.ts"
import { wordsOf } from "../../../src/protocol/wire/ipWords.ts"

const instances = Array.from({ length: MAX_INSTANCES }, (_, instance) => instance)
const later = instances.slice(1)
/** Where an address is routed to: a later client's tables are asked before those of the ones before it. */
const ownerOf = (address: IpAddress): number | undefined =>
  instances.toReversed().find((instance) =>
    clientRanges(instance).routes.some((range) => networkContains(range, address))
  )

describe("clientRanges", () => {
  it("are the networks of spec 1.1 for the first, and parts of their ends for the others", () => {
    expect(clientRanges(0).routes).toHaveLength(6)
    expect(clientRanges(1).routes.map(formatNetwork)).toEqual([
      "100.124.0.0/14",
      "fd00:2021:1111:8000::1c:0/110",
      "100.100.111.224/27",
      "fd00:2021:1111:8000:100:100:111:e0/123"
    ])
    for (const instance of later) {
      for (const { address, bits } of clientRanges(instance).routes) {
        expect(
          [...PROXY_RANGES, ...SENTINEL_RANGES].some((range) => range.bits < bits && networkContains(range, address))
        )
          .toBe(true)
      }
    }
    expect(TABLED).toBe(MAX_INSTANCES)
  })

  it("route every address of a name, and no other client's, to the client that gives it out", () => {
    const number = fc.constantFrom(...instances).chain((instance) => {
      const { count, first } = clientRanges(instance).names
      const offset = fc.oneof(fc.constantFrom(0, count - 1), fc.nat(count - 1))
      return fc.tuple(fc.constant(instance), offset.map((each) => first + each))
    })
    fc.assert(fc.property(number, fc.constantFrom(4 as const, 6 as const), ([instance, number], family) => {
      expect(number).toBeLessThan(MAX_NAMES)
      for (const address of proxyAddresses(number, family)) {
        expect(ownerOf(address)).toBe(instance)
        expect(nameNumberOf(family, wordsOf(address))).toBe(number)
      }
    }))
  })

  it("route every address of a DNS server to the client whose it is", () => {
    for (const instance of instances) {
      const map = new SentinelMap(clientRanges(instance).sentinels)
      map.update([4, 6].flatMap((family) =>
        Array.from({ length: 300 }, (_, i) => ({
          _tag: "Do53" as const,
          address: ip(family === 4 ? `10.0.${i >> 8}.${i & 255}` : `2001:db8::${i.toString(16)}`)
        }))
      ))
      expect(map.sentinels.length).toBeGreaterThan(instance === 0 ? 300 : 60)
      for (const { address } of map.sentinels) expect(ownerOf(address)).toBe(instance)
    }
  })
})
