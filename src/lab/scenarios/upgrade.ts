/** A direct path that opens while packets go through a relay, and one that closes. */
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import { eventually, type Scenario } from "../scenario.ts"
import { addresses, type NatType, type Topology } from "../topology.ts"
import * as traffic from "../traffic.ts"
import { bringUp, connect, download, fetchPage, noViolations, startHeartbeat } from "./checks.ts"
import { clientRouters, CONNECT_BOUND, nats, noIpv6, onlyRelays } from "./paths.ts"

interface Opening {
  readonly afterMillis: number
  /** What the client's routers are from then on. */
  readonly to: NatType
  readonly boundMillis: number
  readonly fileBytes: number
}

const BYTES_PER_SECOND = 2_000_000
/** No packet waits for the change; routers that are set up anew may lose what is on its way. */
const SILENCE_BOUND = 1000

const run = ({ afterMillis, boundMillis, fileBytes, to }: Opening): Scenario["run"] => (lab, recorder) =>
  Effect.gen(function*() {
    const { topology } = lab
    yield* traffic.observe(topology)
    yield* bringUp(lab, recorder)
    yield* connect(lab, recorder, addresses.resource4, CONNECT_BOUND)
    const heartbeat = yield* startHeartbeat(lab, addresses.resource4)
    const stream = yield* Effect.forkScoped(
      download(lab, addresses.resource4, fileBytes, { bytesPerSecond: BYTES_PER_SECOND })
    )
    const [, before] = yield* traffic.during(topology, Effect.sleep(afterMillis))
    yield* recorder.check(
      "starts through the relay",
      before.direct.packets === 0 && before.relays[0].bytes >= BYTES_PER_SECOND,
      `direct ${before.direct.bytes} bytes, through the relay ${before.relays[0].bytes} bytes of data`
    )
    yield* nats(topology, clientRouters, to)
    const openedAt = Date.now()
    const isDirect = yield* eventually(
      Effect.map(traffic.read(topology), ({ direct }) => direct.packets > 0),
      boundMillis
    )
    yield* recorder.check(
      "moves to the direct path",
      isDirect === true,
      isDirect === true
        ? `the first data on it ${Date.now() - openedAt} ms after it opened; at most ${boundMillis} ms`
        : `no data on it ${boundMillis} ms after it opened`
    )
    // What each side still had on its way.
    yield* Effect.sleep(500)
    const [, after] = yield* traffic.during(topology, Effect.sleep(2000))
    yield* recorder.check(
      "leaves the relay",
      after.direct.bytes >= BYTES_PER_SECOND && after.relays[0].packets === 0,
      `direct ${after.direct.bytes} bytes, through the relay ${after.relays[0].bytes} bytes of data`
    )
    const { detail, right } = yield* Fiber.join(stream)
    yield* recorder.check("TCP stream", right, `${detail}, over one connection`)
    const silence = heartbeat.longestSilence(openedAt)
    yield* recorder.check(
      "no silence",
      silence <= SILENCE_BOUND,
      `ten pings a second: ${silence} ms at most between two answers; at most ${SILENCE_BOUND} ms`
    )
    yield* noViolations(lab, recorder)
  })

const prepare = (topology: Topology) => Effect.zipRight(noIpv6(topology), onlyRelays(topology))

export const upgrade: Scenario = {
  name: "upgrade",
  about: "starts through a relay; a direct path opens and is taken, and a TCP stream does not break",
  prepare,
  run: run({
    afterMillis: 3000,
    to: "home",
    // The client checks every pair that is alive 1.5 s after the check before (spec 9.6), and nominates what answers. A
    // check that meets a router which is still being set up is followed by one after as long.
    boundMillis: 3000,
    fileBytes: 16_000_000
  })
}

export const upgradeLate: Scenario = {
  name: "upgrade-late",
  about: "starts through a relay; a direct path opens long after the client gave up on it: the gateway's checks get in",
  prepare,
  run: run({
    // The client's pairs are dead by then, at the latest after 18 s (spec 9.6). It answers those who can reach it.
    afterMillis: 22_000,
    to: "fullcone",
    // The gateway checks every 15 s.
    boundMillis: 15_000 + 3000,
    fileBytes: 90_000_000
  })
}

/**
 * The client leaves the pair when six checks in a row were lost, of which it sends the first 1.5 s after an answer and the
 * last 5.25 s later, and another pair is answered. The gateway, which is more patient, has to hear of it from the portal, and
 * takes the other pair with its next check. Checks are 1.5 s apart.
 */
const FALLBACK_BOUND = 1500 + 5250 + 1500 + 1500 + 2000

export const fallback: Scenario = {
  name: "fallback",
  about: "starts on a direct path, which is then closed: traffic goes on through a relay",
  prepare: noIpv6,
  run: (lab, recorder) =>
    Effect.gen(function*() {
      const { topology } = lab
      yield* traffic.observe(topology)
      yield* bringUp(lab, recorder)
      yield* connect(lab, recorder, addresses.resource4, CONNECT_BOUND)
      const heartbeat = yield* startHeartbeat(lab, addresses.resource4)
      yield* Effect.sleep(2000)
      const [, before] = yield* traffic.during(topology, Effect.sleep(1000))
      yield* recorder.check(
        "starts on the direct path",
        before.direct.packets > 0 && before.relays[0].packets === 0,
        `direct ${before.direct.bytes} bytes, through the relay ${before.relays[0].bytes} bytes of data`
      )
      yield* onlyRelays(topology)
      const closedAt = Date.now()
      const recovery = yield* heartbeat.recovery(closedAt, FALLBACK_BOUND)
      yield* recorder.check(
        "goes on through the relay",
        recovery !== undefined,
        recovery === undefined
          ? `no answer within ${FALLBACK_BOUND} ms`
          : `answers again ${recovery} ms after the direct path closed; at most ${FALLBACK_BOUND} ms`
      )
      const [, after] = yield* traffic.during(topology, fetchPage(lab, recorder, addresses.resource6))
      yield* recorder.check(
        "nothing direct",
        after.relays[0].packets > 0,
        `through the relay ${after.relays[0].bytes} bytes of data`
      )
      yield* noViolations(lab, recorder)
    })
}
