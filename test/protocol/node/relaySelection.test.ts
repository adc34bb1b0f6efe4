import { assert, describe, it } from "@effect/vitest"
import { pickRelay, rttThreshold } from "../../../src/protocol/node/relaySelection.ts"
import { crypto } from "./support.ts"

const relay = (id: string, rtt: number | undefined) => ({ id, rtt })
const picked = (...relays: ReadonlyArray<ReturnType<typeof relay>>): ReadonlyArray<string | undefined> =>
  [...new Set(Array.from({ length: 300 }, () => pickRelay(relays, crypto)?.id))].toSorted()

describe("the choice of a relay", () => {
  it("takes up to 1.5 times the best round trip of two", () => {
    assert.strictEqual(rttThreshold([20]), 30)
    assert.strictEqual(rttThreshold([100, 20]), 30)
    assert.deepStrictEqual(picked(relay("a", 20), relay("b", 30)), ["a", "b"])
    assert.deepStrictEqual(picked(relay("a", 20), relay("b", 31)), ["a"])
  })

  it("takes three median deviations, of 2 ms at least, of more", () => {
    assert.strictEqual(rttThreshold([10, 10, 10]), 16)
    assert.strictEqual(rttThreshold([10, 20, 30]), 50)
    assert.strictEqual(rttThreshold([10, 20, 30, 100]), 25 + 3 * 10)
    assert.deepStrictEqual(picked(relay("a", 10), relay("b", 11), relay("c", 200)), ["a", "b"])
  })

  it("never takes one that has not answered, but a slow one if it is the only one", () => {
    assert.deepStrictEqual(picked(relay("a", undefined), relay("b", 900)), ["b"])
    assert.deepStrictEqual(picked(relay("a", undefined)), [undefined])
    assert.deepStrictEqual(picked(), [undefined])
  })
})
