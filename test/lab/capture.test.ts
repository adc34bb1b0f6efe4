import { assert, describe, it } from "vitest"
import { parse, wireguardType } from "../../src/lab/capture.ts"
import { ip, ipToBytes } from "../../src/protocol/wire/address.ts"

const HEADER = new Uint8Array(24)

/** As pcap-savefile(5) lays it out on a little-endian machine. */
const record = (seconds: number, micros: number, frame: Uint8Array): Uint8Array => {
  const bytes = new Uint8Array(16 + frame.length)
  const view = new DataView(bytes.buffer)
  view.setUint32(0, seconds, true)
  view.setUint32(4, micros, true)
  view.setUint32(8, frame.length, true)
  view.setUint32(12, frame.length, true)
  bytes.set(frame, 16)
  return bytes
}

const frame = (etherType: number, ...parts: ReadonlyArray<Iterable<number>>): Uint8Array =>
  Uint8Array.from([...new Uint8Array(12), etherType >> 8, etherType & 0xff, ...parts.flatMap((part) => [...part])])

const file = (...records: ReadonlyArray<Uint8Array>): Uint8Array =>
  Uint8Array.from([HEADER, ...records].flatMap((part) => [...part]))

const udp4 = (payload: ReadonlyArray<number>): Uint8Array => {
  // With four bytes of options, so that the length of the header counts.
  const header = [0x46, 0, 0, 0, 0, 0, 0, 0, 64, 17, 0, 0]
  const addresses = [...ipToBytes(ip("192.168.10.2")), ...ipToBytes(ip("203.0.113.3"))]
  return frame(0x0800, header, addresses, new Uint8Array(4), new Uint8Array(8), payload)
}

const tcp6 = (flags: number, payload: ReadonlyArray<number> = []): Uint8Array => {
  const addresses = [...ipToBytes(ip("2001:db8:20::2")), ...ipToBytes(ip("2001:db8::2"))]
  const header = [0x60, 0, 0, 0, 0, 0, 6, 64]
  return frame(0x86dd, header, addresses, new Uint8Array(12), [0x60, flags, ...new Uint8Array(10)], payload)
}

describe("a capture", () => {
  it("tells when and between which addresses packets of both families went, and what they began with", () => {
    const packets = parse(
      file(record(1_700_000_000, 250_000, udp4([1, 2, 3])), record(1_700_000_001, 0, tcp6(0x10, [7]))),
      "lan0"
    )
    assert.deepStrictEqual(packets.map(({ payload, ...packet }) => ({ ...packet, payload: [...payload] })), [
      {
        at: 1_700_000_000_250,
        link: "lan0",
        source: ip("192.168.10.2"),
        destination: ip("203.0.113.3"),
        protocol: "udp",
        isReset: false,
        payload: [1, 2, 3]
      },
      {
        at: 1_700_000_001_000,
        link: "lan0",
        source: ip("2001:db8:20::2"),
        destination: ip("2001:db8::2"),
        protocol: "tcp",
        isReset: false,
        payload: [7]
      }
    ])
  })

  it("knows resets, and leaves out what is neither UDP nor TCP or was cut short", () => {
    const arp = frame(0x0806, new Uint8Array(28))
    const icmp = udp4([])
    icmp[14 + 9] = 1
    const whole = record(1, 0, tcp6(0x04))
    const packets = parse(file(record(1, 0, arp), record(1, 0, icmp), whole, whole.subarray(0, 40)), "lan0")
    assert.deepStrictEqual(packets.map(({ isReset }) => isReset), [true])
    assert.deepStrictEqual(parse(file(record(1, 0, udp4([]).subarray(0, 40))), "lan0"), [])
    assert.deepStrictEqual(parse(new Uint8Array(10), "lan0"), [])
  })

  it("knows WireGuard messages, also in the channels of relays", () => {
    const typeOf = (bytes: Uint8Array): number => parse(file(record(1, 0, bytes)), "lan0").map(wireguardType)[0] ?? -1
    assert.strictEqual(typeOf(udp4([2, 0, 0, 0, 9, 9])), 2)
    assert.strictEqual(typeOf(udp4([0x40, 0, 0, 92, 1, 0, 0, 0])), 1)
    assert.strictEqual(typeOf(udp4([4, 0, 0, 1])), 0)
    assert.strictEqual(typeOf(udp4([5, 0, 0, 0])), 0)
    assert.strictEqual(typeOf(udp4([1, 0, 0])), 0)
    assert.strictEqual(typeOf(udp4([0x00, 0x01, 0x00, 0x0c, 0x21, 0x12, 0xa4, 0x42])), 0)
    assert.strictEqual(typeOf(tcp6(0x10, [4, 0, 0, 0])), 0)
  })
})
