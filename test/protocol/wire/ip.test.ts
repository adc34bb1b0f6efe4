import * as fc from "fast-check"
import { describe, expect, it } from "vitest"
import { ip } from "../../../src/protocol/wire/address.ts"
import {
  destinationOffset,
  IpPacket,
  isMulticast,
  MAX_PACKET_LENGTH,
  PacketKind,
  sourceOffset
} from "../../../src/protocol/wire/ip.ts"
import { wordsOf } from "../../../src/protocol/wire/ipWords.ts"
import { icmp, other, ping, tcp, udp } from "../tunnel/packets.ts"

const v4 = { from: "100.64.0.1", to: "10.0.0.1" }
const v6 = { from: "fd00:2021:1111::1", to: "2001:db8::1" }

const parses = (packet: Uint8Array): boolean => new IpPacket().parse(packet, 0, packet.length)

const changed = (packet: Uint8Array, at: number, ...values: ReadonlyArray<number>): Uint8Array => {
  const copy = packet.slice()
  copy.set(values, at)
  return copy
}

/** An IPv6 packet whose transport header `inner` comes behind `extensions`, the first of which is of type `first`. */
const extended = (first: number, extensions: ReadonlyArray<number>, inner: Uint8Array): Uint8Array => {
  const payload = [...extensions, ...inner.subarray(40)]
  const packet = Uint8Array.from([...inner.subarray(0, 40), ...payload])
  packet[6] = first
  new DataView(packet.buffer).setUint16(4, payload.length)
  return packet
}

describe("IpPacket.parse", () => {
  it("finds version, protocol, addresses, ports and the transport header, wherever the packet lies", () => {
    for (const [ends, version, header] of [[v4, 4, 20], [v6, 6, 40]] as const) {
      const bytes = udp(ends, 53)
      const arena = new Uint8Array(bytes.length + 200)
      arena.set(bytes, 77)
      const packet = new IpPacket()
      expect(packet.parse(arena, 77, bytes.length)).toBe(true)
      expect(packet).toMatchObject({
        version,
        protocol: 17,
        offset: 77,
        length: bytes.length,
        transport: 77 + header,
        kind: PacketKind.Udp,
        sourcePort: 40_000,
        destinationPort: 53
      })
      expect(packet.source).toEqual(wordsOf(ip(ends.from)))
      expect(packet.destination).toEqual(wordsOf(ip(ends.to)))
      expect(arena.subarray(sourceOffset(packet), destinationOffset(packet))).toHaveLength(version === 4 ? 4 : 16)
    }
  })
  it("tells kinds apart: an echo has its identifier for both ports, other ICMP none", () => {
    const kinds = (packet: Uint8Array) => {
      const view = new IpPacket()
      expect(view.parse(packet, 0, packet.length)).toBe(true)
      return [view.kind, view.sourcePort, view.destinationPort]
    }
    expect(kinds(tcp(v4, 443))).toEqual([PacketKind.Tcp, 40_000, 443])
    expect(kinds(ping(v4, 77))).toEqual([PacketKind.Echo, 77, 77])
    expect(kinds(icmp(v4, 0, 77 << 16))).toEqual([PacketKind.Echo, 77, 77])
    expect(kinds(ping(v6, 77))).toEqual([PacketKind.Echo, 77, 77])
    expect(kinds(icmp(v6, 129, 77 << 16))).toEqual([PacketKind.Echo, 77, 77])
    expect(kinds(changed(ping(v4, 77), 21, 1))).toEqual([PacketKind.OtherIcmp, 0, 0]) // code 1
    expect(kinds(icmp(v4, 128))).toEqual([PacketKind.OtherIcmp, 0, 0])
    expect(kinds(icmp(v6, 8))).toEqual([PacketKind.OtherIcmp, 0, 0])
    expect(kinds(other(v4, 47))).toEqual([PacketKind.Other, 0, 0])
    expect(kinds(other(v6, 0xff, new Uint8Array(0)))).toEqual([PacketKind.Other, 0, 0])
  })
  it("keeps nothing of the packet before", () => {
    const packet = new IpPacket()
    const first = tcp(v6)
    const second = other(v4, 47)
    packet.parse(first, 0, first.length)
    packet.parse(second, 0, second.length)
    expect(packet).toMatchObject({ version: 4, kind: PacketKind.Other, sourcePort: 0, destinationPort: 0 })
    expect(packet.source).toEqual(wordsOf(ip(v4.from)))
  })
  it("accepts 1280 bytes and no more", () => {
    for (const [ends, header] of [[v4, 28], [v6, 48]] as const) {
      expect(parses(udp(ends, 1, "x".repeat(MAX_PACKET_LENGTH - header)))).toBe(true)
      expect(parses(udp(ends, 1, "x".repeat(MAX_PACKET_LENGTH - header + 1)))).toBe(false)
    }
  })
  it.each([
    ["nothing", new Uint8Array(0)],
    ["another version", changed(udp(v4), 0, 0x55)],
    ["an IPv4 header that is too short", changed(udp(v4), 0, 0x44)],
    ["an IPv4 header longer than the packet", changed(udp(v4), 0, 0x4f)],
    ["an IPv4 length that is not the packet's", changed(udp(v4), 3, udp(v4).length - 1)],
    ["more fragments to come", changed(udp(v4), 6, 0x20)],
    ["a later fragment", changed(udp(v4), 7, 1)],
    ["an IPv6 length that is not the packet's", changed(udp(v6), 5, udp(v6).length - 41)],
    ["an IPv6 header cut off", udp(v6).subarray(0, 39)],
    ["a UDP length that is not the payload's", changed(udp(v4), 25, 9)],
    ["a TCP header that is too short", changed(tcp(v4), 32, 0x40)],
    ["a TCP header longer than the packet", changed(tcp(v4), 32, 0x60)],
    ["a TCP header cut off", other(v4, 6, new Uint8Array(19))],
    ["a UDP header cut off", other(v4, 17, new Uint8Array(7))],
    ["an ICMP header cut off", other(v4, 1, new Uint8Array(7))],
    ["ICMPv6 in IPv4", other(v4, 58, new Uint8Array(8))],
    ["ICMPv4 in IPv6", other(v6, 1, new Uint8Array(8))]
  ])("refuses %s", (_, packet) => {
    expect(parses(packet)).toBe(false)
  })
  it("takes Don't Fragment and IPv4 options as they are", () => {
    expect(parses(changed(udp(v4), 6, 0x40))).toBe(true)
    const plain = udp(v4)
    const packet = Uint8Array.from([...plain.subarray(0, 20), 1, 1, 1, 0, ...plain.subarray(20)])
    packet[0] = 0x46
    packet[3] = packet.length
    const view = new IpPacket()
    expect(view.parse(packet, 0, packet.length)).toBe(true)
    expect([view.transport, view.destinationPort]).toEqual([24, 5000])
  })
  it("walks IPv6 extension headers", () => {
    const transport = (packet: Uint8Array) => {
      const view = new IpPacket()
      return view.parse(packet, 0, packet.length) ? [view.protocol, view.transport] : undefined
    }
    const inner = udp(v6)
    const hopByHop = [17, 0, 1, 4, 0, 0, 0, 0]
    const destinationOptions = [43, 1, ...new Uint8Array(14)]
    const routing = [17, 0, ...new Uint8Array(6)]
    const authentication = [17, 1, ...new Uint8Array(10)]
    expect(transport(extended(0, hopByHop, inner))).toEqual([17, 48])
    expect(transport(extended(60, [...destinationOptions, ...routing], inner))).toEqual([17, 64])
    expect(transport(extended(51, authentication, inner))).toEqual([17, 52])
    expect(transport(extended(0, [17, 200, 0, 0, 0, 0, 0, 0], inner))).toBeUndefined()
    expect(transport(extended(0, [0, 0, 0, 0], new Uint8Array(40)))).toBeUndefined()
  })
  it("accepts an atomic fragment and no other", () => {
    const fragment = (high: number, low: number) => extended(44, [17, 0, high, low, 0, 0, 0, 1], udp(v6))
    expect(parses(fragment(0, 0))).toBe(true)
    expect(parses(fragment(0, 1))).toBe(false)
    expect(parses(fragment(0, 8))).toBe(false)
    expect(parses(fragment(1, 0))).toBe(false)
  })
  it("returns on any bytes, and what it accepts lies inside the packet", () => {
    const first = fc.constantFrom(0x45, 0x46, 0x4f, 0x60)
    fc.assert(
      fc.property(
        fc.uint8Array({ maxLength: 1400 }),
        first,
        fc.nat(300),
        fc.boolean(),
        (bytes, first, protocol, fix) => {
          if (fix && bytes.length >= 40) {
            bytes[0] = first
            const view = new DataView(bytes.buffer)
            if (first === 0x60) view.setUint16(4, bytes.length - 40)
            else view.setUint16(2, bytes.length)
            bytes.fill(0, 6, 8)
            bytes[first === 0x60 ? 6 : 9] = protocol
          }
          const packet = new IpPacket()
          if (!packet.parse(bytes, 0, bytes.length)) return
          expect(packet.transport).toBeLessThanOrEqual(bytes.length)
          const needed: { readonly [protocol: number]: number } = { 1: 8, 6: 20, 17: 8, 58: 8 }
          expect(bytes.length - packet.transport).toBeGreaterThanOrEqual(needed[packet.protocol] ?? 0)
        }
      ),
      { numRuns: 500 }
    )
  })
})

describe("isMulticast", () => {
  it("knows the groups of both families", () => {
    const multicast = (text: string) => isMulticast(text.includes(":") ? 6 : 4, wordsOf(ip(text)))
    expect(["224.0.0.0", "239.255.255.255", "ff02::1", "ff00::"].map(multicast)).toEqual([true, true, true, true])
    expect(["223.255.255.255", "240.0.0.0", "fe80::1", "e000::1"].map(multicast)).toEqual([false, false, false, false])
  })
})
