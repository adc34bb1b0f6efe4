import { assert, describe, it } from "@effect/vitest"
import * as Console from "effect/Console"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as Layer from "effect/Layer"
import * as Schema from "effect/Schema"
import * as Stream from "effect/Stream"
import * as TestClock from "effect/TestClock"
import { SyscallError } from "../../src/ffi/SyscallError.ts"
import { statusReport } from "../../src/layers/control/statusReport.ts"
import { PingLine } from "../../src/model/ping.ts"
import type { StatusReport } from "../../src/model/status.ts"
import { ping, type PingOptions } from "../../src/programs/ping/ping.ts"
import { findTarget } from "../../src/programs/ping/target.ts"
import { ip } from "../../src/protocol/wire/address.ts"
import { ControlClient } from "../../src/services/ControlClient.ts"
import {
  type Echoes,
  type EchoOutcome,
  type LookUp,
  OutsideTunnel,
  ProbeFailed,
  ResourceProbe
} from "../../src/services/ResourceProbe.ts"
import { tunnelStatus } from "../support/TunnelDouble.ts"

type Resource = StatusReport["resources"][number]
const GATEWAY = "77777777-7777-4777-8777-777777777777"
const resource = (id: string, type: Resource["type"], address: string, more: Partial<Resource> = {}): Resource => ({
  id,
  type,
  name: `the ${id}`,
  address,
  sites: [{ id: "s", name: "HQ" }],
  status: "Online",
  gateway: GATEWAY,
  ...more
})

const report = (resources: ReadonlyArray<Resource>, changes: Partial<StatusReport> = {}): StatusReport => ({
  ...statusReport(tunnelStatus(), { version: "1.2.3", pid: 42, uptimeMillis: 1 }, new URL("wss://api.example/")),
  resources,
  ...changes
})

describe("what is meant", () => {
  const account = report([
    resource("lan", "cidr", "10.20.0.0/16"),
    resource("server", "cidr", "10.20.0.5/32"),
    resource("six", "cidr", "fd20::/64"),
    resource("pair", "cidr", "192.0.2.0/31"),
    resource("web", "dns", "www.corp.test"),
    resource("all", "dns", "*.corp.test"),
    resource("deep", "dns", "**.corp.test"),
    resource("one", "dns", "a.example", { name: "Twin" }),
    resource("two", "dns", "b.example", { name: "twin" }),
    resource("internet", "internet", "")
  ])
  const meant = (text: string, from = account): string => {
    const target = findTarget(from, text)
    if (target._tag === "Unclear") return `unclear: ${target.resources.map(({ id }) => id).join()}`
    if (target._tag === "Unknown") return "unknown"
    const { alternatives, host, resource } = target
    const what = host._tag === "Address"
      ? `${host.address}${host.isGuess ? "?" : ""}`
      : host._tag === "Name"
      ? host.name
      : "nothing"
    return [resource.id, what, ...alternatives].join(" ")
  }

  it("is a resource by id, name or address, or a host inside one", () => {
    const cases: ReadonlyArray<readonly [string, string]> = [
      ["lan", "lan 10.20.0.1?"],
      ["THE LAN", "lan 10.20.0.1?"],
      ["10.20.0.0/16", "lan 10.20.0.1?"],
      ["server", "server 10.20.0.5 lan"],
      ["10.20.0.5", "server 10.20.0.5 lan"],
      ["10.20.7.7", "lan 10.20.7.7"],
      ["fd20::", "six fd20::"],
      ["six", "six fd20::1?"],
      ["pair", "pair 192.0.2.0?"],
      ["web", "web www.corp.test"],
      ["WWW.corp.test.", "web WWW.corp.test all deep"],
      ["www", "web www.corp.test all deep"],
      ["a.corp.test", "all a.corp.test deep"],
      ["corp.test", "all corp.test deep"],
      ["a.b.corp.test", "deep a.b.corp.test"],
      ["all", "all nothing"],
      ["*.corp.test", "all nothing"],
      ["Twin", "unclear: one,two"],
      ["two", "two b.example"],
      ["internet", "internet nothing"],
      ["198.51.100.1", "unknown"],
      ["100.96.0.1", "unknown"],
      ["corp.example", "unknown"],
      ["", "unknown"],
      ["a b\u0000", "unknown"]
    ]
    for (const [text, expected] of cases) assert.strictEqual(meant(text), expected, text)
    assert.strictEqual(meant("198.51.100.1", { ...account, internetResourceActive: true }), "internet 198.51.100.1")
  })
})

interface Play {
  /** What the client says, one after the other; the last one again and again. */
  readonly reports: ReadonlyArray<StatusReport>
  readonly lookUp?: ResourceProbe["Type"]["lookUp"]
  readonly source?: string
  readonly echo?: Echoes["echo"]
  readonly options?: Partial<PingOptions>
  readonly target?: string
}

const answered = (millis: number): EchoOutcome => ({ _tag: "Answered", millis })

const options: PingOptions = {
  target: "lan",
  json: true,
  count: 3,
  intervalMillis: 1000,
  patienceMillis: 2000,
  deadlineMillis: undefined,
  family: undefined,
  hasColours: false
}

const start = ({ echo = (sequence) => Effect.succeed(answered(sequence)), lookUp, reports, source, ...play }: Play) =>
  Effect.gen(function*() {
    const printed: Array<string> = []
    const asked: Array<string> = []
    let next = 0
    const console = yield* Console.consoleWith(Effect.succeed)
    const status = Effect.sync(() => reports[Math.min(next++, reports.length - 1)] as StatusReport)
    const fiber = yield* ping({ ...options, ...play.options, target: play.target ?? options.target }).pipe(
      Effect.withConsole({ ...console, log: (...args) => Effect.sync(() => void printed.push(args.join(" "))) }),
      Effect.provide(Layer.merge(
        Layer.succeed(ControlClient, { status, statuses: Stream.never }),
        Layer.succeed(ResourceProbe, {
          lookUp: lookUp ?? ((name, family, server, source) =>
            Effect.sync((): LookUp => {
              asked.push(`${name} ${family} at ${server} from ${source}`)
              return { _tag: "Addresses", addresses: family === 4 ? [ip("100.96.0.1")] : [] }
            })),
          open: (destination) =>
            Effect.sync(() => {
              asked.push(`open ${destination}`)
              return { source: ip(source ?? (destination.includes(":") ? "fd00:2021:1111::2" : "100.64.0.2")), echo }
            })
        })
      )),
      Effect.match({ onFailure: ({ _tag }) => _tag as string, onSuccess: () => "works" }),
      Effect.fork
    )
    return { asked, fiber, printed }
  })

const decode = Schema.decodeUnknownSync(Schema.parseJson(PingLine))

const play = (setting: Play) =>
  Effect.gen(function*() {
    const { asked, fiber, printed } = yield* start(setting)
    yield* TestClock.adjust("1 minute")
    const ended = yield* Fiber.join(fiber)
    const lines = setting.options?.json === false ? [] : printed.map((line) => decode(line))
    const stages = lines.flatMap((line) => line.type === "stage" ? [`${line.stage} ${line.verdict}`] : [])
    const text = (stage: string) =>
      lines.flatMap((line) => line.type === "stage" && line.stage === stage ? [line.text] : []).join()
    const last = lines.at(-1)
    return { asked, ended, printed, stages, text, summary: last?.type === "summary" ? last : undefined, lines }
  })

const lan = resource("lan", "cidr", "10.20.0.0/16")
const HOST = "10.20.0.9"
const ALL_OK = ["client ok", "resource ok", "route ok", "access ok", "path ok"]

describe("ping", () => {
  it.effect("shows stage by stage that it works, and the times", () =>
    Effect.gen(function*() {
      const { asked, ended, stages, summary } = yield* play({ reports: [report([lan])], target: HOST })
      assert.strictEqual(ended, "works")
      assert.deepStrictEqual(stages, ALL_OK)
      assert.deepStrictEqual(asked, [`open ${HOST}`])
      assert.deepInclude(summary, {
        sent: 3,
        answered: 3,
        minMillis: 1,
        averageMillis: 2,
        maxMillis: 3,
        gatewayMillis: 12.34,
        works: true,
        address: HOST,
        resource: "lan"
      })
    }))
  it.effect("shows the same to a person, without what moves the cursor", () =>
    Effect.gen(function*() {
      const evil = { ...lan, name: "L\x1b[2JAN" }
      const { printed } = yield* play({
        reports: [report([evil])],
        target: HOST,
        options: { json: false, count: 1 },
        echo: () => Effect.succeed(answered(12.34))
      })
      assert.deepStrictEqual(printed, [
        "  client    1.2.3, process 42, signed in  0.0 ms",
        "  resource  L\u{fffd}[2JAN, 10.20.0.0/16, in HQ",
        "  route     through tun-test, from 100.64.0.2",
        `  access    granted before, through gateway ${GATEWAY}`,
        "  path      through our relay, 192.0.2.9:49999 to [2001:db8::9]:52625, round trip 12 ms",
        "  echo 1    10.20.0.9 answered after 12 ms",
        "\n1 sent, 1 answered, 0 % lost; 12.3 / 12.3 / 12.3 ms (least, average, most)\n"
        + "10.20.0.9 works: the times are of echo requests to 10.20.0.9 and back"
      ])
    }))
  it.effect("asks the client's own server for a name, for the families that there are", () =>
    Effect.gen(function*() {
      const web = resource("web", "dns", "www.corp.test")
      const first = yield* play({ reports: [report([web])], target: "web" })
      assert.deepStrictEqual(first.asked, [
        "www.corp.test 4 at 100.100.111.1 from 100.64.0.2",
        "www.corp.test 6 at 100.100.111.1 from 100.64.0.2",
        "open 100.96.0.1"
      ])
      assert.include(first.stages, "name ok")
      const second = yield* play({ reports: [report([web])], target: "web", options: { family: 6 } })
      assert.strictEqual(second.ended, "DoesNotWork")
      assert.lengthOf(second.asked, 1)
      assert.include(second.text("name"), "knows no address")
    }))
  it.effect("says why a name is not found, and asks nobody else", () =>
    Effect.gen(function*() {
      const web = resource("web", "dns", "www.corp.test")
      const server = ip("100.100.111.1")
      const cases: ReadonlyArray<readonly [Effect.Effect<LookUp, OutsideTunnel>, string]> = [
        [Effect.succeed({ _tag: "Refused", responseCode: 3 }), "NameError"],
        [Effect.succeed({ _tag: "Silent" }), "does not answer"],
        [new OutsideTunnel({ destination: server, source: ip("192.168.1.2") }), "192.168.1.2"]
      ]
      for (const [outcome, text] of cases) {
        const { asked, ended, summary, text: of } = yield* play({
          reports: [report([web])],
          target: "web",
          lookUp: () => outcome
        })
        assert.strictEqual(ended, "DoesNotWork")
        assert.include(of("name"), text)
        assert.deepStrictEqual(asked, [])
        assert.isFalse(summary?.works)
      }
      const none = yield* play({ reports: [report([web], { dns: undefined })], target: "web" })
      assert.include(none.text("name"), "no DNS server of its own")
    }))
  it.effect("tells when access came, and how the way is then", () =>
    Effect.gen(function*() {
      const before = report([{ ...lan, gateway: undefined, status: "Unknown" }], { peers: [] })
      const { ended, lines, stages } = yield* play({
        reports: [before, before, before, report([lan])],
        target: HOST,
        echo: (sequence) => Effect.delay(Effect.succeed(answered(sequence)), "900 millis")
      })
      assert.strictEqual(ended, "works")
      assert.deepStrictEqual(stages, ALL_OK)
      const access = lines.find((line) => line.type === "stage" && line.stage === "access")
      assert.strictEqual(access?.type === "stage" ? access.millis : undefined, 400)
    }))
  it.effect("names another resource that serves the host", () =>
    Effect.gen(function*() {
      const narrow = resource("narrow", "cidr", `${HOST}/32`, { gateway: undefined, status: "Unknown" })
      const wide = { ...lan, name: "Wide" }
      const { ended, text } = yield* play({ reports: [report([narrow, wide])], target: HOST })
      assert.strictEqual(ended, "works")
      assert.include(text("access"), "Wide")
    }))
  it.effect("waits no longer when the portal says that no gateway is online, and says where", () =>
    Effect.gen(function*() {
      const before = report([{ ...lan, gateway: undefined, status: "Unknown" }], { peers: [] })
      const offline = report([{ ...lan, gateway: undefined, status: "Offline" }], { peers: [] })
      const { asked, fiber, printed } = yield* start({
        reports: [before, before, offline],
        target: HOST,
        echo: () => Effect.never
      })
      yield* TestClock.adjust("300 millis")
      assert.strictEqual(yield* Fiber.join(fiber), "DoesNotWork")
      assert.include(printed.join("\n"), "no gateway in HQ is online")
      assert.deepStrictEqual(asked, [`open ${HOST}`])
    }))
  it.effect("waits no longer when the portal refuses, and says why and what to do", () =>
    Effect.gen(function*() {
      const without = { ...lan, gateway: undefined, status: "Unknown" as const }
      const refused = (reason: string, ageMillis: number) =>
        report([{ ...without, refusal: { reason, violated: ["remote_ip"], ageMillis } }], { peers: [] })
      const now = yield* start({
        // The first refusal is older than the request.
        reports: [
          refused("forbidden", 60_000),
          refused("forbidden", 60_000),
          refused("forbidden", 60_100),
          refused("forbidden", 50)
        ],
        target: HOST,
        echo: () => Effect.never
      })
      yield* TestClock.adjust("700 millis")
      assert.strictEqual(yield* Fiber.join(now.fiber), "DoesNotWork")
      assert.include(now.printed.join("\n"), "refused it: the conditions of no policy are met: this machine's address")
      assert.include(now.printed.join("\n"), "Compare the conditions of the resource's policies")
      const silent: Echoes["echo"] = (_, patience) => Effect.delay(Effect.succeed({ _tag: "Silent" }), patience)
      const before = yield* play({ reports: [refused("version_mismatch", 61_000)], target: HOST, echo: silent })
      assert.include(before.text("access"), "within 10000 ms; 1 min 1 s ago it refused: the versions")
    }))
  it.effect("tries a device of a pool, by any of its names", () =>
    Effect.gen(function*() {
      const device = {
        id: "d1",
        name: "alpha",
        ipv4: "100.64.0.7/32",
        ipv6: "fd00:2021:1111::7/128",
        granted: true,
        peer: GATEWAY
      }
      const devicePools: StatusReport["devicePools"] = [
        {
          id: "p1",
          type: "static",
          name: "Printers",
          devices: [device, { ...device, id: "d2", name: "beta", ipv4: "100.64.0.8/32", ipv6: "fd00:2021:1111::8/128" }]
        },
        {
          id: "p2",
          type: "dynamic",
          name: "Names",
          address: "*.l.test",
          devices: [{ ...device, name: "a.l.test" }, {
            ...device,
            name: "b.l.test",
            ipv4: "100.64.0.9/32",
            ipv6: "fd00:2021:1111::9/128",
            granted: false,
            peer: undefined
          }]
        },
        { id: "p3", type: "static", name: "Nobody", devices: [] }
      ]
      const account = report([], { devicePools })
      const meant = (text: string, family?: 4 | 6) => {
        const target = findTarget(account, text, family)
        if (target._tag !== "Found") {
          return target._tag === "Unknown"
            ? target.why
            : `unclear: ${target.resources.length}`
        }
        const { host, resource } = target
        return [resource.id, host._tag === "Address" ? host.address : host._tag === "Name" ? host.name : "-"].join()
      }
      for (const text of ["d1", "ALPHA", "100.64.0.7"]) assert.strictEqual(meant(text), "p1 d1,100.64.0.7")
      assert.strictEqual(meant("alpha", 6), "p1 d1,fd00:2021:1111::7")
      assert.strictEqual(meant("fd00:2021:1111::7"), "p1 d1,fd00:2021:1111::7")
      assert.strictEqual(meant("a.l.test"), "p2 a.l.test,100.64.0.7")
      assert.strictEqual(meant("c.l.test"), "p2 c.l.test,c.l.test")
      assert.strictEqual(meant("Printers"), "unclear: 2")
      assert.include(meant("Nobody"), "lists no devices")
      assert.include(meant("c.m.test"), "no resource of this account is called")

      const works = yield* play({ reports: [account], target: "alpha" })
      assert.strictEqual(works.ended, "works")
      assert.strictEqual(works.text("resource"), "alpha, 100.64.0.7 and fd00:2021:1111::7, a device of Printers")
      assert.include(works.text("access"), "through device 77777777")
      assert.strictEqual(works.summary?.resource, "p1")
      const astray = yield* play({ reports: [account], target: "b.l.test", echo: () => Effect.never })
      assert.include(astray.text("access"), "no static device pool lists the device")
    }))
  it.effect("says what stands in the way of access", () =>
    Effect.gen(function*() {
      const silent: Echoes["echo"] = (_, patience) => Effect.delay(Effect.succeed({ _tag: "Silent" }), patience)
      const without = { ...lan, gateway: undefined, status: "Unknown" as const }
      const denied = yield* play({ reports: [report([without], { peers: [] })], target: HOST, echo: silent })
      assert.strictEqual(denied.ended, "DoesNotWork")
      assert.include(denied.text("access"), "within 10000 ms")
      assert.strictEqual(denied.summary?.sent, 1)
      const lost = yield* play({
        reports: [report([without], { peers: [], signedIn: false })],
        target: HOST,
        echo: silent
      })
      assert.deepStrictEqual(lost.stages, ["client unknown", "resource ok", "route ok", "access failed"])
      const gone = yield* play({
        reports: [report([lan]), report([])],
        target: HOST,
        echo: silent
      })
      assert.include(gone.text("access"), "taken the resource away")
      const old = { ...without, status: "Offline" as const }
      const offline = yield* play({ reports: [report([old], { peers: [] })], target: HOST, echo: silent })
      assert.include(offline.text("access"), "no gateway in HQ")
    }))
  it.effect("tells a filter of this machine from one behind the gateway", () =>
    Effect.gen(function*() {
      const prohibited: EchoOutcome = {
        _tag: "Refused",
        from: ip(HOST),
        isProhibited: true,
        errno: "EHOSTUNREACH",
        millis: 1
      }
      const without = { ...lan, gateway: undefined, status: "Unknown" as const }
      const here = yield* play({
        reports: [report([without], { dropped: {} }), report([without], { dropped: { prohibited: 1 } })],
        target: HOST,
        echo: () => Effect.succeed(prohibited)
      })
      assert.strictEqual(here.ended, "DoesNotWork")
      assert.include(here.stages, "access unknown")
      assert.strictEqual(here.summary?.sent, 1)
      const there = yield* play({ reports: [report([lan])], target: HOST, echo: () => Effect.succeed(prohibited) })
      assert.strictEqual(there.ended, "DoesNotWork")
      assert.include(there.stages, "access ok")
      assert.strictEqual(there.summary?.sent, 3)
      assert.include(there.summary?.text, "could not be measured; the round trip to the gateway is 12 ms")
    }))
  it.effect("measures the way to the gateway where nobody answers, and does not say more than that", () =>
    Effect.gen(function*() {
      const silent: Echoes["echo"] = () => Effect.succeed({ _tag: "Silent" })
      const whole = yield* play({ reports: [report([lan])], target: "lan", echo: silent })
      assert.strictEqual(whole.ended, "works")
      assert.include(whole.summary?.text, "10.20.0.1 was a guess")
      assert.include(whole.stages, "name unknown")
      const host = yield* play({ reports: [report([lan])], target: HOST, echo: silent })
      assert.strictEqual(host.ended, "DoesNotWork")
      assert.include(host.summary?.text, "does not answer")
      const [peer] = report([]).peers
      const connecting = report([lan], {
        peers: peer === undefined ? [] : [{ ...peer, state: "connecting", path: undefined }]
      })
      const none = yield* play({ reports: [connecting], target: "lan", echo: silent })
      assert.strictEqual(none.ended, "DoesNotWork")
      assert.include(none.stages, "path failed")
      assert.strictEqual(none.summary?.sent, 1)
    }))
  it.effect("notices that packets go another way, or none, and sends nothing", () =>
    Effect.gen(function*() {
      let sent = 0
      const echo: Echoes["echo"] = () => Effect.sync(() => answered(++sent))
      const other = yield* play({ reports: [report([lan])], target: HOST, source: "192.168.1.2", echo })
      assert.deepStrictEqual([other.ended, sent], ["DoesNotWork", 0])
      assert.include(other.text("route"), "192.168.1.2")
    }))
  it.effect("ends by its deadline, and after Ctrl+C, with what it has", () =>
    Effect.gen(function*() {
      const { ended, summary } = yield* play({
        reports: [report([lan])],
        target: HOST,
        options: { count: 100, deadlineMillis: 2500 }
      })
      assert.deepStrictEqual([ended, summary?.sent, summary?.answered], ["works", 3, 3])
      const slow = yield* play({
        reports: [report([lan])],
        target: HOST,
        options: { deadlineMillis: 2500 },
        echo: (_, patience) => Effect.delay(Effect.succeed({ _tag: "Silent" }), patience)
      })
      assert.deepStrictEqual([slow.ended, slow.stages], ["DoesNotWork", ALL_OK])
      const { fiber, printed } = yield* start({ reports: [report([lan])], target: HOST, options: { count: 100 } })
      yield* TestClock.adjust("1500 millis")
      yield* Fiber.interrupt(fiber)
      const last = decode(printed.at(-1))
      assert.strictEqual(last.type === "summary" ? last.sent : 0, 2)
    }))
  it.effect("says that there is no such resource, or several, or nothing that can be sent anything", () =>
    Effect.gen(function*() {
      const all = resource("all", "dns", "*.corp.test")
      for (
        const [target, text] of [["nope.example", "no resource"], ["twin", "several"], ["all", "pattern"]] as const
      ) {
        const { asked, ended, printed } = yield* play({
          reports: [report([lan, all, { ...lan, id: "a", name: "twin" }, { ...lan, id: "b", name: "twin" }])],
          target
        })
        assert.strictEqual(ended, "DoesNotWork")
        assert.include(printed.join("\n"), text)
        assert.deepStrictEqual(asked, [])
      }
    }))
  it.effect("fails when the system refuses to send", () =>
    Effect.gen(function*() {
      const cause = new SyscallError({ syscall: "sendto", code: 105, errno: "ENOBUFS" })
      const { ended } = yield* play({
        reports: [report([lan])],
        target: HOST,
        echo: () => new ProbeFailed({ what: `echo to ${HOST}`, cause })
      })
      assert.strictEqual(ended, "ProbeFailed")
    }))
})
