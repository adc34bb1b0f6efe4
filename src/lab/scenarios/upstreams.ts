/** The resolvers that the client asks outside the tunnel: when they change, when they are gone, when they speak HTTPS. */
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import * as fs from "node:fs"
import * as path from "node:path"
import { type Answer, dig } from "../dig.ts"
import * as dnsmasq from "../dnsmasq.ts"
import { LabError } from "../LabError.ts"
import { requirePrograms } from "../requirePrograms.ts"
import { eventually, type Recorder, type Scenario } from "../scenario.ts"
import type { Lab } from "../services.ts"
import { addresses } from "../topology.ts"
import { bringUp, tunPackets } from "./checks.ts"

const FIRST_SENTINEL = "100.100.111.1"
/** For an answer, and for an error that needs no time limit. */
const QUICK_MILLIS = 2000
/** The client looks every 5 s. */
const NOTICED_MILLIS = 15_000

const answers = (address: string) => ({ data, status }: Answer): boolean =>
  status === "NOERROR" && data.join() === address
const failsQuickly = ({ millis, status }: Answer): boolean => status === "SERVFAIL" && millis < QUICK_MILLIS

const ask = (lab: Lab, server: string, ...query: ReadonlyArray<string>) =>
  dig(lab.topology, "client", [`@${server}`, "+time=3", ...query])

const check = (
  lab: Lab,
  recorder: Recorder,
  title: string,
  query: ReadonlyArray<string>,
  isRight: (answer: Answer) => boolean,
  server = FIRST_SENTINEL
) =>
  Effect.gen(function*() {
    const answer = yield* ask(lab, server, ...query)
    yield* recorder.check(title, isRight(answer), `dig @${server} ${query.join(" ")}: ${answer.text}`)
  })

const setResolver = (lab: Lab, address: string): Effect.Effect<void, LabError> =>
  Effect.asVoid(lab.topology.must("client", [
    ...["sh", "-c", `echo "nameserver ${address}" > /etc/resolv.new && mv /etc/resolv.new /etc/resolv.conf`]
  ]))

const runUpstreams = (lab: Lab, recorder: Recorder): Effect.Effect<void, LabError, Scope.Scope> =>
  Effect.gen(function*() {
    const server = yield* dnsmasq.start(lab.topology, "inet", ["host-record=public.example,203.0.113.2"])
    yield* bringUp(lab, recorder)
    yield* check(lab, recorder, "the system's resolver", ["public.example", "A"], answers("203.0.113.2"))
    const inside = (yield* tunPackets(lab)).tx
    yield* ask(lab, addresses.dns4, "public.example", "A")
    const entered = (yield* tunPackets(lab)).tx - inside
    yield* recorder.check(
      "its server stays outside",
      entered === 0,
      `${entered} packets to it entered the tunnel device`
    )

    yield* setResolver(lab, addresses.dns6)
    // In the other family, so that the sentinel is of the other family, too.
    const sentinel6 = "fd00:2021:1111:8000:100:100:111:0"
    const moved = yield* eventually(
      Effect.map(ask(lab, sentinel6, "+time=1", "public.example", "A"), answers("203.0.113.2")),
      NOTICED_MILLIS
    )
    yield* recorder.check("follows a change of resolvers", moved === true, `${sentinel6} asks ${addresses.dns6}`)
    const old = yield* ask(lab, FIRST_SENTINEL, "+time=1", "public.example", "A")
    yield* recorder.check("the sentinel before is none any more", old.status === undefined, old.text)
    yield* setResolver(lab, addresses.dns4)
    const back = yield* eventually(
      Effect.map(ask(lab, FIRST_SENTINEL, "+time=1", "public.example", "A"), answers("203.0.113.2")),
      NOTICED_MILLIS
    )
    yield* recorder.check("and back", back === true, `${FIRST_SENTINEL} asks ${addresses.dns4}`)

    yield* lab.topology.roam("wifi")
    yield* check(lab, recorder, "from another network at once", ["public.example", "A"], answers("203.0.113.2"))
    const fromWifi = server.log().includes(`query[A] public.example from ${addresses.wifiRouter4}`)
    yield* recorder.check(
      "from the address of that network",
      fromWifi,
      fromWifi ? `the server has seen ${addresses.wifiRouter4}` : server.log().slice(-500)
    )

    yield* lab.portal.end("SIGKILL")
    yield* check(lab, recorder, "without the portal", ["public.example", "A"], answers("203.0.113.2"))
    server.signal("SIGKILL")
    yield* server.exit
    yield* check(lab, recorder, "a server that is gone, over UDP", ["public.example", "A"], failsQuickly)
    yield* check(lab, recorder, "a server that is gone, over TCP", ["+tcp", "public.example", "A"], failsQuickly)
  })

export const dnsUpstreams: Scenario = {
  name: "dns-upstreams",
  about: "the system's resolvers change, the client roams, the portal and then the resolver are gone",
  run: runUpstreams
}

const DOH_HOST = "dns.lab.test"

/** A root of its own and a certificate of the DNS server under it. Returns the file of the root. */
const makeCertificates = (lab: Lab): Effect.Effect<string, LabError> => {
  const { folder } = lab.topology
  const key = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes"
  const script = [
    `cd ${folder}`,
    `openssl req -x509 ${key} -keyout doh-root.key -out doh-root.pem -days 2 -subj "/CN=Lab root"`,
    `openssl req ${key} -keyout doh.key -out doh.csr -subj /CN=${DOH_HOST}`,
    `echo subjectAltName=DNS:${DOH_HOST} > doh.ext`,
    "openssl x509 -req -in doh.csr -CA doh-root.pem -CAkey doh-root.key -CAcreateserial -days 2 -extfile doh.ext -out doh.pem"
  ].join(" && ")
  return Effect.as(lab.topology.must("inet", ["sh", "-c", script]), path.join(folder, "doh-root.pem"))
}

const startUnbound = (lab: Lab) =>
  Effect.gen(function*() {
    const { folder } = lab.topology
    const config = path.join(folder, "unbound.conf")
    const lines = [
      ...["do-daemonize: no", "chroot: \"\"", "username: \"\"", "use-syslog: no", "logfile: \"\"", "pidfile: \"\""],
      ...["module-config: \"iterator\"", "access-control: 0.0.0.0/0 allow", "log-queries: yes", "verbosity: 1"],
      ...[`interface: ${addresses.dns4}@443`, "https-port: 443", "http-endpoint: \"/dns-query\""],
      ...[`tls-service-key: "${folder}/doh.key"`, `tls-service-pem: "${folder}/doh.pem"`],
      ...["local-zone: \"example.\" static", "local-data: \"public.example. 60 IN A 203.0.113.2\""]
    ]
    fs.writeFileSync(
      config,
      `server:\n${lines.map((line) => `  ${line}\n`).join("")}remote-control:\n  control-enable: no\n`
    )
    const daemon = yield* lab.topology.daemon("inet", "unbound", ["unbound", "-d", "-c", config])
    const isUp = yield* eventually(Effect.sync(() => daemon.log().includes("start of service")), 5000)
    if (isUp === undefined) return yield* new LabError({ what: "unbound", why: daemon.log().slice(-1000) })
    return daemon
  })

const runDoh = (lab: Lab, recorder: Recorder): Effect.Effect<void, LabError, Scope.Scope> =>
  Effect.gen(function*() {
    yield* requirePrograms(["unbound", "openssl"], "unbound openssl")
    const root = yield* makeCertificates(lab)
    const plain = yield* dnsmasq.start(lab.topology, "inet", [`host-record=${DOH_HOST},${addresses.dns4}`])
    const server = yield* startUnbound(lab)
    yield* bringUp(lab, recorder, { env: { NODE_EXTRA_CA_CERTS: root } })
    const first = yield* eventually(
      Effect.map(ask(lab, FIRST_SENTINEL, "public.example", "A"), answers("203.0.113.2")),
      5000
    )
    yield* recorder.check("A over HTTPS", first === true, `${FIRST_SENTINEL} asks https://${DOH_HOST}/dns-query`)
    yield* check(lab, recorder, "for who asks over TCP", ["+tcp", "public.example", "A"], answers("203.0.113.2"))
    yield* check(lab, recorder, "a name that does not exist", ["missing.example", "A"], ({ status }) =>
      status === "NXDOMAIN")
    const leaked = plain.log().includes(".example")
    yield* recorder.check(
      "nothing asked in the clear",
      !leaked,
      "the plain server was asked for the HTTPS server alone"
    )
    yield* lab.topology.roam("wifi")
    const again = yield* eventually(
      Effect.map(ask(lab, FIRST_SENTINEL, "other.example", "A"), ({ status }) =>
        status === "NXDOMAIN"),
      10_000
    )
    yield* recorder.check("from another network", again === true, "the connection was made anew")
    server.signal("SIGKILL")
    yield* server.exit
    yield* check(lab, recorder, "a server that is gone", ["third.example", "A"], failsQuickly)
    yield* startUnbound(lab)
    const recovered = yield* eventually(
      Effect.map(ask(lab, FIRST_SENTINEL, "fourth.example", "A"), ({ status }) =>
        status === "NXDOMAIN"),
      10_000
    )
    yield* recorder.check("a server that is back", recovered === true, "the next query but one is answered")
  })

export const doh: Scenario = {
  name: "doh",
  about: "the account's resolver speaks DNS over HTTPS: one connection, made anew when it or the network is gone",
  equipment: { dns: { upstreamDoh: [`https://${DOH_HOST}/dns-query`] } },
  run: runDoh
}
