import type { BenchResult } from "./report.ts"

const ROUNDS = 9

/** Nanoseconds that one of the `calls` of `round` takes: the best of some rounds, the others were disturbed. */
export const nanosPerCall = (calls: number, round: (calls: number) => void): number => {
  round(calls) // until the compiler has seen it
  let best = Infinity
  for (let i = 0; i < ROUNDS; i++) {
    const began = process.hrtime.bigint()
    round(calls)
    best = Math.min(best, Number(process.hrtime.bigint() - began) / calls)
  }
  return best
}

export const atMost = (name: string, value: number, unit: string, limit: number): BenchResult => ({
  name,
  value,
  unit,
  aim: `<= ${limit}`,
  ok: value <= limit
})
