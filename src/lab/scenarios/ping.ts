/** `ping RESOURCE` against what works, what is not allowed, what is off, and what is not there. */
import * as Effect from "effect/Effect"
import * as Either from "effect/Either"
import * as Schema from "effect/Schema"
import * as path from "node:path"
import { PingLine } from "../../model/ping.ts"
import * as dnsmasq from "../dnsmasq.ts"
import type { FilterConfig, ResourceConfig } from "../portal/config.ts"
import { eventually, type Recorder, type Scenario } from "../scenario.ts"
import { ids, type Lab } from "../services.ts"
import { addresses } from "../topology.ts"
import { bringUp, noViolations, TUN } from "./checks.ts"
import { hostRecords, named } from "./dns.ts"

const NAME = "www.corp.test"
/** Nobody is there. */
const SILENT = "172.20.0.99"
const NOWHERE = "198.51.100.0/24"

const network = (
  id: string,
  name: string,
  address: string,
  site: string,
  filters: ReadonlyArray<FilterConfig> = []
): ResourceConfig => ({ type: "cidr", id, name, address, address_description: null, sites: [site], filters })

const web = [{ protocol: "tcp", port_range_start: 80, port_range_end: 80 }] as const
const resources: ReadonlyArray<ResourceConfig> = [
  network(ids.cidr4, "Lab network", addresses.resourceNetwork4, ids.site),
  network(ids.cidr6, "Lab host (IPv6)", `${addresses.resource6}/128`, ids.site),
  network("66666666-6666-4666-8666-000000000053", "Web alone", `${addresses.resourceDns6}/128`, ids.site, web),
  // Of two that hold the host the one whose policy permits serves.
  network("66666666-6666-4666-8666-000000000054", "Narrow", `${addresses.resourceDns4}/32`, ids.site, web),
  network("66666666-6666-4666-8666-000000000198", "Nowhere", NOWHERE, ids.secondSite),
  named(1, NAME)
]

const decode = Schema.decodeUnknownEither(Schema.parseJson(PingLine))

interface Pinged {
  readonly code: number
  readonly text: string
  readonly lines: ReadonlyArray<PingLine>
}

/** Every line has the documented shape, or there are none. */
const ping = (lab: Lab, ...args: ReadonlyArray<string>) =>
  Effect.map(lab.runClient({ args: ["ping", "--json", "-i", "0.2", ...args] }), ({ code, stderr, stdout }): Pinged => {
    const lines = stdout.trim().split("\n").map((line) => decode(line))
    return {
      code,
      text: stdout + stderr,
      lines: lines.every(Either.isRight) ? lines.map((line) => Either.getOrThrow(line)) : []
    }
  })

const stageOf = ({ lines }: Pinged, stage: string) =>
  lines.find((line) => line.type === "stage" && line.stage === stage) as
    | Extract<PingLine, { readonly type: "stage" }>
    | undefined
const summaryOf = ({ lines }: Pinged) =>
  lines.find((line) => line.type === "summary") as Extract<PingLine, { readonly type: "summary" }> | undefined
const outcomes = ({ lines }: Pinged): string =>
  lines.flatMap((line) => line.type === "echo" ? [line.outcome] : []).join()

const judge = (recorder: Recorder, name: string, pinged: Pinged, ok: boolean, detail: string) =>
  recorder.check(name, ok, ok ? detail : `exit code ${pinged.code}: ${pinged.text.trim()}`)

const works = (lab: Lab, recorder: Recorder, name: string, target: string, echoesTo: RegExp) =>
  Effect.gen(function*() {
    const pinged = yield* ping(lab, "-c", "3", target)
    const summary = summaryOf(pinged)
    yield* judge(
      recorder,
      name,
      pinged,
      pinged.code === 0 && outcomes(pinged) === "answered,answered,answered" && echoesTo.test(summary?.address ?? "") &&
        stageOf(pinged, "path")?.verdict === "ok" && (summary?.averageMillis ?? 0) > 0,
      `${stageOf(pinged, "access")?.text}; ${
        stageOf(pinged, "path")?.text
      }; 3 of 3 from ${summary?.address}, on average ${summary?.averageMillis?.toFixed(1)} ms`
    )
    return pinged
  })

export const pingResource: Scenario = {
  name: "ping",
  about: "ping says whether a resource works, by name, id, address and host, and if not, where it breaks",
  equipment: { resources, secondSite: true },
  run: (lab, recorder) =>
    Effect.gen(function*() {
      const outside = yield* dnsmasq.start(lab.topology, "inet", ["local=/test/"])
      yield* dnsmasq.start(lab.topology, "res", [hostRecords(NAME)])
      yield* dnsmasq.forGateway(lab.topology)
      const none = yield* ping(lab, "Lab network")
      yield* recorder.check(
        "no client",
        none.code === 1 && none.text.includes("no client is running"),
        none.text.trim()
      )
      yield* bringUp(lab, recorder)

      const first = yield* works(lab, recorder, "by address", addresses.resource4, /^172\.20\.0\.10$/)
      const access = stageOf(first, "access")
      yield* judge(
        recorder,
        "access",
        first,
        access?.verdict === "ok" && (access.millis ?? 0) > 0,
        `was asked for by the first echo request, and was there ${access?.millis?.toFixed(0)} ms later`
      )
      yield* works(lab, recorder, "over IPv6", addresses.resource6, /^fd20::10$/)
      yield* works(lab, recorder, "by name", NAME, /^100\.(9[6-9]|1[01]\d|12[0-7])\./)
      yield* recorder.check(
        "the name stays inside",
        !outside.log().includes(NAME),
        `the Internet's name server was not asked for ${NAME}, which only the tunnel knows`
      )
      const whole = yield* works(lab, recorder, "a network as a whole", "Lab network", /^172\.20\.0\.1$/)
      yield* judge(
        recorder,
        "a guess is called one",
        whole,
        stageOf(whole, "name")?.verdict === "unknown",
        `${stageOf(whole, "name")?.text}`
      )

      const silent = yield* ping(lab, "-c", "2", "-W", "1", "-w", "4", SILENT)
      yield* judge(
        recorder,
        "a host that is not there",
        silent,
        silent.code === 1 && summaryOf(silent)?.answered === 0 && (summaryOf(silent)?.gatewayMillis ?? 0) > 0,
        `${summaryOf(silent)?.text}`
      )
      const filtered = yield* ping(lab, addresses.resourceDns6)
      yield* judge(
        recorder,
        "what policy does not let through",
        filtered,
        filtered.code === 1 && outcomes(filtered) === "prohibited" &&
          stageOf(filtered, "access")?.verdict === "unknown",
        `${stageOf(filtered, "access")?.text}; ${summaryOf(filtered)?.text}`
      )
      const wider = yield* works(
        lab,
        recorder,
        "another resource serves the host",
        addresses.resourceDns4,
        /^172\.20\.0\.53$/
      )
      yield* judge(
        recorder,
        "and is named",
        wider,
        stageOf(wider, "access")?.text.includes("Lab network") === true,
        `${stageOf(wider, "access")?.text}`
      )
      const offline = yield* ping(lab, "Nowhere")
      yield* judge(
        recorder,
        "no gateway",
        offline,
        offline.code === 1 && stageOf(offline, "access")?.verdict === "failed" &&
          (stageOf(offline, "access")?.text ?? "").includes("Second lab"),
        `${stageOf(offline, "access")?.text}`
      )
      const denial = { reason: "forbidden", violatedProperties: ["remote_ip"] }
      yield* lab.portal.command("/knobs", { failAuthorizations: denial })
      const refused = yield* ping(lab, "Nowhere")
      yield* judge(
        recorder,
        "what the portal refuses",
        refused,
        refused.code === 1 && (stageOf(refused, "access")?.text ?? "").includes("the conditions of no policy are met"),
        `${stageOf(refused, "access")?.text}; ${stageOf(refused, "access")?.nextStep}`
      )
      const status = yield* lab.runClient({ args: ["status"] })
      yield* recorder.check(
        "what status says of it",
        /Refused by the portal \(1\)\n {2}Nowhere, \d+ s ago: .*this machine's address\n {4}Compare/.test(
          status.stdout
        ),
        status.stdout.split("\n").filter((line) => line.includes("Nowhere")).join("; ")
      )
      yield* lab.portal.command("/knobs", { failAuthorizations: null })
      const unknown = yield* ping(lab, "203.0.113.99")
      yield* judge(
        recorder,
        "no resource",
        unknown,
        unknown.code === 1 && stageOf(unknown, "resource")?.verdict === "failed" && outcomes(unknown) === "",
        `${stageOf(unknown, "resource")?.text}`
      )
      yield* lab.topology.must("client", ["ip", "rule", "add", "pref", "50", "to", SILENT, "lookup", "main"])
      const stolen = yield* ping(lab, SILENT)
      yield* judge(
        recorder,
        "another route wins",
        stolen,
        stolen.code === 1 && stageOf(stolen, "route")?.verdict === "failed" && outcomes(stolen) === "",
        `${stageOf(stolen, "route")?.text}`
      )
      const endless = yield* lab.topology.daemon("client", "ping-endless", [
        ...[process.execPath, path.resolve(process.argv[1] ?? ""), "ping", "-c", "1000", "-i", "0.2", "Lab network"]
      ])
      yield* eventually(Effect.sync(() => endless.log().includes("echo 2")), 10_000)
      endless.signal("SIGINT")
      const code = yield* endless.exit
      yield* recorder.check(
        "Ctrl+C",
        code === 0 && /\d+ sent, \d+ answered/.test(endless.log()),
        `exit code ${code}: ${endless.log().trim().split("\n").slice(-2).join("; ")}`
      )
      const person = yield* lab.runClient({ args: ["ping", "-c", "2", "-i", "0.2", "Lab network"] })
      yield* recorder.check(
        "for a person",
        person.code === 0 && person.stdout.includes(`through ${TUN}`) && !person.stdout.includes("\x1b"),
        `\n${person.stdout.trimEnd()}`
      )
      yield* noViolations(lab, recorder)
    })
}
