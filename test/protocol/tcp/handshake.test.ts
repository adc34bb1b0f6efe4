/** Opening a connection (RFC 9293 section 3.5), with segments written by hand. */
import { assert, describe, it } from "@effect/vitest"
import {
  accepting,
  brief,
  ByHand,
  bytes,
  connecting,
  ENDS,
  ENDS6,
  established,
  inState,
  OURS,
  THEIRS
} from "./ByHand.ts"
import { Ack, parseSegment, reversed, Rst, Syn } from "./support.ts"

describe("an active open", () => {
  it("sends a SYN with its MSS and takes the answer", () => {
    const peer = connecting()
    assert.deepStrictEqual(peer.drain(), [
      { flags: "SYN", sequence: OURS, acknowledgment: 0, window: 65_535, mss: 1240, payload: new Uint8Array(0) }
    ])
    const answer = peer.raw({ flags: Syn | Ack, sequence: THEIRS, acknowledgment: OURS + 1, mss: 1240 })
    assert.deepStrictEqual(brief(answer), ["ACK 0 0 +0"])
    assert.strictEqual(peer.connection.state, "established")
    assert.isUndefined(peer.connection.pollTimeout())
  })

  it("leaves room for the longer header of IPv6", () => {
    assert.strictEqual(connecting(ENDS6).drain()[0]?.mss, 1220)
  })

  it("sends what was written meanwhile with the acknowledgment", () => {
    const peer = inState["syn-sent"]()
    peer.connection.write(bytes(10))
    assert.deepStrictEqual(peer.drain(), [])
    const answer = peer.raw({ flags: Syn | Ack, sequence: THEIRS, acknowledgment: OURS + 1 })
    assert.deepStrictEqual(brief(answer), ["PSH ACK 0 0 +10"])
  })

  it("repeats the SYN with growing gaps, and gives up after ten seconds without another word", () => {
    const peer = connecting()
    peer.drain()
    const repeated = peer.pass(60_000)
    assert.deepStrictEqual(repeated.map(({ at, flags, sequence }) => [at, flags, sequence]), [
      [1000, "SYN", OURS],
      [3000, "SYN", OURS],
      [7000, "SYN", OURS]
    ])
    assert.strictEqual(peer.connection.state, "closed")
  })

  it("is refused by a reset that acknowledges the SYN, and by no other", () => {
    const peer = inState["syn-sent"]()
    for (
      const other of [
        { flags: Rst, sequence: 0 },
        { flags: Rst | Ack, sequence: 0, acknowledgment: OURS },
        { flags: Rst | Ack, sequence: 0, acknowledgment: OURS + 2 }
      ]
    ) {
      assert.deepStrictEqual(peer.raw(other), [])
      assert.strictEqual(peer.connection.state, "syn-sent")
    }
    assert.deepStrictEqual(peer.raw({ flags: Rst | Ack, sequence: 0, acknowledgment: OURS + 1 }), [])
    assert.strictEqual(peer.connection.state, "closed")
    assert.isUndefined(peer.connection.pollTimeout())
  })

  it("resets an old connection that answers, and goes on (section 3.5.1, figure 10)", () => {
    const peer = inState["syn-sent"]()
    const [reset] = peer.raw({ flags: Ack, sequence: 300, acknowledgment: 100 })
    assert.deepStrictEqual([reset?.flags, reset?.sequence], ["RST", 100])
    assert.strictEqual(peer.connection.state, "syn-sent")
    peer.raw({ flags: Syn | Ack, sequence: THEIRS, acknowledgment: OURS + 1 })
    assert.strictEqual(peer.connection.state, "established")
  })

  it("meets another one half way: both SYNs cross (figure 8)", () => {
    const peer = inState["syn-sent"]()
    assert.deepStrictEqual(brief(peer.raw({ flags: Syn, sequence: THEIRS })), ["SYN ACK -1 0 +0"])
    assert.strictEqual(peer.connection.state, "syn-received")
    // The other end answers in the same way, which tells it nothing new: an ACK does.
    assert.deepStrictEqual(brief(peer.raw({ flags: Syn | Ack, sequence: THEIRS, acknowledgment: OURS + 1 })), [
      "ACK 0 0 +0"
    ])
    peer.tell({})
    assert.strictEqual(peer.connection.state, "established")
    peer.connection.write(bytes(5))
    assert.deepStrictEqual(brief(peer.drain()), ["PSH ACK 0 0 +5"])
  })

  it("meets another one of our own", () => {
    const [left, right] = [connecting(ENDS, OURS, THEIRS), connecting(reversed(ENDS), THEIRS, OURS)]
    const ends = [left, right] as const
    let under = ends.map((end) => end.connection.pollPacket(0))
    for (let round = 0; under.some((packet) => packet !== undefined); round++) {
      assert.isBelow(round, 10)
      const arriving = under
      for (const [i, packet] of arriving.entries()) {
        if (packet !== undefined) ends[1 - i]?.connection.handleSegment(parseSegment(packet), 0)
      }
      under = ends.map((end) => end.connection.pollPacket(0))
    }
    assert.deepStrictEqual(ends.map((end) => end.connection.state), ["established", "established"])
  })

  it("ends at once when it is closed before it was answered", () => {
    const peer = inState["syn-sent"]()
    peer.connection.close()
    assert.deepStrictEqual([peer.connection.state, peer.drain()], ["closed", []])
  })
})

describe("a passive open", () => {
  it("answers with SYN and ACK, and is established by the third segment, data and all", () => {
    const peer = accepting()
    const [answer] = peer.drain()
    assert.deepStrictEqual(brief([answer as never]), ["SYN ACK -1 0 +0"])
    assert.deepStrictEqual([answer?.mss, answer?.window], [1240, 65_535])
    assert.deepStrictEqual(brief(peer.tell({ payload: 20 })), ["ACK 0 20 +0"])
    assert.deepStrictEqual([peer.connection.state, peer.connection.readable], ["established", 20])
  })

  it("answers a repeated SYN again", () => {
    const peer = inState["syn-received"]()
    const again = peer.raw({ flags: Syn, sequence: THEIRS, mss: 1240 })
    assert.deepStrictEqual(brief(again), ["SYN ACK -1 0 +0"])
  })

  it("repeats its answer, and gives up after ten seconds", () => {
    const peer = inState["syn-received"]()
    assert.deepStrictEqual(peer.pass(9999).map(({ at, flags }) => [at, flags]), [
      [1000, "SYN ACK"],
      [3000, "SYN ACK"],
      [7000, "SYN ACK"]
    ])
    peer.pass(1)
    assert.strictEqual(peer.connection.state, "closed")
  })

  it("resets what acknowledges something else, and still waits", () => {
    const peer = inState["syn-received"]()
    for (const wrong of [-1, 1]) {
      const [reset] = peer.tell({ acknowledgment: wrong })
      assert.deepStrictEqual([reset?.flags, reset?.sequence], ["RST", OURS + 1 + wrong])
      assert.strictEqual(peer.connection.state, "syn-received")
    }
  })

  it("waits for three seconds at first if the handshake had to be repeated (RFC 6298 section 5.7)", () => {
    const peer = inState["syn-received"]()
    peer.pass(1000)
    peer.tell({})
    peer.connection.write(bytes(1))
    peer.drain()
    assert.deepStrictEqual(peer.pass(5000).map(({ at }) => at), [4000])
  })
})

describe("the largest segment", () => {
  const lengths = (options: Parameters<typeof established>[0]) => {
    const peer = established(options)
    peer.connection.write(new Uint8Array(3000))
    return peer.drain().map(({ payload }) => payload.length)
  }
  it("is ours, if the peer takes more", () => assert.deepStrictEqual(lengths({ mss: 9000 }), [1240, 1240, 520]))
  it("is the peer's, if that is smaller", () =>
    assert.deepStrictEqual(lengths({ mss: 1400 - 400 }), [1000, 1000, 1000]))
  it("is 536 bytes if the peer does not say", () =>
    assert.deepStrictEqual(lengths({ mss: 0 }), [536, 536, 536, 536, 536, 320]))
  it("does not become absurd", () => assert.strictEqual(lengths({ mss: 1 })[0], 88))
})

it("numbers may wrap anywhere", () => {
  for (const ours of [0xffff_ffff, 0xffff_fff0, 0x7fff_ffff, 0x7fff_fff0]) {
    const peer = established({ ours, theirs: ours })
    peer.connection.write(bytes(40))
    assert.deepStrictEqual(ByHand.brief(peer.drain(), ours, ours), ["PSH ACK 0 0 +40"])
    assert.deepStrictEqual(
      ByHand.brief(peer.tell({ acknowledgment: 40, payload: bytes(40) }), ours, ours),
      ["ACK 40 40 +0"]
    )
    assert.deepStrictEqual([peer.connection.unacknowledged, peer.connection.readable], [0, 40])
    assert.deepStrictEqual(peer.connection.read(0, 40), bytes(40))
  }
})
