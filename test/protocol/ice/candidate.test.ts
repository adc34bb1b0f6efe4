import * as fc from "fast-check"
import { describe, expect, it } from "vitest"
import {
  candidatePriority,
  formatCandidate,
  localPreference,
  optimisticCandidates,
  pairPriority,
  parseCandidate
} from "../../../src/protocol/ice/candidate.ts"
import { type Family, ip } from "../../../src/protocol/wire/address.ts"
import { at } from "./support.ts"

const local = { 4: ip("192.168.1.5"), 6: ip("fd00::5") }
const first = (kind: "host" | "srflx" | "relay" | "prflx", family: Family, socket: Family = family) =>
  candidatePriority(kind, localPreference(kind, family, 0, local[socket]))

describe("ICE candidates", () => {
  it("has the priorities of spec 9.3", () => {
    expect([first("host", 6), first("host", 4)]).toEqual([2_130_706_431, 2_130_706_175])
    expect([first("srflx", 6), first("srflx", 4)]).toEqual([1_686_110_207, 1_686_109_951])
    expect([first("relay", 6), first("relay", 4)]).toEqual([37_748_735, 37_748_479])
    expect([first("relay", 6, 4), first("relay", 4, 6)]).toEqual([37_492_735, 37_492_479])
    const check = (family: Family) => candidatePriority("prflx", localPreference("host", family, 0, local[family]))
    expect([check(6), check(4)]).toEqual([1_862_270_975, 1_862_270_719])
    expect(localPreference("host", 4, 2, local[4])).toBe(65_530)
  })

  it("gives pairs 64-bit priorities", () => {
    expect(pairPriority(1, 2)).toBe((1n << 32n) + 4n)
    expect(pairPriority(2, 1)).toBe((1n << 32n) + 5n)
    expect(pairPriority(0xffff_ffff, 0xffff_ffff)).toBe((0xffff_ffffn << 32n) + 2n * 0xffff_ffffn)
  })

  it("reads what peers of any age send", () => {
    expect(parseCandidate("candidate:1 1 udp 2130706175 127.0.0.1 52625 typ host")).toEqual({
      kind: "host",
      address: at("127.0.0.1:52625"),
      priority: 2_130_706_175,
      related: undefined,
      ufrag: undefined
    })
    expect(parseCandidate(
      "candidate:17143847795575128535 1 UDP 1694498815 203.0.113.7 40000 typ srflx raddr 192.168.1.5 rport 52625 "
        + "generation 0 ufrag jbi4"
    )).toMatchObject({ kind: "srflx", related: at("192.168.1.5:52625"), ufrag: "jbi4" })
    expect(parseCandidate("candidate:a 1 udp 1 2001:db8::1 1 typ relay raddr :: rport 0"))
      .toMatchObject({ kind: "relay", address: at("[2001:db8::1]:1"), related: at("[::]:0") })
    expect(parseCandidate("candidate:a 1 udp 1 203.0.113.7 1 typ prflx raddr 10.0.0.1"))
      .toMatchObject({ kind: "prflx", related: undefined })
  })

  it.each([
    ["no prefix", "1 1 udp 1 203.0.113.7 1 typ host"],
    ["component 2", "candidate:1 2 udp 1 203.0.113.7 1 typ host"],
    ["TCP", "candidate:1 1 tcp 1 203.0.113.7 1 typ host"],
    ["a host name", "candidate:1 1 udp 1 a.local 1 typ host"],
    ["port 0", "candidate:1 1 udp 1 203.0.113.7 0 typ host"],
    ["port 65536", "candidate:1 1 udp 1 203.0.113.7 65536 typ host"],
    ["an unknown type", "candidate:1 1 udp 1 203.0.113.7 1 typ other"],
    ["a priority over 32 bits", "candidate:1 1 udp 4294967296 203.0.113.7 1 typ host"],
    ["an unspecified address", "candidate:1 1 udp 1 0.0.0.0 1 typ host"],
    ["a multicast address", "candidate:1 1 udp 1 ff02::1 1 typ host"],
    ["an IPv4 link-local address", "candidate:1 1 udp 1 169.254.0.1 1 typ host"],
    ["the broadcast address", "candidate:1 1 udp 1 255.255.255.255 1 typ host"],
    ["a foundation with strange characters", "candidate:a-b 1 udp 1 203.0.113.7 1 typ host"],
    ["nothing", ""]
  ])("ignores %s", (_, text) => {
    expect(parseCandidate(text)).toBeUndefined()
  })

  it("returns for any text", () => {
    fc.assert(fc.property(fc.string(), (text) => {
      parseCandidate(text)
      parseCandidate(`candidate:${text}`)
      parseCandidate(`candidate:1 1 udp 1 203.0.113.7 1 typ host ${text}`)
    }))
  })

  it("writes what it reads, without the base", () => {
    const kind = fc.constantFrom("host" as const, "srflx" as const, "relay" as const, "prflx" as const)
    const address = fc.constantFrom("203.0.113.7", "[2001:db8::7]")
    fc.assert(
      fc.property(kind, address, fc.integer({ min: 1, max: 65_535 }), fc.nat(), (kind, host, port, priority) => {
        const candidate = { kind, address: at(`${host}:${port}`), base: at("192.168.1.5:52625") }
        const text = formatCandidate(candidate, priority, "jbi4")
        expect(text).not.toContain("192.168.1.5")
        expect(parseCandidate(text)).toMatchObject({ kind, address: candidate.address, priority, ufrag: "jbi4" })
      })
    )
  })

  describe("optimistic ones", () => {
    const candidate = (kind: "host" | "srflx" | "relay", address: string) => ({
      kind,
      address: at(address),
      priority: 1
    })
    const guesses = (...known: ReadonlyArray<ReturnType<typeof candidate>>) =>
      optimisticCandidates(known).map(({ address }) => address.text)

    it("join the reflexive address and the host port", () => {
      expect(guesses(candidate("host", "192.168.1.5:52625"), candidate("srflx", "203.0.113.7:40000")))
        .toEqual(["203.0.113.7:52625"])
      expect(optimisticCandidates([candidate("host", "192.168.1.5:52625"), candidate("srflx", "203.0.113.7:40000")])[0])
        .toMatchObject({ kind: "srflx", related: at("192.168.1.5:52625") })
    })
    it("are none for IPv6 and none that are known", () => {
      expect(guesses(candidate("host", "[fd00::5]:52625"), candidate("srflx", "[2001:db8::7]:40000"))).toEqual([])
      expect(guesses(candidate("host", "192.168.1.5:52625"), candidate("srflx", "203.0.113.7:52625"))).toEqual([])
    })
    it("are two at most", () => {
      expect(guesses(
        candidate("host", "192.168.1.5:1001"),
        candidate("host", "192.168.1.6:1002"),
        candidate("host", "192.168.1.7:1003"),
        candidate("srflx", "203.0.113.7:40000")
      )).toEqual(["203.0.113.7:1001", "203.0.113.7:1002"])
    })
  })
})
