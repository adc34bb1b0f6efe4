import * as fc from "fast-check"
import { describe, expect, it } from "vitest"
import { ip, ipFromBytes } from "../../../src/protocol/wire/address.ts"
import { IpPacket } from "../../../src/protocol/wire/ip.ts"
import { MAX_UDP_PAYLOAD, udpPacket } from "../../../src/protocol/wire/udp.ts"
import { isIntact } from "../tunnel/packets.ts"

const ends = {
  4: { source: ip("100.64.0.1"), sourcePort: 40_000, destination: ip("10.0.0.53"), destinationPort: 53 },
  6: { source: ip("fd00:2021:1111::1"), sourcePort: 53, destination: ip("2001:db8::53"), destinationPort: 65_535 }
} as const

describe("UDP packets of our own", () => {
  it("are what the tunnel accepts, with right checksums", () => {
    expect(MAX_UDP_PAYLOAD).toBe(1212)
    const payload = fc.uint8Array({ maxLength: MAX_UDP_PAYLOAD })
    fc.assert(fc.property(fc.constantFrom(4 as const, 6 as const), payload, (family, payload) => {
      const bytes = udpPacket(ends[family], payload)
      const view = new IpPacket()
      expect(view.parse(bytes, 0, bytes.length)).toBe(true)
      expect([view.version, view.sourcePort, view.destinationPort]).toEqual([
        family,
        ends[family].sourcePort,
        ends[family].destinationPort
      ])
      expect(isIntact(bytes)).toBe(true)
      expect(bytes.slice(view.transport + 8)).toEqual(payload)
      const at = family === 4 ? 12 : 8
      const size = family === 4 ? 4 : 16
      expect([ipFromBytes(bytes, at, family), ipFromBytes(bytes, at + size, family)]).toEqual([
        ends[family].source,
        ends[family].destination
      ])
      expect(bytes[family === 4 ? 8 : 7]).toBe(64)
    }))
  })
  it("never say that they have no checksum", () => {
    // A payload that makes the sum come out as 0.
    const without = udpPacket(ends[4], Uint8Array.of(0, 0))
    const sum = (without[26] as number) << 8 | (without[27] as number)
    const bytes = udpPacket(ends[4], Uint8Array.of(sum >> 8, sum & 0xff))
    expect(bytes.subarray(26, 28)).toEqual(Uint8Array.of(0xff, 0xff))
    expect(isIntact(bytes)).toBe(true)
  })
})
