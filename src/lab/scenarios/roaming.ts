/** The client's host moves to other networks, or sleeps, while it is used. */
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import type * as Scope from "effect/Scope"
import * as capture from "../capture.ts"
import type { LabError } from "../LabError.ts"
import type { Daemon } from "../processes.ts"
import { eventually, type Recorder, type Scenario } from "../scenario.ts"
import type { Lab } from "../services.ts"
import { addresses, type Uplink } from "../topology.ts"
import { bringUp, connect, download, noViolations, startHeartbeat } from "./checks.ts"

const FILE_BYTES = 200_000_000
/** So slow that both changes come while it runs. */
const BYTES_PER_SECOND = 24_000_000
const CONNECT_BOUND = 3000
/** From the change to the response to the new handshake, milliseconds. */
const HANDSHAKE_BOUND = 2000
/** What the kernel's word takes to the client, on a machine that has other work; until then it cannot know. */
const NEWS_BOUND = 100
/** Longer than the silence that makes the client start over, and than the mappings of its NAT live here. */
const SLEEP_MILLIS = 90_000

const networks = {
  wifi: { link: "wifi0", prefixes: ["192.168.10.", "2001:db8:10:"] },
  lan: { link: "lan0", prefixes: ["192.168.20.", "2001:db8:20:"] }
} as const

const isOf = (uplink: Uplink, address: string): boolean =>
  networks[uplink].prefixes.some((prefix) => address.startsWith(prefix))

/** All that the client's host sends; of what it receives not the bulk. */
const FILTER =
  "(tcp or udp) and (src net 192.168.0.0/16 or src net 2001:db8:10::/64 or src net 2001:db8:20::/64 or less 300)"

const HANDSHAKE_RESPONSE = 2

export const startCapture = (lab: Lab) => capture.start(lab.topology, "client", ["wifi0", "lan0"], FILTER)

interface Event {
  /** Unix milliseconds, before and after it was done. */
  readonly at: number
  readonly doneAt: number
  /** The client's key at the portal before it. */
  readonly key: string | undefined
}

/** Something that makes the client start over. */
export const happen = (lab: Lab, what: Effect.Effect<void, LabError>): Effect.Effect<Event, LabError> =>
  Effect.gen(function*() {
    const key = (yield* lab.portal.state).clients[0]?.publicKey
    const at = Date.now()
    yield* what
    return { at, doneAt: Date.now(), key }
  })

/** The wire shows a new handshake in time, and the portal knows a new key. */
const startedOver = (
  recorder: Recorder,
  what: string,
  { at, key }: Event,
  packets: ReadonlyArray<capture.Captured>,
  keyNow: string | undefined
) =>
  Effect.gen(function*() {
    const response = packets.find((packet) =>
      packet.at > at && capture.wireguardType(packet) === HANDSHAKE_RESPONSE &&
      (isOf("wifi", packet.destination) || isOf("lan", packet.destination))
    )
    const millis = response === undefined ? undefined : Math.round(response.at - at)
    yield* recorder.check(
      `${what}: new handshake`,
      millis !== undefined && millis <= HANDSHAKE_BOUND,
      millis === undefined
        ? "none was answered"
        : `answered after ${millis} ms; at most ${HANDSHAKE_BOUND} ms`
    )
    yield* recorder.check(
      `${what}: new key`,
      keyNow !== undefined && keyNow !== key,
      keyNow === key ? "the portal knows only the old one" : "the client signed in with another one"
    )
  })

/** From which addresses the client sent, from one move to the next. */
export const judgeAddresses = (
  recorder: Recorder,
  { from, to }: { readonly from: Uplink; readonly to: Uplink },
  { at, doneAt }: Event,
  packets: ReadonlyArray<capture.Captured>
) =>
  Effect.gen(function*() {
    // What still arrives at the old address of a connection that was given up, the kernel answers by itself.
    const after = packets.filter((packet) => packet.at > at && !packet.isReset)
    const first = after.find(({ link, source }) => link === networks[to].link && isOf(to, source))
    const strays = after.filter(({ link, source }) => link === networks[to].link && isOf(from, source))
    const late = strays.filter((packet) => packet.at > doneAt + NEWS_BOUND)
    yield* recorder.check(
      `${to}: nothing from addresses of ${from}`,
      late.length === 0,
      late.length === 0
        ? `${strays.length} packets that the client sent before the kernel's word could reach it`
        : late.slice(0, 5).map((packet) =>
          `${packet.protocol} from ${packet.source} after ${Math.round(packet.at - doneAt)} ms`
        ).join("; ")
    )
    const old = first === undefined ? [] : after.filter(({ at, source }) => at > first.at && isOf(from, source))
    yield* recorder.check(
      `${to}: routes were forgotten first`,
      first !== undefined && old.length === 0,
      first === undefined
        ? "no packet left from an address of the new network"
        : old.length === 0
        ? `the first packet left after ${Math.round(first.at - at)} ms from ${first.source}, none from ${from} later`
        : `${old.length} packets from ${from} after it`
    )
  })

const keyOf = (lab: Lab) => Effect.map(lab.portal.state, ({ clients }) => clients[0]?.publicKey)

interface During {
  readonly lab: Lab
  readonly recorder: Recorder
  readonly client: Daemon
  readonly links: capture.Capture
}

/** Does `body` while a download runs, which has to come out right. */
const whileDownloading =
  (body: (during: During) => Effect.Effect<Effect.Effect<void, LabError>, LabError>) =>
  (lab: Lab, recorder: Recorder): Effect.Effect<void, LabError, Scope.Scope> =>
    Effect.gen(function*() {
      const client = yield* bringUp(lab, recorder)
      yield* connect(lab, recorder, addresses.resource4, CONNECT_BOUND)
      const links = yield* startCapture(lab)
      const downloading = yield* Effect.fork(
        download(lab, addresses.resource4, FILE_BYTES, { bytesPerSecond: BYTES_PER_SECOND })
      )
      yield* Effect.sleep("1500 millis")
      const judge = yield* body({ lab, recorder, client, links })
      const isRunning = downloading.unsafePoll() === null
      const { detail, right } = yield* Fiber.join(downloading)
      yield* recorder.check("download", right && isRunning, isRunning ? detail : `it was over too early: ${detail}`)
      yield* judge
      yield* noViolations(lab, recorder)
    })

/** Long enough for the client to have started over, and to be at work again. */
const settle = Effect.sleep("2500 millis")

const moves = whileDownloading(({ lab, links, recorder }) =>
  Effect.gen(function*() {
    const { topology } = lab
    // The first network stays plugged, with its address; of the second one the plug is pulled.
    const first = yield* happen(lab, topology.roam("wifi"))
    yield* settle
    const firstKey = yield* keyOf(lab)
    const second = yield* happen(lab, topology.unplug("wifi"))
    yield* settle
    const secondKey = yield* keyOf(lab)
    return Effect.gen(function*() {
      const packets = yield* links.stop
      const between = packets.filter(({ at }) => at < second.at)
      yield* startedOver(recorder, "wifi", first, between, firstKey)
      yield* judgeAddresses(recorder, { from: "lan", to: "wifi" }, first, between)
      yield* startedOver(recorder, "lan", second, packets, secondKey)
      yield* judgeAddresses(recorder, { from: "wifi", to: "lan" }, second, packets)
    })
  })
)

const hangups = whileDownloading(({ client, lab, links, recorder }) =>
  Effect.gen(function*() {
    const events: Array<Event> = []
    const keys: Array<string | undefined> = []
    for (let count = 0; count < 2; count++) {
      events.push(yield* happen(lab, Effect.sync(() => client.signal("SIGHUP"))))
      yield* settle
      keys.push(yield* keyOf(lab))
    }
    return Effect.gen(function*() {
      const packets = yield* links.stop
      for (const [index, event] of events.entries()) {
        yield* startedOver(recorder, `SIGHUP ${index + 1} (host 18.39)`, event, packets, keys[index])
      }
    })
  })
)

const runSleep = (lab: Lab, recorder: Recorder): Effect.Effect<void, LabError, Scope.Scope> =>
  Effect.gen(function*() {
    const client = yield* bringUp(lab, recorder)
    yield* connect(lab, recorder, addresses.resource4, CONNECT_BOUND)
    const heartbeat = yield* startHeartbeat(lab, addresses.resource4)
    // The server sends again ever more rarely, so that the stream may need a minute after the sleep to go on.
    const downloading = yield* Effect.fork(
      download(lab, addresses.resource4, FILE_BYTES, {
        bytesPerSecond: BYTES_PER_SECOND,
        seconds: SLEEP_MILLIS / 1000 + 150
      })
    )
    yield* Effect.sleep("1500 millis")
    client.signal("SIGSTOP")
    yield* Effect.sleep(SLEEP_MILLIS)
    // Checks of the gateway's that come in are no flow of the client's: what counts is what its own packets made.
    const forgotten = yield* eventually(
      Effect.map(
        lab.topology.must("natl", ["conntrack", "-L", "-p", "udp", "--orig-src", "192.168.20.2"]),
        ({ stdout }) => stdout.trim() === ""
      ),
      5000
    )
    yield* recorder.check(
      "the NAT has forgotten the client",
      forgotten === true,
      `after ${SLEEP_MILLIS / 1000} s in which the client did not run`
    )
    const links = yield* startCapture(lab)
    const woken = yield* happen(lab, Effect.sync(() => client.signal("SIGCONT")))
    const recovery = yield* heartbeat.recovery(woken.at, 10_000)
    yield* recorder.check(
      "pings are answered again",
      recovery !== undefined && recovery <= CONNECT_BOUND,
      recovery === undefined ? "not within 10 s" : `the first after ${recovery} ms; at most ${CONNECT_BOUND} ms`
    )
    yield* settle
    const packets = yield* links.stop
    yield* startedOver(recorder, "awake", woken, packets, yield* keyOf(lab))
    const isRunning = downloading.unsafePoll() === null
    const { detail, right } = yield* Fiber.join(downloading)
    yield* recorder.check("download", right && isRunning, isRunning ? detail : `it was over too early: ${detail}`)
    yield* noViolations(lab, recorder)
  })

export const roam: Scenario = {
  name: "roam",
  about: "a download goes on while the client's host changes uplink and address twice",
  run: moves
}

export const roamSighup: Scenario = {
  name: "roam-sighup",
  about: "a download goes on while SIGHUP makes the client start over twice",
  run: hangups
}

export const sleep: Scenario = {
  name: "sleep",
  about: "a download goes on after the client was suspended for 90 s, longer than mappings of its NAT live",
  prepare: (topology) =>
    Effect.asVoid(topology.must("natl", [
      "sysctl",
      "-qw",
      "net.netfilter.nf_conntrack_udp_timeout=2",
      "net.netfilter.nf_conntrack_udp_timeout_stream=3"
    ])),
  run: runSleep
}
