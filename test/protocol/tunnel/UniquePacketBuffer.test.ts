import * as fc from "fast-check"
import { describe, expect, it } from "vitest"
import { CIPHER_HEADROOM, CIPHER_TAILROOM } from "../../../src/protocol/crypto.ts"
import { type BufferedPacket, UniquePacketBuffer } from "../../../src/protocol/tunnel/UniquePacketBuffer.ts"
import { parsed, tcp, udp } from "./packets.ts"

const ends = { from: "100.64.0.1", to: "10.0.0.1" }
const SYN = 0x02
const ACK = 0x10

const content = ({ bytes, length }: BufferedPacket): Uint8Array =>
  bytes.slice(CIPHER_HEADROOM, CIPHER_HEADROOM + length)

const kept = (buffer: UniquePacketBuffer) => buffer.take().map(content)

describe("UniquePacketBuffer", () => {
  it("keeps copies with room for the cipher, oldest first", () => {
    const buffer = new UniquePacketBuffer(4)
    const packet = udp(ends)
    const arena = new Uint8Array(100 + packet.length)
    arena.set(packet, 100)
    const view = parsed(packet)
    view.parse(arena, 100, packet.length)
    expect(buffer.push(view)).toBe(false)
    arena.fill(0)
    buffer.push(parsed(udp(ends, 2)))
    const [first, second] = buffer.take()
    expect(first?.bytes).toHaveLength(CIPHER_HEADROOM + packet.length + CIPHER_TAILROOM)
    expect(first === undefined ? undefined : content(first)).toEqual(packet)
    expect(second === undefined ? undefined : content(second)).toEqual(udp(ends, 2))
    expect(buffer.size).toBe(0)
    expect(buffer.take()).toEqual([])
  })
  it("skips a packet that is there already", () => {
    const buffer = new UniquePacketBuffer(4)
    for (const packet of [udp(ends), tcp(ends), udp(ends), tcp(ends)]) buffer.push(parsed(packet))
    expect(kept(buffer)).toEqual([udp(ends), tcp(ends)])
  })
  it("puts a SYN in the place of the one that it repeats", () => {
    const buffer = new UniquePacketBuffer(4)
    const again = tcp(ends, 443, SYN, 7, "fast open")
    for (const packet of [tcp(ends, 443, SYN, 7), udp(ends), again]) buffer.push(parsed(packet))
    expect(kept(buffer)).toEqual([again, udp(ends)])
  })
  it("knows SYNs apart by sequence number, ports and addresses, and from answers to them", () => {
    const buffer = new UniquePacketBuffer(9)
    const packets = [
      tcp(ends, 443, SYN, 7),
      tcp(ends, 443, SYN, 8),
      tcp(ends, 444, SYN, 7),
      tcp({ ...ends, to: "10.0.0.2" }, 443, SYN, 7),
      tcp({ ...ends, from: "100.64.0.2" }, 443, SYN, 7),
      tcp(ends, 443, SYN | ACK, 7),
      tcp({ from: "fd00:2021:1111::1", to: "2001:db8::1" }, 443, SYN, 7)
    ]
    for (const packet of packets) buffer.push(parsed(packet))
    expect(kept(buffer)).toEqual(packets)
  })
  it("loses the oldest when it is full, and says so", () => {
    fc.assert(fc.property(fc.integer({ min: 1, max: 5 }), fc.array(fc.nat(8), { maxLength: 30 }), (capacity, ports) => {
      const buffer = new UniquePacketBuffer(capacity)
      let model: ReadonlyArray<number> = []
      for (const port of ports) {
        const isNew = !model.includes(port)
        expect(buffer.push(parsed(udp(ends, port)))).toBe(isNew && model.length === capacity)
        if (isNew) model = [...model, port].slice(-capacity)
        expect(buffer.size).toBe(model.length)
      }
      expect(kept(buffer)).toEqual(model.map((port) => udp(ends, port)))
    }))
  })
  it("drops its oldest on demand", () => {
    const buffer = new UniquePacketBuffer(2)
    expect(buffer.dropOldest()).toBe(false)
    buffer.push(parsed(udp(ends, 1)))
    buffer.push(parsed(udp(ends, 2)))
    expect(buffer.dropOldest()).toBe(true)
    expect(kept(buffer)).toEqual([udp(ends, 2)])
  })
})
