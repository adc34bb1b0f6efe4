/** The resolvers that the client asks outside the tunnel: when they change, and when they or the portal are gone. */
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import type * as Scope from "effect/Scope"
import { type Answer, dig } from "../dig.ts"
import * as dnsmasq from "../dnsmasq.ts"
import type { LabError } from "../LabError.ts"
import { eventually, type Recorder, type Scenario } from "../scenario.ts"
import type { Lab } from "../services.ts"
import { addresses } from "../topology.ts"
import { bringUp, download, tunPackets } from "./checks.ts"
import { asking, fetchByName, hostRecords, is, isProxies, named } from "./dns.ts"

const FIRST_SENTINEL = "100.100.111.1"
/** In the other family, so that the sentinel is of the other family, too. */
const SENTINEL_6 = "fd00:2021:1111:8000:100:100:111:0"
/** For an answer, and for an error that needs no time limit. */
const QUICK_MILLIS = 2000
/** The client looks every 5 s. */
const NOTICED_MILLIS = 15_000
/** The limit of a query outside the tunnel, with room for dig and a busy machine. */
const SILENT_MILLIS = 5000 + 2000

export const answers = (address: string) => ({ data, status }: Answer): boolean =>
  status === "NOERROR" && data.join() === address
const fails = (limit: number) => ({ millis, status }: Answer): boolean => status === "SERVFAIL" && millis < limit
export const failsQuickly = fails(QUICK_MILLIS)

const PUBLIC = ["public.example", "A"] as const
const isPublic = answers("203.0.113.2")
const startServer = (lab: Lab) =>
  dnsmasq.start(lab.topology, "inet", [
    "host-record=public.example,203.0.113.2",
    "host-record=slow.example,203.0.113.3"
  ])

const setResolvers = (lab: Lab, ...resolvers: ReadonlyArray<string>): Effect.Effect<void, LabError> => {
  const lines = resolvers.map((address) => `nameserver ${address}\\n`).join("")
  return Effect.asVoid(lab.topology.must("client", [
    ...["sh", "-c", `printf "${lines}" > /etc/resolv.new && mv /etc/resolv.new /etc/resolv.conf`]
  ]))
}

/** Until that server answers as it should. */
const untilAnswered = (lab: Lab, server: string) =>
  eventually(Effect.map(dig(lab.topology, "client", [`@${server}`, "+time=1", ...PUBLIC]), isPublic), NOTICED_MILLIS)

/** The bytes of queries that a stopped server has not got to; 0 if there are none. */
const queued = (lab: Lab): Effect.Effect<number, LabError> =>
  Effect.map(
    lab.topology.run("inet", ["ss", "-Hunl", "sport = :53"]),
    ({ stdout }) => stdout.split("\n").reduce((sum, line) => sum + Number(line.trim().split(/\s+/)[1] ?? 0), 0)
  )

const runRoam = (lab: Lab, recorder: Recorder): Effect.Effect<void, LabError, Scope.Scope> =>
  Effect.gen(function*() {
    const server = yield* startServer(lab)
    yield* bringUp(lab, recorder)
    const ask = asking(lab, recorder)
    yield* ask("the system's resolver", PUBLIC, isPublic)
    const inside = (yield* tunPackets(lab)).tx
    yield* dig(lab.topology, "client", [`@${addresses.dns4}`, ...PUBLIC])
    const entered = (yield* tunPackets(lab)).tx - inside
    yield* recorder.check(
      "its server stays outside",
      entered === 0,
      `${entered} packets to it entered the tunnel device`
    )

    yield* setResolvers(lab, addresses.dns6)
    const moved = yield* untilAnswered(lab, SENTINEL_6)
    yield* recorder.check("follows a change of resolvers", moved === true, `${SENTINEL_6} asks ${addresses.dns6}`)
    const old = yield* dig(lab.topology, "client", [`@${FIRST_SENTINEL}`, "+time=1", ...PUBLIC])
    yield* recorder.check("the sentinel before is none any more", old.status === undefined, old.text)
    yield* setResolvers(lab, addresses.dns4)
    const back = yield* untilAnswered(lab, FIRST_SENTINEL)
    yield* recorder.check("and back", back === true, `${FIRST_SENTINEL} asks ${addresses.dns4}`)

    server.signal("SIGSTOP")
    const underWay = yield* Effect.fork(dig(lab.topology, "client", [`@${FIRST_SENTINEL}`, "slow.example", "A"]))
    const first = yield* eventually(Effect.map(queued(lab), (bytes) => bytes > 0 && bytes), 5000)
    yield* lab.topology.roam("wifi")
    yield* eventually(Effect.map(queued(lab), (bytes) => bytes > (first ?? 0)), 5000)
    server.signal("SIGCONT")
    const { text, status } = yield* Fiber.join(underWay)
    const asked = [...server.log().matchAll(/query\[A\] slow\.example from (\S+)/g)].map(([, from]) => from)
    yield* recorder.check(
      "a query under way when the network changes",
      status === "NOERROR" && asked.at(-1) === addresses.wifiRouter4,
      `${text}; asked by ${asked.join(" and then by ")}`
    )
    yield* ask("from another network at once", PUBLIC, isPublic)
    const fromWifi = server.log().includes(`query[A] public.example from ${addresses.wifiRouter4}`)
    yield* recorder.check(
      "from the address of that network",
      fromWifi,
      fromWifi ? `the server has seen ${addresses.wifiRouter4}` : server.log().slice(-500)
    )
  })

export const dnsRoam: Scenario = {
  name: "dns-roam",
  about: "the system's resolvers change, then the network while a query is under way",
  run: runRoam
}

const runUpstreamDown = (lab: Lab, recorder: Recorder): Effect.Effect<void, LabError, Scope.Scope> =>
  Effect.gen(function*() {
    const server = yield* startServer(lab)
    yield* setResolvers(lab, addresses.dns4, addresses.dns6)
    yield* bringUp(lab, recorder)
    const ask = asking(lab, recorder)
    for (const sentinel of [FIRST_SENTINEL, SENTINEL_6]) {
      yield* ask("a server that is there", PUBLIC, isPublic, sentinel)
    }

    server.signal("SIGSTOP")
    yield* ask(
      "a server that is silent, over UDP: who asks asks again",
      ["+time=6", ...PUBLIC],
      ({ status }) => status === undefined
    )
    yield* ask("a server that is silent, over TCP", ["+tcp", ...PUBLIC], fails(SILENT_MILLIS))
    server.signal("SIGCONT")
    yield* ask("a server that speaks again", PUBLIC, isPublic)

    // Not SIGKILL: its children, one for each connection, would keep its sockets.
    server.signal("SIGTERM")
    yield* server.exit
    for (const sentinel of [FIRST_SENTINEL, SENTINEL_6]) {
      yield* ask("a server that is gone, over UDP", PUBLIC, failsQuickly, sentinel)
      yield* ask("a server that is gone, over TCP", ["+tcp", ...PUBLIC], failsQuickly, sentinel)
    }
    yield* ask("a resource needs none", ["www.corp.test", "A"], isProxies)
    yield* startServer(lab)
    yield* ask("a server that is back, over UDP", PUBLIC, isPublic)
    yield* ask("a server that is back, over TCP", ["+tcp", ...PUBLIC], isPublic)
  })

export const dnsUpstreamDown: Scenario = {
  name: "dns-upstream-down",
  about: "the resolver is silent, gone and back: errors that applications understand, in time",
  equipment: { resources: [named(1, "www.corp.test")] },
  run: runUpstreamDown
}

const FILE_BYTES = 2_000_000
/** The wait between two attempts of client and gateway is this long by then. */
const BACK_MILLIS = 30_000

const runPortalDown = (lab: Lab, recorder: Recorder): Effect.Effect<void, LabError, Scope.Scope> =>
  Effect.gen(function*() {
    yield* startServer(lab)
    yield* dnsmasq.start(lab.topology, "res", [
      ...["www.corp.test", "a.corp.test"].map(hostRecords),
      "txt-record=www.corp.test,known behind the gateway",
      "txt-record=new.other.test,at last"
    ])
    yield* dnsmasq.forGateway(lab.topology)
    yield* bringUp(lab, recorder)
    const ask = asking(lab, recorder)
    const known = yield* ask("A of a resource", ["www.corp.test", "A"], isProxies)
    const [proxy = ""] = known.data
    yield* fetchByName(lab, recorder, "www.corp.test", proxy)

    yield* lab.portal.end("SIGKILL")
    yield* ask("without the portal, a name of nobody's", PUBLIC, isPublic)
    yield* ask("the resource", ["www.corp.test", "A"], is("NOERROR", ...known.data))
    yield* ask("in the other family", ["www.corp.test", "AAAA"], isProxies)
    yield* ask("its TXT, from the site", ["www.corp.test", "TXT"], is("NOERROR", "\"known behind the gateway\""))
    yield* fetchByName(lab, recorder, "www.corp.test", proxy)
    const { detail, right } = yield* download(lab, proxy, FILE_BYTES)
    yield* recorder.check(`${FILE_BYTES / 1e6} MB from ${proxy}`, right, detail)
    const other = yield* ask("a name that nobody asked for before", ["a.corp.test", "A"], isProxies)
    yield* fetchByName(lab, recorder, "a.corp.test", other.data[0] ?? "")
    yield* ask("of a resource without access yet", ["new.other.test", "A"], isProxies)
    const text = ["new.other.test", "TXT"] as const
    yield* ask(
      "its TXT, which only the site knows: not yet",
      ["+time=2", ...text],
      ({ status }) => status === undefined
    )
    yield* lab.portal.start
    const granted = yield* eventually(
      Effect.map(dig(lab.topology, "client", [`@${FIRST_SENTINEL}`, "+time=2", ...text]), is("NOERROR", "\"at last\"")),
      BACK_MILLIS
    )
    yield* recorder.check("its TXT, with the portal back", granted === true, "the site has answered")
  })

export const dnsPortalDown: Scenario = {
  name: "dns-portal-down",
  about: "the portal is gone: names are resolved as before, and what was granted is reached by them",
  equipment: { resources: [named(1, "*.corp.test"), named(2, "*.other.test")] },
  run: runPortalDown
}
