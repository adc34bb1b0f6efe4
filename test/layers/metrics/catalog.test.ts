/** What docs/metrics.md says, against the program. */
import { assert, describe, it } from "@effect/vitest"
import * as fs from "node:fs"
import { catalog } from "../../../src/layers/metrics/catalog.ts"

const text = fs.readFileSync(new URL("../../../docs/metrics.md", import.meta.url), "utf8")
/** The cells of the table under the line that begins with `head`. */
const table = (head: string): ReadonlyArray<ReadonlyArray<string>> => {
  const lines = text.split("\n")
  const from = lines.findIndex((line) => line.startsWith(head)) + 2
  const to = lines.findIndex((line, i) => i >= from && !line.startsWith("|"))
  return lines.slice(from, to).map((line) => line.slice(1, -1).split("|").map((cell) => cell.trim()))
}
const code = (cell: string): ReadonlyArray<string> => Array.from(cell.matchAll(/`([^`]+)`/g), ([, word = ""]) => word)

describe("the description of the metrics", () => {
  it("names each with its type, label and meaning, and no other", () => {
    assert.deepStrictEqual(
      table("| metric | type |").map(([name, type, label, help]) => [name, type, label, help]),
      catalog.map((
        { help, kind, label, name }
      ) => [`\`${name}\``, kind, label === undefined ? "" : `\`${label}\``, help])
    )
  })

  it("names every value of a label that there is from the beginning", () => {
    const described = new Map(
      table("| metric | values |").map(([name = "", values = ""]) => [code(name)[0], code(values)])
    )
    const reasons = table("| reason |").flatMap(([reason = ""]) => code(reason))
    for (const { name, values } of catalog) {
      if (values === undefined) continue
      const found = name === "firezone_dropped_packets_total" ? reasons : described.get(name)
      assert.includeMembers([...found ?? []], [...values], name)
    }
    assert.sameMembers(reasons, [
      ...catalog.find(({ name }) => name === "firezone_dropped_packets_total")?.values ?? []
    ])
  })
})
