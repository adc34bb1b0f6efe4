import * as fc from "fast-check"
import { describe, expect, it } from "vitest"
import { Coalescer, MAX_HEADERS, MAX_TRAIN } from "../../../src/protocol/wire/coalesce.ts"
import { MAX_SEGMENTS, segment, type Segments } from "../../../src/protocol/wire/segment.ts"
import {
  headerFlags,
  headerGsoSize,
  headerGsoType,
  NEEDS_CSUM,
  VIRTIO_NET_HEADER
} from "../../../src/protocol/wire/virtioNet.ts"
import { ACK, buildPacket, FIN, isIntact, type PacketParts, PSH, SYN } from "./packets.ts"

/** A packet as the device would get it: by itself, or a train as one with its virtio header. */
interface Written {
  readonly count: number
  readonly bytes: Uint8Array
}

const coalesce = (packets: ReadonlyArray<Uint8Array>, tcp = true, udp = true): ReadonlyArray<Written> => {
  const queue = new Coalescer(512, tcp, udp)
  for (const packet of packets) expect(queue.add(packet, 0, packet.length)).toBe(true)
  return written(queue)
}

const written = (queue: Coalescer): ReadonlyArray<Written> =>
  Array.from({ length: queue.trains }, (_, train) => {
    const count = queue.counts[train] as number
    const members: Array<number> = []
    for (let i = queue.firsts[train] as number; i >= 0; i = queue.next[i] as number) members.push(i)
    expect(members).toHaveLength(count)
    const slices = members.map((i) =>
      (queue.buffers[i] as Uint8Array).subarray(
        queue.offsets[i],
        (queue.offsets[i] as number) + (queue.lengths[i] as number)
      )
    )
    if (count === 1) return { count, bytes: (slices[0] as Uint8Array).slice() }
    const headers = new Uint8Array(VIRTIO_NET_HEADER + MAX_HEADERS)
    const length = queue.writeHeaders(train, headers, 0)
    const payloads = slices.flatMap((slice, i) => [...slice.subarray(queue.headers[members[i] as number])])
    return { count, bytes: Uint8Array.from([...headers.subarray(0, length), ...payloads]) }
  })

/** What the receiving kernel would make of it. */
const split = ({ bytes, count }: Written): ReadonlyArray<Uint8Array> => {
  if (count === 1) return [bytes]
  expect(headerFlags(bytes, 0)).toBe(NEEDS_CSUM)
  const stride = 2048
  const at = stride * MAX_SEGMENTS
  const arena = new Uint8Array(at + 65_536)
  arena.set(bytes.subarray(VIRTIO_NET_HEADER), at)
  const out: Segments = { count: 0, length: 0, lastLength: 0 }
  const length = bytes.length - VIRTIO_NET_HEADER
  expect(length).toBeLessThanOrEqual(65_535)
  expect(segment(arena, at, length, headerGsoType(bytes, 0), headerGsoSize(bytes, 0), 1280, 0, stride, out))
    .toBeUndefined()
  expect(out.count).toBe(count)
  return Array.from(
    { length: count },
    (_, i) => arena.slice(i * stride, i * stride + (i === count - 1 ? out.lastLength : out.length))
  )
}

/** `sizes.length` packets of one flow that directly follow each other. */
const train = (sizes: ReadonlyArray<number>, parts: Omit<PacketParts, "payload">): ReadonlyArray<Uint8Array> => {
  let sequence = parts.sequence ?? 1
  return sizes.map((size, i) => {
    const packet = buildPacket({
      ...parts,
      payload: Uint8Array.from({ length: size }, (_, n) => n * 31 + i),
      sequence,
      id: ((parts.id ?? 0) + i) & 0xffff
    })
    sequence = (sequence + size) >>> 0
    return packet
  })
}

const counts = (packets: ReadonlyArray<Uint8Array>, tcp = true, udp = true): ReadonlyArray<number> =>
  coalesce(packets, tcp, udp).map(({ count }) => count)

const tcp: Omit<PacketParts, "payload"> = { version: 4, protocol: "tcp" }
const udp: Omit<PacketParts, "payload"> = { version: 6, protocol: "udp" }
const flowOf = (packet: Uint8Array): string =>
  ((packet[0] as number) >>> 4 === 4 ? [...packet.subarray(9, 10), ...packet.subarray(12, 24)] : [
    ...packet.subarray(6, 7),
    ...packet.subarray(8, 44)
  ]).join()

describe("Coalescer", () => {
  it("merges a full train, with a short end", () => {
    expect(counts(train([1000, 1000, 1000, 400], tcp))).toEqual([4])
    expect(counts(train([500, 500, 20], udp))).toEqual([3])
    expect(counts(train([1000, 400, 400], tcp))).toEqual([2, 1])
    expect(counts(train([400, 1000, 1000], tcp))).toEqual([1, 2])
  })

  it("is undone by segmentation, whatever flows are mixed, and keeps the order of each flow", () => {
    const flow = fc.record({
      version: fc.constantFrom<4 | 6>(4, 6),
      protocol: fc.constantFrom<"tcp" | "udp">("tcp", "udp"),
      host: fc.integer({ min: 1, max: 9 }),
      sourcePort: fc.integer({ min: 1000, max: 1003 }),
      sequence: fc.integer({ min: 0, max: 0xffffffff }),
      id: fc.integer({ min: 0, max: 0xffff }),
      dontFragment: fc.boolean(),
      options: fc.constantFrom(0, 12).map((length) => new Uint8Array(length).fill(1)),
      sizes: fc.array(fc.constantFrom(1, 40, 900, 900, 900), { minLength: 1, maxLength: 8 }),
      push: fc.integer({ min: 0, max: 12 })
    })
    fc.assert(
      fc.property(
        fc.array(flow, { minLength: 1, maxLength: 25 }),
        fc.infiniteStream(fc.nat(1000)),
        (flows, choices) => {
          const queues = flows.map(({ push, sizes, ...parts }) => {
            const packets = [...train(sizes, parts)]
            const pushed = packets[push]
            // PSH goes into the packet's checksum: build it again with the flag.
            if (pushed !== undefined && parts.protocol === "tcp") {
              const before = sizes.slice(0, push).reduce((sum, size) => sum + size, 0)
              packets[push] = train([sizes[push] as number], {
                ...parts,
                sequence: (parts.sequence + before) >>> 0,
                id: (parts.id + push) & 0xffff,
                flags: ACK | PSH
              })[0] as Uint8Array
            }
            return packets
          })
          const mixed: Array<Uint8Array> = []
          for (const choice of choices) {
            const left = queues.filter((queue) => queue.length > 0)
            if (left.length === 0) break
            mixed.push((left[choice % left.length] as Array<Uint8Array>).shift() as Uint8Array)
          }
          const made = coalesce(mixed)
          expect(made.every(({ bytes, count }) => count === 1 || bytes.length > VIRTIO_NET_HEADER)).toBe(true)
          const back = made.flatMap(split)
          const byFlow = (packets: ReadonlyArray<Uint8Array>) => {
            const flows: Record<string, Array<string>> = {}
            for (const packet of packets) {
              expect(isIntact(packet)).toBe(true)
              ;(flows[flowOf(packet)] ??= []).push(withoutId(packet))
            }
            return flows
          }
          expect(byFlow(back)).toEqual(byFlow(mixed))
        }
      ),
      { numRuns: 60 }
    )
  })

  it("merges interleaved flows each for itself", () => {
    const a = train([1000, 1000, 1000], { ...tcp, sourcePort: 1 })
    const b = train([1000, 1000, 1000], { ...tcp, sourcePort: 2 })
    const c = train([500, 500, 500], { ...udp, sourcePort: 1 })
    const mixed = [0, 1, 2].flatMap((i) => [a[i], b[i], c[i]] as Array<Uint8Array>)
    expect(counts(mixed)).toEqual([3, 3, 3])
  })

  it("keeps a connection's SYN, FIN and bare ACK between its trains", () => {
    const packets = [
      ...train([1000, 1000], tcp),
      buildPacket({ ...tcp, payload: new Uint8Array(0), sequence: 2001 }),
      ...train([1000, 1000], { ...tcp, sequence: 2001 }),
      buildPacket({ ...tcp, payload: new Uint8Array(5), sequence: 4001, flags: ACK | FIN }),
      buildPacket({ ...tcp, payload: new Uint8Array(0), flags: SYN })
    ]
    expect(counts(packets)).toEqual([2, 1, 2, 1, 1])
  })

  it("ends a train at a push, and does not start one with it", () => {
    const pushed = (sequence: number) =>
      buildPacket({ ...tcp, payload: new Uint8Array(100), sequence, flags: ACK | PSH })
    expect(counts([...train([100, 100], tcp), pushed(201), ...train([100], { ...tcp, sequence: 301 })])).toEqual([3, 1])
    expect(counts([pushed(1), ...train([100, 100], { ...tcp, sequence: 101 })])).toEqual([1, 2])
    const [merged] = coalesce([...train([100, 100], tcp), pushed(201)])
    expect((merged as Written).bytes[VIRTIO_NET_HEADER + 33]).toBe(ACK | PSH)
  })

  const differing: ReadonlyArray<readonly [string, Omit<PacketParts, "payload">, Omit<PacketParts, "payload">]> = [
    ["sequence", tcp, { ...tcp, sequence: 102 }],
    ["acknowledgement", tcp, { ...tcp, sequence: 101, acknowledgement: 2 }],
    ["window", tcp, { ...tcp, sequence: 101, window: 2 }],
    ["options", tcp, { ...tcp, sequence: 101, options: Uint8Array.of(1, 1, 1, 1) }],
    ["time to live", tcp, { ...tcp, sequence: 101, hopLimit: 9 }],
    ["type of service", tcp, { ...tcp, sequence: 101, trafficClass: 3 }],
    ["don't fragment", tcp, { ...tcp, sequence: 101, dontFragment: false }],
    ["id of packets that may be fragmented", { ...tcp, dontFragment: false }, {
      ...tcp,
      sequence: 101,
      dontFragment: false,
      id: 7
    }],
    ["hop limit", udp, { ...udp, hopLimit: 9 }],
    ["traffic class", udp, { ...udp, trafficClass: 3 }],
    ["port", udp, { ...udp, destinationPort: 53 }],
    ["address", udp, { ...udp, host: 2 }]
  ]
  it.each(differing)("keeps packets apart that differ in %s", (_, first, second) => {
    const next = { ...first, sequence: 101, id: 1 }
    const one = buildPacket({ ...first, payload: new Uint8Array(100) })
    expect(counts([one, buildPacket({ ...next, payload: new Uint8Array(100) })])).toEqual([2])
    expect(counts([one, buildPacket({ ...second, payload: new Uint8Array(100) })])).toEqual([1, 1])
  })

  it("merges only what arrived intact", () => {
    for (const [parts, damaged] of [[tcp, 0], [tcp, 1], [udp, 0], [udp, 1]] as const) {
      const packets = train([600, 600, 600, 600], parts)
      const bad = packets[damaged] as Uint8Array
      bad[bad.length - 1] = (bad[bad.length - 1] as number) ^ 1
      const made = coalesce(packets)
      expect(made.map(({ count }) => count)).toEqual(damaged === 0 ? [1, 3] : [1, 1, 2])
      expect(made.filter(({ count }) => count === 1).map(({ bytes }) => isIntact(bytes))).toEqual(
        damaged === 0 ? [false] : [true, false]
      )
    }
    const packets = train([600, 600], tcp)
    ;(packets[1] as Uint8Array)[10] = ((packets[1] as Uint8Array)[10] as number) ^ 1
    expect(counts(packets)).toEqual([1, 1])
  })

  it("leaves datagrams without a checksum, fragments and everything odd alone", () => {
    const none = train([100, 100], { version: 4, protocol: "udp" }).map((packet) => packet.fill(0, 26, 28))
    expect(counts(none)).toEqual([1, 1])
    const fragments = train([100, 100], tcp).map((packet) => packet.fill(0x20, 6, 7))
    expect(counts(fragments)).toEqual([1, 1])
    const [a, b] = train([100, 100], tcp) as [Uint8Array, Uint8Array]
    const odd = new Uint8Array(60)
    odd[0] = 0x46
    expect(counts([a, odd, b])).toEqual([1, 1, 1])
    expect(counts([a, new Uint8Array(1), b])).toEqual([1, 1, 1])
  })

  it("bounds a train in bytes and in packets", () => {
    expect(counts(train(Array.from({ length: 100 }, () => 1240), tcp))).toEqual([52, 48])
    expect(counts(train(Array.from({ length: 300 }, () => 10), udp))).toEqual([MAX_TRAIN, MAX_TRAIN, 44])
  })

  it("merges nothing it is told not to, and refuses more than it has room for", () => {
    expect(counts(train([100, 100], tcp), false, true)).toEqual([1, 1])
    expect(counts(train([100, 100], udp), true, false)).toEqual([1, 1])
    const queue = new Coalescer(2, true, true)
    const [packet] = train([100], tcp) as [Uint8Array]
    expect([1, 2, 3].map(() => queue.add(packet, 0, packet.length))).toEqual([true, true, false])
    queue.clear()
    expect(queue.add(packet, 0, packet.length)).toBe(true)
    expect(queue.trains).toBe(1)
  })

  it("closes the oldest flow when there are too many, and loses nothing", () => {
    const flows = Array.from({ length: 40 }, (_, i) => train([100, 100, 100], { ...tcp, sourcePort: 1000 + i }))
    const mixed = [0, 1, 2].flatMap((i) => flows.map((flow) => flow[i] as Uint8Array))
    expect(coalesce(mixed).flatMap(split)).toHaveLength(120)
  })

  it("returns, whatever it is given", () => {
    fc.assert(fc.property(
      fc.array(
        fc.tuple(fc.uint8Array({ minLength: 1, maxLength: 90 }), fc.constantFrom(0x45, 0x60), fc.constantFrom(6, 17)),
        { maxLength: 30 }
      ),
      (packets) => {
        const bytes = packets.map(([packet, first, protocol]) => {
          packet[0] = first
          if (packet.length > 9) packet.set([protocol], first === 0x45 ? 9 : 6)
          if (packet.length > 6 && first === 0x45) packet.set([0, packet.length], 2)
          if (packet.length > 40 && first === 0x60) packet.set([0, packet.length - 40], 4)
          return packet
        })
        const made = coalesce(bytes)
        expect(made.reduce((sum, { count }) => sum + count, 0)).toBe(packets.length)
      }
    ))
  })
})

/** As text, without the IPv4 id and what covers it: with "don't fragment" the id means nothing. */
const withoutId = (packet: Uint8Array): string => {
  const copy = packet.slice()
  if ((copy[0] as number) >>> 4 === 4 && ((copy[6] as number) & 0x40) !== 0) {
    copy.fill(0, 4, 6)
    copy.fill(0, 10, 12)
  }
  return copy.join()
}
