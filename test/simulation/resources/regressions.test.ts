/** Schedules that failed once, and the one in the file that `SIMULATION_SCHEDULE` names. */
import { describe, it } from "@effect/vitest"
import { readdirSync, readFileSync } from "node:fs"
import { play } from "./schedules.ts"

const FOLDER = new URL("regressions/", import.meta.url)
const given = process.env["SIMULATION_SCHEDULE"]

describe("a schedule that failed once", () => {
  for (const name of readdirSync(FOLDER)) {
    it(name, () => play(JSON.parse(readFileSync(new URL(name, FOLDER), "utf8"))))
  }
  if (given !== undefined) it(given, () => play(JSON.parse(readFileSync(given, "utf8"))))
})
