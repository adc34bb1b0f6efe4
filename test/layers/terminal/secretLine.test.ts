import { assert, describe, it } from "vitest"
import { typed } from "../../../src/layers/terminal/secretLine.ts"

describe("typed", () => {
  it("collects until Enter, over several reads", () => {
    assert.deepStrictEqual(typed("", "ab"), { _tag: "More", text: "ab" })
    assert.deepStrictEqual(typed("ab", "c\rrest"), { _tag: "Done", text: "abc" })
    assert.deepStrictEqual(typed("ab", "\n"), { _tag: "Done", text: "ab" })
  })
  it("erases, kills, ends and gives up as a terminal does", () => {
    assert.deepStrictEqual(typed("ab", "\x7f\bc"), { _tag: "More", text: "c" })
    assert.deepStrictEqual(typed("", "\x7f"), { _tag: "More", text: "" })
    assert.deepStrictEqual(typed("ab", "c\x15d\r"), { _tag: "Done", text: "d" })
    assert.deepStrictEqual(typed("ab", "\x03"), { _tag: "GaveUp" })
    assert.deepStrictEqual(typed("", "\x04"), { _tag: "GaveUp" })
    assert.deepStrictEqual(typed("ab", "\x04"), { _tag: "Done", text: "ab" })
  })
  it("has a limit", () => {
    const { text } = typed("", "x".repeat(100_000)) as { text: string }
    assert.lengthOf(text, 65_536)
  })
})
