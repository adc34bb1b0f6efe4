/** Our TURN client at the relay emulator, for up to an hour of virtual time: so long do the credentials last. */
import { assert, describe, it } from "@effect/vitest"
import { RelayServer } from "../../../src/lab/relay/RelayServer.ts"
import { Allocation } from "../../../src/protocol/turn/Allocation.ts"
import { ip, type SocketAddress } from "../../../src/protocol/wire/address.ts"
import { at, channelData, client, crypto, elsewhere, EPOCH, peer, peer6, STAMP_SECRET, user } from "./support.ts"

const MINUTE = 60_000
const server = at("203.0.113.9:3478")

/** Both machines, joined by a network without loss or delay. */
class World {
  readonly relay = new RelayServer({
    crypto,
    stampSecret: STAMP_SECRET,
    ipv4: ip("203.0.113.9"),
    ipv6: ip("2001:db8:9::9"),
    unixEpochMillis: EPOCH * 1000
  })
  readonly allocation = new Allocation({ relay: { id: "relay", v4: server, ...user }, crypto, now: 0 })
  /** Our address, which a change of network changes. */
  local: SocketAddress = client
  now = 0
  readonly toPeers: Array<string> = []
  readonly toUs: Array<string> = []
  readonly events: Array<string> = []

  settle(): void {
    for (let isBusy = true; isBusy;) {
      isBusy = false
      for (let next = this.allocation.pollTransmit(); next !== undefined; next = this.allocation.pollTransmit()) {
        isBusy = true
        this.relay.handleClient(this.local, next.buffer.slice(next.offset, next.offset + next.length), this.now)
      }
      for (let output = this.relay.pollOutput(); output !== undefined; output = this.relay.pollOutput()) {
        isBusy = true
        if (output._tag === "ToPeer") this.toPeers.push(output.peer.text)
        if (output._tag === "ToClient" && output.client.text === this.local.text) this.#receive(output.bytes)
      }
      for (let event = this.allocation.pollEvent(); event !== undefined; event = this.allocation.pollEvent()) {
        this.events.push(`${event._tag} ${event.candidate.kind}${event.candidate.address.family}`)
      }
    }
  }

  advance(millis: number): void {
    const end = this.now + millis
    for (let next = this.#next(); next <= end; next = this.#next()) {
      this.now = Math.max(this.now, next)
      this.allocation.handleTimeout(this.now)
      this.relay.handleTimeout(this.now)
      this.settle()
    }
    this.now = end
  }

  send(to: SocketAddress): void {
    const channel = this.allocation.channelTo(to, this.now)
    if (channel !== 0) this.relay.handleClient(this.local, channelData(channel, Uint8Array.of(1)), this.now)
    this.settle()
  }

  sendToUs(from: SocketAddress): void {
    const port = this.allocation.relayed(from.family)?.port ?? 0
    this.relay.handlePeer(port, from, Uint8Array.of(2), this.now)
    this.settle()
  }

  #receive(bytes: Uint8Array): void {
    const [high = 0, low = 0] = bytes
    if (high < 4) this.allocation.handleStun(this.local, server, bytes, this.now)
    else this.toUs.push(this.allocation.receivedOn(high << 8 | low, this.now)?.text ?? "nobody")
  }

  #next(): number {
    return Math.min(this.allocation.pollTimeout() ?? Infinity, this.relay.pollTimeout() ?? Infinity)
  }
}

const started = (): World => {
  const world = new World()
  world.settle()
  assert.deepStrictEqual(world.events, [
    "NewCandidate host4",
    "NewCandidate srflx4",
    "NewCandidate relay4",
    "NewCandidate relay6"
  ])
  world.events.length = 0
  return world
}

describe("our client at the relay emulator", () => {
  it("keeps its allocation and its channels in use, and loses nothing", () => {
    const world = started()
    for (const to of [peer, peer6]) world.allocation.bindChannel(to, 0)
    world.settle()
    const minutes = 55
    for (let minute = 0; minute < minutes; minute++) {
      for (const other of [peer, peer6]) {
        world.send(other)
        world.sendToUs(other)
      }
      world.advance(MINUTE)
    }
    const expected = Array.from({ length: minutes }, () => [peer.text, peer6.text]).flat()
    assert.deepStrictEqual(world.toPeers, expected)
    assert.deepStrictEqual(world.toUs, expected)
    assert.deepStrictEqual(world.events, [])
    assert.deepStrictEqual(world.relay.counters.errors, { 401: 1 })
  })

  it("gets a channel back that it let lapse, in the cool-down and after", () => {
    for (const silence of [9, 11, 14, 16, 31]) {
      const world = started()
      world.send(peer)
      world.send(peer)
      assert.deepStrictEqual(world.toPeers, [peer.text], "the first one asked for the channel")
      world.advance(silence * MINUTE)
      world.send(peer)
      world.send(peer)
      world.sendToUs(peer)
      assert.isAtLeast(world.toPeers.length, 2, `after ${silence} minutes`)
      assert.deepStrictEqual(world.toUs, [peer.text], `after ${silence} minutes`)
      assert.deepStrictEqual(world.relay.counters.errors, { 401: 1 }, `after ${silence} minutes`)
    }
  })

  it("moves to another network and leaves nothing behind", () => {
    const world = started()
    world.send(peer)
    world.local = elsewhere
    world.allocation.restart(world.now)
    world.settle()
    world.send(peer)
    world.send(peer)
    assert.deepStrictEqual(world.toPeers, [peer.text])
    assert.deepStrictEqual(world.relay.allocations.map((allocation) => allocation.client.text), [elsewhere.text])
  })

  it("notices within a keep-alive that the relay has fallen silent", () => {
    const world = started()
    world.relay.knobs.silent = true
    world.advance(25_000 + 8125)
    assert.deepStrictEqual(world.events, ["InvalidatedCandidate relay4", "InvalidatedCandidate relay6"])
    assert.strictEqual(world.allocation.freed, "no-response")
  })

  it("is refused by a relay with another secret, and does not ask for ever", () => {
    const world = started()
    world.relay.restart("another secret")
    world.allocation.refresh(world.now)
    world.settle()
    world.advance(MINUTE)
    assert.isDefined(world.allocation.freed)
    const { Refresh } = world.relay.counters.requests
    world.advance(60 * MINUTE)
    assert.strictEqual(world.relay.counters.requests.Refresh, Refresh)
  })
})
