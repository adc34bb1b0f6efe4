/** What changed between two documents of figures, with the noise that both of them show. */
import * as fs from "node:fs"
import { type BenchResult, formatNumber, formatRange, type Report, REPORT_FORMAT } from "./report.ts"

export type Verdict = "within noise" | "better" | "worse" | "changed" | "unknown noise" | "new" | "gone"

export interface Change {
  readonly bench: string
  readonly name: string
  readonly unit: string
  readonly before: number | undefined
  readonly after: number | undefined
  /** Of `before`; absent if one of them is missing or nothing can be divided by it. */
  readonly percent: number | undefined
  readonly verdict: Verdict
}

const range = ({ rounds, value }: BenchResult): readonly [number, number] =>
  rounds === undefined || rounds.length === 0 ? [value, value] : [Math.min(...rounds), Math.max(...rounds)]

/** JSON has `null` for what was no number. */
const isComplete = ({ rounds = [], value }: BenchResult): boolean =>
  [value, ...rounds].every((number) => Number.isFinite(number))

/**
 * A change is one when no round of either side lies in the range of the other's. With fewer than two rounds on a side its
 * noise is not known, and nothing is claimed.
 */
const judge = (before: BenchResult, after: BenchResult): Verdict => {
  if (![before, after].every(isComplete)) return "unknown noise"
  if (before.value === after.value) return "within noise"
  if ((before.rounds?.length ?? 0) < 2 || (after.rounds?.length ?? 0) < 2) return "unknown noise"
  const [low, high] = range(before)
  const [newLow, newHigh] = range(after)
  if (newLow <= high && low <= newHigh) return "within noise"
  const better = after.better ?? before.better
  if (better === undefined) return "changed"
  return (after.value > before.value) === (better === "higher") ? "better" : "worse"
}

/** Every figure of either document, in the order of the first. */
export const compare = (base: Report, next: Report): ReadonlyArray<Change> => {
  const names = [...new Set([...base.benches, ...next.benches].map(({ bench }) => bench))]
  return names.flatMap((bench) => {
    const figures = (report: Report) =>
      new Map(
        report.benches.filter((run) => run.bench === bench).flatMap(({ results }) =>
          results.map((result) => [result.name, result] as const)
        )
      )
    const [olds, news] = [figures(base), figures(next)]
    return [...new Set([...olds.keys(), ...news.keys()])].map((name): Change => {
      const [before, after] = [olds.get(name), news.get(name)]
      const percent = before === undefined || after === undefined
        ? Number.NaN
        : (after.value - before.value) / Math.abs(before.value) * 100
      return {
        bench,
        name,
        unit: after?.unit ?? before?.unit ?? "",
        before: before?.value,
        after: after?.value,
        percent: [before, after].every((result) =>
            result !== undefined && isComplete(result)
          ) && Number.isFinite(percent)
          ? percent
          : undefined,
        verdict: before === undefined ? "new" : after === undefined ? "gone" : judge(before, after)
      }
    })
  })
}

/** Why figures of the two cannot be held against each other; empty if nothing speaks against it. */
export const differences = (base: Report, next: Report): ReadonlyArray<string> => {
  const settings = ({ environment: { versions, ...machine }, options }: Report): ReadonlyMap<string, string> => {
    const { load1: _, ...fixed } = machine
    return new Map(
      Object.entries({ ...fixed, ...versions, ...options }).map(([name, value]) => [name, String(value)])
    )
  }
  const [olds, news] = [settings(base), settings(next)]
  return [...new Set([...olds.keys(), ...news.keys()])]
    .filter((name) => olds.get(name) !== news.get(name))
    .map((name) => `${name}: ${olds.get(name) ?? "not stated"} before, ${news.get(name) ?? "not stated"} now`)
}

export const comparisonTable = (base: Report, next: Report, changes: ReadonlyArray<Change>): string => {
  const find = (report: Report, { bench, name }: Change): string => {
    const result = report.benches.find((run) => run.bench === bench)?.results.find((each) => each.name === name)
    if (result === undefined) return "-"
    const between = formatRange(result)
    return `${formatNumber(result.value)}${between === "" ? "" : ` (${between})`}`
  }
  const rows = changes.map((change) => [
    `${change.bench}: ${change.name}`,
    change.unit,
    find(base, change),
    find(next, change),
    change.percent === undefined ? "" : `${change.percent > 0 ? "+" : ""}${change.percent.toFixed(1)} %`,
    change.verdict
  ])
  const all = [["figure", "unit", "before", "now", "change", "verdict"], ...rows]
  const widths = [0, 1, 2, 3, 4, 5].map((column) => Math.max(...all.map((row) => row[column]?.length ?? 0)))
  return all.map((row) => row.map((cell, column) => cell.padEnd(widths[column] ?? 0)).join("  ").trimEnd()).join("\n")
}

/** Reads what `--output` or `--json` wrote. */
export const readReport = (file: string): Report => {
  let value: Partial<Report> | null
  try {
    value = JSON.parse(fs.readFileSync(file, "utf8")) as Partial<Report> | null
  } catch (error) {
    throw new Error(`cannot read ${file}: ${(error as Error).message}`, { cause: error })
  }
  if (
    value?.format !== REPORT_FORMAT || !Array.isArray(value.benches) || value.environment === undefined ||
    value.options === undefined
  ) {
    throw new Error(`${file} is no document of benchmarks in format ${REPORT_FORMAT}: make one with --output`)
  }
  return value as Report
}
