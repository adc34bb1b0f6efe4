/** What `doctor` finds on hosts whose faults are known. */
import * as Effect from "effect/Effect"
import * as Either from "effect/Either"
import * as Schema from "effect/Schema"
import { DoctorReport, type Verdict } from "../../model/doctor.ts"
import { TABLES } from "../../model/policyRouting.ts"
import * as dnsmasq from "../dnsmasq.ts"
import { eventually, type Recorder, type Scenario } from "../scenario.ts"
import { type Lab, tokens } from "../services.ts"
import { addresses, type NatType } from "../topology.ts"
import { bringUp, connect, noViolations } from "./checks.ts"
import { clientRouters, CONNECT_BOUND, nats } from "./paths.ts"

/** With a machine that has other work to do. */
const LIMIT_MILLIS = 15_000

const decode = Schema.decodeUnknownEither(Schema.parseJson(DoctorReport))

interface Examination {
  readonly code: number | null
  readonly report: DoctorReport | undefined
  readonly millis: number
  readonly output: string
}

const examine = (lab: Lab, args: ReadonlyArray<string> = [], env: Readonly<Record<string, string>> = {}) =>
  Effect.gen(function*() {
    const began = Date.now()
    const { code, stderr, stdout } = yield* lab.runClient({ args: ["doctor", "--json", ...args], env })
    const examination: Examination = {
      code,
      report: Either.getOrUndefined(decode(stdout)),
      millis: Date.now() - began,
      output: stdout + stderr
    }
    return examination
  })

const EXIT_CODES: { readonly [verdict in Verdict]: number } = { ok: 0, skipped: 0, warning: 10, failed: 11 }

/** Compares the verdicts by id; the exit code must be that of the worst of all. */
const judge = (
  recorder: Recorder,
  name: string,
  { code, millis, output, report }: Examination,
  expected: { readonly [id: string]: Verdict }
) =>
  Effect.gen(function*() {
    if (report === undefined) return yield* recorder.check(name, false, `not of the documented shape: ${output}`)
    const found = Object.keys(expected).map((id) => {
      const check = report.checks.find((check) => check.id === id)
      return { id, verdict: check?.verdict, evidence: check?.evidence.join("; ") ?? "no such check" }
    })
    const wrong = found.filter(({ id, verdict }) => verdict !== expected[id])
    yield* recorder.check(
      name,
      wrong.length === 0,
      wrong.length === 0
        ? found.map(({ id, verdict }) => `${id} ${verdict}`).join(", ")
        : wrong.map(({ evidence, id, verdict }) => `${id} is ${verdict}, not ${expected[id]}: ${evidence}`).join("\n")
    )
    yield* recorder.check(
      `${name}: in time, and with its exit code`,
      millis < LIMIT_MILLIS && code === EXIT_CODES[report.verdict],
      `exit code ${code} for ${report.verdict} after ${millis} ms`
    )
    return yield* recorder.check(
      `${name}: no secret`,
      !output.includes(tokens.client),
      "the token is not in what it prints"
    )
  })

const factOf = ({ report }: Examination, id: string, fact: string) =>
  report?.checks.find((check) => check.id === id)?.facts?.[fact]

/** As `judge`, behind routers of this kind; their old mappings are forgotten. */
const behind = (lab: Lab, type: NatType) => Effect.zipRight(nats(lab.topology, clientRouters, type), examine(lab))

/** It takes all traffic but that of the lab, and a range that is the client's. */
const IN_THE_WAY = `ip tuntap add dev vpn0 mode tun
ip link set vpn0 up
ip route add 0.0.0.0/1 dev vpn0 table 52
ip route add 100.64.0.0/10 dev vpn0 table 52
ip rule add to 10.99.0.0/16 lookup 52 priority 50`
const OUT_OF_THE_WAY = `ip rule delete priority 50
ip link delete vpn0`
const { priority } = TABLES.linkScope
const RULE_AWAY = `ip rule delete priority ${priority}`

const judgeWithClient = (lab: Lab, recorder: Recorder) =>
  Effect.gen(function*() {
    const healthy = yield* examine(lab)
    yield* judge(recorder, "healthy", healthy, {
      "client": "ok",
      "token": "ok",
      "privileges": "ok",
      "tun": "ok",
      "sockets": "ok",
      "policy-routing": "ok",
      "uplinks": "ok",
      "vpns": "ok",
      "reserved-ranges": "ok",
      "rules": "ok",
      "resolv-conf": "ok",
      "dns-method": "ok",
      "resolvers": "ok",
      "portal-tcp": "ok",
      "portal-tls": "warning", // the lab's has none
      "portal-answer": "ok",
      "clock": "ok",
      "relays": "ok",
      "nat": "ok",
      "mtu": "ok",
      "gateways": "ok"
    })
    yield* recorder.check("healthy: all in all", healthy.code === 10, `exit code ${healthy.code}`)
    const mapping = factOf(healthy, "nat", "mapping")
    yield* recorder.check("home NAT", mapping === "endpoint-independent", `it calls the mapping ${mapping}`)
    const status = factOf(healthy, "portal-answer", "status")
    yield* recorder.check("asks without a token", status === 401, `the portal answered ${status}`)
    yield* noViolations(lab, recorder)

    const client = (command: string) => lab.topology.must("client", ["sh", "-ec", command])
    yield* client("ip link set lan0 mtu 1300")
    yield* judge(recorder, "narrow uplink", yield* examine(lab), {
      "relays": "ok",
      "portal-tcp": "ok",
      "mtu": "failed"
    })
    yield* client("ip link set lan0 mtu 1500")

    yield* client(IN_THE_WAY)
    yield* judge(recorder, "another VPN", yield* examine(lab), {
      "vpns": "warning",
      "reserved-ranges": "warning",
      "rules": "warning",
      "policy-routing": "ok",
      "relays": "ok"
    })
    yield* client(OUT_OF_THE_WAY)

    // The client puts it back, and then rests for 15 s: time to look.
    yield* client(RULE_AWAY)
    const isBack = yield* eventually(
      Effect.map(client(`ip rule show priority ${priority}`), ({ stdout }) => stdout !== ""),
      10_000
    )
    yield* recorder.check("a rule that somebody removed", isBack === true, "the client puts it back")
    yield* client(RULE_AWAY)
    yield* judge(recorder, "a rule is gone", yield* examine(lab), { "policy-routing": "failed", "rules": "ok" })

    const symmetric = yield* behind(lab, "symmetric")
    yield* judge(recorder, "symmetric NAT", symmetric, { relays: "ok", nat: "warning", mtu: "ok" })
    const other = factOf(symmetric, "nat", "mapping")
    yield* recorder.check("symmetric NAT: its kind", other === "address-dependent", `it calls the mapping ${other}`)

    const blocked = yield* behind(lab, "udp-blocked")
    yield* judge(recorder, "UDP blocked", blocked, {
      "relays": "failed",
      "nat": "skipped",
      "portal-tcp": "ok",
      "portal-answer": "ok",
      "clock": "ok"
    })
    yield* nats(lab.topology, clientRouters, "home")

    yield* lab.portal.end("SIGTERM")
    const down = yield* eventually(
      Effect.map(
        examine(lab),
        (found) =>
          found.report?.checks.some(({ id, verdict }) => id === "client" && verdict === "failed") === true && found
      ),
      20_000
    )
    if (down === undefined) return yield* recorder.check("portal down", false, "it takes the client for signed in")
    return yield* judge(recorder, "portal down", down, {
      "client": "failed",
      "portal-tcp": "failed",
      "portal-answer": "skipped",
      "clock": "skipped",
      "relays": "ok"
    })
  })

export const doctor: Scenario = {
  name: "doctor",
  about: "doctor, on a healthy host, and then behind bad NATs, without a portal, after a crash and without a network",
  equipment: { secondRelay: true },
  run: (lab, recorder) =>
    Effect.gen(function*() {
      yield* dnsmasq.start(lab.topology, "inet", [
        `host-record=portal.lab.test,${addresses.portal},${addresses.portal6}`
      ])
      yield* judge(recorder, "before the start", yield* examine(lab), {
        "client": "skipped",
        "token": "ok",
        "tun": "ok",
        "portal-answer": "ok",
        "relays": "skipped",
        "resolv-conf": "ok"
      })
      const named = yield* examine(
        lab,
        ["--stun", addresses.relay4, "--stun", `${addresses.secondRelay4}:3478`],
        { FIREZONE_API_URL: `ws://portal.lab.test:${addresses.portalPort}/` }
      )
      yield* judge(recorder, "portal by name, relays by hand", named, {
        "resolvers": "ok",
        "portal-name": "ok",
        "portal-tcp": "ok",
        "portal-answer": "ok",
        "relays": "ok",
        "nat": "ok",
        "mtu": "ok"
      })

      const client = yield* bringUp(lab, recorder, { dnsControl: "etc-resolv-conf" })
      yield* connect(lab, recorder, addresses.resource4, CONNECT_BOUND)
      yield* judgeWithClient(lab, recorder)

      client.signal("SIGKILL")
      yield* client.exit
      yield* judge(recorder, "after a crash", yield* examine(lab), { "client": "skipped", "resolv-conf": "failed" })
      yield* lab.runClient({ args: ["dns-cleanup"] })
      yield* judge(recorder, "after dns-cleanup", yield* examine(lab), { "resolv-conf": "ok" })

      yield* lab.topology.unplug("lan")
      yield* lab.topology.unplug("wifi")
      yield* judge(recorder, "no network", yield* examine(lab, ["--stun", addresses.relay4]), {
        "uplinks": "failed",
        "resolvers": "failed",
        "portal-tcp": "failed",
        "relays": "failed"
      })
    })
}
