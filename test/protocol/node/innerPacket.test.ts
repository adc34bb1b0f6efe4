import { assert, describe, it } from "@effect/vitest"
import { GOODBYE_LENGTH, mergeEcn, readEcn, writeGoodbye } from "../../../src/protocol/node/innerPacket.ts"
import { checksum } from "../../../src/protocol/wire/checksum.ts"
import { toHex } from "../ice/support.ts"

const AT = 3

/** A header at offset 3 with this ECN; DSCP and flow label are all ones. */
const packet = (version: 4 | 6, ecn: number): Uint8Array => {
  const bytes = new Uint8Array(AT + 40)
  if (version === 6) {
    bytes.set([0x6f, 0xcf | ecn << 4, 0xff, 0xff], AT)
  } else {
    bytes.set([0x45, 0xfc | ecn, 0, 20, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2], AT)
    const sum = checksum(bytes, AT, 20)
    bytes.set([sum >> 8, sum & 0xff], AT + 10)
  }
  return bytes
}

describe("ECN", () => {
  for (const version of [4, 6] as const) {
    for (const inner of [0, 1, 2, 3]) {
      for (const outer of [0, 1, 2, 3]) {
        const expected = outer === 3 && (inner === 1 || inner === 2) ? 3 : inner
        it(`of IPv${version}: ${inner} in ${outer} becomes ${expected}`, () => {
          const bytes = packet(version, inner)
          assert.strictEqual(readEcn(bytes, AT), inner)
          mergeEcn(bytes, AT, outer)
          assert.deepStrictEqual(bytes, packet(version, expected))
        })
      }
    }
  }
})

describe("the goodbye", () => {
  it("is the packet of the spec, whatever was in the buffer", () => {
    const bytes = new Uint8Array(AT + GOODBYE_LENGTH).fill(0xee)
    writeGoodbye(bytes, AT)
    assert.strictEqual(toHex(bytes.subarray(AT)), `600000000008ff00${"00".repeat(32)}0200000000000000`)
  })
})
