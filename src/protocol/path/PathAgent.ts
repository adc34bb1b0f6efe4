import { CIPHER_HEADROOM, CIPHER_TAILROOM } from "../crypto.ts"
import type { GatheredCandidate } from "../turn/types.ts"
import type { SocketAddress } from "../wire/address.ts"
import { classify, DATA_HEADER_LENGTH, MessageType, TAG_LENGTH } from "../wire/wireguard.ts"
import { equalBytes } from "../wireguard/primitives.ts"
import type { WireguardTunnelApi } from "../wireguard/types.ts"
import { formatPathCandidate, type PathCandidateKind } from "./candidate.ts"
import { PathCandidates, type RemoteChange } from "./PathCandidates.ts"
import { type LocalEnd, PathPair, type RemoteEnd } from "./PathPair.ts"
import { PROBE_LENGTH, probeId, probeSequence, ProbeType, writeProbe } from "./probe.ts"
import { ResponderCache } from "./ResponderCache.ts"

/** Where a datagram came in: one of our socket addresses, or one that a relay holds for us. */
export interface Arrival {
  readonly local: SocketAddress
  readonly isRelayed: boolean
  readonly from: SocketAddress
}

/** The path that data takes. */
export interface SelectedPath {
  /** A socket's address, or one that a relay holds for us if `localKind` is `relay`. */
  readonly local: SocketAddress
  readonly remote: SocketAddress
  readonly localKind: PathCandidateKind
  readonly remoteKind: PathCandidateKind
}

export interface PathTransmit {
  readonly source: SocketAddress
  /** Whether a relay holds `source` for us; else it is a socket's. */
  readonly relayed: boolean
  readonly destination: SocketAddress
  readonly message: Uint8Array
}

export interface PathAgentOptions {
  readonly tunnel: WireguardTunnelApi
  readonly role: "controlling" | "controlled"
}

/** Handshakes of ours without an answer, or of the peer's without data after, that make the primary path suspicious. */
const DISTRESS = 2
/** We search once for a search of the peer's: the twelve probes of a pair take 9 s. Milliseconds. */
const SEARCH_PAUSE = 11_000
const MAX_QUEUED = 200

/**
 * The agent of the path mode (connectivity spec section 10): it starts the tunnel over relays, probes all pairs from
 * inside, and picks the one that data takes, the primary. It never gives up; the tunnel does. It owns the tunnel's
 * handshakes: messages of types 1 and 2 go in here, and what the tunnel wants to send comes out here. After each call
 * drain `pollTransmit`, compare `selected`, and wait for `pollTimeout`; the tunnel's timeouts are the caller's, before
 * those of the agent.
 */
export class PathAgent {
  readonly controlling: boolean
  readonly #tunnel: WireguardTunnelApi
  readonly #candidates = new PathCandidates()
  /** By the addresses of both ends. */
  readonly #pairs = new Map<string, PathPair>()
  readonly #cache = new ResponderCache()
  readonly #queue: Array<PathTransmit> = []
  #nextPairId = 0
  #primary: PathPair | undefined
  #selected: SelectedPath | undefined
  /** Whether there ever was a handshake, even if its session has ended. */
  #hasSession = false
  /** What the tunnel wants to start with. */
  #initiation: Uint8Array | undefined
  #lastResponse: Uint8Array | undefined
  /** Handshakes begun since an answer came, and the peer's since data came. */
  #unanswered = 0
  #peerInitiations = 0
  #searchedAt = Number.NEGATIVE_INFINITY

  constructor({ role, tunnel }: PathAgentOptions) {
    this.controlling = role === "controlling"
    this.#tunnel = tunnel
  }

  /** The primary, or the latest one while there is none. The same object until an address or kind changes. */
  get selected(): SelectedPath | undefined {
    return this.#selected
  }

  /** Whether `selected` is known to work, as opposed to being the last that did. */
  get hasPrimary(): boolean {
    return this.#primary !== undefined
  }

  /** Smoothed round trips of the primary, milliseconds. */
  get rtt(): number | undefined {
    return this.#primary?.rtt
  }

  /** Begins the handshake, as the controlling side. */
  start(now: number): void {
    if (!this.controlling) return
    this.#tunnel.initiate(now)
    this.#drainTunnel(now)
  }

  /** Returns the text to signal, or `undefined` if the candidate adds nothing. */
  addLocalCandidate(candidate: GatheredCandidate, now: number): string | undefined {
    const end = this.#candidates.addLocal(candidate)
    if (end === undefined) return undefined
    this.#pairLocal(end, now)
    this.#suspectPrimary(now)
    return formatPathCandidate(end)
  }

  /** Returns the text to signal, or `undefined` if the candidate was not in use. */
  removeLocalCandidate(candidate: GatheredCandidate, now: number): string | undefined {
    const end = this.#candidates.removeLocal(candidate)
    if (end === undefined) return undefined
    this.#removePairs((pair) => pair.local === end, now)
    return formatPathCandidate(end)
  }

  /** Of the peer's, those that may need a channel on a relay. */
  get remotes(): ReadonlyArray<RemoteEnd> {
    return this.#candidates.remotes
  }

  /** What to signal to a peer that starts over. */
  announcements(): ReadonlyArray<string> {
    return this.#candidates.locals.map(formatPathCandidate)
  }

  /** Takes a signalled candidate and the guesses that follow from it. Returns those that are new. */
  addRemoteCandidate(text: string, now: number): ReadonlyArray<RemoteEnd> {
    const change = this.#candidates.addRemote(text)
    if (change === undefined) return []
    this.#apply(change, now)
    return [...change.added, ...change.replaced.map(({ after }) => after)]
  }

  removeRemoteCandidate(text: string, now: number): void {
    const end = this.#candidates.removeRemote(text)
    if (end === undefined) return
    this.#removePairs((pair) => pair.remote === end, now)
  }

  /**
   * The network has changed: no local address is ours any more, and nothing may be sent from one. The session lives on,
   * and what is added from now on is probed without a handshake (spec 10.8, 12.7).
   */
  roam(): void {
    this.#candidates.clearLocals()
    this.#pairs.clear()
    this.#queue.length = 0
    this.#primary = undefined
    this.#selected = undefined
    this.#unanswered = 0
    this.#peerInitiations = 0
  }

  /** A type 1 message for this peer whose MAC1 is right. Returns whether it was the peer's and is dealt with. */
  handleInitiation(arrival: Arrival, message: Uint8Array, now: number): boolean {
    if (!this.#isOurs(arrival)) return false
    if (this.#cache.isKnown(message)) {
      const response = this.#cache.response(now)
      if (response !== undefined) this.#sendBack(arrival, response)
      return response !== undefined
    }
    this.#drainTunnel(now)
    if (this.#tunnel.handleInitiation(message, now) === "Rejected") return false
    const response = this.#tunnel.pollTransmit()
    this.#cache.accepted(message, response, now)
    this.#learnRemote(arrival.from, now)
    const isFirst = !this.#hasSession
    this.#establish(now)
    const pair = this.#pairAt(arrival)
    if (isFirst && this.#primary === undefined && pair !== undefined) this.#setPrimary(pair, now)
    if (response !== undefined) this.#sendBack(arrival, response)
    this.#peerInitiations += 1
    if (this.#peerInitiations === DISTRESS && this.#primary !== undefined) this.#suspectPrimary(now)
    return true
  }

  /** Whether this initiation can be answered without asking the tunnel: a copy of the latest. */
  isKnownInitiation(message: Uint8Array): boolean {
    return this.#cache.isKnown(message)
  }

  /** Whether this is a copy of the response that was accepted last. */
  isKnownResponse(message: Uint8Array): boolean {
    return this.#lastResponse !== undefined && equalBytes(this.#lastResponse, message)
  }

  /** A type 2 message whose MAC1 is right. Returns whether it was the answer to a handshake of ours. */
  handleResponse(arrival: Arrival, message: Uint8Array, now: number): boolean {
    if (this.isKnownResponse(message) || this.#tunnel.handleResponse(message, now) === "Rejected") return false
    this.#lastResponse = message
    this.#unanswered = 0
    this.#establish(now)
    const pair = this.#pairAt(arrival)
    if (pair !== undefined && (this.#primary === undefined || pair.outranks(this.#primary))) this.#setPrimary(pair, now)
    this.#drainTunnel(now)
    return true
  }

  /** Every authentic type 4 message counts as a sign of life. Called for each of them. */
  receivedData(): void {
    this.#peerInitiations = 0
  }

  /** A packet out of the tunnel that `probeType` found to be a `type`. */
  handleProbe(arrival: Arrival, type: ProbeType, packet: Uint8Array, offset: number, now: number): void {
    if (!this.#isOurs(arrival)) return
    const [id, sequence] = [probeId(packet, offset), probeSequence(packet, offset)]
    if (type === ProbeType.Request) {
      const reply = this.#sealProbe(ProbeType.Reply, id, sequence, now)
      if (reply !== undefined) this.#sendBack(arrival, reply)
      this.#learnRemote(arrival.from, now)
      const pair = this.#pairAt(arrival)
      if (pair === undefined) return
      if (pair.isDormant) pair.restart(now)
      // It has lost what we may still believe in: its data comes in another way, so that we would never miss an answer.
      const isSearching = pair.requested(now) && pair !== this.#primary
      if (isSearching && now >= this.#searchedAt + SEARCH_PAUSE) this.#suspectPrimary(now)
    } else if (this.#pairAt(arrival)?.answered(id, sequence, now) === true) {
      this.#select(now)
    }
  }

  handleTimeout(now: number): void {
    this.#drainTunnel(now)
    if (this.#primary?.isDoubtful === true && now >= this.#primary.probeAt) this.#suspectPrimary(now)
    for (const pair of this.#pairs.values()) {
      if (this.#initiation !== undefined && now >= pair.copyAt) {
        this.#send(pair, this.#initiation)
        pair.sentCopy(now)
      }
      if (now >= pair.probeAt && pair.wantsProbe(pair === this.#primary, this.hasPrimary)) this.#probe(pair, now)
    }
  }

  pollTransmit(): PathTransmit | undefined {
    return this.#queue.shift()
  }

  pollTimeout(): number | undefined {
    let next = Number.POSITIVE_INFINITY
    for (const pair of this.#pairs.values()) {
      next = Math.min(next, pair.probeAt, this.#initiation === undefined ? next : pair.copyAt)
    }
    return next === Number.POSITIVE_INFINITY ? undefined : next
  }

  /**
   * Before the first session handshakes go out over every relayed pair. So they do when the session is too old to probe
   * with and no path is known to work: nothing else could find one.
   */
  get #isBootstrapping(): boolean {
    return !this.#hasSession || (this.#primary === undefined && !this.#tunnel.hasSession)
  }

  /** Takes what the tunnel's timers have made. */
  #drainTunnel(now: number): void {
    for (let message = this.#tunnel.pollTransmit(); message !== undefined; message = this.#tunnel.pollTransmit()) {
      const isInitiation = classify(message, 0, message.length) === MessageType.Initiation
      if (isInitiation && this.#isBootstrapping) {
        this.#initiation = message
        for (const pair of this.#pairs.values()) this.#sendInitiation(pair, now)
        continue
      }
      // Without a primary it is lost: probes come first.
      if (this.#primary === undefined) continue
      this.#send(this.#primary, message)
      if (!isInitiation) continue
      this.#unanswered += 1
      if (this.#unanswered === DISTRESS) this.#suspectPrimary(now)
    }
  }

  #sendInitiation(pair: PathPair, now: number): void {
    if (this.#initiation === undefined || !pair.isRelayed) return
    this.#send(pair, this.#initiation)
    pair.sentInitiation(now)
  }

  #establish(now: number): void {
    this.#initiation = undefined
    for (const pair of this.#pairs.values()) pair.stopCopies()
    if (this.#hasSession) return
    this.#hasSession = true
    this.#searchedAt = now
    for (const pair of this.#pairs.values()) pair.restart(now)
  }

  #learnRemote(address: SocketAddress, now: number): void {
    const change = this.#candidates.learnRemote(address, now)
    if (change !== undefined) this.#apply(change, now)
  }

  #apply({ added, removed, replaced }: RemoteChange, now: number): void {
    this.#removePairs((pair) => removed.includes(pair.remote), now)
    for (const { after, before } of replaced) {
      for (const pair of this.#pairs.values()) if (pair.remote === before) pair.remote = after
    }
    if (this.#primary !== undefined) this.#report(this.#primary)
    for (const end of added) this.#pairRemote(end, now)
    if (added.length > 0) this.#suspectPrimary(now)
  }

  #pairLocal(local: LocalEnd, now: number): void {
    for (const remote of this.#candidates.remotes) this.#pair(local, remote, now)
  }

  #pairRemote(remote: RemoteEnd, now: number): void {
    for (const local of this.#candidates.locals) this.#pair(local, remote, now)
  }

  /** Of two candidates with the same address the later one counts, and the pair begins anew. */
  #pair(local: LocalEnd, remote: RemoteEnd, now: number): void {
    if (local.sendFrom.family !== remote.address.family) return
    const pair = new PathPair(local, remote, this.#nextPairId)
    this.#nextPairId = this.#nextPairId + 1 & 0xffff
    const key = keyOf(local.sendFrom, remote.address)
    if (this.#pairs.get(key) === this.#primary) this.#primary = undefined
    this.#pairs.set(key, pair)
    if (this.#hasSession) pair.restart(now)
    if (this.#isBootstrapping) this.#sendInitiation(pair, now)
  }

  /** Nothing is answered from an address that is ours no more, even if it still receives. */
  #isOurs({ local }: Arrival): boolean {
    return this.#candidates.locals.some(({ sendFrom }) => sendFrom.text === local.text)
  }

  #pairAt({ from, local }: Arrival): PathPair | undefined {
    return this.#pairs.get(keyOf(local, from))
  }

  #removePairs(isGone: (pair: PathPair) => boolean, now: number): void {
    const gone = [...this.#pairs].filter(([, pair]) => isGone(pair))
    if (gone.length === 0) return
    for (const [key] of gone) this.#pairs.delete(key)
    // Another candidate may have that address, too.
    for (const local of this.#candidates.locals) {
      for (const remote of this.#candidates.remotes) {
        if (!this.#pairs.has(keyOf(local.sendFrom, remote.address))) this.#pair(local, remote, now)
      }
    }
    if (this.#primary !== undefined && isGone(this.#primary)) this.#suspectPrimary(now)
  }

  /**
   * "Clear and re-probe" (spec 10.7): the former primary may come back, if it still is the best that answers. What was
   * measured before does not count.
   */
  #suspectPrimary(now: number): void {
    const former = this.#primary
    this.#primary = undefined
    if (!this.#hasSession) return
    this.#searchedAt = now
    for (const pair of this.#pairs.values()) {
      if (pair === former || !pair.isDiscovering || pair.rtt !== undefined) pair.restart(now)
    }
  }

  #setPrimary(pair: PathPair, now: number): void {
    this.#primary = pair
    this.#unanswered = 0
    this.#peerInitiations = 0
    pair.keepAlive(now)
    this.#report(pair)
  }

  #report({ local, remote }: PathPair): void {
    const old = this.#selected
    if (
      old !== undefined && old.local.text === local.sendFrom.text && old.remote.text === remote.address.text
      && old.localKind === local.kind && old.remoteKind === remote.kind
    ) {
      return
    }
    this.#selected = {
      local: local.sendFrom,
      remote: remote.address,
      localKind: local.kind,
      remoteKind: remote.kind
    }
  }

  /** Probes promote the best that has answered; they never demote. */
  #select(now: number): void {
    let best: PathPair | undefined
    for (const pair of this.#pairs.values()) {
      if (pair.rtt !== undefined && (best === undefined || pair.isBetterThan(best))) best = pair
    }
    if (best === undefined || best === this.#primary) return
    if (this.#primary === undefined || best.shouldReplace(this.#primary)) this.#setPrimary(best, now)
  }

  #probe(pair: PathPair, now: number): void {
    const sequence = pair.probed(pair === this.#primary, now)
    const message = this.#sealProbe(ProbeType.Request, pair.id, sequence, now)
    if (message !== undefined) this.#send(pair, message)
  }

  /** `undefined` without a session to send on: a responder has none before the peer's first data. */
  #sealProbe(type: ProbeType, id: number, sequence: number, now: number): Uint8Array | undefined {
    const buffer = new Uint8Array(CIPHER_HEADROOM + PROBE_LENGTH + CIPHER_TAILROOM)
    writeProbe(buffer, CIPHER_HEADROOM, type, id, sequence)
    if (!this.#tunnel.seal(buffer, CIPHER_HEADROOM, PROBE_LENGTH, now)) return undefined
    return buffer.subarray(CIPHER_HEADROOM - DATA_HEADER_LENGTH, CIPHER_HEADROOM + PROBE_LENGTH + TAG_LENGTH)
  }

  #send({ local, remote }: PathPair, message: Uint8Array): void {
    this.#enqueue(local.sendFrom, local.kind === "relay", remote.address, message)
  }

  #sendBack({ from, isRelayed, local }: Arrival, message: Uint8Array): void {
    this.#enqueue(local, isRelayed, from, message)
  }

  #enqueue(source: SocketAddress, relayed: boolean, destination: SocketAddress, message: Uint8Array): void {
    if (this.#queue.length >= MAX_QUEUED) this.#queue.shift()
    this.#queue.push({ source, relayed, destination, message })
  }
}

const keyOf = (sendFrom: SocketAddress, remote: SocketAddress): string => `${sendFrom.text} ${remote.text}`
