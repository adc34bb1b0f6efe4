/** Names of dynamic device pools (tunnel spec 12.7). */
import { describe, expect, it } from "vitest"
import { DeviceResolver } from "../../../src/protocol/dns/DeviceResolver.ts"
import { ip } from "../../../src/protocol/wire/address.ts"
import { codeOf, query, records } from "./queries.ts"

const device = { ipv4: ip("100.64.0.7"), ipv6: ip("fd00:2021:1111::7") }

const make = (...pools: ReadonlyArray<readonly [id: string, pattern: string]>) => {
  const resolver = new DeviceResolver<string>()
  for (const [id, pattern] of pools) resolver.add(id, pattern)
  return resolver
}
/** What it wants done since: `ask POOL NAME`, or `ASKER CODE RECORDS`. */
const events = (resolver: DeviceResolver<string>): ReadonlyArray<string> => {
  const found: Array<string> = []
  for (let event = resolver.pollEvent(); event !== undefined; event = resolver.pollEvent()) {
    found.push(
      event._tag === "AskPortal"
        ? `ask ${event.resourceId} ${event.domain}`
        : [event.asker, codeOf(event.message), ...records(event.message)].join(" ")
    )
  }
  return found
}

describe("DeviceResolver", () => {
  it("asks the portal, answers with one record, and remembers", () => {
    const resolver = make(["1", "*.laptops.test"])
    expect(resolver.resolve(query("Ann.laptops.test"), "x", 0)).toBe(true)
    expect(events(resolver)).toEqual(["ask 1 Ann.laptops.test"])
    resolver.resolved("1", "ann.laptops.test", device)
    expect(events(resolver)).toEqual(["x NOERROR Ann.laptops.test 1 A 100.64.0.7"])
    resolver.resolve(query("ann.laptops.test", "AAAA"), "y", 9_000_000)
    expect(events(resolver)).toEqual([`y NOERROR ann.laptops.test 1 AAAA ${device.ipv6}`])
    expect(resolver.pollTimeout()).toBeUndefined()
  })
  it("answers everyone who waits, and asks the portal once", () => {
    const resolver = make(["1", "*.laptops.test"])
    for (const [asker, type] of [["x", "A"], ["y", "A"], ["z", "AAAA"]] as const) {
      resolver.resolve(query("ann.laptops.test", type), asker, 0)
    }
    expect(events(resolver)).toEqual(["ask 1 ann.laptops.test"])
    resolver.resolved("1", "ann.laptops.test", device)
    expect(events(resolver).map((text) => text.split(" ")[0])).toEqual(["x", "y", "z"])
  })
  it("has nothing else for such a name", () => {
    const resolver = make(["1", "*.laptops.test"])
    for (const type of ["TXT", "HTTPS", "MX"]) {
      expect(resolver.resolve(query("ann.laptops.test", type), type, 0)).toBe(true)
    }
    expect(events(resolver)).toEqual(["TXT NOERROR", "HTTPS NOERROR", "MX NOERROR"])
  })
  it("lets other names, classes and empty lists pass", () => {
    expect(make().resolve(query("ann.laptops.test"), "x", 0)).toBe(false)
    const resolver = make(["1", "*.laptops.test"], ["2", "not**a.pattern"])
    const chaos = query("ann.laptops.test", "A", { questions: [{ type: "A", name: "ann.laptops.test", class: "CH" }] })
    for (const asked of [query("laptop.test"), query("a.b.laptops.test"), chaos]) {
      expect(resolver.resolve(asked, "x", 0)).toBe(false)
    }
  })
  it("says what the portal says: no such name, or a failure", () => {
    const resolver = make(["1", "*.laptops.test"])
    for (const [reason, code] of [["not_found", "NXDOMAIN"], ["forbidden", "SERVFAIL"]] as const) {
      resolver.resolve(query("ann.laptops.test"), "x", 0)
      events(resolver)
      resolver.failed("1", "ANN.laptops.test", reason, 0)
      expect(events(resolver)).toEqual([`x ${code}`])
    }
  })
  it("waits 5 s for the portal, and asks it again afterwards although somebody still waits", () => {
    const resolver = make(["1", "*.laptops.test"])
    resolver.resolve(query("ann.laptops.test"), "x", 0)
    resolver.resolve(query("ann.laptops.test"), "y", 3000)
    expect(events(resolver)).toEqual(["ask 1 ann.laptops.test"])
    expect(resolver.pollTimeout()).toBe(5000)
    resolver.handleTimeout(4999)
    expect(events(resolver)).toEqual([])
    resolver.handleTimeout(5000)
    expect(events(resolver)).toEqual(["x SERVFAIL"])
    resolver.resolve(query("ann.laptops.test"), "z", 6000)
    expect(events(resolver)).toEqual(["ask 1 ann.laptops.test"])
    resolver.resolved("1", "ann.laptops.test", device)
    expect(events(resolver)).toHaveLength(2)
  })
  it("asks the pool with the smallest id", () => {
    const resolver = make(["3", "*.test"], ["2", "**.test"])
    resolver.resolve(query("ann.test"), "x", 0)
    expect(events(resolver)).toEqual(["ask 2 ann.test"])
  })
  it("forgets a pool with its names and fails who waits; the same pool again changes nothing", () => {
    const resolver = make(["1", "*.laptops.test"])
    resolver.resolve(query("ann.laptops.test"), "x", 0)
    resolver.resolved("1", "ann.laptops.test", device)
    resolver.add("1", "*.laptops.test")
    resolver.resolve(query("bob.laptops.test"), "y", 0)
    events(resolver)
    resolver.add("1", "?nn.laptops.test")
    expect(events(resolver)).toEqual(["y SERVFAIL"])
    resolver.resolve(query("ann.laptops.test"), "z", 0)
    expect(events(resolver)).toEqual(["ask 1 ann.laptops.test"])
    resolver.remove("1")
    expect(events(resolver)).toEqual(["z SERVFAIL"])
    expect(resolver.resolve(query("ann.laptops.test"), "x", 0)).toBe(false)
  })
  it("ignores results that nobody waits for", () => {
    const resolver = make(["1", "*.laptops.test"])
    resolver.resolved("1", "ann.laptops.test", device)
    resolver.resolved("9", "ann.laptops.test", device)
    resolver.failed("1", "ann.laptops.test", "not_found", 0)
    resolver.resolve(query("ann.laptops.test"), "x", 0)
    expect(events(resolver)).toEqual(["ask 1 ann.laptops.test"])
  })
  it("stays bounded: who is too much fails at once", () => {
    const resolver = make(["1", "*.laptops.test"])
    for (let i = 0; i < 1001; i++) resolver.resolve(query(`n${i}.laptops.test`), `${i}`, 0)
    expect(events(resolver).at(-1)).toBe("1000 SERVFAIL")
  })
})
