import type { RemoteDescription } from "../ice/candidate.ts"
import { type CheckSchedule, checkSchedules } from "../ice/checkSchedule.ts"
import type { IceAgent, SelectedPair } from "../ice/IceAgent.ts"
import type { GatheredCandidate } from "../turn/types.ts"
import type { WireguardTunnelApi } from "../wireguard/types.ts"
import type { ConnectionRequest, PeerId, PeerStatus, RelayId } from "./types.ts"

/** Without a remote candidate for this long after its creation a connection fails. Milliseconds, as all that follow. */
export const CANDIDATE_TIMEOUT = 10_000
/** How long ICE may be out of pairs. */
export const DISCONNECT_GRACE = 2000
/** Without inner packets for this long checks become rare. */
export const IDLE_AFTER = 20_000
/** A handshake of our own is not followed by another one for this long. */
export const INITIATION_PAUSE = 20_000
/** WireGuard messages that wait for a path. */
const MAX_WAITING = 128

const schedules: {
  readonly [profile in ConnectionRequest["profile"]]: { readonly active: CheckSchedule; readonly idle: CheckSchedule }
} = {
  client: { active: checkSchedules.clientDefault, idle: checkSchedules.clientIdle },
  server: { active: checkSchedules.serverDefault, idle: checkSchedules.serverIdle },
  device: { active: checkSchedules.clientDefault, idle: checkSchedules.clientDefault }
}

export const activeSchedule = (request: ConnectionRequest): CheckSchedule => schedules[request.profile].active

export interface ConnectionParts {
  readonly request: ConnectionRequest
  readonly agent: IceAgent
  readonly tunnel: WireguardTunnelApi
  readonly indexPrefix: number
  readonly relay: RelayId
}

/**
 * One peer: an agent that finds the path and a tunnel that fills it (connectivity spec section 12). The mode is fixed for
 * its life; this one is ICE's, where WireGuard starts once a pair is nominated and leaves on the selected path only.
 */
export class Connection {
  readonly peer: PeerId
  readonly request: ConnectionRequest
  readonly agent: IceAgent
  readonly tunnel: WireguardTunnelApi
  readonly indexPrefix: number
  /** The relay of our relayed candidates and sends; `undefined` after it was lost, until another one is adopted. */
  relay: RelayId | undefined
  /** Where data goes: the latest nominated pair, even while ICE looks for another one. */
  path: SelectedPair | undefined
  /** Set once: a handshake was completed and a path selected. */
  established = false
  readonly #schedules: { readonly active: CheckSchedule; readonly idle: CheckSchedule }
  readonly #createdAt: number
  readonly #waiting: Array<Uint8Array> = []
  #hadRemoteCandidate = false
  #lastActivity: number
  #idle = false
  #disconnectedSince: number | undefined
  #lastInitiation = Number.NEGATIVE_INFINITY

  constructor(parts: ConnectionParts, now: number) {
    this.peer = parts.request.peer
    this.request = parts.request
    this.agent = parts.agent
    this.tunnel = parts.tunnel
    this.indexPrefix = parts.indexPrefix
    this.relay = parts.relay
    this.#schedules = schedules[parts.request.profile]
    this.#createdAt = now
    this.#lastActivity = now
  }

  /** Whether `request` describes this very connection, so that it may go on (spec 12.2). */
  matches(request: ConnectionRequest): boolean {
    const own = this.request
    return own.iceless === request.iceless && own.role === request.role
      && isEqual(own.remoteKey, request.remoteKey) && isEqual(own.presharedKey, request.presharedKey)
      && own.localCredentials.username === request.localCredentials.username
      && own.localCredentials.password === request.localCredentials.password
      && own.remoteCredentials.username === request.remoteCredentials.username
      && own.remoteCredentials.password === request.remoteCredentials.password
  }

  /** An inner packet, a candidate or a new request: leave Idle. Called for every packet. */
  touch(now: number): void {
    this.#lastActivity = now
    if (!this.#idle) return
    this.#idle = false
    this.agent.schedule = this.#schedules.active
  }

  /**
   * Starts a handshake as the controlling side, unless one is under way or was just made (spec 11.8). Returns whether it
   * did.
   */
  proposeHandshake(now: number): boolean {
    if (!this.agent.controlling || this.path === undefined) return false
    if (this.tunnel.isHandshaking || now - this.#lastInitiation < INITIATION_PAUSE) return false
    this.#lastInitiation = now
    this.tunnel.initiate(now)
    return true
  }

  addLocalCandidate(candidate: GatheredCandidate): string | undefined {
    return this.agent.addLocalCandidate(candidate)
  }

  addRemoteCandidate(text: string, now: number): ReadonlyArray<RemoteDescription> {
    const added = this.agent.addRemoteCandidate(text)
    if (added.length > 0) {
      this.#hadRemoteCandidate = true
      this.touch(now)
    }
    return added
  }

  removeRemoteCandidate(text: string, now: number): void {
    this.agent.removeRemoteCandidate(text)
    this.touch(now)
  }

  /** Adopts what the agent has selected since. Returns whether the connection is established from now on. */
  update(now: number): boolean {
    const { selected } = this.agent
    if (selected !== undefined && selected !== this.path) {
      const old = this.path
      this.path = selected
      if (old === undefined) this.touch(now)
      if (
        old === undefined || old.local.text !== selected.local.text || old.remote.text !== selected.remote.text
        || old.localKind !== selected.localKind
      ) {
        this.proposeHandshake(now)
      }
    }
    if (this.established || this.path === undefined || this.tunnel.lastHandshakeAt === undefined) return false
    this.established = true
    return true
  }

  /** Returns why the connection has failed, if it has. Call `update` afterwards. */
  handleTimeout(now: number): string | undefined {
    this.tunnel.handleTimeout(now)
    if (this.tunnel.expired) return "the peer does not answer WireGuard handshakes"
    if (this.#isForlorn && now >= this.#createdAt + CANDIDATE_TIMEOUT) {
      return "the peer sent no candidates"
    }
    const { agent } = this
    agent.handleTimeout(now)
    const { state } = agent
    if (state === "disconnected") {
      this.#disconnectedSince ??= now
      if (now >= this.#disconnectedSince + DISCONNECT_GRACE) return "no path to the peer works"
    } else {
      this.#disconnectedSince = undefined
      const isSettled = state === "connected" || state === "completed"
      if (isSettled && !this.#idle && now >= this.#lastActivity + IDLE_AFTER) {
        this.#idle = true
        agent.schedule = this.#schedules.idle
      }
    }
    return undefined
  }

  pollTimeout(): number {
    let next = Math.min(
      this.tunnel.pollTimeout() ?? Number.POSITIVE_INFINITY,
      this.agent.pollTimeout() ?? Number.POSITIVE_INFINITY
    )
    if (this.tunnel.expired) return 0
    if (this.#isForlorn) next = Math.min(next, this.#createdAt + CANDIDATE_TIMEOUT)
    if (this.#disconnectedSince !== undefined) {
      next = Math.min(next, this.#disconnectedSince + DISCONNECT_GRACE)
    } else if (this.path !== undefined && !this.#idle && this.agent.selected !== undefined) {
      next = Math.min(next, this.#lastActivity + IDLE_AFTER)
    } else if (this.agent.state === "disconnected") {
      return 0
    }
    return next
  }

  /** Whether the peer has signalled nothing; checks of its own that work are as good. */
  get #isForlorn(): boolean {
    return !this.#hadRemoteCandidate && this.path === undefined
  }

  /** A WireGuard message for the path; while there is none they wait, the oldest leave first. */
  pollTunnel(): Uint8Array | undefined {
    if (this.path !== undefined) return this.#waiting.shift() ?? this.tunnel.pollTransmit()
    for (let message = this.tunnel.pollTransmit(); message !== undefined; message = this.tunnel.pollTransmit()) {
      if (this.#waiting.length >= MAX_WAITING) this.#waiting.shift()
      this.#waiting.push(message)
    }
    return undefined
  }

  status(now: number): PeerStatus {
    const { path, tunnel } = this
    return {
      peer: this.peer,
      state: this.established ? this.#idle ? "idle" : "connected" : "connecting",
      path: path === undefined ? undefined : {
        kind: path.localKind === "relay"
          ? path.remoteKind === "relay" ? "relayed-both" : "relayed-by-us"
          : path.remoteKind === "relay"
          ? "relayed-by-peer"
          : "direct",
        local: path.local,
        remote: path.remote,
        relay: path.localKind === "relay" ? this.relay : undefined
      },
      rttMillis: this.agent.rtt,
      handshakeAgeMillis: tunnel.lastHandshakeAt === undefined ? undefined : now - tunnel.lastHandshakeAt,
      bytesSent: tunnel.bytesSent,
      bytesReceived: tunnel.bytesReceived
    }
  }
}

const isEqual = (left: Uint8Array, right: Uint8Array): boolean =>
  left.length === right.length && left.every((byte, index) => byte === right[index])
