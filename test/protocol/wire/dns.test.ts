import * as packet from "dns-packet"
import * as fc from "fast-check"
import { describe, expect, it } from "vitest"
import { ip, parseIp } from "../../../src/protocol/wire/address.ts"
import {
  addressRecord,
  CLASS_IN,
  decodeDns,
  decodeQuestion,
  type DnsMessage,
  encodeDns,
  encodeQuery,
  encodeRecord,
  isDomainName,
  isResponseTo,
  nameRecord,
  RecordType,
  repeatsQuestion,
  type ResourceRecord,
  ResponseCode,
  responseTo,
  sameName
} from "../../../src/protocol/wire/dns.ts"

const bytesOf = (hex: string) => Uint8Array.from(Buffer.from(hex.replaceAll(/\s/g, ""), "hex"))
const decoded = (bytes: Uint8Array | undefined): DnsMessage => {
  const message = bytes === undefined ? undefined : decodeDns(bytes)
  if (message === undefined) throw new Error("did not decode")
  return message
}

const label = fc.stringMatching(/^[a-zA-Z0-9_-]{1,20}$/)
const name = fc.array(label, { minLength: 1, maxLength: 6 }).map((labels) => labels.join("."))
const ipv4 = fc.ipV4().map((text) => ip(text))
const ipv6 = fc.ipV6().filter((text) => parseIp(text)?.includes(":") === true).map((text) => ip(text))
const ttl = fc.integer({ min: 0, max: 0x7fffffff })
const record: fc.Arbitrary<ResourceRecord> = fc.oneof(
  fc.tuple(name, ttl, fc.oneof(ipv4, ipv6)).map(([owner, time, address]) => addressRecord(owner, time, address)),
  fc.tuple(name, fc.constantFrom(RecordType.PTR, RecordType.CNAME, RecordType.NS), ttl, name).map((
    [owner, type, time, target]
  ) => nameRecord(owner, type, time, target)),
  fc.tuple(name, fc.constantFrom(65_280, 65_400), ttl, fc.uint8Array({ maxLength: 300 }))
    .map(([owner, type, time, bytes]): ResourceRecord => ({
      name: owner,
      type,
      class: CLASS_IN,
      ttl: time,
      data: { _tag: "Raw", bytes }
    }))
)
const message: fc.Arbitrary<DnsMessage> = fc.record({
  id: fc.integer({ min: 0, max: 65_535 }),
  isResponse: fc.boolean(),
  opcode: fc.integer({ min: 0, max: 15 }),
  authoritative: fc.boolean(),
  truncated: fc.boolean(),
  recursionDesired: fc.boolean(),
  recursionAvailable: fc.boolean(),
  authenticData: fc.boolean(),
  checkingDisabled: fc.boolean(),
  responseCode: fc.integer({ min: 0, max: 15 }),
  questions: fc.array(fc.record({ name, type: fc.constantFrom(1, 12, 28, 65), class: fc.constant(1) }), {
    maxLength: 3
  }),
  answers: fc.array(record, { maxLength: 8 }),
  authorities: fc.array(record, { maxLength: 3 }),
  additionals: fc.array(record, { maxLength: 3 })
})

describe("DNS messages", () => {
  it("are what they were after encoding and decoding", () => {
    fc.assert(fc.property(message, (original) => {
      expect(decoded(encodeDns(original))).toEqual(original)
    }))
  })

  it("encodes what dns-packet reads", () => {
    fc.assert(fc.property(message, (original) => {
      const theirs = packet.decode(Buffer.from(encodeDns(original) ?? []))
      expect(theirs.id).toBe(original.id)
      expect(theirs.questions?.map((question) => question.name)).toEqual(original.questions.map((q) => q.name))
      const sections = [
        [theirs.answers, original.answers],
        [theirs.authorities, original.authorities],
        [theirs.additionals, original.additionals]
      ] as const
      for (const [read, wrote] of sections) {
        expect(read?.map((answer) => [answer.name, (answer as { ttl?: number }).ttl]))
          .toEqual(wrote.map((answer) => [answer.name, answer.ttl]))
        const data = wrote.map(({ data }) =>
          data._tag === "Address" ? data.address : data._tag === "Name" ? data.name : ""
        )
        expect(
          read?.map((answer, i) => {
            const text = (answer as { data?: unknown }).data
            return data[i] === "" ? "" : answer.type === "AAAA" ? ip(String(text)) : text
          })
        ).toEqual(data)
      }
    }))
  })

  it("decodes what dns-packet writes, compressed names included", () => {
    const theirs = packet.encode({
      type: "response",
      id: 4711,
      flags: packet.RECURSION_DESIRED | packet.RECURSION_AVAILABLE | packet.AUTHENTIC_DATA,
      questions: [{ type: "A", name: "www.corp.example" }],
      answers: [
        { type: "CNAME", name: "www.corp.example", ttl: 60, data: "web.corp.example" },
        { type: "A", name: "web.corp.example", ttl: 30, data: "192.0.2.7" },
        { type: "AAAA", name: "web.corp.example", ttl: 30, data: "2001:db8::7" },
        { type: "PTR", name: "7.2.0.192.in-addr.arpa", ttl: 1, data: "web.corp.example" },
        { type: "TXT", name: "web.corp.example", ttl: 5, data: ["a", "bc"] }
      ],
      authorities: [{
        type: "SOA",
        name: "corp.example",
        ttl: 9,
        data: {
          mname: "ns.corp.example",
          rname: "root.corp.example",
          serial: 1,
          refresh: 2,
          retry: 3,
          expire: 4,
          minimum: 5
        }
      }],
      additionals: [{
        type: "OPT",
        name: ".",
        udpPayloadSize: 1232,
        extendedRcode: 0,
        ednsVersion: 0,
        flags: 0,
        flag_do: false,
        options: []
      }]
    })
    const ours = decoded(theirs)
    expect(ours).toMatchObject({
      id: 4711,
      isResponse: true,
      recursionDesired: true,
      recursionAvailable: true,
      authenticData: true,
      responseCode: 0,
      questions: [{ name: "www.corp.example", type: 1, class: 1 }]
    })
    expect(ours.answers).toEqual([
      nameRecord("www.corp.example", RecordType.CNAME, 60, "web.corp.example"),
      addressRecord("web.corp.example", 30, ip("192.0.2.7")),
      addressRecord("web.corp.example", 30, ip("2001:db8::7")),
      nameRecord("7.2.0.192.in-addr.arpa", RecordType.PTR, 1, "web.corp.example"),
      {
        name: "web.corp.example",
        type: RecordType.TXT,
        class: 1,
        ttl: 5,
        data: { _tag: "Raw", bytes: bytesOf("01 61 02 6263") }
      }
    ])
    expect(ours.additionals).toMatchObject([{ name: ".", type: RecordType.OPT, class: 1232, ttl: 0 }])
    // The SOA's names can be put into another message.
    expect(packet.decode(Buffer.from(encodeDns(ours) ?? [])).authorities).toMatchObject([{
      data: { mname: "ns.corp.example", rname: "root.corp.example", serial: 1, minimum: 5 }
    }])
  })

  it("expands names that RFC 3597 lets senders compress inside SOA, MX and SRV", () => {
    // example. (12) IN MX, exchange "mx" + pointer to 12; SRV target a bare pointer.
    const bytes = bytesOf(`0001 8180 0001 0002 0000 0000  07 6578616d706c65 00 000f 0001
      c00c 000f 0001 00000001 0007 000a 02 6d78 c00c
      c00c 0021 0001 00000001 0008 0001 0002 01bb c00c`)
    expect(decoded(bytes).answers.map(({ data }) => data)).toEqual([
      { _tag: "Raw", bytes: bytesOf("000a 02 6d78 07 6578616d706c65 00") },
      { _tag: "Raw", bytes: bytesOf("0001 0002 01bb 07 6578616d706c65 00") }
    ])
    const soa = bytesOf(`0001 8180 0001 0001 0000 0000  07 6578616d706c65 00 0006 0001
      c00c 0006 0001 00000001 0018 c00c c00c 00000001 00000002 00000003 00000004 00000005`)
    expect(decoded(soa).answers[0]?.data).toMatchObject({ _tag: "Raw" })
    const cutShort = soa.slice()
    cutShort[36] = 0x17 // one byte less than the layout has
    expect(decodeDns(cutShort)).toBeUndefined()
  })

  it("compresses", () => {
    const query = decoded(encodeQuery(1, "a.very.long.name.example", RecordType.A))
    const records = Array.from(
      { length: 10 },
      (_, i) => addressRecord("a.very.long.name.example", 1, ip(`192.0.2.${i}`))
    )
    expect(encodeDns(responseTo(query, 0, records))?.length).toBe(12 + 26 + 4 + 10 * 16)
  })

  it("keeps bytes that are not text", () => {
    const odd = bytesOf("0001 0100 0001 0000 0000 0000  05 61 2e 5c 00 ff  01 62 00  0001 0001")
    const read = decoded(odd)
    expect(read.questions[0]?.name).toBe(String.raw`a\.\\\000\255.b`)
    expect(encodeDns(read)).toEqual(odd)
  })

  it("refuses names that are none", () => {
    const long = `${"a".repeat(63)}.`.repeat(3)
    for (const good of [".", "", "a", "a.", `${"a".repeat(63)}.b`, `${long}${"b".repeat(61)}`, String.raw`a\.b`]) {
      expect(isDomainName(good)).toBe(true)
    }
    for (
      const bad of ["..", ".a", "a..b", "a..", "a".repeat(64), `${long}${"b".repeat(62)}`, "ä", "a\\", String.raw`\999`]
    ) {
      expect(isDomainName(bad)).toBe(false)
      expect(encodeQuery(1, bad, RecordType.A)).toBeUndefined()
    }
    expect(
      encodeDns({ ...decoded(encodeQuery(1, "a", 1)), answers: [{ ...addressRecord("a", 1, ip("::1")), type: 1 }] })
    )
      .toBeUndefined()
  })

  it("refuses loops and pointers that lead forwards, into the header or nowhere", () => {
    const withName = (hex: string) => decodeDns(bytesOf(`0001 0100 0001 0000 0000 0000 ${hex} 0001 0001`))
    expect(withName("01 61 00")).toBeDefined()
    expect(withName("c00c")).toBeUndefined() // itself
    expect(withName("01 61 c00c")).toBeUndefined() // its own start
    expect(withName("c00e 00")).toBeUndefined() // forwards
    expect(withName("c000")).toBeUndefined() // the header
    expect(withName("40 00")).toBeUndefined() // a reserved kind of label
    expect(withName("05 61")).toBeUndefined()
    expect(withName("c0")).toBeUndefined()
    // Names that pass 255 bytes through pointers.
    const deep = ["01 61 00 0001 0001"]
    let at = 12
    for (let i = 0, length = 3; i < 130; i++) {
      deep.push(`01 61 c0${at.toString(16).padStart(2, "0")}`.replace(/c0(...)$/, "c$1"), "0001 0001")
      at += i === 0 ? 7 : 8
      length += 2
      if (length > 300) break
    }
    const count = (deep.length + 1) / 2
    expect(decodeDns(bytesOf(`0001 0100 ${count.toString(16).padStart(4, "0")} 0000 0000 0000 ${deep.join("")}`)))
      .toBeUndefined()
    expect(decodeDns(bytesOf(`0001 0100 0060 0000 0000 0000 ${deep.slice(0, 2 * 96 - 1).join("")}`))?.questions.length)
      .toBe(96)
  })

  it("truncates by dropping every record but OPT", () => {
    const query = decoded(encodeQuery(9, "many.example", RecordType.A))
    const opt: ResourceRecord = {
      name: ".",
      type: RecordType.OPT,
      class: 1232,
      ttl: 0,
      data: { _tag: "Raw", bytes: new Uint8Array() }
    }
    const many = Array.from({ length: 40 }, (_, i) => addressRecord("many.example", 1, ip(`192.0.2.${i}`)))
    const full: DnsMessage = { ...responseTo(query, 0, many), additionals: [opt] }
    const short = encodeDns(full, 512)
    expect(short?.length).toBeLessThan(60)
    expect(decoded(short)).toEqual({ ...full, truncated: true, answers: [] })
    expect(encodeDns(full, 1232)).toEqual(encodeDns(full))
    expect(encodeDns(full, 20)).toBeUndefined()
    const huge = Array.from({ length: 2000 }, (_, i) => ({
      ...addressRecord(`h${i}`, 1, ip("::1")),
      type: 16,
      data: { _tag: "Raw" as const, bytes: new Uint8Array(100) }
    }))
    expect(decoded(encodeDns(responseTo(query, 0, huge)))).toMatchObject({ truncated: true, answers: [] })
  })

  it("tells responses to a query from others", () => {
    const query = decoded(encodeQuery(5, "Portal.example", RecordType.A))
    const good = responseTo(query, ResponseCode.NoError)
    expect(isResponseTo({ ...good, questions: [{ name: "pORTAL.EXAMPLE", type: 1, class: 1 }] }, query)).toBe(true)
    for (
      const bad of [
        query,
        { ...good, id: 6 },
        { ...good, questions: [] },
        { ...good, questions: [{ name: "portal.example", type: 28, class: 1 }] },
        { ...good, questions: [{ name: "other.example", type: 1, class: 1 }] },
        { ...good, opcode: 4 }
      ]
    ) expect(isResponseTo(bad, query)).toBe(false)
    expect(sameName("É.a", "é.a")).toBe(false)
  })

  it("reads an IPv4-mapped AAAA record as IPv4 and writes it back as it was", () => {
    const bytes = bytesOf(`0001 8180 0000 0001 0000 0000  01 61 00 001c 0001 00000001 0010
      00000000 00000000 0000ffff c0000201`)
    expect(decoded(bytes).answers[0]?.data).toEqual({ _tag: "Address", address: ip("192.0.2.1") })
    expect(encodeDns(decoded(bytes))).toEqual(bytes)
  })

  it("returns for any bytes, and what it reads it can write", () => {
    const read = (bytes: Uint8Array) => {
      const result = decodeDns(bytes)
      if (result === undefined) return
      const again = encodeDns(result)
      expect(again).toBeDefined()
      expect(decodeDns(again ?? new Uint8Array())).toEqual(result)
    }
    fc.assert(fc.property(fc.uint8Array({ maxLength: 200 }), read))
    // Valid messages with a few bytes changed get further.
    fc.assert(
      fc.property(
        message,
        fc.array(fc.tuple(fc.nat(), fc.integer({ min: 0, max: 255 })), { maxLength: 4 }),
        fc.nat(),
        (original, changes, cut) => {
          const bytes = encodeDns(original) ?? new Uint8Array()
          for (const [at, value] of changes) bytes[at % bytes.length] = value
          read(bytes)
          read(bytes.subarray(0, cut % (bytes.length + 1)))
        }
      ),
      { numRuns: 500 }
    )
  })

  it("reads the question alone as it reads the whole message", () => {
    fc.assert(fc.property(message, fc.nat(), (original, cut) => {
      const bytes = encodeDns(original) ?? new Uint8Array()
      const [question] = original.questions
      const found = decodeQuestion(bytes)
      expect(found?.question).toEqual(question)
      if (found === undefined) return
      expect(decodeQuestion(bytes.subarray(0, found.end))).toEqual(found)
      expect(decodeQuestion(bytes.subarray(0, cut % found.end))).toBeUndefined()
    }))
  })

  it("writes records without compression, so that they mean the same in any message", () => {
    fc.assert(fc.property(message, ({ answers }) => {
      const records = answers.map((answer) => encodeRecord(answer) ?? new Uint8Array())
      const header = Uint8Array.of(0, 1, 0x80, 0, 0, 0, answers.length >> 8, answers.length & 0xff, 0, 0, 0, 0)
      expect(decoded(Uint8Array.from([header, ...records].flatMap((part) => [...part]))).answers).toEqual(answers)
    }))
    expect(encodeRecord(addressRecord("a..b", 1, ip("192.0.2.1")))).toBeUndefined()
  })

  it("tells whether a reply repeats the question of a query", () => {
    const query = encodeQuery(7, "a.test", RecordType.A) ?? new Uint8Array()
    const other = (name: string, type: number) => encodeQuery(9, name, type) ?? new Uint8Array()
    expect(repeatsQuestion(other("A.TEST", RecordType.A), query)).toBe(true)
    expect(repeatsQuestion(new Uint8Array(12), query)).toBe(true)
    expect(repeatsQuestion(other("b.test", RecordType.A), query)).toBe(false)
    expect(repeatsQuestion(other("a.test", RecordType.AAAA), query)).toBe(false)
    expect(repeatsQuestion(query.subarray(0, -1), query)).toBe(false)
    const twice = query.slice()
    twice[5] = 2
    expect(repeatsQuestion(twice, query)).toBe(false)
  })
})
