/** The portal goes away and comes back, while the client is used. */
import * as Effect from "effect/Effect"
import { eventually, type Recorder, type Scenario } from "../scenario.ts"
import type { Lab } from "../services.ts"
import { addresses } from "../topology.ts"
import { bringUp, connect, download, noViolations, startHeartbeat } from "./checks.ts"

const FILE_BYTES = 10_000_000
const CONNECT_BOUND = 3000
/** Should the client be back before the gateway, it hears that this is offline, and asks again 2 s later. */
const GRANT_BOUND = 2000 + CONNECT_BOUND
/** Pings go out every 100 ms. */
const SILENCE_BOUND = 500

interface Outage {
  readonly downMillis: number
  /** The wait between attempts grows by half, and may be twice that (portal spec 4). */
  readonly backMillis: number
}

const isBack = (lab: Lab) =>
  Effect.map(
    lab.portal.state,
    ({ clients, gateways }) => clients.length > 0 && [...clients, ...gateways].every(({ connected }) => connected)
  )

const run = ({ backMillis, downMillis }: Outage) => (lab: Lab, recorder: Recorder) =>
  Effect.gen(function*() {
    yield* bringUp(lab, recorder)
    yield* connect(lab, recorder, addresses.resource4, CONNECT_BOUND)
    const used = yield* startHeartbeat(lab, addresses.resource4)
    const before = yield* lab.portal.state
    const began = Date.now()
    yield* lab.portal.command("/restart", { downMillis })

    // A resource that was not granted yet, of which the portal cannot be asked now.
    const wanted = yield* startHeartbeat(lab, addresses.resource6)
    const { detail, right } = yield* download(lab, addresses.resource4, FILE_BYTES)
    const during = yield* lab.portal.state
    const isAway = Date.now() - began < downMillis && !during.clients.some(({ connected }) => connected)
    yield* recorder.check(
      "while it is away: a download",
      right && isAway,
      isAway ? detail : "the portal came back before it was over"
    )
    yield* recorder.check(
      "while it is away: no new access",
      (yield* wanted.recovery(began, 0)) === undefined && during.grants.length === before.grants.length,
      "pings to a resource that was not granted are not answered"
    )
    yield* Effect.sleep(Math.max(0, began + downMillis - Date.now()))
    const back = yield* eventually(isBack(lab), backMillis)
    yield* recorder.check(
      "back",
      back === true,
      back === true
        ? `client and gateway signed in ${Date.now() - began - downMillis} ms after the portal was there again`
        : `not within ${backMillis} ms`
    )
    const granted = yield* wanted.recovery(Date.now(), GRANT_BOUND)
    yield* recorder.check(
      "then: new access",
      granted !== undefined,
      granted === undefined
        ? `not within ${GRANT_BOUND} ms`
        : `a ping is answered after ${granted} ms; at most ${GRANT_BOUND} ms`
    )
    const silence = used.longestSilence(began)
    yield* recorder.check(
      "existing access goes on",
      silence <= SILENCE_BOUND,
      `pings every 100 ms, never more than ${silence} ms between answers`
    )
    const after = yield* lab.portal.state
    yield* recorder.check(
      "the same session",
      after.clients[0]?.publicKey === before.clients[0]?.publicKey && after.clients.length === 1,
      "the client signed in under its old key"
    )
    yield* noViolations(lab, recorder)
  })

export const portalRestart: Scenario = {
  name: "portal-restart",
  about: "the portal restarts: existing access goes on, and new access is granted afterwards",
  run: run({ downMillis: 3000, backMillis: 8000 })
}

export const portalDown: Scenario = {
  name: "portal-down",
  about: "the portal is away for 15 s: existing access goes on, and new access is granted afterwards",
  run: run({ downMillis: 15_000, backMillis: 25_000 })
}
