/** What a packet leaves behind for the garbage collector, on its way through the real cores and ciphers. */
import * as v8 from "node:v8"
import * as vm from "node:vm"
import { assert, describe, it } from "vitest"
import { makeDataPlane, type PacketCore } from "../../../src/layers/tunnel/dataPlane.ts"
import { CIPHER_HEADROOM, CIPHER_TAILROOM } from "../../../src/protocol/crypto.ts"
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
/** A few numbers that do not fit a small integer, such as addresses for the cipher, are boxed: 16 bytes each. */
const LIMIT = 96

const used = (): number => v8.getHeapStatistics().used_heap_size

/** Bytes of heap for each of `packets`; so few packets that nothing is collected meanwhile. */
const garbagePerPacket = (packets: number, run: () => void): number => {
  collectGarbage()
  const before = used()
  run()
  return (used() - before) / packets
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
  it.each(["10.0.0.1", "2001:db8::1"])("leave next to nothing behind when they are sent (%s)", (to) => {
    const world = connected()
    const { counts, plane } = around(world, world.client.core)
    const packet = udp(via(to), 9, "x".repeat(1200))
    const buffer = new Uint8Array(CIPHER_HEADROOM + packet.length + CIPHER_TAILROOM)
    const send = (packets: number): void => {
      for (let i = 1; i <= packets; i++) {
        buffer.set(packet, CIPHER_HEADROOM)
        plane.tunHandlers.onPacket(buffer, CIPHER_HEADROOM, packet.length)
        if (i % BATCH === 0) plane.tunHandlers.onBatchEnd()
      }
    }
    send(4 * PACKETS) // until the code is compiled
    const bytes = garbagePerPacket(PACKETS, () => send(PACKETS))
    plane.stop()
    assert.strictEqual(counts.sent, 5 * PACKETS)
    assert.isBelow(bytes, LIMIT)
  })

  it.each(["10.0.0.1", "2001:db8::1"])("leave next to nothing behind when they are received (%s)", (to) => {
    const world = connected()
    // The gateway's datagrams, all of them beforehand, and in one array as a socket has them.
    const packet = udp(back(to), 9, "x".repeat(100))
    const { core } = world.gateway
    const stride = 512
    const datagrams = new Uint8Array(5 * PACKETS * stride)
    for (let i = 0; i < 5 * PACKETS; i++) {
      datagrams.set(packet, i * stride + CIPHER_HEADROOM)
      assert.isTrue(core.tunInput(datagrams, i * stride + CIPHER_HEADROOM, packet.length, world.now))
    }
    const { destination, length, offset, source } = core.transmit
    const first = offset % stride
    const { counts, plane } = around(world, world.client.core)
    const from = source ?? world.gateway.socket
    let next = 0
    const receive = (packets: number): void => {
      for (let i = 1; i <= packets; i++) {
        plane.socketHandlers.onDatagram(destination, from, 0, datagrams, next++ * stride + first, length)
        if (i % BATCH === 0) plane.socketHandlers.onBatchEnd()
      }
    }
    receive(4 * PACKETS)
    const bytes = garbagePerPacket(PACKETS, () => receive(PACKETS))
    plane.stop()
    assert.strictEqual(counts.written, 5 * PACKETS)
    assert.isBelow(bytes, LIMIT)
  })
})
