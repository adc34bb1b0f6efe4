import { assert, describe, it } from "@effect/vitest"
import type { PathAgent } from "../../../src/protocol/path/PathAgent.ts"
import { ProbeType } from "../../../src/protocol/path/probe.ts"
import { MessageType } from "../../../src/protocol/wire/wireguard.ts"
import {
  at,
  connected,
  gathered,
  introduced,
  leftHost,
  leftRelay,
  Peer,
  rightHost,
  rightRelay,
  route,
  routeOf,
  run,
  sealedProbe,
  type Sent,
  settle,
  textOf
} from "./peers.ts"

const isInitiation = ({ type }: Sent): boolean => type === MessageType.Initiation
const direct = new Set([route(leftHost, rightHost), route(rightHost, leftHost)])
const isDirect = (sent: Sent): boolean => direct.has(routeOf(sent))
const involves = (address: string) => ({ destination, source }: Sent): boolean =>
  source.text === address || destination.text === address

describe("distress", () => {
  /** As its timers would. */
  const rekey = (peer: Peer): ReadonlyArray<Sent> => {
    peer.tunnel.initiate(peer.now)
    peer.agent.handleTimeout(peer.now)
    return peer.drain().filter(isInitiation)
  }

  it("is not one unanswered handshake, but the second, after which a relay takes over", () => {
    const { left, right } = connected()
    assert.strictEqual(rekey(left).length, 1)
    assert.isTrue(left.agent.hasPrimary)
    // WireGuard repeats it after 2 s.
    left.now += 2000
    left.tunnel.handleTimeout(left.now)
    left.agent.handleTimeout(left.now)
    assert.isFalse(left.agent.hasPrimary)
    assert.strictEqual(left.path, route(leftHost, rightHost), "where data goes meanwhile")
    right.now = left.now
    run(left, right, 1000, isDirect)
    assert.isTrue(left.agent.hasPrimary)
    assert.strictEqual(left.path, route(leftRelay, rightHost))
  })

  it("begins to count anew with an answer", () => {
    const { left, right } = connected()
    for (let round = 0; round < 5; round++) {
      const [initiation] = rekey(left)
      if (initiation === undefined) throw new Error("no handshake")
      right.receive(initiation)
      for (const one of right.drain()) left.receive(one)
      for (const one of left.drain()) right.receive(one)
      assert.isTrue(left.agent.hasPrimary, `round ${round}`)
    }
  })

  it("begins to count anew with another primary", () => {
    const { left, right } = introduced()
    settle(left, right, isDirect)
    run(left, right, 2000, isDirect, false)
    assert.notStrictEqual(left.path, route(leftHost, rightHost))
    rekey(left)
    run(left, right, 2000, isInitiation, false)
    assert.strictEqual(left.path, route(leftHost, rightHost))
    left.tunnel.handleTimeout(left.now)
    left.agent.handleTimeout(left.now)
    assert.isTrue(left.drain().some(isInitiation), "the second one since the answer")
    assert.isTrue(left.agent.hasPrimary)
  })

  it("is a second handshake of the peer's without data in between", () => {
    const { left, right } = introduced()
    const accept = (): void => {
      const initiations = left.drain().filter(isInitiation)
      if (initiations[0] !== undefined) right.receive(initiations[0])
    }
    accept()
    assert.isTrue(right.agent.hasPrimary, "the first one has made it")
    right.drain()
    left.now = right.now = 2500
    left.tunnel.handleTimeout(2500)
    left.agent.handleTimeout(2500)
    accept()
    assert.isFalse(right.agent.hasPrimary)
  })

  it("is none while data comes between the peer's handshakes", () => {
    const { left, right } = connected()
    for (let round = 0; round < 10; round++) {
      const [initiation] = rekey(left)
      if (initiation === undefined) throw new Error("no handshake")
      right.receive(initiation)
      for (const one of right.drain()) left.receive(one)
      left.drain()
      right.receive(left.data())
      assert.isTrue(right.agent.hasPrimary, `round ${round}`)
    }
  })
})

describe("a path that breaks in use", () => {
  /** Packets of the left side's, each with an answer, ten a second; returns when the first answer came. */
  const talk = (left: Peer, right: Peer, isLost: (sent: Sent) => boolean, millis: number): number => {
    const began = left.now
    let answered = Number.POSITIVE_INFINITY
    for (let i = 0; i < millis / 100; i++) {
      for (const [from, to] of [[left, right], [right, left]] as const) {
        const data: Sent = { ...from.data(), at: from.now, relayed: false, type: MessageType.Data }
        const before = to.received.length
        if ((from === left || right.received.length > 0) && !isLost(data)) to.receive(data)
        if (to === left && left.received.length > before) answered = Math.min(answered, left.now - began)
      }
      right.received.length = 0
      run(left, right, 100, isLost)
    }
    return answered
  }

  it("is left by both sides, though the peer's data never ceases", () => {
    const { left, right } = connected()
    run(left, right, 10_000)
    assert.isAtMost(talk(left, right, isDirect, 20_000), 7000 + 2000 + 1000)
    assert.notStrictEqual(left.path, route(leftHost, rightHost))
    assert.notStrictEqual(right.path, route(rightHost, leftHost))
  })

  it("one way only is left by both, too", () => {
    for (const lost of direct) {
      const { left, right } = connected()
      run(left, right, 10_000)
      assert.isAtMost(talk(left, right, (sent) => routeOf(sent) === lost, 20_000), 10_000, lost)
    }
  })

  it("is left when two keep-alives are not answered, whatever else comes in", () => {
    const { left, right } = connected()
    run(left, right, 10_000)
    const began = left.now
    while (left.path === route(leftHost, rightHost) && left.now < began + 200_000) {
      right.now = left.now
      // The right side's data takes another way.
      const { message } = right.data()
      left.receive({ source: rightRelay.address, destination: leftRelay.address, message })
      run(left, right, 1000, isDirect)
    }
    assert.isAtMost(left.now - began, 3 * 25_000 + 1000)
  })

  it("while others are searched is not chosen again for what was measured before", () => {
    const { left, right } = introduced()
    settle(left, right)
    run(left, right, 2000)
    assert.strictEqual(left.path, route(leftHost, rightHost))
    left.addRemote(gathered("host", "198.51.100.9:52625"))
    run(left, right, 500, (sent) => isDirect(sent) || involves("198.51.100.9:52625")(sent))
    assert.strictEqual(left.path, route(leftRelay, rightHost))
  })

  it("is not left for the other's rare probes of a path of its own", () => {
    const { left, right } = introduced()
    settle(left, right, isDirect)
    run(left, right, 20_000, isDirect)
    // Each prefers its own relay.
    assert.deepStrictEqual([left.path, right.path], [route(leftRelay, rightHost), route(rightRelay, leftHost)])
    let probes = 0
    run(left, right, 200_000, (sent) => {
      if (sent.message.length === 80 && sent.source.text === leftHost.address.text) probes += 1
      return isDirect(sent)
    })
    // Replies to the right side's keep-alives.
    assert.isAtMost(probes, 10)
  })
})

describe("what WireGuard sends by itself", () => {
  it("is lost while there is no primary and the session lives", () => {
    const { left } = connected()
    left.agent.addRemoteCandidate(textOf(gathered("host", "198.51.100.9:1")), left.now)
    assert.isFalse(left.agent.hasPrimary)
    left.tunnel.initiate(left.now)
    left.agent.handleTimeout(left.now)
    assert.isFalse(left.drain().some(isInitiation))
  })
})

describe("a new candidate", () => {
  const elsewhere = gathered("host", "198.51.100.9:52625")
  const cases: ReadonlyArray<readonly [string, (agent: PathAgent, now: number) => void]> = [
    ["of the peer's", (agent, now) => agent.addRemoteCandidate(textOf(elsewhere), now)],
    ["of ours", (agent, now) => agent.addLocalCandidate(elsewhere, now)]
  ]
  for (const [whose, add] of cases) {
    it(`${whose} clears the primary, which a probe confirms`, () => {
      const { left, right } = connected()
      add(left.agent, left.now)
      assert.isFalse(left.agent.hasPrimary)
      assert.strictEqual(left.path, route(leftHost, rightHost))
      const { selected } = left.agent
      run(left, right, 0, involves(elsewhere.address.text))
      assert.isTrue(left.agent.hasPrimary)
      assert.strictEqual(left.agent.selected, selected, "the path has not changed for anybody")
    })
  }

  it("that is known is none", () => {
    const { left } = connected()
    assert.deepStrictEqual(left.agent.addRemoteCandidate(textOf(rightHost), left.now), [])
    assert.isUndefined(left.agent.addLocalCandidate(leftHost, left.now))
    assert.isUndefined(left.agent.addLocalCandidate({ ...leftHost, kind: "srflx" }, left.now), "no translator")
    assert.deepStrictEqual(left.agent.addRemoteCandidate("candidate:garbage", left.now), [])
    assert.isTrue(left.agent.hasPrimary)
  })

  it("with an address that was learned replaces it in place", () => {
    const { left, right } = introduced()
    const hidden = new Peer("controlled").addLocal(rightHost, rightRelay)
    settle(left, hidden)
    run(left, hidden, 500)
    const { rtt, selected } = hidden.agent
    assert.strictEqual(selected?.remoteKind, "srflx")
    const learned = gathered("srflx", selected?.remote.text ?? "", "10.0.0.1:52625")
    const deadline = hidden.deadline()
    assert.strictEqual(hidden.agent.addRemoteCandidate(textOf(learned), hidden.now).length, 1)
    assert.isTrue(hidden.agent.hasPrimary)
    assert.strictEqual(hidden.agent.selected, selected)
    assert.strictEqual(hidden.agent.rtt, rtt)
    assert.strictEqual(hidden.deadline(), deadline)
    assert.isUndefined(right.path)
  })

  it("of the peer's is one of six of its kind: the oldest goes", () => {
    const peer = new Peer("controlling").addLocal(leftHost)
    const many = Array.from({ length: 9 }, (_, i) => gathered("host", `198.51.100.${i + 1}:52625`))
    peer.addRemote(...many, rightRelay)
    const { left, right } = { left: peer, right: new Peer("controlled").addLocal(rightRelay).addRemote(leftHost) }
    left.agent.start(0)
    settle(left, right)
    const targets = new Set<string>()
    run(left, right, 1000, (sent) => {
      if (sent.source.text === leftHost.address.text) targets.add(sent.destination.text)
      return !involves(rightRelay.address.text)(sent)
    })
    assert.deepStrictEqual(
      [...targets].toSorted(),
      [...many.slice(3), rightRelay].map(({ address }) => address.text).toSorted()
    )
  })
})

describe("the guess of a forwarded port", () => {
  it("pairs reflexive addresses with host ports, two at a time, and is no reason to displace anything", () => {
    const { agent } = new Peer("controlling").addLocal(leftHost)
    const srflx = (n: number) => gathered("srflx", `198.51.100.${n}:40000`, "10.0.0.1:52625")
    const add = (candidate: Parameters<typeof textOf>[0]) =>
      agent.addRemoteCandidate(textOf(candidate), 0).map(({ address }) => address.text)
    assert.deepStrictEqual(add(srflx(1)), ["198.51.100.1:40000"])
    assert.deepStrictEqual(add(gathered("host", "10.0.0.1:52625")), ["10.0.0.1:52625", "198.51.100.1:52625"])
    assert.deepStrictEqual(add(srflx(2)), ["198.51.100.2:40000", "198.51.100.2:52625"])
    assert.deepStrictEqual(add(srflx(3)), ["198.51.100.3:40000", "198.51.100.3:52625"])
    assert.deepStrictEqual(add(srflx(4)), ["198.51.100.4:40000"])
    assert.deepStrictEqual(add(gathered("srflx", "[2001:db8::1]:40000", "[2001:db8::1]:40000")), [
      "[2001:db8::1]:40000"
    ])
  })
})

describe("a candidate that is withdrawn", () => {
  it("of the peer's takes its pairs with it", () => {
    const { left, right } = connected()
    left.agent.removeRemoteCandidate(textOf(rightHost), left.now)
    assert.isFalse(left.agent.hasPrimary)
    run(left, right, 0)
    assert.strictEqual(left.path, route(leftHost, rightRelay))
    left.agent.removeRemoteCandidate(textOf(gathered("host", "198.51.100.9:1")), left.now)
    left.agent.removeRemoteCandidate("candidate:garbage", left.now)
    assert.isTrue(left.agent.hasPrimary)
  })

  it("of ours is announced, and only the path over it suffers", () => {
    const { left } = connected()
    assert.strictEqual(left.agent.removeLocalCandidate(leftRelay, left.now), textOf(leftRelay))
    assert.isUndefined(left.agent.removeLocalCandidate(leftRelay, left.now))
    assert.isTrue(left.agent.hasPrimary)
    assert.strictEqual(left.agent.removeLocalCandidate(leftHost, left.now), textOf(leftHost))
    assert.isFalse(left.agent.hasPrimary)
  })

  it("leaves the pairs of another candidate with that address", () => {
    const { left, right } = introduced()
    const reflexive = gathered("srflx", "198.51.100.1:40000", leftHost.address.text)
    left.addLocal(reflexive)
    settle(left, right)
    assert.strictEqual(left.agent.removeLocalCandidate(reflexive, left.now), textOf(reflexive))
    run(left, right, 3000)
    assert.strictEqual(left.path, route(leftHost, rightHost))
  })
})

describe("our relay's loss", () => {
  const onRelays = () => {
    const pair = introduced()
    const only = (sent: Sent) => !involves(leftRelay.address.text)(sent)
    settle(pair.left, pair.right, only)
    run(pair.left, pair.right, 500, only)
    assert.strictEqual(pair.left.path, route(leftRelay, rightHost))
    return pair
  }
  const fresh = gathered("relay", "203.0.113.3:50003", leftHost.address.text)

  it("leaves the path over the peer's relay, adopted at once, without probes through the dead one", () => {
    const { left, right } = onRelays()
    left.agent.removeLocalCandidate(leftRelay, left.now)
    assert.isFalse(left.agent.hasPrimary)
    const dead = involves(leftRelay.address.text)
    let throughDead = 0
    run(left, right, 1000, (sent) => {
      if (dead(sent) && sent.source.text === leftRelay.address.text) throughDead += 1
      return dead(sent) || isDirect(sent) || isInitiation(sent)
    })
    assert.strictEqual(left.path, route(leftHost, rightRelay))
    assert.strictEqual(throughDead, 0)

    // Our own relay is better than the peer's.
    left.addLocal(fresh)
    right.addRemote(fresh)
    run(left, right, 1000, (sent) => dead(sent) || isDirect(sent))
    assert.strictEqual(left.path, route(fresh, rightHost))
  })
})

describe("a roam", () => {
  it("is survived without a handshake: new addresses are probed, the session lives on", () => {
    const { left, right } = connected()
    const moved = [gathered("host", "198.51.100.9:52625"), gathered("relay", "203.0.113.3:50003", "198.51.100.9:52625")]
    left.agent.roam()
    assert.isUndefined(left.path)
    assert.deepStrictEqual(left.agent.announcements(), [])
    assert.deepStrictEqual(left.advance(1000), [], "nothing leaves from an address of the old network")
    right.now = left.now
    left.addLocal(...moved)
    assert.deepStrictEqual(left.agent.announcements(), moved.map(textOf))
    right.addRemote(...moved)
    let handshakes = 0
    const old = [leftHost, leftRelay].map(({ address }) => involves(address.text))
    run(left, right, 2000, (sent) => {
      if (isInitiation(sent)) handshakes += 1
      return old.some((isOld) => isOld(sent))
    })
    assert.strictEqual(handshakes, 0)
    assert.strictEqual(left.path, "198.51.100.9:52625 192.0.2.2:52625")
    assert.strictEqual(right.path, "192.0.2.2:52625 198.51.100.9:52625")
  })

  it("of which the portal cannot tell is learned from the peer's probes", () => {
    const { left, right } = connected()
    const moved = gathered("host", "198.51.100.9:52625")
    left.agent.roam()
    left.addLocal(moved)
    const old = [leftHost, leftRelay].map(({ address }) => involves(address.text))
    run(left, right, 2000, (sent) => old.some((isOld) => isOld(sent)))
    assert.strictEqual(left.path, route(moved, rightHost))
    assert.strictEqual(right.path, route(rightHost, moved))
  })
})

describe("an address that was left", () => {
  it("still hears the peer, but answers nothing", () => {
    const { left, right } = connected()
    left.agent.roam()
    left.addLocal(gathered("host", "198.51.100.9:52625"))
    left.drain()
    const before = left.received.length
    left.receive(right.data())
    left.receive({ ...right.data(), message: sealedProbe(right, ProbeType.Request, 1, 1) })
    assert.strictEqual(left.received.length, before + 1)
    assert.deepStrictEqual(left.drain(), [])
  })
})

describe("hostile datagrams", () => {
  it("of a thousand addresses teach no more than four, and nothing without the session's keys", () => {
    const { left, right } = connected()
    const before = right.deadline()
    for (let i = 0; i < 1000; i++) {
      const forged = sealedProbe(left, ProbeType.Request, i, i)
      forged[40] = (forged[40] ?? 0) ^ 1
      right.receive({ source: at(`198.51.100.1:${i + 1}`), destination: rightHost.address, message: forged })
    }
    assert.deepStrictEqual([right.drain(), right.deadline()], [[], before])
    for (let i = 0; i < 1000; i++) {
      const message = sealedProbe(left, ProbeType.Request, i, i)
      right.receive({ source: at(`198.51.100.1:${i + 1}`), destination: rightHost.address, message })
    }
    assert.isAtMost(right.drain().length, 200)
    const targets = new Set(right.advance(30_000).map(({ destination }) => destination.text))
    assert.isAtMost(targets.size, 4 + 2)
  })
})
