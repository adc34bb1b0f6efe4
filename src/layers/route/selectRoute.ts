/** What decides between routes of different interfaces (host spec section 11.2, step 8). */
export interface Ranked {
  readonly prefixLength: number
  /** The sum of all metrics that count on this platform. */
  readonly metric: number
  /** Where the platform has several. */
  readonly table?: number | undefined
}

/** The longest prefix wins, then the lowest metric, then the first listed. Pure, so every platform tests it. */
export const selectRoute = <A extends Ranked>(candidates: ReadonlyArray<A>): A | undefined => {
  let best: A | undefined
  for (const candidate of candidates) {
    if (
      best === undefined || candidate.prefixLength > best.prefixLength
      || (candidate.prefixLength === best.prefixLength && candidate.metric < best.metric)
    ) best = candidate
  }
  return best
}

/** Why `loser` lost against `winner`, for a person. */
export const whyItLost = (loser: Ranked, winner: Ranked): string => {
  if (loser.table !== winner.table && loser.table !== undefined && winner.table !== undefined) {
    return "the system's policy rules ask another table first"
  }
  if (loser.prefixLength < winner.prefixLength) {
    return `its prefix /${loser.prefixLength} is shorter than the chosen /${winner.prefixLength}`
  }
  if (loser.prefixLength > winner.prefixLength) return "the system's policy rules ask another table first"
  if (loser.metric > winner.metric) return `its metric ${loser.metric} is higher than the chosen ${winner.metric}`
  if (loser.metric < winner.metric) return "the system's policy rules ask another table first"
  return "same prefix length and metric, but listed after the chosen one"
}
