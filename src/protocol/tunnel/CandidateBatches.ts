/** Candidates of one peer that the portal is to be told of. */
export interface CandidateBatch {
  readonly peer: string
  readonly kind: "added" | "removed"
  /** Highest SDP priority first, then by text. */
  readonly candidates: ReadonlyArray<string>
}

interface Changes {
  readonly added: Set<string>
  readonly removed: Set<string>
}

/**
 * Collects new and invalid candidates until the driver asks, so that each peer's go out as one message, and holds them
 * back while the portal is away (tunnel spec 15.3).
 */
export class CandidateBatches {
  readonly #changes = new Map<string, Changes>()
  #isHeld = false

  add(peer: string, candidate: string): void {
    const { added, removed } = this.#of(peer)
    removed.delete(candidate)
    added.add(candidate)
  }

  remove(peer: string, candidate: string): void {
    const { added, removed } = this.#of(peer)
    // What was held back nobody has heard of. Otherwise the peer may know it from an earlier announcement.
    if (added.delete(candidate) && this.#isHeld) return
    removed.add(candidate)
  }

  /** The connection is no more. What it has withdrawn the peer still has to hear, but not when there is another one. */
  forget(peer: string): void {
    if (this.#isHeld) this.#changes.delete(peer)
    else this.#changes.get(peer)?.added.clear()
  }

  hold(): void {
    this.#isHeld = true
  }

  release(): void {
    this.#isHeld = false
  }

  /** What is to be told now: per peer additions, then removals. */
  take(): ReadonlyArray<CandidateBatch> {
    if (this.#isHeld || this.#changes.size === 0) return []
    const batches: Array<CandidateBatch> = []
    for (const [peer, { added, removed }] of this.#changes) {
      if (added.size > 0) batches.push({ peer, kind: "added", candidates: inOrder(added) })
      if (removed.size > 0) batches.push({ peer, kind: "removed", candidates: inOrder(removed) })
    }
    this.#changes.clear()
    return batches
  }

  #of(peer: string): Changes {
    let changes = this.#changes.get(peer)
    if (changes === undefined) {
      changes = { added: new Set(), removed: new Set() }
      this.#changes.set(peer, changes)
    }
    return changes
  }
}

const inOrder = (candidates: ReadonlySet<string>): ReadonlyArray<string> =>
  [...candidates].sort((a, b) => priorityOf(b) - priorityOf(a) || (a < b ? -1 : a > b ? 1 : 0))

/** The fourth field of a candidate line (RFC 8839 section 5.1). */
const priorityOf = (candidate: string): number => {
  const priority = Number(candidate.split(/\s+/)[3])
  return Number.isFinite(priority) ? priority : 0
}
