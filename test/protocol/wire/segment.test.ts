import * as fc from "fast-check"
import { describe, expect, it } from "vitest"
import { isFragment, MAX_SEGMENTS, segment, type Segments } from "../../../src/protocol/wire/segment.ts"
import { completeChecksum, GSO_NONE, GSO_TCPV4, GSO_TCPV6, GSO_UDP_L4 } from "../../../src/protocol/wire/virtioNet.ts"
import { ACK, buildPacket, CWR, FIN, isIntact, type PacketParts, PSH } from "./packets.ts"

const STRIDE = 1408
const MAX_PACKET = 1280

/** Cuts a copy of `large` as the TUN reader does, and returns the segments or the problem. */
const cut = (large: Uint8Array, gsoType: number, gsoSize: number): ReadonlyArray<Uint8Array> | string => {
  const to = 64
  const at = to + STRIDE * MAX_SEGMENTS
  const arena = new Uint8Array(at + large.length).fill(0xa5)
  arena.set(large, at)
  const out: Segments = { count: 0, length: 0, lastLength: 0 }
  const problem = segment(arena, at, large.length, gsoType, gsoSize, MAX_PACKET, to, STRIDE, out)
  if (problem !== undefined) {
    expect(arena.subarray(at, at + large.length)).toEqual(large) // untouched
    return problem
  }
  return Array.from({ length: out.count }, (_, i) => {
    const length = i === out.count - 1 ? out.lastLength : out.length
    return arena.slice(to + i * STRIDE, to + i * STRIDE + length)
  })
}

const gsoTypeOf = ({ protocol, version }: PacketParts): number =>
  protocol === "udp" ? GSO_UDP_L4 : version === 4 ? GSO_TCPV4 : GSO_TCPV6

const parts = fc.record({
  version: fc.constantFrom<4 | 6>(4, 6),
  protocol: fc.constantFrom<"tcp" | "udp">("tcp", "udp"),
  payload: fc.uint8Array({ minLength: 1, maxLength: 20_000, size: "max" }),
  sequence: fc.integer({ min: 0, max: 0xffffffff }),
  flags: fc.constantFrom(ACK, ACK | PSH, ACK | PSH | FIN, ACK | CWR),
  options: fc.constantFrom(0, 12, 40).map((length) => new Uint8Array(length).fill(1)),
  id: fc.integer({ min: 0, max: 0xffff }),
  trafficClass: fc.integer({ min: 0, max: 255 })
})

describe("segment", () => {
  it("makes exactly the packets that the sender would have made one by one", () => {
    fc.assert(
      fc.property(parts, fc.integer({ min: 80, max: 1180 }), (large, gsoSize) => {
        const count = Math.ceil(large.payload.length / gsoSize)
        const expected = Array.from({ length: count }, (_, i) => {
          const isLast = i === count - 1
          return buildPacket({
            ...large,
            payload: large.payload.subarray(i * gsoSize, (i + 1) * gsoSize),
            sequence: (large.sequence + i * gsoSize) >>> 0,
            id: (large.id + i) & 0xffff,
            flags: large.flags & ~((isLast ? 0 : FIN | PSH) | (i === 0 ? 0 : CWR))
          })
        })
        const made = cut(buildPacket(large), gsoTypeOf(large), gsoSize)
        expect(made).toEqual(expected)
        for (const packet of made as ReadonlyArray<Uint8Array>) expect(isIntact(packet)).toBe(true)
      }),
      { numRuns: 60 }
    )
  })

  it("does not believe the checksum fields, the lengths or the id sum that it finds", () => {
    const large = buildPacket({ version: 4, protocol: "tcp", payload: new Uint8Array(3000).fill(7) })
    large.fill(0xff, 2, 4)
    large.fill(0xee, 10, 12)
    large.fill(0xdd, 36, 38)
    const made = cut(large, GSO_TCPV4, 1000) as ReadonlyArray<Uint8Array>
    expect(made.map((packet) => [packet.length, isIntact(packet)])).toEqual([[1040, true], [1040, true], [1040, true]])
  })

  const tcp4 = (payload: number) => buildPacket({ version: 4, protocol: "tcp", payload: new Uint8Array(payload) })
  it.each([
    ["gso-type", tcp4(2000), GSO_NONE, 1000],
    ["gso-type", tcp4(2000), 3, 1000],
    ["gso-size", tcp4(2000), GSO_TCPV4, 0],
    ["gso-segments", tcp4(257), GSO_TCPV4, 1],
    ["gso-header", tcp4(2000), GSO_TCPV6, 1000],
    ["gso-header", tcp4(2000), GSO_UDP_L4, 1000],
    ["gso-header", tcp4(0), GSO_TCPV4, 1000],
    ["oversized", tcp4(2000), GSO_TCPV4, 1241]
  ])("refuses: %s", (problem, packet, gsoType, gsoSize) => {
    expect(cut(packet, gsoType, gsoSize)).toBe(problem)
  })
  it("refuses fragments", () => {
    const packet = tcp4(2000)
    expect(isFragment(packet, 0, packet.length)).toBe(false)
    packet[6] = 0x20
    expect(isFragment(packet, 0, packet.length)).toBe(true)
    expect(cut(packet, GSO_TCPV4, 1000)).toBe("fragment")
    const six = buildPacket({ version: 6, protocol: "udp", payload: new Uint8Array(9) })
    expect(isFragment(six, 0, six.length)).toBe(false)
    six.set([44], 6)
    for (const [offset, expected] of [[0, false], [6, false], [1, true], [8, true], [0x100, true]] as const) {
      six.set([17, 0, offset >> 8, offset & 255], 40)
      expect(isFragment(six, 0, six.length)).toBe(expected)
    }
    expect(isFragment(six, 0, 47)).toBe(false) // cut short: others find that out
  })
  it("takes the largest packet in the smallest segments it accepts", () => {
    expect(cut(tcp4(256), GSO_TCPV4, 1)).toHaveLength(MAX_SEGMENTS)
  })
  it("returns, whatever it is given", () => {
    fc.assert(fc.property(
      fc.uint8Array({ maxLength: 200 }),
      fc.constantFrom(0x45, 0x4f, 0x60, 0x00),
      fc.constantFrom(GSO_TCPV4, GSO_TCPV6, GSO_UDP_L4, 0x81),
      fc.nat(0xffff),
      (bytes, first, gsoType, gsoSize) => {
        if (bytes.length > 9) bytes.set([gsoType === GSO_UDP_L4 ? 17 : 6], first === 0x60 ? 6 : 9)
        if (bytes.length > 0) bytes[0] = first
        const made = cut(bytes, gsoType, gsoSize)
        expect(typeof made === "string" || made.every(({ length }) => length <= MAX_PACKET)).toBe(true)
      }
    ))
  })
})

describe("completeChecksum", () => {
  it("completes what the kernel left undone", () => {
    fc.assert(fc.property(parts, (packet) => {
      const whole = buildPacket({ ...packet, payload: packet.payload.subarray(0, 1000) })
      const partial = whole.slice()
      const start = packet.version === 4 ? 20 : 40
      const offset = packet.protocol === "tcp" ? 16 : 6
      // The seed: the pseudo-header's sum, which is the complement of the sum over all the rest.
      const view = new DataView(partial.buffer)
      const length = partial.length - start
      let seed = (packet.protocol === "tcp" ? 6 : 17) + length
      for (let i = packet.version === 4 ? 12 : 8; i < start; i += 2) seed += view.getUint16(i)
      while (seed > 0xffff) seed = (seed & 0xffff) + (seed >>> 16)
      view.setUint16(start + offset, seed)
      expect(completeChecksum(partial, 0, partial.length, start, offset)).toBe(true)
      expect(partial).toEqual(whole)
    }))
  })
  it("refuses a field outside the packet, and returns for any numbers", () => {
    const packet = new Uint8Array(28)
    expect(completeChecksum(packet, 0, 28, 20, 8)).toBe(false)
    expect(completeChecksum(packet, 0, 28, 0xffff, 0)).toBe(false)
    fc.assert(fc.property(fc.nat(0xffff), fc.nat(0xffff), (start, offset) => {
      completeChecksum(packet, 0, 28, start, offset)
    }))
  })
})
