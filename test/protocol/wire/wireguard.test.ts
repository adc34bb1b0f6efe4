import * as fc from "fast-check"
import { describe, expect, it } from "vitest"
import {
  classify,
  COOKIE_REPLY,
  DATA_OVERHEAD,
  INITIATION,
  MessageType,
  readCounter,
  readReceiverIndex,
  readSenderIndex,
  readUint32,
  RESPONSE,
  writeDataHeader,
  writeUint32
} from "../../../src/protocol/wire/wireguard.ts"

const message = (type: number, length: number): Uint8Array => {
  const bytes = new Uint8Array(length)
  bytes[0] = type
  return bytes
}
const typeOf = (bytes: Uint8Array) => classify(bytes, 0, bytes.length)

describe("classify", () => {
  it("knows each message by type and length", () => {
    expect([[1, 148], [2, 92], [3, 64]].map(([type, length]) => typeOf(message(type as number, length as number))))
      .toEqual(
        [MessageType.Initiation, MessageType.Response, MessageType.CookieReply]
      )
    expect([32, 33, 48, 1500].map((length) => typeOf(message(4, length)))).toEqual([4, 4, 4, 4])
  })
  it.each([[1, 147], [1, 149], [2, 91], [2, 93], [3, 63], [3, 65], [4, 31], [4, 0], [0, 148], [5, 148], [255, 148]])(
    "takes type %i of %i bytes for none",
    (type, length) => {
      expect(typeOf(message(type, length))).toBe(0)
    }
  )
  it("insists on the reserved zeros", () => {
    for (const at of [1, 2, 3]) {
      const bytes = message(4, 64)
      bytes[at] = 1
      expect(typeOf(bytes)).toBe(0)
    }
  })
  it("looks at the bytes it was told to, and not beyond the buffer", () => {
    const bytes = new Uint8Array(200)
    bytes[50] = 1
    expect(classify(bytes, 50, 148)).toBe(MessageType.Initiation)
    expect(classify(bytes, 53, 148)).toBe(0)
    expect(classify(bytes, -1, 148)).toBe(0)
  })
  it("returns on any bytes", () => {
    fc.assert(fc.property(fc.uint8Array({ maxLength: 200 }), (bytes) => {
      expect([0, 1, 2, 3, 4]).toContain(typeOf(bytes))
    }))
  })
})

describe("fields", () => {
  it("cover each message without gaps", () => {
    expect([INITIATION.mac2 + 16, RESPONSE.mac2 + 16, COOKIE_REPLY.cookie + 32]).toEqual(
      [INITIATION.length, RESPONSE.length, COOKIE_REPLY.length]
    )
    expect(DATA_OVERHEAD).toBe(32)
  })
  it("hold little-endian integers of 32 bits", () => {
    fc.assert(fc.property(fc.nat(0xffff_ffff), (value) => {
      const bytes = new Uint8Array(6)
      writeUint32(bytes, 1, value)
      expect(readUint32(bytes, 1)).toBe(value)
      expect(new DataView(bytes.buffer).getUint32(1, true)).toBe(value)
    }))
  })
  it("name receiver and sender where each message has them", () => {
    const response = message(MessageType.Response, 92)
    writeUint32(response, RESPONSE.receiver, 0xdead_beef)
    writeUint32(response, RESPONSE.sender, 0x0102_0304)
    expect([readReceiverIndex(response, 0), readSenderIndex(response, 0)]).toEqual([0xdead_beef, 0x0102_0304])
    const cookie = message(MessageType.CookieReply, 64)
    writeUint32(cookie, 4, 77)
    expect(readReceiverIndex(cookie, 0)).toBe(77)
  })
  it("of a data message come back, counters beyond 32 bits included", () => {
    const counters = fc.oneof(fc.nat(), fc.integer({ min: 0, max: Number.MAX_SAFE_INTEGER }))
    fc.assert(fc.property(fc.nat(0xffff_ffff), counters, (receiver, counter) => {
      const bytes = new Uint8Array(40)
      writeDataHeader(bytes, 8, receiver, counter)
      expect(classify(bytes, 8, 32)).toBe(MessageType.Data)
      expect([readReceiverIndex(bytes, 8), readCounter(bytes, 8)]).toEqual([receiver, counter])
      expect(new DataView(bytes.buffer).getBigUint64(16, true)).toBe(BigInt(counter))
    }))
  })
  it("say of a counter that a number cannot hold that it is too large", () => {
    const bytes = new Uint8Array(32).fill(0xff)
    expect(readCounter(bytes, 0)).toBeGreaterThan(Number.MAX_SAFE_INTEGER)
  })
})
