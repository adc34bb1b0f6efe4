/** Queries as they come in, answers that are made here, and reverse names. */
import * as packet from "dns-packet"
import * as fc from "fast-check"
import { describe, expect, it } from "vitest"
import { answer, pointerAnswer, serverFailure, truncate } from "../../../src/protocol/dns/answer.ts"
import { isAnswerTo, parseDnsQuery } from "../../../src/protocol/dns/DnsQuery.ts"
import { addressOfReverseName } from "../../../src/protocol/dns/reverseName.ts"
import { decodeDns, isDomainName, RecordType } from "../../../src/protocol/wire/dns.ts"
import { codeOf, decode, encodeQuery, query, records } from "./queries.ts"

const message = (more: Partial<packet.Packet>): Uint8Array =>
  Uint8Array.from(packet.encode({ type: "query", id: 1, questions: [{ type: "A", name: "a.test" }], ...more }))
const question = { type: "A" as const, name: "a.test" }

describe("a query", () => {
  it("is one question, whatever stands behind it", () => {
    expect(parseDnsQuery(encodeQuery("A.test", "AAAA"))).toMatchObject({
      id: 0x1234,
      name: "A.test",
      type: RecordType.AAAA,
      class: 1,
      end: 12 + 8 + 4,
      isOrdinary: true,
      isDnssec: false
    })
    const bytes = encodeQuery("a.test")
    const parsed = parseDnsQuery(bytes)
    bytes.fill(0xff)
    expect(parsed?.bytes).toEqual(encodeQuery("a.test"))
    expect(parseDnsQuery(Uint8Array.of(...encodeQuery("a.test"), 1, 2, 3))).toBeDefined()
    expect(parseDnsQuery(message({ answers: [{ ...question, data: "192.0.2.1" }] }))).toBeDefined()
  })
  it.each([
    ["a response", message({ type: "response" })],
    ["no question", message({ questions: [] })],
    ["two questions", message({ questions: [question, question] })],
    ["a question cut short", encodeQuery("a.test").slice(0, -1)],
    ["a header cut short", encodeQuery("a.test").slice(0, 11)],
    ["answers that are none", message({ answers: [{ ...question, data: "192.0.2.1" }] }).slice(0, -1)],
    ["nothing", new Uint8Array(0)]
  ])("is not %s", (_, bytes) => {
    expect(parseDnsQuery(bytes)).toBeUndefined()
  })
  it("is read from any bytes without an end", () => {
    fc.assert(fc.property(fc.uint8Array({ maxLength: 300 }), (bytes) => {
      const parsed = parseDnsQuery(bytes)
      if (parsed === undefined) return
      expect(isDomainName(parsed.name)).toBe(true)
      for (const reply of [serverFailure(parsed), truncate(parsed, new Uint8Array(2000), 1212)]) {
        expect(decodeDns(reply)?.questions).toEqual([{ name: parsed.name, type: parsed.type, class: parsed.class }])
      }
    }))
  })
})

describe("an answer to it", () => {
  const asked = query("A.test")
  const reply = (more: Partial<packet.Packet> = {}) => {
    const parsed = decodeDns(message({ type: "response", id: 0x1234, ...more }))
    if (parsed === undefined) throw new Error("no message")
    return isAnswerTo(parsed, asked)
  }
  it("has its id and its question, in any case", () => {
    expect(reply()).toBe(true)
    expect(reply({ id: 0x1235 })).toBe(false)
    expect(reply({ type: "query" })).toBe(false)
    expect(reply({ questions: [{ type: "AAAA", name: "a.test" }] })).toBe(false)
    expect(reply({ questions: [{ type: "A", name: "b.test" }] })).toBe(false)
    expect(reply({ questions: [{ type: "A", name: "a.test", class: "CH" }] })).toBe(false)
    expect(reply({ questions: [question, question] })).toBe(false)
  })
  it("may leave the question out when it is an error", () => {
    expect(reply({ questions: [], flags: 1 })).toBe(true)
    expect(reply({ questions: [] })).toBe(false)
  })
})

describe("answers that are made here", () => {
  it("fail with the question", () => {
    const failure = serverFailure(query("a.test", "A", { flags: packet.RECURSION_DESIRED | packet.CHECKING_DISABLED }))
    expect(decode(failure)).toMatchObject({
      id: 0x1234,
      flag_rd: true,
      flag_cd: false,
      questions: [{ name: "a.test" }]
    })
    expect(codeOf(failure)).toBe("SERVFAIL")
  })
  it("name a name of any bytes", () => {
    const reply = pointerAnswer(query("1.0.96.100.in-addr.arpa", "PTR"), "a\\.b.test")
    expect(records(reply)).toEqual(["1.0.96.100.in-addr.arpa 1 PTR a.b.test"])
  })
  it("carry records as they are", () => {
    expect(decode(answer(query("a.test"), 5))).toMatchObject({ answers: [] })
    expect(answer(query("a.test"), 0, 258, Uint8Array.of(9)).subarray(6, 8)).toEqual(Uint8Array.of(1, 2))
  })
  it("are cut behind the question when they are too long", () => {
    const asked = query("Big.test", "TXT")
    const long = Uint8Array.from(packet.encode({
      type: "response",
      id: asked.id,
      flags: packet.RECURSION_DESIRED | packet.RECURSION_AVAILABLE | packet.AUTHORITATIVE_ANSWER,
      questions: [{ type: "TXT", name: "big.test" }],
      answers: [{ type: "TXT", name: "big.test", ttl: 9, data: ["x".repeat(200), "y".repeat(200)] }]
    }))
    expect(truncate(asked, long, long.length)).toBe(long)
    const short = truncate(asked, long, long.length - 1)
    expect(short.length).toBe(asked.end)
    expect(decode(short)).toMatchObject({
      id: asked.id,
      flag_tc: true,
      flag_aa: true,
      flag_ra: true,
      questions: [{ name: "Big.test" }],
      answers: [],
      authorities: [],
      additionals: []
    })
  })
})

describe("reverse names (tunnel spec 21.6)", () => {
  it.each([
    ["1.2.3.4.in-addr.arpa", "4.3.2.1"],
    ["1.2.3.4.IN-ADDR.arpa", "4.3.2.1"],
    ["b.a.9.8.7.6.5.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa", "2001:db8::567:89ab"],
    ["B.A.9.8.7.6.5.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.B.D.0.1.0.0.2.ip6.arpa", "2001:db8::567:89ab"],
    ["1.2.3.4.5.in-addr.arpa", undefined],
    ["1.2.3.in-addr.arpa", undefined],
    ["1.2.3.256.in-addr.arpa", undefined],
    ["1.2.3.04.in-addr.arpa", undefined],
    ["1.2.3.4.ip6.arpa", undefined],
    ["a.9.8.7.6.5.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa", undefined],
    ["gg.a.9.8.7.6.5.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa", undefined],
    ["1.2.3.4.in-addr.test", undefined],
    ["arpa", undefined],
    [".", undefined]
  ])("%s is of %s", (name, address) => {
    expect(addressOfReverseName(name)).toBe(address)
  })
})
