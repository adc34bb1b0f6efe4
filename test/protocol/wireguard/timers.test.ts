import { describe, expect, it } from "vitest"
import { MessageType, readSenderIndex } from "../../../src/protocol/wire/wireguard.ts"
import { pathTimers, type WireguardOptions } from "../../../src/protocol/wireguard/types.ts"
import type { WireguardTunnel } from "../../../src/protocol/wireguard/WireguardTunnel.ts"
import {
  bytes,
  connected,
  deliver,
  drain,
  exchange,
  initiator,
  openMessage,
  responder,
  runUntil,
  sealPacket,
  somePacket,
  take,
  withLargestJitter
} from "./peers.ts"

const { Data, Initiation, Response } = MessageType

/** What a tunnel sends by itself until then, as `time type`. */
const sends = (tunnel: WireguardTunnel, until: number): Array<string> =>
  runUntil(tunnel, until).map(({ at, message }) => `${at} ${message[0]}`)

const carry = (from: WireguardTunnel, to: WireguardTunnel, now: number): void => {
  const message = sealPacket(from, somePacket, now)
  expect(message && openMessage(to, message, now), `at ${now}`).toEqual(somePacket)
}
const loseData = (from: WireguardTunnel, now: number): void => expect(sealPacket(from, somePacket, now)).toBeDefined()

/** A session made at 0, with the keep-alive and silence behind it. */
const established = (options: Partial<WireguardOptions> = {}) => {
  const { left, right } = connected(options)
  expect([left.isHandshaking, right.isHandshaking, drain(left), drain(right)]).toEqual([false, false, [], []])
  return { left, right }
}

describe("an initiation without an answer", () => {
  it("is sent again every 5 s, and after 20 s the tunnel has expired", () => {
    const tunnel = initiator()
    tunnel.initiate(1000)
    drain(tunnel)
    expect(sends(tunnel, 20_999)).toEqual(["6000 1", "11000 1", "16000 1"])
    expect(tunnel.expired).toBe(false)
    expect(sends(tunnel, 1e9)).toEqual([])
    expect([tunnel.expired, tunnel.isHandshaking, tunnel.pollTimeout()]).toEqual([true, false, undefined])
  })

  it("is sent again every 2 s for 90 s with the timers of path mode", () => {
    const tunnel = initiator({ timers: pathTimers })
    tunnel.initiate(0)
    drain(tunnel)
    expect(sends(tunnel, 89_999)).toEqual(Array.from({ length: 44 }, (_, i) => `${2000 * (i + 1)} 1`))
    expect(sends(tunnel, 90_000)).toEqual([])
    expect(tunnel.expired).toBe(true)
  })

  it("is put off by the jitter each time it is sent again, but not the first time", () => {
    const tunnel = initiator({ crypto: withLargestJitter })
    tunnel.initiate(0)
    take(tunnel, Initiation)
    expect(sends(tunnel, 19_999)).toEqual(["5333 1", "10666 1", "15999 1"])
  })

  it("that the driver forgets to tick for does not send a burst", () => {
    const tunnel = initiator()
    tunnel.initiate(0)
    drain(tunnel)
    tunnel.handleTimeout(19_000)
    expect(drain(tunnel).length).toBe(1)
    expect(tunnel.pollTimeout()).toBe(20_000)
  })

  it("does not expire a tunnel that the peer has connected meanwhile", () => {
    const left = initiator()
    const right = responder()
    left.initiate(0)
    drain(left) // lost
    right.initiate(1000)
    exchange(left, right, 1000)
    expect([left.isHandshaking, left.hasSession]).toEqual([false, true])
    expect(sends(left, 100_000)).toEqual([])
    expect(left.expired).toBe(false)
  })

  it("expires the tunnel though the peer has asked: it never used the answer", () => {
    const left = initiator()
    const right = responder()
    left.initiate(0)
    drain(left)
    right.initiate(1000)
    deliver(left, take(right, Initiation), 1000)
    expect(drain(left).map((message) => message[0])).toEqual([Response])
    expect(sends(left, 20_000)).toEqual(["5000 1", "10000 1", "15000 1"])
    expect(left.expired).toBe(true)
  })
})

describe("the initiator of a session", () => {
  it("makes a new one at 120 s if it has sent data", () => {
    const { left, right } = established()
    carry(left, right, 10)
    carry(right, left, 20)
    expect(sends(left, 120_000)).toEqual(["10020 4", "120000 1"])
  })

  it("makes one as soon as it sends data after that", () => {
    const { left, right } = established()
    carry(left, right, 150_000)
    carry(right, left, 150_000)
    left.handleTimeout(150_000)
    expect(take(left, Initiation).length).toBe(148)
  })

  it("makes a new one at 165 s if it has only received data", () => {
    const { left, right } = established()
    carry(right, left, 10)
    expect(sends(left, 165_000)).toEqual(["10010 4", "165000 1"])
  })

  it("makes it at 173 s with the timers of path mode", () => {
    const { left, right } = established({ timers: pathTimers })
    carry(right, left, 10)
    expect(sends(left, 173_000)).toEqual(["5010 4", "173000 1"])
  })

  it("makes a new one at 180 s if there was no data", () => {
    const { left } = established()
    expect(sends(left, 180_000)).toEqual(["180000 1"])
  })

  it("puts each of these off by the jitter", () => {
    const { left, right } = established({ crypto: withLargestJitter })
    carry(left, right, 10)
    carry(right, left, 20)
    expect(sends(left, 124_999)).toEqual(["10020 4", "120333 1"])
  })

  it("goes on, a session every 120 s, without a packet lost", () => {
    const { left, right } = established()
    let handshakes = 0
    for (let now = 0; now <= 1_200_000; now += 1000) {
      for (const [from, to] of [[left, right], [right, left]] as const) {
        from.handleTimeout(now)
        for (const message of drain(from)) {
          if (message[0] === Initiation) handshakes += 1
          deliver(to, message, now)
          for (const answer of drain(to)) deliver(from, answer, now)
        }
        exchange(left, right, now)
        carry(from, to, now)
      }
    }
    expect(handshakes).toBe(10)
    expect([left.expired, right.expired]).toEqual([false, false])
  })
})

describe("the responder of a session", () => {
  it("never makes a new one because of age", () => {
    const { left, right } = established()
    carry(left, right, 10)
    carry(right, left, 20)
    carry(left, right, 30)
    expect(sends(right, 539_999)).toEqual(["10030 4"])
    expect(right.expired).toBe(false)
  })

  it("makes one when it is not heard", () => {
    const { right } = established()
    loseData(right, 100)
    expect(sends(right, 15_100)).toEqual(["15100 1"])
  })
})

describe("silence", () => {
  it("of the peer for 15 s after data was sent starts a handshake", () => {
    const { left } = established()
    loseData(left, 1000)
    loseData(left, 9000)
    expect(sends(left, 15_999)).toEqual([])
    expect(sends(left, 16_000)).toEqual(["16000 1"])
  })

  it("of 7 s is enough with the timers of path mode", () => {
    const { left } = established({ timers: pathTimers })
    loseData(left, 1000)
    expect(sends(left, 8000)).toEqual(["8000 1"])
  })

  it("is broken by a keep-alive", () => {
    const { left, right } = established()
    carry(left, right, 1000)
    expect(sends(right, 10_999)).toEqual([])
    const [keepalive] = runUntil(right, 11_000)
    expect(keepalive?.at).toBe(11_000)
    expect(openMessage(left, keepalive?.message ?? bytes(0), 11_000)).toEqual(new Uint8Array(0))
    expect(sends(left, 119_999)).toEqual([])
  })

  it("is broken by data that is no IP packet, for it is authentic", () => {
    const { left, right } = established()
    loseData(left, 1000)
    const message = sealPacket(right, bytes(0, 60), 2000) ?? bytes(0)
    expect(openMessage(left, message, 2000)).toBeUndefined()
    expect(sends(left, 119_999)).toEqual([])
  })

  it("is not broken by what is not authentic", () => {
    const { left, right } = established()
    loseData(left, 1000)
    const message = sealPacket(right, somePacket, 2000) ?? bytes(0)
    message[20] = (message[20] as number) ^ 1
    expect(openMessage(left, message, 2000)).toBeUndefined()
    expect(sends(left, 16_000)).toEqual(["16000 1"])
  })

  it("that a handshake has ended is not counted on", () => {
    const { left, right } = established()
    loseData(left, 1000)
    const [initiation] = runUntil(left, 16_000)
    deliver(right, initiation?.message ?? bytes(0), 16_000)
    exchange(left, right, 16_000)
    expect(left.lastHandshakeAt).toBe(16_000)
    expect(sends(left, 195_999)).toEqual([])
  })
})

describe("a keep-alive", () => {
  it("follows data that was not answered for 10 s, once", () => {
    const { left, right } = established()
    carry(right, left, 500)
    carry(right, left, 2000)
    expect(sends(left, 60_000)).toEqual(["10500 4"])
    carry(right, left, 61_000)
    expect(sends(left, 71_000)).toEqual(["71000 4"])
  })

  it("does not follow an answer, nor another keep-alive", () => {
    const { left, right } = established()
    carry(right, left, 500)
    carry(left, right, 600)
    const keepalives = runUntil(right, 60_000)
    expect(keepalives.map(({ at, message }) => [at, message.length])).toEqual([[10_600, 32]])
    expect(openMessage(left, keepalives[0]?.message ?? bytes(0), 10_600)).toEqual(new Uint8Array(0))
    expect(sends(left, 119_999)).toEqual([])
  })

  it("does not count as data: a session that carried nothing else is not replaced at 120 s", () => {
    const { left, right } = established()
    for (let now = 1000; now < 100_000; now += 10_000) {
      const keepalive = sealPacket(left, new Uint8Array(0), now) ?? bytes(0)
      expect(openMessage(right, keepalive, now)).toEqual(new Uint8Array(0))
    }
    expect(left.bytesSent).toBe(0)
    expect(sends(left, 179_999)).toEqual([])
    expect(sends(right, 179_999)).toEqual([])
  })
})

describe("540 s without a new session", () => {
  it("expire a tunnel that never had one", () => {
    const tunnel = responder({}, 1000)
    expect(tunnel.pollTimeout()).toBe(541_000)
    expect(sends(tunnel, 540_999)).toEqual([])
    expect(tunnel.expired).toBe(false)
    expect(sends(tunnel, 541_000)).toEqual([])
    expect(tunnel.expired).toBe(true)
  })

  it("are counted from the latest one, and end with everything forgotten", () => {
    const { left, right } = established()
    left.initiate(300_000)
    exchange(left, right, 300_000)
    expect(right.lastHandshakeAt).toBe(300_000)
    const late = sealPacket(left, somePacket, 300_001) ?? bytes(0)
    sends(right, 839_999)
    expect(right.expired).toBe(false)
    sends(right, 840_000)
    expect([right.expired, right.hasSession]).toEqual([true, false])
    expect(openMessage(right, late, 300_002)).toBeUndefined()
    left.initiate(840_000)
    expect(right.handleInitiation(take(left, Initiation), 840_000)).toBe("Rejected")
  })
})

describe("the driver", () => {
  it("may tick as often as it likes", () => {
    const { left, right } = established()
    carry(right, left, 1000)
    const at: Array<number> = []
    for (let now = 1000; now < 60_000; now += 100) {
      left.handleTimeout(now)
      for (const message of drain(left)) {
        expect(message[0]).toBe(Data)
        at.push(now)
      }
    }
    expect(at).toEqual([11_000])
  })

  it("that lets messages lie loses the oldest, and no memory", () => {
    const tunnel = responder()
    for (let i = 0; i < 100; i++) {
      const peer = initiator({ unixEpochMillis: 1.8e12 + i })
      peer.initiate(0)
      expect(tunnel.handleInitiation(take(peer, Initiation), i)).toBe("SessionPending")
    }
    expect(drain(tunnel).map((message) => readSenderIndex(message, 0) & 0xff)).toEqual(
      Array.from({ length: 16 }, (_, i) => 85 + i)
    )
  })
})
