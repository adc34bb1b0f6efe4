/** The writer on a socket that stands for the device: one write for a packet or a train (host spec section 8.2). */
import * as FastCheck from "fast-check"
import { afterEach, assert, beforeEach, describe, it } from "vitest"
import { close, lazily } from "../../../src/ffi/linux/libc.ts"
import { DropCounts } from "../../../src/layers/tun/DropCounts.ts"
import { TunReader } from "../../../src/layers/tun/TunReader.ts"
import { TunWriter, type TunWriterOptions } from "../../../src/layers/tun/TunWriter.ts"
import { headerGsoSize, headerGsoType, VIRTIO_NET_HEADER } from "../../../src/protocol/wire/virtioNet.ts"
import { ACK, buildPacket, type PacketParts, PSH } from "../../protocol/wire/packets.ts"
import { describeWith } from "../../support/requires.ts"
import { dup2, makeSocketPair, type SocketPair } from "./socketPair.ts"

const plain = (packet: Uint8Array): Uint8Array => Uint8Array.from([...new Uint8Array(VIRTIO_NET_HEADER), ...packet])
const payload = (length: number, seed = 0): Uint8Array => Uint8Array.from({ length }, (_, i) => seed + i * 3)
const udp = (length: number, parts: Partial<PacketParts> = {}): Uint8Array =>
  buildPacket({ version: 4, protocol: "udp", payload: payload(length, parts.host), ...parts })
/** Packets of one flow that follow each other. */
const flow = (parts: Partial<PacketParts>, lengths: ReadonlyArray<number>): ReadonlyArray<Uint8Array> => {
  let sequence = 1000
  return lengths.map((length, id) => {
    const packet = buildPacket({ version: 4, protocol: "tcp", payload: payload(length, id), sequence, id, ...parts })
    sequence += length
    return packet
  })
}

const timerfdCreate = lazily<(clock: number, flags: number) => number>("int timerfd_create(int, int)")

let pair: SocketPair
let drops: DropCounts
let gone: Array<number>
let warnings: Array<string>

beforeEach(() => {
  pair = makeSocketPair()
  drops = new DropCounts()
  gone = []
  warnings = []
})
afterEach(() => pair.close())

const make = (options: Partial<TunWriterOptions> = {}, fd = pair.device): TunWriter =>
  new TunWriter(fd, {
    coalesceTcp: true,
    coalesceUdp: true,
    drops,
    onGone: (code) => gone.push(code),
    onWarning: (message, errno) => warnings.push(`${errno}: ${message}`),
    ...options
  })
const writeAll = (writer: TunWriter, packets: ReadonlyArray<Uint8Array>): void => {
  for (const packet of packets) writer.write(packet, 0, packet.length)
  writer.flush()
}

describe("TunWriter", () => {
  it("writes nothing before the flush, then single packets as they are", () => {
    const arena = new Uint8Array(4096).fill(0xaa)
    const [a, b] = [udp(10, { host: 1 }), udp(1252, { version: 6, host: 2 })]
    arena.set(a as Uint8Array, 100)
    arena.set(b as Uint8Array, 1000)
    const writer = make()
    writer.write(arena, 100, 38)
    writer.write(arena, 1000, 1300)
    assert.deepStrictEqual(pair.received(), [])
    writer.flush()
    assert.deepStrictEqual(pair.received(), [plain(a as Uint8Array), plain(b as Uint8Array)])
    writer.flush()
    assert.deepStrictEqual(pair.received(), [])
    assert.deepStrictEqual([writer.packets, writer.bytes], [2, 38 + 1300])
  })

  it("writes a train as one packet", () => {
    const writer = make()
    const packets = flow({}, [1240, 1240, 1240, 100])
    writeAll(writer, packets)
    const [written, ...more] = pair.received()
    assert.deepStrictEqual(more, [])
    assert.isDefined(written)
    assert.strictEqual(headerGsoType(written, 0), 1)
    assert.strictEqual(headerGsoSize(written, 0), 1240)
    assert.strictEqual(written.length, VIRTIO_NET_HEADER + 40 + 3 * 1240 + 100)
    assert.deepStrictEqual([writer.packets, writer.bytes], [4, 4 * 40 + 3 * 1240 + 100])
  })

  it("stops merging when the kernel refuses a train, and writes the train's packets one by one", () => {
    // A timer refuses every write with EINVAL; the complaint makes the descriptor a socket again.
    const timer = timerfdCreate()(1, 0)
    const writer = make({
      onWarning: (message, errno) => {
        warnings.push(`${errno}: ${message}`)
        dup2()(pair.device, timer)
      }
    }, timer)
    assert.isTrue(writer.coalesces)
    const trains = [...flow({ host: 1 }, [1000, 1000, 10]), ...flow({ host: 2, protocol: "udp" }, [1000, 1000])]
    writeAll(writer, trains)
    assert.deepStrictEqual(pair.received(), trains.map(plain))
    assert.deepStrictEqual(warnings, [
      "EINVAL: the kernel refuses merged packets on the tunnel device; writing them one by one"
    ])
    assert.isFalse(writer.coalesces)
    writeAll(writer, flow({ host: 3 }, [1000, 1000]))
    assert.lengthOf(pair.received(), 2)
    assert.deepStrictEqual(drops.snapshot(), {})
    close()(timer)
  })

  it("counts what could not be written, and warns once for each reason", () => {
    const writer = make({}, -1)
    writeAll(writer, [udp(1, { host: 1 }), udp(2, { host: 2 })])
    writeAll(writer, flow({}, [100, 100, 100]))
    assert.deepStrictEqual(drops.snapshot(), { "write-EBADF": 5 })
    assert.deepStrictEqual(warnings, ["EBADF: packets for the tunnel device were dropped"])
    assert.strictEqual(writer.packets, 0)
    assert.deepStrictEqual(gone, [])
  })

  it("reads nothing outside the array that it was given", () => {
    const writer = make()
    const bytes = udp(10)
    for (const [offset, length] of [[-1, 10], [0, 39], [30, 9], [0, 0], [Number.NaN, 1], [1e9, 1]] as const) {
      writer.write(bytes, offset, length)
    }
    writer.flush()
    assert.deepStrictEqual(pair.received(), [])
    assert.deepStrictEqual(drops.snapshot(), { "out-of-bounds": 6 })
  })

  it("writes nothing after it was closed", () => {
    const writer = make()
    writer.write(udp(10), 0, 38)
    writer.close()
    writeAll(writer, [udp(10)])
    assert.deepStrictEqual(pair.received(), [])
  })
})

// The sockets hold so much only with a buffer that root may ask for.
describeWith({ root: true }, "TunWriter with a full queue", () => {
  it("writes what the reader splits into the same packets, flow by flow", () => {
    const oneFlow = FastCheck.record({
      version: FastCheck.constantFrom<4 | 6>(4, 6),
      protocol: FastCheck.constantFrom<"tcp" | "udp">("tcp", "udp"),
      lengths: FastCheck.array(FastCheck.constantFrom(0, 1, 500, 1000, 1000, 1000), { maxLength: 40 }),
      push: FastCheck.integer({ min: 0, max: 60 })
    })
    FastCheck.assert(
      FastCheck.property(
        FastCheck.array(oneFlow, { minLength: 1, maxLength: 20 }),
        FastCheck.boolean(),
        FastCheck.boolean(),
        (flows, coalesceTcp, coalesceUdp) => {
          const sent = flows.map(({ lengths, protocol, push, version }, host) =>
            flow({ version, protocol, host }, lengths).map((packet, i) =>
              i !== push || protocol === "udp" ? packet : buildPacket({
                version,
                protocol,
                host,
                id: i,
                flags: ACK | PSH,
                sequence: 1000 + lengths.slice(0, i).reduce((sum, n) => sum + n, 0),
                payload: payload(lengths[i] as number, i)
              })
            )
          )
          const writer = make({ coalesceTcp, coalesceUdp })
          const longest = Math.max(...sent.map(({ length }) => length))
          for (let i = 0; i < longest; i++) {
            for (const packets of sent) {
              const packet = packets[i]
              if (packet !== undefined) writer.write(packet, 0, packet.length)
            }
          }
          writer.flush()
          const back: Array<Array<Uint8Array>> = sent.map(() => [])
          const hostAt = (bytes: Uint8Array, at: number): number =>
            bytes[at + ((bytes[at] as number) >>> 4 === 4 ? 15 : 23)] as number
          const other = new TunReader(
            pair.kernel,
            {
              onPacket: (bytes, offset, length) =>
                back[hostAt(bytes, offset)]?.push(bytes.slice(offset, offset + length)),
              onBatchEnd: () => undefined
            },
            drops,
            () => undefined
          )
          for (let turns = 0; turns < 20; turns++) other.drain()
          assert.deepStrictEqual(back, sent.map((packets) => [...packets]))
          assert.strictEqual(writer.packets, other.packets)
          assert.strictEqual(writer.bytes, other.bytes)
        }
      ),
      { numRuns: 100 }
    )
    assert.deepStrictEqual(drops.snapshot(), {})
    assert.deepStrictEqual(warnings, [])
  })

  it("flushes by itself when the queue is full, and loses nothing", () => {
    const writer = make({ coalesceTcp: false, coalesceUdp: false })
    const packets = Array.from({ length: 600 }, (_, id) => udp(20, { id }))
    for (const packet of packets) writer.write(packet, 0, packet.length)
    const first = pair.received()
    assert.lengthOf(first, 512)
    writer.flush()
    assert.deepStrictEqual([...first, ...pair.received()], packets.map(plain))
  })
})
