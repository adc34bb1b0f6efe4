/** What benchmarks that run in the lab have in common. */
import * as Cause from "effect/Cause"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import type * as Scope from "effect/Scope"
import * as fs from "node:fs"
import * as path from "node:path"
import { LabError } from "../src/lab/LabError.ts"
import type { Daemon } from "../src/lab/processes.ts"
import { eventually } from "../src/lab/scenario.ts"
import { tunAddresses } from "../src/lab/scenarios/checks.ts"
import * as services from "../src/lab/services.ts"
import type { Topology } from "../src/lab/topology.ts"

/** Emulators, from the build that this bench belongs to; no client yet. */
export const startEmulators = (
  network: Topology,
  equipment: services.Equipment = {}
): Effect.Effect<services.Lab, LabError, Scope.Scope> =>
  services.start(network, {
    ...equipment,
    executable: path.resolve(process.argv[1] ?? "", "..", "..", "bin", "firezone-headless-client.js")
  })

/** Starts emulators and client, and waits for its interface. */
export const startLab = (
  network: Topology,
  equipment: services.Equipment = {},
  clientEnv: Readonly<Record<string, string>> = {}
): Effect.Effect<{ readonly lab: services.Lab; readonly client: Daemon }, LabError, Scope.Scope> =>
  Effect.gen(function*() {
    const lab = yield* startEmulators(network, equipment)
    const client = yield* lab.startClient({ env: clientEnv })
    yield* waitForInterface(lab, client)
    return { lab, client }
  })

export const waitForInterface = (lab: services.Lab, client: Daemon): Effect.Effect<void, LabError> =>
  Effect.gen(function*() {
    if ((yield* tunAddresses(lab)) === undefined) {
      return yield* new LabError({ what: "client", why: `did not come up:\n${client.log().slice(-2000)}` })
    }
  })

/** Milliseconds of processor time that a process has used, in user and in system mode. */
export const cpuMillis = (pid: number): number => {
  const fields = fs.readFileSync(`/proc/${pid}/stat`, "utf8").split(") ").pop()?.split(" ") ?? []
  return (Number(fields[11]) + Number(fields[12])) * 10
}

/** Milliseconds that all cores of this machine together were not idle, whoever used them. */
export const machineMillis = (): number => {
  const [user, nice, system, _idle, _wait, irq, softirq] =
    /^cpu +(.*)$/m.exec(fs.readFileSync("/proc/stat", "utf8"))?.[1]?.split(" ").map(Number) ?? []
  return [user, nice, system, irq, softirq].reduce<number>((sum, ticks) => sum + (ticks ?? 0), 0) * 10
}

/** The cores that a process used while `effect` ran, and its result. */
export const withCores = <A, E, R>(pid: number, effect: Effect.Effect<A, E, R>) =>
  Effect.gen(function*() {
    const before = cpuMillis(pid)
    const began = performance.now()
    const value = yield* effect
    return [value, (cpuMillis(pid) - before) / (performance.now() - began)] as const
  })

/** Megabytes (2^20 bytes) of a process that are in memory. */
export const memoryOf = (pid: number): number =>
  Number(/^VmRSS:\s+(\d+)/m.exec(fs.readFileSync(`/proc/${pid}/status`, "utf8"))?.[1]) / 1024

/** Ctrl+C removes the lab. */
export const runToEnd = async <A, E>(measure: Effect.Effect<A, E, Scope.Scope>): Promise<A> => {
  const interruption = new AbortController()
  const abort = (): void => interruption.abort()
  for (const signal of ["SIGINT", "SIGTERM"]) process.on(signal, abort)
  const exit = await Effect.runPromiseExit(Effect.scoped(measure), { signal: interruption.signal })
  for (const signal of ["SIGINT", "SIGTERM"]) process.off(signal, abort)
  if (Exit.isFailure(exit)) throw Exit.isInterrupted(exit) ? new Error("interrupted") : Cause.squash(exit.cause)
  return exit.value
}

/** A program of `serve.ts`, for a host of the lab. */
export const serveArgv = (role: string, config: object): ReadonlyArray<string> => [
  process.execPath,
  path.resolve(process.argv[1] ?? ""),
  "serve",
  role,
  JSON.stringify(config)
]

/** The first line of JSON in which such a program says something of `key`. */
export const toldBy = (
  daemon: Daemon,
  key: string,
  withinMillis: number
): Effect.Effect<Readonly<Record<string, unknown>>, LabError> =>
  Effect.gen(function*() {
    const told = yield* eventually(
      Effect.sync(() =>
        daemon.log().split("\n").filter((line) => line.startsWith("{") && line.endsWith("}"))
          .map((line) => JSON.parse(line) as Readonly<Record<string, unknown>>)
          .find((line) => key in line || "error" in line)
      ),
      withinMillis
    )
    if (told === undefined || "error" in told) {
      return yield* new LabError({ what: "a program of the bench", why: `did not tell "${key}":\n${daemon.log()}` })
    }
    return told
  })
