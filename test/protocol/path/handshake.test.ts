import { assert, describe, it } from "@effect/vitest"
import { MessageType } from "../../../src/protocol/wire/wireguard.ts"
import {
  at,
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
  type Sent,
  settle
} from "./peers.ts"

const initiationsOf = (sent: ReadonlyArray<Sent>) => sent.filter(({ type }) => type === MessageType.Initiation)
const routesOf = (sent: ReadonlyArray<Sent>) => sent.map(routeOf).toSorted()
const relayRoutes = [route(leftHost, rightRelay), route(leftRelay, rightHost), route(leftRelay, rightRelay)].toSorted()
const only = (sent: ReadonlyArray<Sent>): Sent => {
  const [one] = sent
  if (one === undefined || sent.length !== 1) throw new Error(`${sent.length} datagrams`)
  return one
}
const first = (sent: ReadonlyArray<Sent>): Sent => {
  const [one] = sent
  if (one === undefined) throw new Error("no datagram")
  return one
}

describe("the first initiation", () => {
  it("goes once over every pair with a relay at either end", () => {
    const { left } = introduced()
    const sent = left.drain()
    assert.deepStrictEqual(routesOf(sent), relayRoutes)
    for (const one of sent) assert.deepStrictEqual(one.message, sent[0]?.message)
    assert.strictEqual(initiationsOf(sent).length, 3)
    for (const { relayed, source } of sent) assert.strictEqual(relayed, source.text === leftRelay.address.text)
  })

  it("is the controlling side's alone", () => {
    const { right } = introduced()
    right.agent.start(0)
    assert.deepStrictEqual(right.advance(10_000), [])
  })

  it("goes over pairs that appear later", () => {
    const left = new Peer("controlling").addLocal(leftHost)
    left.agent.start(0)
    left.addRemote(rightHost)
    assert.deepStrictEqual(left.advance(500), [])
    left.addRemote(rightRelay)
    assert.deepStrictEqual(routesOf(left.drain()), [route(leftHost, rightRelay)])
    left.addLocal(leftRelay)
    assert.deepStrictEqual(
      routesOf(left.drain()),
      [route(leftRelay, rightHost), route(leftRelay, rightRelay)].toSorted()
    )
  })

  it("is sent again after 50 ms, up a ladder, once", () => {
    const left = new Peer("controlling").addLocal(leftHost).addRemote(rightRelay)
    left.agent.start(0)
    assert.strictEqual(left.agent.pollTimeout(), 50)
    const sent = left.advance(100_000)
    assert.deepStrictEqual(sent.map((one) => one.at), [0, 50, 100, 150, 250, 450, 850, 1650, 3250])
    assert.isUndefined(left.agent.pollTimeout())
  })

  it("that WireGuard repeats goes once over each relayed pair, with the new bytes, and the ladder goes on with them", () => {
    const { left } = introduced()
    const [old] = left.advance(1900)
    left.now = 2000
    left.tunnel.handleTimeout(2000)
    left.agent.handleTimeout(2000)
    const again = left.drain()
    assert.deepStrictEqual(routesOf(again), relayRoutes)
    assert.notDeepEqual(again[0]?.message, old?.message)
    const last = left.advance(3000)
    assert.deepStrictEqual(last.map((one) => one.at), [3250, 3250, 3250])
    for (const { message } of last) assert.deepStrictEqual(message, again[0]?.message)
    // The third one finds every ladder used up.
    left.tunnel.handleTimeout(left.now)
    left.agent.handleTimeout(left.now)
    assert.deepStrictEqual(routesOf(left.drain()), relayRoutes)
    assert.isUndefined(left.agent.pollTimeout())
  })

  it("is followed by probes alone once there is a response", () => {
    const { left, right } = introduced()
    const initiation = first(left.drain())
    right.receive(initiation)
    const response = only(right.drain().filter(({ type }) => type === MessageType.Response))
    assert.isTrue(left.receive(response))
    const sent = left.advance(60_000)
    assert.isAbove(sent.length, 10)
    for (const { type } of sent) assert.strictEqual(type, MessageType.Data)
  })

  it("fails quietly if it is not authentic", () => {
    const { left, right } = introduced()
    const { message, ...rest } = first(left.drain())
    const forged = message.slice()
    forged[60] = (forged[60] ?? 0) ^ 1
    assert.isFalse(right.receive({ ...rest, message: forged }))
    assert.deepStrictEqual(right.advance(60_000), [])
    assert.isUndefined(right.path)
    assert.isTrue(right.receive({ ...rest, message }))
  })
})

describe("the response", () => {
  it("takes the path on which the initiation came, which becomes the first primary", () => {
    for (const taken of relayRoutes) {
      const { left, right } = introduced()
      const initiation = only(left.drain().filter((one) => routeOf(one) === taken))
      right.receive(initiation)
      const response = only(right.drain())
      assert.strictEqual(response.type, MessageType.Response)
      assert.deepStrictEqual([response.source, response.destination], [initiation.destination, initiation.source])
      assert.strictEqual(right.path, routeOf(response))
      assert.strictEqual(response.relayed, initiation.destination.text === rightRelay.address.text)
      left.receive(response)
      assert.strictEqual(left.path, taken)
      assert.isTrue(left.agent.hasPrimary && right.agent.hasPrimary)
    }
  })

  it("is sent again for a copy within 10 s, on that copy's path, without the tunnel", () => {
    const { left, right } = introduced()
    const [one, other] = left.drain()
    if (one === undefined || other === undefined) throw new Error("expected two copies")
    right.receive(one)
    const response = only(right.drain())
    const { path } = right
    right.now = 9999
    assert.isTrue(right.receive(other))
    const repeated = only(right.drain())
    assert.deepStrictEqual(repeated.message, response.message)
    assert.deepStrictEqual(repeated.destination, other.source)
    assert.strictEqual(right.path, path, "a copy moves nothing")
    right.now = 10_000
    assert.isFalse(right.receive(other))
    assert.deepStrictEqual(right.drain(), [])
  })

  it("that comes twice counts once", () => {
    const { left, right } = introduced()
    const [one, other] = left.drain()
    if (one === undefined || other === undefined) throw new Error("expected two copies")
    for (const copy of [one, other]) right.receive(copy)
    const [response, repeated] = right.drain()
    if (response === undefined || repeated === undefined) throw new Error("expected two responses")
    assert.isTrue(left.receive(response))
    left.drain()
    assert.isTrue(left.agent.isKnownResponse(repeated.message))
    assert.isFalse(left.receive(repeated))
    assert.deepStrictEqual(left.drain(), [])
  })

  it("to an address that nobody signalled teaches it to the responder", () => {
    const left = new Peer("controlling").addLocal(leftHost, leftRelay).addRemote(rightHost, rightRelay)
    const right = new Peer("controlled").addLocal(rightHost, rightRelay)
    left.agent.start(0)
    settle(left, right)
    assert.isTrue(left.agent.hasPrimary && right.agent.hasPrimary)
    assert.strictEqual(right.agent.selected?.remoteKind, "srflx")
    const { path, selected } = { path: right.path, selected: right.agent.selected }
    right.addRemote(leftRelay)
    assert.strictEqual(right.path, path, "signalled at last, it is upgraded in place")
    assert.isTrue(right.agent.hasPrimary)
    assert.notStrictEqual(selected?.remote.text, leftHost.address.text)
    right.addRemote(leftHost)
    run(left, right, 3000)
    assert.deepStrictEqual([left.path, right.path], [route(leftHost, rightHost), route(rightHost, leftHost)])
  })

  it("starts the initiator's data with a keep-alive on the primary", () => {
    const { left, right } = introduced()
    right.receive(first(left.drain()))
    left.receive(only(right.drain()))
    const [keepalive] = left.drain()
    assert.strictEqual(keepalive?.message.length, 32)
    assert.strictEqual(keepalive === undefined ? "" : routeOf(keepalive), left.path)
    assert.isFalse(right.tunnel.hasSession)
    if (keepalive !== undefined) right.receive(keepalive)
    assert.isTrue(right.tunnel.hasSession)
  })
})

describe("a later handshake", () => {
  it("of the peer's moves no primary", () => {
    const { left, right } = introduced()
    settle(left, right)
    run(left, right, 2000, undefined, false)
    const { path } = right
    assert.strictEqual(path, route(rightHost, leftHost))
    left.tunnel.initiate(left.now)
    left.agent.handleTimeout(left.now)
    const rekey = only(left.drain().filter(({ type }) => type === MessageType.Initiation))
    assert.strictEqual(routeOf(rekey), left.path, "it takes the primary only")
    // As if it had come through a relay.
    right.receive({ ...rekey, source: leftRelay.address, destination: rightRelay.address })
    assert.strictEqual(right.path, path)
    const response = only(right.drain())
    assert.deepStrictEqual([response.source, response.destination], [rightRelay.address, leftRelay.address])
    // The initiator would take a better path, but not a worse one.
    left.receive(response)
    assert.strictEqual(left.path, route(leftHost, rightHost))
  })

  it("answered on a better path moves the initiator there", () => {
    const { left, right } = introduced()
    const isDirect = (sent: Sent) =>
      routeOf(sent) === route(leftHost, rightHost) || routeOf(sent) === route(rightHost, leftHost)
    settle(left, right, isDirect)
    run(left, right, 20_000, isDirect, false)
    left.tunnel.initiate(left.now)
    left.agent.handleTimeout(left.now)
    const rekey = only(left.drain().filter(({ type }) => type === MessageType.Initiation))
    right.receive({ ...rekey, source: leftHost.address, destination: rightHost.address })
    left.receive(only(right.drain().filter(({ type }) => type === MessageType.Response)))
    assert.strictEqual(left.path, route(leftHost, rightHost))
  })
})

describe("a session that has ended without a primary", () => {
  it("is replaced over relays: nothing else could find a path", () => {
    const { left, right } = introduced()
    settle(left, right)
    run(left, right, 5000)
    // The network changes after a long sleep.
    for (const peer of [left, right]) {
      peer.now += 200_000
      peer.tunnel.handleTimeout(peer.now)
    }
    left.agent.roam()
    assert.isUndefined(left.path)
    const moved = [gathered("host", "192.0.2.9:52625"), gathered("relay", "203.0.113.9:50009", "192.0.2.9:52625")]
    left.addLocal(...moved)
    right.addRemote(...moved)
    const isOld = ({ destination: { text } }: Sent) => text === leftHost.address.text || text === leftRelay.address.text
    run(left, right, 1000, isOld)
    assert.strictEqual(left.path, "192.0.2.9:52625 192.0.2.2:52625")
    assert.strictEqual(right.path, "192.0.2.2:52625 192.0.2.9:52625")
    assert.strictEqual(left.tunnel.lastHandshakeAt, left.now - 1000, "at once")
  })
})

describe("addresses", () => {
  it("of different families are not paired", () => {
    const left = new Peer("controlling").addLocal(gathered("relay", "[2001:db8::1]:50001", "192.0.2.1:52625"))
    left.agent.start(0)
    left.addRemote(rightHost, rightRelay)
    assert.deepStrictEqual(left.drain(), [])
    left.addRemote(gathered("host", "[2001:db8::2]:52625"))
    assert.strictEqual(left.drain().length, 1)
  })

  it("that an initiation comes from are learned, four at most, until one falls silent", () => {
    const { left, right } = introduced()
    settle(left, right)
    const learned = (port: number): boolean => {
      left.tunnel.initiate(left.now)
      left.agent.handleTimeout(left.now)
      const [rekey] = left.drain().filter(({ type }) => type === MessageType.Initiation)
      if (rekey === undefined) throw new Error("no handshake")
      right.drain()
      right.receive({ ...rekey, source: at(`198.51.100.1:${port}`), destination: rightHost.address })
      left.receive(first(right.drain().filter(({ type }) => type === MessageType.Response)))
      left.drain()
      return right.advance(1500).some(({ destination }) => destination.port === port)
    }
    assert.deepStrictEqual([1, 2, 3, 4, 5].map(learned), [true, true, true, true, false])
    right.now += 60_000
    left.now = right.now
    assert.isTrue(learned(6))
  })
})
