import type { SocketAddress } from "../wire/address.ts"
import type { PathCandidate, PathCandidateKind } from "./candidate.ts"

/** A candidate of ours. */
export interface LocalEnd extends PathCandidate {
  /** What we send from: the base, or the address itself if a relay holds it. */
  readonly sendFrom: SocketAddress
}

/** A candidate of the peer's, signalled or learned from what it sent. */
export interface RemoteEnd extends PathCandidate {
  /** Learned; then it looks like a server-reflexive candidate that is its own base. */
  readonly isReflexive: boolean
  /** When the peer last sent from a learned address. */
  heardAt: number
}

/** Probes that wait for their replies; the oldest is forgotten. */
const MAX_IN_FLIGHT = 12
/** A pair that nobody needs is probed this often. */
const PROBE_BUDGET = 12
/** Milliseconds after the first, second and third probe; then `PROBE_GAP`. */
const FIRST_GAPS = [200, 300, 500]
const PROBE_GAP = 1000
/** The pair in use is probed this often, milliseconds. */
const KEEPALIVE_GAP = 25_000
/** So many keep-alives in a row without a reply, and a path that did answer is in doubt. */
const DOUBTFUL = 2
/** Between the copies of a handshake initiation, milliseconds: the peer's channel may not be bound yet. */
const LADDER = [50, 50, 50, 100, 200, 400, 800, 1600]
/** By how much another path of the same rank must be faster, milliseconds and part of the round trip. */
const MIN_GAIN = 10
const MIN_GAIN_RATIO = 0.2

const NEVER = Number.POSITIVE_INFINITY
const RANK: { readonly [kind in PathCandidateKind]: number } = { host: 0, srflx: 1, relay: 2 }

/** One address that we send from and one of the peer's, and the probes between them (connectivity spec 10.5, 10.6). */
export class PathPair {
  readonly local: LocalEnd
  /** In probes: replies for a former pair of these addresses must not count. */
  readonly id: number
  /** Smoothed, milliseconds. */
  rtt: number | undefined
  #remote: RemoteEnd
  #rank: number
  #probeAt = NEVER
  #probesSent = 0
  #unansweredKeepalives = 0
  #nextSequence = 0
  /** Sequence to sending time; in order. */
  readonly #inFlight = new Map<number, number>()
  #requestedAt = Number.NEGATIVE_INFINITY
  #copyAt = NEVER
  #copies = 0

  constructor(local: LocalEnd, remote: RemoteEnd, id: number) {
    this.local = local
    this.#remote = remote
    this.id = id
    this.#rank = rankOf(local, remote)
  }

  get remote(): RemoteEnd {
    return this.#remote
  }

  /** The peer has signalled an address that was learned: nothing else changes. */
  set remote(remote: RemoteEnd) {
    this.#remote = remote
    this.#rank = rankOf(this.local, remote)
  }

  get isRelayed(): boolean {
    return this.local.kind === "relay" || this.#remote.kind === "relay"
  }

  get probeAt(): number {
    return this.#probeAt
  }

  /** Whether probes have been begun and not yet used up. */
  get isDiscovering(): boolean {
    return this.#probeAt !== NEVER && this.#probesSent < PROBE_BUDGET
  }

  /** Whether the pair waits for nothing and was never answered. */
  get isDormant(): boolean {
    return this.#probeAt === NEVER && this.rtt === undefined
  }

  /** The peer has probed this pair. Returns whether it searches: on a path in use its probes are much rarer. */
  requested(now: number): boolean {
    const gap = now - this.#requestedAt
    this.#requestedAt = now
    return gap <= 2 * PROBE_GAP
  }

  /** Begins to probe, all that is known forgotten. */
  restart(now: number): void {
    this.rtt = undefined
    this.#probeAt = now
    this.#probesSent = 0
    this.#unansweredKeepalives = 0
    this.#inFlight.clear()
  }

  /** Whether the pair worked, and has ceased to. */
  get isDoubtful(): boolean {
    return this.rtt !== undefined && this.#unansweredKeepalives >= DOUBTFUL
  }

  /** The pair is in use from now on, and is kept alive. */
  keepAlive(now: number): void {
    if (this.#probeAt === NEVER) this.#probeAt = now + KEEPALIVE_GAP
  }

  /** Whether a probe is to be sent, being due; if nobody needs it, probing ends here. */
  wantsProbe(isPrimary: boolean, hasPrimary: boolean): boolean {
    if (this.#probesSent < PROBE_BUDGET || isPrimary || !hasPrimary) return true
    this.#probeAt = NEVER
    return false
  }

  /** Counts a probe and returns its sequence. */
  probed(isPrimary: boolean, now: number): number {
    const sequence = this.#nextSequence
    this.#nextSequence = sequence + 1 & 0xffff
    if (this.#probesSent === PROBE_BUDGET) this.#unansweredKeepalives += 1
    this.#inFlight.set(sequence, now)
    if (this.#inFlight.size > MAX_IN_FLIGHT) {
      for (const oldest of this.#inFlight.keys()) {
        this.#inFlight.delete(oldest)
        break
      }
    }
    const gap = FIRST_GAPS[this.#probesSent] ?? PROBE_GAP
    this.#probesSent = Math.min(this.#probesSent + 1, PROBE_BUDGET)
    this.#probeAt = now + (isPrimary && this.#probesSent === PROBE_BUDGET ? KEEPALIVE_GAP : gap)
    return sequence
  }

  get inFlight(): number {
    return this.#inFlight.size
  }

  /** A reply; returns whether it answers a probe of this pair. */
  answered(id: number, sequence: number, now: number): boolean {
    const sentAt = this.#inFlight.get(sequence)
    if (id !== this.id || sentAt === undefined) return false
    this.#inFlight.delete(sequence)
    this.#unansweredKeepalives = 0
    const sample = now - sentAt
    this.rtt = this.rtt === undefined ? sample : (this.rtt + sample) / 2
    return true
  }

  /** When another copy of the initiation is due; while there is one. */
  get copyAt(): number {
    return this.#copyAt
  }

  /** An initiation was sent; with the very first one the ladder begins. */
  sentInitiation(now: number): void {
    if (this.#copies === 0) this.#climb(now)
  }

  sentCopy(now: number): void {
    this.#climb(now)
  }

  stopCopies(): void {
    this.#copyAt = NEVER
  }

  /** Whether its kind of path is better, whatever the round trips. */
  outranks(other: PathPair): boolean {
    return this.#rank < other.#rank
  }

  /** The order in which a path is chosen: by rank, then by round trip. */
  isBetterThan(other: PathPair): boolean {
    return this.#rank === other.#rank ? (this.rtt ?? NEVER) < (other.rtt ?? NEVER) : this.outranks(other)
  }

  /** Whether it should take over from `primary`: enough of a gain to be no flutter. */
  shouldReplace(primary: PathPair): boolean {
    if (this.#rank !== primary.#rank) return this.outranks(primary)
    if (primary.rtt === undefined) return false
    return (this.rtt ?? NEVER) + Math.max(MIN_GAIN, primary.rtt * MIN_GAIN_RATIO) < primary.rtt
  }

  #climb(now: number): void {
    const gap = LADDER[this.#copies]
    this.#copies += 1
    this.#copyAt = gap === undefined ? NEVER : now + gap
  }
}

/** Smaller is better: the worse kind, the better kind, relayed by us, relayed within one family, IPv6 (spec 10.6). */
const rankOf = (local: LocalEnd, remote: RemoteEnd): number => {
  const kinds = [RANK[local.kind], RANK[remote.kind]]
  const isMismatched = local.kind === "relay" && local.address.family !== local.base.family
  return Math.max(...kinds) * 24 + Math.min(...kinds) * 8
    + (local.kind === "relay" ? 0 : 4) + (isMismatched ? 2 : 0) + (local.address.family === 6 ? 0 : 1)
}
