import { expect, it } from "vitest"
import { ProxyTable } from "../../../src/protocol/tunnel/ProxyTable.ts"
import { ip, type IpAddress, ipToBytes } from "../../../src/protocol/wire/address.ts"
import { wordsOf } from "../../../src/protocol/wire/ipWords.ts"

const address = (index: number): IpAddress => ip(`100.${96 + (index >> 16)}.${index >> 8 & 0xff}.${index & 0xff}`)

it("has an end, behind which known addresses may still be set anew", () => {
  const table = new ProxyTable()
  const all = Array.from({ length: 131_072 }, (_, index) => address(index))
  expect(table.assign("r", "a.test", all, [])).toBe(true)
  expect(table.assign("r", "b.test", [address(0), ip("100.127.0.0")], [])).toBe(false)
  expect(table.find(4, wordsOf(address(0)))?.domain).toBe("a.test")
  expect(table.assign("r", "a.test", [address(0)], [ip("10.0.0.1")])).toBe(true)
  expect(table.find(4, wordsOf(address(0)))?.real).toEqual(ipToBytes(ip("10.0.0.1")))
  table.clear()
  expect(table.assign("r", "b.test", [address(0)], [])).toBe(true)
  expect(table.of("r").map(({ domain }) => domain)).toEqual(["b.test"])
})
