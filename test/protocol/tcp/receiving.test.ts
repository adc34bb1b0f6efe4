/** What a connection takes, acknowledges and refuses (RFC 9293 section 3.10.7.4, RFC 5961), by hand. */
import { assert, describe, it } from "@effect/vitest"
import { brief, bytes, established, inState, OURS, THEIRS } from "./ByHand.ts"
import { Ack, Fin, Rst, Syn } from "./support.ts"

describe("segments", () => {
  it("in order are acknowledged at once, and read as they came", () => {
    const peer = established()
    assert.deepStrictEqual(brief(peer.tell({ payload: bytes(10) })), ["ACK 0 10 +0"])
    assert.deepStrictEqual(brief(peer.tell({ sequence: 10, payload: bytes(5, 10) })), ["ACK 0 15 +0"])
    assert.deepStrictEqual(peer.connection.at(12), 12)
    assert.deepStrictEqual(peer.connection.read(2, 15), bytes(13, 2))
    assert.strictEqual(peer.connection.readable, 0)
  })

  it("out of order are each answered with what is missing, until the gap is filled (RFC 5681 section 4.2)", () => {
    const peer = established()
    for (const sequence of [20, 10, 30]) {
      assert.deepStrictEqual(brief(peer.tell({ sequence, payload: bytes(10, sequence) })), ["ACK 0 0 +0"])
    }
    assert.strictEqual(peer.connection.readable, 0)
    assert.deepStrictEqual(brief(peer.tell({ payload: bytes(10) })), ["ACK 0 40 +0"])
    assert.deepStrictEqual(peer.connection.read(0, 40), bytes(40))
  })

  it("out of order that come at once are answered as often", () => {
    const peer = established()
    const { connection } = peer
    const drain = peer.drain.bind(peer)
    peer.drain = () => []
    for (let i = 1; i <= 3; i++) peer.tell({ sequence: i * 10, payload: 10 })
    assert.deepStrictEqual(brief(drain()), ["ACK 0 0 +0", "ACK 0 0 +0", "ACK 0 0 +0"])
    for (let i = 4; i <= 30; i++) peer.tell({ sequence: i * 10, payload: 10 })
    assert.strictEqual(drain().length, 8, "but not without end")
    assert.strictEqual(connection.readable, 0)
  })

  it("may overlap: what is new in them counts", () => {
    const peer = established()
    peer.tell({ payload: bytes(10) })
    assert.deepStrictEqual(brief(peer.tell({ sequence: 5, payload: bytes(10, 5) })), ["ACK 0 15 +0"])
    peer.tell({ sequence: 20, payload: bytes(4, 20) })
    assert.deepStrictEqual(brief(peer.tell({ sequence: 12, payload: bytes(30, 12) })), ["ACK 0 42 +0"])
    assert.deepStrictEqual(peer.connection.read(0, 42), bytes(42))
  })

  it("that are known are acknowledged again", () => {
    const peer = established()
    peer.tell({ payload: 10 })
    for (let i = 0; i < 3; i++) assert.deepStrictEqual(brief(peer.tell({ payload: 10 })), ["ACK 0 10 +0"])
    assert.strictEqual(peer.connection.readable, 10)
  })

  it("without ACK are dropped", () => {
    const peer = established()
    assert.deepStrictEqual(peer.raw({ flags: 0, sequence: THEIRS + 1, payload: 10 }), [])
    assert.strictEqual(peer.connection.readable, 0)
  })

  it("that acknowledge what was never sent, or very long ago, are answered and dropped", () => {
    for (const acknowledgment of [1, 1000, -70_000]) {
      const peer = established()
      assert.deepStrictEqual(brief(peer.tell({ acknowledgment, payload: 10 })), ["ACK 0 0 +0"])
      assert.strictEqual(peer.connection.readable, 0)
    }
  })

  it("of so many pieces that it would cost too much are dropped, and taken when they come again", () => {
    const peer = established()
    for (let i = 1; i <= 40; i++) peer.tell({ sequence: i * 20, payload: bytes(10, i) })
    peer.tell({ payload: 20 })
    assert.strictEqual(peer.connection.readable, 30)
    for (let i = 1; i <= 40; i++) peer.tell({ sequence: i * 20 + 10, payload: 10 })
    assert.isBelow(peer.connection.readable, 820)
    for (let i = 1; i <= 40; i++) peer.tell({ sequence: i * 20, payload: bytes(10, i) })
    for (let i = 1; i <= 40; i++) peer.tell({ sequence: i * 20 + 10, payload: 10 })
    assert.strictEqual(peer.connection.readable, 820)
    assert.deepStrictEqual(peer.connection.read(800, 810), bytes(10, 40))
  })
})

describe("the window", () => {
  const fill = () => {
    const peer = established()
    let sequence = 0
    let window = 65_535
    while (window > 0) {
      const payload = Math.min(1240, window)
      const [answer] = peer.tell({ sequence, payload })
      sequence += payload
      window = answer?.window ?? -1
      assert.strictEqual(answer?.acknowledgment, THEIRS + 1 + sequence)
    }
    return { peer, sequence }
  }

  it("holds a message of the largest size behind its length, whatever comes in pieces", () => {
    assert.isAtLeast(fill().sequence, 65_537)
  })

  it("is closed when nobody reads: a probe is answered, and its byte refused", () => {
    const { peer, sequence } = fill()
    const [answer] = peer.tell({ sequence, payload: 1 })
    assert.deepStrictEqual([answer?.acknowledgment, answer?.window], [THEIRS + 1 + sequence, 0])
    // The kernel probes with the byte before, or with none.
    assert.strictEqual(peer.tell({ sequence: sequence - 1 })[0]?.window, 0)
    assert.strictEqual(peer.connection.readable, sequence)
  })

  it("opens by whole segments only, and says so (section 3.8.6.2.2)", () => {
    const { peer, sequence } = fill()
    peer.connection.read(0, 1200)
    assert.deepStrictEqual(peer.drain(), [])
    assert.strictEqual(peer.tell({ sequence, payload: 1 })[0]?.window, 0)
    peer.connection.read(0, 40)
    const [update] = peer.drain()
    assert.strictEqual(update?.flags, "ACK")
    assert.isAtLeast(update?.window ?? 0, 1240)
    peer.connection.read(0, peer.connection.readable)
    peer.tell({ sequence, payload: 1240 })
    assert.strictEqual(peer.connection.readable, 1240)
  })

  it("takes no part of a segment that is beyond it", () => {
    const { peer, sequence } = fill()
    peer.connection.read(0, 1240)
    const window = peer.drain()[0]?.window ?? 0
    peer.tell({ sequence, payload: 1000 })
    peer.tell({ sequence: sequence + 1000, payload: 1000, flags: Fin })
    assert.strictEqual(peer.connection.readable, sequence - 1240 + window)
    assert.isFalse(peer.connection.isPeerFinished, "the FIN was beyond it")
  })
})

describe("a reset", () => {
  const states = [
    "syn-received",
    "established",
    "fin-wait-1",
    "fin-wait-2",
    "close-wait",
    "closing",
    "last-ack",
    "time-wait"
  ] as const
  const isFinished = (state: string) => ["close-wait", "closing", "last-ack", "time-wait"].includes(state) ? 1 : 0

  for (const state of states) {
    it(`with the exact number ends ${state}`, () => {
      const peer = inState[state]()
      const sequence = THEIRS + 1 + isFinished(state)
      assert.deepStrictEqual(peer.raw({ flags: Rst, sequence }), [])
      assert.strictEqual(peer.connection.state, "closed")
      assert.isUndefined(peer.connection.pollTimeout())
    })

    it(`with another number in the window is challenged in ${state}, and beyond it ignored`, () => {
      const peer = inState[state]()
      const sequence = THEIRS + 1 + isFinished(state)
      const [challenge] = peer.raw({ flags: Rst, sequence: sequence + 100 })
      assert.deepStrictEqual([challenge?.flags, challenge?.acknowledgment], ["ACK", sequence])
      for (const beyond of [70_000, -1, -70_000]) {
        assert.deepStrictEqual(peer.raw({ flags: Rst, sequence: sequence + beyond }), [])
      }
      assert.strictEqual(peer.connection.state, state)
    })

    it(`is sent by abort in ${state}, if anybody is there to hear it`, () => {
      const peer = inState[state]()
      peer.connection.abort()
      const sent = peer.drain()
      assert.deepStrictEqual(sent.map(({ flags }) => flags), state === "time-wait" ? [] : ["RST ACK"])
      assert.strictEqual(peer.connection.state, "closed")
      assert.isUndefined(peer.connection.pollTimeout())
      assert.deepStrictEqual(peer.tell({ payload: 1 }), [])
    })
  }
})

describe("a challenge", () => {
  it("answers a SYN on a connection (RFC 5961 section 4), wherever it stands", () => {
    for (const sequence of [THEIRS + 1, THEIRS + 500, THEIRS + 100_000]) {
      for (const flags of [Syn, Syn | Ack]) {
        const peer = established()
        assert.deepStrictEqual(brief(peer.raw({ flags, sequence, acknowledgment: OURS + 1 })), ["ACK 0 0 +0"])
        assert.strictEqual(peer.connection.state, "established")
      }
    }
  })

  it("is not given more than twice a second to what carries nothing, so that two ends cannot go on for ever", () => {
    const peer = established()
    let count = 0
    for (let i = 0; i < 100; i++) {
      count += peer.tell({ acknowledgment: 50 }).length
      peer.pass(10)
    }
    assert.strictEqual(count, 2)
  })
})

describe("a FIN", () => {
  it("counts when everything before it has come", () => {
    const peer = established()
    peer.tell({ sequence: 10, payload: bytes(5, 10), flags: Fin })
    assert.deepStrictEqual([peer.connection.state, peer.connection.isPeerFinished], ["established", false])
    assert.deepStrictEqual(brief(peer.tell({ payload: bytes(10) })), ["ACK 0 16 +0"])
    assert.deepStrictEqual([peer.connection.state, peer.connection.isPeerFinished], ["close-wait", true])
    assert.deepStrictEqual(peer.connection.read(0, 15), bytes(15))
  })

  it("is acknowledged as often as it comes", () => {
    const peer = inState["close-wait"]()
    for (let i = 0; i < 3; i++) assert.deepStrictEqual(brief(peer.tell({ flags: Fin })), ["ACK 0 1 +0"])
  })

  it("cannot be taken back: what comes behind it is not read", () => {
    const peer = inState["close-wait"]()
    peer.tell({ sequence: 1, payload: 10 })
    assert.strictEqual(peer.connection.readable, 0)
  })

  it("is heard although the window is closed", () => {
    const peer = established()
    let sequence = 0
    for (let window = 65_535; window > 0;) {
      const payload = Math.min(1240, window)
      window = peer.tell({ sequence, payload })[0]?.window ?? 0
      sequence += payload
    }
    peer.tell({ sequence, flags: Fin })
    assert.strictEqual(peer.connection.state, "close-wait")
    assert.strictEqual(peer.connection.readable, sequence)
  })
})
