/** Two clients that reach each other, as long as and as far as the portal lets them. */
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import { dig } from "../dig.ts"
import type { LabError } from "../LabError.ts"
import type { PoolConfig } from "../portal/config.ts"
import type { DeviceState } from "../portal/state.ts"
import { requirePrograms } from "../requirePrograms.ts"
import { eventually, type Recorder, type Scenario } from "../scenario.ts"
import type { Lab } from "../services.ts"
import { addresses, type HostName } from "../topology.ts"
import { bringUp, noViolations, TUN } from "./checks.ts"
import { CONNECT_BOUND } from "./paths.ts"

const QUICK_MILLIS = 2000
/** A device is asked for again every 2 s at most. */
const ASK_BOUND = 2000 + CONNECT_BOUND
const SENTINEL = "100.100.111.1"
const OPEN_PORT = 80
const CLOSED_PORT = 81

const pool = {
  type: "static_device_pool",
  id: "66666666-6666-4666-8666-666666666661",
  name: "Lab devices",
  devices: ["lab-client", "lab-client-2"],
  filters: [{ protocol: "icmp" }, { protocol: "tcp", port_range_start: OPEN_PORT, port_range_end: OPEN_PORT }]
} as const satisfies PoolConfig

const names: PoolConfig = {
  type: "dynamic_device_pool",
  id: "66666666-6666-4666-8666-666666666662",
  name: "Lab device names",
  address: "*.devices.test"
}

/** Says on both ports who has come, and writes it down. */
const serverScript = `
for (const port of [${OPEN_PORT}, ${CLOSED_PORT}]) {
  require("node:http").createServer((request, response) => {
    const from = request.socket.remoteAddress.replace("::ffff:", "")
    console.log(port + " visited by " + from)
    response.end(from)
  }).listen(port, "::")
}`

/** A client as scenarios see it. */
interface End {
  readonly name: string
  readonly host: HostName
  readonly ipv4: string
  readonly ipv6: string
}

const endOf = (name: string, host: HostName, device: DeviceState | undefined): End => ({
  name,
  host,
  ipv4: device?.ipv4 ?? "",
  ipv6: device?.ipv6 ?? ""
})

const url = (address: string, port: number): string =>
  `http://${address.includes(":") ? `[${address}]` : address}:${port}/`

const pings = (lab: Lab, from: End, to: string, count: number, waitSeconds = 10): Effect.Effect<number, LabError> =>
  Effect.map(
    lab.topology.run(from.host, ["ping", "-n", "-i", "0.2", "-c", String(count), "-W", String(waitSeconds), to]),
    ({ stdout }) => [...stdout.matchAll(/time=/g)].length
  )

/** The first packet makes the way, and waits for it; then everything of both families passes. */
const reaches = (lab: Lab, recorder: Recorder, from: End, to: End) =>
  Effect.gen(function*() {
    const began = Date.now()
    const first = yield* pings(lab, from, to.ipv4, 1)
    const millis = Date.now() - began
    yield* recorder.check(
      `${from.name} reaches ${to.name}`,
      first === 1 && millis <= CONNECT_BOUND,
      `${first} of 1 pings answered after ${millis} ms; at most ${CONNECT_BOUND}`
    )
    for (const family of ["ipv4", "ipv6"] as const) {
      const answers = yield* pings(lab, from, to[family], 5)
      const page = yield* lab.topology.run(from.host, ["curl", "-sS", "-m", "10", url(to[family], OPEN_PORT)])
      yield* recorder.check(
        `${from.name} to ${to.name}, ${family}`,
        answers === 5 && page.stdout === from[family],
        `${answers} of 5 pings; the page says that ${page.stdout || page.stderr.trim()} came`
      )
    }
  })

/** TCP is refused at once, and nothing of it arrives. */
const isRefused = (lab: Lab, recorder: Recorder, what: string, from: End, to: End, port: number, log: () => string) =>
  Effect.gen(function*() {
    const visits = log().split("\n").length
    const began = Date.now()
    const { code } = yield* lab.topology.run(from.host, ["curl", "-sS", "-m", "10", url(to.ipv4, port)])
    const millis = Date.now() - began
    yield* recorder.check(
      what,
      code === 7 && millis < QUICK_MILLIS && log().split("\n").length === visits,
      `curl ends with ${code} after ${millis} ms; the server heard ${log().split("\n").length - visits} requests`
    )
  })

const isCut = (lab: Lab, recorder: Recorder, what: string, from: End, to: End) =>
  Effect.gen(function*() {
    const cut = yield* eventually(Effect.map(pings(lab, from, to.ipv4, 1, 1), (answers) => answers === 0), 3000)
    const answers = (yield* pings(lab, from, to.ipv4, 3, 1)) + (yield* pings(lab, from, to.ipv6, 3, 1))
    yield* recorder.check(what, cut === true && answers === 0, `${answers} of 6 pings answered`)
  })

/** The refusal makes the client ask the portal again, which still knows the pool. */
const heals = (lab: Lab, recorder: Recorder, from: End, to: End) =>
  Effect.gen(function*() {
    const began = Date.now()
    const healed = yield* eventually(
      Effect.map(pings(lab, from, to.ipv4, 1, 1), (answers) => answers === 1),
      ASK_BOUND
    )
    yield* recorder.check(
      `${from.name} asks for it again`,
      healed === true,
      `${healed === true ? "an answer" : "no answer"} after ${Date.now() - began} ms; at most ${ASK_BOUND}`
    )
  })

/** `status` and `ping` know the device, of which the client has made a peer. */
const tellsOfIt = (lab: Lab, recorder: Recorder, to: End) =>
  Effect.gen(function*() {
    const status = yield* lab.runClient({ args: ["status"] })
    const line = status.stdout.split("\n").find((line) => line.includes(to.ipv4) && line.includes(to.ipv6)) ?? ""
    yield* recorder.check(
      "status shows the device",
      status.stdout.includes(`  ${pool.name}\n`) && /^ {4}connected .*(direct|relay)/.test(line),
      line.trim()
    )
    const ping = yield* lab.runClient({ args: ["ping", "-c", "2", "-i", "0.2", to.ipv6] })
    const access = ping.stdout.split("\n").find((line) => line.startsWith("  access")) ?? ""
    yield* recorder.check("ping reaches it", ping.code === 0 && access.includes("through device "), access.trim())
  })

const hasTun = (lab: Lab, host: HostName) =>
  eventually(
    Effect.map(
      lab.topology.run(host, ["ip", "-j", "addr", "show", TUN]),
      ({ code, stdout }) => code === 0 && [...stdout.matchAll(/"scope":"global"/g)].length === 2
    ),
    20_000
  )

const resolvesNames = (lab: Lab, recorder: Recorder, from: End, to: End) =>
  Effect.gen(function*() {
    const ask = (name: string, type: string) => dig(lab.topology, from.host, [`@${SENTINEL}`, name, type])
    for (const [type, address] of [["A", to.ipv4], ["AAAA", to.ipv6]] as const) {
      const answer = yield* ask("lab-client-2.devices.test", type)
      yield* recorder.check(`${type} of a device's name`, answer.data.join() === address, answer.text)
    }
    const nobody = yield* ask("nobody.devices.test", "A")
    yield* recorder.check("a device that is none", nobody.status === "NXDOMAIN", nobody.text)
  })

const run = (lab: Lab, recorder: Recorder): Effect.Effect<void, LabError, Scope.Scope> =>
  Effect.gen(function*() {
    yield* requirePrograms(["dig"], "bind9-dnsutils")
    const { portal, topology } = lab
    yield* bringUp(lab, recorder)
    const other = yield* lab.startOtherClient
    const isUp = yield* hasTun(lab, "gw2")
    yield* recorder.check(
      "the other client is up",
      isUp === true,
      isUp === true ? "its interface has two addresses" : other.log().slice(-1500)
    )
    const { clients } = yield* portal.state
    const deviceOf = (id: string) => clients.find(({ externalId }) => externalId === id)
    const a = endOf("the client", "client", deviceOf("lab-client"))
    const b = endOf("the other", "gw2", deviceOf("lab-client-2"))
    const serve = (host: HostName) => topology.daemon(host, `server-${host}`, [process.execPath, "-e", serverScript])
    const atA = yield* serve("client")
    const atB = yield* serve("gw2")
    for (const { host } of [a, b]) {
      yield* eventually(
        Effect.map(topology.run(host, ["curl", "-sS", url("127.0.0.1", CLOSED_PORT)]), ({ code }) => code === 0),
        5000
      )
    }

    yield* reaches(lab, recorder, a, b)
    yield* tellsOfIt(lab, recorder, b)
    yield* isRefused(lab, recorder, "a port that is not allowed", a, b, CLOSED_PORT, atB.log)
    yield* reaches(lab, recorder, b, a)
    yield* isRefused(lab, recorder, "a port that is not allowed, back", b, a, CLOSED_PORT, atA.log)
    yield* reaches(lab, recorder, a, b)
    yield* resolvesNames(lab, recorder, a, b)
    const { peers } = yield* lab.gateway.state
    yield* recorder.check("without a gateway", peers.length === 0, `the gateway has ${peers.length} peers`)

    yield* portal.command("/pools/put", { ...pool, filters: [{ protocol: "icmp" }] })
    yield* isRefused(lab, recorder, "a port that is not allowed any more", a, b, OPEN_PORT, atB.log)
    yield* recorder.check("what is still allowed", (yield* pings(lab, a, b.ipv4, 3)) === 3, "3 pings answered")
    yield* portal.command("/pools/put", pool)

    yield* portal.command("/pools/reject", { id: pool.id })
    const { stdout } = yield* topology.run(a.host, ["ping", "-n", "-c", "1", "-W", "2", b.ipv4])
    yield* recorder.check(
      "what a device is no longer granted is refused by the other",
      stdout.includes(`From ${b.ipv4}`) && stdout.includes("Packet filtered"),
      stdout.split("\n")[1] ?? "no answer"
    )
    yield* heals(lab, recorder, a, b)
    yield* heals(lab, recorder, b, a)

    yield* portal.command("/pools/put", { ...pool, devices: ["lab-client"] })
    yield* isCut(lab, recorder, "a device that has left the pool is cut off", a, b)
    yield* reaches(lab, recorder, b, a)
    yield* portal.command("/pools/delete", { id: pool.id })
    yield* isCut(lab, recorder, "so are all when there is no pool", b, a)
    yield* noViolations(lab, recorder)
  })

export const devicePool: Scenario = {
  name: "device-pool",
  about: "two clients reach each other by a device pool, within its filters, and no more when they have left it",
  equipment: { pools: [pool, names], dns: { upstreamDo53: [addresses.dns4] } },
  run
}
