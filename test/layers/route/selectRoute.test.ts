import * as FastCheck from "fast-check"
import { assert, it } from "vitest"
import { type Ranked, selectRoute, whyItLost } from "../../../src/layers/route/selectRoute.ts"

const ranked = FastCheck.record({ prefixLength: FastCheck.nat(4), metric: FastCheck.nat(4) }) // few, so that many tie
const list = FastCheck.array(ranked, { maxLength: 12 })
const beats = (a: Ranked, b: Ranked): boolean =>
  a.prefixLength > b.prefixLength || (a.prefixLength === b.prefixLength && a.metric < b.metric)

it("chooses the longest prefix, then the lowest metric, then the first", () => {
  FastCheck.assert(FastCheck.property(list, (candidates) => {
    const chosen = selectRoute(candidates)
    if (chosen === undefined) return assert.lengthOf(candidates, 0)
    const at = candidates.indexOf(chosen)
    candidates.forEach((other, i) => {
      assert.isFalse(beats(other, chosen))
      if (i < at) assert.isTrue(beats(chosen, other))
    })
  }))
})

it("does not change its mind for what loses, wherever that is listed", () => {
  FastCheck.assert(FastCheck.property(list, ranked, FastCheck.nat(12), (candidates, other, at) => {
    const chosen = selectRoute(candidates)
    FastCheck.pre(chosen !== undefined && beats(chosen, other))
    assert.strictEqual(selectRoute(candidates.toSpliced(at, 0, other)), chosen)
    assert.notStrictEqual(selectRoute([...candidates, { prefixLength: 9, metric: 9 }]), chosen)
  }))
})

it("says truly why a candidate lost", () => {
  FastCheck.assert(FastCheck.property(list, (candidates) => {
    const chosen = selectRoute(candidates)
    for (const other of candidates) {
      if (chosen === undefined || other === chosen) continue
      const why = whyItLost(other, chosen)
      if (other.prefixLength < chosen.prefixLength) assert.include(why, `/${other.prefixLength} is shorter`)
      else if (other.metric > chosen.metric) assert.include(why, `metric ${other.metric} is higher`)
      else assert.include(why, "listed after")
    }
  }))
})
