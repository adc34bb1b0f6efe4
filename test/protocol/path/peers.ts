/** Two agents of the path mode with real tunnels, and how to carry datagrams between them. */
import { assert } from "@effect/vitest"
import { CIPHER_HEADROOM, CIPHER_TAILROOM } from "../../../src/protocol/crypto.ts"
import { formatPathCandidate, type PathCandidateKind } from "../../../src/protocol/path/candidate.ts"
import { PathAgent, type PathTransmit } from "../../../src/protocol/path/PathAgent.ts"
import {
  PROBE_LENGTH,
  probeId,
  probeSequence,
  type ProbeType,
  probeType,
  writeProbe
} from "../../../src/protocol/path/probe.ts"
import type { GatheredCandidate } from "../../../src/protocol/turn/types.ts"
import type { SocketAddress } from "../../../src/protocol/wire/address.ts"
import { classify, MessageType } from "../../../src/protocol/wire/wireguard.ts"
import { pathTimers } from "../../../src/protocol/wireguard/types.ts"
import type { WireguardTunnel } from "../../../src/protocol/wireguard/WireguardTunnel.ts"
import { at } from "../ice/support.ts"
import { initiator, responder, sealPacket, somePacket } from "../wireguard/peers.ts"

export { at } from "../ice/support.ts"

export const gathered = (kind: PathCandidateKind, address: string, local = address): GatheredCandidate => ({
  kind,
  address: at(address),
  local: at(local)
})
export const textOf = ({ address, kind, local }: GatheredCandidate): string =>
  formatPathCandidate({ kind, address, base: local })

export const leftHost = gathered("host", "192.0.2.1:52625")
export const leftRelay = gathered("relay", "203.0.113.1:50001", "192.0.2.1:52625")
export const rightHost = gathered("host", "192.0.2.2:52625")
export const rightRelay = gathered("relay", "203.0.113.2:50002", "192.0.2.2:52625")

export interface Sent extends PathTransmit {
  readonly at: number
  readonly type: MessageType | 0
}

export class Peer {
  now = 0
  readonly agent: PathAgent
  readonly tunnel: WireguardTunnel
  /** What came out of the tunnel besides probes. */
  readonly received: Array<Uint8Array> = []
  readonly #relayed = new Set<string>()

  constructor(role: "controlling" | "controlled") {
    this.tunnel = (role === "controlling" ? initiator : responder)({ timers: pathTimers })
    this.agent = new PathAgent({ role, tunnel: this.tunnel })
  }

  addLocal(...candidates: ReadonlyArray<GatheredCandidate>): this {
    for (const candidate of candidates) {
      if (candidate.kind === "relay") this.#relayed.add(candidate.address.text)
      this.agent.addLocalCandidate(candidate, this.now)
    }
    return this
  }

  addRemote(...candidates: ReadonlyArray<GatheredCandidate>): this {
    for (const candidate of candidates) this.agent.addRemoteCandidate(textOf(candidate), this.now)
    return this
  }

  drain(): Array<Sent> {
    const sent: Array<Sent> = []
    for (let next = this.agent.pollTransmit(); next !== undefined; next = this.agent.pollTransmit()) {
      sent.push({ ...next, at: this.now, type: classify(next.message, 0, next.message.length) })
    }
    return sent
  }

  /** Ticks at every deadline of the agent, and of the tunnel if `withTunnel`; nothing is delivered. */
  advance(millis: number, withTunnel = false): Array<Sent> {
    const sent = this.drain()
    const end = this.now + millis
    for (let rounds = 0; rounds < 100_000; rounds++) {
      const next = this.deadline(withTunnel)
      if (next > end) {
        this.now = end
        return sent
      }
      this.now = Math.max(this.now, next)
      if (withTunnel) this.tunnel.handleTimeout(this.now)
      this.agent.handleTimeout(this.now)
      sent.push(...this.drain())
    }
    throw new Error("the deadline does not move on")
  }

  deadline(withTunnel = false): number {
    return Math.min(
      this.agent.pollTimeout() ?? Number.POSITIVE_INFINITY,
      (withTunnel ? this.tunnel.pollTimeout() : undefined) ?? Number.POSITIVE_INFINITY
    )
  }

  /** A datagram arrives. Returns whether it was good for anything. */
  receive({ destination: local, message, source: from }: Pick<Sent, "source" | "destination" | "message">): boolean {
    const { agent, now, tunnel } = this
    const arrival = { local, from, isRelayed: this.#relayed.has(local.text) }
    switch (classify(message, 0, message.length)) {
      case MessageType.Initiation:
        return agent.handleInitiation(arrival, message, now)
      case MessageType.Response:
        return agent.handleResponse(arrival, message, now)
      case MessageType.Data: {
        const output = new Uint8Array(CIPHER_HEADROOM + message.length + CIPHER_TAILROOM)
        const length = tunnel.open(message, 0, message.length, output, CIPHER_HEADROOM, now)
        if (length < 0) return false
        agent.receivedData()
        const type = probeType(output, CIPHER_HEADROOM, length)
        if (type !== 0) agent.handleProbe(arrival, type, output, CIPHER_HEADROOM, now)
        else if (length > 0) this.received.push(output.slice(CIPHER_HEADROOM, CIPHER_HEADROOM + length))
        return true
      }
      default:
        throw new Error("not a WireGuard message")
    }
  }

  /** An IP packet as the node would send it, on the selected path. */
  data(): Pick<Sent, "source" | "destination" | "message"> {
    const { selected } = this.agent
    const message = sealPacket(this.tunnel, somePacket, this.now)
    if (selected === undefined || message === undefined) throw new Error("no path, or no session")
    return { source: selected.local, destination: selected.remote, message }
  }

  get path(): string | undefined {
    return this.agent.selected === undefined ? undefined : pathOf(this.agent.selected)
  }
}

const pathOf = ({ local, remote }: { readonly local: SocketAddress; readonly remote: SocketAddress }): string =>
  `${local.text} ${remote.text}`

/** `from to`, as `Peer.path`. */
export const route = (from: GatheredCandidate, to: GatheredCandidate): string => `${from.address} ${to.address}`
export const routeOf = ({ destination, source }: Pick<Sent, "source" | "destination">): string =>
  `${source.text} ${destination.text}`

/** Two peers that know both candidates of both, the left one having begun. */
export const introduced = () => {
  const left = new Peer("controlling").addLocal(leftHost, leftRelay).addRemote(rightHost, rightRelay)
  const right = new Peer("controlled").addLocal(rightHost, rightRelay).addRemote(leftHost, leftRelay)
  left.agent.start(0)
  return { left, right }
}

type Lost = (sent: Sent) => boolean

/** Carries what both have sent until both are silent; time stands still. */
export const settle = (left: Peer, right: Peer, isLost: Lost = () => false): void => {
  for (let rounds = 0; rounds < 1000; rounds++) {
    const sent = [
      ...left.drain().map((one) => [right, one] as const),
      ...right.drain().map((one) => [left, one] as const)
    ]
    if (sent.length === 0) return
    for (const [to, one] of sent) if (!isLost(one)) to.receive(one)
  }
  throw new Error("they never fall silent")
}

/** Lets time pass for both; datagrams take none. */
export const run = (left: Peer, right: Peer, millis: number, isLost: Lost = () => false, withTunnel = true): void => {
  settle(left, right, isLost)
  const end = left.now + millis
  for (;;) {
    const next = Math.min(left.deadline(withTunnel), right.deadline(withTunnel))
    const now = Math.min(end, Math.max(left.now, next))
    for (const peer of [left, right]) {
      peer.now = now
      if (next > end) continue
      if (withTunnel) peer.tunnel.handleTimeout(now)
      peer.agent.handleTimeout(now)
    }
    if (next > end) return
    settle(left, right, isLost)
  }
}

/** Introduced, and on the path between their hosts. */
export const connected = () => {
  const pair = introduced()
  run(pair.left, pair.right, 15_000, undefined, false)
  assert.deepStrictEqual([pair.left.path, pair.right.path], [route(leftHost, rightHost), route(rightHost, leftHost)])
  return pair
}

/** A probe of the other side's, sealed. */
export const sealedProbe = (from: Peer, type: ProbeType, id: number, sequence: number): Uint8Array => {
  const packet = new Uint8Array(PROBE_LENGTH)
  writeProbe(packet, 0, type, id, sequence)
  const message = sealPacket(from.tunnel, packet, from.now)
  if (message === undefined) throw new Error("no session")
  return message
}

/** The probe in a message to `to`, if it is one; opening it uses it up. */
export const readProbe = (to: Peer, { message }: Sent) => {
  if (classify(message, 0, message.length) !== MessageType.Data) return undefined
  const output = new Uint8Array(CIPHER_HEADROOM + message.length + CIPHER_TAILROOM)
  const length = to.tunnel.open(message, 0, message.length, output, CIPHER_HEADROOM, to.now)
  const type = length < 0 ? 0 : probeType(output, CIPHER_HEADROOM, length)
  if (type === 0) return undefined
  return { type, id: probeId(output, CIPHER_HEADROOM), sequence: probeSequence(output, CIPHER_HEADROOM) }
}
