import { assert, describe, it } from "@effect/vitest"
import { CIPHER_HEADROOM, CIPHER_TAILROOM } from "../../../src/protocol/crypto.ts"
import { Node } from "../../../src/protocol/node/Node.ts"
import { PathConnection } from "../../../src/protocol/node/PathConnection.ts"
import { Decapsulated, Encapsulated, type NodeEvent, type Transmit } from "../../../src/protocol/node/types.ts"
import { PROBE_LENGTH, ProbeType, writeProbe } from "../../../src/protocol/path/probe.ts"
import { classify, MessageType } from "../../../src/protocol/wire/wireguard.ts"
import { pathTimers } from "../../../src/protocol/wireguard/types.ts"
import { WireguardTunnel } from "../../../src/protocol/wireguard/WireguardTunnel.ts"
import {
  at,
  crypto,
  hostText,
  makeDoubles,
  peer,
  relayNamed,
  request as common,
  socket,
  TunnelDouble
} from "./support.ts"

const peerKey = new Uint8Array(32).fill(2)
const request = { ...common, remoteKey: crypto.x25519PublicKey(peerKey), iceless: true }
const a = relayNamed("a")
const peerRelay = at("203.0.113.8:50001")
const relayText = "candidate:1 1 udp 9 203.0.113.8 50001 typ relay raddr 198.51.100.7 rport 52625"

/** A node, and a peer that is behind its own relay, all in path mode. */
class World {
  now = 0
  readonly doubles = makeDoubles()
  readonly node = new Node({ crypto, now: 0, unixEpochMillis: 1.7e12, makeAllocation: this.doubles.make })
  readonly remote: WireguardTunnel

  constructor(role: "controlling" | "controlled" = "controlling") {
    this.remote = new WireguardTunnel({
      crypto,
      privateKey: peerKey,
      remoteKey: this.node.publicKey,
      presharedKey: request.presharedKey,
      indexPrefix: 0x123456,
      timers: pathTimers,
      unixEpochMillis: 1.7e12
    }, 0)
    this.node.updateRelays([], [a], 0)
    this.doubles.of("a").gather("203.0.113.1:50000")
    this.node.handleTimeout(0)
    assert.strictEqual(this.node.upsertConnection({ ...request, role }, 0), "Created")
    this.node.addRemoteCandidate("gateway", hostText, 0)
    this.node.addRemoteCandidate("gateway", relayText, 0)
  }

  sent(type?: MessageType): Array<Transmit> {
    const sent: Array<Transmit> = []
    for (let next = this.node.pollTransmit(); next !== undefined; next = this.node.pollTransmit()) {
      if (type === undefined || classify(next.buffer, next.offset, next.length) === type) sent.push({ ...next })
    }
    return sent
  }

  events(): Array<NodeEvent> {
    const events: Array<NodeEvent> = []
    for (let next = this.node.pollEvent(); next !== undefined; next = this.node.pollEvent()) events.push(next)
    return events
  }

  take(bytes: Uint8Array, from = peer): Decapsulated {
    const output = new Uint8Array(CIPHER_HEADROOM + 1280 + CIPHER_TAILROOM)
    return this.node.decapsulate(socket, from, 0, bytes, 0, bytes.length, output, CIPHER_HEADROOM, this.now)
  }

  /** The peer answers the first initiation, which came through its relay. */
  connect(): this {
    const [initiation] = this.sent(MessageType.Initiation)
    if (initiation === undefined) throw new Error("no initiation")
    this.remote.handleInitiation(bytesOf(initiation), 0)
    this.take(this.remote.pollTransmit() ?? new Uint8Array(0), initiation.destination)
    // The keep-alive lets the peer send.
    for (const one of this.sent(MessageType.Data)) {
      this.remote.open(one.buffer, one.offset, one.length, new Uint8Array(400), 100, 0)
    }
    return this
  }

  encapsulate(): Encapsulated {
    const buffer = new Uint8Array(CIPHER_HEADROOM + 60 + CIPHER_TAILROOM)
    buffer.set([0x45, 0, 0, 60], CIPHER_HEADROOM)
    return this.node.encapsulate("gateway", buffer, CIPHER_HEADROOM, 60, this.now)
  }

  sealed(fill: (packet: Uint8Array) => void, length: number): Uint8Array {
    const buffer = new Uint8Array(CIPHER_HEADROOM + length + CIPHER_TAILROOM)
    fill(buffer.subarray(CIPHER_HEADROOM))
    assert.isTrue(this.remote.seal(buffer, CIPHER_HEADROOM, length, this.now))
    return buffer.slice(CIPHER_HEADROOM - 16, CIPHER_HEADROOM + length + 16)
  }
}

const bytesOf = ({ buffer, length, offset }: Transmit): Uint8Array => buffer.slice(offset, offset + length)
const named = (events: ReadonlyArray<NodeEvent>): ReadonlyArray<string> => events.map(({ _tag }) => _tag)

describe("a connection in path mode", () => {
  it("announces candidates with their bases, and is established by the response", () => {
    const world = new World()
    const texts = world.events().flatMap((event) => event._tag === "NewIceCandidate" ? [event.candidate] : [])
    assert.deepStrictEqual(texts.map((text) => text.slice(text.indexOf(" 1 udp"))), [
      " 1 udp 2130706431 192.168.1.5 52625 typ host",
      " 1 udp 16777215 203.0.113.1 50000 typ relay raddr 192.168.1.5 rport 52625"
    ])
    assert.strictEqual(world.encapsulate(), Encapsulated.StillConnecting)
    world.connect()
    assert.deepStrictEqual(named(world.events()), ["ConnectionEstablished"])
    assert.strictEqual(world.encapsulate(), Encapsulated.Sent)
    assert.deepStrictEqual(world.node.transmit.destination, peerRelay)
    assert.strictEqual(world.node.status(0)[0]?.path?.kind, "relayed-by-peer")
  })

  it("binds channels for what is behind a translator or a relay, again on another relay", () => {
    const world = new World("controlled")
    assert.deepStrictEqual(world.doubles.of("a").asked, ["bind 203.0.113.8:50001"])
    const b = relayNamed("bb")
    world.node.updateRelays(["a"], [b], 0)
    world.doubles.of("bb").gather("203.0.113.2:50000")
    world.node.handleTimeout(0)
    assert.include(world.doubles.of("bb").asked, "bind 203.0.113.8:50001")
  })

  it("keeps probes to itself: no packet, and no sign of use", () => {
    const world = new World().connect()
    world.now = 30_000
    world.node.handleTimeout(world.now)
    assert.strictEqual(world.node.status(world.now)[0]?.state, "idle")
    world.sent()
    const probe = world.sealed((packet) => writeProbe(packet, 0, ProbeType.Request, 1, 2), PROBE_LENGTH)
    assert.strictEqual(world.take(probe, peer), Decapsulated.Handled)
    // The reply, and probes in return.
    assert.isTrue(world.sent(MessageType.Data).some(({ destination }) => destination.text === peer.text))
    assert.strictEqual(world.node.status(world.now)[0]?.state, "idle")
    assert.strictEqual(
      world.take(world.sealed((packet) => packet.set([0x45, 0, 0, 60]), 60), peer),
      Decapsulated.Packet
    )
    assert.strictEqual(world.node.status(world.now)[0]?.state, "connected")
  })

  it("is nobody's for checks of ICE", () => {
    const world = new World()
    const names = [request.localCredentials, request.remoteCredentials].map(({ username }) => username)
    assert.deepStrictEqual(names, ["hpih", "nncg"])
    const check = Uint8Array.from(Buffer.from("000100002112a442", "hex"))
    const bytes = new Uint8Array(20)
    bytes.set(check)
    assert.strictEqual(world.take(bytes), Decapsulated.Dropped)
    assert.deepStrictEqual(world.sent(MessageType.Response), [])
  })

  it("answers copies of an initiation without asking the limiter, and forgets it with the connection", () => {
    const world = new World("controlled")
    world.remote.initiate(0)
    const initiation = world.remote.pollTransmit() ?? new Uint8Array(0)
    for (let copy = 0; copy < 300; copy++) assert.strictEqual(world.take(initiation), Decapsulated.Handled)
    const responses = world.sent(MessageType.Response)
    assert.strictEqual(responses.length, 300)
    for (const one of responses) assert.deepStrictEqual(bytesOf(one), bytesOf(responses[0] as Transmit))
    world.node.removeConnection("gateway")
    assert.strictEqual(world.take(initiation), Decapsulated.Dropped)
  })

  it("waits for its path after a roam, and sends nothing from where it was", () => {
    const world = new World().connect()
    const key = world.node.publicKey
    world.events()
    world.node.reset(1000)
    assert.strictEqual(world.node.publicKey, key)
    assert.deepStrictEqual(world.sent(), [])
    assert.strictEqual(world.encapsulate(), Encapsulated.StillConnecting)
    assert.isFalse(world.node.isEstablished("gateway"))
    assert.deepStrictEqual(world.events(), [])
    world.now = 1000
    // What the peer still sends to the old address comes in, but is not answered from there.
    const probe = world.sealed((packet) => writeProbe(packet, 0, ProbeType.Request, 1, 2), PROBE_LENGTH)
    assert.strictEqual(world.take(probe), Decapsulated.Handled)
    assert.strictEqual(world.take(world.sealed((packet) => packet.set([0x45, 0, 0, 60]), 60)), Decapsulated.Packet)
    assert.deepStrictEqual(world.sent(), [])
  })

  it("is not worth keeping after 90 s of silence", () => {
    const parts = { request, tunnel: new TunnelDouble(), indexPrefix: 1, relay: "a" }
    assert.isTrue(new PathConnection(parts, 0).roam(89_999))
    assert.isFalse(new PathConnection(parts, 0).roam(90_000))
    const world = new World().connect()
    world.events()
    world.node.reset(90_000)
    assert.deepStrictEqual(named(world.events()), ["ConnectionClosed"])
  })

  it("asks for another session when the present one is only good for receiving, and not twice", () => {
    const tunnel = new TunnelDouble()
    const connection = new PathConnection({ request, tunnel, indexPrefix: 1, relay: "a" }, 0)
    assert.strictEqual(tunnel.initiations, 1)
    assert.isFalse(connection.proposeHandshake(0), "the agent has begun already")
    tunnel.lastHandshakeAt = 0
    assert.isTrue(connection.proposeHandshake(1))
    tunnel.isHandshaking = true
    assert.isFalse(connection.proposeHandshake(2))
    tunnel.isHandshaking = false
    tunnel.hasSession = true
    assert.isFalse(connection.proposeHandshake(3))
  })

  it("is of another kind than one in ICE mode, but not of another role or other credentials", () => {
    const connection = new PathConnection({ request, tunnel: new TunnelDouble(), indexPrefix: 1, relay: "a" }, 0)
    assert.isTrue(connection.matches({ ...request, localCredentials: { username: "else", password: "else" } }))
    assert.isFalse(connection.matches({ ...request, iceless: false }))
    assert.isFalse(connection.matches({ ...request, presharedKey: new Uint8Array(32) }))
  })
})
