import { assert, describe, it } from "@effect/vitest"
import * as fc from "fast-check"
import { CHANNEL_HEADER_LENGTH, readChannel, writeChannelHeader } from "../../../src/protocol/wire/channelData.ts"

describe("channel data", () => {
  it("is read as written, anywhere in a buffer", () => {
    fc.assert(
      fc.property(fc.integer({ min: 0x4000, max: 0x4fff }), fc.nat(2000), fc.nat(50), (channel, length, offset) => {
        const buffer = new Uint8Array(offset + CHANNEL_HEADER_LENGTH + length)
        writeChannelHeader(buffer, offset, channel, length)
        assert.strictEqual(readChannel(buffer, offset, CHANNEL_HEADER_LENGTH + length), channel)
        assert.strictEqual(readChannel(buffer, offset, CHANNEL_HEADER_LENGTH + length + 1), 0)
        assert.strictEqual(readChannel(buffer, offset, CHANNEL_HEADER_LENGTH + length - 1), 0)
      })
    )
  })

  it("is nothing else", () => {
    for (const first of [0x00, 0x3f, 0x50, 0xff]) {
      assert.strictEqual(readChannel(Uint8Array.of(first, 0, 0, 0), 0, 4), 0)
    }
    assert.strictEqual(readChannel(Uint8Array.of(0x40, 0, 0), 0, 3), 0)
    assert.strictEqual(readChannel(new Uint8Array(0), 0, 0), 0)
  })
})
