/** The hand-made headers of `sendmmsg` and `recvmmsg`, checked by sending over loopback. */
import * as Either from "effect/Either"
import { afterEach, assert, describe, it } from "vitest"
import { ERRNO, errno, memoryAddress } from "../../../src/ffi/linux/libc.ts"
import { copyMemory, MAX_SEGMENTS, RECEIVE_ROOM, ReceiveArena, SendArena } from "../../../src/ffi/linux/mmsg.ts"
import * as socket from "../../../src/ffi/linux/socket.ts"
import { ip, ipToBytes } from "../../../src/protocol/wire/address.ts"

const opened: Array<number> = []
afterEach(() => opened.splice(0).forEach(socket.closeSocket))

const loopback = { [socket.AF_INET]: "127.0.0.1", [socket.AF_INET6]: "::1" } as const
const other = { [socket.AF_INET]: "127.0.0.7", [socket.AF_INET6]: "::1" } as const

/** A bound socket that is told where datagrams were sent to, their ECN bits, and how they were joined. */
const open = (family: socket.AddressFamily, address: string) => {
  const fd = Either.getOrThrow(socket.openSocket(family, socket.SOCK_DGRAM))
  opened.push(fd)
  const v4 = family === socket.AF_INET
  const set = (level: number, option: number) => Either.getOrThrow(socket.setOption(fd, level, option, 1, "test"))
  if (v4) {
    set(socket.SOL_IP, socket.IP_PKTINFO)
    set(socket.SOL_IP, socket.IP_RECVTOS)
  } else {
    set(socket.SOL_IPV6, socket.IPV6_V6ONLY)
    set(socket.SOL_IPV6, socket.IPV6_RECVPKTINFO)
    set(socket.SOL_IPV6, socket.IPV6_RECVTCLASS)
  }
  set(socket.SOL_UDP, socket.UDP_GRO)
  Either.getOrThrow(socket.bindSocket(fd, socket.encodeSockaddr(ipToBytes(ip(address)), 0)))
  return { fd, port: Either.getOrThrow(socket.localSockaddr(fd)).port }
}
const any = { [socket.AF_INET]: "0.0.0.0", [socket.AF_INET6]: "::" } as const

const bytesAt = (arena: ReceiveArena, word: number, length: number): ReadonlyArray<number> => [
  ...new Uint8Array(arena.words.buffer, word * 4, length)
]

for (const family of [socket.AF_INET, socket.AF_INET6] as const) {
  const size = family === socket.AF_INET ? 4 : 16
  const bytesOf = (address: string): ReadonlyArray<number> => [...ipToBytes(ip(address))]

  describe(`datagrams of ${family === socket.AF_INET ? "IPv4" : "IPv6"}`, () => {
    it("arrive with sender, destination, ECN and length, several in one call", () => {
      const a = open(family, any[family])
      const b = open(family, any[family])
      const payload = Uint8Array.from({ length: 300 }, (_, i) => i)
      const sender = new SendArena(family, 3)
      for (let slot = 0; slot < 3; slot++) {
        sender.setDestination(slot, socket.encodeSockaddr(ipToBytes(ip(loopback[family])), b.port))
        sender.setSource(slot, ipToBytes(ip(other[family])))
        sender.setDatagram(slot, 0, memoryAddress(payload) + slot, 100 + slot)
        sender.prepare(slot, 0, 1, 0, slot)
        assert.strictEqual(sender.datagramAddress(slot, 0), memoryAddress(payload) + slot)
        assert.strictEqual(sender.datagramLength(slot, 0), 100 + slot)
      }
      assert.strictEqual(sender.send(a.fd, 0, 3), 3)
      const arena = new ReceiveArena(family, 8)
      assert.strictEqual(arena.receive(b.fd), 3)
      for (let i = 0; i < 3; i++) {
        arena.read(i)
        assert.deepStrictEqual(
          { length: arena.length, segmentSize: arena.segmentSize, ecn: arena.ecn, truncated: arena.truncated },
          { length: 100 + i, segmentSize: 100 + i, ecn: i, truncated: false }
        )
        assert.strictEqual(arena.senderPort, a.port)
        assert.deepStrictEqual(bytesAt(arena, arena.nameAt, size), bytesOf(other[family]))
        assert.deepStrictEqual(bytesAt(arena, arena.localAt, size), bytesOf(loopback[family]))
        assert.deepStrictEqual(
          arena.bytes.slice(arena.offset, arena.offset + arena.length),
          payload.slice(i, 100 + 2 * i)
        )
        assert.isAtLeast(arena.offset, RECEIVE_ROOM)
      }
      assert.strictEqual(arena.receive(b.fd), -1)
      assert.strictEqual(errno(), ERRNO.EAGAIN)
    })

    it("are cut by the kernel and joined again, as many as fit one message", () => {
      const a = open(family, any[family])
      const b = open(family, any[family])
      const payload = Uint8Array.from({ length: 16_384 }, (_, i) => i * 31 >> 3)
      const sender = new SendArena(family, 2)
      sender.setDestination(1, socket.encodeSockaddr(ipToBytes(ip(loopback[family])), b.port))
      sender.setSource(1, ipToBytes(ip(loopback[family])))
      for (let i = 0; i < MAX_SEGMENTS; i++) {
        sender.setDatagram(1, i, memoryAddress(payload) + i * 200, i === MAX_SEGMENTS - 1 ? 50 : 200)
      }
      const arena = new ReceiveArena(family, 2)
      const receive = (): ReadonlyArray<number> => {
        const found: Array<number> = []
        for (let n = arena.receive(b.fd); n > 0; n = arena.receive(b.fd)) {
          for (let i = 0; i < n; i++) {
            arena.read(i)
            assert.deepStrictEqual(
              arena.bytes.slice(arena.offset, arena.offset + arena.length),
              payload.slice(0, arena.length)
            )
            found.push(arena.length, arena.segmentSize, arena.ecn)
          }
        }
        return found
      }
      sender.prepare(1, 0, MAX_SEGMENTS, 200, 2)
      assert.strictEqual(sender.send(a.fd, 1, 1), 1)
      assert.deepStrictEqual(receive(), [63 * 200 + 50, 200, 2])
      // The same slot again, with fewer, without ECN: nothing is left of before.
      sender.prepare(1, 0, 1, 0, 0)
      assert.strictEqual(sender.send(a.fd, 1, 1), 1)
      assert.deepStrictEqual(receive(), [200, 200, 0])
    })

    it("that cannot be sent give an errno, and what was sent before them counts", () => {
      const a = open(family, any[family])
      const payload = new Uint8Array(10)
      const sender = new SendArena(family, 2)
      const elsewhere = family === socket.AF_INET ? "192.0.2.1" : "2001:db8::1"
      for (const [slot, source] of [[0, loopback[family]], [1, elsewhere]] as const) {
        sender.setDestination(slot, socket.encodeSockaddr(ipToBytes(ip(loopback[family])), a.port))
        sender.setSource(slot, ipToBytes(ip(source)))
        sender.setDatagram(slot, 0, memoryAddress(payload), payload.length)
        sender.prepare(slot, 0, 1, 0, 0)
      }
      assert.strictEqual(sender.send(a.fd, 0, 2), 1)
      assert.strictEqual(sender.send(a.fd, 1, 1), -1)
      assert.include([ERRNO.EINVAL, ERRNO.EADDRNOTAVAIL, ERRNO.ENETUNREACH], errno())
    })
  })
}

it("memory is copied between addresses", () => {
  const from = Uint8Array.of(1, 2, 3, 4)
  const to = new Uint8Array(4)
  copyMemory(memoryAddress(to) + 1, memoryAddress(from) + 2, 2)
  assert.deepStrictEqual([...to], [0, 3, 4, 0])
})
