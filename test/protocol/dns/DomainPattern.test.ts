import { assert, describe, it } from "@effect/vitest"
import * as FastCheck from "effect/FastCheck"
import { compareSpecificity, parseDomainPattern } from "../../../src/protocol/dns/DomainPattern.ts"

const matches = (pattern: string, name: string): boolean => parseDomainPattern(pattern)?.matches(name) ?? false

describe("domain patterns (tunnel spec 12.5)", () => {
  it("match as the examples say", () => {
    const yes: ReadonlyArray<readonly [string, string]> = [
      ["example.com", "EXAMPLE.com"],
      ["*.example.com", "foo.example.com"],
      ["*.example.com", "example.com"],
      ["*.Example.com", "example.COM"],
      ["**.example.com", "a.b.example.com"],
      ["**.example.com", "a.example.com"],
      ["**.example.com", "example.com"],
      ["app.**.example.com", "app.bar.foo.example.com"],
      ["app.**.web.**.example.com", "app.web.example.com"],
      ["app.f??.example.com", "app.foo.example.com"],
      ["**", "anything.at.all"],
      ["example.**", "example.com.au"],
      ["*ample.com", "example.com"]
    ]
    for (const [pattern, name] of yes) assert.isTrue(matches(pattern, name), `${pattern} ${name}`)
    const no: ReadonlyArray<readonly [string, string]> = [
      ["*.example.com", "a.b.example.com"],
      ["app?com", "app.com"],
      ["example.**", "example"],
      ["example.com", "notexample.com"],
      ["example.com", "exampleXcom"],
      ["*.example.com", "fooexample.com"],
      ["**.example.com", "fooexample.com"]
    ]
    for (const [pattern, name] of no) assert.isFalse(matches(pattern, name), `${pattern} ${name}`)
  })
  it("refuse what is no pattern", () => {
    for (const bad of ["", "a**.com", "***.com", "[a-z].com", "a b", "x".repeat(300)]) {
      assert.isUndefined(parseDomainPattern(bad), bad)
    }
  })
  it("order by specificity (tunnel spec 21.4)", () => {
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
    assert.deepStrictEqual([...ordered].reverse().sort(compareSpecificity), ordered)
  })
  it.prop("specificity is a total order", [
    FastCheck.array(FastCheck.stringMatching(/^[ab*?.]{1,8}$/), { minLength: 3, maxLength: 3 })
  ], ([[a = "", b = "", c = ""]]) => {
    assert.strictEqual(Math.sign(compareSpecificity(a, b)), -Math.sign(compareSpecificity(b, a)) + 0)
    if (compareSpecificity(a, b) <= 0 && compareSpecificity(b, c) <= 0) assert.isAtMost(compareSpecificity(a, c), 0)
    assert.strictEqual(compareSpecificity(a, b) === 0, a === b)
  })
  it.prop("any text parses or not, and matching returns quickly", [
    FastCheck.string({ maxLength: 255 }),
    FastCheck.string({ maxLength: 300 })
  ], ([pattern, name]) => {
    parseDomainPattern(pattern)?.matches(name)
  })
  it("a hostile pattern does not make matching slow", () => {
    const pattern = `${"a*".repeat(60)}.${"**.a.".repeat(20)}com`
    const name = `${"a".repeat(60)}.${"a.".repeat(60)}net`
    const began = performance.now()
    matches(pattern, name)
    assert.isBelow(performance.now() - began, 5000)
  })
})
