import { describe, expect, it } from "vitest"
import { MessageType, readReceiverIndex, readSenderIndex } from "../../../src/protocol/wire/wireguard.ts"
import { makeIdentity } from "../../../src/protocol/wireguard/handshake.ts"
import type { WireguardTunnel } from "../../../src/protocol/wireguard/WireguardTunnel.ts"
import {
  bytes,
  connected,
  crypto,
  drain,
  exchange,
  initiator,
  initiatorPrivate,
  openMessage,
  responder,
  responderPrivate,
  responderPublic,
  sealPacket,
  somePacket,
  take
} from "./peers.ts"

const { CookieReply, Data, Initiation, Response } = MessageType

/** Whether a packet sealed by `from` comes out of `to`. */
const carries = (from: WireguardTunnel, to: WireguardTunnel, now: number): boolean => {
  const message = sealPacket(from, somePacket, now)
  const opened = message && openMessage(to, message, now)
  return opened !== undefined && opened.length === somePacket.length &&
    opened.every((byte, i) => byte === somePacket[i])
}

const initiation = (tunnel: WireguardTunnel, now: number): Uint8Array => {
  tunnel.initiate(now)
  return take(tunnel, Initiation)
}

describe("a handshake", () => {
  it("takes one round trip, and a keep-alive that confirms it to the responder", () => {
    const left = initiator()
    const right = responder()
    expect([left.hasSession, left.isHandshaking, left.lastHandshakeAt]).toEqual([false, false, undefined])
    const first = initiation(left, 10)
    expect([left.hasSession, left.isHandshaking]).toEqual([false, true])
    expect(right.handleInitiation(first, 20)).toBe("SessionPending")
    expect([right.hasSession, right.lastHandshakeAt]).toEqual([false, undefined])
    expect(sealPacket(right, somePacket, 20), "the initiator has not shown its keys").toBeUndefined()
    expect(left.handleResponse(take(right, Response), 30)).toBe("SessionEstablished")
    expect([left.hasSession, left.isHandshaking, left.lastHandshakeAt]).toEqual([true, false, 30])
    const keepalive = take(left, Data)
    expect(keepalive.length).toBe(32)
    expect(openMessage(right, keepalive, 40)).toEqual(new Uint8Array(0))
    expect([right.hasSession, right.lastHandshakeAt]).toEqual([true, 20])
    expect([carries(left, right, 50), carries(right, left, 50)]).toEqual([true, true])
    expect([left.bytesSent, left.bytesReceived]).toEqual([somePacket.length, somePacket.length])
  })

  it("is confirmed by data as well, when the keep-alive is lost", () => {
    const left = initiator()
    const right = responder()
    right.handleInitiation(initiation(left, 0), 0)
    left.handleResponse(take(right, Response), 0)
    drain(left)
    expect(carries(left, right, 1)).toBe(true)
    expect(carries(right, left, 1)).toBe(true)
  })

  it("names its sessions by the tunnel's prefix and a number that grows with each of them", () => {
    const { left, right } = connected()
    const data = sealPacket(left, somePacket, 1) ?? bytes(0)
    expect(readReceiverIndex(data, 0)).toBe(0x00123401)
    const second = initiation(left, 2)
    expect(readSenderIndex(second, 0)).toBe(0x00abcd02)
    right.handleInitiation(second, 2)
    const response = take(right, Response)
    expect([readSenderIndex(response, 0), readReceiverIndex(response, 0)]).toEqual([0x00123402, 0x00abcd02])
    const high = initiator({ indexPrefix: 0xff_fffe })
    expect(readSenderIndex(initiation(high, 0), 0)).toBe(0xffff_fe01)
  })

  it("wraps the number of a session after 255", () => {
    const left = initiator({ indexPrefix: 1 })
    const right = responder({ indexPrefix: 2 })
    for (let i = 1; i <= 257; i++) {
      const message = initiation(left, i)
      expect(readSenderIndex(message, 0)).toBe(0x100 + (i & 0xff))
      expect(right.handleInitiation(message, i)).toBe("SessionPending")
      expect(left.handleResponse(take(right, Response), i)).toBe("SessionEstablished")
      drain(left)
    }
    expect(carries(left, right, 300)).toBe(true)
  })

  it("does not start while another one is in flight", () => {
    const left = initiator()
    initiation(left, 0)
    left.initiate(1)
    expect(drain(left)).toEqual([])
  })

  it("uses a new ephemeral key, index and label each time", () => {
    const { left, right } = connected()
    const first = initiation(left, 5)
    exchangeResponse(left, right, first, 5)
    const second = initiation(left, 5)
    for (const [from, to] of [[4, 8], [8, 40], [88, 116]] as const) {
      expect(first.slice(from, to)).not.toEqual(second.slice(from, to))
    }
    expect(right.handleInitiation(second, 5)).toBe("SessionPending")
  })

  it("fails between peers with different preshared keys, and leaves the initiator waiting", () => {
    const left = initiator()
    const right = responder({ presharedKey: bytes(6) })
    expect(right.handleInitiation(initiation(left, 0), 0), "the key is mixed in with the response only").toBe(
      "SessionPending"
    )
    expect(left.handleResponse(take(right, Response), 0)).toBe("Rejected")
    expect([left.hasSession, left.isHandshaking]).toEqual([false, true])
    expect(drain(left)).toEqual([])
  })

  it("is refused to a peer with another static key, and by a peer with one", () => {
    const stranger = initiator({ privateKey: bytes(9) })
    const right = responder()
    expect(right.handleInitiation(initiation(stranger, 0), 0)).toBe("Rejected")
    const misled = initiator({ remoteKey: crypto.x25519PublicKey(bytes(8)) })
    expect(right.handleInitiation(initiation(misled, 0), 0)).toBe("Rejected")
    expect(drain(right)).toEqual([])
  })

  it("is not answered twice: neither the same initiation nor an older one", () => {
    const left = initiator()
    const right = responder()
    const first = initiation(left, 0)
    left.handleTimeout(5000)
    const second = take(left, Initiation)
    expect(right.handleInitiation(second, 6000)).toBe("SessionPending")
    drain(right)
    expect(right.handleInitiation(second, 6001)).toBe("Rejected")
    expect(right.handleInitiation(first, 6002)).toBe("Rejected")
    expect(drain(right)).toEqual([])
  })

  it("is answered by a new tunnel of the same peer, whose labels begin anew", () => {
    const left = initiator({ unixEpochMillis: 0 })
    expect(responder().handleInitiation(initiation(left, 0), 0)).toBe("SessionPending")
  })

  it("ends with the first answer: neither the response again nor one to nothing", () => {
    const left = initiator()
    const right = responder()
    right.handleInitiation(initiation(left, 0), 0)
    const response = take(right, Response)
    expect(left.handleResponse(response, 0)).toBe("SessionEstablished")
    expect(left.handleResponse(response, 1)).toBe("Rejected")
    expect(initiator().handleResponse(response, 1)).toBe("Rejected")
  })
})

describe("the answer to an initiation that was sent again", () => {
  const retried = () => {
    const left = initiator()
    const right = responder()
    const first = initiation(left, 0)
    left.handleTimeout(5000)
    const second = take(left, Initiation)
    right.handleInitiation(first, 5001)
    const firstResponse = take(right, Response)
    right.handleInitiation(second, 5002)
    return { left, right, firstResponse, secondResponse: take(right, Response) }
  }

  it("is good when it comes late", () => {
    const { firstResponse, left, right, secondResponse } = retried()
    expect(left.handleResponse(firstResponse, 5003)).toBe("SessionEstablished")
    expect(left.isHandshaking).toBe(false)
    exchange(left, right, 5003)
    expect([carries(left, right, 5004), carries(right, left, 5004)]).toEqual([true, true])
    expect(left.handleResponse(secondResponse, 5005)).toBe("SessionEstablished")
    exchange(left, right, 5005)
    expect([carries(left, right, 5006), carries(right, left, 5006)]).toEqual([true, true])
  })

  it("is not, when it was overtaken by the answer to the later one", () => {
    const { firstResponse, left, right, secondResponse } = retried()
    expect(left.handleResponse(secondResponse, 5003)).toBe("SessionEstablished")
    expect(left.handleResponse(firstResponse, 5004)).toBe("Rejected")
    exchange(left, right, 5004)
    expect([carries(left, right, 5005), carries(right, left, 5005)]).toEqual([true, true])
  })

  it("is not, when two have been sent since", () => {
    const left = initiator()
    const right = responder()
    right.handleInitiation(initiation(left, 0), 0)
    const response = take(right, Response)
    left.handleTimeout(5000)
    left.handleTimeout(10_000)
    drain(left)
    expect(left.handleResponse(response, 10_001)).toBe("Rejected")
  })

  it("is not, when the attempt is over", () => {
    const { left, right } = connected()
    right.handleInitiation(initiation(left, 1000), 1000)
    const response = take(right, Response)
    expect(left.handleResponse(response, 21_000)).toBe("Rejected")
  })
})

describe("initiations that cross", () => {
  const crossed = (answers: { readonly left: boolean; readonly right: boolean }) => {
    const left = initiator()
    const right = responder()
    const fromLeft = initiation(left, 0)
    const fromRight = initiation(right, 0)
    right.handleInitiation(fromLeft, 10)
    left.handleInitiation(fromRight, 10)
    const fromLeft2 = take(left, Response)
    const fromRight2 = take(right, Response)
    if (answers.left) right.handleResponse(fromLeft2, 20)
    if (answers.right) left.handleResponse(fromRight2, 20)
    exchange(left, right, 30)
    return { left, right }
  }

  for (const answers of [{ left: true, right: true }, { left: true, right: false }, { left: false, right: true }]) {
    const arrived = Object.entries(answers).filter(([, arrives]) => arrives).map(([name]) => name).join(" and ")
    it(`converge when the answer of ${arrived} arrives, and nobody goes on asking`, () => {
      const { left, right } = crossed(answers)
      expect([left.isHandshaking, right.isHandshaking]).toEqual([false, false])
      for (let now = 40; now < 44; now++) {
        expect([carries(left, right, now), carries(right, left, now)]).toEqual([true, true])
      }
    })
  }
})

describe("a message that was tampered with", () => {
  it("is rejected, whichever byte of an initiation it is", () => {
    const message = initiation(initiator(), 0)
    const right = responder()
    // The index of the sender is covered by MAC1 alone, which the node checks before.
    for (let at = 0; at < 116; at++) {
      if (at >= 4 && at < 8) continue
      const forged = message.slice()
      forged[at] = (forged[at] as number) ^ 1
      expect(right.handleInitiation(forged, 0), `byte ${at}`).toBe("Rejected")
    }
    expect(drain(right)).toEqual([])
    expect(right.handleInitiation(message, 0)).toBe("SessionPending")
  })

  it("is rejected, whichever byte of a response it is, and the right one still works", () => {
    const left = initiator()
    const right = responder()
    right.handleInitiation(initiation(left, 0), 0)
    const message = take(right, Response)
    for (let at = 0; at < 60; at++) {
      if (at >= 4 && at < 8) continue
      const forged = message.slice()
      forged[at] = (forged[at] as number) ^ 0x80
      expect(left.handleResponse(forged, 0), `byte ${at}`).toBe("Rejected")
    }
    expect(left.isHandshaking).toBe(true)
    expect(left.handleResponse(message, 0)).toBe("SessionEstablished")
  })

  it("is rejected when it is too short, too long or of another type", () => {
    const message = initiation(initiator(), 0)
    const right = responder()
    for (let length = 0; length < message.length; length++) {
      expect(right.handleInitiation(message.slice(0, length), 0)).toBe("Rejected")
    }
    expect(right.handleInitiation(Uint8Array.from([...message, 0]), 0)).toBe("Rejected")
    for (const type of [0, Response, CookieReply, Data, 5, 255]) {
      const other = message.slice()
      other[0] = type
      expect(right.handleInitiation(other, 0)).toBe("Rejected")
      expect(right.handleResponse(other, 0)).toBe("Rejected")
      expect(right.handleCookieReply(other, 0)).toBe("Rejected")
    }
  })
})

describe("keys that cannot be used", () => {
  it("of a peer whose every shared secret is zero make a tunnel that is expired from the start", () => {
    for (const remoteKey of [bytes(0), Uint8Array.of(1, ...bytes(0, 31))]) {
      expect(makeIdentity(crypto, initiatorPrivate, remoteKey, bytes(0))).toBeUndefined()
      const tunnel = initiator({ remoteKey })
      tunnel.initiate(0)
      tunnel.handleTimeout(1)
      expect([tunnel.expired, tunnel.pollTransmit(), tunnel.pollTimeout()]).toEqual([true, undefined, undefined])
      expect(tunnel.handleInitiation(initiation(initiator(), 0), 0)).toBe("Rejected")
      expect(sealPacket(tunnel, somePacket, 2)).toBeUndefined()
    }
  })

  it("of a wrong length are a mistake of the caller", () => {
    expect(() => initiator({ presharedKey: bytes(5, 31) })).toThrow("presharedKey has 31 bytes instead of 32")
    expect(() => initiator({ remoteKey: new Uint8Array(0) })).toThrow(RangeError)
  })

  it("of an initiator who sends a zero point are refused", () => {
    const message = initiation(initiator(), 0)
    message.fill(0, 8, 40)
    expect(responder().handleInitiation(message, 0)).toBe("Rejected")
  })

  it("are copied: the caller may wipe its own", () => {
    const privateKey = responderPrivate.slice()
    const right = responder({ privateKey })
    privateKey.fill(0)
    expect(right.handleInitiation(initiation(initiator({ remoteKey: responderPublic.slice() }), 0), 0)).toBe(
      "SessionPending"
    )
  })
})

const exchangeResponse = (left: WireguardTunnel, right: WireguardTunnel, message: Uint8Array, now: number): void => {
  right.handleInitiation(message, now)
  exchange(left, right, now)
}
