import * as fc from "fast-check"
import { describe, expect, it } from "vitest"
import {
  checksum,
  fold,
  pseudoHeaderSum4,
  pseudoHeaderSum6,
  sumBytes,
  sumBytesPlain,
  updateChecksum,
  updateChecksumSums
} from "../../../src/protocol/wire/checksum.ts"

const bytes = (hex: string): Uint8Array =>
  Uint8Array.from(hex.match(/[0-9a-f]{2}/g) ?? [], (pair) => parseInt(pair, 16))

describe("checksum", () => {
  it("matches RFC 1071 section 3", () => {
    expect(sumBytes(bytes("0001f203f4f5f6f7"), 0, 8)).toBe(0xddf2)
  })
  it("verifies an IPv4 header: the sum over it, checksum included, is all ones", () => {
    const header = bytes("45000073000040004011b861c0a80001c0a800c7")
    expect(sumBytes(header, 0, 20)).toBe(0xffff)
    header.fill(0, 10, 12)
    expect(checksum(header, 0, 20)).toBe(0xb861)
  })
  it("verifies a UDP datagram over IPv4 and an ICMPv6 echo over IPv6 with their pseudo-headers", () => {
    const udp = bytes("4500001e000040004011f6cbc0a80001c0a800c7 3039003500000000 6869")
    const length = udp.length - 20
    udp[25] = length
    const sum = checksum(udp, 20, length, pseudoHeaderSum4(udp, 0, 17, length))
    udp[26] = sum >>> 8
    udp[27] = sum & 0xff
    let words = 0xc0a8 + 0x0001 + 0xc0a8 + 0x00c7 + 17 + length + 0x3039 + 0x0035 + length + 0x6869
    while (words > 0xffff) words = (words & 0xffff) + (words >>> 16)
    expect(sum).toBe(~words & 0xffff)
    // An echo request from ::1 to ::1, id 1, sequence 1, no data: 1 + 1 + 58 + 8 + 0x8000 + 1 + 1 = 0x8046.
    const echo = bytes(`6000000000083a40 ${"00".repeat(15)}01 ${"00".repeat(15)}01 8000000000010001`)
    expect(checksum(echo, 40, 8, pseudoHeaderSum6(echo, 0, 58, 8))).toBe(0x7fb9)
  })
  it("adds wide runs as the plain loop does, at any alignment", () => {
    fc.assert(fc.property(
      fc.uint8Array({ minLength: 0, maxLength: 1500 }),
      fc.integer({ min: 0, max: 9 }),
      fc.integer({ min: 0, max: 0xffff }),
      (payload, shift, initial) => {
        const moved = new Uint8Array(payload.length + shift)
        moved.set(payload, shift)
        expect(sumBytes(moved, shift, payload.length, initial)).toBe(sumBytesPlain(payload, 0, payload.length, initial))
        const view = moved.subarray(shift)
        expect(sumBytes(view, 0, view.length, initial)).toBe(sumBytesPlain(payload, 0, payload.length, initial))
      }
    ))
  })
  it("adds the largest packet of all ones without losing a carry", () => {
    const ones = new Uint8Array(65_535).fill(0xff)
    expect(sumBytes(ones, 0, 65_534)).toBe(0xffff)
    expect(sumBytes(ones, 0, 65_535)).toBe(0xff00)
    expect(fold(2 ** 48)).toBe(1)
  })
  it("may be summed in parts of even length", () => {
    fc.assert(fc.property(fc.uint8Array({ minLength: 2, maxLength: 400 }), fc.nat(400), (payload, at) => {
      const cut = Math.min(at, payload.length) & ~1
      expect(sumBytes(payload, cut, payload.length - cut, sumBytes(payload, 0, cut))).toBe(
        sumBytes(payload, 0, payload.length)
      )
    }))
  })
  it("updates to what a new computation gives (RFC 1624)", () => {
    expect(updateChecksum(0xdd2f, 0x5555, 0x3285)).toBe(0x0000) // RFC 1624 section 4
    fc.assert(fc.property(
      fc.uint8Array({ minLength: 20, maxLength: 20 }),
      fc.uint8Array({ minLength: 8, maxLength: 8 }),
      (packet, replacement) => {
        packet[0] = 0x45 // never the all-zero packet, whose checksum has two forms
        const before = checksum(packet, 0, 20)
        const old = sumBytes(packet, 12, 8)
        packet.set(replacement, 12)
        expect(updateChecksumSums(before, old, sumBytes(replacement, 0, 8))).toBe(checksum(packet, 0, 20))
      }
    ))
  })
})
