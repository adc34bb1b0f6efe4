import * as fc from "fast-check"
import { expect, it } from "vitest"
import { familyOf, ip } from "../../../src/protocol/wire/address.ts"
import { AddressMap } from "../../../src/protocol/wire/AddressMap.ts"
import { wordsOf } from "../../../src/protocol/wire/ipWords.ts"

// The last five have one hash, and the last two the same words.
const addresses = ["10.0.0.1", "2001:db8::1", "::1:0:0", "0:0:0:1f::", "0:1f:0:1e::", "0:3c1::", "0.0.3.193"]
const command = fc.record({
  what: fc.constantFrom("set", "set", "delete"),
  address: fc.constantFrom(...addresses),
  value: fc.nat(9)
})

it("is a map by address, also where addresses hash alike", () => {
  fc.assert(
    fc.property(fc.array(command, { maxLength: 30 }), (commands) => {
      const map = new AddressMap<number>()
      const model = new Map<string, number>()
      for (const { address, value, what } of commands) {
        const words = wordsOf(ip(address))
        if (what === "set") {
          map.set(familyOf(ip(address)), words, value)
          model.set(address, value)
        } else {
          map.delete(familyOf(ip(address)), words)
          model.delete(address)
        }
        words.fill(7)
        expect(map.size).toBe(model.size)
        expect([...map.values()].toSorted()).toEqual([...model.values()].toSorted())
        for (const each of addresses) expect(map.get(familyOf(ip(each)), wordsOf(ip(each)))).toBe(model.get(each))
      }
      map.clear()
      expect([map.size, map.get(4, wordsOf(ip("10.0.0.1")))]).toEqual([0, undefined])
    }),
    { numRuns: 200 }
  )
})
