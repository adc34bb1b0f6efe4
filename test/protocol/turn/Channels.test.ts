import { assert, describe, it } from "@effect/vitest"
import { Channels } from "../../../src/protocol/turn/Channels.ts"
import { ip, SocketAddress } from "../../../src/protocol/wire/address.ts"
import { peer1, peer2 } from "./support.ts"

const MINUTE = 60_000
const peer = (index: number): SocketAddress => new SocketAddress(ip("198.51.100.1"), index)

const bound = (channels: Channels, to: SocketAddress, now = 0): number => {
  const channel = channels.toBind(to, now)
  if (channel === undefined) throw new Error("no channel")
  channels.confirm(channel.number, now)
  return channel.number
}

const full = (now = 0): Channels => {
  const channels = new Channels()
  for (let i = 0; i < 4096; i++) assert.strictEqual(bound(channels, peer(i), now), 0x4000 + i)
  return channels
}

describe("numbers", () => {
  it("start at 0x4000 and are used up before any is used again", () => {
    const channels = new Channels()
    assert.strictEqual(bound(channels, peer(1)), 0x4000)
    channels.remove(0x4000)
    assert.strictEqual(bound(channels, peer(2)), 0x4001)
  })

  it("are refused when all are taken, and are free again after 15 minutes; the cursor moves on", () => {
    const channels = full()
    assert.isUndefined(channels.toBind(peer(5000), 0))
    assert.isUndefined(channels.toBind(peer(5000), 15 * MINUTE - 1))
    assert.strictEqual(channels.toBind(peer(5000), 16 * MINUTE)?.number, 0x4000)
    assert.strictEqual(channels.toBind(peer(5001), 16 * MINUTE)?.number, 0x4001)
    assert.strictEqual(channels.numberFor(peer(0), 16 * MINUTE), 0)
  })

  it("are free again at once when a bind failed", () => {
    const channels = full()
    assert.isUndefined(channels.toBind(peer(5000), 1))
    channels.remove(0x4777)
    assert.strictEqual(channels.toBind(peer(5000), 1)?.number, 0x4777)
  })

  it("that carried data are kept for 15 minutes after it", () => {
    const channels = full()
    for (let i = 0; i < 4096; i++) channels.receive(0x4000 + i, 9 * MINUTE)
    assert.isUndefined(channels.toBind(peer(5000), 23 * MINUTE))
    assert.strictEqual(channels.toBind(peer(5000), 24 * MINUTE + 1000)?.number, 0x4000)
  })
})

describe("a channel", () => {
  it("carries data both ways once bound, until it is 10 minutes old", () => {
    const channels = new Channels()
    const number = bound(channels, peer1)
    assert.strictEqual(channels.receive(number, 10 * MINUTE - 1), peer1)
    assert.strictEqual(channels.numberFor(peer1, 10 * MINUTE - 1), number)
    assert.isUndefined(channels.receive(number, 10 * MINUTE))
    assert.strictEqual(channels.numberFor(peer1, 10 * MINUTE), 0)
    assert.isUndefined(channels.receive(number + 1, 0))
  })

  it("being bound carries data out, but not in", () => {
    const channels = new Channels()
    const channel = channels.toBind(peer1, 0)
    assert.strictEqual(channels.numberFor(peer1, 0), 0x4000)
    assert.isUndefined(channels.receive(0x4000, 0))
    assert.strictEqual(channel?.number, 0x4000)
  })

  it("is not bound twice, while it is being bound or is bound", () => {
    const channels = new Channels()
    channels.toBind(peer1, 0)
    assert.isUndefined(channels.toBind(peer1, 0))
    assert.strictEqual(channels.toBind(peer2, 0)?.number, 0x4001)
    channels.confirm(0x4000, 1)
    assert.isUndefined(channels.toBind(peer1, 10 * MINUTE))
  })

  it("that cools down is bound again to its own peer, and only to it", () => {
    const channels = full()
    assert.isUndefined(channels.toBind(peer(5000), 10 * MINUTE))
    assert.strictEqual(channels.toBind(peer(7), 14 * MINUTE)?.number, 0x4007)
    assert.strictEqual(channels.numberFor(peer(7), 14 * MINUTE), 0x4007)
    assert.isUndefined(channels.receive(0x4007, 14 * MINUTE), "the relay has not answered yet")
  })

  it("of 15 minutes ago is forgotten: its peer gets the next number", () => {
    const channels = new Channels()
    bound(channels, peer1)
    assert.strictEqual(channels.toBind(peer1, 15 * MINUTE)?.number, 0x4001)
  })
})

describe("a refresh", () => {
  const cases = [
    { receivedAt: undefined, now: 4 * MINUTE, expected: false },
    { receivedAt: undefined, now: 6 * MINUTE, expected: false },
    { receivedAt: MINUTE, now: 5 * MINUTE - 1, expected: false },
    { receivedAt: MINUTE, now: 5 * MINUTE, expected: true }
  ]
  for (const { expected, now, receivedAt } of cases) {
    it(`is ${expected ? "due" : "not due"} after ${now / MINUTE} min, data ${receivedAt === undefined ? "no" : "yes"}`, () => {
      const channels = new Channels()
      const number = bound(channels, peer1)
      if (receivedAt !== undefined) channels.receive(number, receivedAt)
      assert.strictEqual(channels.nextTimeout(), receivedAt === undefined ? Number.POSITIVE_INFINITY : 5 * MINUTE)
      assert.strictEqual(channels.nextRefresh(now)?.number, expected ? number : undefined)
      assert.isUndefined(channels.nextRefresh(now), "one at a time")
    })
  }

  it("is due at once when the first data comes late, and again five minutes after it was confirmed", () => {
    const channels = new Channels()
    const number = bound(channels, peer1)
    channels.receive(number, 7 * MINUTE)
    assert.strictEqual(channels.nextRefresh(7 * MINUTE)?.number, number)
    assert.isUndefined(channels.nextRefresh(7 * MINUTE), "one at a time")
    channels.confirm(number, 7 * MINUTE)
    assert.strictEqual(channels.nextTimeout(), Number.POSITIVE_INFINITY, "no data since")
    channels.receive(number, 8 * MINUTE)
    assert.isUndefined(channels.nextRefresh(12 * MINUTE - 1))
    assert.strictEqual(channels.nextRefresh(12 * MINUTE)?.number, number)
  })

  it("comes for every channel that needs one", () => {
    const channels = new Channels()
    for (const to of [peer1, peer2, peer(3)]) channels.receive(bound(channels, to), 1)
    const due = [1, 2, 3, 4].map(() => channels.nextRefresh(5 * MINUTE)?.number)
    assert.deepStrictEqual(due, [0x4000, 0x4001, 0x4002, undefined])
  })
})
