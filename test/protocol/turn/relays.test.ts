/** The TURN client as the node drives it: several relays, updates from the portal, credentials replaced. */
import { assert, describe, it } from "@effect/vitest"
import { RelayInput, Relays } from "../../../src/protocol/node/Relays.ts"
import type { Relay } from "../../../src/protocol/node/types.ts"
import { Allocation } from "../../../src/protocol/turn/Allocation.ts"
import { ip, SocketAddress } from "../../../src/protocol/wire/address.ts"
import { Attribute, Class, longTermKey, Method, parseStun, StunBuilder } from "../../../src/protocol/wire/stun.ts"
import { at, crypto, local4, mapped4, NONCE, peer1 } from "./support.ts"

const relay = (index: number, changes: Partial<Relay> = {}): Relay => ({
  id: `relay ${index}`,
  v4: new SocketAddress(ip(`203.0.113.${index}`), 3478),
  username: "1893456000:salt",
  password: "secret",
  ...changes
})
const addressOf = (one: Relay): SocketAddress => {
  if (one.v4 === undefined) throw new Error("no address")
  return one.v4
}

/** Relays with real allocations, and a network in which every relay answers. */
class Network {
  readonly relays = new Relays(crypto, (one, now) => new Allocation({ relay: one, crypto, now }))
  now = 0
  /** Relays that answer, by address. */
  readonly known = new Map<string, Relay>()
  /** What was asked, as `METHOD ADDRESS`, since the last call of `takeAsked`. */
  #asked: Array<string> = []
  #events: Array<string> = []

  update(add: ReadonlyArray<Relay>, remove: ReadonlyArray<string> = []): void {
    for (const one of add) this.known.set(addressOf(one).text, one)
    this.relays.update(remove, add, this.now)
    this.settle()
  }

  settle(): void {
    for (let next = this.relays.pollTransmit(); next !== undefined; next = this.relays.pollTransmit()) {
      const request = parseStun(next.buffer.slice(next.offset, next.offset + next.length))
      if (request === undefined) throw new Error("not STUN")
      const name = Object.entries(Method).find(([, method]) => method === request.method)?.[0]
      this.#asked.push(`${name} ${next.destination.address}`)
      const relay = this.known.get(next.destination.text)
      if (relay === undefined) continue
      const answer = this.#answer(request.method, request.text(Attribute.Nonce) !== undefined, request.transactionId)
      if (request.method !== Method.Binding) {
        answer.sign(longTermKey(relay.username, "firezone", relay.password, crypto), crypto)
      }
      const bytes = answer.build()
      const input = this.relays.handleInput(local4, next.destination, bytes, 0, bytes.length, this.now)
      assert.strictEqual(input, RelayInput.Handled)
    }
    for (let event = this.relays.pollEvent(); event !== undefined; event = this.relays.pollEvent()) {
      this.#events.push("candidate" in event ? `${event._tag} ${event.candidate.kind} ${event.relay}` : event._tag)
    }
  }

  advance(millis: number): void {
    const end = this.now + millis
    for (let next = this.relays.pollTimeout(); next !== undefined && next <= end; next = this.relays.pollTimeout()) {
      this.now = Math.max(this.now, next)
      this.relays.handleTimeout(this.now)
      this.settle()
    }
    this.now = end
  }

  takeAsked(): ReadonlyArray<string> {
    return this.#asked.splice(0)
  }

  takeEvents(): ReadonlyArray<string> {
    return this.#events.splice(0)
  }

  #answer(method: number, hasNonce: boolean, transactionId: Uint8Array): StunBuilder {
    if (method === Method.Binding) {
      return new StunBuilder(method, Class.Success, transactionId).address(Attribute.XorMappedAddress, mapped4)
    }
    if (!hasNonce) {
      return new StunBuilder(method, Class.Error, transactionId).error(401, "").text(Attribute.Nonce, NONCE)
    }
    return new StunBuilder(method, Class.Success, transactionId)
      .address(Attribute.XorRelayedAddress, at("203.0.113.200:50000"))
      .u32(Attribute.Lifetime, 600)
  }
}

const started = (...relays: ReadonlyArray<Relay>): Network => {
  const network = new Network()
  network.update(relays)
  network.takeAsked()
  network.takeEvents()
  return network
}

describe("an update", () => {
  it("makes an allocation at every new relay", () => {
    const network = new Network()
    network.update([relay(1), relay(2)])
    assert.deepStrictEqual(network.takeEvents().filter((event) => event.includes("relay relay")), [
      "NewCandidate relay relay 1",
      "NewCandidate relay relay 2"
    ])
    assert.deepStrictEqual(
      [...network.takeAsked()].sort(),
      [1, 2].flatMap((n) => ["Allocate", "Allocate", "Binding"].map((name) => `${name} 203.0.113.${n}`)).sort()
    )
  })

  it("leaves alone a relay that is listed as it was, and verifies the others", () => {
    const network = started(relay(1), relay(2))
    network.update([relay(1)])
    assert.deepStrictEqual(network.takeAsked(), ["Refresh 203.0.113.2"])
    assert.deepStrictEqual(network.takeEvents(), [])
  })

  it("replaces a relay whose password, name or address has changed", () => {
    for (
      const change of [
        { password: "another" },
        { username: "1893456000:salt2" },
        { v4: new SocketAddress(ip("203.0.113.77"), 3478) }
      ]
    ) {
      const network = started(relay(1))
      const before = network.relays.get("relay 1")
      network.update([relay(1, change)])
      assert.notStrictEqual(network.relays.get("relay 1"), before)
      assert.deepStrictEqual(network.takeEvents().slice(0, 2), ["InvalidatedCandidate relay relay 1", "Gone"])
      assert.strictEqual(network.takeAsked()[0]?.split(" ")[0], "Binding")
    }
  })
})

describe("relays that are no use", () => {
  it("are dropped when they do not answer; only after the last one is nobody left", () => {
    const network = new Network()
    network.update([relay(1), relay(2)])
    network.known.clear()
    network.takeEvents()
    network.advance(60_000)
    assert.deepStrictEqual([network.relays.get("relay 1"), network.relays.get("relay 2")], [undefined, undefined])
    assert.deepStrictEqual(network.takeEvents().filter((event) => !event.startsWith("Invalidated")), [
      "Gone",
      "Gone",
      "NoneLeft"
    ])
    assert.isUndefined(network.relays.pollTimeout())
  })

  it("are not dropped by a change of network, after which all are asked anew", () => {
    const network = started(relay(1), relay(2))
    network.relays.restart(network.now)
    network.settle()
    assert.deepStrictEqual(network.takeAsked().filter((text) => text.startsWith("Binding")), [
      "Binding 203.0.113.1",
      "Binding 203.0.113.2"
    ])
    assert.isFalse(network.takeEvents().some((event) => event.startsWith("Invalidated")))
  })
})

describe("channel data", () => {
  const data = (channel: number, ...payload: ReadonlyArray<number>): Uint8Array =>
    Uint8Array.of(channel >> 8, channel & 0xff, 0, payload.length, ...payload)
  const bound = () => {
    const network = started(relay(1))
    network.relays.get("relay 1")?.bindChannel(peer1, 0)
    network.settle()
    const handle = (message: Uint8Array, from = addressOf(relay(1))) =>
      network.relays.handleInput(local4, from, message, 0, message.length, 0)
    return { network, handle }
  }

  it("is unwrapped to its peer and the address that the relay holds", () => {
    const { handle, network } = bound()
    assert.strictEqual(handle(data(0x4000, 1, 2)), RelayInput.Unwrapped)
    assert.strictEqual(network.relays.unwrapped.from?.text, peer1.text)
    assert.strictEqual(network.relays.unwrapped.local?.text, "203.0.113.200:50000")
    assert.isDefined(network.relays.holding(at("203.0.113.200:50000")))
    assert.isUndefined(network.relays.holding(at("203.0.113.200:50001")))
  })

  it("of another channel, another length or another sender is not", () => {
    const { handle } = bound()
    assert.strictEqual(handle(data(0x4001, 1)), RelayInput.Dropped)
    assert.strictEqual(handle(Uint8Array.of(0x40, 0, 0, 2, 1)), RelayInput.Foreign)
    assert.strictEqual(handle(Uint8Array.of(0x40, 0, 0)), RelayInput.Foreign)
    assert.strictEqual(handle(data(0x5000, 1)), RelayInput.Foreign)
    assert.strictEqual(handle(data(0x4000, 1), at("203.0.113.1:3479")), RelayInput.Foreign)
  })
})
