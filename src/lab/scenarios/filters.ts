/** Resources of which only some ports are allowed: applications hear of a refusal at once. */
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import type { LabError } from "../LabError.ts"
import type { FilterConfig, ResourceConfig } from "../portal/config.ts"
import { eventually, type Recorder, type Scenario } from "../scenario.ts"
import { ids, type Lab } from "../services.ts"
import { addresses } from "../topology.ts"
import { bringUp, fetchPage, noViolations, ping } from "./checks.ts"
import { udpEcho } from "./direct.ts"

const QUICK_MILLIS = 2000
const ECHO_PORT = 7

const port = (protocol: "tcp" | "udp", number: number): FilterConfig => ({
  protocol,
  port_range_start: number,
  port_range_end: number
})

const network = (id: string, address: string, filters: ReadonlyArray<FilterConfig>): ResourceConfig => ({
  type: "cidr",
  id,
  name: address,
  address,
  sites: [ids.site],
  filters
})

const broad = network(ids.cidr4, addresses.resourceNetwork4, [port("tcp", 80), port("udp", ECHO_PORT)])
const narrow = network("66666666-6666-4666-8666-666666666665", `${addresses.resourceDns4}/32`, [{ protocol: "icmp" }])
const other = network(ids.cidr6, addresses.resourceNetwork6, [{ protocol: "icmp" }])

/** What applications are told of a packet that is refused: by ping's words, and by the error that a socket gets. */
const refusals = {
  ping: { ipv4: /Packet filtered/, ipv6: /Administratively prohibited/ },
  tcp: { ipv4: /EHOSTUNREACH/, ipv6: /EACCES/ },
  udp: { ipv4: /EHOSTUNREACH/, ipv6: /EACCES/ }
} as const

/** Connects, and says something: prints `answer`, or the name of the error. */
const sockets = {
  tcp: (address: string, port: number): string =>
    `const socket = require("node:net").connect(${port}, "${address}", () => socket.end("?\\r\\n\\r\\n")).on("data", answer)`,
  udp: (address: string, port: number): string => `
const socket = require("node:dgram").createSocket("${address.includes(":") ? "udp6" : "udp4"}").on("message", answer)
socket.connect(${port}, "${address}", () => socket.send("?"))`
}

const commandOf = (kind: keyof typeof refusals, address: string, port: number): ReadonlyArray<string> =>
  kind === "ping" ? ["ping", "-n", "-c", "1", "-W", "8", address] : [
    process.execPath,
    "-e",
    `const end = (word) => { console.log(word); process.exit() }
const answer = () => end("answer")
setTimeout(() => end("silence"), 8000)
${sockets[kind](address, port)}
socket.on("error", ({ code }) => end(code))`
  ]

const isRefused = (lab: Lab, recorder: Recorder, kind: keyof typeof refusals, address: string, number = 0) =>
  Effect.gen(function*() {
    const words = refusals[kind][address.includes(":") ? "ipv6" : "ipv4"]
    const began = Date.now()
    const { stderr, stdout } = yield* lab.topology.run("client", commandOf(kind, address, number))
    const millis = Date.now() - began
    const found = words.exec(stdout + stderr)?.[0]
    yield* recorder.check(
      `${kind} to ${address}${number === 0 ? "" : ` port ${number}`} is refused`,
      found !== undefined && millis < QUICK_MILLIS,
      `${found ?? (stdout + stderr).trim()}, after ${millis} ms`
    )
  })

const isAnswered = (lab: Lab, recorder: Recorder, address: string) =>
  Effect.gen(function*() {
    const times = yield* ping(lab, address, 2)
    yield* recorder.check(`ping to ${address} passes`, times.length === 2, `${times.length} of 2 answers`)
  })

/** How often the client has asked the portal for access to anything. */
const requests = (lab: Lab): Effect.Effect<number, LabError> =>
  Effect.map(lab.portal.state, ({ clients: [client] }) => client?.messages["request_authorization"] ?? 0)

const run = (lab: Lab, recorder: Recorder): Effect.Effect<void, LabError, Scope.Scope> =>
  Effect.gen(function*() {
    const { portal } = lab
    yield* bringUp(lab, recorder)
    yield* isRefused(lab, recorder, "ping", addresses.resource4)
    yield* isRefused(lab, recorder, "tcp", addresses.resource4, 81)
    yield* isRefused(lab, recorder, "udp", addresses.resource4, 9)
    yield* isRefused(lab, recorder, "tcp", addresses.resource6, 80)
    yield* isRefused(lab, recorder, "udp", addresses.resource6, ECHO_PORT)
    const before = yield* requests(lab)
    yield* recorder.check("no authorization", before === 0, `the portal was asked for ${before} so far`)

    yield* fetchPage(lab, recorder, addresses.resource4)
    yield* udpEcho(lab, recorder, addresses.resource4)
    yield* isAnswered(lab, recorder, addresses.resource6)
    // With access to other ports of the same resource too.
    yield* isRefused(lab, recorder, "ping", addresses.resource4)
    yield* isRefused(lab, recorder, "ping", "172.20.0.99")
    yield* isRefused(lab, recorder, "tcp", addresses.resource6, 80)

    // Of two networks the one that permits wins, then the narrower one (tunnel spec 6.2).
    yield* isAnswered(lab, recorder, addresses.resourceDns4)
    yield* fetchPage(lab, recorder, addresses.resourceDns4)
    yield* isRefused(lab, recorder, "udp", addresses.resourceDns4, 9)
    const after = yield* requests(lab)
    yield* recorder.check("one authorization each", after === 3, `the portal was asked for ${after}, for 3 resources`)

    yield* portal.command("/resources/put", { ...broad, filters: [{ protocol: "icmp" }] })
    const changed = yield* eventually(
      Effect.map(ping(lab, addresses.resource4, 1, ["-W", "1"]), (times) => times.length === 1),
      5000
    )
    yield* recorder.check("the filters change", changed === true, "what was refused passes, at client and gateway")
    yield* isRefused(lab, recorder, "tcp", addresses.resource4, 80)
    yield* isRefused(lab, recorder, "udp", addresses.resource4, ECHO_PORT)
    yield* noViolations(lab, recorder)
  })

export const filters: Scenario = {
  name: "filters",
  about: "ports and protocols that are not allowed are refused at once, without asking the portal; the others pass",
  equipment: { resources: [broad, narrow, other] },
  run
}
