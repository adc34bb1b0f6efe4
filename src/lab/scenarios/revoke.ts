/** Access that ends: because its resource is deleted, or because its time is over. */
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import type * as Scope from "effect/Scope"
import type { LabError } from "../LabError.ts"
import { eventually, type Recorder, type Scenario } from "../scenario.ts"
import { ids, type Lab } from "../services.ts"
import { addresses } from "../topology.ts"
import { bringUp, connect, download, noViolations, ping, startHeartbeat, statusOf, tunPackets } from "./checks.ts"
import { CONNECT_BOUND } from "./paths.ts"

/** Slow enough to be running when the resource goes, and short enough to be waited for. */
const FILE_BYTES = 3_000_000
const BYTES_PER_SECOND = 1_000_000
/** A resource is asked for again every 2 s at most; then as for any connection. */
const ASK_BOUND = 2000 + CONNECT_BOUND
const GRANT_SECONDS = 2

const resourceStatus = (lab: Lab, id: string) =>
  Effect.map(statusOf(lab), ({ resources }) => resources.find((resource) => resource.id === id)?.status)

const deleted = (lab: Lab, recorder: Recorder) =>
  Effect.gen(function*() {
    const { gateway, portal } = lab
    const resource = (yield* portal.state).resources.find(({ id }) => id === ids.cidr4)
    yield* connect(lab, recorder, addresses.resource4, CONNECT_BOUND)
    const online = yield* resourceStatus(lab, ids.cidr4)
    yield* recorder.check("in use", online === "Online", `its status is ${online}`)
    const stream = yield* Effect.fork(
      download(lab, addresses.resource4, FILE_BYTES, { seconds: 30, bytesPerSecond: BYTES_PER_SECOND })
    )
    const idle = yield* tunPackets(lab)
    // Segments that the kernel has put together are one packet.
    const isRunning = Effect.map(tunPackets(lab), ({ rx }) => rx > idle.rx + 5)
    yield* recorder.check("a stream runs", (yield* eventually(isRunning, 5000)) === true, "its packets come out")

    yield* portal.command("/resources/delete", { id: ids.cidr4 })
    const forgotten = yield* eventually(
      Effect.map(gateway.state, ({ peers }) => peers.length === 0),
      2000
    )
    yield* recorder.check(
      "goodbye reached the gateway",
      forgotten === true,
      forgotten === true ? "it was the last resource there, and the gateway forgot the client" : "it knows the client"
    )
    const { peers, resources } = yield* statusOf(lab)
    yield* recorder.check(
      "gone from the status",
      peers.length === 0 && resources.every(({ id }) => id !== ids.cidr4),
      `${peers.length} peers; resources: ${resources.map(({ address }) => address).join() || "none"}`
    )
    const before = yield* tunPackets(lab)
    const answers = yield* ping(lab, addresses.resource4, 3, ["-W", "1"])
    const arrived = (yield* tunPackets(lab)).rx - before.rx
    yield* recorder.check(
      "the stream is cut",
      answers.length === 0 && arrived === 0 && (yield* Fiber.poll(stream))._tag === "None",
      `${answers.length} pings were answered, ${arrived} packets came out of the tunnel device`
    )

    yield* portal.command("/resources/put", resource)
    const offered = yield* eventually(
      Effect.map(resourceStatus(lab, ids.cidr4), (status) => status === "Unknown"),
      2000
    )
    yield* recorder.check("created again", offered === true, "its status is Unknown: nothing was sent to it")
    yield* connect(lab, recorder, addresses.resource4, CONNECT_BOUND)
    const { detail, right } = yield* Fiber.join(stream)
    yield* recorder.check("the stream goes on", right, detail)
  })

/** The gateway forgets the grant without a word, and keeps the client for the sake of another one. */
const expired = (lab: Lab, recorder: Recorder) =>
  Effect.gen(function*() {
    const { portal } = lab
    const requests = Effect.map(portal.state, ({ clients: [client] }) => client?.messages["request_authorization"] ?? 0)
    yield* portal.command("/knobs", { grantSeconds: GRANT_SECONDS })
    const began = Date.now()
    const heartbeat = yield* startHeartbeat(lab, addresses.resource6)
    const first = yield* heartbeat.recovery(began, ASK_BOUND)
    yield* portal.command("/knobs", { grantSeconds: null })
    const before = yield* requests
    yield* recorder.check("access for a while", first !== undefined, `granted for ${GRANT_SECONDS} s after ${first} ms`)
    const renewed = yield* eventually(
      Effect.map(requests, (count) => count > before),
      GRANT_SECONDS * 1000 + ASK_BOUND
    )
    const renewedAt = Date.now()
    const again = yield* heartbeat.recovery(renewedAt, ASK_BOUND)
    const silence = heartbeat.longestSilence(began + (first ?? 0))
    yield* recorder.check(
      "expired, and renewed",
      renewed === true && again !== undefined && silence <= ASK_BOUND,
      renewed === true
        ? `no answer for ${silence} ms; at most ${ASK_BOUND} ms`
        : `the portal was not asked again within ${GRANT_SECONDS * 1000 + ASK_BOUND} ms`
    )
    const age = (yield* statusOf(lab)).peers[0]?.handshakeAgeMillis ?? 0
    yield* recorder.check(
      "over the same connection",
      age > Date.now() - began,
      `whose handshake was ${Math.round(age)} ms ago, before all of this`
    )
  })

const run = (lab: Lab, recorder: Recorder): Effect.Effect<void, LabError, Scope.Scope> =>
  Effect.gen(function*() {
    yield* bringUp(lab, recorder)
    yield* deleted(lab, recorder)
    yield* expired(lab, recorder)
    yield* noViolations(lab, recorder)
  })

export const revoke: Scenario = {
  name: "revoke",
  about: "a resource is deleted under a TCP stream and created again; a grant runs out and is renewed",
  run
}
