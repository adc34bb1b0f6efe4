/** Connections whose path is found inside the tunnel: the account has the path mode, and both sides offer it. */
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import type * as Scope from "effect/Scope"
import * as capture from "../capture.ts"
import type { LabError } from "../LabError.ts"
import { eventually, type Recorder, type Scenario } from "../scenario.ts"
import type { Lab } from "../services.ts"
import { addresses, type Uplink } from "../topology.ts"
import * as traffic from "../traffic.ts"
import { bringUp, connect, download, noViolations, startHeartbeat } from "./checks.ts"
import { clientRouters, CONNECT_BOUND, nats, noIpv6 } from "./paths.ts"
import { happen, judgeAddresses, startCapture } from "./roaming.ts"

const FILE_BYTES = 10_000_000
/** Every pair gets twelve probes, the last one 9 s after the first (spec 10.5); while they are answered nothing is missed. */
const SEARCH_MILLIS = 11_000
/** Each takes about a hundred bytes. */
const PROBE_BYTES = 50_000
/** WireGuard misses answers after 7 s, and a second time after 2 s, with a third of a second of jitter each (spec 11.6). */
const RELAY_BOUND = 11_000
/** Of the download that goes on while the host moves. */
const MOVED_BYTES = 200_000_000
const BYTES_PER_SECOND = 24_000_000
/** Relays, the portal and its candidates, then the first probe that is answered. */
const ROAM_BOUND = 4000

const COOKIE = [0x21, 0x12, 0xa4, 0x42]
const HANDSHAKES = [1, 2]
const DATA = 4
const relayAddresses: ReadonlyArray<string> = [
  addresses.relay4,
  addresses.relay6,
  addresses.secondRelay4,
  addresses.secondRelay6
]
const links = ["wifi0", "lan0"] as const
const SMALL_DATAGRAMS = "udp and less 300"

const isRelayed = ({ destination, source }: capture.Captured): boolean =>
  relayAddresses.includes(destination) || relayAddresses.includes(source)

/** A check of ICE between the peers, directly or on a TURN channel; what is for the relay itself is none. */
const isCheck = (packet: capture.Captured): boolean => {
  const isStunAt = (offset: number) =>
    (packet.payload[offset] ?? 0xff) < 4 && COOKIE.every((byte, i) => packet.payload[offset + 4 + i] === byte)
  const isChannel = (packet.payload[0] ?? 0) >= 0x40 && (packet.payload[0] ?? 0) <= 0x4f
  return isChannel ? isStunAt(4) : isStunAt(0) && !isRelayed(packet)
}

const judgeStart = (recorder: Recorder, packets: ReadonlyArray<capture.Captured>) =>
  Effect.gen(function*() {
    const checks = packets.filter(isCheck)
    yield* recorder.check(
      "no ICE between the peers",
      checks.length === 0 && packets.length > 0,
      `${checks.length} checks among ${packets.length} datagrams of the client's host`
    )
    const handshakes = packets.filter((packet) => HANDSHAKES.includes(capture.wireguardType(packet)))
    yield* recorder.check(
      "the handshake took relays alone",
      handshakes.length >= 2 && handshakes.every(isRelayed),
      `${handshakes.filter(isRelayed).length} of ${handshakes.length} handshake messages had a relay's address`
    )
  })

const judgeTraffic = (lab: Lab, recorder: Recorder, way: "direct" | "relayed") =>
  Effect.gen(function*() {
    const [{ detail, right }, { direct, relays }] = yield* traffic.during(
      lab.topology,
      download(lab, addresses.resource4, FILE_BYTES, { seconds: 30 })
    )
    yield* recorder.check(`${FILE_BYTES / 1e6} MB, ${way}`, right, detail)
    const relayed = relays[0].bytes + relays[1].bytes
    const counts = `direct ${direct.bytes} bytes, through relays ${relayed} bytes of data and probes`
    yield* way === "direct"
      ? recorder.check(
        "direct, no more than probes relayed",
        direct.bytes >= FILE_BYTES && relayed < PROBE_BYTES,
        counts
      )
      : recorder.check(
        "relayed, no more than probes direct",
        relayed >= FILE_BYTES && direct.bytes < PROBE_BYTES,
        counts
      )
  })

const run = (lab: Lab, recorder: Recorder): Effect.Effect<void, LabError, Scope.Scope> =>
  Effect.gen(function*() {
    const { topology } = lab
    yield* traffic.observe(topology)
    yield* bringUp(lab, recorder)
    const watched = yield* capture.start(topology, "client", links, SMALL_DATAGRAMS)
    const began = Date.now()
    yield* connect(lab, recorder, addresses.resource4, CONNECT_BOUND)
    yield* Effect.sleep(Math.max(0, began + CONNECT_BOUND - Date.now()))
    yield* judgeStart(recorder, yield* watched.stop)
    yield* judgeTraffic(lab, recorder, "direct")

    yield* Effect.sleep(Math.max(0, began + SEARCH_MILLIS - Date.now()))
    const heartbeat = yield* startHeartbeat(lab, addresses.resource4)
    yield* nats(topology, clientRouters, "udp-3478-only")
    const blockedAt = Date.now()
    const recovery = yield* heartbeat.recovery(blockedAt, 2 * RELAY_BOUND)
    yield* recorder.check(
      "a blocked path is left for a relay",
      recovery !== undefined && recovery <= RELAY_BOUND,
      recovery === undefined ? "no ping came back" : `the first ping after ${recovery} ms; at most ${RELAY_BOUND} ms`
    )
    yield* judgeTraffic(lab, recorder, "relayed")
    yield* noViolations(lab, recorder)
  })

const uplinks: { readonly [uplink in Uplink]: { readonly link: string; readonly prefixes: ReadonlyArray<string> } } = {
  wifi: { link: "wifi0", prefixes: ["192.168.10.", "2001:db8:10:"] },
  lan: { link: "lan0", prefixes: ["192.168.20.", "2001:db8:20:"] }
}

/** Moves the client's host, and judges what it took for the connection to go on. */
const move = (lab: Lab, recorder: Recorder, to: Uplink, how: Effect.Effect<void, LabError>) =>
  Effect.gen(function*() {
    const connects = (yield* lab.portal.state).clients[0]?.connects ?? 0
    const watched = yield* startCapture(lab)
    const moved = yield* happen(lab, how)
    const { at, key } = moved
    const again = yield* eventually(
      Effect.map(lab.portal.state, ({ clients }) => (clients[0]?.connects ?? 0) > connects),
      ROAM_BOUND
    )
    yield* Effect.sleep(ROAM_BOUND)
    const all = yield* watched.stop
    const packets = all.filter((packet) => packet.at > at && packet.link === uplinks[to].link)
    const first = packets.find((packet) =>
      capture.wireguardType(packet) === DATA && !isRelayed(packet) &&
      uplinks[to].prefixes.some((prefix) => packet.source.startsWith(prefix))
    )
    const millis = first === undefined ? undefined : Math.round(first.at - at)
    yield* recorder.check(
      `${to}: direct path`,
      millis !== undefined && millis <= ROAM_BOUND,
      millis === undefined
        ? "no data on one"
        : `the first data on it ${millis} ms after the change; at most ${ROAM_BOUND} ms`
    )
    const handshakes = packets.filter((packet) => HANDSHAKES.includes(capture.wireguardType(packet)))
    yield* recorder.check(
      `${to}: no handshake`,
      handshakes.length === 0,
      `${handshakes.length} handshake messages among ${packets.length} datagrams: the session lives on`
    )
    const keyNow = (yield* lab.portal.state).clients[0]?.publicKey
    yield* recorder.check(
      `${to}: the same key`,
      again === true && keyNow === key,
      again === true ? "the client signed in again with the key that it had" : "the client did not sign in again"
    )
    yield* judgeAddresses(recorder, { from: to === "wifi" ? "lan" : "wifi", to }, moved, all)
  })

const runRoam = (lab: Lab, recorder: Recorder): Effect.Effect<void, LabError, Scope.Scope> =>
  Effect.gen(function*() {
    const { topology } = lab
    yield* bringUp(lab, recorder)
    yield* connect(lab, recorder, addresses.resource4, CONNECT_BOUND)
    const downloading = yield* Effect.forkScoped(
      download(lab, addresses.resource4, MOVED_BYTES, { bytesPerSecond: BYTES_PER_SECOND })
    )
    yield* Effect.sleep("1500 millis")
    yield* move(lab, recorder, "wifi", topology.roam("wifi"))
    const isRunning = downloading.unsafePoll() === null
    yield* move(lab, recorder, "lan", topology.unplug("wifi"))
    const { detail, right } = yield* Fiber.join(downloading)
    yield* recorder.check("download", right && isRunning, isRunning ? detail : `it was over too early: ${detail}`)
    yield* noViolations(lab, recorder)
  })

export const pathMode: Scenario = {
  name: "path-mode",
  about: "the path is found inside the tunnel: direct between home NATs, and over relays once that is blocked",
  equipment: { secondRelay: true, iceless: true },
  prepare: noIpv6,
  run
}

export const pathModeRoam: Scenario = {
  name: "path-mode-roam",
  about: "in path mode a download goes on while the client's host moves twice, with the session that it had",
  equipment: { secondRelay: true, iceless: true },
  run: runRoam
}
