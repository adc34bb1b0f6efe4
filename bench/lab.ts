/** What benchmarks that run in the lab have in common. */
import * as Cause from "effect/Cause"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import type * as Scope from "effect/Scope"
import * as fs from "node:fs"
import * as path from "node:path"
import { LabError } from "../src/lab/LabError.ts"
import type { Daemon } from "../src/lab/processes.ts"
import { tunAddresses } from "../src/lab/scenarios/checks.ts"
import * as services from "../src/lab/services.ts"
import type { Topology } from "../src/lab/topology.ts"

/** Starts emulators and client from the build that this bench belongs to, and waits for its interface. */
export const startLab = (
  network: Topology,
  equipment: services.Equipment = {}
): Effect.Effect<{ readonly lab: services.Lab; readonly client: Daemon }, LabError, Scope.Scope> =>
  Effect.gen(function*() {
    const lab = yield* services.start(network, {
      ...equipment,
      executable: path.resolve(process.argv[1] ?? "", "..", "..", "bin", "firezone-headless-client.js")
    })
    const client = yield* lab.startClient()
    if ((yield* tunAddresses(lab)) === undefined) {
      return yield* new LabError({ what: "client", why: `did not come up:\n${client.log().slice(-2000)}` })
    }
    return { lab, client }
  })

/** Milliseconds of processor time that a process has used. */
const cpuMillis = (pid: number): number => {
  const fields = fs.readFileSync(`/proc/${pid}/stat`, "utf8").split(") ").pop()?.split(" ") ?? []
  return (Number(fields[11]) + Number(fields[12])) * 10
}

/** The cores that a process used while `effect` ran, and its result. */
export const withCores = <A, E, R>(pid: number, effect: Effect.Effect<A, E, R>) =>
  Effect.gen(function*() {
    const before = cpuMillis(pid)
    const began = performance.now()
    const value = yield* effect
    return [value, (cpuMillis(pid) - before) / (performance.now() - began)] as const
  })

/** Megabytes of a process that are in memory. */
export const memoryOf = (pid: number): number =>
  Number(/^VmRSS:\s+(\d+)/m.exec(fs.readFileSync(`/proc/${pid}/status`, "utf8"))?.[1]) / 1024

/** Ctrl+C removes the lab. */
export const runToEnd = async <A, E>(measure: Effect.Effect<A, E, Scope.Scope>): Promise<A> => {
  const interruption = new AbortController()
  for (const signal of ["SIGINT", "SIGTERM"]) process.once(signal, () => interruption.abort())
  const exit = await Effect.runPromiseExit(Effect.scoped(measure), { signal: interruption.signal })
  if (Exit.isFailure(exit)) throw Exit.isInterrupted(exit) ? new Error("interrupted") : Cause.squash(exit.cause)
  return exit.value
}
