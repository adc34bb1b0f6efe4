/** One client with many resources behind many gateways. */
import * as Effect from "effect/Effect"
import * as fs from "node:fs"
import { addressIn, type Farm } from "../gateway/farm.ts"
import type { Recorder, Scenario } from "../scenario.ts"
import type { Lab } from "../services.ts"
import { bringUp, noViolations } from "./checks.ts"

const FARM: Farm = { gateways: 50, resourcesEach: 10 }
/** All of them at once, and both ends of every connection share this machine. */
const FIRST_BYTE_BOUND = 10_000
/** Connections are idle after 20 s; then each checks its path every 25 s. */
const UNTIL_IDLE = 25_000
const MEASURED = 10_000
const MEMORY_BOUND = 300
const IDLE_CPU_BOUND = 5

/** Ticks of the clock that the kernel counts a process's time by (proc(5)). */
const TICKS_PER_SECOND = 100

const residentMegabytes = (pid: number): number =>
  Number(/VmRSS:\s+(\d+) kB/.exec(fs.readFileSync(`/proc/${pid}/status`, "utf8"))?.[1] ?? Number.NaN) / 1024

const cpuSeconds = (pid: number): number => {
  const [, fields = ""] = fs.readFileSync(`/proc/${pid}/stat`, "utf8").split(") ")
  const values = fields.split(" ")
  return (Number(values[11]) + Number(values[12])) / TICKS_PER_SECOND
}

/** Of one core, in per cent. */
const cpuDuring = (pid: number, millis: number) =>
  Effect.gen(function*() {
    const before = cpuSeconds(pid)
    const began = performance.now()
    yield* Effect.sleep(millis)
    return (cpuSeconds(pid) - before) * 100_000 / (performance.now() - began)
  })

/** One ping to each at once; the times of those that are answered, in milliseconds and ascending. */
const pingAll = (lab: Lab, targets: ReadonlyArray<string>) =>
  Effect.map(
    lab.topology.run("client", [
      "sh",
      "-c",
      `for to in ${targets.join(" ")}; do ping -n -c 1 -W 10 $to & done; wait`
    ]),
    ({ stdout }) =>
      Array.from(stdout.matchAll(/time=([0-9.]+) ms/g), (match) => Number(match[1])).toSorted((a, b) => a - b)
  )

const numbers = (count: number) => Array.from({ length: count }, (_, index) => index)

const run = (lab: Lab, recorder: Recorder) =>
  Effect.gen(function*() {
    const { pid } = yield* bringUp(lab, recorder)
    yield* Effect.sleep("2 seconds")
    const memoryBefore = residentMegabytes(pid)
    yield* recorder.note(
      `signed in with ${FARM.gateways * FARM.resourcesEach} resources: ${memoryBefore.toFixed(0)} MB`
    )

    const first = yield* pingAll(lab, numbers(FARM.gateways).map((gateway) => addressIn(gateway, 0)))
    const at = (share: number): number => first[Math.floor((first.length - 1) * share)] ?? Number.NaN
    yield* recorder.check(
      `${FARM.gateways} gateways at once: first byte`,
      first.length === FARM.gateways && at(1) <= FIRST_BYTE_BOUND,
      `${first.length} answered, after ${at(0.5).toFixed(0)} ms (median), ${at(0.95).toFixed(0)} ms (95 %), ${
        at(1).toFixed(0)
      } ms (last); at most ${FIRST_BYTE_BOUND} ms`
    )
    const rest = numbers(FARM.gateways).flatMap((gateway) =>
      numbers(FARM.resourcesEach - 1).map((resource) => addressIn(gateway, resource + 1))
    )
    const others = yield* pingAll(lab, rest)
    yield* recorder.check(
      "every other resource, over these connections",
      others.length === rest.length,
      `${others.length} of ${rest.length} answered, the last after ${(others.at(-1) ?? Number.NaN).toFixed(0)} ms`
    )
    const peers = (yield* lab.farm?.state ?? Effect.succeed({ peers: 0 })).peers
    yield* recorder.check("connections", peers === FARM.gateways, `the gateways have ${peers}`)
    const active = yield* cpuDuring(pid, MEASURED)
    yield* Effect.sleep(UNTIL_IDLE)
    const idle = yield* cpuDuring(pid, MEASURED)
    const memory = residentMegabytes(pid)
    yield* recorder.check(
      "memory",
      memory <= MEMORY_BOUND,
      `${memory.toFixed(0)} MB resident, ${
        (memory - memoryBefore).toFixed(0)
      } MB of them for ${FARM.gateways} connections; at most ${MEMORY_BOUND} MB`
    )
    yield* recorder.check(
      "idle CPU",
      idle <= IDLE_CPU_BOUND,
      `${idle.toFixed(1)} % of a core with idle connections, ${
        active.toFixed(1)
      } % in the 20 s before that; at most ${IDLE_CPU_BOUND} %`
    )
    yield* noViolations(lab, recorder)
  })

export const many: Scenario = {
  name: "many",
  about: `${FARM.gateways} gateways and ${
    FARM.gateways * FARM.resourcesEach
  } resources: memory, idle CPU, time to the first byte`,
  equipment: { farm: FARM },
  run
}
