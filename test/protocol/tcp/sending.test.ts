/** What a connection sends, when, and when again (RFC 9293 section 3.8, RFC 6298, RFC 5681), by hand. */
import { assert, describe, it } from "@effect/vitest"
import { brief, type ByHand, bytes, established } from "./ByHand.ts"

const filled = (options: Parameters<typeof established>[0], count: number): ByHand => {
  const peer = established(options)
  peer.connection.write(bytes(count))
  return peer
}

/** Numbers and lengths of what carries something. */
const stretches = (peer: ByHand): ReadonlyArray<string> =>
  brief(peer.drain()).filter((text) => !text.endsWith("+0")).map((text) =>
    text.replace(/^(PSH )?ACK /, "").replace(" 0 ", " ")
  )

describe("the peer's window", () => {
  it("is not exceeded, and grows with acknowledgments", () => {
    const peer = filled({ window: 2000, mss: 1000 }, 5000)
    assert.deepStrictEqual(stretches(peer), ["0 +1000", "1000 +1000"])
    assert.deepStrictEqual(brief(peer.tell({ acknowledgment: 1000, window: 2000 })), ["ACK 2000 0 +1000"])
    assert.deepStrictEqual(brief(peer.tell({ acknowledgment: 3000, window: 2000 })), [
      "ACK 3000 0 +1000",
      "PSH ACK 4000 0 +1000"
    ])
    peer.tell({ acknowledgment: 5000 })
    assert.deepStrictEqual([peer.connection.unacknowledged, peer.connection.pollTimeout()], [0, undefined])
  })

  it("is not filled with crumbs (section 3.8.6.2.1)", () => {
    const peer = filled({ window: 4000, mss: 1000 }, 10_000)
    peer.drain()
    // Room for 300 more, which is no whole segment, nor half of the largest window.
    assert.deepStrictEqual(peer.tell({ acknowledgment: 4000, window: 300 }), [])
    // But not for ever.
    assert.deepStrictEqual(brief(peer.pass(300)), ["ACK 4000 0 +300"])
  })

  it("may be small from the start", () => {
    assert.deepStrictEqual(stretches(filled({ window: 100, mss: 1000 }, 1000)), ["0 +100"])
  })

  it("is asked for when it is closed: one byte, with growing gaps (section 3.8.6.1)", () => {
    const peer = filled({ window: 0 }, 3000)
    assert.deepStrictEqual(peer.drain(), [])
    const times: Array<number> = []
    for (let i = 0; i < 4; i++) {
      const [probe] = peer.pass((peer.connection.pollTimeout() ?? 0) - peer.now)
      assert.deepStrictEqual([probe?.payload.length, probe?.sequence], [1, 1001])
      times.push(peer.now)
      peer.tell({ window: 0 })
    }
    assert.deepStrictEqual(times, [300, 900, 2100, 4500])
    assert.deepStrictEqual(brief(peer.tell({ window: 3000 })), [
      "ACK 1 0 +1240",
      "ACK 1241 0 +1240",
      "PSH ACK 2481 0 +519"
    ])
  })

  it("makes no losses of the answers to probes", () => {
    const peer = filled({ window: 0 }, 3000)
    peer.drain()
    peer.pass(300)
    for (let i = 0; i < 5; i++) assert.deepStrictEqual(peer.tell({ window: 0 }), [])
  })

  it("is respected by what carries nothing, or the peer would not take it", () => {
    const peer = filled({ window: 0 }, 3000)
    peer.drain()
    peer.pass(300)
    assert.deepStrictEqual(brief(peer.tell({ window: 0, payload: 10 })), ["ACK 0 10 +0"])
    peer.connection.abort()
    assert.deepStrictEqual(brief(peer.drain()), ["RST ACK 0 10 +0"])
  })

  it("may open with the answer to a probe, which took the byte", () => {
    const peer = filled({ window: 0 }, 3000)
    peer.drain()
    peer.pass(300)
    assert.deepStrictEqual(brief(peer.tell({ acknowledgment: 1, window: 2000 })), ["ACK 1 0 +1240"])
  })

  it("may not be kept closed for ever: after 30 seconds the connection is reset (RFC 6429)", () => {
    const peer = filled({ window: 0 }, 10)
    peer.drain()
    const sent = []
    while (peer.connection.state === "established") {
      sent.push(...peer.pass(500))
      if (peer.connection.state === "established") peer.tell({ window: 0 })
    }
    assert.deepStrictEqual([peer.now, sent.at(-1)?.flags], [30_000, "RST ACK"])
  })

  it("may shrink: what was sent beyond it is sent again when there is room", () => {
    const peer = filled({ window: 4000, mss: 1000 }, 4000)
    peer.drain()
    assert.deepStrictEqual(peer.tell({ acknowledgment: 1000, window: 0 }), [])
    assert.deepStrictEqual(brief(peer.pass(300)), ["ACK 1000 0 +1"])
    assert.deepStrictEqual(brief(peer.tell({ acknowledgment: 1001, window: 4000 })).length, 3)
    peer.tell({ acknowledgment: 4000 })
    assert.strictEqual(peer.connection.unacknowledged, 0)
  })

  it("is that of the newest segment, not of one that was overtaken", () => {
    const peer = filled({ window: 1000, mss: 1000 }, 3000)
    peer.drain()
    peer.tell({ sequence: 10, acknowledgment: 1000, window: 0, payload: 10 })
    // Sent before, so it says nothing any more.
    assert.deepStrictEqual(stretches(peer), [])
    peer.tell({ sequence: 0, acknowledgment: 1000, window: 5000, payload: 10 })
    assert.deepStrictEqual(stretches(peer), [])
    assert.deepStrictEqual(brief(peer.tell({ sequence: 20, acknowledgment: 1000, window: 5000 })).length, 2)
  })
})

describe("the retransmission timeout", () => {
  it("is what RFC 6298 computes from what is measured, but 300 ms at least", () => {
    const peer = established()
    const timeoutAfter = (roundTrip: number): number => {
      peer.connection.write(bytes(1))
      peer.drain()
      peer.pass(roundTrip)
      peer.tell({ acknowledgment: written += 1 })
      peer.connection.write(bytes(1))
      peer.drain()
      const timeout = (peer.connection.pollTimeout() ?? 0) - peer.now
      peer.tell({ acknowledgment: written += 1 })
      return timeout
    }
    let written = 0
    // The handshake took no time, and so do the segments that only show the timeout; each is a measurement.
    const model = { srtt: 0, rttvar: 0 }
    const measure = (roundTrip: number) => {
      model.rttvar = 0.75 * model.rttvar + 0.25 * Math.abs(model.srtt - roundTrip)
      model.srtt = 0.875 * model.srtt + 0.125 * roundTrip
    }
    measure(0)
    for (const roundTrip of [200, 200, 250, 180, 1, 0]) {
      measure(roundTrip)
      assert.closeTo(timeoutAfter(roundTrip), Math.max(300, model.srtt + 4 * model.rttvar), 0.001)
      measure(0)
    }
  })

  it("doubles each time in vain, begins again with the oldest byte, and ends in a reset after 30 seconds", () => {
    const peer = filled({ mss: 1000 }, 2500)
    peer.drain()
    const all = peer.pass(60_000)
    assert.deepStrictEqual(
      all.map(({ at, flags, payload, sequence }) => [at, flags, sequence - 1001, payload.length]),
      [
        ...[300, 900, 2100, 4500, 9300, 18_900].map((at) => [at, "ACK", 0, 1000]),
        [30_000, "RST ACK", 2500, 0]
      ]
    )
    assert.strictEqual(peer.connection.state, "closed")
  })

  it("sends one segment, then more as they are acknowledged, and what the peer had kept not again", () => {
    const peer = filled({ mss: 1000 }, 5000)
    peer.drain()
    assert.deepStrictEqual(brief(peer.pass(300)), ["ACK 0 0 +1000"])
    // The first was lost; of the others only the last.
    assert.deepStrictEqual(brief(peer.tell({ acknowledgment: 4000 })), ["PSH ACK 4000 0 +1000"])
    peer.tell({ acknowledgment: 5000 })
    assert.isUndefined(peer.connection.pollTimeout())
  })

  it("takes duplicates that what it sends again causes for no loss (RFC 6582 section 4)", () => {
    const peer = filled({ mss: 1000 }, 6000)
    peer.drain()
    assert.strictEqual(peer.pass(300).length, 1)
    for (let i = 0; i < 5; i++) assert.deepStrictEqual(peer.tell({}), [])
  })

  it("measures nothing that was sent twice (Karn's algorithm)", () => {
    const peer = filled({}, 10)
    peer.drain()
    peer.pass(300)
    peer.pass(100)
    peer.tell({ acknowledgment: 10 })
    peer.connection.write(bytes(1))
    peer.drain()
    // Still doubled: the next measurement brings it back.
    assert.strictEqual(peer.connection.pollTimeout(), 400 + 600)
    peer.tell({ acknowledgment: 11 })
    peer.connection.write(bytes(1))
    peer.drain()
    assert.strictEqual(peer.connection.pollTimeout(), 400 + 300)
  })
})

describe("a loss", () => {
  it("is repaired after three duplicates without waiting, and not before (RFC 5681 section 3.2)", () => {
    const peer = filled({ mss: 1000 }, 6000)
    peer.drain()
    assert.deepStrictEqual([...peer.tell({}), ...peer.tell({})], [])
    assert.deepStrictEqual(brief(peer.tell({})), ["ACK 0 0 +1000"])
    assert.deepStrictEqual(peer.tell({}), [])
    peer.tell({ acknowledgment: 6000 })
    assert.isUndefined(peer.connection.pollTimeout())
  })

  it("that turns out to be none, before anything was sent again, is forgotten", () => {
    const peer = filled({ mss: 1000 }, 6000)
    peer.drain()
    const drain = peer.drain.bind(peer)
    peer.drain = () => []
    for (let i = 0; i < 3; i++) peer.tell({})
    peer.tell({ acknowledgment: 6000 })
    assert.deepStrictEqual([drain(), peer.connection.pollTimeout()], [[], undefined])
  })

  it("of several segments is repaired one by one (RFC 6582)", () => {
    const peer = filled({ mss: 1000 }, 8000)
    peer.drain()
    for (let i = 0; i < 3; i++) peer.tell({})
    assert.deepStrictEqual(brief(peer.tell({ acknowledgment: 3000 })), ["ACK 3000 0 +1000"])
    assert.deepStrictEqual(brief(peer.tell({ acknowledgment: 7000 })), ["PSH ACK 7000 0 +1000"])
    peer.tell({ acknowledgment: 8000 })
    assert.strictEqual(peer.connection.unacknowledged, 0)
  })

  it("lets as much go out as duplicates say has arrived, and half of what there was afterwards", () => {
    const peer = filled({ mss: 1000 }, 60_000)
    assert.strictEqual(peer.drain().length, 10)
    for (let i = 0; i < 3; i++) peer.tell({})
    // 5 for the threshold and 3 for the duplicates; 10 are under way.
    for (let i = 4; i <= 5; i++) assert.deepStrictEqual(peer.tell({}), [])
    assert.deepStrictEqual(brief(peer.tell({})), ["ACK 10000 0 +1000"])
    assert.strictEqual(peer.tell({ acknowledgment: 11_000 }).length, 2)
  })

  it("of the last segment is repaired with the FIN that it carried", () => {
    const peer = filled({ mss: 1000 }, 6000)
    peer.connection.close()
    peer.drain()
    for (let i = 0; i < 3; i++) peer.tell({})
    assert.deepStrictEqual(brief(peer.tell({ acknowledgment: 5000 })), ["FIN PSH ACK 5000 0 +1000"])
  })

  it("is repaired with what was sent before, not with more than the window had room for", () => {
    const peer = established({ window: 40, mss: 1000 })
    for (let i = 0; i < 4; i++) {
      peer.connection.write(bytes(10))
      peer.drain()
    }
    peer.connection.write(bytes(1000))
    for (let i = 0; i < 2; i++) assert.deepStrictEqual(peer.tell({ window: 40 }), [])
    assert.deepStrictEqual(brief(peer.tell({ window: 40 })), ["ACK 0 0 +40"])
  })

  it("is not seen in segments that carry something or change the window", () => {
    const peer = filled({ mss: 1000 }, 6000)
    peer.drain()
    for (let i = 0; i < 6; i++) {
      const sent = peer.tell({ sequence: i * 10, payload: 10, window: 60_000 + i })
      assert.isTrue(sent.every(({ payload }) => payload.length === 0))
    }
  })

  it("makes us send less at a time", () => {
    const peer = filled({ mss: 1000 }, 60_000)
    assert.strictEqual(peer.drain().length, 10, "the initial window (RFC 6928)")
    peer.pass(300)
    assert.strictEqual(peer.tell({ acknowledgment: 10_000 }).length, 2, "slow start after a time-out")
    assert.strictEqual(peer.tell({ acknowledgment: 12_000 }).length, 3)
  })
})
