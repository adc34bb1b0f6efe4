import * as fc from "fast-check"
import { describe, expect, it } from "vitest"
import type { Filter } from "../../../src/protocol/portal/types.ts"
import { PortFilter } from "../../../src/protocol/tunnel/PortFilter.ts"
import { type PrefixEntry, PrefixTable } from "../../../src/protocol/tunnel/PrefixTable.ts"
import {
  familyOf,
  ip,
  type IpAddress,
  ipFromBytes,
  type IpNetwork,
  networkContains
} from "../../../src/protocol/wire/address.ts"
import { PacketKind } from "../../../src/protocol/wire/ip.ts"
import { wordsOf } from "../../../src/protocol/wire/ipWords.ts"
import { network, tcpPort } from "./fixtures.ts"

const entry = (id: string, filters: ReadonlyArray<Filter> = []): PrefixEntry => ({
  id,
  filter: new PortFilter(filters)
})

const find = (table: PrefixTable<PrefixEntry>, to: string, port = 443): string | undefined =>
  table.find(familyOf(ip(to)), wordsOf(ip(to)), PacketKind.Tcp, port)?.id

describe("PrefixTable", () => {
  it("prefers the entry that permits, then the longer prefix, then the larger id (R5)", () => {
    const table = new PrefixTable<PrefixEntry>()
    table.add(network("10.0.0.0/8"), entry("wide"))
    table.add(network("10.1.0.0/16"), entry("narrow-a", [tcpPort(443)]))
    table.add(network("10.1.0.0/16"), entry("narrow-b", [tcpPort(443)]))
    expect(find(table, "10.1.2.3")).toBe("narrow-b")
    expect(find(table, "10.1.2.3", 80)).toBe("wide")
    expect(find(table, "10.2.2.3")).toBe("wide")
    expect(find(table, "11.0.0.1")).toBeUndefined()
  })
  it("returns the best one that denies, if none permits", () => {
    const table = new PrefixTable<PrefixEntry>()
    table.add(network("10.0.0.0/8"), entry("z", [tcpPort(1)]))
    table.add(network("10.1.0.0/16"), entry("a", [tcpPort(1)]))
    table.add(network("10.1.0.0/16"), entry("b", [tcpPort(1)]))
    expect(find(table, "10.1.2.3")).toBe("b")
  })
  it("never confuses the families, not even for the default route", () => {
    const table = new PrefixTable<PrefixEntry>()
    table.add(network("0.0.0.0/0"), entry("four"))
    expect(find(table, "::")).toBeUndefined()
    expect(find(table, "2001:db8::1")).toBeUndefined()
    table.add(network("::/0"), entry("six"))
    expect(find(table, "2001:db8::1")).toBe("six")
    expect(find(table, "192.0.2.1")).toBe("four")
  })
  it("ignores prefixes that no address has, and cuts off host bits", () => {
    const table = new PrefixTable<PrefixEntry>()
    table.add({ address: ip("10.0.0.0"), bits: 33 }, entry("a"))
    table.add({ address: ip("::"), bits: 129 }, entry("b"))
    table.add({ address: ip("10.0.0.0"), bits: -1 }, entry("c"))
    expect(table.isEmpty).toBe(true)
    table.add({ address: ip("10.1.2.3"), bits: 8 }, entry("d"))
    expect(find(table, "10.200.0.1")).toBe("d")
  })
  it("holds an entry once however often it is added", () => {
    const table = new PrefixTable<PrefixEntry>()
    const one = entry("one")
    table.add(network("10.0.0.0/8"), one)
    table.add(network("10.0.0.0/8"), one)
    table.removeWhere((each) => each === one)
    expect(table.isEmpty).toBe(true)
  })

  // Few distinct words, so that networks overlap, nest, repeat, and hash alike (1 in the third word is 31 in the fourth).
  const word = fc.constantFrom(0, 1, 31, 32, 0x8000_0000)
  const address: fc.Arbitrary<IpAddress> = fc.oneof(
    word.map((value) => ipFromBytes(bytesOf([value]), 0, 4)),
    fc.tuple(fc.constant(0x2001_0db8), word, word, word).map((words) => ipFromBytes(bytesOf(words), 0, 6))
  )
  const prefix: fc.Arbitrary<IpNetwork> = address.chain((of) =>
    (familyOf(of) === 4 ? fc.constantFrom(0, 1, 8, 31, 32) : fc.constantFrom(0, 32, 64, 96, 97, 127, 128))
      .map((bits) => masked(of, bits))
  )
  const filters = fc.constantFrom<ReadonlyArray<Filter>>([], [tcpPort(443)], [tcpPort(80)])
  const step = fc.oneof(
    { weight: 4, arbitrary: fc.record({ network: prefix, id: fc.constantFrom("a", "b", "c", "d"), filters }) },
    { weight: 1, arbitrary: fc.constantFrom("a", "b", "c", "d") }
  )

  it("finds what a search of everything finds", () => {
    fc.assert(fc.property(fc.array(step, { maxLength: 40 }), fc.array(address, { minLength: 1 }), (steps, probes) => {
      const table = new PrefixTable<PrefixEntry>()
      let model: ReadonlyArray<{ readonly network: IpNetwork; readonly entry: PrefixEntry }> = []
      for (const each of steps) {
        if (typeof each === "string") {
          table.removeWhere(({ id }) => id === each)
          model = model.filter(({ entry }) => entry.id !== each)
        } else {
          const added = entry(each.id, each.filters)
          table.add(each.network, added)
          model = [...model, { network: each.network, entry: added }]
        }
      }
      expect(table.isEmpty).toBe(model.length === 0)
      for (const to of probes) {
        const version = familyOf(to)
        const matches = model.filter(({ network }) => networkContains(network, to))
        expect(table.covers(version, wordsOf(to))).toBe(matches.length > 0)
        const rank = (candidate: (typeof matches)[number]) =>
          [
            Number(candidate.entry.filter.permits(PacketKind.Tcp, 443)),
            candidate.network.bits,
            candidate.entry.id.charCodeAt(0)
          ] as const
        const best = matches.map(rank).sort((x, y) => y[0] - x[0] || y[1] - x[1] || y[2] - x[2])[0]
        const found = table.find(version, wordsOf(to), PacketKind.Tcp, 443)
        expect(found === undefined ? undefined : [Number(found.filter.permits(PacketKind.Tcp, 443)), found.id]).toEqual(
          best === undefined ? undefined : [best[0], String.fromCharCode(best[2])]
        )
      }
    }))
  })
})

const bytesOf = (words: ReadonlyArray<number>): Uint8Array => {
  const view = new DataView(new ArrayBuffer(words.length * 4))
  for (const [i, value] of words.entries()) view.setUint32(i * 4, value)
  return new Uint8Array(view.buffer)
}

const masked = (address: IpAddress, bits: number): IpNetwork => {
  const words = wordsOf(address)
  const count = familyOf(address) === 4 ? 1 : 4
  const kept = Array.from({ length: count }, (_, i) => {
    const left = Math.min(32, Math.max(0, bits - i * 32))
    return ((words[i] as number) >>> 0) - ((words[i] as number) >>> 0) % 2 ** (32 - left)
  })
  return { address: ipFromBytes(bytesOf(kept), 0, familyOf(address)), bits }
}
