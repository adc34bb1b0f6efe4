import * as fc from "fast-check"
import { describe, expect, it } from "vitest"
import {
  IcmpError,
  type IcmpErrorKind,
  isIcmpError,
  parseIcmpError,
  writeIcmpError
} from "../../../src/protocol/wire/icmp.ts"
import { IpPacket, PacketKind } from "../../../src/protocol/wire/ip.ts"
import { icmp, icmpError, isIntact, other, parsed, ping, tcp, udp } from "../tunnel/packets.ts"

const v4 = { from: "100.64.0.1", to: "10.0.0.1" }
const v6 = { from: "fd00:2021:1111::1", to: "2001:db8::1" }

const hex = (text: string): Uint8Array =>
  Uint8Array.from(text.replaceAll(" ", "").match(/../g) ?? [], (pair) => parseInt(pair, 16))

const answer = (packet: Uint8Array, kind: IcmpErrorKind = "prohibited"): Uint8Array => {
  const output = new Uint8Array(2000).fill(0xaa)
  const length = writeIcmpError(parsed(packet), kind, output, 100)
  expect(output.subarray(0, 100).every((byte) => byte === 0xaa)).toBe(true)
  expect(output.subarray(100 + length).every((byte) => byte === 0xaa)).toBe(true)
  return output.slice(100, 100 + length)
}

const read = (packet: Uint8Array): IcmpError | undefined => {
  const error = new IcmpError()
  return parseIcmpError(parsed(packet), error) ? error : undefined
}

describe("writeIcmpError", () => {
  it("is the vector of tunnel spec 21.2", () => {
    const original = hex("45000021 00000000 40110c8b 64400001 0a000001 03e807d0 000d4208 68656c6c 6f")
    expect(answer(original)).toEqual(hex(
      "45000038 00000000 14013884 0a000001 64400001 030daf25 00000000" +
        "45000021 00000000 40110c8b 64400001 0a000001 03e807d0 000d4208"
    ))
  })
  it("has the type and code of its kind and family", () => {
    const typeAndCode = (packet: Uint8Array, at: number) => [packet[at], packet[at + 1]]
    expect(typeAndCode(answer(udp(v4)), 20)).toEqual([3, 13])
    expect(typeAndCode(answer(udp(v4), "unreachable-net"), 20)).toEqual([3, 0])
    expect(typeAndCode(answer(udp(v6)), 40)).toEqual([1, 1])
    expect(typeAndCode(answer(udp(v6), "unreachable-net"), 40)).toEqual([1, 3])
  })
  it("quotes the IPv4 header with its options and 8 bytes, and of IPv6 as much as fits 1280", () => {
    const plain = udp(v4, 1, "payload")
    const withOptions = Uint8Array.from([...plain.subarray(0, 20), 1, 1, 1, 0, ...plain.subarray(20)])
    withOptions[0] = 0x46
    withOptions[3] = withOptions.length
    expect(answer(withOptions).subarray(28)).toEqual(withOptions.subarray(0, 32))
    const small = udp(v6, 1, "payload")
    expect(answer(small).subarray(48)).toEqual(small)
    const large = udp(v6, 1, "x".repeat(1232))
    expect(answer(large)).toHaveLength(1280)
    expect(answer(large).subarray(48)).toEqual(large.subarray(0, 1232))
  })
  it("quotes a packet shorter than that as it is", () => {
    const tiny = other(v4, 47, new Uint8Array(3))
    expect(answer(tiny).subarray(28)).toEqual(tiny)
  })
  it("has right checksums and reads back as what was refused, whatever that was", () => {
    const packet = fc.oneof(
      fc.tuple(fc.constantFrom(v4, v6), fc.nat(65_535), fc.string({ maxLength: 300 })).map(([ends, port, text]) =>
        udp(ends, port, text)
      ),
      fc.tuple(fc.constantFrom(v4, v6), fc.nat(65_535)).map(([ends, port]) => tcp(ends, port)),
      fc.tuple(fc.constantFrom(v4, v6), fc.nat(65_535)).map(([ends, identifier]) => ping(ends, identifier))
    )
    fc.assert(fc.property(packet, fc.constantFrom<IcmpErrorKind>("prohibited", "unreachable-net"), (bytes, kind) => {
      const original = parsed(bytes)
      const error = answer(bytes, kind)
      expect(isIntact(error)).toBe(true)
      const view = parsed(error)
      expect(isIcmpError(view)).toBe(true)
      expect([view.source, view.destination]).toEqual([original.destination, original.source])
      const { failed, isProhibited } = read(error) ?? new IcmpError()
      expect(isProhibited).toBe(kind === "prohibited")
      expect([failed.kind, failed.sourcePort, failed.destinationPort, failed.source, failed.destination]).toEqual(
        [original.kind, original.sourcePort, original.destinationPort, original.source, original.destination]
      )
    }))
  })
})

describe("isIcmpError", () => {
  it("knows errors of both families, known or not", () => {
    const isError = (packet: Uint8Array) => isIcmpError(parsed(packet))
    expect([3, 4, 5, 11, 12].map((type) => isError(icmp(v4, type)))).toEqual([true, true, true, true, true])
    expect([1, 2, 3, 4, 127].map((type) => isError(icmp(v6, type)))).toEqual([true, true, true, true, true])
  })
  it("takes questions, answers and everything else for none", () => {
    const isError = (packet: Uint8Array) => isIcmpError(parsed(packet))
    expect([0, 8, 9, 13].map((type) => isError(icmp(v4, type)))).toEqual([false, false, false, false])
    expect([128, 129, 135].map((type) => isError(icmp(v6, type)))).toEqual([false, false, false])
    expect([udp(v4), tcp(v6), other(v4, 47)].map(isError)).toEqual([false, false, false])
  })
})

describe("parseIcmpError", () => {
  /** An error of this type and code about `quoted`, the checksum being nobody's concern here. */
  const about = (quoted: Uint8Array, type: number, code: number, rest = 0): Uint8Array => {
    const is6 = (quoted[0] as number) >> 4 === 6
    const message = new Uint8Array(8 + quoted.length)
    message.set([type, code])
    new DataView(message.buffer).setUint32(4, rest)
    message.set(quoted, 8)
    return other(is6 ? v6 : v4, is6 ? 58 : 1, message)
  }

  it("reads type, code and MTU", () => {
    expect(read(about(udp(v4), 3, 4, 1400))).toMatchObject({ type: 3, code: 4, mtu: 1400, isProhibited: false })
    expect(read(about(udp(v4), 11, 0, 1400))).toMatchObject({ type: 11, mtu: undefined })
    expect(read(about(udp(v6), 2, 0, 0x10500))).toMatchObject({ type: 2, mtu: 0x10500 })
    expect(read(about(udp(v6), 3, 0))).toMatchObject({ type: 3, mtu: undefined, isProhibited: false })
    expect(read(about(udp(v4), 3, 13))).toMatchObject({ isProhibited: true })
    expect(read(about(udp(v4), 11, 13))).toMatchObject({ isProhibited: false })
  })
  it("is content with 4 bytes of ports, and a whole header of an echo", () => {
    expect(read(about(udp(v4).subarray(0, 24), 3, 1))?.failed).toMatchObject({
      kind: PacketKind.Udp,
      destinationPort: 5000
    })
    expect(read(about(udp(v4).subarray(0, 23), 3, 1))).toBeUndefined()
    expect(read(about(ping(v6, 9).subarray(0, 48), 1, 1))?.failed).toMatchObject({
      kind: PacketKind.Echo,
      sourcePort: 9
    })
    expect(read(about(ping(v6, 9).subarray(0, 47), 1, 1))).toBeUndefined()
  })
  it("refuses what is no error, unknown, or about something without ports", () => {
    const refused = [
      udp(v4),
      ping(v4),
      icmp(v4, 3),
      about(udp(v4), 5, 0),
      about(udp(v6), 4, 0),
      about(other(v4, 47), 3, 1),
      about(icmp(v4, 0), 3, 1), // an echo reply
      about(icmp(v4, 3), 3, 1),
      about(udp(v4).subarray(0, 19), 3, 1),
      about(new Uint8Array(40), 3, 1)
    ]
    for (const packet of refused) expect(read(packet)).toBeUndefined()
  })
  it("refuses a quotation of the other family", () => {
    const packet = about(udp(v4), 3, 1)
    const message = packet.subarray(20)
    const mixed = other(v6, 58, Uint8Array.from([1, 1, ...message.subarray(2)]))
    expect(read(mixed)).toBeUndefined()
  })
  it("returns on any quotation", () => {
    fc.assert(fc.property(fc.uint8Array({ maxLength: 200 }), fc.constantFrom(3, 11), (quoted, type) => {
      const message = Uint8Array.from([type, 1, 0, 0, 0, 0, 0, 0, ...quoted])
      const error = new IcmpError()
      expect(typeof parseIcmpError(parsed(other(v4, 1, message)), error)).toBe("boolean")
    }))
  })
  it("makes errors that its own kind must not answer", () => {
    const view = new IpPacket()
    const error = icmpError(udp(v4))
    view.parse(error, 0, error.length)
    expect(isIcmpError(view)).toBe(true)
  })
})
