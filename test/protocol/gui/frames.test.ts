import { assert, describe, it } from "@effect/vitest"
import * as FastCheck from "effect/FastCheck"
import { Allowance } from "../../../src/protocol/gui/Allowance.ts"
import { encodeFrame, FrameReader, MAX_FRAME_BYTES } from "../../../src/protocol/gui/frames.ts"

const frame = (body: Uint8Array): Uint8Array => encodeFrame(body) ?? assert.fail("too long")

const drain = (reader: FrameReader): ReadonlyArray<Uint8Array> => {
  const frames: Array<Uint8Array> = []
  for (let next = reader.pollFrame(); next !== undefined; next = reader.pollFrame()) frames.push(next)
  return frames
}

describe("host spec 18, test 8: frames", () => {
  it.prop(
    "round trip, however the stream is split and merged",
    [
      FastCheck.array(FastCheck.uint8Array({ maxLength: 40 }), { maxLength: 8 }),
      FastCheck.array(FastCheck.integer({ min: 1, max: 30 }), { minLength: 1, maxLength: 20 })
    ],
    ([bodies, sizes]) => {
      const stream = Buffer.concat(bodies.map(frame))
      const reader = new FrameReader()
      const found: Array<Uint8Array> = []
      for (let at = 0, turn = 0; at < stream.length; turn++) {
        const size = sizes[turn % sizes.length] ?? 1
        reader.handleInput(stream.subarray(at, at + size))
        // Now and then whole frames wait for each other.
        if (turn % 2 === 0) found.push(...drain(reader))
        at += size
      }
      found.push(...drain(reader))
      assert.deepStrictEqual(found.map((body) => [...body]), bodies.map((body) => [...body]))
      assert.strictEqual(reader.held, 0)
      assert.isFalse(reader.isBroken)
    }
  )

  it("have a 32-bit big-endian length that does not count itself", () => {
    assert.deepStrictEqual([...frame(Uint8Array.of(7, 8))], [0, 0, 0, 2, 7, 8])
    assert.deepStrictEqual([...frame(new Uint8Array())], [0, 0, 0, 0])
  })

  it("of 8 MiB pass, and of one byte more are refused before that comes", () => {
    const largest = new Uint8Array(MAX_FRAME_BYTES).fill(1)
    const reader = new FrameReader()
    reader.handleInput(frame(largest))
    assert.strictEqual(reader.pollFrame()?.length, MAX_FRAME_BYTES)
    assert.isUndefined(encodeFrame(new Uint8Array(MAX_FRAME_BYTES + 1)))
    const header = new Uint8Array(4)
    new DataView(header.buffer).setUint32(0, MAX_FRAME_BYTES + 1)
    for (const byte of header) reader.handleInput(Uint8Array.of(byte))
    assert.isTrue(reader.isBroken)
    reader.handleInput(frame(Uint8Array.of(1)))
    assert.isUndefined(reader.pollFrame())
    assert.strictEqual(reader.held, 0)
  })

  it("that follow a good one may be too long: the good one is read", () => {
    const reader = new FrameReader()
    reader.handleInput(Buffer.concat([frame(Uint8Array.of(5)), Buffer.from([0xff, 0xff, 0xff, 0xff])]))
    assert.isFalse(reader.isBroken)
    assert.deepStrictEqual([...(reader.pollFrame() ?? [])], [5])
    assert.isTrue(reader.isBroken)
  })

  it("hold what has come and not what was announced", () => {
    const reader = new FrameReader()
    reader.handleInput(Uint8Array.of(0, 0x7f, 0, 0, 1, 2, 3))
    assert.strictEqual(reader.held, 7)
    assert.isFalse(reader.hasFrame)
  })

  it("of a byte at a time are not copied for each of them", () => {
    const reader = new FrameReader()
    const bytes = frame(new Uint8Array(100_000))
    const began = performance.now()
    for (const byte of bytes) reader.handleInput(Uint8Array.of(byte))
    assert.strictEqual(reader.pollFrame()?.length, 100_000)
    // Quadratic would be minutes.
    assert.isBelow(performance.now() - began, 10_000)
  })
})

describe("an allowance", () => {
  it("lets a burst pass, and then as much as is added", () => {
    const allowance = new Allowance(10, 3, 0)
    assert.deepStrictEqual([1, 1, 1].map((cost) => allowance.spend(cost, 0)), [0, 0, 0])
    assert.strictEqual(allowance.spend(1, 0), 100)
    assert.strictEqual(allowance.spend(1, 100), 100)
    assert.strictEqual(allowance.spend(50, 10_000), 4700)
  })

  it("saves no more than its limit, and a clock that stands still gives nothing", () => {
    const allowance = new Allowance(10, 3, 0)
    assert.strictEqual(allowance.spend(3, 1_000_000), 0)
    assert.strictEqual(allowance.spend(1, 1_000_000), 100)
    assert.strictEqual(allowance.spend(0, 999_000), 100)
  })
})
