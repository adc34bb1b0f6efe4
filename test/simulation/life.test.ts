/**
 * Stories of whole accounts. Those in `regressions` have failed once and are told every time. `SIMULATION_RUNS` says how
 * many are made up in addition, `SIMULATION_SEED` from what; both are printed when one fails, along with the story itself,
 * shrunk: kept as a file in `regressions`, it is told again.
 */
import { assert, describe, it } from "@effect/vitest"
import * as fc from "fast-check"
import { readdirSync, readFileSync } from "node:fs"
import { Life } from "./Life.ts"
import { type Story, story } from "./story.ts"

const FOLDER = new URL("regressions/", import.meta.url)
/** About a minute in CI. */
const RUNS = Number(process.env["SIMULATION_RUNS"] ?? (process.env["CI"] === undefined ? 300 : 2000))
const SEED = Number(process.env["SIMULATION_SEED"] ?? 1)
/** Told at a stretch: the runner wants to be heard from in between. */
const CHUNK = 20

const tell = (told: Story): void => {
  try {
    new Life(told).tell()
  } catch (error) {
    throw new Error(`${String(error)}\nSIMULATION_RUNS=${RUNS} SIMULATION_SEED=${SEED}\n${JSON.stringify(told)}`, {
      cause: error
    })
  }
}

describe("a story that failed once", () => {
  for (const name of readdirSync(FOLDER)) {
    it(name, () => tell(JSON.parse(readFileSync(new URL(name, FOLDER), "utf8"))))
  }
})

describe("whatever happens to an account", () => {
  for (let first = 0; first < RUNS; first += CHUNK) {
    const count = Math.min(CHUNK, RUNS - first)
    it(`everything that can be reached is reached again (${first} to ${first + count})`, { timeout: 300_000 }, () => {
      fc.assert(fc.property(story, tell), { numRuns: count, seed: SEED + first })
    })
  }

  it("the same seed tells the same story", () => {
    const [told] = fc.sample(story, { numRuns: 1, seed: SEED })
    if (told === undefined) throw new Error("no story")
    const ends = [new Life(told), new Life(told)].map((life) => {
      life.tell()
      const { clients, gateways } = life.account
      return [
        life.world.emitted,
        ...[...clients, ...gateways].map(({ machine }) => machine.core.status(life.world.now))
      ]
    })
    assert.deepStrictEqual(ends[0], ends[1])
  })
})
