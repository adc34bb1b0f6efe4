/** Finds the highest rate that something still bears. */
import * as Effect from "effect/Effect"

export interface Probe {
  readonly passed: boolean
  /** What came through, in the unit of the rates. */
  readonly achieved: number
  /** Less was sent than was asked for. */
  readonly exhausted: boolean
}

/**
 * Doubles the rate from `first` until a try fails, then halves the gap `steps` times; the most that came through in a try
 * that passed, 0 if the first one failed. A failed try is repeated once: on a shared machine one says little.
 */
export const highestRate = <E, R>(
  probe: (rate: number) => Effect.Effect<Probe, E, R>,
  { first, highest, steps }: { readonly first: number; readonly highest: number; readonly steps: number }
): Effect.Effect<number, E, R> =>
  Effect.gen(function*() {
    let best = 0
    const bears = (rate: number) =>
      Effect.gen(function*() {
        let found = yield* probe(rate)
        if (!found.passed) found = yield* probe(rate)
        if (found.passed) best = Math.max(best, found.achieved)
        return found
      })
    let low = 0
    let high = first
    for (;;) {
      const { exhausted, passed } = yield* bears(high)
      if (!passed) break
      if (exhausted || high * 2 > highest) return best
      low = high
      high *= 2
    }
    if (low === 0) return best
    for (let step = 0; step < steps; step++) {
      const middle: number = (low + high) / 2
      const { exhausted, passed } = yield* bears(middle)
      if (!passed) high = middle
      else if (exhausted) return best
      else low = middle
    }
    return best
  })
