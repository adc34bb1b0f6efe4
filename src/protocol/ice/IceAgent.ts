import type { Crypto } from "../crypto.ts"
import type { GatheredCandidate } from "../turn/types.ts"
import type { IpAddress, SocketAddress } from "../wire/address.ts"
import {
  type CandidateKind,
  candidatePriority,
  formatCandidate,
  localPreference,
  optimisticCandidates,
  parseCandidate,
  type RemoteDescription
} from "./candidate.ts"
import { CandidatePair, type LocalEnd, type RemoteEnd } from "./CandidatePair.ts"
import {
  type CheckRequest,
  type CheckResponse,
  hasIntegrity,
  passwordKey,
  writeCheckRequest,
  writeCheckSuccess,
  writeRoleConflict
} from "./checkMessage.ts"
import type { CheckSchedule } from "./checkSchedule.ts"

export interface IceCredentials {
  readonly username: string
  readonly password: string
}

/** Nothing chosen yet; chosen, others still tried; chosen, no other left; nothing chosen, nothing left. */
export type IceState = "checking" | "connected" | "completed" | "disconnected"

/** The pair that data takes. */
export interface SelectedPair {
  /** One of our base addresses: a socket's, or one that a relay holds for us if `localKind` is `relay`. */
  readonly local: SocketAddress
  readonly remote: SocketAddress
  readonly localKind: CandidateKind
  readonly remoteKind: CandidateKind
}

export interface CheckTransmit {
  readonly source: SocketAddress
  /** Whether a relay holds `source` for us; else it is a socket's. */
  readonly relayed: boolean
  readonly destination: SocketAddress
  readonly message: Uint8Array
  /** Set on requests: who gets the answer with this transaction id. */
  readonly transaction: string | undefined
}

export interface IceAgentOptions {
  readonly crypto: Crypto
  readonly role: "controlling" | "controlled"
  readonly localCredentials: IceCredentials
  readonly remoteCredentials: IceCredentials
  readonly schedule: CheckSchedule
}

const MAX_PAIRS = 100
const MAX_LOCAL = 64
const MAX_LOCAL_REFLEXIVE = 16
const MAX_REMOTE = 64
const MAX_QUEUED = 200

/**
 * A full ICE agent for one component over UDP, trickling, without pacing, freezing or restarts (RFC 8445, RFC 8838,
 * connectivity spec section 9). It only finds the pair: what goes over it is the connection's. After each call drain
 * `pollTransmit`, compare `selected`, and wait for `pollTimeout`.
 */
export class IceAgent {
  /** A change counts at once: checks that are late under the new one are sent on the next `handleTimeout`. */
  schedule: CheckSchedule
  readonly #crypto: Crypto
  readonly #localCredentials: IceCredentials
  readonly #remoteCredentials: IceCredentials
  readonly #localKey: Uint8Array
  readonly #remoteKey: Uint8Array
  readonly #tieBreaker: bigint
  #controlling: boolean
  #locals: Array<LocalEnd> = []
  #remotes: Array<RemoteEnd> = []
  /** Best first. */
  #pairs: Array<CandidatePair> = []
  #nominated: CandidatePair | undefined
  #selected: SelectedPair | undefined
  #queue: Array<CheckTransmit> = []
  #latestNow = 0
  #leftBase: SocketAddress | undefined

  constructor(options: IceAgentOptions) {
    this.#crypto = options.crypto
    this.#controlling = options.role === "controlling"
    this.#localCredentials = options.localCredentials
    this.#remoteCredentials = options.remoteCredentials
    this.#localKey = passwordKey(options.localCredentials.password)
    this.#remoteKey = passwordKey(options.remoteCredentials.password)
    this.schedule = options.schedule
    this.#tieBreaker = new DataView(options.crypto.randomBytes(8).buffer).getBigUint64(0)
  }

  get localUfrag(): string {
    return this.#localCredentials.username
  }

  get remoteUfrag(): string {
    return this.#remoteCredentials.username
  }

  get controlling(): boolean {
    return this.#controlling
  }

  get state(): IceState {
    const others = this.#pairs.length - (this.#nominated === undefined ? 0 : 1)
    const possible = others > 0 || this.#locals.length === 0 || this.#remotes.length === 0
    if (this.#nominated !== undefined) return possible ? "connected" : "completed"
    return possible ? "checking" : "disconnected"
  }

  /** The same object until the pair or the kind of an end changes; `undefined` while nothing is nominated. */
  get selected(): SelectedPair | undefined {
    return this.#selected
  }

  /** Smoothed round trips of the nominated pair, milliseconds. */
  get rtt(): number | undefined {
    return this.#nominated?.rtt
  }

  /** Returns the text to signal, or `undefined` if the candidate adds nothing. */
  addLocalCandidate(candidate: GatheredCandidate): string | undefined {
    const { address, kind, local } = candidate
    const base = kind === "relay" ? address : local
    const same = this.#locals.find((other) => other.address.text === address.text && other.base.text === base.text)
    if (same?.kind === kind) {
      if (!same.withdrawn) return undefined
      same.withdrawn = false
      this.#pairLocal(same)
      return this.#announcement(same)
    }
    const end = this.#makeLocal(kind, address, base, local.address)
    if (same !== undefined && !same.withdrawn) {
      if (end.priority < same.priority) return undefined
      this.#dropLocal(same)
    }
    if (!this.#keepLocal(end)) return undefined
    this.#pairLocal(end)
    return this.#announcement(end)
  }

  /** Returns the text to signal, or `undefined` if the candidate was not in use. */
  removeLocalCandidate(candidate: GatheredCandidate): string | undefined {
    const end = this.#locals.find(({ address, kind, withdrawn }) =>
      !withdrawn && kind === candidate.kind && address.text === candidate.address.text
    )
    if (end === undefined) return undefined
    this.#dropLocal(end)
    this.#choose()
    return formatCandidate(end, end.priority, undefined)
  }

  /** What to signal to a peer that starts over: every candidate in use, or every one of a base; best first. */
  announcements(base?: SocketAddress): ReadonlyArray<string> {
    return this.#inUse(base)
      .toSorted((left, right) => right.priority - left.priority)
      .map((end) => this.#announcement(end))
  }

  /** What to signal to a peer once this agent has given up: every candidate in use, or every one of a base. */
  withdrawals(base?: SocketAddress): ReadonlyArray<string> {
    return this.#inUse(base).map((end) => formatCandidate(end, end.priority, undefined))
  }

  #inUse(base: SocketAddress | undefined): Array<LocalEnd> {
    return this.#locals.filter((end) => !end.withdrawn && (base === undefined || end.base.text === base.text))
  }

  /** Takes a signalled candidate and the guesses that follow from it. Returns those that are new. */
  addRemoteCandidate(text: string): ReadonlyArray<RemoteDescription> {
    const description = this.#parseRemote(text)
    if (description === undefined) return []
    if (!this.#addRemote(description)) return []
    const added = [description]
    for (const guess of optimisticCandidates(this.#remotes.filter(({ withdrawn }) => !withdrawn))) {
      if (this.#addRemote(guess)) added.push(guess)
    }
    return added
  }

  removeRemoteCandidate(text: string): void {
    const description = this.#parseRemote(text)
    if (description === undefined) return
    const end = this.#remotes.find((other) =>
      !other.withdrawn && other.kind === description.kind && other.address.text === description.address.text
      && other.related?.text === description.related?.text
    )
    if (end === undefined) return
    end.withdrawn = true
    this.#removePairs((pair) => pair.remote === end)
    // Another candidate with that address may have been redundant until now.
    for (const other of this.#remotes) {
      if (!other.withdrawn && other.address.text === end.address.text) this.#pairRemote(other)
    }
    this.#choose()
  }

  /** A Binding request of the peer whose USERNAME is ours. `local` is where it arrived: a socket or a relayed address. */
  handleRequest(local: SocketAddress, from: SocketAddress, request: CheckRequest, now: number): boolean {
    this.#latestNow = now
    if (request.localUfrag !== this.localUfrag || request.remoteUfrag !== this.remoteUfrag) return false
    if (!hasIntegrity(this.#crypto, request.bytes, this.#localKey)) return false
    const end = this.#locals.find(({ address, kind, withdrawn }) =>
      !withdrawn && (kind === "host" || kind === "relay") && address.text === local.text
    )
    if (end === undefined) return false
    if (request.controlling === this.#controlling && request.tieBreaker !== undefined) {
      if (this.#tieBreaker >= request.tieBreaker) {
        this.#respond(end, from, writeRoleConflict(this.#crypto, request.transactionId, this.#localKey))
        return true
      }
      this.#switchRole()
    }
    if (this.#controlling && request.useCandidate) return false
    const remote = this.#remoteAt(from, request.priority)
    if (remote === undefined) return false
    const pair = this.#pairOf(end, remote)
    pair.peerChecked(now)
    if (!this.#controlling && request.useCandidate && !pair.nominated) pair.nominate()
    this.#respond(end, from, writeCheckSuccess(this.#crypto, request.transactionId, from, this.#localKey))
    this.#choose()
    return true
  }

  /** The answer to a check of ours. */
  handleResponse(response: CheckResponse, now: number): boolean {
    this.#latestNow = now
    if (!hasIntegrity(this.#crypto, response.bytes, this.#remoteKey)) return false
    const pair = this.#pairs.find((candidate) => candidate.answered(response.transaction, now))
    if (pair === undefined) return false
    this.#learnReflexive(response.mapped, pair)
    this.#choose()
    return true
  }

  /** Gives up dead pairs, nominates, and sends every check that is due. */
  handleTimeout(now: number): void {
    this.#latestNow = now
    this.#removePairs((pair) => now >= (pair.deadAt(this.schedule) ?? Number.POSITIVE_INFINITY))
    this.#choose()
    for (const pair of this.#pairs) if (now >= pair.nextCheckAt(this.schedule)) this.#check(pair, now)
  }

  pollTransmit(): CheckTransmit | undefined {
    return this.#queue.shift()
  }

  /**
   * The base of a pair that went silent and that it has left, as the controlling side, since the last call. The peer, which
   * may be patient for ten minutes and takes the best pair that was ever nominated, has not (spec 9.6 and 9.9): it has to be
   * told.
   */
  takeLeftSilentPair(): SocketAddress | undefined {
    const base = this.#leftBase
    this.#leftBase = undefined
    return base
  }

  pollTimeout(): number | undefined {
    let next: number | undefined
    for (const pair of this.#pairs) {
      const at = Math.min(pair.nextCheckAt(this.schedule), pair.deadAt(this.schedule) ?? Number.POSITIVE_INFINITY)
      if (next === undefined || at < next) next = at
    }
    return next
  }

  #announcement(end: LocalEnd): string {
    return formatCandidate(end, end.priority, this.localUfrag)
  }

  #parseRemote(text: string): RemoteDescription | undefined {
    const description = parseCandidate(text)
    return description?.ufrag === undefined || description.ufrag === this.remoteUfrag ? description : undefined
  }

  #makeLocal(kind: CandidateKind, address: SocketAddress, base: SocketAddress, socket: IpAddress): LocalEnd {
    const nth = this.#locals.filter((other) => other.kind === kind && other.address.family === address.family).length
    const preference = localPreference(kind, address.family, nth, socket)
    return { kind, address, base, preference, priority: candidatePriority(kind, preference), withdrawn: false }
  }

  /** Makes room by forgetting what was withdrawn first. */
  #keepLocal(end: LocalEnd): boolean {
    if (this.#locals.length >= MAX_LOCAL) {
      const index = this.#locals.findIndex(({ withdrawn }) => withdrawn)
      if (index < 0) return false
      this.#locals.splice(index, 1)
    }
    this.#locals.push(end)
    return true
  }

  #dropLocal(end: LocalEnd): void {
    end.withdrawn = true
    this.#removePairs((pair) => pair.local === end)
  }

  /** Returns whether it is new, or back. */
  #addRemote(description: RemoteDescription): boolean {
    const { address, kind, priority, related } = description
    const same = this.#remotes.find((other) => other.kind === kind && other.address.text === address.text)
    if (same !== undefined) {
      const revived = same.withdrawn
      same.withdrawn = false
      this.#pairRemote(same)
      return revived
    }
    const reflexive = this.#remotes.find((other) => other.kind === "prflx" && other.address.text === address.text)
    if (reflexive !== undefined) {
      Object.assign(reflexive, { kind, priority, related, withdrawn: false })
      for (const pair of this.#pairs) if (pair.remote === reflexive) pair.updatePriority(this.#controlling)
      this.#sort()
      this.#pairRemote(reflexive)
      return true
    }
    return this.#keepRemote({ kind, priority, related, address, withdrawn: false }) !== undefined
  }

  #keepRemote(end: RemoteEnd): RemoteEnd | undefined {
    if (this.#remotes.length >= MAX_REMOTE) {
      let index = this.#remotes.findIndex(({ withdrawn }) => withdrawn)
      if (index < 0) index = this.#remotes.findIndex((other) => other !== this.#nominated?.remote)
      const [evicted] = this.#remotes.splice(index, 1)
      this.#removePairs((pair) => pair.remote === evicted)
    }
    this.#remotes.push(end)
    this.#pairRemote(end)
    return end
  }

  /** The remote candidate at `from`, a new peer-reflexive one if need be; a withdrawn one stays dead. */
  #remoteAt(from: SocketAddress, priority: number): RemoteEnd | undefined {
    const known = this.#remotes.filter(({ address }) => address.text === from.text)
    if (known.length > 0) return known.find(({ withdrawn }) => !withdrawn)
    return this.#keepRemote({ kind: "prflx", priority, related: undefined, address: from, withdrawn: false })
  }

  #pairLocal(local: LocalEnd): void {
    for (const remote of this.#remotes) this.#pair(local, remote)
    this.#settlePairs()
  }

  #pairRemote(remote: RemoteEnd): void {
    for (const local of this.#locals) this.#pair(local, remote)
    this.#settlePairs()
  }

  #pair(local: LocalEnd, remote: RemoteEnd): void {
    // A peer-reflexive address of ours is another face of its base, which is paired already.
    if (local.withdrawn || remote.withdrawn || local.kind === "prflx") return
    if (local.address.family !== remote.address.family) return
    const pair = new CandidatePair(local, remote, this.#controlling)
    const index = this.#pairs.findIndex((other) => isSamePath(other, pair))
    const other = this.#pairs[index]
    if (other === undefined) {
      this.#pairs.push(pair)
    } else if (other.priority < pair.priority) {
      if (other.nominated) pair.nominate()
      if (other === this.#nominated) this.#nominated = pair
      pair.succeeded = other.succeeded
      pair.rtt = other.rtt
      this.#pairs[index] = pair
    }
  }

  #pairOf(local: LocalEnd, remote: RemoteEnd): CandidatePair {
    const wanted = new CandidatePair(local, remote, this.#controlling)
    const existing = this.#pairs.find((pair) => isSamePath(pair, wanted))
    if (existing !== undefined) return existing
    this.#pairs.push(wanted)
    this.#settlePairs()
    return wanted
  }

  #settlePairs(): void {
    this.#sort()
    while (this.#pairs.length > MAX_PAIRS) {
      const worst = this.#pairs.findLastIndex((pair) => pair !== this.#nominated)
      this.#pairs.splice(worst, 1)
    }
    this.#report()
  }

  #sort(): void {
    this.#pairs.sort((left, right) => left.priority < right.priority ? 1 : left.priority > right.priority ? -1 : 0)
  }

  #removePairs(isGone: (pair: CandidatePair) => boolean): void {
    if (!this.#pairs.some(isGone)) return
    this.#pairs = this.#pairs.filter((pair) => !isGone(pair))
    if (this.#nominated !== undefined && !this.#pairs.includes(this.#nominated)) this.#nominated = undefined
  }

  /**
   * Spec 9.9: controlling, the best pair that works, which one that went silent seems not to, long before it is dead;
   * controlled, the best of those that the peer told us to use. Some of these may be of a connection that the peer has given
   * up, and would live on for ten minutes: others go first.
   */
  #choose(): void {
    const best = this.#controlling
      ? this.#pairs.find((pair) => pair.succeeded && !this.#isOutdone(pair))
        ?? this.#pairs.find((pair) => pair.succeeded)
      : this.#pairs.find((pair) => pair.nominated && pair.isAlive(this.#latestNow))
        ?? this.#pairs.find((pair) => pair.nominated)
    if (best === undefined) {
      this.#nominated = undefined
    } else if (!this.#controlling) {
      this.#nominated = best
    } else if (this.#nominated?.priority !== best.priority) {
      if (this.#nominated !== undefined && this.#isOutdone(this.#nominated)) this.#leftBase = this.#nominated.local.base
      this.#nominated = best
      best.nominate()
    }
    this.#report()
  }

  #isOutdone(pair: CandidatePair): boolean {
    return this.#pairs.some((other) => pair.isOutdoneBy(other))
  }

  #report(): void {
    const pair = this.#nominated
    if (pair === undefined) {
      this.#selected = undefined
      return
    }
    const old = this.#selected
    const { local, remote } = pair
    if (
      old === undefined || old.local.text !== local.base.text || old.remote.text !== remote.address.text
      || old.localKind !== local.kind || old.remoteKind !== remote.kind
    ) {
      this.#selected = {
        local: local.base,
        remote: remote.address,
        localKind: local.kind,
        remoteKind: remote.kind
      }
    }
  }

  #switchRole(): void {
    this.#controlling = !this.#controlling
    for (const pair of this.#pairs) pair.updatePriority(this.#controlling)
    this.#sort()
  }

  /** An address that the peer sees and we did not know of; only for re-announcements (spec 8.1). */
  #learnReflexive(mapped: SocketAddress, pair: CandidatePair): void {
    if (this.#locals.some(({ address }) => address.text === mapped.text)) return
    if (this.#locals.filter(({ kind }) => kind === "prflx").length >= MAX_LOCAL_REFLEXIVE) return
    const { base } = pair.local
    this.#keepLocal(this.#makeLocal("prflx", mapped, base, base.address))
  }

  #check(pair: CandidatePair, now: number): void {
    const { local, remote } = pair
    const request = writeCheckRequest(this.#crypto, {
      username: `${this.remoteUfrag}:${this.localUfrag}`,
      controlling: this.#controlling,
      tieBreaker: this.#tieBreaker,
      priority: candidatePriority("prflx", local.preference),
      useCandidate: this.#controlling && pair.nominated,
      key: this.#remoteKey
    })
    pair.sentCheck(request.transaction, this.schedule, now)
    this.#enqueue({
      source: local.base,
      relayed: local.kind === "relay",
      destination: remote.address,
      message: request.message,
      transaction: request.transaction
    })
  }

  #respond(end: LocalEnd, destination: SocketAddress, message: Uint8Array): void {
    this.#enqueue({
      source: end.address,
      relayed: end.kind === "relay",
      destination,
      message,
      transaction: undefined
    })
  }

  #enqueue(transmit: CheckTransmit): void {
    if (this.#queue.length >= MAX_QUEUED) this.#queue.shift()
    this.#queue.push(transmit)
  }
}

const isSamePath = (left: CandidatePair, right: CandidatePair): boolean =>
  left.local.base.text === right.local.base.text && left.remote.address.text === right.remote.address.text
