/** The whole program: what it prints, how it ends, and that it does. */
import { assert, describe, it } from "@effect/vitest"
import * as Cause from "effect/Cause"
import * as Console from "effect/Console"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Layer from "effect/Layer"
import * as Redacted from "effect/Redacted"
import * as Schema from "effect/Schema"
import * as TestClock from "effect/TestClock"
import { DoctorReport, doctorReport, VERDICTS, worst } from "../../../src/model/doctor.ts"
import { doctor, type DoctorScreen } from "../../../src/programs/doctor/doctor.ts"
import { doctorLines } from "../../../src/programs/doctor/screen.ts"
import { EXIT, outcome } from "../../../src/programs/outcome.ts"
import { colours, plain } from "../../../src/programs/statusScreen.ts"
import { ip, SocketAddress } from "../../../src/protocol/wire/address.ts"
import { ClientConfig } from "../../../src/services/ClientConfig.ts"
import { ClientNotRunning, ControlClient } from "../../../src/services/ControlClient.ts"
import { HostCommands } from "../../../src/services/HostCommands.ts"
import { HostFiles } from "../../../src/services/HostFiles.ts"
import { HostResolver } from "../../../src/services/HostResolver.ts"
import { KernelProbe } from "../../../src/services/KernelProbe.ts"
import { NetworkInventory } from "../../../src/services/NetworkInventory.ts"
import { PortalProbe } from "../../../src/services/PortalProbe.ts"
import { Processes } from "../../../src/services/Processes.ts"
import { RouteCache } from "../../../src/services/RouteCache.ts"
import { TokenStore } from "../../../src/services/TokenStore.ts"
import { makeDnsSocketDouble } from "../../support/DnsSocketDouble.ts"
import { type HostDoubles, makeHostDoubles } from "../../support/HostDoubles.ts"
import { makeHostResolverDouble } from "../../support/HostResolverDouble.ts"
import { makePeerSocketDouble } from "../../support/PeerSocketDouble.ts"
import { makeRouteCacheDouble } from "../../support/RouteCacheDouble.ts"
import { settings } from "../../support/settings.ts"
import { asRoot, running } from "./support.ts"

const config = settings({ apiUrl: new URL("wss://192.0.2.80/"), stateDir: "/", dnsControl: "auto" })
const screen: DoctorScreen = {
  isTerminal: false,
  hasColours: false,
  columns: 100,
  write: () => Effect.dieMessage("nothing is written where there is no terminal")
}

const never = Layer.mergeAll(
  Layer.succeed(ControlClient, { status: Effect.never, statuses: Effect.never as never }),
  Layer.succeed(HostCommands, { output: () => Effect.never }),
  Layer.succeed(HostFiles, {
    look: () => Effect.never,
    text: () => Effect.never,
    names: () => Effect.never,
    isWritable: () => Effect.never,
    freeBytes: () => Effect.never
  }),
  Layer.succeed(Processes, { all: Effect.never, capabilities: () => Effect.never, holderOfTun: () => Effect.never }),
  Layer.succeed(NetworkInventory, { links: Effect.never, routes: Effect.never, rules: Effect.never }),
  Layer.succeed(KernelProbe, { tun: Effect.never, sockets: Effect.never, pathMtu: () => Effect.never }),
  Layer.mock(TokenStore, { read: Effect.never }),
  Layer.mock(HostResolver, { resolve: () => Effect.never, servers: Effect.never }),
  Layer.succeed(PortalProbe, { ask: () => Effect.never }),
  Layer.mock(RouteCache, { get: () => Effect.never, peek: () => undefined, evict: () => undefined })
)

/** One that has all that a client needs, and none that runs. */
const machine = (change: (host: HostDoubles) => void = () => undefined) => {
  const host = makeHostDoubles()
  host.routes = [{
    destination: { address: ip("0.0.0.0"), bits: 0 },
    table: 254,
    interfaceIndex: 2,
    nextHop: ip("192.0.2.1"),
    metric: 100
  }]
  change(host)
  const resolver = makeHostResolverDouble()
  resolver.addresses.set("192.0.2.80", [ip("192.0.2.80")])
  const dns = makeDnsSocketDouble()
  resolver.servers = [new SocketAddress(ip("192.0.2.53"), 53)]
  dns.answer = ({ query }) =>
    Effect.sync(() => Uint8Array.from(query, (byte, index) => index === 2 ? byte | 0x80 : byte))
  return Layer.mergeAll(
    host.layer,
    resolver.layer,
    dns.layer,
    makePeerSocketDouble().layer,
    makeRouteCacheDouble().layer,
    Layer.mock(ControlClient, { status: Effect.fail(new ClientNotRunning({ socket: "/x" })) }),
    Layer.mock(TokenStore, { read: Effect.succeed(Redacted.make("very-secret-token")) }),
    Layer.succeed(PortalProbe, {
      ask: (remote) =>
        Effect.succeed({
          remote,
          tcp: { millis: 10, source: ip("192.0.2.2") },
          tls: { protocol: "TLSv1.3", subject: "a", issuer: "b", validFrom: 0, validTo: 1e13 },
          http: { status: 401, clock: { theirs: 0, ours: 0 } }
        })
    })
  )
}

type Needs = Effect.Effect.Context<ReturnType<typeof doctor>>

/** What it printed and its exit code, after the time that it may take. */
const run = (layer: Layer.Layer<Exclude<Needs, ClientConfig>>, json: boolean) =>
  Effect.gen(function*() {
    const output: Array<string> = []
    const console = yield* Console.consoleWith(Effect.succeed)
    const program = Effect.withConsole(doctor({ json, stun: [] }, { ...asRoot, hasTokenVariable: true }, screen), {
      ...console,
      log: (...args) => Effect.sync(() => void output.push(args.join(" ")))
    })
    const fiber = yield* Effect.fork(program.pipe(
      Effect.provide(layer),
      Effect.provideService(ClientConfig, config)
    ))
    yield* TestClock.adjust("10 seconds")
    const exit = yield* Effect.map(Fiber.poll(fiber), (polled) =>
      polled._tag === "Some" ? polled.value : Exit.failCause(Cause.die("it has not ended")))
    return { output: output.join("\n"), ...outcome(exit) }
  })

const decode = Schema.decodeUnknownSync(Schema.parseJson(DoctorReport))

describe("doctor", () => {
  it.effect("finds nothing wrong where nothing is", () =>
    Effect.gen(function*() {
      const { code, message, output } = yield* run(machine(), true)
      const report = decode(output)
      const bad = report.checks.filter(({ verdict }) => verdict === "warning" || verdict === "failed")
      assert.deepStrictEqual(bad, [])
      assert.deepStrictEqual({ code, message }, { code: EXIT.done, message: undefined })
      assert.strictEqual(new Set(report.checks.map(({ id }) => id)).size, report.checks.length)
      assert.strictEqual(report.counts.ok + report.counts.skipped, report.checks.length)
      assert.isAbove(report.counts.ok, 20)
      assert.notInclude(output, "very-secret")
    }))

  it.effect("asks the portal of the running client, whatever it was told", () =>
    Effect.gen(function*() {
      const asked: Array<string> = []
      const { report } = running()
      const layer = Layer.mergeAll(
        machine(),
        Layer.mock(ControlClient, {
          status: Effect.succeed({ ...report, portal: { url: "wss://192.0.2.81/base", state: "connected" as const } })
        }),
        Layer.mock(HostResolver, { resolve: (host) => Effect.succeed([ip(host)]), servers: Effect.succeed([]) }),
        Layer.succeed(PortalProbe, { ask: (remote, url) => Effect.sync(() => (asked.push(url.href), { remote })) })
      )
      yield* run(layer, true)
      assert.deepStrictEqual(asked, ["wss://192.0.2.81/base"])
    }))

  it.effect("ends with the worst verdict's code, and says nothing twice", () =>
    Effect.gen(function*() {
      const oddity = yield* run(machine((host) => void (host.freeBytes = 1)), false)
      assert.deepStrictEqual([oddity.code, oddity.message], [EXIT.warned, undefined])
      assert.include(oddity.output, "WARN  Folders")
      assert.include(oddity.output, "Look first at: Folders")
      const both = (host: HostDoubles) => {
        host.freeBytes = 1
        host.routes = []
      }
      const broken = yield* run(machine(both), false)
      assert.deepStrictEqual([broken.code, broken.message], [EXIT.unwell, undefined])
      assert.include(broken.output, "FAIL  Uplinks")
      assert.include(broken.output, "Look first at: Uplinks")
    }))

  it.effect("ends although nobody ever answers, and tells who did not", () =>
    Effect.gen(function*() {
      const sockets = Layer.merge(makePeerSocketDouble().layer, makeDnsSocketDouble().layer)
      const { code, output } = yield* run(Layer.merge(never, sockets), true)
      const report = decode(output)
      assert.strictEqual(code, EXIT.unwell)
      const { evidence = [], nextStep } = report.checks.find(({ id }) => id === "rules") ?? {}
      assert.match(evidence.join(), /did not come to an end in time/)
      assert.isDefined(nextStep)
    }))

  it.effect("tells of a bug of its own, and goes on with the rest", () =>
    Effect.gen(function*() {
      const { output } = yield* run(
        machine((host) =>
          Object.defineProperty(host, "rules", {
            get: () => {
              throw new Error("a bug")
            }
          })
        ),
        true
      )
      const report = decode(output)
      assert.match(report.checks.find(({ id }) => id === "rules")?.evidence.join() ?? "", /internal error: a bug/)
      assert.isAbove(report.counts.ok, 15)
    }))
})

const report = doctorReport([
  { id: "client", group: "client", title: "Running client", verdict: "ok", evidence: ["version 1, signed in"] },
  {
    id: "tun",
    group: "system",
    title: "TUN device",
    verdict: "skipped",
    evidence: ["/dev/net/tun is there"],
    nextStep: "run doctor with sudo to look at this"
  },
  {
    id: "portal-tls",
    group: "portal",
    title: "TLS",
    verdict: "failed",
    evidence: ["the certificate has expired, by this machine's clock", "issued by \x1b[2J\u202eevil"],
    nextStep: "if the clock is right, tell whoever runs the portal"
  },
  { id: "nat", group: "paths", title: "NAT", verdict: "warning", evidence: ["symmetric"], nextStep: "use IPv6" }
], { time: "2026-01-01T00:00:00.000Z", version: "1.2.3" })

const golden = `Client
  ok   Running client  version 1, signed in

System
  --   TUN device      /dev/net/tun is there

Portal
 FAIL  TLS             the certificate has expired, by this
                       machine's clock
                       issued by \ufffd[2J\ufffdevil
                       next: if the clock is right, tell
                       whoever runs the portal

Paths to gateways
 WARN  NAT             symmetric
                       next: use IPv6

1 failed, 1 warning, 1 ok, 1 not looked at
Look first at: TLS
Run it with sudo to look at everything.`

describe("doctor's screen", () => {
  it("has a line for each check, broken at the width, and harmless", () => {
    assert.strictEqual(doctorLines(report, plain, 60).join("\n"), golden)
  })

  it("is the same with colours, but for the colours", () => {
    const text = doctorLines(report, colours, 60).join("\n")
    assert.include(text, "\x1b[31mFAIL\x1b[0m")
    assert.strictEqual(text.replaceAll(/\x1b\[\d+m/g, ""), golden)
  })

  it("knows which verdict is worse", () => {
    assert.strictEqual(worst([]), "skipped")
    for (const [index, verdict] of VERDICTS.entries()) {
      assert.strictEqual(worst(VERDICTS.slice(0, index + 1).toReversed()), verdict)
    }
  })
})
