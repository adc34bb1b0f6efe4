/** The command line of the benches. */
import { parseArgs } from "node:util"
import type { BenchOptions } from "./report.ts"

export interface CommandLine {
  readonly names: ReadonlyArray<string>
  readonly options: BenchOptions
  readonly json: boolean
  readonly output: string | undefined
}

const FULL = { rounds: 3, seconds: 5 } as const
const QUICK = { rounds: 1, seconds: 2 } as const

/** Throws what is wrong, in words for whoever typed it. */
export const parseCommandLine = (args: ReadonlyArray<string>): CommandLine => {
  const { positionals, values } = parseArgs({
    args: [...args],
    allowPositionals: true,
    options: {
      json: { type: "boolean", default: false },
      quick: { type: "boolean", default: false },
      rounds: { type: "string" },
      seconds: { type: "string" },
      output: { type: "string" }
    }
  })
  const number = (name: "rounds" | "seconds", most: number): number => {
    const text = values[name]
    if (text === undefined) return (values.quick ? QUICK : FULL)[name]
    const value = Number(text)
    if (!Number.isInteger(value) || value < 1 || value > most) {
      throw new Error(`--${name} has to be a whole number from 1 to ${most}, not "${text}"`)
    }
    return value
  }
  return {
    names: positionals,
    options: { rounds: number("rounds", 100), seconds: number("seconds", 600), quick: values.quick },
    json: values.json,
    output: values.output
  }
}
