/** Whatever applications, upstreams and gateways send as DNS: nothing throws, and nobody gets more than one answer. */
import * as fc from "fast-check"
import { describe, expect, it } from "vitest"
import { makeControlPacket } from "../../../src/protocol/tunnel/controlPacket.ts"
import { ip } from "../../../src/protocol/wire/address.ts"
import { decodeDns, decodeQuestion } from "../../../src/protocol/wire/dns.ts"
import { udpPacket } from "../../../src/protocol/wire/udp.ts"
import { back, clientWith, via } from "./client.ts"
import { dnsResource, encodeQuery, outsideQueries, payloadOf, queryPacket, SENTINEL, upstreamAnswer } from "./dns.ts"
import { CLIENT_4, gateway } from "./fixtures.ts"
import { parsed, udp } from "./packets.ts"

const g1 = gateway(1)
const everything = dnsResource(1, "**")
const types = ["A", "AAAA", "HTTPS", "SRV", "TXT", "PTR", "MX"]

const client = (...patterns: ReadonlyArray<string>) => {
  const client = clientWith(...patterns.map((pattern, i) => dnsResource(i + 1, pattern)))
  client.core.setSystemResolvers([ip("192.0.2.53")])
  client.events()
  return client
}

/** Bytes that are a valid message but for some. */
const damaged = (valid: fc.Arbitrary<Uint8Array>) =>
  fc.tuple(valid, fc.array(fc.tuple(fc.nat(), fc.nat(255)), { maxLength: 4 }), fc.nat(), fc.boolean()).map(
    ([bytes, changes, cut, isCut]) => {
      const copy = bytes.slice()
      for (const [at, value] of changes) copy[at % copy.length] = value
      return isCut ? copy.subarray(0, cut % copy.length) : copy
    }
  )
const label = fc.string({ minLength: 1, maxLength: 20, unit: "grapheme-ascii" }).map((text) =>
  text.replaceAll(".", "-")
)
const name = fc.array(label, { minLength: 1, maxLength: 8 }).map((labels) => labels.join("."))
const query = fc.tuple(name, fc.constantFrom(...types)).map(([name, type]) => encodeQuery(name, { type }))
const any = fc.uint8Array({ maxLength: 600 })

describe("DNS from strangers", () => {
  it("of applications is answered at most once, with the question", () => {
    for (const c of [client(), client("**"), client("*.test", "a?.**", "**.b")]) {
      fc.assert(
        fc.property(fc.oneof(any, query, damaged(query)), (bytes) => {
          c.fromTun(queryPacket(SENTINEL, bytes))
          const answers = c.toTun()
          expect(answers.length + outsideQueries(c).length).toBeLessThanOrEqual(1)
          for (const answer of answers) {
            const { payload } = payloadOf(answer)
            const message = decodeDns(payload)
            expect(message?.isResponse).toBe(true)
            expect(message?.questions).toEqual([decodeQuestion(bytes)?.question])
            expect(payload.subarray(0, 2)).toEqual(bytes.subarray(0, 2))
          }
          c.requests()
          // Those that wait for a grant do so for ever: make room.
          c.push({ _tag: "ResourceDeleted", id: everything.id })
          c.push({ _tag: "ResourceCreatedOrUpdated", resource: everything })
          c.toTun()
        }),
        { numRuns: 200 }
      )
    }
  })
  it("of upstreams is relayed, or an error", () => {
    const c = client()
    const asked = encodeQuery("a.test", { type: "TXT" })
    const valid = fc.array(fc.string({ maxLength: 200 }), { maxLength: 10 }).map((texts) =>
      upstreamAnswer(asked, texts.map((data) => ({ type: "TXT", name: "a.test", ttl: 0, data })))
    )
    fc.assert(fc.property(fc.oneof(any, valid, damaged(valid)), (bytes) => {
      c.fromTun(queryPacket(SENTINEL, asked))
      const [{ id } = { id: -1 }] = outsideQueries(c)
      c.core.dnsResponse(id, bytes, c.now)
      c.core.dnsResponse(id, bytes, c.now)
      const [answer, ...more] = c.toTun()
      expect(more).toEqual([])
      const { payload } = payloadOf(answer ?? new Uint8Array())
      expect(payload.length).toBeLessThanOrEqual(1212)
      expect(payload.subarray(0, 2)).toEqual(asked.subarray(0, 2))
    }))
  })
  it("of gateways is an answer to a query, or none of the applications' business", () => {
    const c = client("*.test")
    const resource = dnsResource(1, "*.test")
    c.fromTun(queryPacket(SENTINEL, encodeQuery("a.test")))
    c.connect(resource.id, "100.96.0.1", g1)
    c.toTun()
    let asked = 0
    // Each time another name: some damage makes an answer that is kept.
    const answer = (name: string) =>
      upstreamAnswer(encodeQuery(name, { type: "TXT" }), [{ type: "TXT", name, ttl: 0, data: "x" }])
    const damage = damaged(fc.constant(answer("n1000.test")))
    fc.assert(fc.property(fc.oneof(any, damage), (bytes) => {
      const name = `n${1000 + asked++}.test`
      c.fromTun(queryPacket(SENTINEL, encodeQuery(name, { type: "TXT" })))
      const query = c.sent().map((sent) => parsed(sent)).find(({ destinationPort }) => destinationPort === 53_535)
      if (query === undefined) throw new Error("nothing was asked")
      const ends = {
        source: ip(g1.ipv4),
        sourcePort: 53_535,
        destination: ip(CLIENT_4),
        destinationPort: query.sourcePort
      }
      const reply = bytes.slice()
      if (reply.length > 20) reply.set(answer(name).subarray(12, 20), 12)
      expect(c.fromPeer(g1.id, udpPacket(ends, reply))).toBeUndefined()
      expect(c.toTun().length).toBeLessThanOrEqual(1)
      c.fromPeer(g1.id, udpPacket(ends, answer(name)))
      c.advance(10_000)
      expect(c.toTun().length).toBeLessThanOrEqual(1)
    }))
  })
  it("about names of any kind changes nothing for the names there are", () => {
    const c = client("*.test")
    const resource = dnsResource(1, "*.test")
    c.fromTun(queryPacket(SENTINEL, encodeQuery("a.test")))
    c.connect(resource.id, "100.96.0.1", g1)
    c.fromTun(udp(via("100.96.0.1")))
    const domain = fc.oneof(name, fc.string({ minLength: 1, maxLength: 100 })).filter((text) =>
      text.toLowerCase() !== "a.test"
    )
    fc.assert(fc.property(domain, fc.constantFrom("Active" as const, "Inactive" as const), (domain, status) => {
      c.fromPeer(g1.id, makeControlPacket({ _tag: "DomainStatus", resource: resource.id, domain, status }))
      expect(c.fromTun(udp(via("100.96.0.1")))).toBeUndefined()
      expect(c.fromPeer(g1.id, udp(back("100.96.0.5")))).toBeUndefined()
    }))
  })
})
