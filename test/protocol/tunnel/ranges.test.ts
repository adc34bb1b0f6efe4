import { describe, expect, it } from "vitest"
import {
  isMapped,
  isProxyAddress,
  isRefusedByInternet,
  isSentinelAddress,
  isTunnelAddress
} from "../../../src/protocol/tunnel/ranges.ts"
import { familyOf, ip } from "../../../src/protocol/wire/address.ts"
import { type IpWords, wordsOf } from "../../../src/protocol/wire/ipWords.ts"

type Predicate = (version: 4 | 6, words: IpWords) => boolean

const accepted = (isInside: Predicate, ...addresses: ReadonlyArray<string>): ReadonlyArray<string> =>
  addresses.filter((text) => isInside(familyOf(ip(text)), wordsOf(ip(text))))

/** The first and last address inside are, their neighbours are not. */
const expectBounds = (isInside: Predicate, first: string, last: string, ...outside: ReadonlyArray<string>): void => {
  expect(accepted(isInside, first, last, ...outside)).toEqual([first, last])
}

describe("the ranges of tunnel spec 1.1", () => {
  it("for TUN addresses", () => {
    expectBounds(isTunnelAddress, "100.64.0.0", "100.95.255.255", "100.63.255.255", "100.96.0.0")
    expectBounds(
      isTunnelAddress,
      "fd00:2021:1111::",
      "fd00:2021:1111::1f:ffff",
      "fd00:2021:1110:ffff:ffff:ffff:ffff:ffff",
      "fd00:2021:1111::20:0"
    )
  })
  it("for proxy addresses", () => {
    expectBounds(isProxyAddress, "100.96.0.0", "100.127.255.255", "100.95.255.255", "100.128.0.0")
    expectBounds(
      isProxyAddress,
      "fd00:2021:1111:8000::",
      "fd00:2021:1111:8000::1f:ffff",
      "fd00:2021:1111:7fff:ffff:ffff:ffff:ffff",
      "fd00:2021:1111:8000::20:0"
    )
  })
  it("for sentinels", () => {
    expectBounds(isSentinelAddress, "100.100.111.0", "100.100.111.255", "100.100.110.255", "100.100.112.0")
    expectBounds(
      isSentinelAddress,
      "fd00:2021:1111:8000:100:100:111:0",
      "fd00:2021:1111:8000:100:100:111:ff",
      "fd00:2021:1111:8000:100:100:110:ffff",
      "fd00:2021:1111:8000:100:100:111:100"
    )
  })
})

describe("what the Internet resource refuses (tunnel spec 14.4)", () => {
  it.each([
    ["10.0.0.0", "10.255.255.255", ["9.255.255.255", "11.0.0.0"]],
    ["172.16.0.0", "172.31.255.255", ["172.15.255.255", "172.32.0.0"]],
    ["192.168.0.0", "192.168.255.255", ["192.167.255.255", "192.169.0.0"]],
    ["127.0.0.0", "127.255.255.255", ["126.255.255.255", "128.0.0.0"]],
    ["169.254.0.0", "169.254.255.255", ["169.253.255.255", "169.255.0.0"]],
    ["100.64.0.0", "100.127.255.255", ["100.63.255.255", "100.128.0.0"]],
    ["224.0.0.0", "255.255.255.255", ["223.255.255.255"]],
    ["fc00::", "fdff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", ["fbff::", "fe00::"]],
    ["fe80::", "febf:ffff:ffff:ffff:ffff:ffff:ffff:ffff", ["fe7f::", "fec0::"]],
    ["ff00::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", ["feff::"]]
  ])("%s to %s", (first, last, outside) => {
    expectBounds(isRefusedByInternet, first, last, ...outside)
  })
  it("loopback, and nothing beside it", () => {
    expect(accepted(isRefusedByInternet, "::1", "::2", "2001:db8::1", "192.0.2.1")).toEqual(["::1"])
  })
  it("IPv4-mapped addresses, which have no text form of their own", () => {
    expect(isMapped(6, Int32Array.of(0, 0, 0xffff, 0x7f000001))).toBe(true)
    expect(isMapped(6, Int32Array.of(0, 1, 0xffff, 0x7f000001))).toBe(false)
    expect(isMapped(6, Int32Array.of(0, 0, 0xfffe, 0x7f000001))).toBe(false)
    expect(isMapped(4, Int32Array.of(0, 0, 0, 0))).toBe(false)
  })
})
