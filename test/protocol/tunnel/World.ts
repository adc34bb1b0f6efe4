/**
 * A client and a gateway with real nodes and cryptography, a relay, and a portal that introduces them, in virtual time.
 * Everybody has a public address; paths and networks are the business of `test/simulation`.
 */
import { createHash } from "node:crypto"
import { relayCredentials } from "../../../src/lab/relay/credentials.ts"
import { RelayServer } from "../../../src/lab/relay/RelayServer.ts"
import { makeCrypto } from "../../../src/layers/crypto/makeCrypto.ts"
import { CIPHER_HEADROOM, CIPHER_TAILROOM } from "../../../src/protocol/crypto.ts"
import { Node } from "../../../src/protocol/node/Node.ts"
import type { PeerId, Relay, Transmit } from "../../../src/protocol/node/types.ts"
import type { ClientRequest, GatewayRequest, GatewayResource, Resource } from "../../../src/protocol/portal/types.ts"
import { ClientTunnel } from "../../../src/protocol/tunnel/ClientTunnel.ts"
import { GatewayTunnel } from "../../../src/protocol/tunnel/GatewayTunnel.ts"
import type { ClientTunnelEvent, GatewayTunnelEvent } from "../../../src/protocol/tunnel/types.ts"
import { ip, SocketAddress } from "../../../src/protocol/wire/address.ts"
import { CLIENT_4, CLIENT_6, gateway, grant, init, uuid } from "./fixtures.ts"

const UNIX_EPOCH_MILLIS = 1.7e12
const STAMP_SECRET = "ab".repeat(32)
const RELAY_ADDRESS = ip("203.0.113.1")
const RELAY_PORT = 3478
const LINK_DELAY = 10
const PORTAL_DELAY = 30

const { crypto } = makeCrypto()
const hash = (text: string): Uint8Array => Uint8Array.from(createHash("sha256").update(text).digest())
const hex = (bytes: Uint8Array): string => Buffer.from(bytes).toString("hex")

/** A core and its node behind one socket. */
class Machine<Core extends ClientTunnel | GatewayTunnel> {
  readonly node = new Node({ crypto, now: 0, unixEpochMillis: UNIX_EPOCH_MILLIS })
  readonly core: Core
  /** What the TUN device got. */
  readonly received: Array<Uint8Array> = []
  socket: SocketAddress
  readonly #world: World

  constructor(world: World, address: string, make: (node: Node) => Core) {
    this.#world = world
    this.socket = new SocketAddress(ip(address), 52_625)
    this.core = make(this.node)
  }

  /** A packet from an application or a host. */
  send(packet: Uint8Array): void {
    const buffer = new Uint8Array(CIPHER_HEADROOM + packet.length + CIPHER_TAILROOM)
    buffer.set(packet, CIPHER_HEADROOM)
    if (this.core.tunInput(buffer, CIPHER_HEADROOM, packet.length, this.#world.now)) this.#emit(this.core.transmit)
  }

  receive(from: SocketAddress, bytes: Uint8Array): void {
    const output = new Uint8Array(CIPHER_HEADROOM + 1280 + CIPHER_TAILROOM)
    const { now } = this.#world
    if (!this.core.networkInput(this.socket, from, 0, bytes, 0, bytes.length, output, CIPHER_HEADROOM, now)) return
    const { buffer, length, offset } = this.core.packet
    this.received.push(buffer.slice(offset, offset + length))
  }

  /** What a driver does after each batch. */
  drain(): void {
    const { core } = this
    if ((core.pollTimeout() ?? Number.POSITIVE_INFINITY) <= this.#world.now) core.handleTimeout(this.#world.now)
    for (let next = core.pollTransmit(); next !== undefined; next = core.pollTransmit()) this.#emit(next)
    for (let next = core.pollPacket(); next !== undefined; next = core.pollPacket()) this.received.push(next.slice())
  }

  #emit({ buffer, destination, length, offset, source }: Transmit): void {
    if (source !== undefined && source.text !== this.socket.text) return // of a network that we have left
    this.#world.carry(this.socket, destination, buffer.slice(offset, offset + length))
  }
}

interface Task {
  readonly at: number
  readonly run: () => void
}

export class World {
  now = 0
  readonly gatewayDescription = gateway(1)
  readonly clientId: PeerId = uuid(0xc1)
  readonly client: Machine<ClientTunnel>
  readonly gateway: Machine<GatewayTunnel>
  readonly clientEvents: Array<ClientTunnelEvent> = []
  readonly gatewayEvents: Array<GatewayTunnelEvent> = []
  readonly requests: Array<ClientRequest> = []
  /** Unix seconds at which the next grants end. */
  expiresAt: number | undefined
  /** Lets nothing through between the client and anybody but the relay. */
  relaysOnly = false
  readonly #resources: ReadonlyArray<Resource>
  readonly #relay = new RelayServer({
    crypto,
    stampSecret: STAMP_SECRET,
    ipv4: RELAY_ADDRESS,
    unixEpochMillis: UNIX_EPOCH_MILLIS
  })
  #tasks: ReadonlyArray<Task> = []

  /** Both have signed in; relays are known to whoever `hasRelays` names. */
  constructor(resources: ReadonlyArray<Resource>, hasRelays: "both" | "gateway" = "both") {
    this.#resources = resources
    this.client = new Machine(
      this,
      "198.51.100.1",
      (node) => new ClientTunnel({ node, crypto, unixEpochMillis: UNIX_EPOCH_MILLIS })
    )
    this.gateway = new Machine(
      this,
      "198.51.100.2",
      (node) => new GatewayTunnel({ node, unixEpochMillis: UNIX_EPOCH_MILLIS })
    )
    const { ipv4, ipv6 } = this.gatewayDescription
    const relays = [this.#describeRelay(this.gateway.node)]
    this.gateway.core.handlePush(
      { _tag: "GatewayInit", ipv4: ip(ipv4), ipv6: ip(ipv6), relays, authorizations: [] },
      this.now
    )
    this.client.core.handlePush(
      init(resources, { relays: hasRelays === "both" ? [this.#describeRelay(this.client.node)] : [] }),
      this.now
    )
    this.run(1000)
  }

  /** The client changes to another network: new socket, new key; then it dials the portal. */
  roam(address: string): void {
    this.client.socket = new SocketAddress(ip(address), 52_625)
    this.client.core.reset(this.now)
    this.#later(PORTAL_DELAY, () => {
      this.client.core.portalConnected(this.now)
      this.client.core.handlePush(init(this.#resources, { relays: [this.#describeRelay(this.client.node)] }), this.now)
    })
  }

  /** The portal ends the client's grant. */
  reject(resourceId: string): void {
    this.gateway.core.handlePush({ _tag: "RejectAccess", clientId: this.clientId, resourceId }, this.now)
  }

  /** Lets time pass until `isReached` says so, `limit` milliseconds at most. Returns whether it was. */
  runUntil(isReached: () => boolean, limit: number): boolean {
    const end = this.now + limit
    this.#settle()
    while (!isReached()) {
      const next = this.#next()
      if (next > end) {
        this.now = end
        return false
      }
      this.now = Math.max(this.now, next)
      const due = this.#tasks.filter(({ at }) => at <= this.now)
      this.#tasks = this.#tasks.filter(({ at }) => at > this.now)
      for (const { run } of due) run()
      this.#settle()
    }
    return true
  }

  run(millis: number): void {
    this.runUntil(() => false, millis)
  }

  carry(source: SocketAddress, destination: SocketAddress, bytes: Uint8Array): void {
    if (this.relaysOnly && !this.#isLetThrough(source, destination)) return
    this.#later(LINK_DELAY, () => {
      if (destination.address === RELAY_ADDRESS) {
        if (destination.port === RELAY_PORT) this.#relay.handleClient(source, bytes, this.now)
        else this.#relay.handlePeer(destination.port, source, bytes, this.now)
        return
      }
      for (const machine of [this.client, this.gateway]) {
        if (machine.socket.text === destination.text) machine.receive(source, bytes)
      }
    })
  }

  #isLetThrough(source: SocketAddress, destination: SocketAddress): boolean {
    const ends = [source, destination]
    return ends.every(({ text }) => text !== this.client.socket.text) ||
      ends.some(({ address, port }) => address === RELAY_ADDRESS && port === RELAY_PORT)
  }

  #later(delay: number, run: () => void): void {
    this.#tasks = [...this.#tasks, { at: this.now + delay, run }]
  }

  #next(): number {
    return Math.min(
      ...this.#tasks.map(({ at }) => at),
      this.client.core.pollTimeout() ?? Number.POSITIVE_INFINITY,
      this.gateway.core.pollTimeout() ?? Number.POSITIVE_INFINITY,
      this.#relay.pollTimeout() ?? Number.POSITIVE_INFINITY
    )
  }

  #settle(): void {
    if ((this.#relay.pollTimeout() ?? Number.POSITIVE_INFINITY) <= this.now) this.#relay.handleTimeout(this.now)
    for (let output = this.#relay.pollOutput(); output !== undefined; output = this.#relay.pollOutput()) {
      if (output._tag === "ToClient") {
        this.carry(new SocketAddress(RELAY_ADDRESS, RELAY_PORT), output.client, output.bytes)
      } else if (output._tag === "ToPeer") {
        this.carry(new SocketAddress(RELAY_ADDRESS, output.port), output.peer, output.bytes)
      }
    }
    this.client.drain()
    this.gateway.drain()
    const { core: client } = this.client
    for (let event = client.pollEvent(); event !== undefined; event = client.pollEvent()) {
      if (event._tag !== "Request") this.clientEvents.push(event)
      else {
        const { request } = event
        this.requests.push(request)
        this.#later(PORTAL_DELAY, () => this.#fromClient(request))
      }
    }
    const { core: gateway } = this.gateway
    for (let event = gateway.pollEvent(); event !== undefined; event = gateway.pollEvent()) {
      if (event._tag !== "Request") this.gatewayEvents.push(event)
      else {
        const { request } = event
        this.#later(PORTAL_DELAY, () => this.#fromGateway(request))
      }
    }
  }

  #fromClient(request: ClientRequest): void {
    const gateway = this.gateway.core
    switch (request._tag) {
      case "RequestAuthorization": {
        const resource = this.#resources.find(({ id }) => id === request.resourceId)
        if (resource?.type !== "cidr" && resource?.type !== "internet") throw new Error("asked for the impossible")
        const client = { id: this.clientId, ipv4: ip(CLIENT_4), ipv6: ip(CLIENT_6), ...this.#keys() }
        return gateway.handlePush({
          _tag: "CreateAuthorization",
          authorization: {
            ref: resource.id,
            resource: resource as GatewayResource,
            client,
            expiresAt: this.expiresAt,
            useIceless: false,
            ...this.#credentials()
          }
        }, this.now)
      }
      case "NewGatewayIceCandidates":
        return gateway.handlePush(
          { _tag: "GatewayIceCandidates", clientId: this.clientId, candidates: request.candidates },
          this.now
        )
      case "InvalidateGatewayIceCandidates":
        return gateway.handlePush(
          { _tag: "GatewayInvalidateIceCandidates", clientId: this.clientId, candidates: request.candidates },
          this.now
        )
      case "NoRelays":
        return this.client.core.handlePush({
          _tag: "RelaysPresence",
          disconnectedIds: [],
          connected: [this.#describeRelay(this.client.node)]
        }, this.now)
      default:
        throw new Error(`${request._tag} is nothing that this portal knows`)
    }
  }

  #fromGateway(request: GatewayRequest): void {
    const { client, gatewayDescription } = this
    const gatewayId = gatewayDescription.id
    switch (request._tag) {
      case "AuthorizationConfirmed":
        return client.core.handlePush(
          grant(request.ref, gatewayDescription, {
            gatewayPublicKey: this.gateway.node.publicKey,
            presharedKey: this.#keys().presharedKey,
            ...this.#credentials()
          }),
          this.now
        )
      case "BroadcastIceCandidates":
        return client.core.handlePush({ _tag: "IceCandidates", gatewayId, candidates: request.candidates }, this.now)
      case "BroadcastInvalidatedIceCandidates":
        return client.core.handlePush(
          { _tag: "InvalidateIceCandidates", gatewayId, candidates: request.candidates },
          this.now
        )
      default:
        throw new Error(`${request._tag} is nothing that this portal knows`)
    }
  }

  /** The same for the same pair of keys, as a portal derives them. */
  #keys() {
    const { publicKey } = this.client.node
    return { publicKey, presharedKey: hash(`psk ${hex(publicKey)}`) }
  }

  #credentials() {
    const text = hex(hash(`ice ${hex(this.client.node.publicKey)}`))
    return {
      clientIceCredentials: { username: text.slice(0, 4), password: text.slice(4, 26) },
      gatewayIceCredentials: { username: text.slice(30, 34), password: text.slice(34, 56) }
    }
  }

  #describeRelay(node: Node): Relay {
    return {
      id: uuid(0x50),
      v4: new SocketAddress(RELAY_ADDRESS, RELAY_PORT),
      ...relayCredentials({
        expiresAt: 4_000_000_000,
        stampSecret: STAMP_SECRET,
        deviceKey: Buffer.from(node.publicKey).toString("base64")
      })
    }
  }
}
