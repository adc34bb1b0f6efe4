import * as fc from "fast-check"
import { describe, expect, it } from "vitest"
import { ip, ipToBytes } from "../../../src/protocol/wire/address.ts"
import { PacketKind } from "../../../src/protocol/wire/ip.ts"
import { setDestination, setDestinationPort, setSource, setSourcePort } from "../../../src/protocol/wire/ipEdit.ts"
import { wordsOf } from "../../../src/protocol/wire/ipWords.ts"
import { icmp, isIntact, other, parsed, ping, tcp, udp } from "../tunnel/packets.ts"

const v4 = { from: "100.64.0.1", to: "10.0.0.1" }
const v6 = { from: "fd00:2021:1111::1", to: "2001:db8::1" }

const packet = fc.oneof(
  fc.tuple(fc.constantFrom(v4, v6), fc.nat(65_535), fc.string({ maxLength: 40 })).map(([ends, port, text]) =>
    udp(ends, port, text)
  ),
  fc.tuple(fc.constantFrom(v4, v6), fc.nat(65_535), fc.string({ maxLength: 40 })).map(([ends, port, text]) =>
    tcp(ends, port, 0x18, 1, text)
  ),
  fc.tuple(fc.constantFrom(v4, v6), fc.nat(65_535)).map(([ends, identifier]) => ping(ends, identifier)),
  fc.tuple(fc.constantFrom(v4, v6), fc.constantFrom(3, 130)).map(([ends, type]) => icmp(ends, type))
)
const edit = fc.oneof(
  fc.record({ what: fc.constantFrom("source", "destination"), bytes: fc.uint8Array({ minLength: 16, maxLength: 16 }) }),
  fc.record({ what: fc.constantFrom("sourcePort", "destinationPort"), port: fc.nat(65_535) })
)

describe("edits of a packet", () => {
  it("in any sequence keep its checksums right, and the view is that of the bytes", () => {
    fc.assert(
      fc.property(packet, fc.array(edit, { minLength: 1, maxLength: 8 }), (bytes, edits) => {
        expect(isIntact(bytes)).toBe(true)
        const view = parsed(bytes)
        for (const each of edits) {
          if ("bytes" in each) {
            const address = each.bytes.subarray(0, view.version === 4 ? 4 : 16)
            if (each.what === "source") setSource(view, address)
            else setDestination(view, address)
          } else if (each.what === "sourcePort") setSourcePort(view, each.port)
          else setDestinationPort(view, each.port)
          expect(isIntact(bytes)).toBe(true)
        }
        const again = parsed(bytes)
        expect([view.source, view.destination, view.sourcePort, view.destinationPort]).toEqual(
          [again.source, again.destination, again.sourcePort, again.destinationPort]
        )
      }),
      { numRuns: 300 }
    )
  })
  it("can be undone", () => {
    for (const make of [udp, tcp, ping]) {
      const bytes = make(v6, 7)
      const view = parsed(bytes)
      setDestination(view, ipToBytes(ip("2001:db8:ffff::99")))
      setSourcePort(view, 1)
      expect(bytes).not.toEqual(make(v6, 7))
      setDestination(view, ipToBytes(ip(v6.to)))
      setSourcePort(view, make === ping ? 7 : 40_000)
      expect(bytes).toEqual(make(v6, 7))
    }
  })
  it("leave a UDP checksum of 0, which means none", () => {
    const bytes = udp(v4)
    bytes.fill(0, 26, 28)
    const view = parsed(bytes)
    setSource(view, Uint8Array.of(1, 2, 3, 4))
    setDestinationPort(view, 99)
    expect([bytes[26], bytes[27]]).toEqual([0, 0])
    expect(parsed(bytes)).toMatchObject({ destinationPort: 99, source: wordsOf(ip("1.2.3.4")) })
  })
  it("never make a checksum 0", () => {
    const bytes = udp(v4, 0)
    const view = parsed(bytes)
    const checksum = () => (bytes[26] as number) << 8 | (bytes[27] as number)
    // Adding what is left of the sum brings the checksum to zero.
    setDestinationPort(view, checksum())
    expect(checksum()).toBe(0xffff)
    expect(isIntact(bytes)).toBe(true)
  })
  it("of the ports of a packet without ports change nothing", () => {
    for (const bytes of [other(v4, 47), icmp(v4, 3)]) {
      const before = bytes.slice()
      const view = parsed(bytes)
      setSourcePort(view, 1)
      setDestinationPort(view, 2)
      expect(bytes).toEqual(before)
      expect([view.sourcePort, view.destinationPort]).toEqual([0, 0])
    }
  })
  it("of an echo change its identifier, which is both ports", () => {
    const view = parsed(ping(v4, 5))
    expect(view.kind).toBe(PacketKind.Echo)
    setSourcePort(view, 6)
    expect([view.sourcePort, view.destinationPort]).toEqual([6, 6])
  })
  it("take addresses of the packet's family only", () => {
    expect(() => setSource(parsed(udp(v4)), new Uint8Array(16))).toThrow(RangeError)
    expect(() => setDestination(parsed(udp(v6)), new Uint8Array(4))).toThrow(RangeError)
  })
})
