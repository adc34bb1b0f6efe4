/** Relays that die, while the client's side lets no packets out but to relays. */
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import type { LabError } from "../LabError.ts"
import type { Recorder, Scenario } from "../scenario.ts"
import { type Lab, relays } from "../services.ts"
import { addresses } from "../topology.ts"
import * as traffic from "../traffic.ts"
import { bringUp, connect, download, noViolations, startHeartbeat } from "./checks.ts"
import { CONNECT_BOUND, onlyRelays } from "./paths.ts"

/** The portal's debounce of 1 s, then new candidates and the first checks of their pairs. */
const TOLD_BOUND = 1000 + 2000
/** Besides, a resource is asked for again every 2 s at most. */
const BACK_BOUND = TOLD_BOUND + 2000
/**
 * A pair dies 16.5 s after the last answer at the earliest, or up to 1.5 s later, and the connection after 2 s of grace
 * (spec 9.6, 12.5). The next one takes another relay: this one is in doubt from then on.
 */
const SILENT_BOUND = 16_500 + 1500 + 2000 + 2000 + CONNECT_BOUND

const tellPortal = (lab: Lab, present: ReadonlyArray<(typeof relays)[number]>) =>
  lab.portal.command("/relays", { relays: present })

/** Which relay carries what the client sends. */
const relayInUse = (lab: Lab): Effect.Effect<0 | 1, LabError> =>
  Effect.map(
    traffic.during(lab.topology, Effect.sleep(1000)),
    ([, { relays: [first, second] }]) => first.packets >= second.packets ? 0 : 1
  )

const names = ["the first relay", "the second relay"] as const

const judgeRecovery = (recorder: Recorder, name: string, millis: number | undefined, bound: number) =>
  recorder.check(
    name,
    millis !== undefined,
    millis === undefined ? `no answer within ${bound} ms` : `answers again after ${millis} ms; at most ${bound} ms`
  )

const begin = (lab: Lab, recorder: Recorder) =>
  Effect.gen(function*() {
    yield* traffic.observe(lab.topology)
    yield* bringUp(lab, recorder)
    yield* connect(lab, recorder, addresses.resource4, CONNECT_BOUND)
    return yield* startHeartbeat(lab, addresses.resource4)
  })

const judgeTakeover = (lab: Lab, recorder: Recorder, other: 0 | 1) =>
  Effect.gen(function*() {
    const [, seen] = yield* traffic.during(lab.topology, Effect.sleep(1000))
    yield* recorder.check(
      "another one took over",
      seen.relays[other].packets > 0 && seen.relays[1 - other]?.packets === 0,
      `${seen.relays[other].bytes} bytes of data through ${names[other]} in 1 s, ${
        seen.relays[1 - other]?.bytes
      } through the other`
    )
  })

export const relayLoss: Scenario = {
  name: "relay-loss",
  about: "the relay in use dies and another takes over, without a TCP stream breaking; all of them die and come back",
  equipment: { secondRelay: true },
  prepare: onlyRelays,
  run: (lab, recorder) =>
    Effect.gen(function*() {
      const heartbeat = yield* begin(lab, recorder)
      const stream = yield* Effect.forkScoped(
        download(lab, addresses.resource4, 14_000_000, { bytesPerSecond: 2_000_000, seconds: 40 })
      )
      const used = yield* relayInUse(lab)
      const other = used === 0 ? 1 : 0
      const diedAt = Date.now()
      yield* lab.relays[used]?.end("SIGKILL") ?? Effect.void
      yield* tellPortal(lab, [relays[other]])
      const recovery = yield* heartbeat.recovery(diedAt, TOLD_BOUND)
      yield* judgeRecovery(recorder, `${names[used]} dies, and the portal says so`, recovery, TOLD_BOUND)
      yield* judgeTakeover(lab, recorder, other)
      const { detail, right } = yield* Fiber.join(stream)
      yield* recorder.check("TCP stream", right, `${detail}, over one connection`)

      yield* lab.relays[other]?.end("SIGKILL") ?? Effect.void
      const allDiedAt = Date.now()
      yield* tellPortal(lab, [])
      const answer = yield* heartbeat.recovery(allDiedAt, 4000)
      yield* recorder.check("without relays", answer === undefined, "there is no way, and no answer for 4 s")
      yield* Effect.forEach(lab.relays, ({ start }) => start, { concurrency: "unbounded", discard: true })
      const backAt = Date.now()
      yield* tellPortal(lab, relays)
      const return_ = yield* heartbeat.recovery(backAt, BACK_BOUND)
      yield* judgeRecovery(recorder, "all relays come back", return_, BACK_BOUND)
      yield* noViolations(lab, recorder)
    })
}

export const relaySilent: Scenario = {
  name: "relay-silent",
  about: "the relay in use falls silent and nobody says so: the client finds out and takes the other one",
  equipment: { secondRelay: true },
  prepare: onlyRelays,
  run: (lab, recorder) =>
    Effect.gen(function*() {
      const heartbeat = yield* begin(lab, recorder)
      const used = yield* relayInUse(lab)
      yield* lab.relays[used]?.command("/knobs", { silent: true }) ?? Effect.void
      const silentAt = Date.now()
      const recovery = yield* heartbeat.recovery(silentAt, SILENT_BOUND)
      yield* judgeRecovery(recorder, `${names[used]} falls silent`, recovery, SILENT_BOUND)
      yield* judgeTakeover(lab, recorder, used === 0 ? 1 : 0)
      yield* noViolations(lab, recorder)
    })
}
