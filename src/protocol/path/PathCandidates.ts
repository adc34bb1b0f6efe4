import { optimisticCandidates } from "../ice/candidate.ts"
import type { GatheredCandidate } from "../turn/types.ts"
import type { SocketAddress } from "../wire/address.ts"
import { isSameCandidate, parsePathCandidate, type PathCandidate, type PathCandidateKind } from "./candidate.ts"
import type { LocalEnd, RemoteEnd } from "./PathPair.ts"

const MAX_LOCAL = 64
/** Signalled candidates of one kind; the oldest goes. */
const MAX_PER_KIND = 6
const MAX_REFLEXIVE = 4
/** A learned address makes room for another one when nothing came from it for this long, milliseconds. */
const REFLEXIVE_SILENCE = 60_000

/** What a change of the candidates did. */
export interface RemoteChange {
  readonly added: ReadonlyArray<RemoteEnd>
  readonly removed: ReadonlyArray<RemoteEnd>
  /** Learned addresses that turned out to be signalled candidates. */
  readonly replaced: ReadonlyArray<{ readonly before: RemoteEnd; readonly after: RemoteEnd }>
}

/** The candidates of both sides, within their limits (connectivity spec 8.5, 10.1, 10.8). */
export class PathCandidates {
  #locals: Array<LocalEnd> = []
  /** In order of their coming. */
  #remotes: Array<RemoteEnd> = []

  get locals(): ReadonlyArray<LocalEnd> {
    return this.#locals
  }

  get remotes(): ReadonlyArray<RemoteEnd> {
    return this.#remotes
  }

  /** `undefined` if it is known, or says no more than its base does. */
  addLocal({ address, kind, local }: GatheredCandidate): LocalEnd | undefined {
    if (kind === "srflx" && address.text === local.text) return undefined
    const end: LocalEnd = { kind, address, base: local, sendFrom: kind === "relay" ? address : local }
    if (this.#locals.length >= MAX_LOCAL || this.#locals.some((other) => isSameCandidate(other, end))) return undefined
    this.#locals.push(end)
    return end
  }

  removeLocal({ address, kind }: GatheredCandidate): LocalEnd | undefined {
    const index = this.#locals.findIndex((other) => other.kind === kind && other.address.text === address.text)
    return index < 0 ? undefined : this.#locals.splice(index, 1)[0]
  }

  clearLocals(): void {
    this.#locals = []
  }

  /** A signalled candidate, and the guesses that follow from it. */
  addRemote(text: string): RemoteChange | undefined {
    const candidate = parsePathCandidate(text)
    if (candidate === undefined) return undefined
    const before = this.#remotes.find((other) => other.isReflexive && other.address.text === candidate.address.text)
    if (before === undefined && this.#remotes.some((other) => isSameCandidate(other, candidate))) return undefined
    const added: Array<RemoteEnd> = []
    const removed: Array<RemoteEnd> = []
    const replaced: Array<{ before: RemoteEnd; after: RemoteEnd }> = []
    const after = signalled(candidate)
    if (before === undefined) added.push(after)
    else replaced.push({ before, after })
    this.#remotes = this.#remotes.filter((other) => other !== before)
    this.#keep(after, removed)
    const known = this.#remotes.map(({ address, kind }) => ({ address, kind, priority: 0 }))
    for (const guess of optimisticCandidates(known)) {
      if (this.#signalledOf("srflx").length >= MAX_PER_KIND) break // a guess is worth less than what it would displace
      const end = signalled({ kind: "srflx", address: guess.address, base: guess.related ?? guess.address })
      added.push(end)
      this.#keep(end, removed)
    }
    return { added: added.filter((end) => !removed.includes(end)), removed, replaced }
  }

  removeRemote(text: string): RemoteEnd | undefined {
    const candidate = parsePathCandidate(text)
    if (candidate === undefined) return undefined
    const index = this.#remotes.findIndex((other) => !other.isReflexive && isSameCandidate(other, candidate))
    return index < 0 ? undefined : this.#remotes.splice(index, 1)[0]
  }

  /** An address that the peer was heard from. `undefined` if it is known, or too many others are in use. */
  learnRemote(address: SocketAddress, now: number): RemoteChange | undefined {
    const known = this.#remotes.find((other) => other.address.text === address.text)
    if (known !== undefined) {
      known.heardAt = now
      return undefined
    }
    const learned = this.#remotes.filter(({ isReflexive }) => isReflexive)
    const removed: Array<RemoteEnd> = []
    if (learned.length >= MAX_REFLEXIVE) {
      const quietest = learned.reduce((left, right) => left.heardAt <= right.heardAt ? left : right)
      if (now < quietest.heardAt + REFLEXIVE_SILENCE) return undefined
      this.#drop(quietest, removed)
    }
    const end: RemoteEnd = { kind: "srflx", address, base: address, isReflexive: true, heardAt: now }
    this.#remotes.push(end)
    return { added: [end], removed, replaced: [] }
  }

  #keep(end: RemoteEnd, removed: Array<RemoteEnd>): void {
    this.#remotes.push(end)
    const alike = this.#signalledOf(end.kind)
    const [oldest] = alike
    if (alike.length > MAX_PER_KIND && oldest !== undefined) this.#drop(oldest, removed)
  }

  #signalledOf(kind: PathCandidateKind): ReadonlyArray<RemoteEnd> {
    return this.#remotes.filter((other) => !other.isReflexive && other.kind === kind)
  }

  #drop(end: RemoteEnd, removed: Array<RemoteEnd>): void {
    this.#remotes = this.#remotes.filter((other) => other !== end)
    removed.push(end)
  }
}

const signalled = ({ address, base, kind }: PathCandidate): RemoteEnd => ({
  kind,
  address,
  base,
  isReflexive: false,
  heardAt: 0
})
