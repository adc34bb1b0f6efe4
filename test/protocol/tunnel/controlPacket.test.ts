/** Vectors of tunnel spec 21.1, and what the network may make of them. */
import * as fc from "fast-check"
import { describe, expect, it } from "vitest"
import { isControlPacket, makeControlPacket, readControlEvent } from "../../../src/protocol/tunnel/controlPacket.ts"
import { ip } from "../../../src/protocol/wire/address.ts"
import { other, parsed, udp } from "./packets.ts"

const hex = (text: string): Uint8Array =>
  Uint8Array.from(text.replaceAll(" ", "").match(/../g) ?? [], (pair) => parseInt(pair, 16))
const concat = (...parts: ReadonlyArray<Uint8Array>): Uint8Array => Uint8Array.from(parts.flatMap((part) => [...part]))
const utf8 = (text: string): Uint8Array => new TextEncoder().encode(text)

const header = (payloadLength: string, type: string): Uint8Array =>
  concat(hex(`60000000 ${payloadLength} ff 00`), new Uint8Array(32), hex(type), new Uint8Array(7))

const resource = "00000000-0000-0000-0000-000000000065"
const goodbye = header("0008", "02")
const assignedText =
  `{"resource":"${resource}","domain":"example.com","proxy_ips":["100.96.0.1","100.96.0.2","100.96.0.3","100.96.0.4",` +
  `"fd00:2021:1111:8000::","fd00:2021:1111:8000::1","fd00:2021:1111:8000::2","fd00:2021:1111:8000::3"]}`
const assignedIps = concat(header("00f7", "00"), utf8(assignedText))
const statusText = `{"resource":"${resource}","domain":"example.com","status":"Active"}`
const domainStatus = concat(header("0064", "01"), utf8(statusText))

const proxyIps = ["100.96.0.1", "100.96.0.2", "100.96.0.3", "100.96.0.4"].map(ip).concat(
  ["", "1", "2", "3"].map((last) => ip(`fd00:2021:1111:8000::${last}`))
)

/** A control packet of this type and payload. */
const carrying = (type: number, payload: string): Uint8Array => {
  const packet = concat(header("0000", type.toString(16).padStart(2, "0")), utf8(payload))
  new DataView(packet.buffer).setUint16(4, packet.length - 40)
  return packet
}
const read = (packet: Uint8Array) => {
  const view = parsed(packet)
  expect(isControlPacket(view)).toBe(true)
  return readControlEvent(view)
}

describe("control packets", () => {
  it("are made as in the specification", () => {
    expect(makeControlPacket({ _tag: "Goodbye" })).toEqual(goodbye)
    expect(makeControlPacket({ _tag: "AssignedIps", resource, domain: "example.com", proxyIps })).toEqual(assignedIps)
    expect(makeControlPacket({ _tag: "DomainStatus", resource, domain: "example.com", status: "Active" })).toEqual(
      domainStatus
    )
    expect([utf8(assignedText).length, utf8(statusText).length]).toEqual([239, 92])
  })
  it("are read as in the specification", () => {
    expect(read(goodbye)).toEqual({ _tag: "Goodbye" })
    expect(read(assignedIps)).toEqual({ _tag: "AssignedIps", resource, domain: "example.com", proxyIps })
    expect(read(domainStatus)).toEqual({ _tag: "DomainStatus", resource, domain: "example.com", status: "Active" })
  })
  it("read an unknown status as inactive, ignore unknown members and the reserved bytes", () => {
    expect(read(carrying(1, statusText.replace("Active", "what_is_this")))).toMatchObject({ status: "Inactive" })
    expect(read(carrying(1, statusText.replace("{", `{"more":[1],`)))).toMatchObject({ status: "Active" })
    const packet = goodbye.slice()
    packet.fill(0xab, 41, 48)
    expect(read(packet)).toEqual({ _tag: "Goodbye" })
  })
  it("with 4 addresses are for a resource of one family", () => {
    const four = { _tag: "AssignedIps", resource, domain: "a", proxyIps: proxyIps.slice(0, 4) } as const
    expect(read(makeControlPacket(four))).toEqual(four)
  })
  it("of a later version are unknown", () => {
    expect(read(carrying(3, ""))).toEqual({ _tag: "Unknown", type: 3 })
    expect(read(carrying(255, "{}"))).toEqual({ _tag: "Unknown", type: 255 })
  })
  it.each([
    ["no JSON", "{"],
    ["no object", "[]"],
    ["null", "null"],
    ["no resource", `{"domain":"a","status":"Active"}`],
    ["no id", `{"resource":"x","domain":"a","status":"Active"}`],
    ["no domain", `{"resource":"${resource}","status":"Active"}`],
    ["an empty domain", `{"resource":"${resource}","domain":"","status":"Active"}`],
    ["a status of another type", `{"resource":"${resource}","domain":"a","status":1}`]
  ])("with %s are malformed", (_, payload) => {
    expect(read(carrying(1, payload))).toEqual({ _tag: "Malformed" })
  })
  it("with another number of addresses, or others than addresses, are malformed", () => {
    const assigned = (ips: unknown) => carrying(0, JSON.stringify({ resource, domain: "a", proxy_ips: ips }))
    const bad = [undefined, "x", [], proxyIps.slice(0, 5), [...proxyIps, ...proxyIps], [1, 2, 3, 4], [
      "a",
      "b",
      "c",
      "d"
    ]]
    for (const ips of bad) expect(read(assigned(ips))).toEqual({ _tag: "Malformed" })
  })
  it("that are not UTF-8 or cut off before the type are malformed", () => {
    expect(read(concat(header("0009", "01"), Uint8Array.of(0xff)))).toEqual({ _tag: "Malformed" })
    expect(read(concat(header("0007", "02").subarray(0, 47)))).toEqual({ _tag: "Malformed" })
  })
  it("are known by protocol and both addresses", () => {
    expect(isControlPacket(parsed(goodbye))).toBe(true)
    expect(isControlPacket(parsed(udp({ from: "::", to: "::" })))).toBe(false)
    expect(isControlPacket(parsed(other({ from: "::", to: "::1" }, 0xff)))).toBe(false)
    expect(isControlPacket(parsed(other({ from: "::1", to: "::" }, 0xff)))).toBe(false)
    expect(isControlPacket(parsed(other({ from: "0.0.0.0", to: "0.0.0.0" }, 0xff)))).toBe(false)
  })
  it("are found behind extension headers", () => {
    const packet = concat(
      hex("60000000 0010 3c 00"),
      new Uint8Array(32),
      hex("ff00010400000000"),
      hex("0200000000000000")
    )
    expect(read(packet)).toEqual({ _tag: "Goodbye" })
  })
  it("of any content are read without an exception", () => {
    fc.assert(fc.property(fc.nat(3), fc.oneof(fc.json(), fc.string()), (type, payload) => {
      expect(read(carrying(type, payload.slice(0, 300)))).toHaveProperty("_tag")
    }))
  })
  it("with the longest name fit one packet", () => {
    const domain = "a".repeat(255)
    expect(makeControlPacket({ _tag: "AssignedIps", resource, domain, proxyIps }).length).toBeLessThanOrEqual(1280)
    expect(() => makeControlPacket({ _tag: "DomainStatus", resource, domain: "a".repeat(1280), status: "Active" }))
      .toThrow(RangeError)
  })
})
