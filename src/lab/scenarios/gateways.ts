/** Gateways that are restarted, or die. */
import * as Effect from "effect/Effect"
import { eventually, type Recorder, type Scenario } from "../scenario.ts"
import type { Emulator, Lab } from "../services.ts"
import { addresses } from "../topology.ts"
import { bringUp, connect, fetchPage, noViolations, startHeartbeat } from "./checks.ts"
import { CONNECT_BOUND, noIpv6 } from "./paths.ts"

/** A resource is asked for again every 2 s at most; then as for any connection. */
const ASK_BOUND = 2000 + CONNECT_BOUND
/**
 * A pair dies 16.5 s after the last answer at the earliest, or up to 1.5 s later, and the connection after 2 s of grace
 * (spec 9.6, 12.5).
 */
const DEATH_BOUND = 16_500 + 1500 + 2000 + ASK_BOUND

const isOnline = (lab: Lab) =>
  eventually(
    Effect.map(lab.portal.state, ({ gateways }) => gateways.every(({ connected }) => connected)),
    10_000
  )

const judgeRecovery = (recorder: Recorder, name: string, millis: number | undefined, what: string, bound: number) =>
  recorder.check(
    name,
    millis !== undefined,
    millis === undefined
      ? `no answer within ${bound} ms ${what}`
      : `answers again ${millis} ms ${what}; at most ${bound} ms`
  )

export const gatewayRestart: Scenario = {
  name: "gateway-restart",
  about: "the gateway is restarted, in good order and after a crash: traffic recovers by itself",
  prepare: noIpv6,
  run: (lab, recorder) =>
    Effect.gen(function*() {
      const { gateway } = lab
      yield* bringUp(lab, recorder)
      yield* connect(lab, recorder, addresses.resource4, CONNECT_BOUND)
      const heartbeat = yield* startHeartbeat(lab, addresses.resource4)
      yield* gateway.end("SIGTERM")
      yield* gateway.start
      yield* isOnline(lab)
      const backAt = Date.now()
      const recovery = yield* heartbeat.recovery(backAt, ASK_BOUND)
      yield* judgeRecovery(recorder, "restart", recovery, "after the gateway was back", ASK_BOUND)

      const diedAt = Date.now()
      yield* gateway.end("SIGKILL")
      yield* gateway.start
      yield* isOnline(lab)
      yield* recorder.note(`killed, and back after ${Date.now() - diedAt} ms`)
      const second = yield* heartbeat.recovery(diedAt, DEATH_BOUND)
      yield* judgeRecovery(recorder, "crash", second, "after the gateway died", DEATH_BOUND)
      yield* fetchPage(lab, recorder, addresses.resource4)
      yield* noViolations(lab, recorder)
    })
}

export const gatewayLoss: Scenario = {
  name: "gateway-loss",
  about: "the gateway in use dies for good: traffic moves to the second one of the site",
  equipment: { secondGateway: true },
  prepare: noIpv6,
  run: (lab, recorder) =>
    Effect.gen(function*() {
      yield* bringUp(lab, recorder)
      yield* connect(lab, recorder, addresses.resource4, CONNECT_BOUND)
      const heartbeat = yield* startHeartbeat(lab, addresses.resource4)
      const peersOf = (one: Emulator<{ readonly peers: ReadonlyArray<unknown> }> | undefined) =>
        one === undefined ? Effect.succeed(0) : Effect.map(one.state, ({ peers }) => peers.length)
      const [first, second] = lab.gateways
      const [used, other] = (yield* peersOf(first)) > 0 ? [first, second] : [second, first]
      yield* recorder.check("one gateway in use", (yield* peersOf(other)) === 0, "the other one knows no client")
      const diedAt = Date.now()
      yield* used?.end("SIGKILL") ?? Effect.void
      const recovery = yield* heartbeat.recovery(diedAt, DEATH_BOUND)
      yield* judgeRecovery(recorder, "moves", recovery, "after the gateway died", DEATH_BOUND)
      yield* recorder.check("the other one is in use", (yield* peersOf(other)) === 1, "it knows the client")
      yield* fetchPage(lab, recorder, addresses.resource4)
      yield* fetchPage(lab, recorder, addresses.resource6)
      yield* noViolations(lab, recorder)
    })
}
