/** Plays the schedules of one part of the whole, for the test files that share the work. */
import { assert, describe, it } from "@effect/vitest"
import * as fc from "fast-check"
import { Play } from "./Play.ts"
import { type Schedule, schedule } from "./schedule.ts"

/** Over all parts: about a minute in CI. */
const RUNS = Number(process.env["SIMULATION_RUNS"] ?? (process.env["CI"] === undefined ? 300 : 2000))
const SEED = Number(process.env["SIMULATION_SEED"] ?? 1)
/** What every part sees at least once; of few schedules less can be asked. */
const COMMON = ["delivered", "refused", "dropped", "data: delivered"]
const RARE = [
  ...["waiting", "past: delivered", "past: refused", "again: delivered", "data again: delivered", "forged error"],
  ...[
    "expired",
    "udp: NOERROR of portal",
    "udp: NXDOMAIN of portal",
    "udp: NOERROR of 00000000",
    "udp: SERVFAIL of us"
  ],
  ...["tcp: NOERROR of outside", "tcp: NOERROR of us"]
]
const MANY = 400
/** Played at a stretch: the runner wants to be heard from in between. */
const CHUNK = 20
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

    it("the model was asked for all that it knows", () => {
      if (process.env["SIMULATION_SEEN"] !== undefined) console.log(seen)
      for (const what of [...COMMON, ...count < MANY ? [] : RARE]) assert.isAbove(seen[what] ?? 0, 0, what)
    })
  })
}
