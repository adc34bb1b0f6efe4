import fc from "fast-check"
import { expect, it } from "vitest"
import { isLater, Tai64nClock } from "../../../src/protocol/wireguard/Tai64nClock.ts"
import { toHex } from "./peers.ts"

const read = (label: Uint8Array) => {
  const view = new DataView(label.buffer)
  return { seconds: view.getBigUint64(0) - (1n << 62n) - 37n, nanos: view.getUint32(8) }
}

it("grows strictly, however the clock moves, and has no more than a second of nanoseconds", () => {
  const moment = fc.oneof(fc.double({ min: 0, max: 1e12, noNaN: true }), fc.constantFrom(0, 0.999_999_9, 999.999_999_9))
  fc.assert(fc.property(fc.double({ min: 0, max: 4e12, noNaN: true }), fc.array(moment), (epoch, moments) => {
    const clock = new Tai64nClock(epoch)
    let last: Uint8Array = new Uint8Array(12)
    for (const now of moments) {
      const label = clock.next(now)
      expect(isLater(label, last), `${toHex(label)} after ${toHex(last)}`).toBe(true)
      expect(read(label).nanos).toBeLessThan(1_000_000_000)
      last = label
    }
  }))
})

it("tells the time to within a millisecond", () => {
  fc.assert(fc.property(fc.integer({ min: 0, max: 4e12 }), fc.integer({ min: 0, max: 1e12 }), (epoch, now) => {
    const { nanos, seconds } = read(new Tai64nClock(epoch).next(now))
    expect(seconds * 1000n + BigInt(Math.floor(nanos / 1e6))).toBe(BigInt(epoch + now))
  }))
})

it("carries a full second of nanoseconds into the next one", () => {
  const clock = new Tai64nClock(1_700_000_000_999)
  expect(toHex(clock.next(0.999_999))).toBe("400000006553f1253b9ac9ff")
  expect(toHex(clock.next(0.999_999))).toBe("400000006553f12600000000")
})

it("compares labels like numbers", () => {
  const label = fc.uint8Array({ minLength: 12, maxLength: 12 })
  fc.assert(fc.property(label, label, (left, right) => {
    expect(isLater(left, right)).toBe(toHex(left) > toHex(right))
    expect(isLater(left, left)).toBe(false)
  }))
})
