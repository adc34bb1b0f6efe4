/** What benchmarks hand back: figures with their rounds and aims, and the document that `--json` and `--output` write. */
import type { Environment } from "./environment.ts"

export interface BenchResult {
  readonly name: string
  /** The median of `rounds`, if there were several. */
  readonly value: number
  readonly unit: string
  /** What we want, such as `<= 150`. */
  readonly aim?: string | undefined
  readonly ok?: boolean | undefined
  /** The figure of each round, in the order in which they were taken. */
  readonly rounds?: ReadonlyArray<number> | undefined
  /** Which way is an improvement; left out of what is only stated. */
  readonly better?: "higher" | "lower" | undefined
}

export interface BenchOptions {
  /** How often each side is measured, the sides by turns. */
  readonly rounds: number
  /** Of one measurement, where a bench measures for a time. */
  readonly seconds: number
  /** Enough to see that a bench works; its figures mean little. */
  readonly quick: boolean
}

/** One bench of a document. */
export interface BenchRun {
  readonly bench: string
  readonly durationSeconds: number
  /** What this bench holds fixed, in words. */
  readonly settings: ReadonlyArray<string>
  readonly results: ReadonlyArray<BenchResult>
  /** Why there are no results. */
  readonly error?: string | undefined
}

export const REPORT_FORMAT = 1

/** Stable: fields are added, never changed; `format` counts up if that cannot be kept. */
export interface Report {
  readonly format: typeof REPORT_FORMAT
  /** ISO 8601. */
  readonly startedAt: string
  readonly environment: Environment
  readonly options: BenchOptions
  readonly benches: ReadonlyArray<BenchRun>
}

/** What a bench's module exports. */
export interface BenchModule {
  readonly settings?: (options: BenchOptions) => ReadonlyArray<string>
  readonly run: (options: BenchOptions) => Promise<ReadonlyArray<BenchResult>>
}

/** Of an even number of values the mean of the middle two; NaN of none, and where one is no number. */
export const median = (values: ReadonlyArray<number>): number => {
  if (values.some(Number.isNaN)) return Number.NaN
  const sorted = values.toSorted((a, b) => a - b)
  const middle = sorted.length >> 1
  const upper = sorted[middle] ?? Number.NaN
  return sorted.length % 2 === 1 ? upper : ((sorted[middle - 1] ?? Number.NaN) + upper) / 2
}

/** The smallest value that at least this share of them do not exceed; NaN of none. */
export const quantile = (values: ReadonlyArray<number>, share: number): number => {
  const sorted = values.toSorted((a, b) => a - b)
  return sorted[Math.max(0, Math.ceil(sorted.length * share) - 1)] ?? Number.NaN
}

interface Aim {
  readonly better?: "higher" | "lower"
  readonly atLeast?: number
  readonly atMost?: number
  readonly below?: number
}

/** The median of some rounds, judged if there is an aim. A value that is no number misses every aim. */
export const figure = (
  name: string,
  unit: string,
  rounds: ReadonlyArray<number>,
  { atLeast, atMost, below, better }: Aim = {}
): BenchResult => {
  const value = median(rounds)
  const stated = { name, value, unit, rounds }
  if (atLeast !== undefined) {
    return { ...stated, better: "higher", aim: `>= ${atLeast}`, ok: value >= atLeast }
  }
  if (atMost !== undefined) return { ...stated, better: "lower", aim: `<= ${atMost}`, ok: value <= atMost }
  if (below !== undefined) return { ...stated, better: "lower", aim: `< ${below}`, ok: value < below }
  return better === undefined ? stated : { ...stated, better }
}

/** How many times `theirs` each round of `ours` was; NaN where they have no figure: nothing is won against nobody. */
export const ratios = (ours: ReadonlyArray<number>, theirs: ReadonlyArray<number>): ReadonlyArray<number> =>
  ours.map((value, round) => value / (theirs[round] || Number.NaN))

export const formatNumber = (value: number): string =>
  !Number.isFinite(value) ? "no figure" : Math.abs(value) >= 100 ? value.toFixed(0) : value.toPrecision(3)

/** The range of the rounds, which is what a figure is worth. */
export const formatRange = ({ rounds }: BenchResult): string =>
  rounds === undefined || rounds.length < 2
    ? ""
    : `${formatNumber(Math.min(...rounds))} .. ${formatNumber(Math.max(...rounds))}`

export const table = ({ bench, durationSeconds, error, results, settings }: BenchRun): string => {
  const width = Math.max(...results.map(({ name }) => name.length), 0)
  const units = Math.max(...results.map(({ unit }) => unit.length), 0)
  const lines = results.map((result) => {
    const { aim, name, ok, unit, value } = result
    const verdict = aim === undefined ? "" : `aim ${aim}${ok === undefined ? "" : ok ? ", ok" : ", MISSED"}`
    const range = formatRange(result)
    return `  ${name.padEnd(width)}  ${formatNumber(value).padStart(9)} ${unit.padEnd(units)}  ${
      (range === "" ? "" : `(${range})`).padEnd(20)
    } ${verdict}`.trimEnd()
  })
  return [
    `${bench} (${durationSeconds.toFixed(0)} s)`,
    ...settings.map((setting) => `  # ${setting}`),
    ...lines,
    ...(error === undefined ? [] : [`  FAILED: ${error}`])
  ].join("\n")
}
