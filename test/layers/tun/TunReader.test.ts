/** The reader on a socket that stands for the device: what it makes of each read (host spec section 8.2). */
import * as FastCheck from "fast-check"
import { afterEach, assert, beforeEach, describe, it } from "vitest"
import { DropCounts } from "../../../src/layers/tun/DropCounts.ts"
import { TunReader } from "../../../src/layers/tun/TunReader.ts"
import { CIPHER_HEADROOM, CIPHER_TAILROOM } from "../../../src/protocol/crypto.ts"
import { pseudoHeaderSum4 } from "../../../src/protocol/wire/checksum.ts"
import {
  GSO_NONE,
  GSO_TCPV4,
  GSO_TCPV6,
  GSO_UDP_L4,
  NEEDS_CSUM,
  VIRTIO_NET_HEADER,
  writeGsoHeader
} from "../../../src/protocol/wire/virtioNet.ts"
import { buildPacket, isIntact, type PacketParts } from "../../protocol/wire/packets.ts"
import { makeSocketPair, type SocketPair } from "./socketPair.ts"

/** As the device gives it: the packet behind its header. */
const framed = (
  packet: Uint8Array,
  header: Partial<{ flags: number; type: number; size: number; start: number; offset: number }> = {}
) => {
  const bytes = new Uint8Array(VIRTIO_NET_HEADER + packet.length)
  writeGsoHeader(bytes, 0, header.type ?? GSO_NONE, 0, header.size ?? 0, header.start ?? 0, header.offset ?? 0)
  bytes[0] = header.flags ?? 0
  bytes.set(packet, VIRTIO_NET_HEADER)
  return bytes
}
const payload = (length: number): Uint8Array => Uint8Array.from({ length }, (_, i) => i * 7 + (i >> 8))
const udp = (length: number, parts: Partial<PacketParts> = {}): Uint8Array =>
  buildPacket({ version: 4, protocol: "udp", payload: payload(length), ...parts })

let pair: SocketPair
let drops: DropCounts
let gone: Array<number>
/** Copies, taken when their batch ends, as the contract allows. */
let batches: Array<ReadonlyArray<Uint8Array>>
let reader: TunReader
let onPacket: (bytes: Uint8Array, offset: number, length: number) => void

beforeEach(() => {
  pair = makeSocketPair()
  drops = new DropCounts()
  gone = []
  batches = []
  onPacket = () => undefined
  const views: Array<Uint8Array> = []
  reader = new TunReader(
    pair.device,
    {
      onPacket: (bytes, offset, length) => {
        assert.isAtLeast(offset, CIPHER_HEADROOM)
        assert.isAtMost(offset + length + CIPHER_TAILROOM, bytes.length)
        onPacket(bytes, offset, length)
        views.push(bytes.subarray(offset, offset + length))
        // The receiver may use what is around the packet.
        bytes.fill(0xee, offset - CIPHER_HEADROOM, offset)
        bytes.fill(0xee, offset + length, offset + length + CIPHER_TAILROOM)
      },
      onBatchEnd: () => {
        batches.push(views.map((view) => view.slice()))
        views.length = 0
      }
    },
    drops,
    (code) => gone.push(code)
  )
})
afterEach(() => pair.close())

const packets = (): ReadonlyArray<Uint8Array> => batches.flat()

describe("TunReader", () => {
  it("hands on packets in their order and ends the batch after them", () => {
    const sent = [udp(1), udp(1252), udp(0), udp(40, { version: 6 })]
    for (const packet of sent) pair.send(framed(packet))
    reader.drain()
    assert.deepStrictEqual(batches, [sent])
    assert.strictEqual(reader.packets, 4)
    assert.strictEqual(reader.bytes, sent.reduce((sum, { length }) => sum + length, 0))
    reader.drain()
    assert.lengthOf(batches, 1)
    assert.deepStrictEqual(drops.snapshot(), {})
  })

  it("completes a checksum that the kernel left to it (host 18.17)", () => {
    const packet = udp(333)
    const partial = packet.slice()
    const sum = pseudoHeaderSum4(partial, 0, 17, partial.length - 20)
    partial[26] = sum >>> 8
    partial[27] = sum & 0xff
    pair.send(framed(partial, { flags: NEEDS_CSUM, start: 20, offset: 6 }))
    reader.drain()
    assert.deepStrictEqual(packets(), [packet])
  })

  it("cuts trains of every kind into whole packets, one behind the other (host 18.17)", () => {
    FastCheck.assert(
      FastCheck.property(
        FastCheck.constantFrom<4 | 6>(4, 6),
        FastCheck.constantFrom<"tcp" | "udp">("tcp", "udp"),
        FastCheck.integer({ min: 1, max: 60_000 }),
        FastCheck.integer({ min: 300, max: 1220 }),
        FastCheck.integer({ min: 0, max: 2 }),
        (version, protocol, length, size, singles) => {
          batches.length = 0
          for (let i = 0; i < singles; i++) pair.send(framed(udp(10)))
          const whole = buildPacket({ version, protocol, payload: payload(length) })
          const type = protocol === "udp" ? GSO_UDP_L4 : version === 4 ? GSO_TCPV4 : GSO_TCPV6
          pair.send(framed(whole, { flags: NEEDS_CSUM, type, size }))
          reader.drain()
          const segments = packets().slice(singles)
          assert.strictEqual(segments.length, Math.ceil(length / size))
          assert.isTrue(segments.every(isIntact))
          const headers = (version === 4 ? 20 : 40) + (protocol === "tcp" ? 20 : 8)
          assert.deepStrictEqual(
            Buffer.concat(segments.map((one) => one.subarray(headers))),
            Buffer.from(payload(length))
          )
        }
      ),
      { numRuns: 60 }
    )
    assert.deepStrictEqual(drops.snapshot(), {})
  })

  it("drops and counts what it cannot hand on", () => {
    const fragment = udp(100)
    fragment[6] = 0x20
    const cases: ReadonlyArray<readonly [reason: string, bytes: Uint8Array]> = [
      ["short", Uint8Array.of(0)],
      ["short", framed(new Uint8Array(19).fill(0x45))],
      ["oversized", framed(udp(1253))],
      ["fragment", framed(fragment)],
      ["checksum-offset", framed(udp(10), { flags: NEEDS_CSUM, start: 20, offset: 17 })],
      ["checksum-offset", framed(udp(10), { flags: NEEDS_CSUM, start: 65_535, offset: 65_535 })],
      ["gso-type", framed(udp(3000), { type: 3, size: 1000 })],
      ["gso-size", framed(udp(3000), { type: GSO_UDP_L4, size: 0 })],
      ["gso-header", framed(udp(3000), { type: GSO_TCPV4, size: 1000 })],
      ["gso-segments", framed(udp(3000), { type: GSO_UDP_L4, size: 1 })],
      ["oversized", framed(udp(3000), { type: GSO_UDP_L4, size: 1253 })]
    ]
    const expected: { [reason: string]: number } = {}
    for (const [reason, bytes] of cases) {
      expected[reason] = (expected[reason] ?? 0) + 1
      pair.send(bytes)
      reader.drain()
      assert.deepStrictEqual(drops.snapshot(), expected)
    }
    assert.deepStrictEqual(batches, [])
    pair.send(framed(udp(5)))
    reader.drain()
    assert.deepStrictEqual(packets(), [udp(5)])
    assert.deepStrictEqual(gone, [])
  })

  it("survives any bytes, and hands on nothing longer than a packet may be", () => {
    FastCheck.assert(
      FastCheck.property(
        FastCheck.uint8Array({ minLength: 1, maxLength: 3000 }),
        FastCheck.constantFrom(0, 1, 3, 4, 5),
        FastCheck.integer({ min: 0, max: 1400 }),
        FastCheck.constantFrom(0x45, 0x4f, 0x60, 0x00),
        (bytes, type, size, first) => {
          batches.length = 0
          if (bytes.length > VIRTIO_NET_HEADER) {
            bytes.set([0, type, 0, 0, size & 0xff, size >>> 8], 0)
            bytes[VIRTIO_NET_HEADER] = first
          }
          pair.send(bytes)
          const before = Object.values(drops.snapshot()).reduce((sum, n) => sum + n, 0)
          reader.drain()
          const after = Object.values(drops.snapshot()).reduce((sum, n) => sum + n, 0)
          assert.strictEqual(after - before, packets().length === 0 ? 1 : 0)
          for (const packet of packets()) assert.isAtMost(packet.length, 1280)
        }
      ),
      { numRuns: 1000 }
    )
  })

  it("gives up its turn after a budget, and leaves the rest for the next one", () => {
    for (let i = 0; i < 200; i++) pair.send(framed(udp(4, { id: i })))
    reader.drain()
    assert.deepStrictEqual(batches.map(({ length }) => length), [40, 24])
    for (let i = 0; i < 3; i++) reader.drain()
    assert.deepStrictEqual(packets(), Array.from({ length: 200 }, (_, id) => udp(4, { id })))
    batches.length = 0
    const train = framed(udp(50_000), { type: GSO_UDP_L4, size: 250 })
    for (let i = 0; i < 3; i++) pair.send(train)
    reader.drain()
    assert.deepStrictEqual(batches.map(({ length }) => length), [200, 200])
    // The device is empty, and will not tell of the third.
    assert.isTrue(reader.holdsPackets)
    reader.drain()
    assert.deepStrictEqual(batches.map(({ length }) => length), [200, 200, 200])
    assert.isFalse(reader.holdsPackets)
  })

  it("lets packets of other flows overtake trains, and no packet one of its own flow", () => {
    const bulk = { version: 4, protocol: "udp", sourcePort: 1000 } as const
    const train = framed(buildPacket({ ...bulk, payload: payload(3000) }), { type: GSO_UDP_L4, size: 1000 })
    const tail = buildPacket({ ...bulk, payload: payload(7) })
    const other = buildPacket({ ...bulk, sourcePort: 1001, payload: payload(8) })
    for (const bytes of [train, framed(tail), train, framed(other), framed(tail)]) pair.send(bytes)
    reader.drain()
    const lengths = packets().map(({ length }) => length - 28)
    assert.deepStrictEqual(lengths, [8, 1000, 1000, 1000, 7, 1000, 1000, 1000, 7])
  })

  it("keeps the order of every flow, whatever comes in whatever order, and loses nothing", () => {
    const ports = [1, 2, 3, 4]
    FastCheck.assert(
      FastCheck.property(
        FastCheck.array(
          FastCheck.record({
            sourcePort: FastCheck.constantFrom(...ports),
            count: FastCheck.integer({ min: 1, max: 90 }),
            kind: FastCheck.constantFrom("single", "train", "train", "broken train"),
            drainFirst: FastCheck.integer({ min: 0, max: 99 })
          }),
          { maxLength: 150 }
        ),
        (steps) => {
          batches.length = 0
          const next = new Map(ports.map((port) => [port, 0]))
          const numbers = (port: number, count: number): Uint8Array => {
            const from = next.get(port) as number
            next.set(port, from + count)
            const bytes = new DataView(new ArrayBuffer(4 * count))
            for (let i = 0; i < count; i++) bytes.setUint32(4 * i, from + i)
            return new Uint8Array(bytes.buffer)
          }
          let broken = 0
          const before = drops.snapshot()["gso-size"] ?? 0
          for (const { count, drainFirst, kind, sourcePort } of steps) {
            if (drainFirst === 0) reader.drain()
            const packet = buildPacket({
              version: sourcePort % 2 === 0 ? 4 : 6,
              protocol: "udp",
              sourcePort,
              payload: kind === "broken train" ? payload(9) : numbers(sourcePort, kind === "train" ? count : 1)
            })
            if (kind === "broken train") broken += 1
            pair.send(framed(packet, kind === "single" ? {} : { type: GSO_UDP_L4, size: kind === "train" ? 4 : 0 }))
          }
          for (let i = 0; i < 100; i++) reader.drain()
          assert.isFalse(reader.holdsPackets)
          const seen = new Map<number, Array<number>>(ports.map((port) => [port, []]))
          for (const bytes of packets()) {
            const view = new DataView(bytes.buffer, bytes.byteOffset)
            const udpAt = (bytes[0] as number) >>> 4 === 4 ? 20 : 40
            seen.get(view.getUint16(udpAt))?.push(view.getUint32(udpAt + 8))
          }
          for (const port of ports) {
            assert.deepStrictEqual(seen.get(port), Array.from({ length: next.get(port) as number }, (_, i) => i))
          }
          assert.strictEqual(drops.snapshot()["gso-size"] ?? 0, before + broken)
        }
      ),
      { numRuns: 100 }
    )
    assert.doesNotHaveAnyKeys(drops.snapshot(), ["short", "oversized", "gso-header", "fragment"])
  })

  it("hands on a train in every turn, however many packets would overtake it", () => {
    pair.send(framed(udp(3000), { type: GSO_UDP_L4, size: 1000 }))
    for (let i = 0; i < 150; i++) pair.send(framed(udp(4, { sourcePort: 2000 + i % 9 })))
    reader.drain()
    assert.include(packets().map(({ length }) => length), 1028)
  })

  it("leaves what it has not read while it is paused, and loses nothing of what it has", () => {
    const train = udp(5000)
    pair.send(framed(train, { type: GSO_UDP_L4, size: 100 }))
    for (let i = 0; i < 3; i++) pair.send(framed(udp(4, { id: i })))
    let seen = 0
    onPacket = () => {
      seen += 1
      if (seen === 2) reader.setPaused(true)
    }
    reader.drain()
    assert.deepStrictEqual(batches.map(({ length }) => length), [50])
    reader.drain()
    assert.lengthOf(batches, 1)
    reader.setPaused(false)
    reader.drain()
    assert.deepStrictEqual(batches.slice(1), [[0, 1, 2].map((id) => udp(4, { id }))])
    assert.deepStrictEqual(drops.snapshot(), {})
  })

  it("hands on nothing after it was stopped, not even the rest of a train", () => {
    pair.send(framed(udp(5000), { type: GSO_UDP_L4, size: 1000 }))
    pair.send(framed(udp(5)))
    let seen = 0
    onPacket = () => {
      seen += 1
      if (seen === 2) reader.stop()
    }
    reader.drain()
    reader.drain()
    assert.strictEqual(seen, 2)
    assert.deepStrictEqual(batches, [])
  })

  it("tells once that the device has ended, or failed", () => {
    pair.send(framed(udp(5)))
    pair.closeKernel()
    reader.drain()
    assert.deepStrictEqual(gone, [0])
    reader.drain()
    assert.deepStrictEqual(gone, [0])
    const closed = new TunReader(-1, { onPacket, onBatchEnd: () => undefined }, drops, (code) => gone.push(code))
    closed.drain()
    assert.deepStrictEqual(gone, [0, 9]) // EBADF
  })
})
