import { assert, describe, it } from "@effect/vitest"
import * as FastCheck from "effect/FastCheck"
import { ip, ipToBytes } from "../../../src/protocol/wire/address.ts"
import { IpPacket } from "../../../src/protocol/wire/ip.ts"
import { type TcpEnds, TcpFlag, tcpPacket, TcpSegment } from "../../../src/protocol/wire/tcp.ts"
import { isIntact, tcp } from "../tunnel/packets.ts"

const between = (source: string, destination: string): TcpEnds => ({
  source: ipToBytes(ip(source)),
  sourcePort: 50_000,
  destination: ipToBytes(ip(destination)),
  destinationPort: 53
})
const v4 = between("100.64.0.1", "10.0.0.53")
const v6 = between("fd00::1", "fd00::53")

const parse = (bytes: Uint8Array): TcpSegment | undefined => {
  const packet = new IpPacket()
  const segment = new TcpSegment()
  return packet.parse(bytes, 0, bytes.length) && segment.parse(packet) ? segment : undefined
}

const hex = (bytes: Uint8Array): string => Buffer.from(bytes).toString("hex")

describe("a TCP packet", () => {
  it("is laid out as RFC 9293 and RFC 791 say", () => {
    const packet = tcpPacket(v4, { sequence: -2, acknowledgment: 5, flags: TcpFlag.Syn, window: 4096, mss: 1240 })
    // The checksums are those that tcpdump asks for when they are zero.
    assert.strictEqual(
      hex(packet),
      "4500002c0000000040060c57644000010a000035c3500035fffffffe000000056002100057030000020404d8"
    )
    assert.isTrue(isIntact(packet))
  })

  it("reads as it was written, and is intact", () => {
    FastCheck.assert(
      FastCheck.property(
        FastCheck.constantFrom(v4, v6),
        FastCheck.integer(),
        FastCheck.integer(),
        FastCheck.nat(255),
        FastCheck.nat(65_535),
        FastCheck.nat(65_535),
        FastCheck.uint8Array({ maxLength: 1200 }),
        (ends, sequence, acknowledgment, flags, window, mss, payload) => {
          const packet = tcpPacket(ends, { sequence, acknowledgment, flags, window, mss }, payload)
          assert.isTrue(isIntact(packet))
          const segment = parse(packet)
          assert.isDefined(segment)
          if (segment === undefined) return
          assert.deepStrictEqual(
            [segment.sequence, segment.acknowledgment, segment.flags, segment.window],
            [sequence, acknowledgment, flags, window]
          )
          const isSyn = (flags & TcpFlag.Syn) !== 0
          assert.strictEqual(segment.mss, isSyn ? mss : 0)
          assert.deepStrictEqual(
            packet.subarray(segment.payload, segment.payload + segment.payloadLength),
            payload
          )
          const extra = (isSyn ? 1 : 0) + ((flags & TcpFlag.Fin) !== 0 ? 1 : 0)
          assert.strictEqual(segment.length, payload.length + extra)
        }
      )
    )
  })

  it("is read where somebody else made it", () => {
    const segment = parse(tcp({ from: "10.0.0.1", to: "10.0.0.2" }, 53, TcpFlag.Ack, 77, "hello"))
    assert.deepStrictEqual([segment?.sequence, segment?.payloadLength, segment?.has(TcpFlag.Ack)], [77, 5, true])
  })

  it("is refused with any single bit wrong behind the IP header", () => {
    const packet = tcpPacket(
      v4,
      { sequence: 1, acknowledgment: 2, flags: 0x18, window: 3, mss: 0 },
      Uint8Array.of(1, 2, 3)
    )
    for (let bit = 20 * 8; bit < packet.length * 8; bit++) {
      const damaged = packet.slice()
      damaged[bit >> 3] = (damaged[bit >> 3] ?? 0) ^ 1 << (bit & 7)
      assert.isUndefined(parse(damaged), `bit ${bit}`)
    }
  })
})

describe("the MSS option", () => {
  const mssOf = (...options: ReadonlyArray<number>): number | undefined => {
    const bytes = tcpPacket(
      v4,
      { sequence: 1, acknowledgment: 0, flags: TcpFlag.Syn, window: 0, mss: 0 },
      Uint8Array.from(options)
    )
    // The payload becomes options: only the data offset and the checksum change.
    bytes[32] = 20 + options.length << 2
    const before = 0x5002
    const after = (20 + options.length) << 10 | 2
    const view = new DataView(bytes.buffer)
    let sum = (~view.getUint16(36) & 0xffff) + (~before & 0xffff) + after
    while (sum > 0xffff) sum = (sum >> 16) + (sum & 0xffff)
    view.setUint16(36, ~sum & 0xffff)
    return parse(bytes)?.mss
  }

  it("is found among others", () => {
    assert.strictEqual(mssOf(2, 4, 4, 216), 1240)
    assert.strictEqual(mssOf(1, 3, 4, 7, 2, 4, 4, 216), 0, "inside of another")
    assert.strictEqual(mssOf(1, 3, 3, 7, 2, 4, 4, 216), 1240)
    assert.strictEqual(mssOf(4, 2, 2, 4, 5, 180, 1, 0), 1460)
  })

  it("is not found where there is none", () => {
    assert.strictEqual(mssOf(), 0)
    assert.strictEqual(mssOf(0, 2, 4, 216), 0, "behind the end")
    assert.strictEqual(mssOf(2, 3, 4, 216), 0, "of a wrong length")
    assert.strictEqual(mssOf(1, 1, 1, 2), 0, "without a length")
    assert.strictEqual(mssOf(1, 1, 2, 4), 0, "cut off")
    assert.strictEqual(mssOf(3, 0, 2, 4), 0, "behind one without a length")
  })
})
