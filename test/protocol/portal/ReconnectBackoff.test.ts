import { describe, expect, it } from "vitest"
import { ReconnectBackoff } from "../../../src/protocol/portal/ReconnectBackoff.ts"

const delays = (backoff: ReconnectBackoff, count: number, random = 0) =>
  Array.from({ length: count }, () => {
    const retry = backoff.failed(random, 0)
    return retry._tag === "Retry" ? retry.delayMillis : retry._tag
  })

describe("reconnect backoff (portal spec 4, test 5)", () => {
  it("gives up after 15 delays of 1 s before the first join, without jitter", () => {
    expect(delays(new ReconnectBackoff(undefined), 16, 0.9)).toEqual([...Array<number>(15).fill(1000), "Exhausted"])
  })
  it("grows from 0.5 s by half up to 60 s after a join, times [1, 2), for ever", () => {
    const backoff = new ReconnectBackoff(undefined)
    backoff.joined(0)
    expect(delays(backoff, 4)).toEqual([500, 750, 1125, 1687.5])
    delays(backoff, 20)
    expect(delays(backoff, 1)).toEqual([60_000])
    expect(delays(backoff, 1, 0.5)).toEqual([90_000])
    expect(delays(backoff, 10_000).at(-1)).toBe(60_000)
  })
  it("counts delays against the partition limit, and a join or a reset starts over", () => {
    const backoff = new ReconnectBackoff(2000)
    backoff.joined(0)
    expect(delays(backoff, 3)).toEqual([500, 750, "Exhausted"])
    backoff.joined(-10_000)
    expect(delays(backoff, 1)).toEqual([500])
    backoff.reset()
    expect(delays(backoff, 3)).toEqual([500, 750, "Exhausted"])
  })
  it("does not start over with a portal that ends every session right after the join", () => {
    const backoff = new ReconnectBackoff(2000)
    for (let i = 0; i < 5; i++) backoff.failed(0, 0)
    const next = (joinedFor: number) => {
      backoff.joined(1000)
      return backoff.failed(0, 1000 + joinedFor)
    }
    expect([next(0), next(9999), next(9999)].map((retry) => retry._tag === "Retry" && retry.delayMillis))
      .toEqual([500, 750, 1125])
    // The budget is for being without the portal.
    for (let i = 0; i < 20; i++) next(0)
    expect(next(10_000)).toEqual({ _tag: "Retry", delayMillis: 500 })
    expect(next(0)).toEqual({ _tag: "Retry", delayMillis: 750 })
    backoff.joined(0)
    backoff.reset()
    expect(backoff.failed(0, 0)).toEqual({ _tag: "Retry", delayMillis: 500 })
  })
  it("takes the portal's word without spending budget, within bounds", () => {
    const backoff = new ReconnectBackoff(undefined)
    for (let i = 0; i < 100; i++) {
      expect(backoff.failedWithRetryAfter(5000)).toEqual({ _tag: "Retry", delayMillis: 5000 })
    }
    expect(backoff.failedWithRetryAfter(0)).toEqual({ _tag: "Retry", delayMillis: 500 })
    expect(backoff.failedWithRetryAfter(1e15)).toEqual({ _tag: "Retry", delayMillis: 3_600_000 })
    expect(delays(backoff, 16)).toEqual([...Array<number>(15).fill(1000), "Exhausted"])
  })
})
