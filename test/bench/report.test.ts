import { describe, expect, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import { compare, differences } from "../../bench/compare.ts"
import { tracedHeap } from "../../bench/lag.ts"
import { parseCommandLine } from "../../bench/options.ts"
import { type BenchResult, figure, median, quantile, ratios, type Report, table } from "../../bench/report.ts"
import { highestRate } from "../../bench/search.ts"

const report = (results: ReadonlyArray<BenchResult>, rounds = 3): Report => ({
  format: 1,
  startedAt: "2026-01-01T00:00:00.000Z",
  environment: {
    cpu: "a CPU",
    cores: 2,
    memoryGib: 8,
    kernel: "Linux 6.1",
    load1: Math.random(),
    tcpCongestionControl: "cubic",
    versions: { node: "20.0.0" }
  },
  options: { rounds, seconds: 5, quick: false },
  benches: [{ bench: "a bench", durationSeconds: 1, settings: ["a setting"], results }]
})

const verdictOf = (before: BenchResult, after: BenchResult) => compare(report([before]), report([after]))[0]?.verdict

describe("figures", () => {
  it("are medians, of even numbers of rounds too", () => {
    expect([median([3, 1, 2]), median([4, 1, 2, 3]), median([])]).toEqual([2, 2.5, Number.NaN])
  })

  it("have quantiles that are values", () => {
    const values = Array.from({ length: 100 }, (_, i) => 100 - i)
    expect([quantile(values, 0.5), quantile(values, 0.99), quantile([7], 0.99), quantile([], 0.5)])
      .toEqual([50, 99, 7, Number.NaN])
  })

  it("are judged by their median", () => {
    expect(figure("a", "x", [4, 6, 5], { atLeast: 5 })).toMatchObject({ value: 5, ok: true, better: "higher" })
    expect(figure("a", "ms", [20], { below: 20 })).toMatchObject({ ok: false, aim: "< 20", better: "lower" })
    expect(figure("a", "ms", [20], { atMost: 20 })).toMatchObject({ ok: true })
    expect(figure("a", "ms", [20])).not.toHaveProperty("ok")
  })

  it("that are missing meet no aim", () => {
    for (const aim of [{ atLeast: 0 }, { atMost: 1 }, { below: 1 }]) expect(figure("a", "", [], aim).ok).toBe(false)
    for (const theirs of [[], [0, 1, 1], [1, 1, 0]]) {
      expect(figure("a", "x", ratios([9, 9, 9], theirs), { atLeast: 0 }).ok).toBe(false)
    }
  })

  it("are shown with their range and the verdict", () => {
    const results = [figure("a rate", "x", [4, 6, 5], { atLeast: 6 })]
    const shown = table({ bench: "b", durationSeconds: 3, settings: ["s"], results, error: "why" })
    expect(shown).toContain("a rate       5.00 x  (4.00 .. 6.00)")
    expect(shown).toContain("aim >= 6, MISSED")
    expect(shown).toContain("FAILED: why")
  })
})

describe("a comparison", () => {
  const before = figure("rate", "Mbit/s", [100, 110, 120], { better: "higher" })

  it("calls a change noise if the ranges meet", () => {
    expect(verdictOf(before, figure("rate", "Mbit/s", [119, 130, 140], { better: "higher" }))).toBe("within noise")
    expect(verdictOf(before, figure("rate", "Mbit/s", [120, 130, 140], { better: "higher" }))).toBe("within noise")
  })

  it("tells better from worse by what is wanted", () => {
    expect(verdictOf(before, figure("rate", "Mbit/s", [121, 130, 140], { better: "higher" }))).toBe("better")
    expect(verdictOf(before, figure("rate", "Mbit/s", [80, 90, 99], { better: "higher" }))).toBe("worse")
    const lag = figure("lag", "ms", [1, 2, 3], { better: "lower" })
    expect(verdictOf(lag, figure("lag", "ms", [4, 5, 6], { better: "lower" }))).toBe("worse")
    expect(verdictOf(figure("n", "", [1, 2]), figure("n", "", [3, 4]))).toBe("changed")
  })

  it("claims nothing without noise to judge by", () => {
    expect(verdictOf(before, figure("rate", "Mbit/s", [500], { better: "higher" }))).toBe("unknown noise")
    expect(verdictOf({ name: "n", value: 1, unit: "" }, { name: "n", value: 2, unit: "" })).toBe("unknown noise")
    expect(verdictOf(before, figure("rate", "Mbit/s", [Number.NaN, 1], { better: "higher" }))).toBe("unknown noise")
  })

  it("shows what is new and what has gone", () => {
    const changes = compare(report([before]), report([figure("other", "ms", [1])]))
    expect(changes.map(({ name, verdict }) => [name, verdict])).toEqual([["rate", "gone"], ["other", "new"]])
  })

  it("gives the change in per cent of what was", () => {
    const [change] = compare(report([before]), report([figure("rate", "Mbit/s", [55, 55, 55])]))
    expect(change?.percent).toBe(-50)
  })

  it("survives a journey through JSON", () => {
    const lost = figure("rate", "Mbit/s", [Number.NaN, 1], { better: "higher" })
    const journey = JSON.parse(JSON.stringify(report([lost]))) as Report
    expect(compare(journey, journey)[0]).toMatchObject({ percent: undefined, verdict: "unknown noise" })
  })

  it("says that machines or options differ, but not that the load does", () => {
    expect(differences(report([]), report([]))).toEqual([])
    expect(differences(report([], 3), report([], 5))).toEqual(["rounds: 3 before, 5 now"])
  })
})

describe("the search for the highest rate", () => {
  const search = (limit: number, sender = Infinity, first = 50) => {
    const tried: Array<number> = []
    return {
      tried,
      found: Effect.runSync(highestRate((rate) =>
        Effect.sync(() => {
          tried.push(rate)
          return { passed: Math.min(rate, sender) <= limit, achieved: Math.min(rate, sender), exhausted: rate > sender }
        }), { first, highest: 12_800, steps: 6 }))
    }
  }

  it("comes close to it from below", () => {
    for (const limit of [51, 130, 777, 6000]) {
      const { found } = search(limit)
      expect(found).toBeLessThanOrEqual(limit)
      expect(found).toBeGreaterThan(limit * 0.98)
    }
  })

  it("ends where the sender can do no more", () => {
    expect(search(Infinity, 300).found).toBe(300)
  })

  it("ends at the highest rate", () => {
    expect(search(Infinity)).toMatchObject({ found: 12_800 })
  })

  it("finds nothing if the first rate is too much, after a second try", () => {
    expect(search(10)).toEqual({ found: 0, tried: [50, 50] })
  })
})

describe("the command line", () => {
  it("has defaults, and shorter ones for a quick run", () => {
    expect(parseCommandLine(["all"]).options).toEqual({ rounds: 3, seconds: 5, quick: false })
    expect(parseCommandLine(["ping", "--quick", "--rounds", "2"]).options).toEqual({
      rounds: 2,
      seconds: 2,
      quick: true
    })
  })

  it("refuses numbers that are none", () => {
    for (const text of ["0", "-1", "1.5", "x", "", "101"]) {
      expect(() => parseCommandLine(["all", `--rounds=${text}`])).toThrow("--rounds has to be a whole number")
    }
    expect(() => parseCommandLine(["--nonsense"])).toThrow("--nonsense")
  })
})

it("finds the heap's sizes in what --trace-gc says", () => {
  const log = `[77:0x6d0] 42 ms: Scavenge 8.1 (9.5) -> 7.6 (10.5) MB, 0.8 / 0.0 ms allocation failure;
[77:0x6d0] 99 ms: Mark-sweep (reduce) 12.5 (20.1) -> 9.3 (15.0) MB, 4.1 / 0.0 ms finalize incremental marking
[77:0x6d0] 120 ms: Mark-Compact 22.5 (30.1) -> 11.0 (25.0) MB, 3.0 / 0.0 ms task; scavenge might not succeed
`
  expect(tracedHeap(log)).toEqual([9.3, 11])
})
