import type { AllocationApi, MakeAllocation } from "../../../src/protocol/node/Relays.ts"
import type { ConnectionRequest, Relay, Transmit } from "../../../src/protocol/node/types.ts"
import type { AllocationEvent, FreeReason, GatheredCandidate } from "../../../src/protocol/turn/types.ts"
import type { Family, SocketAddress } from "../../../src/protocol/wire/address.ts"
import type { HandshakeOutcome, WireguardTunnelApi } from "../../../src/protocol/wireguard/types.ts"
import { at } from "../ice/support.ts"

export { at, crypto } from "../ice/support.ts"

export const socket = at("192.168.1.5:52625")
export const peer = at("198.51.100.7:52625")

export const hostText = "candidate:1 1 udp 2130706175 198.51.100.7 52625 typ host"
export const reflexiveText = "candidate:1 1 udp 1686109951 198.51.100.8 40000 typ srflx raddr 0.0.0.0 rport 0"

export const request: ConnectionRequest = {
  peer: "gateway",
  remoteKey: new Uint8Array(32).fill(9),
  presharedKey: new Uint8Array(32).fill(5),
  localCredentials: { username: "hpih", password: "nmd7bgzpeqrwvcw3pwxiw5" },
  remoteCredentials: { username: "nncg", password: "zafkb5xaun54giizc53axq" },
  role: "controlling",
  profile: "client",
  iceless: false
}

export const relayNamed = (id: string, v4 = `203.0.113.${id.length}:3478`): Relay => ({
  id,
  v4: at(v4),
  username: "1:salt",
  password: "secret"
})

/** A relay's client without a relay: does as it is told, and remembers what it was asked. */
export class AllocationDouble implements AllocationApi {
  readonly relay: Relay
  rtt: number | undefined = 20
  isDoubtful = false
  unusable: string | undefined
  freed: FreeReason | undefined
  candidates: ReadonlyArray<GatheredCandidate> = []
  server: SocketAddress | undefined
  /** Channels by peer; another peer has none. */
  readonly channels = new Map<string, number>()
  readonly asked: Array<string> = []
  readonly events: Array<AllocationEvent> = []
  readonly transmits: Array<Transmit> = []
  isExpected = true

  constructor(relay: Relay) {
    this.relay = relay
    this.server = relay.v4
  }

  /** Finds a host and a relayed candidate. */
  gather(relayed: string): this {
    const candidates: ReadonlyArray<GatheredCandidate> = [
      { kind: "host", address: socket, local: socket },
      { kind: "relay", address: at(relayed), local: socket }
    ]
    this.candidates = candidates
    for (const candidate of candidates) this.events.push({ _tag: "NewCandidate", candidate })
    return this
  }

  relayed(family: Family): SocketAddress | undefined {
    return this.candidates.find(({ address, kind }) => kind === "relay" && address.family === family)?.address
  }
  handleStun(): boolean {
    this.asked.push("handleStun")
    return this.isExpected
  }
  receivedOn(channel: number): SocketAddress | undefined {
    for (const [text, number] of this.channels) if (number === channel) return at(text)
    return undefined
  }
  channelTo(peer: SocketAddress): number {
    return this.channels.get(peer.text) ?? 0
  }
  bindChannel(peer: SocketAddress): void {
    this.asked.push(`bind ${peer}`)
  }
  probe(): void {
    this.asked.push("probe")
  }
  refresh(): void {
    this.asked.push("refresh")
  }
  restart(): void {
    this.asked.push("restart")
  }
  handleTimeout(): void {}
  pollTransmit(): Transmit | undefined {
    return this.transmits.shift()
  }
  pollEvent(): AllocationEvent | undefined {
    return this.events.shift()
  }
  pollTimeout(): number | undefined {
    return undefined
  }
}

/** Makes doubles, and finds the latest one of a relay. */
export const makeDoubles = (): { readonly make: MakeAllocation; readonly of: (id: string) => AllocationDouble } => {
  const made: Array<AllocationDouble> = []
  return {
    make: (relay) => {
      const double = new AllocationDouble(relay)
      made.push(double)
      return double
    },
    of: (id) => {
      const double = made.findLast(({ relay }) => relay.id === id)
      if (double === undefined) throw new Error(`no relay ${id}`)
      return double
    }
  }
}

export class TunnelDouble implements WireguardTunnelApi {
  initiations = 0
  hasSession = false
  isHandshaking = false
  lastHandshakeAt: number | undefined
  expired = false
  bytesSent = 0
  bytesReceived = 0
  readonly outbox: Array<Uint8Array> = []

  initiate(): void {
    this.initiations += 1
  }
  handleInitiation(): HandshakeOutcome {
    return "Rejected"
  }
  handleResponse(): HandshakeOutcome {
    return "Rejected"
  }
  handleCookieReply(): HandshakeOutcome {
    return "Rejected"
  }
  seal(): boolean {
    return this.hasSession
  }
  open(): number {
    return -1
  }
  handleTimeout(): void {}
  pollTransmit(): Uint8Array | undefined {
    return this.outbox.shift()
  }
  pollTimeout(): number | undefined {
    return undefined
  }
}
