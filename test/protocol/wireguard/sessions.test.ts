import fc from "fast-check"
import { describe, expect, it } from "vitest"
import { CIPHER_HEADROOM, CIPHER_TAILROOM } from "../../../src/protocol/crypto.ts"
import { DATA_OVERHEAD, readCounter, readReceiverIndex } from "../../../src/protocol/wire/wireguard.ts"
import type { WireguardTunnel } from "../../../src/protocol/wireguard/WireguardTunnel.ts"
import {
  bytes,
  connected,
  deliver,
  drain,
  exchange,
  fromHex,
  ipv4,
  openMessage,
  responder,
  sealPacket,
  somePacket,
  toHex
} from "./peers.ts"

const sealed = (tunnel: WireguardTunnel, packet: Uint8Array, now: number): Uint8Array => {
  const message = sealPacket(tunnel, packet, now)
  if (message === undefined) throw new Error("the tunnel cannot send")
  return message
}

const rekey = (left: WireguardTunnel, right: WireguardTunnel, now: number): void => {
  left.initiate(now)
  exchange(left, right, now)
}

describe("data", () => {
  it("costs 32 bytes, whatever the length: no padding", () => {
    const { left, right } = connected()
    for (let payload = 0; payload < 1280; payload += 7) {
      const packet = ipv4(bytes(payload, payload))
      const message = sealed(left, packet, 1)
      expect(message.length).toBe(packet.length + DATA_OVERHEAD)
      expect(openMessage(right, message, 1)).toEqual(packet)
    }
  })

  it("is cut to the length that its IP header says: other implementations pad", () => {
    fc.assert(
      fc.property(fc.nat(1200), fc.nat(40), (payload, padding) => {
        const { left, right } = connected()
        const packet = ipv4(bytes(1, payload))
        const message = sealed(left, Uint8Array.from([...packet, ...bytes(0, padding)]), 1)
        expect(openMessage(right, message, 1)).toEqual(packet)
        expect(right.bytesReceived).toBe(packet.length)
      }),
      { numRuns: 20 }
    )
    const { left, right } = connected()
    const ipv6 = Uint8Array.from([...fromHex("6000000000083a40"), ...bytes(1, 32), ...bytes(2, 8)])
    expect(openMessage(right, sealed(left, Uint8Array.from([...ipv6, 0, 0, 0]), 1), 1)).toEqual(ipv6)
  })

  it("that is no whole IP packet is refused, though it is authentic", () => {
    const tooLong = somePacket.slice()
    tooLong[3] = (tooLong[3] as number) + 1
    const tooShort = somePacket.slice()
    tooShort[3] = 19
    const cases = {
      "version 5": fromHex(`55${"00".repeat(40)}`),
      "one byte": fromHex("45"),
      "19 bytes of IPv4": somePacket.slice(0, 19),
      "39 bytes of IPv6": fromHex(`60${"00".repeat(38)}`),
      "longer than it is": tooLong,
      "shorter than a header": tooShort
    }
    for (const [name, packet] of Object.entries(cases)) {
      const { left, right } = connected()
      expect(openMessage(right, sealed(left, packet, 1), 1), `${name}`).toBeUndefined()
      expect(right.bytesReceived).toBe(0)
      expect(openMessage(right, sealed(left, somePacket, 1), 1), "the tunnel goes on").toEqual(somePacket)
    }
  })

  it("counts from 1 after the keep-alive, and comes out once only, in any order", () => {
    const { left, right } = connected()
    const messages = Array.from({ length: 50 }, () => sealed(left, somePacket, 1))
    expect(messages.map((message) => readCounter(message, 0))).toEqual(Array.from({ length: 50 }, (_, i) => i + 1))
    for (const message of messages.reverse()) expect(openMessage(right, message, 2)).toEqual(somePacket)
    for (const message of messages) expect(openMessage(right, message, 3)).toBeUndefined()
  })

  it("that was forged does not use up its counter", () => {
    const { left, right } = connected()
    const message = sealed(left, somePacket, 1)
    for (let at = 4; at < message.length; at++) {
      const forged = message.slice()
      forged[at] = (forged[at] as number) ^ 0x10
      expect(openMessage(right, forged, 1), `byte ${at}`).toBeUndefined()
    }
    expect(openMessage(right, message, 1)).toEqual(somePacket)
  })

  it("with a counter that no sender reaches is refused", () => {
    const { left, right } = connected()
    for (const counter of ["ffffffffffffffff", "ffffffffffffff1f", "0000000000002000"]) {
      const message = sealed(left, somePacket, 1)
      message.set(fromHex(counter), 8)
      expect(openMessage(right, message, 1)).toBeUndefined()
    }
  })

  it("is refused where there is no room to open it", () => {
    const { left, right } = connected()
    const message = sealed(left, somePacket, 1)
    const length = CIPHER_HEADROOM + somePacket.length + CIPHER_TAILROOM
    const open = (size: number, at: number) => right.open(message, 0, message.length, new Uint8Array(size), at, 1)
    expect(open(length - 1, CIPHER_HEADROOM)).toBe(-1)
    expect(open(length, CIPHER_HEADROOM - 1)).toBe(-1)
    expect(open(length, CIPHER_HEADROOM)).toBe(somePacket.length)
  })

  it("cannot be sealed without a session; then nothing changes", () => {
    const tunnel = responder()
    const buffer = bytes(7, CIPHER_HEADROOM + 100 + CIPHER_TAILROOM)
    const before = buffer.slice()
    const timeout = tunnel.pollTimeout()
    expect(tunnel.seal(buffer, CIPHER_HEADROOM, 100, 1)).toBe(false)
    expect(buffer).toEqual(before)
    expect([tunnel.bytesSent, tunnel.pollTransmit(), tunnel.pollTimeout()]).toEqual([0, undefined, timeout])
  })
})

describe("an earlier session", () => {
  it("still opens what was under way while a new one was made", () => {
    const { left, right } = connected()
    const late = [sealed(left, somePacket, 1), sealed(left, somePacket, 1)]
    const lateReply = sealed(right, somePacket, 1)
    rekey(left, right, 100)
    for (const message of late) expect(openMessage(right, message, 101)).toEqual(somePacket)
    expect(openMessage(left, lateReply, 101)).toEqual(somePacket)
  })

  it("is not sent on because of late data; the newer one is kept", () => {
    const { left, right } = connected()
    const late = sealed(left, somePacket, 1)
    rekey(left, right, 100)
    expect(openMessage(right, late, 101)).toEqual(somePacket)
    expect(readReceiverIndex(sealed(right, somePacket, 102), 0)).toBe(0x00abcd02)
    expect(right.lastHandshakeAt).toBe(100)
  })

  it("is what a responder sends on until the initiator has used the new one", () => {
    const { left, right } = connected()
    left.initiate(100)
    for (const message of drain(left)) deliver(right, message, 100)
    expect(readReceiverIndex(sealed(right, somePacket, 101), 0)).toBe(0x00abcd01)
    exchange(left, right, 102)
    expect(readReceiverIndex(sealed(right, somePacket, 103), 0)).toBe(0x00abcd02)
  })

  it("survives seven newer ones, not eight", () => {
    const { left, right } = connected()
    const [first, second] = [sealed(left, somePacket, 1), sealed(left, somePacket, 1)]
    for (let i = 0; i < 7; i++) rekey(left, right, 2 + i)
    expect(openMessage(right, first, 10)).toEqual(somePacket)
    rekey(left, right, 11)
    expect(openMessage(right, second, 12)).toBeUndefined()
  })

  it("opens nothing more at 180 s, with or without a tick", () => {
    for (const tick of [true, false]) {
      const { left, right } = connected()
      const [inTime, tooLate] = [sealed(left, somePacket, 1), sealed(left, somePacket, 1)]
      expect(openMessage(right, inTime, 179_999)).toEqual(somePacket)
      if (tick) right.handleTimeout(180_000)
      expect(openMessage(right, tooLate, 180_000)).toBeUndefined()
    }
  })
})

describe("sending", () => {
  it("ends at 170 s for the initiator and at 180 s for the responder", () => {
    const { left, right } = connected()
    expect(sealPacket(left, somePacket, 169_999)).toBeDefined()
    expect(sealPacket(left, somePacket, 170_000)).toBeUndefined()
    expect(left.hasSession).toBe(false)
    expect(sealPacket(right, somePacket, 179_999)).toBeDefined()
    expect(right.hasSession).toBe(true)
    expect(sealPacket(right, somePacket, 180_000)).toBeUndefined()
    expect(right.hasSession).toBe(false)
  })

  it("tells by its latest call whether there is a session", () => {
    const { left } = connected()
    expect(left.hasSession).toBe(true)
    left.initiate(175_000)
    expect(left.hasSession).toBe(false)
  })

  it("gives messages that nobody else's receiver opens", () => {
    const { left, right } = connected()
    const other = connected({ presharedKey: bytes(6) })
    const message = sealed(left, somePacket, 1)
    expect(toHex(openMessage(other.right, message, 1) ?? bytes(0, 0))).toBe("")
    expect(openMessage(left, message, 1), "nor its own").toBeUndefined()
    expect(openMessage(right, message, 1)).toEqual(somePacket)
  })
})
