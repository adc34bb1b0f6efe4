import { assert, describe, it } from "@effect/vitest"
import { RelayInput, Relays } from "../../../src/protocol/node/Relays.ts"
import { at, crypto, makeDoubles, peer, relayNamed, socket } from "./support.ts"

const setUp = () => {
  const doubles = makeDoubles()
  const relays = new Relays(crypto, doubles.make)
  const events = () => {
    const seen: Array<string> = []
    for (let event = relays.pollEvent(); event !== undefined; event = relays.pollEvent()) {
      const detail = event._tag === "NoneLeft"
        ? []
        : event._tag === "Gone"
        ? [event.relay]
        : [event.relay, event.candidate.kind]
      seen.push([event._tag, ...detail].join(" "))
    }
    return seen
  }
  const input = (from: string, ...bytes: ReadonlyArray<number>) =>
    relays.handleInput(socket, at(from), Uint8Array.from([0xee, ...bytes]), 1, bytes.length, 0)
  return { relays, events, input, of: doubles.of }
}

const stun = [1, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42, ...new Uint8Array(12)]
const [a, ab] = [relayNamed("a"), relayNamed("ab")]

describe("an update", () => {
  it("creates, leaves alone what is the same, and verifies what is not mentioned", () => {
    const { of, relays } = setUp()
    relays.update([], [a, ab], 0)
    const [first, second] = [of("a"), of("ab")]
    relays.update([], [{ ...a }], 0)
    assert.strictEqual(relays.get("a"), first)
    assert.deepStrictEqual([first.asked, second.asked], [[], ["refresh"]])
  })

  it("replaces a relay with other credentials or addresses, and takes its candidates back", () => {
    const { events, of, relays } = setUp()
    relays.update([], [a], 0)
    const old = of("a").gather("203.0.113.1:50000")
    assert.deepStrictEqual(events(), ["NewCandidate a host", "NewCandidate a relay"])
    relays.update([], [{ ...a, password: "new" }], 0)
    assert.notStrictEqual(relays.get("a"), old)
    assert.deepStrictEqual(events(), ["InvalidatedCandidate a relay", "Gone a"])
  })

  it("removes first, so that a relay may come back under another name with its old address", () => {
    const { input, of, relays } = setUp()
    relays.update([], [a], 0)
    relays.update(["a"], [{ ...a, id: "b" }], 0)
    assert.isUndefined(relays.get("a"))
    assert.strictEqual(input("203.0.113.1:3478", ...stun), RelayInput.Handled)
    assert.deepStrictEqual(of("b").asked, ["handleStun"])
  })
})

describe("a relay that is given up", () => {
  it("goes with the next tick, which is due at once; the last one is reported", () => {
    const { events, of, relays } = setUp()
    relays.update([], [a, ab], 0)
    assert.isUndefined(relays.pollTimeout())
    of("a").freed = "no-response"
    assert.strictEqual(relays.pollTimeout(), 0)
    relays.handleTimeout(1)
    assert.deepStrictEqual(events(), ["Gone a"])
    of("ab").freed = "bad-credentials"
    relays.handleTimeout(2)
    assert.deepStrictEqual(events(), ["Gone ab", "NoneLeft"])
  })

  it("is reported at once, but less and less often where all that come are given up at once", () => {
    const { events, of, relays } = setUp()
    const told: Array<number> = []
    const loseAll = (now: number) => {
      relays.update([], [a], now)
      of("a").freed = "bad-credentials"
      relays.handleTimeout(now)
      if (events().includes("NoneLeft")) told.push(now)
    }
    for (let now = 0; now <= 60_000; now += 10) loseAll(now)
    assert.deepStrictEqual(told, [0, 1000, 3000, 7000, 15_000, 23_000, 31_000, 39_000, 47_000, 55_000])
    assert.strictEqual(relays.pollTimeout(), 63_000)
    relays.handleTimeout(63_000)
    assert.deepStrictEqual(events(), ["NoneLeft"])
    assert.isUndefined(relays.pollTimeout())
    loseAll(200_000)
    assert.strictEqual(told.at(-1), 200_000)
    // What has come meanwhile is not nothing.
    loseAll(200_500)
    relays.update([], [a], 200_600)
    relays.handleTimeout(201_000)
    assert.deepStrictEqual(events(), [])
  })

  it("is remembered by its address, as are 63 others", () => {
    const { input, relays } = setUp()
    for (let i = 0; i < 65; i++) {
      relays.update([], [relayNamed("x", `10.0.0.${i}:3478`)], 0)
      relays.update(["x"], [], 0)
    }
    assert.strictEqual(input("10.0.0.64:3478", ...stun), RelayInput.Dropped)
    assert.strictEqual(input("10.0.0.1:3478", 0x40, 0, 0, 1, 7), RelayInput.Dropped)
    assert.strictEqual(input("10.0.0.0:3478", ...stun), RelayInput.Foreign, "the 65th oldest")
  })
})

describe("a datagram from port 3478", () => {
  const ready = () => {
    const world = setUp()
    world.relays.update([], [a], 0)
    world.of("a").gather("203.0.113.1:50000").channels.set(peer.text, 0x4001)
    return world
  }

  it("of a relay is its client's, whether it was waited for or not", () => {
    const { input, of } = ready()
    assert.strictEqual(input("203.0.113.1:3478", ...stun), RelayInput.Handled)
    of("a").isExpected = false
    assert.strictEqual(input("203.0.113.1:3478", ...stun), RelayInput.Dropped)
  })

  it("is unwrapped if its channel is bound", () => {
    const { input, relays } = ready()
    assert.strictEqual(input("203.0.113.1:3478", 0x40, 1, 0, 2, 7, 7), RelayInput.Unwrapped)
    assert.strictEqual(relays.unwrapped.from?.text, peer.text)
    assert.strictEqual(relays.unwrapped.local?.text, "203.0.113.1:50000")
    assert.strictEqual(input("203.0.113.1:3478", 0x40, 2, 0, 2, 7, 7), RelayInput.Dropped)
  })

  it("may be a peer's", () => {
    const { input } = ready()
    assert.strictEqual(input("203.0.113.77:3478", ...stun), RelayInput.Foreign)
    assert.strictEqual(input("203.0.113.77:3478", 0x40, 1, 0, 2, 7, 7), RelayInput.Foreign)
    assert.strictEqual(input("203.0.113.1:3478", 0x40, 1, 0, 3, 7, 7), RelayInput.Foreign, "another length")
    assert.strictEqual(input("203.0.113.1:3478", 4, 0, 0, 0), RelayInput.Foreign)
    assert.strictEqual(input("203.0.113.1:3478", 0x50, 1, 0, 0), RelayInput.Foreign)
  })
})

describe("candidates", () => {
  it("are all host ones, and the relayed ones of one relay", () => {
    const { of, relays } = setUp()
    relays.update([], [a, ab], 0)
    of("a").gather("203.0.113.1:50000")
    of("ab").gather("203.0.113.2:50000")
    assert.deepStrictEqual(relays.candidates("ab").map(({ address }) => address.text), [
      socket.text,
      socket.text,
      "203.0.113.2:50000"
    ])
    assert.strictEqual(relays.holding(at("203.0.113.2:50000")), of("ab"))
    assert.isUndefined(relays.holding(socket))
  })

  it("found before a restart are not told of after it", () => {
    const { events, of, relays } = setUp()
    relays.update([], [a], 0)
    of("a").gather("203.0.113.1:50000")
    relays.restart(0)
    assert.deepStrictEqual(events(), [])
    assert.deepStrictEqual(of("a").asked, ["restart"])
  })
})

describe("a doubtful relay", () => {
  it("is taken only if there is no other", () => {
    const { of, relays } = setUp()
    relays.update([], [a, ab], 0)
    of("a").rtt = 1
    of("a").isDoubtful = true
    for (let i = 0; i < 20; i++) assert.strictEqual(relays.pick(), "ab", "though the other one was faster")
    of("ab").isDoubtful = true
    assert.strictEqual(relays.pick(), "a")
    of("a").isDoubtful = false
    of("ab").isDoubtful = false
    assert.strictEqual(relays.pick(), "a")
  })
})
