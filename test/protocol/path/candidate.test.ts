import { assert, describe, it } from "@effect/vitest"
import * as fc from "fast-check"
import { isUsableAddress } from "../../../src/protocol/ice/candidate.ts"
import {
  formatPathCandidate,
  isSameCandidate,
  parsePathCandidate,
  type PathCandidate
} from "../../../src/protocol/path/candidate.ts"
import { parseIp, SocketAddress } from "../../../src/protocol/wire/address.ts"
import { at } from "./peers.ts"

const base = at("192.168.1.5:52625")
const published: ReadonlyArray<readonly [PathCandidate, string]> = [
  [
    { kind: "host", address: base, base },
    "candidate:4488538481769434819 1 udp 2130706431 192.168.1.5 52625 typ host"
  ],
  [
    { kind: "srflx", address: at("203.0.113.7:40000"), base },
    "candidate:17143847795575128535 1 udp 1694498815 203.0.113.7 40000 typ srflx raddr 192.168.1.5 rport 52625"
  ],
  [
    { kind: "relay", address: at("198.51.100.1:50000"), base },
    "candidate:5087810997319842 1 udp 16777215 198.51.100.1 50000 typ relay raddr 192.168.1.5 rport 52625"
  ]
]

const address = (family: 4 | 6) =>
  fc.tuple(family === 4 ? fc.ipV4() : fc.ipV6(), fc.integer({ min: 1, max: 65_535 })).map(([text, port]) => {
    const parsed = parseIp(text)
    return parsed === undefined ? undefined : new SocketAddress(parsed, port)
  }).filter((parsed) => parsed !== undefined).filter((parsed) =>
    parsed.family === family && isUsableAddress(parsed.address)
  )
const candidates: fc.Arbitrary<PathCandidate> = fc.constantFrom<4 | 6>(4, 6).chain((family) =>
  fc.oneof(
    address(family).map((own): PathCandidate => ({ kind: "host", address: own, base: own })),
    fc.record({ kind: fc.constant("srflx" as const), address: address(family), base: address(family) }),
    fc.record({
      kind: fc.constant("relay" as const),
      address: address(family),
      base: fc.constantFrom<4 | 6>(4, 6).chain(address)
    })
  )
)

describe("a candidate of the path mode", () => {
  for (const [candidate, text] of published) {
    it(`is written and read as published: ${candidate.kind}`, () => {
      assert.strictEqual(formatPathCandidate(candidate), text)
      assert.deepStrictEqual(parsePathCandidate(text), candidate)
    })
  }

  it("survives its text, whatever its kind and families", () => {
    fc.assert(fc.property(candidates, (candidate) => {
      const text = formatPathCandidate(candidate)
      const parsed = parsePathCandidate(text)
      assert.isTrue(parsed !== undefined && isSameCandidate(parsed, candidate), text)
      assert.strictEqual(formatPathCandidate(candidate), text)
    }))
  })

  it("has another foundation for another kind, address or base", () => {
    const foundations = [
      ...published.map(([, text]) => text),
      ...published.map(([candidate]) => formatPathCandidate({ ...candidate, address: at("203.0.113.7:40001") })),
      formatPathCandidate({ kind: "srflx", address: at("203.0.113.7:40000"), base: at("192.168.1.5:52626") })
    ]
      .map((text) => text.split(" ")[0])
    assert.strictEqual(new Set(foundations).size, foundations.length)
  })

  it("has a priority that orders the kinds", () => {
    const priorities = published.map(([candidate]) => Number(formatPathCandidate(candidate).split(" ")[3]))
    assert.deepStrictEqual(priorities, [2_130_706_431, 1_694_498_815, 16_777_215])
  })

  it("names a base behind the address save for hosts", () => {
    for (const [{ kind }, text] of published) assert.strictEqual(text.includes(" raddr "), kind !== "host")
  })

  it("is read whatever its foundation, priority, case of transport and unknown extensions", () => {
    const text = "candidate:1 1 UDP 7 203.0.113.7 40000 typ srflx generation 0 raddr 192.168.1.5 rport 52625 ufrag abcd"
    assert.deepStrictEqual(parsePathCandidate(text), published[1]?.[0])
  })

  const rejected: ReadonlyArray<readonly [string, string]> = [
    ["no base", "candidate:1 1 udp 1 203.0.113.7 40000 typ srflx"],
    ["no base of a relayed one", "candidate:1 1 udp 1 203.0.113.7 40000 typ relay"],
    ["half a base", "candidate:1 1 udp 1 203.0.113.7 40000 typ srflx raddr 192.168.1.5"],
    ["a base of another family", "candidate:1 1 udp 1 203.0.113.7 40000 typ srflx raddr 2001:db8::1 rport 1"],
    ["a bad base", "candidate:1 1 udp 1 203.0.113.7 40000 typ relay raddr 192.168.1 rport 1"],
    ["the kind prflx", "candidate:1 1 udp 1 203.0.113.7 40000 typ prflx raddr 192.168.1.5 rport 52625"],
    ["an unknown kind", "candidate:1 1 udp 1 203.0.113.7 40000 typ else"],
    ["TCP", "candidate:1 1 tcp 1 203.0.113.7 40000 typ host"],
    ["a bad address", "candidate:1 1 udp 1 203.0.113.777 40000 typ host"],
    ["a name", "candidate:1 1 udp 1 host.local 40000 typ host"],
    ["a multicast address", "candidate:1 1 udp 1 224.0.0.1 40000 typ host"],
    ["garbage", "hello"],
    ["nothing", ""]
  ]
  for (const [what, text] of rejected) {
    it(`is refused with ${what}`, () => assert.isUndefined(parsePathCandidate(text)))
  }

  it("is read or refused, but never throws", () => {
    const words = fc.constantFrom(
      "candidate:1",
      "1",
      "udp",
      "typ",
      "host",
      "relay",
      "raddr",
      "rport",
      "::",
      "1.2.3.4",
      "99999"
    )
    fc.assert(fc.property(fc.oneof(fc.string(), fc.array(words).map((list) => list.join(" "))), (text) => {
      parsePathCandidate(text)
    }))
  })
})
