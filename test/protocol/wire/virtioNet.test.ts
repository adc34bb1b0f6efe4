import { describe, expect, it } from "vitest"
import { pseudoHeaderSum4, pseudoHeaderSum6 } from "../../../src/protocol/wire/checksum.ts"
import {
  completeChecksum,
  GSO_TCPV4,
  GSO_UDP_L4,
  headerCsumOffset,
  headerCsumStart,
  headerFlags,
  headerGsoSize,
  headerGsoType,
  NEEDS_CSUM,
  VIRTIO_NET_HEADER,
  writeGsoHeader
} from "../../../src/protocol/wire/virtioNet.ts"
import { isIntact, tcp, udp } from "../tunnel/packets.ts"

describe("the virtio-net header", () => {
  it("is laid out as in VIRTIO 1.2 section 5.1.6, little-endian", () => {
    const bytes = new Uint8Array(3 + VIRTIO_NET_HEADER + 1).fill(0xee)
    writeGsoHeader(bytes, 3, GSO_TCPV4, 0x0134, 0x04c8, 0x0114, 16)
    expect([...bytes]).toEqual([0xee, 0xee, 0xee, 1, 1, 0x34, 0x01, 0xc8, 0x04, 0x14, 0x01, 16, 0, 0xee])
  })
  it("reads as it was written", () => {
    const bytes = new Uint8Array(VIRTIO_NET_HEADER + 5)
    writeGsoHeader(bytes, 5, GSO_UDP_L4, 48, 1200, 40, 6)
    expect([
      headerFlags(bytes, 5),
      headerGsoType(bytes, 5),
      headerGsoSize(bytes, 5),
      headerCsumStart(bytes, 5),
      headerCsumOffset(bytes, 5)
    ]).toEqual([NEEDS_CSUM, GSO_UDP_L4, 1200, 40, 6])
  })
})

describe("completeChecksum", () => {
  /** A packet as the kernel hands it over: the field holds the sum of the pseudo-header. */
  const unfinished = (version: 4 | 6, protocol: "tcp" | "udp", payload: string) => {
    const ends = version === 4 ? { from: "100.64.0.1", to: "10.0.0.1" } : { from: "fd00::1", to: "2001:db8::1" }
    const packet = protocol === "tcp" ? tcp(ends, 443, 0x18, 1, payload) : udp(ends, 53, payload)
    const start = version === 4 ? 20 : 40
    const offset = protocol === "tcp" ? 16 : 6
    const seed = (version === 4 ? pseudoHeaderSum4 : pseudoHeaderSum6)(
      packet,
      0,
      protocol === "tcp" ? 6 : 17,
      packet.length - start
    )
    packet.set([seed >>> 8, seed & 0xff], start + offset)
    return { packet, start, offset }
  }

  it("finishes what the kernel began, at any place in a buffer", () => {
    for (const version of [4, 6] as const) {
      for (const protocol of ["tcp", "udp"] as const) {
        for (const length of [0, 1, 2, 99]) {
          const { offset, packet, start } = unfinished(version, protocol, "Z".repeat(length))
          const arena = new Uint8Array(packet.length + 11)
          arena.set(packet, 7)
          expect(completeChecksum(arena, 7, packet.length, start, offset)).toBe(true)
          expect(isIntact(arena.slice(7, 7 + packet.length))).toBe(true)
        }
      }
    }
  })
  it("never writes 0 for UDP, where it would mean none, and does for TCP", () => {
    const zero = new Uint8Array(8)
    zero.set([0xff, 0xff], 6)
    expect(completeChecksum(zero, 0, 8, 0, 6)).toBe(true)
    expect([zero[6], zero[7]]).toEqual([0xff, 0xff])
    const tcp = new Uint8Array(20)
    tcp.set([0xff, 0xff], 16)
    expect(completeChecksum(tcp, 0, 20, 0, 16)).toBe(true)
    expect([tcp[16], tcp[17]]).toEqual([0, 0])
  })
  it("refuses a field outside the packet or at an odd distance, and changes nothing", () => {
    for (const [start, offset] of [[20, 7], [20, 17], [40, 0], [65_535, 65_535], [39, 0]] as const) {
      const bytes = new Uint8Array(40).fill(7)
      expect(completeChecksum(bytes, 0, 40, start, offset)).toBe(false)
      expect(bytes.every((byte) => byte === 7)).toBe(true)
    }
  })
})
