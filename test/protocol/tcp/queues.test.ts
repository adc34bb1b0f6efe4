/** The queues under a connection, against plain arrays. */
import { assert, describe, it } from "@effect/vitest"
import * as FastCheck from "effect/FastCheck"
import { ByteQueue } from "../../../src/protocol/tcp/ByteQueue.ts"
import { TcpReceiver } from "../../../src/protocol/tcp/TcpReceiver.ts"

describe("a queue of bytes", () => {
  it("is an array of bytes", () => {
    const command = FastCheck.oneof(
      FastCheck.uint8Array({ maxLength: 3000 }).map((bytes) => ({ append: bytes })),
      FastCheck.nat(4000).map((discard) => ({ discard })),
      FastCheck.record({ gap: FastCheck.nat(2000), bytes: FastCheck.uint8Array({ minLength: 1, maxLength: 500 }) })
    )
    FastCheck.assert(FastCheck.property(FastCheck.array(command, { maxLength: 60 }), (commands) => {
      const queue = new ByteQueue()
      let model: Array<number> = []
      for (const each of commands) {
        if ("append" in each) {
          queue.append(each.append)
          model.push(...each.append)
        } else if ("discard" in each) {
          const count = Math.min(each.discard, model.length)
          queue.discard(count)
          model = model.slice(count)
        } else {
          // Out of order, then what was missing: both in their places.
          const filler = new Uint8Array(each.gap).fill(7)
          queue.putBeyond(each.gap, each.bytes, 0, each.bytes.length)
          queue.putBeyond(0, filler, 0, filler.length)
          queue.extend(each.gap + each.bytes.length)
          model.push(...filler, ...each.bytes)
        }
        assert.deepStrictEqual([...queue.view(0, queue.length)], model)
        if (model.length > 0) assert.strictEqual(queue.at(model.length - 1), model.at(-1))
      }
    }))
  })
})

it("a queue of bytes moves them to the front when that makes room enough", () => {
  const queue = new ByteQueue()
  const bytes = (count: number, first: number) => Uint8Array.from({ length: count }, (_, i) => (first + i) % 251)
  queue.append(bytes(3000, 0))
  queue.append(bytes(3000, 3000))
  queue.discard(5000)
  queue.append(bytes(1500, 6000))
  assert.deepStrictEqual(queue.view(0, 2500), bytes(2500, 5000))
})

describe("a receiver", () => {
  it("puts any segments in order, and never lets more come than it can hold", () => {
    const segment = FastCheck.record({
      start: FastCheck.nat(6000),
      length: FastCheck.nat(1500),
      read: FastCheck.oneof(FastCheck.constant(0), FastCheck.nat(3000))
    })
    const text = Uint8Array.from({ length: 8000 }, (_, i) => i * 7 + (i >> 8))
    FastCheck.assert(FastCheck.property(
      FastCheck.array(segment, { maxLength: 80 }),
      FastCheck.integer(),
      FastCheck.integer({ min: 1, max: 4000 }),
      (segments, initial, capacity) => {
        const receiver = new TcpReceiver(capacity, 100)
        receiver.start(initial)
        receiver.advertise()
        const known = new Set<number>()
        const read: Array<number> = []
        let promised = receiver.window
        for (const { length, read: wanted, start } of segments) {
          const edge = promised
          receiver.receive(initial + 1 + start | 0, text, start, length, false)
          for (let i = start; i < Math.min(start + length, edge); i++) known.add(i)
          const next = (receiver.next - initial - 1) | 0
          assert.strictEqual(next, read.length + receiver.length)
          // All that is known from the start on; pieces beyond it may have been dropped.
          for (let i = 0; i < next; i++) assert.isTrue(known.has(i))
          const end = Math.min(wanted, receiver.length)
          read.push(...receiver.take(0, end))
          const before = promised
          promised = next + receiver.advertise()
          assert.isAtLeast(promised, before, "a window that shrinks")
          assert.isAtMost(promised - read.length, capacity + 100)
        }
        assert.deepStrictEqual(read, [...text.subarray(0, read.length)])
      }
    ))
  })

  it("misses nothing: what all segments together cover is there", () => {
    FastCheck.assert(FastCheck.property(
      FastCheck.shuffledSubarray(Array.from({ length: 30 }, (_, i) => i), { minLength: 30, maxLength: 30 }),
      FastCheck.integer(),
      (order, initial) => {
        const text = Uint8Array.from({ length: 3000 }, (_, i) => i)
        const receiver = new TcpReceiver(5000, 100)
        receiver.start(initial)
        receiver.advertise()
        for (const i of order) receiver.receive(initial + 1 + i * 100 | 0, text, i * 100, 100, i === 29)
        assert.deepStrictEqual([receiver.length, receiver.isFinished], [3000, true])
        assert.deepStrictEqual(receiver.take(0, 3000), text)
      }
    ))
  })
})
