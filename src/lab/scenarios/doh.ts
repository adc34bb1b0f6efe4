/** The account's resolver speaks DNS over HTTPS. */
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import * as fs from "node:fs"
import * as path from "node:path"
import { dig } from "../dig.ts"
import * as dnsmasq from "../dnsmasq.ts"
import { LabError } from "../LabError.ts"
import { requirePrograms } from "../requirePrograms.ts"
import { eventually, type Recorder, type Scenario } from "../scenario.ts"
import type { Lab } from "../services.ts"
import { addresses } from "../topology.ts"
import { bringUp } from "./checks.ts"
import { asking } from "./dns.ts"
import { answers, failsQuickly } from "./upstreams.ts"

const FIRST_SENTINEL = "100.100.111.1"
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
    const ask = asking(lab, recorder)
    const quietly = (name: string) => dig(lab.topology, "client", [`@${FIRST_SENTINEL}`, "+time=3", name, "A"])
    const first = yield* eventually(
      Effect.map(quietly("public.example"), answers("203.0.113.2")),
      5000
    )
    yield* recorder.check("A over HTTPS", first === true, `${FIRST_SENTINEL} asks https://${DOH_HOST}/dns-query`)
    yield* ask("for who asks over TCP", ["+tcp", "public.example", "A"], answers("203.0.113.2"))
    yield* ask("a name that does not exist", ["missing.example", "A"], ({ status }) => status === "NXDOMAIN")
    const leaked = plain.log().includes(".example")
    yield* recorder.check(
      "nothing asked in the clear",
      !leaked,
      "the plain server was asked for the HTTPS server alone"
    )
    yield* lab.topology.roam("wifi")
    const again = yield* eventually(
      Effect.map(quietly("other.example"), ({ status }) => status === "NXDOMAIN"),
      10_000
    )
    yield* recorder.check("from another network", again === true, "the connection was made anew")
    server.signal("SIGKILL")
    yield* server.exit
    yield* ask("a server that is gone", ["third.example", "A"], failsQuickly)
    yield* startUnbound(lab)
    const recovered = yield* eventually(
      Effect.map(quietly("fourth.example"), ({ status }) => status === "NXDOMAIN"),
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
