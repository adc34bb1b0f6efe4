/** Plays the schedules of one part of the whole, for the test files that share the work. */
import { assert, describe, it } from "@effect/vitest"
import * as fc from "fast-check"
import { Play } from "./Play.ts"
import { type Schedule, schedule } from "./schedule.ts"

/** Over all parts: about a minute in CI. */
const RUNS = Number(process.env["SIMULATION_RUNS"] ?? (process.env["CI"] === undefined ? 300 : 2000))
const SEED = Number(process.env["SIMULATION_SEED"] ?? 1)
/** Played at a stretch: the runner wants to be heard from in between. */
const CHUNK = 20
/** In a hundred schedules; a third of what was counted when this was written. */
const SEEN_AT_LEAST = {
  dropped: 300,
  delivered: 120,
  refused: 125,
  waiting: 8,
  "first again: delivered": 18,
  "data: delivered": 17,
  "data again: delivered": 2,
  "end: delivered": 8,
  expired: 3,
  "early certain: delivered": 6,
  "early whole: delivered": 9,
  "past: refused": 23,
  "udp: NOERROR of portal": 20
}
/** In fewer schedules, what is rare may not come. */
const ENOUGH = 50
export const PARTS = 4

export const play = (played: Schedule, seen: { [what: string]: number } = {}): void => {
  const begun = new Play(played)
  try {
    begun.run()
  } catch (error) {
    const steps = played.steps.map(({ change }, index) => `${index}. ${JSON.stringify(change)}`).join("\n")
    throw new Error(
      `${error instanceof Error ? error.message : String(error)}\n${steps}\n` +
        `To play it again: put the next line into a file in test/simulation/resources/regressions, and run\n` +
        `npx vitest run test/simulation/resources/regressions.test.ts\n${JSON.stringify(played)}`,
      { cause: error }
    )
  }
  for (const [what, times] of Object.entries(begun.seen)) seen[what] = (seen[what] ?? 0) + times
}

export const describePart = (part: number): void => {
  const count = Math.ceil(RUNS / PARTS)
  const seen: { [what: string]: number } = {}
  describe(`schedules, part ${part} of ${PARTS} (SIMULATION_RUNS=${RUNS} SIMULATION_SEED=${SEED})`, () => {
    for (let first = 0; first < count; first += CHUNK) {
      const runs = Math.min(CHUNK, count - first)
      it(`every packet and query fares as the model says (${first} to ${first + runs})`, { timeout: 300_000 }, () => {
        fc.assert(fc.property(schedule, (each) => play(each, seen)), {
          numRuns: runs,
          // Of what failed something shorter is looked for, but not for ever.
          interruptAfterTimeLimit: 60_000,
          seed: SEED + part * 1_000_000 + first
        })
      })
    }

    it.skipIf(count < ENOUGH)("the model was asked for all that it knows, and often enough", () => {
      if (process.env["SIMULATION_SEEN"] !== undefined) console.log(seen)
      for (const [what, times] of Object.entries(SEEN_AT_LEAST)) {
        assert.isAtLeast(seen[what] ?? 0, Math.floor(times * count / 100), what)
      }
    })
  })
}
