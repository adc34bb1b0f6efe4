/** The stub resolver of DNS resources (tunnel spec 12.6). */
import * as fc from "fast-check"
import { describe, expect, it } from "vitest"
import { type Resolution, ResourceResolver } from "../../../src/protocol/dns/ResourceResolver.ts"
import { clientRanges } from "../../../src/protocol/tunnel/clientRanges.ts"
import { ip } from "../../../src/protocol/wire/address.ts"
import { wordsOf } from "../../../src/protocol/wire/ipWords.ts"
import { codeOf, decode, query, records } from "./queries.ts"

const numbers = clientRanges(0).names

type Stack = "dual" | "ipv4_only" | "ipv6_only"

const resolverOf = (...patterns: ReadonlyArray<readonly [id: string, pattern: string, stack?: Stack]>) => {
  const resolver = new ResourceResolver<string>(numbers)
  for (const [id, pattern, stack = "dual"] of patterns) resolver.add(id, pattern, stack, `target ${id}`)
  return resolver
}
const message = (resolution: Resolution<string> | undefined): Uint8Array => {
  if (resolution?._tag !== "Answer") throw new Error(`${resolution?._tag ?? "nothing"} is no answer`)
  return resolution.message
}
const recordAt = (resolver: ResourceResolver<string>, address: string) =>
  resolver.recordAt(address.includes(":") ? 6 : 4, wordsOf(ip(address)))
const targetsOf = (resolver: ResourceResolver<string>, name: string) =>
  resolver.recordOf(name)?.assignments.map(({ target }) => target)

describe("a name that a pattern matches", () => {
  it("has four addresses of each family that stay", () => {
    const resolver = resolverOf(["1", "*.corp.test"])
    const first = message(resolver.resolve(query("a.corp.test")))
    expect(records(first)).toEqual([1, 2, 3, 4].map((i) => `a.corp.test 1 A 100.96.0.${i}`))
    expect(records(message(resolver.resolve(query("b.corp.test"))))[0]).toBe("b.corp.test 1 A 100.96.0.5")
    expect(message(resolver.resolve(query("a.corp.test")))).toEqual(first)
    expect(records(message(resolver.resolve(query("A.Corp.test", "AAAA"))))).toEqual(
      [
        ip("fd00:2021:1111:8000::"),
        ip("fd00:2021:1111:8000::1"),
        ip("fd00:2021:1111:8000::2"),
        ip("fd00:2021:1111:8000::3")
      ]
        .map((address) => `A.Corp.test 1 AAAA ${address}`)
    )
    expect([recordAt(resolver, "100.96.0.4")?.name, recordAt(resolver, "fd00:2021:1111:8000::4")?.name]).toEqual([
      "a.corp.test",
      "b.corp.test"
    ])
    expect(recordAt(resolver, "100.96.0.9")).toBeUndefined()
    expect(resolver.size).toBe(2)
  })
  it("copies id, flags and question of the query, and nothing else", () => {
    const resolver = resolverOf(["1", "*.corp.test"])
    const asked = query("MiXed.corp.test", "A", {
      id: 0xbeef,
      flags: 0x0130,
      additionals: [{
        type: "OPT",
        name: ".",
        udpPayloadSize: 4096,
        extendedRcode: 0,
        ednsVersion: 0,
        flags: 0,
        flag_do: false,
        options: []
      }]
    })
    expect(decode(message(resolver.resolve(asked)))).toMatchObject({
      id: 0xbeef,
      opcode: "QUERY",
      flag_qr: true,
      flag_aa: false,
      flag_tc: false,
      flag_rd: true,
      flag_ra: false,
      flag_ad: false,
      flag_cd: false,
      questions: [{ name: "MiXed.corp.test", type: "A", class: "IN" }],
      authorities: [],
      additionals: []
    })
  })
  it.each(
    [
      ["ipv4_only", 4, 0],
      ["ipv6_only", 0, 4],
      ["dual", 4, 4]
    ] as const
  )("of a resource that is %s has %i and %i addresses", (stack, a, aaaa) => {
    const resolver = resolverOf(["1", "*.corp.test", stack])
    const counts = ["A", "AAAA"].map((type) => {
      const answer = message(resolver.resolve(query("a.corp.test", type)))
      expect(codeOf(answer)).toBe("NOERROR")
      return records(answer).length
    })
    expect(counts).toEqual([a, aaaa])
  })
  it("serves a family that any of its resources serves", () => {
    const resolver = resolverOf(["1", "*.corp.test", "ipv4_only"], ["2", "**.test", "ipv6_only"])
    for (const type of ["A", "AAAA"]) {
      expect(records(message(resolver.resolve(query("a.corp.test", type))))).toHaveLength(4)
    }
    expect(targetsOf(resolver, "a.corp.test")).toEqual(["target 1", "target 2"])
  })
  it("has no HTTPS record, so that its addresses are asked for", () => {
    const resolver = resolverOf(["1", "*.corp.test"])
    const answer = message(resolver.resolve(query("a.corp.test", "HTTPS")))
    expect([codeOf(answer), records(answer)]).toEqual(["NOERROR", []])
    expect(resolver.size).toBe(0)
  })
  it.each(["SRV", "TXT"])("is looked up in the site of its best resource for %s", (type) => {
    const resolver = resolverOf(["9", "**.test"], ["1", "*.corp.test"], ["2", "*.corp.test"])
    expect(resolver.resolve(query("_sip._tcp.corp.test", type))).toEqual({ _tag: "AskSite", target: "target 9" })
    expect(resolver.resolve(query("a.corp.test", type))).toEqual({ _tag: "AskSite", target: "target 2" })
  })
  it.each(["MX", "NS", "SOA", "CNAME", "CAA"])("is the upstream's affair for %s", (type) => {
    expect(resolverOf(["1", "*.corp.test"]).resolve(query("a.corp.test", type))).toBeUndefined()
  })
  it("is the upstream's affair in other classes and other kinds of queries", () => {
    const resolver = resolverOf(["1", "**"])
    expect(resolver.resolve(query("a.test", "A", { questions: [{ type: "A", name: "a.test", class: "CH" }] })))
      .toBeUndefined()
    expect(resolver.resolve(query("a.test", "A", { flags: 0x2000 }))).toBeUndefined() // NOTIFY
  })
})

describe("any names", () => {
  const label = fc.stringMatching(/^[a-zA-Z0-9_-]{1,12}$/)
  const names = fc.array(fc.array(label, { minLength: 1, maxLength: 5 }).map((labels) => labels.join(".")), {
    minLength: 1,
    maxLength: 12
  })
  it("get addresses that are theirs alone, whatever the order, the case and the type of the queries", () => {
    fc.assert(fc.property(names, (names) => {
      const resolver = resolverOf(["1", "**"])
      const owners = new Map<string, string>()
      for (const name of [...names, ...names.toReversed().map((name) => name.toUpperCase())]) {
        for (const type of ["AAAA", "A"]) {
          const found = records(message(resolver.resolve(query(name, type))))
          expect(found).toHaveLength(4)
          for (const record of found) {
            const [owner, ttl, , address] = record.split(" ")
            expect([owner, ttl]).toEqual([name, "1"])
            expect(owners.get(address as string) ?? name.toLowerCase()).toBe(name.toLowerCase())
            owners.set(address as string, name.toLowerCase())
            expect(recordAt(resolver, address as string)?.name.toLowerCase()).toBe(name.toLowerCase())
          }
        }
      }
      const distinct = new Set(names.map((name) => name.toLowerCase())).size
      expect([resolver.size, owners.size]).toEqual([distinct, distinct * 8])
      const restored = new ResourceResolver<string>(numbers, resolver.save())
      restored.add("1", "**", "dual", "again")
      for (const name of names) {
        expect(message(restored.resolve(query(name)))).toEqual(message(resolver.resolve(query(name))))
      }
    }))
  })
})

describe("other names", () => {
  it("are the upstream's affair", () => {
    const resolver = resolverOf(["1", "*.corp.test"])
    for (const name of ["a.b.corp.test", "example.com", "corptest", "."]) {
      for (const type of ["A", "AAAA", "HTTPS", "SRV", "TXT", "PTR"]) {
        expect([name, type, resolver.resolve(query(name, type))]).toEqual([name, type, undefined])
      }
    }
    expect(resolver.size).toBe(0)
  })
  it.each(["A", "AAAA", "TXT", "NS"])(
    "keep browsers from taking over: the canary does not exist, asked for %s",
    (type) => {
      for (const resolver of [resolverOf(), resolverOf(["1", "**"])]) {
        expect(codeOf(message(resolver.resolve(query("use-Application-dns.net", type))))).toBe("NXDOMAIN")
      }
    }
  )
})

describe("an address of a name", () => {
  it("leads back to it, whether there is a resource or not", () => {
    const resolver = resolverOf(["1", "*.corp.test"])
    resolver.resolve(query("Wiki.corp.test"))
    resolver.remove("1")
    for (
      const name of [
        "1.0.96.100.in-addr.arpa",
        "4.0.96.100.IN-ADDR.ARPA",
        "3.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.1.1.1.1.1.2.0.2.0.0.d.f.ip6.arpa"
      ]
    ) {
      expect(records(message(resolver.resolve(query(name, "PTR"))))).toEqual([`${name} 1 PTR Wiki.corp.test`])
    }
    for (const name of ["5.0.96.100.in-addr.arpa", "1.111.100.100.in-addr.arpa", "1.2.3.4.in-addr.arpa", "x.arpa"]) {
      expect([name, resolver.resolve(query(name, "PTR"))]).toEqual([name, undefined])
    }
  })
})

describe("resources come and go", () => {
  it("and a name keeps its addresses and gets the resource back that has its pattern", () => {
    const resolver = resolverOf(["1", "*.corp.test"])
    const first = message(resolver.resolve(query("a.corp.test")))
    resolver.remove("1")
    expect(resolver.resolve(query("a.corp.test"))).toBeUndefined()
    expect(targetsOf(resolver, "a.corp.test")).toEqual([undefined])
    resolver.add("1", "*.corp.test", "dual", "again")
    expect(targetsOf(resolver, "a.corp.test")).toEqual(["again"]) // without a query
    expect(message(resolver.resolve(query("a.corp.test")))).toEqual(first)
  })
  it("and a name is not of a resource whose pattern has changed, until it matches again", () => {
    const resolver = resolverOf(["1", "*.corp.test"])
    resolver.resolve(query("a.corp.test"))
    resolver.add("1", "*.other.test", "dual", "moved")
    expect(resolver.resolve(query("a.corp.test"))).toBeUndefined()
    expect(targetsOf(resolver, "a.corp.test")).toEqual([undefined])
    resolver.add("1", "**.test", "dual", "back")
    resolver.resolve(query("a.corp.test"))
    expect(targetsOf(resolver, "a.corp.test")).toEqual(["back"])
  })
  it("and a pattern that is none matches nothing", () => {
    const resolver = resolverOf()
    expect(resolver.add("1", "a**.test", "dual", "x")).toBe(false)
    expect(resolver.resolve(query("ab.test"))).toBeUndefined()
  })
})

describe("the next session", () => {
  it("gives the same addresses to the same names", () => {
    const before = resolverOf(["1", "*.corp.test"], ["2", "**.test"])
    for (const name of ["a.corp.test", "b.test"]) before.resolve(query(name))
    before.add("2", "b.test", "dual", "changed")
    const after = new ResourceResolver<string>(numbers, before.save())
    expect(records(message(after.resolve(query("1.0.96.100.in-addr.arpa", "PTR"))))).toHaveLength(1)
    expect(targetsOf(after, "a.corp.test")).toEqual([undefined]) // of the resource that kept its pattern
    after.add("1", "*.corp.test", "dual", "one")
    expect(targetsOf(after, "a.corp.test")).toEqual(["one"])
    expect(records(message(after.resolve(query("c.corp.test"))))[0]).toBe("c.corp.test 1 A 100.96.0.9")
    expect(after.save().slice(0, 2).map(({ name }) => name)).toEqual(["a.corp.test", "b.test"])
  })
  it("says so when no address is left", () => {
    const saved = Array.from({ length: numbers.count + 1 }, (_, i) => ({ name: `n${i}.test`, assignments: [] }))
    const resolver = new ResourceResolver<string>(numbers, saved)
    resolver.add("1", "**.test", "dual", "x")
    expect(resolver.size).toBe(numbers.count)
    expect(codeOf(message(resolver.resolve(query("one-more.test"))))).toBe("SERVFAIL")
    expect(records(message(resolver.resolve(query("n327614.test"))))[3]).toBe("n327614.test 1 A 100.115.255.252")
    expect(records(message(resolver.resolve(query("252.255.115.100.in-addr.arpa", "PTR"))))[0]).toContain(
      "n327614.test"
    )
  })
})
