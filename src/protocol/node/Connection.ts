import type { CandidateKind } from "../ice/candidate.ts"
import type { SelectedPair } from "../ice/IceAgent.ts"
import type { Arrival } from "../path/PathAgent.ts"
import type { GatheredCandidate } from "../turn/types.ts"
import type { SocketAddress } from "../wire/address.ts"
import type { MessageType } from "../wire/wireguard.ts"
import type { WireguardTunnelApi } from "../wireguard/types.ts"
import type { ConnectionRequest, PeerId, PeerStatus, RelayId } from "./types.ts"

/** Without a remote candidate for this long after its creation a connection fails. Milliseconds, as all that follow. */
export const CANDIDATE_TIMEOUT = 10_000
/** Without inner packets for this long a connection is idle. */
export const IDLE_AFTER = 20_000

export interface ConnectionParts {
  readonly request: ConnectionRequest
  readonly tunnel: WireguardTunnelApi
  readonly indexPrefix: number
  readonly relay: RelayId
}

/** A datagram of an agent's. */
export interface AgentTransmit {
  readonly source: SocketAddress
  /** Whether a relay holds `source` for us; else it is a socket's. */
  readonly relayed: boolean
  readonly destination: SocketAddress
  readonly message: Uint8Array
  /** Set if the answer has this transaction id of STUN. */
  readonly transaction?: string | undefined
}

export interface RemoteCandidate {
  readonly kind: CandidateKind
  readonly address: SocketAddress
}

/** What either mode's agent tells about the paths. */
interface Agent {
  readonly selected: SelectedPair | undefined
  readonly rtt: number | undefined
  announcements(): ReadonlyArray<string>
  pollTransmit(): AgentTransmit | undefined
}

/** Candidates, in the words of the signalling. */
export interface CandidateRenewal {
  readonly withdrawn: ReadonlyArray<string>
  readonly announced: ReadonlyArray<string>
}

/**
 * One peer: an agent that finds the path and a tunnel that fills it (connectivity spec section 12). The mode, which is
 * the subclass, is fixed for its life.
 */
export abstract class Connection {
  readonly peer: PeerId
  readonly request: ConnectionRequest
  readonly tunnel: WireguardTunnelApi
  readonly indexPrefix: number
  /** The relay of our relayed candidates and sends; `undefined` after it was lost, until another one is adopted. */
  relay: RelayId | undefined
  /** Where data goes: what the agent has selected last, even while it looks for another one. */
  path: SelectedPair | undefined
  /** Whether a handshake was completed and a path selected. */
  established = false
  abstract readonly agent: Agent
  protected idle = false
  #requestedAt: number
  #hadRemoteCandidate = false
  #lastActivity: number

  constructor(parts: ConnectionParts, now: number) {
    this.peer = parts.request.peer
    this.request = parts.request
    this.tunnel = parts.tunnel
    this.indexPrefix = parts.indexPrefix
    this.relay = parts.relay
    this.#requestedAt = now
    this.#lastActivity = now
  }

  /** Returns the text to signal, or `undefined` if the candidate adds nothing. */
  abstract addLocalCandidate(candidate: GatheredCandidate, now: number): string | undefined

  /** Returns the text to signal, or `undefined` if the candidate was not in use. */
  abstract removeLocalCandidate(candidate: GatheredCandidate, now: number): string | undefined

  /** Peers that a relay of ours must let in before we have sent them anything. */
  get expectedPeers(): ReadonlyArray<RemoteCandidate> {
    return []
  }

  /** What the peer is to be told once the connection has failed: these candidates are of no use any more. */
  withdrawals(): ReadonlyArray<string> {
    return []
  }

  /** What the peer is to be told of candidates that were in use all the time. Call after `handleTimeout`. */
  renewal(_now: number): CandidateRenewal | undefined {
    return undefined
  }

  abstract removeRemoteCandidate(text: string, now: number): void

  /** A handshake message for this peer whose MAC1 is right. Returns whether it was of any use. */
  abstract handleHandshake(type: MessageType, arrival: Arrival, message: Uint8Array, now: number): boolean

  /**
   * Told of every authentic data message, `length` 0 being a keep-alive. Returns whether it was the agent's, not a packet.
   */
  opened(
    _local: SocketAddress,
    _isRelayed: boolean,
    _from: SocketAddress,
    _packet: Uint8Array,
    _offset: number,
    _length: number,
    _now: number
  ): boolean {
    return false
  }

  /**
   * Starts a handshake unless one is under way or has just been made, or is not ours to make. Returns whether it did.
   */
  abstract proposeHandshake(now: number): boolean

  /** A WireGuard message for the path; none if they are the agent's. */
  abstract pollTunnel(): Uint8Array | undefined

  /** Called with what the agent has selected, if that has changed. */
  protected abstract selected(path: SelectedPair, now: number): void
  protected abstract takeRemoteCandidate(text: string, now: number): ReadonlyArray<RemoteCandidate>
  /** Lets the agent do what is due; returns why the connection has failed, if it has. */
  protected abstract runAgent(now: number): string | undefined
  /** When the agent wants its turn. */
  protected abstract agentDeadline(): number
  /** Whether the agent has come to an end, so that the connection may go idle. */
  protected abstract readonly isSettled: boolean
  protected abstract setIdle(idle: boolean): void

  /** Whether `request` describes this very connection, so that it may go on (spec 12.2). */
  matches(request: ConnectionRequest): boolean {
    const own = this.request
    return own.iceless === request.iceless && isEqual(own.remoteKey, request.remoteKey)
      && isEqual(own.presharedKey, request.presharedKey)
  }

  /** An inner packet, a candidate or a new request: leave Idle. Called for every packet. */
  touch(now: number): void {
    this.#lastActivity = now
    if (!this.idle) return
    this.idle = false
    this.setIdle(false)
  }

  /** Returns what is new. */
  addRemoteCandidate(text: string, now: number): ReadonlyArray<RemoteCandidate> {
    const added = this.takeRemoteCandidate(text, now)
    if (added.length > 0) {
      this.#hadRemoteCandidate = true
      this.touch(now)
    }
    return added
  }

  /** Requested again: the peer may not know of it yet, and gets its time to signal anew. */
  renew(now: number): void {
    this.#requestedAt = now
    this.touch(now)
  }

  /** Adopts what the agent has selected since. Returns whether the connection is established from now on. */
  update(now: number): boolean {
    const { selected } = this.agent
    if (selected !== undefined && selected !== this.path) this.selected(selected, now)
    if (this.established || this.path === undefined || this.tunnel.lastHandshakeAt === undefined) return false
    this.established = true
    return true
  }

  /** Returns why the connection has failed, if it has. Call `update` afterwards. */
  handleTimeout(now: number): string | undefined {
    this.tunnel.handleTimeout(now)
    if (this.tunnel.expired) return "the peer does not answer WireGuard handshakes"
    if (this.#isForlorn && now >= this.#requestedAt + CANDIDATE_TIMEOUT) {
      return "the peer sent no candidates"
    }
    const failure = this.runAgent(now)
    if (failure !== undefined) return failure
    if (this.isSettled && !this.idle && now >= this.#lastActivity + IDLE_AFTER) {
      this.idle = true
      this.setIdle(true)
    }
    return undefined
  }

  pollTimeout(): number {
    if (this.tunnel.expired) return 0
    let next = Math.min(this.tunnel.pollTimeout() ?? Number.POSITIVE_INFINITY, this.agentDeadline())
    if (this.#isForlorn) next = Math.min(next, this.#requestedAt + CANDIDATE_TIMEOUT)
    if (this.isSettled && !this.idle) next = Math.min(next, this.#lastActivity + IDLE_AFTER)
    return next
  }

  /** Whether the peer has signalled nothing; that a path works is as good. */
  get #isForlorn(): boolean {
    return !this.#hadRemoteCandidate && this.path === undefined
  }

  status(now: number): PeerStatus {
    const { path, tunnel } = this
    return {
      peer: this.peer,
      state: this.established ? this.idle ? "idle" : "connected" : "connecting",
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
