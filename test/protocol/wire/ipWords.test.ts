import * as fc from "fast-check"
import { describe, expect, it } from "vitest"
import { familyOf, ip, type IpAddress, ipFromBytes, networkContains } from "../../../src/protocol/wire/address.ts"
import {
  maskWord,
  NetworkMatcher,
  readWord,
  readWords,
  sameWords,
  wordsOf
} from "../../../src/protocol/wire/ipWords.ts"

const ipv4 = fc.uint8Array({ minLength: 4, maxLength: 4 }).map((bytes) => ipFromBytes(bytes, 0, 4))
const ipv6 = fc.uint8Array({ minLength: 16, maxLength: 16 }).map((bytes) => ipFromBytes(bytes, 0, 6))
  .filter((address) => familyOf(address) === 6)

describe("words of an address", () => {
  it("are big-endian", () => {
    expect(readWord(Uint8Array.of(9, 1, 2, 3, 4), 1)).toBe(0x01020304)
    expect(readWord(Uint8Array.of(0xff, 0xff, 0xff, 0xfe), 0)).toBe(-2)
    expect([...wordsOf(ip("1.2.3.4"))]).toEqual([0x01020304, 0, 0, 0])
    expect([...wordsOf(ip("1:2:3:4:5:6:7:8"))]).toEqual([0x10002, 0x30004, 0x50006, 0x70008])
  })
  it("of IPv4 leave nothing of an IPv6 address before", () => {
    const words = wordsOf(ip("1:2:3:4:5:6:7:8"))
    readWords(words, Uint8Array.of(1, 2, 3, 4), 0, 4)
    expect([...words]).toEqual([0x01020304, 0, 0, 0])
  })
  it("are the same for the same address only", () => {
    fc.assert(fc.property(fc.oneof(fc.tuple(ipv4, ipv4), fc.tuple(ipv6, ipv6)), ([a, b]) => {
      expect(sameWords(wordsOf(a), wordsOf(a))).toBe(true)
      expect(sameWords(wordsOf(a), wordsOf(b))).toBe(a === b)
    }))
  })
})

describe("maskWord", () => {
  it("has the leading bits of a prefix", () => {
    expect([0, 1, 31, 32, 33, 128].map((bits) => maskWord(bits, 0) >>> 0)).toEqual(
      [0, 0x8000_0000, 0xffff_fffe, 0xffff_ffff, 0xffff_ffff, 0xffff_ffff]
    )
    expect([0, 32, 33, 64].map((bits) => maskWord(bits, 1) >>> 0)).toEqual([0, 0, 0x8000_0000, 0xffff_ffff])
  })
})

describe("NetworkMatcher", () => {
  it("agrees with the search by bytes", () => {
    const flip = (address: IpAddress, bit: number): IpAddress => {
      const words = wordsOf(address)
      const bytes = new Uint8Array(16)
      const view = new DataView(bytes.buffer)
      for (const [i, word] of words.entries()) view.setInt32(i * 4, word)
      const size = familyOf(address) === 4 ? 4 : 16
      const at = bit % (size * 8)
      bytes[at >> 3] = (bytes[at >> 3] as number) ^ 0x80 >> (at & 7)
      return ipFromBytes(bytes, 0, familyOf(address))
    }
    fc.assert(fc.property(fc.oneof(ipv4, ipv6), fc.nat(128), fc.nat(127), (address, prefix, bit) => {
      const bits = Math.min(prefix, familyOf(address) === 4 ? 32 : 128)
      const matcher = new NetworkMatcher({ address, bits })
      for (const candidate of [address, flip(address, bit)]) {
        const expected = networkContains({ address, bits }, candidate)
        expect(matcher.contains(familyOf(candidate), wordsOf(candidate))).toBe(expected)
      }
    }))
  })
  it("never matches the other family", () => {
    expect(new NetworkMatcher({ address: ip("0.0.0.0"), bits: 0 }).contains(6, wordsOf(ip("::")))).toBe(false)
    expect(new NetworkMatcher({ address: ip("::"), bits: 0 }).contains(4, wordsOf(ip("0.0.0.0")))).toBe(false)
  })
})
