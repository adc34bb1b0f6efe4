import type { Crypto } from "../crypto.ts"
import { type CheckSchedule, checkSchedules } from "../ice/checkSchedule.ts"
import { IceAgent, type SelectedPair } from "../ice/IceAgent.ts"
import type { Arrival } from "../path/PathAgent.ts"
import type { GatheredCandidate } from "../turn/types.ts"
import type { SocketAddress } from "../wire/address.ts"
import { MessageType } from "../wire/wireguard.ts"
import { type CandidateRenewal, Connection, type ConnectionParts, type RemoteCandidate } from "./Connection.ts"
import type { ConnectionRequest } from "./types.ts"

/** How long ICE may be out of pairs. Milliseconds, as all that follow. */
export const DISCONNECT_GRACE = 2000
/** A handshake of our own is not followed by another one for this long. */
export const INITIATION_PAUSE = 20_000
/** Between the withdrawal of candidates and their announcement, which in one turn would cancel each other. */
export const RENEWAL_PAUSE = 50
/** WireGuard messages that wait for a path. */
const MAX_WAITING = 128

const schedules: {
  readonly [profile in ConnectionRequest["profile"]]: { readonly active: CheckSchedule; readonly idle: CheckSchedule }
} = {
  client: { active: checkSchedules.clientDefault, idle: checkSchedules.clientIdle },
  server: { active: checkSchedules.serverDefault, idle: checkSchedules.serverIdle },
  device: { active: checkSchedules.clientDefault, idle: checkSchedules.clientDefault }
}

/** A connection in ICE mode: WireGuard starts once a pair is nominated, and leaves on the selected path only. */
export class IceConnection extends Connection {
  readonly agent: IceAgent
  readonly #schedules: { readonly active: CheckSchedule; readonly idle: CheckSchedule }
  readonly #waiting: Array<Uint8Array> = []
  #disconnectedSince: number | undefined
  #lastInitiation = Number.NEGATIVE_INFINITY
  /** The base whose candidates are withdrawn and to be announced again, and when. */
  #renewed: SocketAddress | undefined
  #announceAt = Number.POSITIVE_INFINITY

  constructor(crypto: Crypto, parts: ConnectionParts, now: number) {
    super(parts, now)
    const { localCredentials, profile, remoteCredentials, role } = parts.request
    this.#schedules = schedules[profile]
    this.agent = new IceAgent({
      crypto,
      role,
      localCredentials,
      remoteCredentials,
      schedule: this.#schedules.active
    })
  }

  override matches(request: ConnectionRequest): boolean {
    const own = this.request
    return super.matches(request) && own.role === request.role
      && own.localCredentials.username === request.localCredentials.username
      && own.localCredentials.password === request.localCredentials.password
      && own.remoteCredentials.username === request.remoteCredentials.username
      && own.remoteCredentials.password === request.remoteCredentials.password
  }

  addLocalCandidate(candidate: GatheredCandidate): string | undefined {
    return this.agent.addLocalCandidate(candidate)
  }

  removeLocalCandidate(candidate: GatheredCandidate): string | undefined {
    return this.agent.removeLocalCandidate(candidate)
  }

  removeRemoteCandidate(text: string, now: number): void {
    this.agent.removeRemoteCandidate(text)
    this.touch(now)
  }

  /**
   * A controlled agent has more patience, and may be the peer's in the next connection, too: it would stay with a pair
   * that has died, as long as none of higher priority is nominated.
   */
  override withdrawals(): ReadonlyArray<string> {
    return this.agent.controlling ? this.agent.withdrawals() : []
  }

  /**
   * A pair that was nominated cannot be taken back; it goes with its candidates, which come back at once. What is nominated
   * now the peer hears with our next check of it, and it keeps the candidates of another base meanwhile.
   */
  override renewal(now: number): CandidateRenewal | undefined {
    const left = this.agent.takeLeftSilentPair()
    const renewed = this.#renewed
    if (left === undefined && (renewed === undefined || now < this.#announceAt)) return undefined
    // One that is left while another is still to be announced must not take its place.
    const isOver = renewed !== undefined && renewed.text !== left?.text
    this.#renewed = left
    this.#announceAt = left === undefined ? Number.POSITIVE_INFINITY : now + RENEWAL_PAUSE
    return {
      withdrawn: left === undefined ? [] : this.agent.withdrawals(left),
      announced: isOver ? this.agent.announcements(renewed) : []
    }
  }

  handleHandshake(type: MessageType, _arrival: Arrival, message: Uint8Array, now: number): boolean {
    const { tunnel } = this
    const outcome = type === MessageType.Initiation
      ? tunnel.handleInitiation(message, now)
      : tunnel.handleResponse(message, now)
    return outcome !== "Rejected"
  }

  /** As the controlling side, unless one is under way or was just made (spec 11.8). */
  proposeHandshake(now: number): boolean {
    if (!this.agent.controlling || this.path === undefined) return false
    if (this.tunnel.isHandshaking || now - this.#lastInitiation < INITIATION_PAUSE) return false
    this.#lastInitiation = now
    this.tunnel.initiate(now)
    return true
  }

  /** While there is no path they wait, the oldest leave first. */
  pollTunnel(): Uint8Array | undefined {
    if (this.path !== undefined) return this.#waiting.shift() ?? this.tunnel.pollTransmit()
    for (let message = this.tunnel.pollTransmit(); message !== undefined; message = this.tunnel.pollTransmit()) {
      if (this.#waiting.length >= MAX_WAITING) this.#waiting.shift()
      this.#waiting.push(message)
    }
    return undefined
  }

  protected selected(path: SelectedPair, now: number): void {
    const old = this.path
    this.path = path
    if (old === undefined) this.touch(now)
    if (
      old === undefined || old.local.text !== path.local.text || old.remote.text !== path.remote.text
      || old.localKind !== path.localKind
    ) {
      this.proposeHandshake(now)
    }
  }

  protected takeRemoteCandidate(text: string): ReadonlyArray<RemoteCandidate> {
    return this.agent.addRemoteCandidate(text)
  }

  protected runAgent(now: number): string | undefined {
    this.agent.handleTimeout(now)
    // The roles may have changed since the path was selected, when neither of us saw to this.
    if (!this.established && this.#lastInitiation === Number.NEGATIVE_INFINITY) this.proposeHandshake(now)
    if (this.agent.state !== "disconnected") {
      this.#disconnectedSince = undefined
      return undefined
    }
    this.#disconnectedSince ??= now
    return now >= this.#disconnectedSince + DISCONNECT_GRACE ? "no path to the peer works" : undefined
  }

  protected agentDeadline(): number {
    const next = Math.min(this.agent.pollTimeout() ?? Number.POSITIVE_INFINITY, this.#announceAt)
    if (this.#disconnectedSince !== undefined) return Math.min(next, this.#disconnectedSince + DISCONNECT_GRACE)
    return this.agent.state === "disconnected" ? 0 : next
  }

  protected get isSettled(): boolean {
    return this.agent.selected !== undefined
  }

  protected setIdle(idle: boolean): void {
    this.agent.schedule = idle ? this.#schedules.idle : this.#schedules.active
  }
}
