/** What a portal does for two hosts: introduces them, carries their candidates, hands out relays (spec section 2). */
import { createHash } from "node:crypto"
import type { ConnectionRequest, NodeEvent } from "../../src/protocol/node/types.ts"
import type { Host } from "./Host.ts"
import type { World } from "./World.ts"

const ALPHABET = "abcdefghijklmnopqrstuvwxyz234567"
const hash = (text: string): Uint8Array => Uint8Array.from(createHash("sha256").update(text).digest())
/** 32 characters of five bits each. */
const words = (text: string): string => Array.from(hash(text), (byte) => ALPHABET[byte & 31]).join("")

export class Portal {
  readonly client: Host
  readonly gateway: Host
  readonly #world: World
  /** Whether connections are made in path mode. */
  iceless = false
  /** Whether the client asks again when its connection has failed, as it does while it has traffic. */
  isPersistent = false
  /** Relays that a host is given when it has none left. */
  relays: ReadonlyArray<string> = []
  #isRetrying = false

  constructor(world: World, client: Host, gateway: Host) {
    this.#world = world
    this.client = client
    this.gateway = gateway
    client.onEvent = (event) => this.#handle(client, gateway, event)
    gateway.onEvent = (event) => this.#handle(gateway, client, event)
  }

  /** As after `request_authorization`: the gateway is told first. */
  connect(): void {
    this.#world.signal(() => {
      const [forClient, forGateway] = this.#requests()
      this.#world.signal(() => {
        if (this.client.upsert(forClient) === "NoRelays") this.#lacksRelays(this.client)
      })
      if (this.gateway.upsert(forGateway) === "NoRelays") this.#lacksRelays(this.gateway)
    })
  }

  #lacksRelays(host: Host): void {
    this.#world.signal(() => host.useRelays(...this.relays))
    if (this.#isRetrying) return
    this.#isRetrying = true
    this.#world.later(1000, () => {
      this.#isRetrying = false
      this.connect()
    })
  }

  /** Equal for equal keys. */
  #requests(): readonly [ConnectionRequest, ConnectionRequest] {
    const { client, gateway } = this
    const name = `${client.name}:${client.deviceKey}:${gateway.name}:${gateway.deviceKey}`
    const [one, other] = [words(`one ${name}`), words(`other ${name}`)]
    const clientCredentials = { username: one.slice(0, 4), password: one.slice(4, 26) }
    const gatewayCredentials = { username: other.slice(0, 4), password: other.slice(4, 26) }
    const presharedKey = hash(`psk ${name}`)
    return [{
      peer: gateway.name,
      remoteKey: gateway.node.publicKey,
      presharedKey,
      localCredentials: clientCredentials,
      remoteCredentials: gatewayCredentials,
      role: "controlling",
      profile: "client",
      iceless: this.iceless
    }, {
      peer: client.name,
      remoteKey: client.node.publicKey,
      presharedKey,
      localCredentials: gatewayCredentials,
      remoteCredentials: clientCredentials,
      role: "controlled",
      profile: "server",
      iceless: this.iceless
    }]
  }

  #handle(from: Host, to: Host, event: NodeEvent): void {
    switch (event._tag) {
      case "NewIceCandidate":
        return this.#world.signal(() => {
          to.node.addRemoteCandidate(from.name, event.candidate, this.#world.now)
          to.settle()
        })
      case "InvalidateIceCandidate":
        return this.#world.signal(() => {
          to.node.removeRemoteCandidate(from.name, event.candidate, this.#world.now)
          to.settle()
        })
      case "NoRelays":
        return this.#world.signal(() => from.useRelays(...this.relays))
      case "ConnectionFailed":
        if (from === this.client && this.isPersistent) this.connect()
        return
      default:
    }
  }
}
