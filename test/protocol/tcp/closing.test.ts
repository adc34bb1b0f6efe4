/** Ending a connection in every order (RFC 9293 sections 3.6 and 3.10.7.4), by hand. */
import { assert, describe, it } from "@effect/vitest"
import { brief, bytes, ENDS, established, inState, THEIRS } from "./ByHand.ts"
import { parseSegment, reversed, Rst, Syn, write } from "./support.ts"
import { Ack, Fin } from "./support.ts"

describe("we end it first", () => {
  it("and the peer after us (figure 12)", () => {
    const peer = established()
    peer.connection.close()
    assert.deepStrictEqual([brief(peer.drain()), peer.connection.state], [["FIN ACK 0 0 +0"], "fin-wait-1"])
    assert.deepStrictEqual([peer.tell({ acknowledgment: 1 }), peer.connection.state], [[], "fin-wait-2"])
    assert.deepStrictEqual(brief(peer.tell({ acknowledgment: 1, flags: Fin })), ["ACK 1 1 +0"])
    assert.strictEqual(peer.connection.state, "time-wait")
    assert.deepStrictEqual(peer.pass(9999), [])
    assert.strictEqual(peer.connection.state, "time-wait")
    peer.pass(1)
    assert.strictEqual(peer.connection.state, "closed")
  })

  it("behind all that was written", () => {
    const peer = established({ window: 2000, mss: 1000 })
    peer.connection.write(bytes(3000))
    peer.connection.close()
    assert.deepStrictEqual(brief(peer.drain()), ["ACK 0 0 +1000", "ACK 1000 0 +1000"])
    assert.deepStrictEqual(brief(peer.tell({ acknowledgment: 2000 })), ["FIN PSH ACK 2000 0 +1000"])
    peer.tell({ acknowledgment: 3000 })
    assert.strictEqual(peer.connection.state, "fin-wait-1")
    peer.tell({ acknowledgment: 3001 })
    assert.strictEqual(peer.connection.state, "fin-wait-2")
  })

  it("and the peer acknowledges it with its own FIN", () => {
    const peer = inState["fin-wait-1"]()
    peer.tell({ acknowledgment: 1, flags: Fin })
    assert.strictEqual(peer.connection.state, "time-wait")
  })

  it("again and again until it is acknowledged", () => {
    const peer = inState["fin-wait-1"]()
    assert.deepStrictEqual(peer.pass(2500).map(({ at, flags }) => [at, flags]), [
      [300, "FIN ACK"],
      [900, "FIN ACK"],
      [2100, "FIN ACK"]
    ])
    peer.pass(60_000)
    assert.strictEqual(peer.connection.state, "closed")
  })

  it("and the last data with it, when both were lost", () => {
    const peer = established()
    peer.connection.write(bytes(10))
    peer.connection.close()
    peer.drain()
    assert.deepStrictEqual(brief(peer.pass(300)), ["FIN PSH ACK 0 0 +10"])
    peer.tell({ acknowledgment: 10 })
    assert.strictEqual(peer.connection.state, "fin-wait-1")
    assert.deepStrictEqual(brief(peer.pass(600)), ["FIN ACK 10 0 +0"])
  })

  it("asks whether a closed window takes the FIN", () => {
    const peer = established({ window: 0 })
    peer.connection.close()
    assert.deepStrictEqual(peer.drain(), [])
    assert.deepStrictEqual(brief(peer.pass(300)), ["FIN ACK 0 0 +0"])
    peer.tell({ acknowledgment: 1, window: 0 })
    assert.strictEqual(peer.connection.state, "fin-wait-2")
  })

  it("and forget a peer that never ends it", () => {
    const peer = inState["fin-wait-2"]()
    assert.deepStrictEqual(peer.pass(10_000), [])
    assert.strictEqual(peer.connection.state, "closed")
  })

  it("and refuse what the peer still wants to say, so that it knows (section 3.6.1)", () => {
    for (const state of ["fin-wait-1", "fin-wait-2"] as const) {
      const peer = inState[state]()
      const [reset] = peer.tell({ acknowledgment: state === "fin-wait-2" ? 1 : 0, payload: 10 })
      assert.deepStrictEqual([reset?.flags, peer.connection.state], ["RST ACK", "closed"])
    }
  })

  it("but not what it only repeats", () => {
    const peer = established()
    peer.tell({ payload: 10 })
    peer.connection.close()
    peer.drain()
    assert.deepStrictEqual(brief(peer.tell({ payload: 10 })), ["ACK 1 10 +0"])
    assert.strictEqual(peer.connection.state, "fin-wait-1")
  })
})

describe("the peer ends it first", () => {
  it("and we after it", () => {
    const peer = established()
    assert.deepStrictEqual(brief(peer.tell({ flags: Fin })), ["ACK 0 1 +0"])
    assert.strictEqual(peer.connection.state, "close-wait")
    peer.connection.close()
    assert.deepStrictEqual([brief(peer.drain()), peer.connection.state], [["FIN ACK 0 1 +0"], "last-ack"])
    assert.deepStrictEqual(peer.tell({ sequence: 1, acknowledgment: 1 }), [])
    assert.deepStrictEqual([peer.connection.state, peer.connection.pollTimeout()], ["closed", undefined])
  })

  it("and we have more to say", () => {
    const peer = inState["close-wait"]()
    peer.connection.write(bytes(10))
    assert.deepStrictEqual(brief(peer.drain()), ["PSH ACK 0 1 +10"])
    peer.tell({ sequence: 1, acknowledgment: 10 })
    assert.strictEqual(peer.connection.state, "close-wait")
  })

  it("with its last data", () => {
    const peer = established()
    assert.deepStrictEqual(brief(peer.tell({ payload: bytes(10), flags: Fin })), ["ACK 0 11 +0"])
    assert.deepStrictEqual(peer.connection.read(0, 10), bytes(10))
  })

  it("and our FIN is repeated until it is acknowledged", () => {
    const peer = inState["last-ack"]()
    assert.deepStrictEqual(peer.pass(300).map(({ flags }) => flags), ["FIN ACK"])
    peer.tell({ sequence: 1, acknowledgment: 1 })
    assert.strictEqual(peer.connection.state, "closed")
  })
})

describe("both end it at once (figure 13)", () => {
  it("and wait for both acknowledgments", () => {
    const peer = inState["fin-wait-1"]()
    assert.deepStrictEqual(brief(peer.tell({ flags: Fin })), ["ACK 1 1 +0"])
    assert.strictEqual(peer.connection.state, "closing")
    assert.deepStrictEqual(peer.tell({ sequence: 1, acknowledgment: 1 }), [])
    assert.strictEqual(peer.connection.state, "time-wait")
  })

  it("and our FIN was lost", () => {
    const peer = inState.closing()
    assert.deepStrictEqual(brief(peer.pass(300)), ["FIN ACK 0 1 +0"])
  })
})

describe("TIME-WAIT", () => {
  it("acknowledges a repeated FIN, and begins anew", () => {
    const peer = inState["time-wait"]()
    peer.pass(9000)
    assert.deepStrictEqual(brief(peer.tell({ acknowledgment: 1, flags: Fin })), ["ACK 1 1 +0"])
    peer.pass(9000)
    assert.strictEqual(peer.connection.state, "time-wait")
    peer.pass(1000)
    assert.strictEqual(peer.connection.state, "closed")
  })

  it("makes room for a new connection whose numbers are higher, and for nothing else", () => {
    const segment = (flags: number, sequence: number) => parseSegment(write(reversed(ENDS), { flags, sequence }))
    const { connection } = inState["time-wait"]()
    assert.isTrue(connection.isReplacedBy(segment(Syn, THEIRS + 3)))
    assert.isFalse(connection.isReplacedBy(segment(Syn, THEIRS + 2)))
    assert.isFalse(connection.isReplacedBy(segment(Syn, THEIRS - 1000)))
    assert.isFalse(connection.isReplacedBy(segment(Syn | Ack, THEIRS + 3)))
    assert.isFalse(connection.isReplacedBy(segment(Syn | Rst, THEIRS + 3)))
    assert.isFalse(established().connection.isReplacedBy(segment(Syn, THEIRS + 3)))
  })
})

it("an end of a connection that has ended says nothing more", () => {
  const peer = inState.closed()
  peer.connection.close()
  assert.deepStrictEqual([peer.tell({ payload: 5 }), peer.pass(60_000), peer.connection.state], [[], [], "closed"])
})
