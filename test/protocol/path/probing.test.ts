import { assert, describe, it } from "@effect/vitest"
import * as fc from "fast-check"
import { type LocalEnd, PathPair, type RemoteEnd } from "../../../src/protocol/path/PathPair.ts"
import { ProbeType } from "../../../src/protocol/path/probe.ts"
import { MessageType } from "../../../src/protocol/wire/wireguard.ts"
import {
  at,
  connected,
  gathered,
  introduced,
  leftHost,
  leftRelay,
  type Peer,
  readProbe,
  rightHost,
  rightRelay,
  route,
  routeOf,
  run,
  sealedProbe,
  type Sent,
  settle
} from "./peers.ts"

/** Probes that left `from` on one path; `to` opens them. */
const probesOn = (sent: ReadonlyArray<Sent>, path: string, to: Peer) =>
  sent.filter((one) => routeOf(one) === path).flatMap((one) => {
    const probe = readProbe(to, one)
    return probe === undefined ? [] : [{ at: one.at, ...probe }]
  })

/** A session, and nothing measured yet: the handshake went over both relays. */
const bootstrapped = () => {
  const { left, right } = introduced()
  for (const one of left.drain()) if (routeOf(one) === route(leftRelay, rightRelay)) right.receive(one)
  for (const one of right.drain()) left.receive(one)
  return { left, right }
}
const SCHEDULE = [0, 200, 500, ...Array.from({ length: 9 }, (_, i) => 1000 * (i + 1))]

describe("the probes of a pair", () => {
  it("begin with the session, on every pair: 12 of them on one that stays silent, then none", () => {
    const { left, right } = bootstrapped()
    const sent = left.advance(120_000)
    for (const path of [route(leftHost, rightHost), route(leftHost, rightRelay), route(leftRelay, rightHost)]) {
      const probes = probesOn(sent, path, right)
      assert.deepStrictEqual(probes.map((probe) => probe.at), SCHEDULE, path)
      assert.deepStrictEqual(probes.map(({ sequence }) => sequence), SCHEDULE.map((_, i) => i))
      assert.strictEqual(new Set(probes.map(({ id }) => id)).size, 1)
    }
  })

  it("are the keep-alive of the primary, every 25 s", () => {
    const { left, right } = bootstrapped()
    const probes = probesOn(left.advance(100_000), route(leftRelay, rightRelay), right)
    assert.deepStrictEqual(probes.map((probe) => probe.at), [...SCHEDULE, 34_000, 59_000, 84_000])
  })

  it("go on without a primary, once a second", () => {
    const { left, right } = bootstrapped()
    left.addRemote(gathered("host", "[2001:db8::1]:52625"))
    assert.isFalse(left.agent.hasPrimary)
    const probes = probesOn(left.advance(20_000), route(leftHost, rightHost), right)
    assert.deepStrictEqual(probes.map((probe) => probe.at).slice(0, 12), SCHEDULE)
    assert.deepStrictEqual(
      probes.map((probe) => probe.at).slice(12),
      Array.from({ length: 11 }, (_, i) => 10_000 + 1000 * i)
    )
  })

  it("have another id on every pair, and one after all others when a candidate replaces another", () => {
    const { left, right } = bootstrapped()
    const ids = new Map<string, number>()
    for (const one of left.advance(0)) {
      const probe = readProbe(right, one)
      if (probe !== undefined) ids.set(routeOf(one), probe.id)
    }
    assert.strictEqual(new Set(ids.values()).size, 4)
    // A reflexive address shares its base with the host candidate, hence their pairs.
    left.addLocal(gathered("srflx", "198.51.100.1:40000", "192.0.2.1:52625"))
    const fresh = probesOn(left.advance(0), route(leftHost, rightHost), right)
    assert.strictEqual(fresh.length, 1)
    assert.isAbove(fresh[0]?.id ?? 0, Math.max(...ids.values()))
  })
})

describe("a request", () => {
  it("is answered where it came from, with the same numbers, even from an address that nobody knows", () => {
    const { left, right } = connected()
    const message = sealedProbe(left, ProbeType.Request, 4711, 65_535)
    right.advance(0)
    const source = at("198.51.100.77:1234")
    right.receive({ source, destination: rightRelay.address, message })
    const [reply] = right.drain()
    assert.deepStrictEqual([reply?.source, reply?.destination, reply?.relayed], [rightRelay.address, source, true])
    const probe = reply === undefined ? undefined : readProbe(left, reply)
    assert.deepStrictEqual(probe, { type: ProbeType.Reply, id: 4711, sequence: 65_535 })
    // And is probed in return.
    assert.isTrue(right.advance(0).some(({ destination }) => destination.text === source.text))
  })

  it("on a pair that was given up begins its probes anew", () => {
    const { left, right } = bootstrapped()
    settle(left, right)
    const isLost = (sent: Sent) =>
      routeOf(sent) === route(rightHost, leftHost) || routeOf(sent) === route(leftHost, rightHost)
    run(left, right, 30_000, isLost, false)
    assert.notStrictEqual(right.path, route(rightHost, leftHost))
    const message = sealedProbe(left, ProbeType.Request, 1, 1)
    right.receive({ source: leftHost.address, destination: rightHost.address, message })
    right.drain()
    const sent = right.advance(20_000)
    assert.strictEqual(sent.filter((one) => routeOf(one) === route(rightHost, leftHost)).length, 12)
  })

  it("on a pair that works does not", () => {
    const { left, right } = connected()
    const message = sealedProbe(left, ProbeType.Request, 1, 1)
    right.receive({ source: leftRelay.address, destination: rightRelay.address, message })
    right.drain()
    assert.deepStrictEqual(right.advance(500), [])
  })
})

describe("a reply", () => {
  /** The left side's probe on a path, and the reply to it that `forge` makes. */
  const replied = (
    forge: (probe: { id: number; sequence: number }) => readonly [number, number],
    path = route(leftHost, rightHost)
  ) => {
    const { left, right } = bootstrapped()
    const isKeepalive = ({ message }: Sent) => message.length === 32
    for (const one of left.drain().filter(isKeepalive)) right.receive(one)
    right.drain()
    const one = left.advance(0).find((sent) => routeOf(sent) === path)
    const probe = one === undefined ? undefined : readProbe(right, one)
    if (one === undefined || probe === undefined) throw new Error("no probe")
    const [id, sequence] = forge(probe)
    left.now = 30
    return {
      left,
      right,
      receive: (message = sealedProbe(right, ProbeType.Reply, id, sequence)) =>
        left.receive({ source: one.destination, destination: one.source, message })
    }
  }

  it("makes the pair between hosts primary in place of one with a relay", () => {
    const { left, receive } = replied(({ id, sequence }) => [id, sequence])
    assert.strictEqual(left.path, route(leftRelay, rightRelay))
    receive()
    assert.strictEqual(left.path, route(leftHost, rightHost))
    assert.strictEqual(left.agent.rtt, 30)
    assert.deepInclude(left.agent.selected, { localKind: "host", remoteKind: "host" })
  })

  it("never demotes", () => {
    const { left, right, receive } = replied(({ id, sequence }) => [id, sequence])
    receive()
    const path = route(leftRelay, rightRelay)
    for (const one of left.advance(5000).filter((sent) => routeOf(sent) === path)) {
      const probe = readProbe(right, one)
      if (probe === undefined) continue
      const message = sealedProbe(right, ProbeType.Reply, probe.id, probe.sequence)
      left.receive({ source: one.destination, destination: one.source, message })
    }
    assert.strictEqual(left.path, route(leftHost, rightHost))
  })

  it("with another id or an unknown sequence is nothing", () => {
    for (
      const forge of [
        ({ id, sequence }: { id: number; sequence: number }) => [id + 1, sequence] as const,
        ({ id, sequence }: { id: number; sequence: number }) => [id, sequence + 1] as const
      ]
    ) {
      const { left, receive } = replied(forge)
      receive()
      assert.strictEqual(left.path, route(leftRelay, rightRelay))
    }
  })

  it("counts once", () => {
    const { left, right, receive } = replied(({ id, sequence }) => [id, sequence])
    receive()
    left.now = 1000
    const again = sealedProbe(right, ProbeType.Reply, 0, 0)
    receive(again)
    assert.strictEqual(left.agent.rtt, 30)
  })

  it("on another path than the probe's is nothing", () => {
    const { left, right, receive } = replied(({ id, sequence }) => [id, sequence], route(leftHost, rightHost))
    const message = sealedProbe(right, ProbeType.Reply, 0, 0)
    left.receive({ source: rightHost.address, destination: leftRelay.address, message })
    assert.strictEqual(left.path, route(leftRelay, rightRelay))
    receive()
    assert.strictEqual(left.path, route(leftHost, rightHost))
  })
})

describe("a pair", () => {
  const kinds = ["host", "srflx", "relay"] as const
  const end = (kind: typeof kinds[number], address: string, base = address): LocalEnd & RemoteEnd => ({
    kind,
    address: at(address),
    base: at(base),
    sendFrom: at(kind === "relay" ? address : base),
    isReflexive: false,
    heardAt: 0
  })
  const pair = (local: LocalEnd, remote: RemoteEnd, rtt?: number): PathPair => {
    const made = new PathPair(local, remote, 0)
    made.rtt = rtt
    return made
  }
  const v4 = { host: "192.0.2.1:1", srflx: "192.0.2.2:1", relay: "192.0.2.3:1" }
  const v6 = { host: "[2001:db8::1]:1", srflx: "[2001:db8::2]:1", relay: "[2001:db8::3]:1" }

  it("ranks by the worse kind, the better kind, our relay, its family, IPv6", () => {
    const best: ReadonlyArray<readonly [string, PathPair]> = [
      ["host host 6", pair(end("host", v6.host), end("host", v6.host))],
      ["host host 4", pair(end("host", v4.host), end("host", v4.host))],
      ["host srflx 6", pair(end("host", v6.host), end("srflx", v6.srflx))],
      ["host srflx 4", pair(end("srflx", v4.srflx, v4.host), end("host", v4.host))],
      ["srflx srflx 4", pair(end("srflx", v4.srflx, v4.host), end("srflx", v4.srflx))],
      ["our relay, host 6", pair(end("relay", v6.relay, v6.host), end("host", v6.host))],
      ["our relay, host 4", pair(end("relay", v4.relay, v4.host), end("host", v4.host))],
      ["our mismatched relay, host 6", pair(end("relay", v6.relay, v4.host), end("host", v6.host))],
      ["our mismatched relay, host 4", pair(end("relay", v4.relay, v6.host), end("host", v4.host))],
      ["host, their relay 6", pair(end("host", v6.host), end("relay", v6.relay))],
      ["host, their relay 4", pair(end("host", v4.host), end("relay", v4.relay))],
      ["our relay, srflx 4", pair(end("relay", v4.relay, v4.host), end("srflx", v4.srflx))],
      ["srflx, their relay 4", pair(end("srflx", v4.srflx, v4.host), end("relay", v4.relay))],
      ["both relays 6", pair(end("relay", v6.relay, v6.host), end("relay", v6.relay))],
      ["both relays 4", pair(end("relay", v4.relay, v4.host), end("relay", v4.relay))],
      ["both relays, ours mismatched", pair(end("relay", v4.relay, v6.host), end("relay", v4.relay))]
    ]
    for (const [i, [better, left]] of best.entries()) {
      for (const [j, [worse, right]] of best.entries()) {
        assert.strictEqual(left.outranks(right), i < j, `${better} before ${worse}`)
      }
    }
  })

  it("of the same rank takes over only if it is faster by a fifth, and by 10 ms at least", () => {
    const ends = [end("host", v4.host), end("host", v4.host)] as const
    const takes = (rtt: number | undefined, primary: number | undefined) =>
      pair(...ends, rtt).shouldReplace(pair(...ends, primary))
    assert.isFalse(takes(20, 30))
    assert.isTrue(takes(19, 30))
    assert.isFalse(takes(80, 100))
    assert.isTrue(takes(79, 100))
    assert.isFalse(takes(1, undefined), "a primary that was not measured stays")
    assert.isFalse(takes(undefined, 100))
  })

  it("smooths its round trips by halves", () => {
    const measured = pair(end("host", v4.host), end("host", v4.host))
    measured.restart(0)
    assert.isTrue(measured.answered(0, measured.probed(false, 0), 40))
    assert.strictEqual(measured.rtt, 40)
    assert.isTrue(measured.answered(0, measured.probed(false, 100), 120))
    assert.strictEqual(measured.rtt, 30)
  })

  it("remembers 12 probes, the latest", () => {
    const silent = pair(end("host", v4.host), end("host", v4.host))
    silent.restart(0)
    for (let round = 0; round < 100; round++) {
      silent.probed(true, round)
      assert.isAtMost(silent.inFlight, 12)
    }
    assert.isFalse(silent.answered(0, 87, 100))
    assert.isTrue(silent.answered(0, 88, 100))
    assert.strictEqual(silent.rtt, 12)
  })

  it("orders all pairs, whatever their ends and round trips", () => {
    const anyEnd = fc.tuple(fc.constantFrom(...kinds), fc.constantFrom(v4, v6), fc.constantFrom(v4, v6))
      .map(([kind, own, other]) =>
        end(kind, own[kind], kind === "host" ? own.host : (kind === "srflx" ? own : other).host)
      )
    const anyPair = fc.tuple(anyEnd, anyEnd, fc.option(fc.integer({ min: 0, max: 3 }), { nil: undefined }))
      .map(([local, remote, rtt]) => pair(local, remote, rtt))
    fc.assert(fc.property(anyPair, anyPair, anyPair, (a, b, c) => {
      assert.isFalse(a.isBetterThan(a))
      assert.isFalse(a.isBetterThan(b) && b.isBetterThan(a))
      if (a.isBetterThan(b) && b.isBetterThan(c)) assert.isTrue(a.isBetterThan(c))
      if (a.shouldReplace(b)) assert.isTrue(a.isBetterThan(b))
    }))
  })
})

describe("an agent", () => {
  it("finds the best path though a fifth is lost", () => {
    fc.assert(
      fc.property(
        fc.infiniteStream(fc.integer({ min: 0, max: 4 })),
        fc.integer({ min: 0, max: 60_000 }),
        (lost, millis) => {
          const { left, right } = introduced()
          const isLost = (): boolean => lost.next().value === 0
          run(left, right, millis, isLost)
          for (const peer of [left, right]) {
            assert.isTrue(peer.deadline(true) > peer.now, "a deadline in the past")
            if (peer.agent.selected !== undefined) {
              assert.include(peer === left ? leftRoutes : rightRoutes, peer.path)
            }
          }
          // Of twelve probes some come through; and once nothing is lost any more, both agree.
          run(left, right, 15_000)
          assert.deepStrictEqual([left.path, right.path], [route(leftHost, rightHost), route(rightHost, leftHost)])
        }
      ),
      { numRuns: 30 }
    )
  })
})

const leftRoutes = [leftHost, leftRelay].flatMap((from) => [rightHost, rightRelay].map((to) => route(from, to)))
const rightRoutes = [rightHost, rightRelay].flatMap((from) => [leftHost, leftRelay].map((to) => route(from, to)))

describe("data", () => {
  it("between peers in use brings handshakes only when WireGuard wants them", () => {
    const { left, right } = connected()
    let handshakes = 0
    run(left, right, 100_000, (sent) => {
      if (sent.type === MessageType.Initiation) handshakes += 1
      return false
    })
    assert.strictEqual(handshakes, 0)
    run(left, right, 30_000, (sent) => {
      if (sent.type === MessageType.Initiation) handshakes += 1
      return false
    })
    assert.strictEqual(handshakes, 1)
  })
})
