import * as fc from "fast-check"
import { describe, expect, it } from "vitest"
import { type DomainPattern, parseDomainPattern } from "../../../src/protocol/dns/DomainPattern.ts"
import { compareEntries, PatternIndex } from "../../../src/protocol/dns/PatternIndex.ts"

const entry = (pattern: string, id = pattern) => {
  const parsed = parseDomainPattern(pattern)
  if (parsed === undefined) throw new Error(pattern)
  return { id, pattern: parsed }
}
type Entry = { readonly id: string; readonly pattern: DomainPattern }
const label = fc.constantFrom("a", "b", "A", "web", "?", "*", "**", "w*", "w?b")
const pattern = fc.array(label, { minLength: 1, maxLength: 4 }).map((labels) => labels.join("."))
const name = fc.array(fc.constantFrom("a", "b", "B", "web", "wib", "x"), { minLength: 1, maxLength: 4 })
  .map((labels) => labels.join("."))

describe("PatternIndex", () => {
  it("finds what trying every pattern finds, the most specific first", () => {
    fc.assert(fc.property(fc.array(pattern, { maxLength: 12 }), fc.nat(12), name, (patterns, removed, name) => {
      const index = new PatternIndex<Entry>()
      const entries = patterns.map((text, i) => entry(text, `${i}`.padStart(2, "0")))
      for (const each of entries) index.add(each)
      const left = entries.filter((_, i) => i !== removed)
      const gone = entries[removed]
      if (gone !== undefined) index.remove(gone)
      expect(index.match(name)).toEqual(left.filter(({ pattern }) => pattern.matches(name)).sort(compareEntries))
    }))
  })
  it("orders as the spec's example", () => {
    const ordered = [
      "example.com",
      "bar.example.com",
      "*.bar.example.com",
      "foo.example.com",
      "?.example.com",
      "*.example.com",
      "**.example.com",
      "*ample.com",
      "*.com"
    ]
    const shuffled = ordered.toSorted().map((text) => entry(text))
    expect(shuffled.sort(compareEntries).map(({ id }) => id)).toEqual(ordered)
  })
  it("prefers the larger id of equal patterns", () => {
    const index = new PatternIndex<Entry>()
    for (const id of ["1", "3", "2"]) index.add(entry("*.corp.test", id))
    expect(index.match("a.corp.test").map(({ id }) => id)).toEqual(["3", "2", "1"])
  })
  it("knows nothing of the root, of escaped dots, and when it is empty", () => {
    const index = new PatternIndex<Entry>()
    expect(index.match("a.test")).toEqual([])
    index.add(entry("**"))
    expect(index.match("a.test")).toHaveLength(1)
    expect([index.match("."), index.match("a\\.b.test")]).toEqual([[], []])
  })
})
