import * as fc from "fast-check"
import { describe, expect, it } from "vitest"
import {
  familyOf,
  formatNetwork,
  ip,
  ipFromBytes,
  ipToBytes,
  networkContains,
  parseIp,
  parseNetwork,
  parseScopedIp,
  parseSocketAddress,
  SocketAddress,
  withoutZone,
  zoneOf
} from "../../../src/protocol/wire/address.ts"

describe("parseScopedIp", () => {
  it("keeps the zone of link-local addresses, and of no others", () => {
    const cases = [
      ["FE80::0:1%eth0", "fe80::1%eth0"],
      ["febf::1%2", "febf::1%2"],
      ["fe80::1", "fe80::1"],
      ["fe80::1%", "fe80::1"],
      ["fec0::1%eth0", "fec0::1"],
      ["192.0.2.1%eth0", "192.0.2.1"],
      ["%eth0", undefined],
      ["host%eth0", undefined]
    ] as const
    for (const [text, expected] of cases) expect([text, parseScopedIp(text)]).toEqual([text, expected])
  })
  it("has the same bytes with and without it", () => {
    const scoped = parseScopedIp("fe80::1%br-lan.2")!
    expect([zoneOf(scoped), withoutZone(scoped)]).toEqual(["br-lan.2", "fe80::1"])
    expect(ipToBytes(scoped)).toEqual(ipToBytes(ip("fe80::1")))
    expect(zoneOf(ip("fe80::1"))).toBeUndefined()
    expect(new SocketAddress(scoped, 53).text).toBe("[fe80::1%br-lan.2]:53")
  })
})

describe("parseIp", () => {
  it("writes every address in one way (RFC 5952)", () => {
    expect(parseIp("2001:0DB8:0:0:0:0:0:0001")).toBe("2001:db8::1")
    expect(parseIp("2001:db8:0:1:0:0:0:1")).toBe("2001:db8:0:1::1")
    expect(parseIp("192.0.2.1")).toBe("192.0.2.1")
    expect(parseIp("::ffff:192.0.2.1")).toBe("192.0.2.1")
    expect(parseIp("::ffff:c000:201")).toBe("192.0.2.1")
  })
  it.each([
    "",
    "1",
    "1.2.3",
    "1.2.3.4.5",
    "256.1.1.1",
    "01.2.3.4",
    "0x1.2.3.4",
    "1.2.3.4/8",
    "fe80::1%eth0",
    ":",
    "1::2::3",
    "g::",
    "example.com",
    " 1.2.3.4",
    "[::1]"
  ])(
    "refuses %j",
    (text) => {
      expect(parseIp(text)).toBeUndefined()
      expect(() => ip(text)).toThrow(RangeError)
    }
  )
  it("returns on any text", () => {
    fc.assert(fc.property(fc.string(), (text) => {
      const address = parseIp(text)
      expect(address === undefined ? undefined : parseIp(address)).toBe(address)
    }))
  })
})

describe("bytes of an address", () => {
  it("come back as they were", () => {
    fc.assert(
      fc.property(
        fc.uint8Array({ minLength: 24, maxLength: 24 }),
        fc.constantFrom(4 as const, 6 as const),
        (bytes, family) => {
          const address = ipFromBytes(bytes, 3, family)
          if (familyOf(address) !== family) return // IPv4-mapped
          expect(ipToBytes(address)).toEqual(bytes.slice(3, family === 4 ? 7 : 19))
          expect(parseIp(address)).toBe(address)
        }
      )
    )
  })
  it("of an IPv4-mapped address read as IPv4", () => {
    const mapped = new Uint8Array(16).fill(0xff, 10, 12)
    mapped.set([192, 0, 2, 1], 12)
    expect(ipFromBytes(mapped, 0, 6)).toBe("192.0.2.1")
  })
})

describe("parseSocketAddress", () => {
  it("reads what SocketAddress writes", () => {
    for (const text of ["203.0.113.9:3478", "[2001:db8::9]:0", "0.0.0.0:65535"]) {
      const address = parseSocketAddress(text)
      expect([address?.text, String(address)]).toEqual([text, text])
    }
    expect(parseSocketAddress("[2001:DB8::9]:1")).toEqual(new SocketAddress(ip("2001:db8::9"), 1))
    expect(parseSocketAddress("1.2.3.4:5")?.family).toBe(4)
  })
  it.each([
    "",
    "1.2.3.4",
    "1.2.3.4:",
    "1.2.3.4:65536",
    "1.2.3.4:-1",
    "::1:5",
    "[1.2.3.4]:5",
    "[::1]",
    "host:5",
    "[::1%lo]:5",
    "[::ffff:1.2.3.4]:5"
  ])(
    "refuses %j",
    (text) => {
      expect(parseSocketAddress(text)).toBeUndefined()
    }
  )
})

describe("networks", () => {
  it("are read only with a prefix, and without host bits", () => {
    expect(parseNetwork("10.0.0.0/8")).toEqual({ address: "10.0.0.0", bits: 8 })
    expect(parseNetwork("2001:db8::/33")).toEqual({ address: "2001:db8::", bits: 33 })
    expect(parseNetwork("10.1.2.3/32")).toEqual({ address: "10.1.2.3", bits: 32 })
    expect(parseNetwork("0.0.0.0/0")).toEqual({ address: "0.0.0.0", bits: 0 })
    const refused = [
      "10.0.0.0",
      "10.0.0.1/8",
      "10.0.0.0/33",
      "2001:db8::1/127",
      "::/129",
      "10.0.0.0/",
      "10.0.0.0/8/8",
      "/8",
      "10.0.0.0/-1",
      "10.0.0.0/1e1"
    ]
    expect(refused.map(parseNetwork)).toEqual(refused.map(() => undefined))
  })
  it("come back from their text", () => {
    for (const text of ["10.0.0.0/8", "2001:db8::/33", "::/0"]) {
      const network = parseNetwork(text)
      expect(network === undefined ? undefined : formatNetwork(network)).toBe(text)
    }
  })
  it("hold addresses of their family that begin alike", () => {
    const holds = (network: string, address: string) => {
      const parsed = parseNetwork(network)
      return parsed !== undefined && networkContains(parsed, ip(address))
    }
    expect(holds("100.64.0.0/11", "100.95.255.255")).toBe(true)
    expect(holds("100.64.0.0/11", "100.96.0.0")).toBe(false)
    expect(holds("fd00:2021:1111::/107", "fd00:2021:1111::1f:ffff")).toBe(true)
    expect(holds("fd00:2021:1111::/107", "fd00:2021:1111::20:0")).toBe(false)
    expect(holds("0.0.0.0/0", "::")).toBe(false)
    expect(holds("::/0", "1.2.3.4")).toBe(false)
  })
})
