/** A connection under attack, and what an attacker may send to it: for the test of the bounds and the bench of the cost. */
import { makeCrypto } from "../../src/layers/crypto/makeCrypto.ts"
import { CIPHER_HEADROOM, CIPHER_TAILROOM } from "../../src/protocol/crypto.ts"
import { parseCheck, passwordKey, writeCheckRequest, writeCheckSuccess } from "../../src/protocol/ice/checkMessage.ts"
import { Node } from "../../src/protocol/node/Node.ts"
import type { Decapsulated, NodeEvent, Transmit } from "../../src/protocol/node/types.ts"
import { ip, SocketAddress } from "../../src/protocol/wire/address.ts"
import { Attribute, Class, Method, parseStun, StunBuilder } from "../../src/protocol/wire/stun.ts"
import { classify, MessageType, readSenderIndex } from "../../src/protocol/wire/wireguard.ts"
import { cookieKey, mac1Key, openCookieReply, readMac1, writeMacs } from "../../src/protocol/wireguard/cookie.ts"
import { HANDSHAKES_PER_SECOND } from "../../src/protocol/wireguard/RateLimiter.ts"
import { iceTimers } from "../../src/protocol/wireguard/types.ts"
import { WireguardTunnel } from "../../src/protocol/wireguard/WireguardTunnel.ts"

const { crypto } = makeCrypto()
const local = new SocketAddress(ip("198.51.100.1"), 52_625)
const relay = new SocketAddress(ip("203.0.113.1"), 3478)
const peer = new SocketAddress(ip("198.51.100.2"), 52_625)
const stranger = new SocketAddress(ip("198.51.100.99"), 52_625)
const credentials = { username: "hpih", password: "nmd7bgzpeqrwvcw3pwxiw5" }
const remoteCredentials = { username: "nncg", password: "zafkb5xaun54giizc53axq" }
const presharedKey = new Uint8Array(32).fill(5)
const MAX_PACKET = 1280
const VARIANTS = 256

/** One datagram of a kind, the `i`th; kinds that are the same every time say so by ignoring `i`. */
export type Attack = (i: number) => { readonly bytes: Uint8Array; readonly from: SocketAddress }

export class HostilePeer {
  now = 0
  readonly node: Node
  readonly #remote: WireguardTunnel
  readonly #output = new Uint8Array(CIPHER_HEADROOM + MAX_PACKET + CIPHER_TAILROOM)

  /** Connects a node to an honest peer, by a direct path. */
  constructor() {
    const remotePrivate = crypto.randomBytes(32)
    this.node = new Node({ crypto, now: 0, unixEpochMillis: 1.7e12 })
    this.#remote = new WireguardTunnel({
      crypto,
      privateKey: remotePrivate,
      remoteKey: this.node.publicKey,
      presharedKey,
      indexPrefix: 0x123456,
      timers: iceTimers,
      unixEpochMillis: 1.7e12
    }, 0)
    this.node.updateRelays([], [{ id: "relay", v4: relay, username: "1:salt", password: "secret" }], 0)
    this.#converse()
    this.node.upsertConnection({
      peer: "gateway",
      remoteKey: crypto.x25519PublicKey(remotePrivate),
      presharedKey,
      localCredentials: credentials,
      remoteCredentials,
      role: "controlling",
      profile: "client",
      iceless: false
    }, 0)
    this.node.addRemoteCandidate("gateway", `candidate:1 1 udp 2130706175 ${peer.address} ${peer.port} typ host`, 0)
    this.#converse()
    if (!this.node.isEstablished("gateway")) throw new Error("not connected")
    this.events()
  }

  take({ bytes, from }: ReturnType<Attack>): Decapsulated {
    return this.node.decapsulate(local, from, 0, bytes, 0, bytes.length, this.#output, CIPHER_HEADROOM, this.now)
  }

  sent(): ReadonlyArray<Transmit> {
    const sent: Array<Transmit> = []
    for (let next = this.node.pollTransmit(); next !== undefined; next = this.node.pollTransmit()) sent.push(next)
    return sent
  }

  events(): ReadonlyArray<NodeEvent> {
    const events: Array<NodeEvent> = []
    for (let next = this.node.pollEvent(); next !== undefined; next = this.node.pollEvent()) events.push(next)
    return events
  }

  /** A packet of the honest peer's, sealed. */
  packet(): Uint8Array {
    const buffer = new Uint8Array(CIPHER_HEADROOM + MAX_PACKET + CIPHER_TAILROOM)
    buffer.set([0x45, 0, MAX_PACKET >> 8, MAX_PACKET & 0xff], CIPHER_HEADROOM)
    if (!this.#remote.seal(buffer, CIPHER_HEADROOM, MAX_PACKET, this.now)) throw new Error("no session")
    return buffer.slice(CIPHER_HEADROOM - 16, CIPHER_HEADROOM + MAX_PACKET + 16)
  }

  /** Takes an honest packet; returns what became of it. */
  honest(): Decapsulated {
    return this.take({ bytes: this.packet(), from: peer })
  }

  /** By name; made once, as an attacker would. */
  attacks(): ReadonlyMap<string, Attack> {
    const replayed = this.packet()
    this.take({ bytes: replayed, from: peer })
    const tampered = this.packet()
    tampered[tampered.length - 1] = (tampered[tampered.length - 1] as number) ^ 1
    const several = (make: () => Uint8Array, from = stranger): Attack => {
      const made = Array.from({ length: VARIANTS }, make)
      return (i) => ({ bytes: made[i % VARIANTS] as Uint8Array, from })
    }
    const message = (type: number, length: number): Uint8Array => {
      const bytes = crypto.randomBytes(length)
      bytes.set([type, 0, 0, 0])
      return bytes
    }
    const initiation = (cookie?: Uint8Array): Uint8Array => {
      const bytes = message(MessageType.Initiation, 148)
      bytes.fill(0, 132)
      writeMacs(bytes, mac1Key(this.node.publicKey), cookie)
      return bytes
    }
    const cookie = this.#cookieFor(() => initiation())
    const check = (username: string): Uint8Array =>
      writeCheckRequest(crypto, {
        username,
        controlling: false,
        tieBreaker: 1n,
        priority: 1,
        useCandidate: true,
        key: passwordKey("guess")
      }).message
    const lie = (method: number): Uint8Array =>
      new StunBuilder(method, Class.Success, crypto.randomBytes(12)).u32(Attribute.Lifetime, 600).build()
    return new Map<string, Attack>([
      ["random bytes", several(() => crypto.randomBytes(120))],
      ["data for an unknown session", several(() => message(MessageType.Data, 1312))],
      ["data with a wrong tag", () => ({ bytes: tampered, from: peer })],
      ["data replayed", () => ({ bytes: replayed, from: peer })],
      ["initiations with a wrong MAC", several(() => message(MessageType.Initiation, 148))],
      ["initiations with the right MAC", several(() => initiation())],
      ["initiations with the right MAC and cookie", several(() => initiation(cookie))],
      ["responses", several(() => message(MessageType.Response, 92))],
      ["cookies", several(() => message(MessageType.CookieReply, 64))],
      ["checks for unknown names", several(() => check(Buffer.from(crypto.randomBytes(4)).toString("hex") + ":nncg"))],
      ["checks for our name with a wrong password", several(() => check("hpih:nncg"), peer)],
      [
        "answers to checks that were never sent",
        several(() => writeCheckSuccess(crypto, crypto.randomBytes(12), local, passwordKey("guess")), peer)
      ],
      ["a relay's answers to nothing", several(() => lie(Method.Allocate), relay)],
      ["a relay's data on no channel", several(() => message(0x40, 1316), relay)]
    ])
  }

  /** What a stranger is sent who goes on and on. */
  #cookieFor(initiation: () => Uint8Array): Uint8Array {
    for (let i = 0; i <= HANDSHAKES_PER_SECOND; i++) {
      const bytes = initiation()
      this.take({ bytes, from: stranger })
      const [reply] = this.sent()
      const mac1 = readMac1(bytes)
      if (reply === undefined || mac1 === undefined) continue
      const message = reply.buffer.slice(reply.offset, reply.offset + reply.length)
      const last = { localIndex: readSenderIndex(bytes, 0), mac1 }
      const cookie = openCookieReply(message, cookieKey(this.node.publicKey), last)
      if (cookie !== undefined) return cookie
    }
    throw new Error("no cookie")
  }

  /** Answers for the relay and the peer until nothing is sent any more. */
  #converse(): void {
    for (let sent = this.sent(); sent.length > 0; sent = this.sent()) {
      for (const { buffer, destination, length, offset } of sent) {
        const bytes = buffer.slice(offset, offset + length)
        for (const answer of destination.text === relay.text ? this.#ofRelay(bytes) : this.#ofPeer(bytes)) {
          this.take({ bytes: answer, from: destination })
        }
      }
    }
  }

  #ofRelay(bytes: Uint8Array): ReadonlyArray<Uint8Array> {
    const request = parseStun(bytes)
    if (request?.method !== Method.Binding) return []
    return [
      new StunBuilder(Method.Binding, Class.Success, request.transactionId).address(Attribute.XorMappedAddress, local)
        .build()
    ]
  }

  #ofPeer(bytes: Uint8Array): ReadonlyArray<Uint8Array> {
    const check = parseCheck(bytes)
    if (check?._tag === "Request") {
      return [writeCheckSuccess(crypto, check.transactionId, local, passwordKey(remoteCredentials.password))]
    }
    if (classify(bytes, 0, bytes.length) === MessageType.Initiation) this.#remote.handleInitiation(bytes, this.now)
    else this.#remote.open(bytes, 0, bytes.length, this.#output, CIPHER_HEADROOM, this.now)
    const response = this.#remote.pollTransmit()
    return response === undefined ? [] : [response]
  }
}
