import fc from "fast-check"
import { expect, it } from "vitest"
import { CIPHER_HEADROOM, CIPHER_TAILROOM } from "../../../src/protocol/crypto.ts"
import { ip } from "../../../src/protocol/wire/address.ts"
import { MessageType } from "../../../src/protocol/wire/wireguard.ts"
import { decryptInitiatorKey } from "../../../src/protocol/wireguard/handshake.ts"
import { innerLength } from "../../../src/protocol/wireguard/innerLength.ts"
import { RateLimiter } from "../../../src/protocol/wireguard/RateLimiter.ts"
import type { WireguardTunnel } from "../../../src/protocol/wireguard/WireguardTunnel.ts"
import {
  connected,
  crypto,
  drain,
  openMessage,
  responderPrivate,
  responderPublic,
  sealPacket,
  somePacket
} from "./peers.ts"

const output = new Uint8Array(CIPHER_HEADROOM + 2100 + CIPHER_TAILROOM)

/** Hands a datagram to everything that a datagram could reach; returns who believed it. */
const believers = (tunnel: WireguardTunnel, limiter: RateLimiter, datagram: Uint8Array): Array<string> => {
  const believed: Array<string> = []
  if (limiter.verify(datagram, ip("192.0.2.1"), 1)._tag !== "Dropped") believed.push("the limiter")
  if (tunnel.handleInitiation(datagram, 1) !== "Rejected") believed.push("handleInitiation")
  if (tunnel.handleResponse(datagram, 1) !== "Rejected") believed.push("handleResponse")
  if (tunnel.handleCookieReply(datagram, 1) !== "Rejected") believed.push("handleCookieReply")
  if (tunnel.open(datagram, 0, datagram.length, output, CIPHER_HEADROOM, 1) !== -1) believed.push("open")
  if (decryptInitiatorKey(crypto, responderPrivate, responderPublic, datagram) !== undefined) believed.push("the key")
  return believed
}

/** Random bytes, made to look like a message of that type if there is one. */
const datagramOf = (length: number, type?: number): Uint8Array => {
  const datagram = crypto.randomBytes(length)
  if (type !== undefined && length >= 4) datagram.set([type, 0, 0, 0])
  return datagram
}

it("nothing believes random datagrams of every length from 0 to 2000, and the session goes on", () => {
  const { left, right } = connected()
  const limiter = new RateLimiter({ crypto, publicKey: responderPublic, now: 0 })
  for (let length = 0; length <= 2000; length++) {
    expect(believers(right, limiter, datagramOf(length)), `length ${length}`).toEqual([])
    const { Data } = MessageType
    const data = datagramOf(length, Data)
    if (length >= 8) data.set([0x01, 0x34, 0x12, 0x00], 4) // the session's own index
    expect(believers(right, limiter, data), `length ${length}`).toEqual([])
  }
  for (const [type, length] of [[1, 148], [2, 92], [3, 64]] as const) {
    for (let i = 0; i < 50; i++) expect(believers(right, limiter, datagramOf(length, type))).toEqual([])
  }
  expect([drain(right), right.expired]).toEqual([[], false])
  const message = sealPacket(left, somePacket, 2)
  expect(message && openMessage(right, message, 2)).toEqual(somePacket)
})

it("an offset or a length outside the buffer is refused", () => {
  const { left, right } = connected()
  const message = sealPacket(left, somePacket, 1) ?? new Uint8Array(0)
  const cases = [[0, message.length + 1], [1, message.length], [-1, message.length], [message.length, 32], [0, 31], [
    0,
    0
  ]]
  for (const [offset = 0, length = 0] of cases) {
    expect(right.open(message, offset, length, output, CIPHER_HEADROOM, 1)).toBe(-1)
  }
  expect(right.open(message, 0, message.length, output, CIPHER_HEADROOM, 1)).toBe(somePacket.length)
})

it("the inner length lies within the packet, or there is none", () => {
  fc.assert(fc.property(fc.uint8Array({ minLength: 1, maxLength: 100 }), fc.nat(20), (packet, offset) => {
    const bytes = new Uint8Array(offset + packet.length)
    bytes.set(packet, offset)
    const length = innerLength(bytes, offset, packet.length)
    const isWithin = length >= 20 && length <= packet.length && [4, 6].includes((packet[0] as number) >> 4)
    expect(length === -1 || isWithin, `${length} of ${packet.length}`).toBe(true)
  }))
})
