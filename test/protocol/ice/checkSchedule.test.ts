import { describe, expect, it } from "vitest"
import { checkDelay, type CheckSchedule, checkSchedules } from "../../../src/protocol/ice/checkSchedule.ts"
import { iceTimers } from "../../../src/protocol/wireguard/types.ts"

/** How long a pair that worked may stay silent before it is given up. */
const deadPairTimeout = (schedule: CheckSchedule): number => {
  let sum = checkDelay(schedule, schedule.maxRetransmits)
  for (let n = 2; n <= schedule.maxRetransmits; n++) sum += checkDelay(schedule, n)
  return sum
}

describe("the schedules of connectivity checks", () => {
  it("give up a silent pair as spec 9.6 says", () => {
    expect(deadPairTimeout(checkSchedules.clientDefault)).toBe(16_500)
    expect(deadPairTimeout(checkSchedules.clientIdle)).toBe(100_000)
    expect(deadPairTimeout(checkSchedules.serverDefault)).toBe(615_500)
    expect(deadPairTimeout(checkSchedules.serverIdle)).toBe(1_000_000)
  })
  it("let ICE of a client fail before WireGuard does", () => {
    expect(deadPairTimeout(checkSchedules.clientDefault)).toBeLessThan(iceTimers.rekeyAttemptTime)
  })
  it("double the gap up to the limit", () => {
    const delays = [0, 1, 2, 3, 4, 5, 20].map((n) => checkDelay(checkSchedules.clientDefault, n))
    expect(delays).toEqual([0, 250, 500, 1000, 1500, 1500, 1500])
  })
})
