/** What `status` says, from another process, against what the emulators and the kernel know. */
import * as Effect from "effect/Effect"
import * as Either from "effect/Either"
import * as Schema from "effect/Schema"
import * as path from "node:path"
import { StatusReport } from "../../model/status.ts"
import { eventually, type Recorder, type Scenario } from "../scenario.ts"
import { apiUrl, type Lab } from "../services.ts"
import { addresses } from "../topology.ts"
import { bringUp, connect, download, TUN, tunAddresses } from "./checks.ts"
import { CONNECT_BOUND, onlyRelays } from "./paths.ts"

const FILE_BYTES = 5_000_000
const SOCKET = `/run/dev.firezone.client/headless-${TUN}.sock`
/** A program that every user may run, which this one may not be. It speaks HTTP, to which the answer is an error. */
const CURL = ["curl", "-sS", "--http0.9", "-m", "5", "--unix-socket", SOCKET, "http://localhost/"]
const NOBODY = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]

/** The command as an operator types it: nothing tells it of the client but the default place of the socket. */
const statusCommand = [process.execPath, path.resolve(process.argv[1] ?? ""), "status"]
const runStatus = (lab: Lab, ...options: ReadonlyArray<string>) =>
  lab.topology.run("client", [...statusCommand, ...options])

const decode = Schema.decodeUnknownEither(Schema.parseJson(StatusReport))
const ask = (lab: Lab) =>
  Effect.map(
    runStatus(lab, "--json"),
    ({ code, stdout }) => ({ code, report: Either.getOrUndefined(decode(stdout)) })
  )

const judge = (recorder: Recorder, name: string, said: unknown, truth: unknown) =>
  recorder.check(
    name,
    truth !== undefined && JSON.stringify(said) === JSON.stringify(truth),
    `it says ${JSON.stringify(said)}, and it is ${JSON.stringify(truth)}`
  )

/** Before anything was sent. */
const judgeSignedIn = (lab: Lab, recorder: Recorder) =>
  Effect.gen(function*() {
    const { code, report } = yield* ask(lab)
    yield* recorder.check(
      "status --json",
      code === 0 && report?.signedIn === true,
      report === undefined ? `exit code ${code}, and not of the documented shape` : `exit code ${code}, signed in`
    )
    yield* judge(recorder, "portal", report?.portal.url, apiUrl)
    const { ipv4 = "", ipv6 = "", name = "" } = report?.interface ?? {}
    yield* judge(recorder, "interface", [name, `${ipv4}/32`, `${ipv6}/128`], [TUN, ...(yield* tunAddresses(lab)) ?? []])
    const { resources } = yield* lab.portal.state
    yield* judge(
      recorder,
      "resources",
      report?.resources.map(({ address, id, name }) => [id, name, address]),
      resources.flatMap((resource) => resource.type === "cidr" ? [[resource.id, resource.name, resource.address]] : [])
    )
    yield* recorder.check("no gateway yet", report?.peers.length === 0, `it knows ${report?.peers.length}`)
  })

/** After a download through the relay. */
const judgeConnected = (lab: Lab, recorder: Recorder) =>
  Effect.gen(function*() {
    const { gateways } = yield* lab.portal.state
    const relay = yield* lab.relay.state
    const { report } = yield* ask(lab)
    const [peer] = report?.peers ?? []
    yield* judge(recorder, "gateway", report?.peers.map(({ id }) => id), gateways.map(({ id }) => id))
    yield* recorder.check(
      "resource by gateway",
      gateways[0] !== undefined && report?.resources[0]?.gateway === gateways[0].id,
      `it says that ${report?.resources[0]?.name} is reached through ${report?.resources[0]?.gateway}`
    )
    const relayPort = Number(peer?.path?.local.split(":").at(-1))
    yield* recorder.check(
      "path",
      peer?.state === "connected" && peer.path?.kind === "relayed-by-us" &&
        relay.allocations.some(({ port }) => port === relayPort),
      `it says ${peer?.path?.kind} from ${peer?.path?.local}; the relay has the ports ${
        relay.allocations.map(({ port }) => port).join(" and ")
      }`
    )
    yield* recorder.check(
      "bytes",
      peer !== undefined && peer.bytesReceived > FILE_BYTES && peer.bytesReceived < FILE_BYTES * 1.2,
      `it received ${peer?.bytesReceived}, of which a file has ${FILE_BYTES}`
    )
    const { handshakeAgeMillis = -1, rttMillis = -1 } = peer ?? {}
    yield* recorder.check(
      "round trip and handshake",
      rttMillis > 0 && rttMillis < 1000 && handshakeAgeMillis > 0 && handshakeAgeMillis < 60_000,
      `${rttMillis.toFixed(1)} ms, and ${handshakeAgeMillis.toFixed(0)} ms ago`
    )
    yield* judge(
      recorder,
      "online",
      report?.resources.map(({ status }) => status),
      report?.resources.map(() => "Online")
    )
    const { stdout } = yield* runStatus(lab)
    yield* recorder.check(
      "for a person",
      stdout.includes("signed in") && stdout.includes(peer?.id ?? "?") && !stdout.includes("\x1b"),
      `${stdout.split("\n").length} lines, without colours where there is no terminal`
    )
  })

export const status: Scenario = {
  name: "status",
  about: "status, from another process, agrees with portal, relay and kernel; other users are refused",
  prepare: onlyRelays,
  run: (lab, recorder) =>
    Effect.gen(function*() {
      const none = yield* runStatus(lab)
      yield* recorder.check(
        "no client",
        none.code === 1 && none.stderr.includes("no client is running"),
        `exit code ${none.code}: ${none.stderr.trim()}`
      )
      const client = yield* bringUp(lab, recorder)
      yield* judgeSignedIn(lab, recorder)
      yield* connect(lab, recorder, addresses.resource4, CONNECT_BOUND)
      const { detail, right } = yield* download(lab, addresses.resource4, FILE_BYTES)
      yield* recorder.check("download", right, detail)
      yield* judgeConnected(lab, recorder)
      const root = yield* lab.topology.run("client", CURL)
      const other = yield* lab.topology.run("client", [...NOBODY, ...CURL])
      yield* recorder.check(
        "another user",
        root.stdout.includes("bad-request") && other.code === 7 && other.stdout === "",
        `is refused (${other.stderr.trim()}) where root is answered: ${root.stdout.trim()}`
      )
      yield* lab.portal.end("SIGTERM")
      const lost = yield* eventually(
        Effect.map(ask(lab), ({ code, report }) => code === 5 && report?.portal.lastError !== undefined && report),
        10_000
      )
      yield* recorder.check(
        "without the portal",
        lost !== undefined && !lost.signedIn && lost.peers[0]?.state !== undefined,
        lost === undefined ? "it does not say so" : `exit code 5, ${lost.portal.state}: ${lost.portal.lastError}`
      )
      client.signal("SIGTERM")
      yield* client.exit
      const left = yield* lab.topology.run("client", ["sh", "-c", "ls /run/dev.firezone.client"])
      yield* recorder.check("nothing left behind", left.code !== 0, "neither the socket nor its folder")
    })
}
