import { assert, describe, it } from "@effect/vitest"
import { CIPHER_HEADROOM, CIPHER_TAILROOM } from "../../../src/protocol/crypto.ts"
import {
  parseCheck,
  passwordKey,
  writeCheckRequest,
  writeCheckSuccess
} from "../../../src/protocol/ice/checkMessage.ts"
import { Node } from "../../../src/protocol/node/Node.ts"
import {
  Decapsulated,
  Encapsulated,
  type NodeEvent,
  type Relay,
  type Transmit
} from "../../../src/protocol/node/types.ts"
import type { SocketAddress } from "../../../src/protocol/wire/address.ts"
import { readChannel } from "../../../src/protocol/wire/channelData.ts"
import { classify, MessageType } from "../../../src/protocol/wire/wireguard.ts"
import { iceTimers } from "../../../src/protocol/wireguard/types.ts"
import { WireguardTunnel } from "../../../src/protocol/wireguard/WireguardTunnel.ts"
import {
  at,
  crypto,
  hostText,
  makeDoubles,
  peer,
  reflexiveText,
  relayNamed,
  request as common,
  socket
} from "./support.ts"

const peerKey = new Uint8Array(32).fill(2)
const request = { ...common, remoteKey: crypto.x25519PublicKey(peerKey) }
const [a, ab] = [relayNamed("a"), relayNamed("ab")]
const relayedText = "candidate:1 1 udp 9 203.0.113.8 50001 typ relay raddr 0.0.0.0 rport 0"

class World {
  readonly doubles = makeDoubles()
  readonly node = new Node({ crypto, now: 0, unixEpochMillis: 1.7e12, makeAllocation: this.doubles.make })
  /** The peer's end of the tunnel. */
  readonly remote: WireguardTunnel
  now = 0

  constructor(...relays: ReadonlyArray<Relay>) {
    this.remote = new WireguardTunnel({
      crypto,
      privateKey: peerKey,
      remoteKey: this.node.publicKey,
      presharedKey: request.presharedKey,
      indexPrefix: 0x123456,
      timers: iceTimers,
      unixEpochMillis: 1.7e12
    }, 0)
    this.node.updateRelays([], relays, 0)
    for (const { id } of relays) this.doubles.of(id).gather(`203.0.113.${id.length}:50000`)
    this.node.handleTimeout(0)
  }

  sent(): Array<Transmit> {
    const sent: Array<Transmit> = []
    for (let next = this.node.pollTransmit(); next !== undefined; next = this.node.pollTransmit()) sent.push(next)
    return sent
  }

  events(): Array<NodeEvent> {
    const events: Array<NodeEvent> = []
    for (let next = this.node.pollEvent(); next !== undefined; next = this.node.pollEvent()) events.push(next)
    return events
  }

  take(bytes: Uint8Array, from: SocketAddress = peer, ecn = 0): Decapsulated {
    const output = new Uint8Array(CIPHER_HEADROOM + 1280 + CIPHER_TAILROOM)
    return this.node.decapsulate(socket, from, ecn, bytes, 0, bytes.length, output, CIPHER_HEADROOM, this.now)
  }

  /** Answers checks and handshakes, which all come directly, until nothing is sent any more. */
  converse(): void {
    for (let sent = this.sent(); sent.length > 0; sent = this.sent()) {
      for (const { buffer, destination, length, offset } of sent) {
        if (destination.text !== peer.text) continue
        const bytes = buffer.slice(offset, offset + length)
        const check = parseCheck(bytes)
        if (check?._tag === "Request") {
          const key = passwordKey(request.remoteCredentials.password)
          this.take(writeCheckSuccess(crypto, check.transactionId, socket, key))
        } else if (classify(bytes, 0, length) === MessageType.Initiation) {
          this.remote.handleInitiation(bytes, this.now)
          const response = this.remote.pollTransmit()
          if (response !== undefined) this.take(response)
        } else if (classify(bytes, 0, length) === MessageType.Data) {
          const output = new Uint8Array(2000)
          this.remote.open(bytes, 0, length, output, 100, this.now)
        }
      }
    }
  }

  connect(): this {
    assert.strictEqual(this.node.upsertConnection(request, 0), "Created")
    this.node.addRemoteCandidate("gateway", hostText, 0)
    this.converse()
    assert.isTrue(this.node.isEstablished("gateway"))
    this.events()
    return this
  }

  seal(length: number, ecn = 0): Encapsulated {
    const buffer = new Uint8Array(CIPHER_HEADROOM + length + CIPHER_TAILROOM)
    buffer.set([0x45, ecn, length >> 8, length & 0xff], CIPHER_HEADROOM)
    return this.node.encapsulate("gateway", buffer, CIPHER_HEADROOM, length, this.now)
  }

  /** A packet from the peer, sealed. */
  packet(length: number, ecn = 0): Uint8Array {
    const buffer = new Uint8Array(CIPHER_HEADROOM + length + CIPHER_TAILROOM)
    buffer.set([0x45, ecn, length >> 8, length & 0xff], CIPHER_HEADROOM)
    assert.isTrue(this.remote.seal(buffer, CIPHER_HEADROOM, length, this.now))
    return buffer.slice(CIPHER_HEADROOM - 16, CIPHER_HEADROOM + length + 16)
  }
}

const named = (events: ReadonlyArray<NodeEvent>): ReadonlyArray<string> => events.map(({ _tag }) => _tag)

describe("a new connection", () => {
  it("needs a relay that has answered", () => {
    const world = new World(a)
    world.doubles.of("a").rtt = undefined
    assert.isTrue(world.node.awaitsRelays)
    assert.strictEqual(world.node.upsertConnection(request, 0), "NoRelays")
    assert.isFalse(world.node.hasConnection("gateway"))
    assert.strictEqual(
      world.node.encapsulate("gateway", new Uint8Array(200), 64, 20, 0),
      Encapsulated.UnknownConnection
    )
    world.doubles.of("a").rtt = 20
    assert.isFalse(world.node.awaitsRelays)
    world.node.updateRelays(["a"], [], 0)
    assert.isFalse(world.node.awaitsRelays) // there is nothing to wait for
  })

  it("announces what was found, buffers until it is established, and says when it is", () => {
    const world = new World(a)
    world.node.upsertConnection(request, 0)
    const candidates = world.events().map((event) => event._tag === "NewIceCandidate" ? event.candidate : "")
    assert.deepStrictEqual(candidates.map((text) => / typ (\w+)/.exec(text)?.[1]), ["host", "relay"])
    assert.strictEqual(world.seal(100), Encapsulated.StillConnecting)
    world.node.addRemoteCandidate("gateway", hostText, 0)
    world.converse()
    assert.deepStrictEqual(world.events(), [{ _tag: "ConnectionEstablished", peer: "gateway" }])
    assert.strictEqual(world.seal(100), Encapsulated.Sent)
  })

  it("tells what is found later, if its relay found it", () => {
    const world = new World(a, ab)
    world.doubles.of("ab").rtt = 1000
    world.connect()
    const late = { kind: "srflx", address: at("198.51.100.1:40000"), local: socket } as const
    world.doubles.of("ab").events.push({ _tag: "NewCandidate", candidate: { ...late, address: at("198.51.100.2:2") } })
    world.doubles.of("a").events.push({ _tag: "NewCandidate", candidate: late })
    world.node.handleTimeout(0)
    const [event, ...more] = world.events()
    assert.include(event?._tag === "NewIceCandidate" ? event.candidate : "", "198.51.100.1 40000 typ srflx")
    assert.deepStrictEqual(more, [])
  })

  it("binds channels for what is not a host candidate, the guesses included", () => {
    const world = new World(a)
    world.node.upsertConnection(request, 0)
    for (const text of [hostText, reflexiveText, relayedText]) world.node.addRemoteCandidate("gateway", text, 0)
    const asked = world.doubles.of("a").asked
    assert.deepStrictEqual(
      asked,
      ["198.51.100.8:40000", "198.51.100.8:52625", "203.0.113.8:50001"].map((to) => `bind ${to}`)
    )
  })

  it("that is requested again goes on, and tells everything again", () => {
    const world = new World(a).connect()
    assert.strictEqual(world.node.upsertConnection({ ...request }, 1000), "Reused")
    assert.deepStrictEqual(named(world.events()), ["NewIceCandidate", "NewIceCandidate"])
    assert.strictEqual(world.seal(100), Encapsulated.Sent)
  })

  it("that is requested again gives the peer its 10 s anew to send candidates", () => {
    const world = new World(a)
    const failures = (now: number) => {
      world.node.handleTimeout(now)
      return world.events().flatMap((event) => event._tag === "ConnectionFailed" ? [event.reason] : [])
    }
    world.node.upsertConnection({ ...request }, 0)
    assert.strictEqual(world.node.upsertConnection({ ...request }, 9000), "Reused")
    assert.deepStrictEqual(failures(18_999), [])
    assert.deepStrictEqual(failures(19_000), ["the peer sent no candidates"])
  })

  it("with other values replaces the old one without a word", () => {
    const world = new World(a).connect()
    assert.strictEqual(world.node.upsertConnection({ ...request, presharedKey: new Uint8Array(32) }, 0), "Created")
    assert.deepStrictEqual(named(world.events()), ["NewIceCandidate", "NewIceCandidate"])
    assert.isFalse(world.node.isEstablished("gateway"))
  })
})

describe("a packet", () => {
  it("of 1280 bytes makes 1312, from our socket to the peer's, with its ECN", () => {
    const world = new World(a).connect()
    assert.strictEqual(world.seal(1280, 2), Encapsulated.Sent)
    const { buffer, destination, ecn, length, offset, source } = world.node.transmit
    assert.deepStrictEqual([source?.text, destination.text, ecn, length], [socket.text, peer.text, 2, 1312])
    const output = new Uint8Array(2000)
    assert.strictEqual(world.remote.open(buffer, offset, length, output, 100, 0), 1280)
  })

  it("on a relayed path makes 1316, in the channel to the peer; without a channel it is lost", () => {
    const world = new World(a)
    const relay = world.doubles.of("a")
    relay.channels.set(peer.text, 0x4007)
    world.node.upsertConnection(request, 0)
    // All that is left is our relay, and the peer's direct address.
    relay.events.push({ _tag: "InvalidatedCandidate", candidate: { kind: "host", address: socket, local: socket } })
    world.node.handleTimeout(0)
    world.node.addRemoteCandidate("gateway", hostText, 0)
    const wrap = (message: Uint8Array): Uint8Array =>
      Uint8Array.from([0x40, 7, message.length >> 8, message.length & 0xff, ...message])
    for (let sent = world.sent(); sent.length > 0; sent = world.sent()) {
      for (const { buffer, destination, length, offset, source } of sent) {
        assert.deepStrictEqual([source, destination.text], [undefined, "203.0.113.1:3478"])
        assert.strictEqual(readChannel(buffer, offset, length), 0x4007)
        const bytes = buffer.slice(offset + 4, offset + length)
        const check = parseCheck(bytes)
        if (check?._tag === "Request") {
          const key = passwordKey(request.remoteCredentials.password)
          const answer = writeCheckSuccess(crypto, check.transactionId, at("203.0.113.1:50000"), key)
          assert.strictEqual(world.take(wrap(answer), at("203.0.113.1:3478")), Decapsulated.Handled)
        } else if (classify(bytes, 0, bytes.length) === MessageType.Initiation) {
          world.remote.handleInitiation(bytes, 0)
          world.take(wrap(world.remote.pollTransmit() ?? new Uint8Array(0)), at("203.0.113.1:3478"))
        } else {
          world.remote.open(bytes, 0, bytes.length, new Uint8Array(2000), 100, 0)
        }
      }
    }
    assert.strictEqual(world.seal(1280, 1), Encapsulated.Sent)
    const { buffer, destination, ecn, length, offset, source } = world.node.transmit
    assert.deepStrictEqual([source, destination.text, ecn, length], [undefined, "203.0.113.1:3478", 1, 1316])
    assert.strictEqual(readChannel(buffer, offset, length), 0x4007)
    assert.strictEqual(world.take(wrap(world.packet(1280)), at("203.0.113.1:3478")), Decapsulated.Packet)
    assert.strictEqual(world.node.status(0)[0]?.path?.kind, "relayed-by-us")
    relay.channels.clear()
    assert.strictEqual(world.seal(1280), Encapsulated.Dropped)
  })

  it("from the peer is handed over once, marked if the network was congested, from whatever address", () => {
    const world = new World(a).connect()
    const bytes = world.packet(1280, 2)
    assert.strictEqual(world.take(bytes, at("192.0.2.77:7"), 3), Decapsulated.Packet)
    const { packet } = world.node
    assert.deepStrictEqual([packet.peer, packet.length, (packet.buffer[packet.offset + 1] ?? 0) & 3], [
      "gateway",
      1280,
      3
    ])
    assert.strictEqual(world.take(bytes), Decapsulated.Dropped)
    assert.strictEqual(world.take(world.packet(0x501)), Decapsulated.Dropped, "longer than any packet")
  })

  it("of a connection that has ended is a straggler for 5 s", () => {
    const world = new World(a).connect()
    const late = [world.packet(100), world.packet(100)]
    world.node.closeConnection("gateway", 0)
    world.now = 4999
    for (const bytes of late) {
      assert.strictEqual(world.take(bytes), Decapsulated.Dropped)
      world.now = 5000
    }
    assert.deepStrictEqual(world.node.dropped, { recent: 1, other: 1 })
  })
})

describe("the end of a connection", () => {
  it("is said to an established peer", () => {
    const world = new World(a).connect()
    world.node.closeAll(0)
    assert.deepStrictEqual(named(world.events()), ["ConnectionClosed"])
    const [goodbye] = world.sent()
    const output = new Uint8Array(2000)
    const { buffer, length, offset } = goodbye as Transmit
    assert.strictEqual(world.remote.open(buffer, offset, length, output, 100, 0), 48)
    assert.strictEqual(output[106], 0xff)
    assert.isFalse(world.node.hasConnection("gateway"))
  })

  it("is kept to itself while it is connecting, or removed", () => {
    const world = new World(a)
    world.node.upsertConnection(request, 0)
    world.events()
    world.sent()
    world.node.closeConnection("gateway", 0)
    assert.deepStrictEqual([world.events(), world.sent()], [[], []])
    const other = new World(a).connect()
    other.node.removeConnection("gateway")
    assert.deepStrictEqual([other.events(), other.sent()], [[], []])
    assert.isFalse(other.node.hasConnection("gateway"))
  })

  it("by a reset changes the key and asks the relays anew", () => {
    const world = new World(a).connect()
    const key = world.node.publicKey
    world.node.closeConnection("nobody", 0)
    world.node.reset(0)
    assert.deepStrictEqual([named(world.events()), world.sent()], [["ConnectionClosed"], []])
    assert.notDeepEqual(world.node.publicKey, key)
    assert.deepStrictEqual(world.doubles.of("a").asked, ["restart"])
    assert.strictEqual(world.take(world.packet(100)), Decapsulated.Dropped)
  })
})

describe("a relay that is lost", () => {
  it("is replaced by another one, whose candidates are told", () => {
    const world = new World(a, ab)
    world.doubles.of("ab").rtt = 1000
    world.connect()
    world.node.updateRelays(["a"], [], 0)
    const events = world.events()
    assert.deepStrictEqual(named(events), ["InvalidateIceCandidate", "NewIceCandidate"])
    assert.include(
      events[0]?._tag === "InvalidateIceCandidate" ? events[0].candidate : "",
      "203.0.113.1 50000 typ relay"
    )
    assert.include(events[1]?._tag === "NewIceCandidate" ? events[1].candidate : "", "203.0.113.2 50000 typ relay")
    assert.isTrue(world.node.isEstablished("gateway"))
  })

  it("is told of once when no other is of use, with the reasons, and again after one was", () => {
    const world = new World(a, ab)
    const unusable = () => {
      world.node.handleTimeout(1)
      return world.events().flatMap((event) => event._tag === "RelaysUnusable" ? [[...event.reasons]] : [])
    }
    for (const id of ["a", "ab"]) world.doubles.of(id).candidates = []
    world.doubles.of("a").unusable = "refused (486)"
    assert.deepStrictEqual(unusable(), [], "the other one may become usable")
    world.doubles.of("ab").freed = "bad-credentials"
    assert.deepStrictEqual(unusable(), [[["bad-credentials", 1], ["refused (486)", 1]]])
    world.node.updateRelays([], [{ ...ab, id: "c" }], 1)
    world.doubles.of("c").unusable = "refused (486)"
    assert.deepStrictEqual(unusable(), [])
    world.doubles.of("c").gather("203.0.113.2:50000")
    world.doubles.of("c").unusable = undefined
    assert.deepStrictEqual(unusable(), [])
    world.doubles.of("c").candidates = []
    world.doubles.of("c").unusable = "refused (486)"
    assert.deepStrictEqual(unusable(), [[["refused (486)", 2]]])
  })

  it("is replaced later if there is no other one yet", () => {
    const world = new World(a).connect()
    world.doubles.of("a").freed = "no-response"
    world.node.handleTimeout(1)
    assert.deepStrictEqual(named(world.events()), ["InvalidateIceCandidate", "NoRelays", "RelaysUnusable"])
    world.node.updateRelays([], [ab], 1)
    const fresh = world.doubles.of("ab")
    fresh.gather("203.0.113.2:50000")
    world.node.handleTimeout(2)
    assert.deepStrictEqual(named(world.events()), ["NewIceCandidate"])
  })
})

describe("a handshake", () => {
  it("is answered on the path, not where it came from, and only once there is one", () => {
    const world = new World(a)
    world.node.upsertConnection({ ...request, role: "controlled", profile: "server" }, 0)
    world.remote.initiate(0)
    const initiation = world.remote.pollTransmit() ?? new Uint8Array(0)
    assert.strictEqual(world.take(initiation, at("192.0.2.77:7")), Decapsulated.Handled)
    assert.deepStrictEqual(world.sent(), [])
    const check = writeCheckRequest(crypto, {
      username: "hpih:nncg",
      controlling: true,
      tieBreaker: 1n,
      priority: 1,
      useCandidate: true,
      key: passwordKey(request.localCredentials.password)
    })
    assert.strictEqual(world.take(check.message), Decapsulated.Handled)
    const answers = world.sent().filter(({ buffer, length, offset }) => classify(buffer, offset, length) !== 0)
    assert.deepStrictEqual(answers.map(({ destination }) => destination.text), [peer.text])
    const { buffer, length, offset } = answers[0] as Transmit
    assert.strictEqual(world.remote.handleResponse(buffer.slice(offset, offset + length), 0), "SessionEstablished")
    assert.deepStrictEqual(named(world.events()).filter((name) => name === "ConnectionEstablished"), [])
    assert.strictEqual(world.take(world.remote.pollTransmit() ?? new Uint8Array(0)), Decapsulated.Handled)
    assert.include(named(world.events()), "ConnectionEstablished")
  })

  it("from a stranger is dropped", () => {
    const world = new World(a).connect()
    const stranger = new WireguardTunnel({
      crypto,
      privateKey: new Uint8Array(32).fill(77),
      remoteKey: world.node.publicKey,
      presharedKey: request.presharedKey,
      indexPrefix: 1,
      timers: iceTimers,
      unixEpochMillis: 1.7e12
    }, 0)
    stranger.initiate(0)
    assert.strictEqual(world.take(stranger.pollTransmit() ?? new Uint8Array(0)), Decapsulated.Dropped)
    assert.deepStrictEqual(world.sent(), [])
  })

  it("beyond the hundredth in a second is answered with a cookie, to where it came from", () => {
    const world = new World(a).connect()
    world.now = 10_000
    const other = at("192.0.2.77:7")
    const cookies: Array<string> = []
    for (let i = 0; i < 120; i++) {
      const fresh = new WireguardTunnel({
        crypto,
        privateKey: peerKey,
        remoteKey: world.node.publicKey,
        presharedKey: request.presharedKey,
        indexPrefix: 1,
        timers: iceTimers,
        unixEpochMillis: 1.8e12 + i
      }, 10_000)
      fresh.initiate(10_000)
      world.take(fresh.pollTransmit() ?? new Uint8Array(0), other)
      for (const { buffer, destination, length, offset } of world.sent()) {
        if (classify(buffer, offset, length) === MessageType.CookieReply) cookies.push(destination.text)
      }
    }
    assert.deepStrictEqual(cookies, Array.from({ length: 20 }, () => other.text))
  })
})

describe("a connection that fails", () => {
  it("has its relay asked whether it is still there", () => {
    const world = new World(a)
    world.node.upsertConnection(request, 0)
    world.node.handleTimeout(10_000)
    assert.include(named(world.events()), "ConnectionFailed")
    assert.deepStrictEqual(world.doubles.of("a").asked, ["probe"])
  })

  it("is told to the peer by the controlling side: nothing that it offered is of use any more", () => {
    for (const role of ["controlling", "controlled"] as const) {
      const world = new World(a)
      world.node.upsertConnection({ ...request, role }, 0)
      const offered = world.events().filter(({ _tag }) => _tag === "NewIceCandidate").length
      assert.isAbove(offered, 0)
      world.node.handleTimeout(10_000)
      const withdrawn = Array.from({ length: role === "controlling" ? offered : 0 }, () => "InvalidateIceCandidate")
      assert.deepStrictEqual(named(world.events()), [...withdrawn, "ConnectionFailed"])
    }
  })
})
