import { assert, describe, it } from "@effect/vitest"
import { TimedMap } from "../../../src/protocol/node/TimedMap.ts"

describe("TimedMap", () => {
  it("forgets an entry when its time is over", () => {
    const map = new TimedMap<string, number>(10, 100)
    map.set("a", 1, 0)
    assert.strictEqual(map.get("a", 9), 1)
    assert.isUndefined(map.get("a", 10))
  })

  it("gives an entry that is set again its whole time, and its place", () => {
    const map = new TimedMap<string, number>(10, 2)
    map.set("a", 1, 0)
    map.set("b", 2, 1)
    map.set("a", 3, 5)
    assert.strictEqual(map.get("a", 14), 3)
    map.set("c", 4, 6)
    assert.isUndefined(map.get("b", 6), "the oldest")
    assert.strictEqual(map.get("a", 6), 3)
  })

  it("gives an entry away once", () => {
    const map = new TimedMap<string, number>(10, 2)
    map.set("a", 1, 0)
    assert.strictEqual(map.take("a", 1), 1)
    assert.isUndefined(map.take("a", 1))
    map.set("a", 1, 0)
    assert.isUndefined(map.take("a", 10), "too late")
  })

  it("removes by value, and everything", () => {
    const map = new TimedMap<string, number>(10, 10)
    for (const key of ["a", "b"]) map.set(key, 1, 0)
    map.set("c", 2, 0)
    map.removeValue(1)
    assert.deepStrictEqual(["a", "b", "c"].map((key) => map.get(key, 1)), [undefined, undefined, 2])
    map.clear()
    assert.isUndefined(map.get("c", 1))
  })
})
