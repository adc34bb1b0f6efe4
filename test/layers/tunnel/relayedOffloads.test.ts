/** What goes through a relay takes as few calls as what goes straight: the client's core with sockets of the system. */
import { assert, it } from "@effect/vitest"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as fs from "node:fs"
import { beforeAll } from "vitest"
import { setOption, SOL_SOCKET } from "../../../src/ffi/linux/socket.ts"
import * as ReadinessPollerKoffi from "../../../src/layers/poll/ReadinessPollerKoffi.ts"
import * as PeerSocketLinux from "../../../src/layers/socket/PeerSocketLinux.ts"
import * as SocketFactoryLinux from "../../../src/layers/socket/SocketFactoryLinux.ts"
import { makeDataPlane } from "../../../src/layers/tunnel/dataPlane.ts"
import { CIPHER_HEADROOM } from "../../../src/protocol/crypto.ts"
import { ip, SocketAddress } from "../../../src/protocol/wire/address.ts"
import { PeerSocket } from "../../../src/services/PeerSocket.ts"
import { SocketFactory } from "../../../src/services/SocketFactory.ts"
import type { Tun } from "../../../src/services/TunDevice.ts"
import { back, via } from "../../protocol/tunnel/client.ts"
import { cidr } from "../../protocol/tunnel/fixtures.ts"
import { udp } from "../../protocol/tunnel/packets.ts"
import { World } from "../../protocol/tunnel/World.ts"
import { enterPrivateNetworkNamespace, ip as ipCommand } from "../../support/netns.ts"
import { describeWith } from "../../support/requires.ts"
import { makeRouteCacheDouble } from "../../support/RouteCacheDouble.ts"
import { openPeer, peerLayer, waitFor } from "../socket/support.ts"

const CLIENT = "198.51.100.1"
const RELAY = "203.0.113.1"
const RELAY_PORT = 3478
const TO = "10.0.0.1"
/** As many as one message of the system carries, nearly. */
const PACKETS = 48
const STRIDE = 2048
const SO_NO_CHECK = 11

/** Of the loopback of this namespace; a train of datagrams that the system has not cut is one. */
const framesSent = (): number => {
  const line = /lo:(.*)/.exec(fs.readFileSync("/proc/thread-self/net/dev", "utf8"))?.[1] ?? ""
  return Number(line.trim().split(/\s+/)[9])
}

/** The system refuses to segment for sockets that send no checksums. */
const refusing = Layer.map(SocketFactoryLinux.layer, (context) => {
  const real = Context.get(context, SocketFactory)
  return Context.make(SocketFactory, {
    ...real,
    udp: (local, options) =>
      Effect.tap(
        real.udp(local, options),
        (fd) => Effect.orDie(setOption(fd, SOL_SOCKET, SO_NO_CHECK, 1, "SO_NO_CHECK"))
      )
  })
})

const routes = makeRouteCacheDouble()
routes.source = () => ip(CLIENT)
const cases = [
  { name: "in one call each with offloads", offloads: true, client: peerLayer(routes), frames: 1, batches: 1 },
  {
    name: "one by one without",
    offloads: false,
    client: peerLayer(routes, { offloads: false }),
    frames: PACKETS,
    batches: PACKETS / 16
  },
  {
    name: "one by one where the system refuses to segment",
    offloads: false,
    client: PeerSocketLinux.layer.pipe(
      Layer.provideMerge(refusing),
      Layer.provideMerge(Layer.merge(ReadinessPollerKoffi.layer, routes.layer))
    ),
    frames: PACKETS,
    batches: PACKETS / 16
  }
]

const packets = (of: (text: string) => Uint8Array): ReadonlyArray<Uint8Array> =>
  Array.from({ length: PACKETS }, (_, i) => of(String(i).padEnd(1200, "x")))

describeWith({ root: true, programs: ["ip"] }, "packets through a relay", () => {
  beforeAll(() => {
    enterPrivateNetworkNamespace()
    for (const address of [CLIENT, RELAY]) ipCommand(`addr add ${address}/32 dev lo`)
  })

  it.scopedLive.each(cases)(
    "leave and arrive $name",
    ({ batches, client, frames, offloads }) =>
      Effect.gen(function*() {
        const world = new World([cidr(1, "10.0.0.0/8")])
        world.relaysOnly = true
        world.client.send(udp(via(TO)))
        assert.isTrue(world.runUntil(() => world.gateway.received.length > 0, 10_000))
        world.gateway.received.length = 0

        const relay = yield* Effect.provide(
          openPeer,
          yield* Layer.build(peerLayer(routes, { offloads, port: RELAY_PORT }))
        )
        const service = Context.get(yield* Layer.build(client), PeerSocket)
        const written: Array<Uint8Array> = []
        let received = 0
        const plane = makeDataPlane({
          core: world.client.core,
          tun: {
            write: (bytes, offset, length) => void written.push(bytes.slice(offset, offset + length)),
            flush: () => undefined,
            setReading: () => undefined
          } as Partial<Tun> as Tun,
          now: () => world.now,
          onSettled: () => undefined,
          onDefect: (cause) => {
            throw cause
          }
        })
        yield* Effect.addFinalizer(() => Effect.sync(plane.stop))
        const sockets = yield* service.open({
          ...plane.socketHandlers,
          onBatchEnd: () => {
            received += 1
            plane.socketHandlers.onBatchEnd()
          }
        })
        plane.setSockets(sockets)

        // Out: one batch of the device.
        const device = new Uint8Array(PACKETS * STRIDE)
        const before = framesSent()
        packets((text) => udp(via(TO), 9, text)).forEach((packet, i) => {
          device.set(packet, i * STRIDE + CIPHER_HEADROOM)
          plane.tunHandlers.onPacket(device, i * STRIDE + CIPHER_HEADROOM, packet.length)
        })
        plane.tunHandlers.onBatchEnd()
        yield* waitFor("what was sent", () => relay.received.length === PACKETS)
        assert.strictEqual(framesSent() - before, frames)
        assert.strictEqual(sockets.stats().sent, PACKETS)
        const [first] = relay.received
        const channel = first?.bytes.subarray(0, 2) ?? new Uint8Array(2)
        for (const { bytes, from, local } of relay.received) {
          assert.strictEqual(local.text, `${RELAY}:${RELAY_PORT}`)
          assert.strictEqual(bytes[0], 0x40) // channel data (RFC 8656 section 12)
          world.carry(from, local, bytes)
        }
        assert.isTrue(world.runUntil(() => world.gateway.received.length === PACKETS, 1000))

        // In: one flush of the relay.
        const { gateway } = world
        const inner = packets((text) => udp(back(TO), 9, text))
        const datagrams = new Uint8Array(PACKETS * STRIDE)
        const to = new SocketAddress(ip(CLIENT), sockets.port4 as number)
        const source = new SocketAddress(ip(RELAY), RELAY_PORT)
        inner.forEach((packet, i) => {
          const at = i * STRIDE + CIPHER_HEADROOM
          datagrams.set(packet, at)
          assert.isTrue(gateway.core.tunInput(datagrams, at, packet.length, world.now))
          const { length, offset } = gateway.core.transmit
          datagrams.set([...channel, length >> 8, length & 255], offset - 4)
          relay.send(source, to, 0, datagrams, offset - 4, length + 4)
        })
        relay.flush()
        yield* waitFor("what was received", () => written.length === PACKETS)
        assert.strictEqual(received, batches)
        assert.strictEqual(sockets.stats().received, PACKETS)
        const ports = (packet: Uint8Array) => packet.slice(20)
        assert.deepStrictEqual(written.map(ports), inner.map(ports))
      })
  )
})
