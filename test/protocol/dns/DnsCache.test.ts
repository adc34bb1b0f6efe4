/** The cache (tunnel spec 12.8), filled with messages that a codec of others made. */
import * as packet from "dns-packet"
import * as fc from "fast-check"
import { describe, expect, it } from "vitest"
import { DnsCache } from "../../../src/protocol/dns/DnsCache.ts"
import type { DnsQuery } from "../../../src/protocol/dns/DnsQuery.ts"
import { decodeDns } from "../../../src/protocol/wire/dns.ts"
import { decode, query, records } from "./queries.ts"

const a = (name: string, data: string, ttl = 30) => ({ type: "A" as const, name, ttl, data })
const cname = (name: string, data: string, ttl = 30) => ({ type: "CNAME" as const, name, ttl, data })

const response = (
  asked: DnsQuery,
  answers: ReadonlyArray<packet.Answer>,
  more: Partial<packet.Packet> = {}
) => {
  const bytes = packet.encode({
    type: "response",
    id: asked.id,
    flags: packet.RECURSION_DESIRED,
    questions: decode(asked.bytes).questions ?? [],
    answers: [...answers],
    ...more
  })
  const message = decodeDns(Uint8Array.from(bytes))
  if (message === undefined) throw new Error("no message")
  return message
}

const fill = (cache: DnsCache, asked: DnsQuery, answers: ReadonlyArray<packet.Answer>, more = {}, now = 0): void =>
  cache.insert(asked, response(asked, answers, more), now)

describe("DnsCache", () => {
  it("answers with the records it was given, their lifetimes reduced, in the form of local answers", () => {
    const cache = new DnsCache()
    fill(cache, query("www.Example.com"), [cname("www.Example.com", "cdn.test", 3), a("cdn.test", "192.0.2.1", 300)])
    const asked = query("WWW.example.COM", "A", { id: 7 })
    expect(records(cache.answer(asked, 12_999))).toEqual([
      "www.Example.com 0 CNAME cdn.test",
      "cdn.test 288 A 192.0.2.1"
    ])
    expect(decode(cache.answer(asked, 0))).toMatchObject({
      id: 7,
      flag_qr: true,
      flag_aa: false,
      flag_ra: false,
      questions: [{ name: "WWW.example.COM" }],
      authorities: [],
      additionals: []
    })
  })
  it("keeps an answer as long as the shortest of the records that were asked for lives, 5 s at least", () => {
    const cache = new DnsCache()
    fill(cache, query("a.test"), [a("a.test", "192.0.2.1", 5), a("a.test", "192.0.2.2", 60)])
    expect(cache.answer(query("a.test"), 4999)).toBeDefined()
    expect(cache.answer(query("a.test"), 5000)).toBeUndefined()
    expect(cache.size).toBe(0)
    for (const ttl of [0, 1, 4, 0x8000_0000]) fill(cache, query("b.test"), [a("b.test", "192.0.2.1", ttl)])
    expect(cache.size).toBe(0)
  })
  it("keeps nothing but positive, whole answers to the question", () => {
    const cache = new DnsCache()
    const asked = query("a.test")
    fill(cache, asked, [])
    fill(cache, asked, [cname("a.test", "b.test", 300)])
    fill(cache, asked, [a("a.test", "192.0.2.1")], { flags: 3 }) // NXDOMAIN
    fill(cache, asked, [a("a.test", "192.0.2.1")], { flags: packet.TRUNCATED_RESPONSE })
    fill(cache, query("a.test", "ANY"), [a("a.test", "192.0.2.1")])
    fill(cache, query("a.test", "A", { questions: [{ type: "A", name: "a.test", class: "CH" }] }), [
      a("a.test", "192.0.2.1")
    ])
    expect(cache.size).toBe(0)
    expect([cache.answer(asked, 0), cache.answer(query("a.test", "AAAA"), 0)]).toEqual([undefined, undefined])
  })
  it("leaves those alone who check signatures, or want them unchecked", () => {
    const opt = (flag_do: boolean) => ({
      additionals: [{
        type: "OPT" as const,
        name: "." as const,
        udpPayloadSize: 1232,
        extendedRcode: 0,
        ednsVersion: 0,
        flags: flag_do ? packet.DNSSEC_OK : 0,
        flag_do,
        options: []
      }]
    })
    const cache = new DnsCache()
    fill(cache, query("a.test"), [a("a.test", "192.0.2.1")])
    expect(cache.answer(query("a.test", "A", opt(false)), 0)).toBeDefined()
    const special = [query("a.test", "A", opt(true)), query("a.test", "A", { flags: packet.CHECKING_DISABLED })]
    for (const asked of special) expect(cache.answer(asked, 0)).toBeUndefined()
    const empty = new DnsCache()
    for (const asked of special) fill(empty, asked, [a("a.test", "192.0.2.1")])
    expect(empty.size).toBe(0)
  })
  it("forgets everything when told, and counts that", () => {
    const cache = new DnsCache()
    fill(cache, query("a.test"), [a("a.test", "192.0.2.1")])
    expect(cache.generation).toBe(0)
    cache.clear()
    expect([cache.size, cache.generation, cache.answer(query("a.test"), 0)]).toEqual([0, 1, undefined])
  })
  it("stays bounded in entries and bytes, the least recently used out", () => {
    const cache = new DnsCache()
    for (let i = 0; i < 5000; i++) {
      fill(cache, query(`n${i}.test`), [a(`n${i}.test`, "192.0.2.1", 300)])
      cache.answer(query("n0.test"), 0)
    }
    expect(cache.size).toBe(4096)
    expect(cache.answer(query("n0.test"), 0)).toBeDefined()
    expect(cache.answer(query("n1.test"), 0)).toBeUndefined()
    const large = new DnsCache()
    const text = "x".repeat(250)
    for (let i = 0; i < 200; i++) {
      const name = `large${i}.test`
      fill(large, query(name, "TXT"), [{
        type: "TXT",
        name,
        ttl: 300,
        data: Array.from({ length: 200 }, () => text)
      }])
    }
    expect(large.size).toBeLessThanOrEqual(Math.floor((4 << 20) / (200 * 251)))
    expect(large.size).toBeGreaterThan(70)
  })
  it("reduces every record's lifetime by its age in whole seconds, and never below zero", () => {
    const ttl = fc.integer({ min: 5, max: 100_000 })
    fc.assert(
      fc.property(fc.array(ttl, { minLength: 1, maxLength: 5 }), fc.nat(5000), fc.nat(1000), (ttls, age, extra) => {
        const cache = new DnsCache()
        const asked = query("a.test")
        // The chain's records do not decide on the whole answer's lifetime, and may be over before it.
        fill(cache, asked, [
          cname("a.test", "b.test", extra),
          ...ttls.map((ttl, i) => a("b.test", `192.0.2.${i}`, ttl))
        ])
        const found = cache.answer(asked, age)
        const left = [extra, ...ttls].map((ttl) => Math.max(0, ttl - Math.floor(age / 1000)))
        const isAlive = age < Math.min(...ttls) * 1000
        expect(found === undefined).toBe(!isAlive)
        const kept = found === undefined ? [] : decode(found).answers ?? []
        expect(kept.map((record) => (record as packet.StringAnswer).ttl)).toEqual(isAlive ? left : [])
      })
    )
  })
})
