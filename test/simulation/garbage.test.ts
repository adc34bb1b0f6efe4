import { assert, describe, it } from "@effect/vitest"
import { Decapsulated } from "../../src/protocol/node/types.ts"
import { ip, SocketAddress } from "../../src/protocol/wire/address.ts"
import type { Host } from "./Host.ts"
import { Portal } from "./Portal.ts"
import { seeded } from "./random.ts"
import { World } from "./World.ts"

const MAX_LENGTH = 2000

const connected = () => {
  const world = new World(3)
  const relay = world.relay()
  const left = world.host({ name: "client", nat: "symmetric" })
  const right = world.host({ name: "gateway", nat: "symmetric" })
  for (const host of [left, right]) host.useRelays(relay)
  world.run(1000)
  new Portal(world, left, right).connect()
  world.run(5000)
  left.send(right, "works")
  world.run(100)
  assert.deepStrictEqual(right.received, ["works"])
  return { world, left, right }
}

/** Beginnings that lead a datagram past the first look at it. */
const disguises: ReadonlyArray<(bytes: Uint8Array) => void> = [
  () => undefined,
  // STUN with the right cookie and length: a Binding request, a Binding success, an Allocate success.
  ...[[0x00, 0x01], [0x01, 0x01], [0x01, 0x03]].map((type) => (bytes: Uint8Array) => {
    const length = bytes.length - 20
    if (length >= 0) bytes.set([...type, length >> 8, length & 0xff, 0x21, 0x12, 0xa4, 0x42])
  }),
  // Channel data, on the first channel that a client binds.
  (bytes) => {
    const length = bytes.length - 4
    if (length >= 0) bytes.set([0x40, 0x00, length >> 8, length & 0xff])
  },
  // The four messages of WireGuard.
  ...[1, 2, 3, 4].map((type) => (bytes: Uint8Array) => {
    if (bytes.length >= 4) bytes.set([type, 0, 0, 0])
  })
]

/** What others could notice of a host. */
const visible = (host: Host, peer: Host) => ({
  status: { ...host.status(peer), handshakeAgeMillis: undefined },
  events: host.events.length,
  received: [...host.received]
})

describe("random datagrams of every length up to 2000", () => {
  it("change nothing, whoever they seem to come from", () => {
    const { left, right, world } = connected()
    const random = seeded(99)
    const sources = [
      new SocketAddress(ip("203.0.113.1"), 3478),
      left.status(right)?.path?.remote ?? new SocketAddress(ip("198.51.100.9"), 9),
      new SocketAddress(ip("198.51.100.99"), 3478),
      new SocketAddress(ip("198.51.100.99"), 53)
    ]
    const [local] = left.sockets
    if (local === undefined) throw new Error("no socket")
    const before = visible(left, right)
    world.emitted = 0
    for (let length = 0; length <= MAX_LENGTH; length++) {
      const bytes = Uint8Array.from({ length }, () => Math.floor(random() * 256))
      for (const disguise of disguises) {
        const datagram = bytes.slice()
        disguise(datagram)
        const copy = datagram.slice()
        const source = sources[Math.floor(random() * sources.length)] as SocketAddress
        assert.strictEqual(left.take(local, source, 3, datagram), Decapsulated.Dropped)
        assert.isTrue(Buffer.from(datagram).equals(copy), "the datagram was changed")
      }
    }
    assert.strictEqual(world.emitted, 0, "something was answered")
    assert.deepStrictEqual(visible(left, right), before)
    left.send(right, "still works")
    world.run(100)
    assert.include(right.received, "still works")
  })

  it("and genuine ones with one byte changed never become a packet", () => {
    const { left, right, world } = connected()
    const random = seeded(5)
    const genuine: Array<
      { readonly local: SocketAddress; readonly source: SocketAddress; readonly bytes: Uint8Array }
    > = []
    left.onDatagram = (local, { bytes, source }) => genuine.push({ local, source, bytes: bytes.slice() })
    for (let i = 0; i < 10; i++) right.send(left, `packet ${i}`)
    world.run(20_000)
    assert.isAbove(genuine.length, 20)
    const before = visible(left, right).received
    for (const { bytes, local, source } of genuine) {
      for (let round = 0; round < 20; round++) {
        const forged = bytes.slice()
        const index = Math.floor(random() * forged.length)
        forged[index] = (forged[index] as number) ^ 1 + Math.floor(random() * 255)
        assert.notStrictEqual(left.take(local, source, 0, forged), Decapsulated.Packet)
      }
      assert.notStrictEqual(left.take(local, source, 0, bytes), Decapsulated.Packet, "a replay")
    }
    assert.deepStrictEqual(left.received, before)
    world.run(5000)
    right.send(left, "still works")
    world.run(100)
    assert.include(left.received, "still works")
  })
})
