import * as fc from "fast-check"
import { describe, expect, it } from "vitest"
import { checksum } from "../../../src/protocol/wire/checksum.ts"
import {
  behindIpv4Header,
  decodeEchoReply,
  encodeEchoRequest,
  isProhibition,
  quotedEcho
} from "../../../src/protocol/wire/echo.ts"

const ids = fc.record({
  identifier: fc.integer({ min: 0, max: 0xffff }),
  sequence: fc.integer({ min: 0, max: 0xffff })
})
const family = fc.constantFrom(4 as const, 6 as const)
const payload = fc.uint8Array({ maxLength: 80 })

describe("echo", () => {
  it("is laid out as RFC 792 and RFC 4443 say", () => {
    const request = { identifier: 0x1234, sequence: 7 }
    expect([...encodeEchoRequest(4, request, Uint8Array.of(1, 2))]).toEqual([8, 0, 0xe4, 0xc2, 0x12, 0x34, 0, 7, 1, 2])
    expect([...encodeEchoRequest(6, request, new Uint8Array())]).toEqual([128, 0, 0, 0, 0x12, 0x34, 0, 7])
  })
  it("sums up to zero over IPv4", () => {
    fc.assert(fc.property(ids, payload, (ids, payload) => {
      const bytes = encodeEchoRequest(4, ids, payload)
      expect(checksum(bytes, 0, bytes.length)).toBe(0)
    }))
  })
  it("is read back from a quotation, and from a reply", () => {
    fc.assert(fc.property(family, ids, payload, (family, ids, payload) => {
      const bytes = encodeEchoRequest(family, ids, payload)
      expect(quotedEcho(family, bytes)).toEqual(ids)
      expect(decodeEchoReply(family, bytes)).toBeUndefined()
      bytes[0] = family === 4 ? 0 : 129
      expect(decodeEchoReply(family, bytes)).toEqual(ids)
      expect(quotedEcho(family, bytes)).toBeUndefined()
      expect(decodeEchoReply(family, bytes.subarray(0, 7))).toBeUndefined()
    }))
  })
  it("returns on any bytes", () => {
    fc.assert(fc.property(family, fc.uint8Array({ maxLength: 100 }), (family, bytes) => {
      decodeEchoReply(family, bytes)
      quotedEcho(family, bytes)
      const message = behindIpv4Header(bytes)
      const header = ((bytes[0] ?? 0) & 15) * 4
      expect(message === undefined || header >= 20 && header + message.length === bytes.length).toBe(true)
    }))
    expect(behindIpv4Header(Uint8Array.of(0x45, 0))).toBeUndefined()
    expect(behindIpv4Header(new Uint8Array(40).fill(0x41))).toBeUndefined()
  })
  it("knows who says no for reasons of policy", () => {
    expect(isProhibition(4, 3, 13)).toBe(true)
    expect(isProhibition(6, 1, 1)).toBe(true)
    for (const [family, type, code] of [[4, 3, 1], [4, 11, 13], [6, 1, 3], [6, 3, 1]] as const) {
      expect(isProhibition(family, type, code)).toBe(false)
    }
  })
})
