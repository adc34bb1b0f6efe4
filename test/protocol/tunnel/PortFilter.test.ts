import * as fc from "fast-check"
import { describe, expect, it } from "vitest"
import type { Filter } from "../../../src/protocol/portal/types.ts"
import { permitAll, PortFilter, sameFilters } from "../../../src/protocol/tunnel/PortFilter.ts"
import { PacketKind } from "../../../src/protocol/wire/ip.ts"
import { tcpPort, udpPort } from "./fixtures.ts"

const { Echo, Other, OtherIcmp, Tcp, Udp } = PacketKind
const kind = fc.constantFrom(Tcp, Udp, Echo, OtherIcmp, Other)
const port = fc.integer({ min: 0, max: 0xffff })
const range = fc.tuple(port, port).map(([a, b]) => [Math.min(a, b), Math.max(a, b)] as const)
const filter: fc.Arbitrary<Filter> = fc.oneof(
  range.map(([start, end]) => tcpPort(start, end)),
  range.map(([start, end]) => udpPort(start, end)),
  fc.constant<Filter>({ protocol: "icmp" })
)

describe("PortFilter", () => {
  it("without filters permits everything", () => {
    fc.assert(fc.property(kind, port, (kind, port) => {
      expect(permitAll.permits(kind, port)).toBe(true)
    }))
  })
  it("counts both ends of a range in", () => {
    const filter = new PortFilter([tcpPort(80, 90)])
    expect([79, 80, 90, 91].map((port) => filter.permits(Tcp, port))).toEqual([false, true, true, false])
    expect(filter.permits(Udp, 80)).toBe(false)
  })
  it("knows the smallest and the largest port", () => {
    const filter = new PortFilter([udpPort(0, 0), udpPort(65_535, 65_535)])
    expect([0, 1, 65_534, 65_535].map((port) => filter.permits(Udp, port))).toEqual([true, false, false, true])
  })
  it("takes ICMP as a whole, and no other protocol once there is a filter", () => {
    const filter = new PortFilter([{ protocol: "icmp" }])
    expect([Tcp, Udp, Echo, OtherIcmp, Other].map((kind) => filter.permits(kind, 1))).toEqual(
      [false, false, true, true, false]
    )
    expect(new PortFilter([tcpPort(1)]).permits(Echo, 1)).toBe(false)
  })
  it("permits what any of its filters names", () => {
    fc.assert(fc.property(fc.array(filter, { minLength: 1 }), kind, port, (filters, kind, port) => {
      const expected = filters.some((each) =>
        each.protocol === "icmp"
          ? kind === Echo || kind === OtherIcmp
          : kind === (each.protocol === "tcp" ? Tcp : Udp) && each.portRangeStart <= port && port <= each.portRangeEnd
      )
      expect(new PortFilter(filters).permits(kind, port)).toBe(expected)
    }))
  })
})

describe("sameFilters", () => {
  it("looks at neither order nor repetition", () => {
    expect(sameFilters([tcpPort(1), udpPort(2)], [udpPort(2), tcpPort(1), tcpPort(1)])).toBe(true)
    expect(sameFilters([], [])).toBe(true)
  })
  it("tells protocols and ports apart", () => {
    expect(sameFilters([tcpPort(1)], [udpPort(1)])).toBe(false)
    expect(sameFilters([tcpPort(1, 2)], [tcpPort(1)])).toBe(false)
    expect(sameFilters([], [{ protocol: "icmp" }])).toBe(false)
  })
})
