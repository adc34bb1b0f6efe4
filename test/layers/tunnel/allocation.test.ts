/** What a packet leaves behind for the garbage collector, on its way through the real cores and ciphers. */
import { setImmediate } from "node:timers/promises"
import * as v8 from "node:v8"
import * as vm from "node:vm"
import { assert, describe, it } from "vitest"
import { makeDataPlane, type PacketCore } from "../../../src/layers/tunnel/dataPlane.ts"
import { CIPHER_HEADROOM } from "../../../src/protocol/crypto.ts"
import type { PeerSockets } from "../../../src/services/PeerSocket.ts"
import type { Tun } from "../../../src/services/TunDevice.ts"
import { back, via } from "../../protocol/tunnel/client.ts"
import { cidr } from "../../protocol/tunnel/fixtures.ts"
import { udp } from "../../protocol/tunnel/packets.ts"
import { World } from "../../protocol/tunnel/World.ts"

v8.setFlagsFromString("--expose-gc")
const collectGarbage = vm.runInNewContext("gc") as () => void

const PACKETS = 16_384
const BATCH = 64
const ROUNDS = 50
/**
 * Numbers that do not fit a small integer are boxed, 16 bytes each: addresses for the cipher, an index; three to six of them,
 * as the compiler chooses to inline. Eight are allowed, and no view of a packet (104 bytes) beside three.
 */
const LIMIT = 136
/** So large that an array is mapped, and its address above 2^31: below it, addresses fit and nothing would be boxed. */
const MAPPED = 2 ** 26

const used = (): number => v8.getHeapStatistics().used_heap_size

/**
 * The fewest bytes of heap for each packet in any round, until one is below `LIMIT`. A round has so few packets that nothing
 * is collected meanwhile. The compiler works on a thread of its own: on a busy machine its code arrives rounds later than on
 * an idle one.
 */
const garbagePerPacket = async (prepare: () => void, run: () => void): Promise<number> => {
  let least = Infinity
  for (let round = 0; round < ROUNDS && least >= LIMIT; round++) {
    await setImmediate()
    prepare()
    collectGarbage()
    const before = used()
    run()
    least = Math.min(least, (used() - before) / PACKETS)
  }
  return least
}

/** A data plane around one side of a connected world, whose device and sockets keep nothing. */
const around = (world: World, core: PacketCore) => {
  const counts = { written: 0, sent: 0 }
  const tun = {
    write: () => void (counts.written += 1),
    flush: () => undefined,
    setReading: () => undefined
  } as Partial<Tun> as Tun
  const sockets = {
    send: () => void (counts.sent += 1),
    flush: () => undefined,
    blocked: () => false
  } as Partial<PeerSockets> as PeerSockets
  const plane = makeDataPlane({
    core,
    tun,
    now: () => world.now,
    onSettled: () => undefined,
    onDefect: (cause) => {
      throw cause
    }
  })
  plane.setSockets(sockets)
  return { plane, counts }
}

const connected = (): World => {
  const world = new World([cidr(1, "10.0.0.0/8"), cidr(2, "2001:db8::/32")])
  for (const to of ["10.0.0.1", "2001:db8::1"]) {
    world.client.send(udp(via(to)))
    assert.isTrue(world.runUntil(() => world.gateway.received.length > 0, 5000))
    world.gateway.received.length = 0
  }
  return world
}

describe("packets on their way", () => {
  it.each(["10.0.0.1", "2001:db8::1"])("leave next to nothing behind when they are sent (%s)", async (to) => {
    const world = connected()
    const { counts, plane } = around(world, world.client.core)
    const packet = udp(via(to), 9, "x".repeat(1200))
    const buffer = new Uint8Array(MAPPED)
    let rounds = 0
    const send = (): void => {
      for (let i = 1; i <= PACKETS; i++) {
        buffer.set(packet, CIPHER_HEADROOM)
        plane.tunHandlers.onPacket(buffer, CIPHER_HEADROOM, packet.length)
        if (i % BATCH === 0) plane.tunHandlers.onBatchEnd()
      }
      rounds += 1
    }
    const bytes = await garbagePerPacket(() => undefined, send)
    plane.stop()
    assert.strictEqual(counts.sent, rounds * PACKETS)
    assert.isBelow(bytes, LIMIT)
  })

  it.each(["10.0.0.1", "2001:db8::1"])("leave next to nothing behind when they are received (%s)", async (to) => {
    const world = connected()
    const { core } = world.gateway
    const { counts, plane } = around(world, world.client.core)
    const packet = udp(back(to), 9, "x".repeat(100))
    const stride = 512
    const datagrams = new Uint8Array(MAPPED)
    let rounds = 0
    // The gateway's datagrams of a round, all of them beforehand, and in one array as a socket has them.
    const prepare = (): void => {
      for (let i = 0; i < PACKETS; i++) {
        datagrams.set(packet, i * stride + CIPHER_HEADROOM)
        assert.isTrue(core.tunInput(datagrams, i * stride + CIPHER_HEADROOM, packet.length, world.now))
      }
    }
    const receive = (): void => {
      const { destination, length, offset, source } = core.transmit
      const first = offset % stride
      const from = source ?? world.gateway.socket
      for (let i = 0; i < PACKETS; i++) {
        plane.socketHandlers.onDatagram(destination, from, 0, datagrams, i * stride + first, length)
        if ((i + 1) % BATCH === 0) plane.socketHandlers.onBatchEnd()
      }
      rounds += 1
    }
    const bytes = await garbagePerPacket(prepare, receive)
    plane.stop()
    assert.strictEqual(counts.written, rounds * PACKETS)
    assert.isBelow(bytes, LIMIT)
  })
})
