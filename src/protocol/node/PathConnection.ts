import { type Arrival, PathAgent, type SelectedPath } from "../path/PathAgent.ts"
import { probeType } from "../path/probe.ts"
import type { GatheredCandidate } from "../turn/types.ts"
import type { SocketAddress } from "../wire/address.ts"
import { MessageType } from "../wire/wireguard.ts"
import { pathTimers } from "../wireguard/types.ts"
import { Connection, type ConnectionParts, type RemoteCandidate } from "./Connection.ts"

/** A connection in path mode: the agent finds the path inside the tunnel, and only the tunnel gives up (spec 10). */
export class PathConnection extends Connection {
  readonly agent: PathAgent
  /** When the peer last sent anything authentic; at first the creation. */
  #heardAt: number

  constructor(parts: ConnectionParts, now: number) {
    super(parts, now)
    this.#heardAt = now
    this.agent = new PathAgent({ tunnel: parts.tunnel, role: parts.request.role })
    this.agent.start(now)
  }

  /** A responder sends nothing until the initiation has come, and a relay without a channel would not let that in. */
  override get expectedPeers(): ReadonlyArray<RemoteCandidate> {
    return this.established ? [] : this.agent.remotes
  }

  addLocalCandidate(candidate: GatheredCandidate, now: number): string | undefined {
    return this.agent.addLocalCandidate(candidate, now)
  }

  removeLocalCandidate(candidate: GatheredCandidate, now: number): string | undefined {
    return this.agent.removeLocalCandidate(candidate, now)
  }

  removeRemoteCandidate(text: string, now: number): void {
    this.agent.removeRemoteCandidate(text, now)
    this.touch(now)
  }

  /** Whether the message repeats one that was accepted, so that it costs nobody anything. */
  isKnownHandshake(type: MessageType, message: Uint8Array): boolean {
    return type === MessageType.Initiation
      ? this.agent.isKnownInitiation(message)
      : this.agent.isKnownResponse(message)
  }

  handleHandshake(type: MessageType, arrival: Arrival, message: Uint8Array, now: number): boolean {
    const isUseful = type === MessageType.Initiation
      ? this.agent.handleInitiation(arrival, message, now)
      : this.agent.handleResponse(arrival, message, now)
    if (isUseful) this.#heardAt = now
    return isUseful
  }

  /** The agent starts; later a session that can only receive is a reason. */
  proposeHandshake(now: number): boolean {
    if (this.tunnel.isHandshaking || this.tunnel.hasSession || this.tunnel.lastHandshakeAt === undefined) return false
    this.tunnel.initiate(now)
    return true
  }

  pollTunnel(): undefined {
    return undefined
  }

  override opened(
    local: SocketAddress,
    isRelayed: boolean,
    from: SocketAddress,
    packet: Uint8Array,
    offset: number,
    length: number,
    now: number
  ): boolean {
    this.#heardAt = now
    this.agent.receivedData()
    const type = probeType(packet, offset, length)
    if (type !== 0) this.agent.handleProbe({ local, isRelayed, from }, type, packet, offset, now)
    return type !== 0
  }

  /**
   * The network has changed. Returns whether the session is worth keeping: a peer that has heard nothing for as long as
   * it repeats a handshake has forgotten us. Until there is a path again the connection is coming up, and packets wait.
   */
  roam(now: number): boolean {
    if (now >= this.#heardAt + pathTimers.rekeyAttemptTime) return false
    this.agent.roam()
    this.relay = undefined
    this.path = undefined
    this.established = false
    return true
  }

  protected selected(path: SelectedPath, now: number): void {
    if (this.path === undefined) this.touch(now)
    this.path = path
  }

  protected takeRemoteCandidate(text: string, now: number): ReadonlyArray<RemoteCandidate> {
    return this.agent.addRemoteCandidate(text, now)
  }

  protected runAgent(now: number): undefined {
    this.agent.handleTimeout(now)
  }

  protected agentDeadline(): number {
    return this.agent.pollTimeout() ?? Number.POSITIVE_INFINITY
  }

  protected get isSettled(): boolean {
    return this.agent.hasPrimary
  }

  /** Probes are as rare as they can be already. */
  protected setIdle(): void {}
}
