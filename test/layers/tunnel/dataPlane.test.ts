/** The joint of core, device and sockets, with a core that the test plays. */
import * as Effect from "effect/Effect"
import { afterEach, assert, beforeEach, describe, it, vi } from "vitest"
import { type DataPlane, makeDataPlane, type PacketCore } from "../../../src/layers/tunnel/dataPlane.ts"
import { CIPHER_HEADROOM } from "../../../src/protocol/crypto.ts"
import type { Transmit } from "../../../src/protocol/node/types.ts"
import { ip, SocketAddress } from "../../../src/protocol/wire/address.ts"
import { PeerSocket, type PeerSockets } from "../../../src/services/PeerSocket.ts"
import { type Tun, TunDevice } from "../../../src/services/TunDevice.ts"
import { makePeerSocketDouble } from "../../support/PeerSocketDouble.ts"
import { makeTunDeviceDouble } from "../../support/TunDeviceDouble.ts"

const local = new SocketAddress(ip("192.0.2.1"), 52625)
const remote = new SocketAddress(ip("198.51.100.7"), 40_000)

/** Sends every packet as it is, and takes every datagram for a packet; 0xff at the front is refused, 0xdd is a bug. */
class EchoCore implements PacketCore {
  readonly transmit: Transmit = {
    source: local,
    destination: remote,
    ecn: 1,
    buffer: new Uint8Array(0),
    offset: 0,
    length: 0
  }
  readonly packet = { peer: "gateway", buffer: new Uint8Array(0), offset: 0, length: 0 }
  readonly transmits: Array<Transmit> = []
  readonly packets: Array<Uint8Array> = []
  readonly timeouts: Array<number> = []
  deadline: number | undefined

  tunInput(buffer: Uint8Array, offset: number, length: number): boolean {
    if (buffer[offset] === 0xdd) throw new Error("bug")
    Object.assign(this.transmit, { buffer, offset, length })
    return buffer[offset] !== 0xff
  }
  networkInput(
    _local: SocketAddress,
    _from: SocketAddress,
    _ecn: number,
    input: Uint8Array,
    offset: number,
    length: number,
    output: Uint8Array,
    outputOffset: number
  ): boolean {
    if (input[offset] === 0xdd) throw new Error("bug")
    output.set(input.subarray(offset, offset + length), outputOffset)
    Object.assign(this.packet, { buffer: output, offset: outputOffset, length })
    return input[offset] !== 0xff
  }
  handleTimeout(now: number): void {
    this.timeouts.push(now)
    this.deadline = undefined
  }
  pollTransmit(): Transmit | undefined {
    return this.transmits.shift()
  }
  pollPacket(): Uint8Array | undefined {
    return this.packets.shift()
  }
  pollTimeout(): number | undefined {
    return this.deadline
  }
}

interface Parts {
  readonly core: EchoCore
  readonly plane: DataPlane
  readonly tunDouble: ReturnType<typeof makeTunDeviceDouble>
  readonly socketDouble: ReturnType<typeof makePeerSocketDouble>
  readonly sockets: PeerSockets
  readonly clock: { now: number }
  readonly settled: { count: number }
  readonly defects: Array<unknown>
}

const withPlane = (body: (parts: Parts) => void): Promise<void> => {
  const tunDouble = makeTunDeviceDouble()
  const socketDouble = makePeerSocketDouble()
  return Effect.gen(function*() {
    const tun: Tun = yield* (yield* TunDevice).open({ name: "tun-test", offloads: true })
    const core = new EchoCore()
    const clock = { now: 1000 }
    const settled = { count: 0 }
    const defects: Array<unknown> = []
    const plane = makeDataPlane({
      core,
      tun,
      now: () => clock.now,
      onSettled: () => void (settled.count += 1),
      onDefect: (cause) => void defects.push(cause)
    })
    yield* Effect.addFinalizer(() => Effect.sync(plane.stop))
    yield* tun.start(plane.tunHandlers)
    const sockets = yield* (yield* PeerSocket).open(plane.socketHandlers)
    plane.setSockets(sockets)
    body({ core, plane, tunDouble, socketDouble, sockets, clock, settled, defects })
  }).pipe(Effect.scoped, Effect.provide([tunDouble.layer, socketDouble.layer]), Effect.runPromise)
}

const filled = (first: number, length = 40): Uint8Array => new Uint8Array(length).fill(first)

describe("data plane", () => {
  it("sends what the core accepts of a batch, each with its own address and bytes", () =>
    withPlane(({ settled, socketDouble, tunDouble }) => {
      assert.isTrue(tunDouble.deliver(filled(1), filled(0xff), filled(2)))
      assert.deepStrictEqual(socketDouble.sent.map(({ bytes }) => bytes), [filled(1), filled(2)])
      assert.deepStrictEqual(socketDouble.sent.map(({ destination, ecn, source }) => ({ destination, ecn, source })), [
        { destination: remote, ecn: 1, source: local },
        { destination: remote, ecn: 1, source: local }
      ])
      assert.strictEqual(settled.count, 1)
    }))

  it("writes what the core opens, also more of it in one batch than there are slots", () =>
    withPlane(({ socketDouble, tunDouble }) => {
      const datagrams = Array.from({ length: 600 }, (_, index) => Uint8Array.of(1, index >> 8, index & 0xff))
      assert.isTrue(socketDouble.deliver(local, remote, [...datagrams, filled(0xff)]))
      assert.deepStrictEqual(tunDouble.written, datagrams)
    }))

  it("opens into slots with the room that the cipher needs", () =>
    withPlane(({ core, socketDouble }) => {
      socketDouble.deliver(local, remote, [filled(1), filled(2)])
      assert.isAtLeast(core.packet.offset, CIPHER_HEADROOM)
    }))

  it("sends and writes what the core has to say by itself", () =>
    withPlane(({ core, plane, socketDouble, tunDouble }) => {
      const shared = new Uint8Array(8)
      for (const byte of [1, 2]) {
        core.transmits.push({
          source: undefined,
          destination: remote,
          ecn: 0,
          buffer: shared.fill(byte).slice(),
          offset: 2,
          length: 3
        })
      }
      core.packets.push(filled(9))
      plane.settle()
      assert.deepStrictEqual(socketDouble.sent.map(({ bytes }) => bytes), [filled(1, 3), filled(2, 3)])
      assert.deepStrictEqual(tunDouble.written, [filled(9)])
    }))

  it("loses packets, not its wits, while there are no sockets", () =>
    withPlane(({ core, plane, socketDouble, sockets, tunDouble }) => {
      plane.setSockets(undefined)
      core.transmits.push({ source: local, destination: remote, ecn: 0, buffer: filled(3), offset: 0, length: 3 })
      tunDouble.deliver(filled(1))
      assert.deepStrictEqual(socketDouble.sent, [])
      assert.deepStrictEqual(core.transmits, [])
      plane.setSockets(sockets)
      tunDouble.deliver(filled(2))
      assert.deepStrictEqual(socketDouble.sent.map(({ bytes }) => bytes), [filled(2)])
    }))

  describe("while a socket is full", () => {
    beforeEach(() => void vi.useFakeTimers())
    afterEach(() => void vi.useRealTimers())

    it("leaves packets in the device, until the socket has room", () =>
      withPlane(({ settled, socketDouble, tunDouble }) => {
        socketDouble.setBlocked(true, 4)
        assert.isTrue(tunDouble.reading)
        // The batch that finds out goes to the backlog.
        tunDouble.deliver(filled(1))
        assert.isFalse(tunDouble.reading)
        assert.strictEqual(socketDouble.sent.length, 1)
        // What arrives from peers goes on.
        socketDouble.deliver(local, remote, [filled(2)])
        assert.deepStrictEqual(tunDouble.written, [filled(2)])
        assert.strictEqual(settled.count, 2)
        assert.isFalse(tunDouble.reading)
        socketDouble.setBlocked(false, 4)
        assert.isTrue(tunDouble.reading)
        vi.advanceTimersByTime(1000)
        assert.isTrue(tunDouble.reading)
      }))

    it("lets a batch in now and then, should it be full for ever", () =>
      withPlane(({ socketDouble, tunDouble }) => {
        socketDouble.setBlocked(true, 4)
        let batches = 0
        for (let millis = 0; millis < 1000; millis++) {
          if (tunDouble.reading) {
            tunDouble.deliver(filled(1))
            batches += 1
            assert.isFalse(tunDouble.reading)
          }
          vi.advanceTimersByTime(1)
        }
        assert.strictEqual(batches, 100)
      }))

    it("reads on what goes over the other IP version, or to nobody", () =>
      withPlane(({ core, socketDouble, tunDouble }) => {
        socketDouble.setBlocked(true, 6)
        tunDouble.deliver(filled(1))
        assert.isTrue(tunDouble.reading)
        socketDouble.setBlocked(true, 4)
        tunDouble.deliver(filled(0xff)) // such as a query to our own name server
        assert.isTrue(tunDouble.reading)
        core.transmit.destination = new SocketAddress(ip("2001:db8::7"), 40_000)
        tunDouble.deliver(filled(1))
        assert.isFalse(tunDouble.reading)
        // One of the two has room: whoever sends to the other is found out with the next batch.
        socketDouble.setBlocked(false, 4)
        assert.isTrue(tunDouble.reading)
        tunDouble.deliver(filled(1))
        assert.isFalse(tunDouble.reading)
      }))

    it("reads on when the socket has gone, and its successor is full by itself", () =>
      withPlane(({ plane, socketDouble, sockets, tunDouble }) => {
        socketDouble.setBlocked(true)
        tunDouble.deliver(filled(1))
        assert.isFalse(tunDouble.reading)
        plane.setSockets(undefined)
        assert.isTrue(tunDouble.reading)
        tunDouble.deliver(filled(1)) // lost, but nobody waits
        assert.isTrue(tunDouble.reading)
        plane.setSockets(sockets)
        tunDouble.deliver(filled(1))
        assert.isFalse(tunDouble.reading)
        socketDouble.setBlocked(false)
        assert.isTrue(tunDouble.reading)
      }))

    it("does nothing after it was stopped", () =>
      withPlane(({ plane, socketDouble, tunDouble }) => {
        socketDouble.setBlocked(true)
        tunDouble.deliver(filled(1))
        plane.stop()
        socketDouble.setBlocked(false)
        vi.advanceTimersByTime(1000)
        assert.isFalse(tunDouble.reading)
        assert.strictEqual(vi.getTimerCount(), 0)
      }))
  })

  it("wakes the core when it is due, once, and after an earlier deadline", () => {
    vi.useFakeTimers()
    return withPlane(({ clock, core, plane, settled }) => {
      const pass = (millis: number): void => {
        clock.now += millis
        vi.advanceTimersByTime(millis)
      }
      core.deadline = 1500
      plane.settle()
      core.deadline = 1200
      plane.settle()
      pass(199)
      assert.deepStrictEqual(core.timeouts, [])
      pass(1)
      assert.deepStrictEqual(core.timeouts, [1200])
      const before = settled.count
      pass(9000)
      assert.strictEqual(settled.count, before)
      // It looks again after at most 10 s, should the core have said nothing.
      pass(1000)
      assert.isAbove(settled.count, before)
      plane.stop()
      core.deadline = clock.now
      pass(20_000)
      assert.deepStrictEqual(core.timeouts, [1200])
    }).finally(() => vi.useRealTimers())
  })

  it("reports a bug once and does nothing afterwards", () =>
    withPlane(({ defects, plane, socketDouble, tunDouble }) => {
      tunDouble.deliver(filled(0xdd), filled(1))
      socketDouble.deliver(local, remote, [filled(0xdd), filled(1)])
      plane.settle()
      assert.strictEqual(defects.length, 1)
      assert.deepStrictEqual(socketDouble.sent, [])
      assert.deepStrictEqual(tunDouble.written, [])
    }))
})
