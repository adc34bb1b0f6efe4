import { describe, expect, it } from "vitest"
import { ip, type IpAddress } from "../../../src/protocol/wire/address.ts"
import { COOKIE_REPLY, MessageType } from "../../../src/protocol/wire/wireguard.ts"
import {
  buildCookieReply,
  cookieKey,
  hasValidMac1,
  hasValidMac2,
  mac1Key,
  openCookieReply,
  readMac1,
  writeMacs
} from "../../../src/protocol/wireguard/cookie.ts"
import { RateLimiter, type Verdict } from "../../../src/protocol/wireguard/RateLimiter.ts"
import type { WireguardTunnel } from "../../../src/protocol/wireguard/WireguardTunnel.ts"
import {
  bytes,
  connected,
  crypto,
  initiator,
  initiatorPublic,
  responder,
  responderPublic,
  runUntil,
  sealPacket,
  somePacket,
  take
} from "./peers.ts"

const { CookieReply, Initiation, Response } = MessageType
const source = ip("192.0.2.7")
const MAC2 = 132

const initiation = (tunnel: WireguardTunnel = initiator(), now = 0): Uint8Array => {
  tunnel.initiate(now)
  return take(tunnel, Initiation)
}

/** The limiter of the responder, which takes nothing without a cookie unless `limit` says otherwise. */
const limiterOf = (limit = 0, now = 0): RateLimiter =>
  new RateLimiter({ crypto, publicKey: responderPublic, now, limit })

const replyIn = (verdict: Verdict): Uint8Array => {
  if (verdict._tag !== "CookieReply") throw new Error(`no cookie: ${verdict._tag}`)
  return verdict.message
}

describe("the MACs", () => {
  it("are MAC1 for the receiver only, and no MAC2 without a cookie", () => {
    const message = initiation()
    expect(hasValidMac1(message, mac1Key(responderPublic))).toBe(true)
    expect(hasValidMac1(message, mac1Key(initiatorPublic))).toBe(false)
    expect(message.slice(MAC2)).toEqual(bytes(0, 16))
    expect(hasValidMac2(message, bytes(0, 16))).toBe(false)
  })

  it("cover every byte before them", () => {
    const message = initiation()
    writeMacs(message, mac1Key(responderPublic), bytes(4, 16))
    for (let at = 0; at < message.length; at++) {
      const forged = message.slice()
      forged[at] = (forged[at] as number) ^ 1
      expect(hasValidMac1(forged, mac1Key(responderPublic)), `byte ${at}`).toBe(at >= MAC2)
      expect(hasValidMac2(forged, bytes(4, 16)), `byte ${at}`).toBe(false)
    }
    expect(hasValidMac2(message, bytes(4, 16))).toBe(true)
    expect(hasValidMac2(message, bytes(5, 16))).toBe(false)
  })

  it("exist in handshake messages only", () => {
    for (const other of [new Uint8Array(0), bytes(4, 148), bytes(1, 92), bytes(3, 64), bytes(2, 148)]) {
      expect(hasValidMac1(other, mac1Key(responderPublic))).toBe(false)
      expect(hasValidMac2(other, bytes(0, 16))).toBe(false)
      expect(readMac1(other)).toBeUndefined()
      expect(() => writeMacs(other, bytes(0), undefined)).toThrow(RangeError)
      expect(() => buildCookieReply(crypto, other, bytes(0), bytes(0, 16))).toThrow(RangeError)
    }
  })
})

describe("a cookie reply", () => {
  const key = cookieKey(responderPublic)
  const message = initiation()
  const last = { localIndex: 0x00abcd01, mac1: readMac1(message) ?? bytes(0) }
  const reply = buildCookieReply(crypto, message, key, bytes(6, 16))

  it("gives the cookie to who sent the message", () => {
    expect([reply.length, reply[0]]).toEqual([COOKIE_REPLY.length, CookieReply])
    expect(openCookieReply(reply, key, last)).toEqual(bytes(6, 16))
  })

  it("is of no use to another index, another message, another peer, or in part", () => {
    expect(openCookieReply(reply, key, { ...last, localIndex: 0x00abcd02 })).toBeUndefined()
    expect(openCookieReply(reply, key, { ...last, mac1: bytes(0, 16) })).toBeUndefined()
    expect(openCookieReply(reply, cookieKey(initiatorPublic), last)).toBeUndefined()
    for (let at = 4; at < reply.length; at++) {
      const forged = reply.slice()
      forged[at] = (forged[at] as number) ^ 1
      expect(openCookieReply(forged, key, last), `byte ${at}`).toBeUndefined()
    }
    for (let length = 0; length < reply.length; length++) {
      expect(openCookieReply(reply.slice(0, length), key, last)).toBeUndefined()
    }
  })
})

describe("the rate limiter", () => {
  it("takes a hundred messages a second without a cookie, then asks for one", () => {
    const limiter = new RateLimiter({ crypto, publicKey: responderPublic, now: 500 })
    const message = initiation()
    const verdicts = (count: number, now: number) =>
      Array.from({ length: count }, () => limiter.verify(message, source, now)._tag)
    expect(new Set(verdicts(100, 600))).toEqual(new Set(["Accepted"]))
    expect(verdicts(2, 1499)).toEqual(["CookieReply", "CookieReply"])
    expect(new Set(verdicts(100, 1500))).toEqual(new Set(["Accepted"]))
    expect(verdicts(1, 2499)).toEqual(["CookieReply"])
    expect(verdicts(1, 9000)).toEqual(["Accepted"])
  })

  it("drops what has no valid MAC1, and does not count it", () => {
    const limiter = limiterOf(1)
    const message = initiation()
    for (const at of [4, 8, 116, 131]) {
      const forged = message.slice()
      forged[at] = (forged[at] as number) ^ 1
      expect(limiter.verify(forged, source, 0)._tag).toBe("Dropped")
    }
    expect(limiter.verify(initiation(initiator({ remoteKey: initiatorPublic })), source, 0)._tag).toBe("Dropped")
    for (const length of [0, 1, 32, 64, 92, 147, 149]) {
      expect(limiter.verify(new Uint8Array(length), source, 0)._tag).toBe("Dropped")
    }
    expect(limiter.verify(message, source, 0)._tag).toBe("Accepted")
  })

  it("counts responses as well", () => {
    const left = initiator()
    const right = responder()
    right.handleInitiation(initiation(left), 0)
    const response = take(right, Response)
    const limiter = new RateLimiter({ crypto, publicKey: initiatorPublic, now: 0, limit: 1 })
    expect(limiter.verify(response, source, 0)._tag).toBe("Accepted")
    expect(limiter.verify(response, source, 0)._tag).toBe("CookieReply")
  })

  it("drops an excess message whose source it does not know", () => {
    expect(limiterOf().verify(initiation(), undefined, 0)._tag).toBe("Dropped")
  })
})

describe("under load", () => {
  /** A tunnel that has been told the cookie of `limiter` at `now`. */
  const withCookie = (limiter: RateLimiter, from = source, now = 0): WireguardTunnel => {
    const left = initiator()
    const reply = replyIn(limiter.verify(initiation(left, now), from, now))
    expect(left.handleCookieReply(reply, now)).toBe("CookieStored")
    return left
  }
  const retry = (tunnel: WireguardTunnel, until: number): Uint8Array => {
    const [sent] = runUntil(tunnel, until)
    if (sent === undefined) throw new Error("no retry")
    return sent.message
  }

  it("the cookie is not used before the next retry, which is let through", () => {
    const limiter = limiterOf()
    const left = withCookie(limiter)
    expect(left.pollTransmit()).toBeUndefined()
    expect(left.pollTimeout()).toBe(5000)
    const second = retry(left, 5000)
    expect(second.slice(MAC2)).not.toEqual(bytes(0, 16))
    expect(limiter.verify(second, source, 5000)._tag).toBe("Accepted")
    const right = responder()
    expect(right.handleInitiation(second, 5000)).toBe("SessionPending")
    expect(left.handleResponse(take(right, Response), 5000)).toBe("SessionEstablished")
  })

  it("the cookie belongs to an address: of either family, and whatever its port", () => {
    for (const from of [source, ip("2001:db8::7")]) {
      const limiter = limiterOf()
      const second = retry(withCookie(limiter, from), 5000)
      expect(limiter.verify(second, from, 5000)._tag).toBe("Accepted")
      expect(limiter.verify(second, ip("192.0.2.8"), 5000)._tag).toBe("CookieReply")
    }
  })

  it("a source with a cookie has ten messages a second taken, and all sources together a hundred", () => {
    const limiter = limiterOf()
    const second = retry(withCookie(limiter), 5000)
    const accepted = (from: IpAddress, message: Uint8Array, now: number): number => {
      let count = 0
      for (let i = 0; i < 50; i++) if (limiter.verify(message, from, now)._tag === "Accepted") count += 1
      return count
    }
    expect(accepted(source, second, 5000)).toBe(10)
    expect(accepted(source, second, 5999)).toBe(0)
    expect(accepted(source, second, 6000)).toBe(10)
    let others = 0
    for (let i = 1; i <= 20; i++) {
      const from = ip(`198.51.100.${i}`)
      others += accepted(from, retry(withCookie(limiter, from), 5000), 6000)
    }
    expect(others).toBe(90)
  })

  it("the cookie of another node does not count", () => {
    const second = retry(withCookie(limiterOf()), 5000)
    expect(limiterOf().verify(second, source, 5000)._tag).toBe("CookieReply")
  })

  it("the limiter takes another cookie every 128 s, and gives it out", () => {
    const limiter = limiterOf(0, 1000)
    const left = withCookie(limiter, source, 127_000)
    const second = retry(left, 132_000)
    expect(limiter.verify(second, source, 128_999)._tag).toBe("Accepted")
    const reply = replyIn(limiter.verify(second, source, 129_000))
    expect(left.handleCookieReply(reply, 132_000)).toBe("CookieStored")
    expect(limiter.verify(retry(left, 137_000), source, 137_000)._tag).toBe("Accepted")
  })

  it("the cookie is used for 120 s, in responses, too", () => {
    const left = withCookie(limiterOf())
    const other = responder()
    other.initiate(0)
    const first = take(other, Initiation)
    expect(left.handleInitiation(first, 119_999)).toBe("SessionPending")
    expect(take(left, Response).slice(76)).not.toEqual(bytes(0, 16))
    other.handleTimeout(5000)
    expect(left.handleInitiation(take(other, Initiation), 120_000)).toBe("SessionPending")
    expect(take(left, Response).slice(76)).toEqual(bytes(0, 16))
  })

  it("a reply is taken once, for the latest message, and never unasked", () => {
    const limiter = limiterOf()
    const left = initiator()
    const first = replyIn(limiter.verify(initiation(left), source, 0))
    expect(initiator().handleCookieReply(first, 0)).toBe("Rejected")
    const second = retry(left, 5000)
    expect(left.handleCookieReply(first, 5000), "about the message before").toBe("Rejected")
    const reply = replyIn(limiter.verify(second, source, 5000))
    expect(left.handleCookieReply(reply, 5001)).toBe("CookieStored")
    expect(left.handleCookieReply(reply, 100_000), "would make the cookie live longer").toBe("Rejected")
    expect(left.isHandshaking).toBe(true)
  })

  it("a reply counts as a sign of life", () => {
    const { left } = connected()
    expect(sealPacket(left, somePacket, 0)).toBeDefined()
    left.initiate(1000)
    const reply = replyIn(limiterOf().verify(take(left, Initiation), source, 1000))
    expect(left.handleCookieReply(reply, 1000)).toBe("CookieStored")
    expect(left.hasSession).toBe(true)
    expect(runUntil(left, 6000).map(({ at }) => at)).toEqual([6000])
  })
})
