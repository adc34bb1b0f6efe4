import { assert, describe, it } from "@effect/vitest"
import * as Console from "effect/Console"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Schema from "effect/Schema"
import * as Stream from "effect/Stream"
import { statusReport } from "../../src/layers/control/statusReport.ts"
import { StatusReport } from "../../src/model/status.ts"
import { type Screen, status, type StatusOptions } from "../../src/programs/status.ts"
import { bytes, colours, duration, plain, statusLines } from "../../src/programs/statusScreen.ts"
import { ClientStopped, ControlClient } from "../../src/services/ControlClient.ts"
import type { TunnelStatus } from "../../src/services/Tunnel.ts"
import { tunnelStatus } from "../support/TunnelDouble.ts"
import { waitFor } from "../support/waitFor.ts"

const report = (changes: Partial<TunnelStatus> = {}): StatusReport =>
  statusReport(
    tunnelStatus(changes),
    { version: "1.2.3", pid: 42, uptimeMillis: 93_784_000 },
    new URL("wss://api.firezone.dev/")
  )

const screenText = `  Client     1.2.3, process 42, up 1 d 2 h
  Portal     signed in
             wss://api.firezone.dev/
  Interface  tun-test  100.64.0.2  fd00:2021:1111::2
  DNS        by systemd-resolved
             100.100.111.1 asks https://dns.example/q
             search domain corp.test

Resources (1)
  online  Office LAN  10.20.0.0/16  HQ  through 77777777

Gateways (1)
  connected  77777777-7777-4777-8777-777777777777
    path        through our relay
                192.0.2.9:49999 to [2001:db8::9]:52625
    relay       99999999-9999-4999-8999-999999999999
    round trip  12 ms
    handshake   1 min 1 s ago
    traffic     1.5 kB sent, 2.5 MB received

Traffic
  Interface    1.4 kB from this machine, 2.4 MB to it
  Network      1.5 kB sent, 2.5 MB received
  Offloads     tso
  Route cache  generation 3, 4 routes, 1,000 asked, 99.9 % hits
               emptied: network-change 2, reset 1
  Dropped      by its rules: unknown-resource 12,345
               at the interface: no-buffer 2`

describe("status screen", () => {
  it("says everything, in columns", () => {
    assert.strictEqual(statusLines(report(), plain).join("\n"), screenText)
  })
  it("is the same with colours, but for the colours", () => {
    const text = statusLines(report(), colours).join("\n")
    assert.include(text, "\x1b[32msigned in\x1b[0m")
    assert.strictEqual(text.replaceAll(/\x1b\[\d+m/g, ""), screenText)
  })
  it("breaks lines between words", () => {
    const narrow = statusLines(report(), plain, 52)
    for (const line of narrow) assert.isAtMost(line.length, 52)
    assert.strictEqual(narrow.join(" ").replaceAll(/ +/g, " "), screenText.replaceAll(/\s+/g, " "))
  })
  it("says what is missing", () => {
    const text = statusLines(
      report({
        portal: { state: "disconnected", lastError: "no route" },
        interface: undefined,
        dns: undefined,
        resources: [],
        peers: [],
        dropped: {},
        tun: { ...tunnelStatus().tun, dropped: {}, offloads: "" },
        routeCache: { ...tunnelStatus().routeCache, size: 1, hits: 0, misses: 0, invalidations: {} }
      }),
      plain
    ).join("\n")
    for (
      const words of [
        "the portal is out of reach\n",
        "1 route,",
        "no route",
        "not set up yet",
        "Resources (0)",
        "Gateways (0)",
        "none"
      ]
    ) {
      assert.include(text, words)
    }
    assert.match(text, /Dropped +nothing/)
    const lost = report({ portal: { state: "disconnected" } })
    assert.include(statusLines(lost, plain)[1], "the portal is out of reach")
    assert.include(statusLines(lost, plain)[2], "existing access goes on")
    assert.notMatch(text, /NaN|undefined|emptied/)
  })
  it("says how all other traffic goes, where there is an Internet resource", () => {
    const internet = { ...report().resources[0]!, type: "internet" as const, name: "Internet", address: "" }
    const text = (internetResourceActive: boolean) =>
      statusLines(report({ resources: [internet], internetResourceActive }), plain).join("\n")
    assert.include(text(true), "All traffic  through the tunnel")
    assert.include(text(false), "All traffic  not through the tunnel")
    assert.include(text(true), "everything else")
  })
  it("says what the portal refused, why, and what to do, the latest first", () => {
    const refusal = { reason: "forbidden", violated: ["remote_ip", "of_tomorrow"], ageMillis: 61_000 }
    const resources = [{ ...report().resources[0]!, gateway: undefined, refusal }]
    const devicePools = [{
      id: "p",
      type: "dynamic" as const,
      name: "Laptops",
      address: "*.l.test",
      devices: [],
      refusal: { reason: "not_found", domain: "ann.l.test", violated: [], ageMillis: 2000 }
    }]
    assert.include(
      statusLines(report({ resources, devicePools }), plain).join("\n"),
      `Refused by the portal (2)
  ann.l.test, 2 s ago: no device of the pool has this name
    See the names of devices in the admin portal
  Office LAN, 1 min 1 s ago: the conditions of no policy are met: this machine's address, of_tomorrow
    Compare the conditions of`
    )
  })
  it.each(["constructor", "__proto__", "toString", "", "of tomorrow"])(
    "takes the portal's word %j for a reason or a condition for what it is",
    (word) => {
      const of = (reason: string, violated: ReadonlyArray<string>) => {
        const refusal = { reason, violated, ageMillis: 0 }
        return statusLines(report({ resources: [{ ...report().resources[0]!, refusal }] }), plain).join("\n")
      }
      assert.include(of(word, []), `0 s ago: ${word}, which this version does not know\n    Look at the resource in`)
      assert.include(of("forbidden", [word]), `the conditions of no policy are met: ${word}`)
    }
  )
  it("shows device pools, those first with which something was tried, and devices apart from gateways", () => {
    const [gateway] = tunnelStatus().peers
    const device = (n: number, more: object = {}) => ({
      id: `d${n}`,
      ipv4: `100.64.0.${n}/32`,
      ipv6: `fd00:2021:1111::${n}/128`,
      granted: false,
      ...more
    })
    const refusal = { reason: "offline", violated: [], ageMillis: 0 }
    const text = statusLines(
      report({
        devicePools: [{
          id: "p",
          type: "static",
          name: "Printers",
          devices: [
            ...Array.from({ length: 12 }, (_, n) => device(n + 10)),
            device(1, { name: "alpha", granted: true, peer: "d1" }),
            device(2, { refusal }),
            device(3, { peer: "d3" }),
            device(4, { granted: true })
          ]
        }],
        peers: [gateway!, { ...gateway!, peer: "d1", kind: "device", name: "alpha" }, {
          ...gateway!,
          peer: "d3",
          kind: "device",
          state: "idle"
        }]
      }),
      plain
    ).join("\n")
    assert.include(
      text,
      `Device pools (1)
  Printers
    connected  alpha  100.64.0.1   fd00:2021:1111::1   through our relay
    refused    d2     100.64.0.2   fd00:2021:1111::2
    idle       d3     100.64.0.3   fd00:2021:1111::3   through our relay, by its wish alone
    granted    d4     100.64.0.4   fd00:2021:1111::4
    unknown    d10    100.64.0.10  fd00:2021:1111::10
`
    )
    assert.include(text, "    and 4 more: see --json\n")
    assert.include(text, "Gateways (1)\n")
    assert.include(text, "Devices (2)\n  connected  d1  alpha\n")
  })
  it("lets no name of the portal's move the cursor", () => {
    const resource = { ...report().resources[0]!, name: "a\x1b[2Jb\r\n\u202ec\u2028", address: "\x9b31m" }
    const text = statusLines(
      report({ resources: [resource], portal: { state: "connecting", lastError: "\x07" } }),
      plain
    )
    assert.notMatch(text.join(""), /[\p{Cc}\p{Cf}\p{Zl}]/u)
  })
  it("shows amounts and times in the two units that matter", () => {
    const amounts: ReadonlyArray<readonly [number, string]> = [
      [0, "0 B"],
      [999, "999 B"],
      [1000, "1.0 kB"],
      [999_949, "999.9 kB"],
      [999_950, "1.0 MB"],
      [2 ** 53, "9.0 PB"]
    ]
    for (const [count, text] of amounts) assert.strictEqual(bytes(count), text)
    const times: ReadonlyArray<readonly [number, string]> = [
      [0, "0 s"],
      [999, "0 s"],
      [59_999, "59 s"],
      [3_600_000, "1 h"],
      [3_661_000, "1 h 1 min"],
      [90_000_000, "1 d 1 h"],
      [86_460_000, "1 d"]
    ]
    for (const [millis, text] of times) assert.strictEqual(duration(millis), text)
  })
})

/** What the program showed of these statuses, and how it ended. */
const show = (options: StatusOptions, reports: ReadonlyArray<StatusReport>, screen: Partial<Screen> = {}) =>
  Effect.gen(function*() {
    const printed: Array<string> = []
    const written: Array<string> = []
    const console = yield* Console.consoleWith(Effect.succeed)
    const stopped = new ClientStopped({ socket: "/x" })
    const ended = yield* status(options, {
      isTerminal: false,
      hasColours: false,
      rows: () => 60,
      columns: () => Number.POSITIVE_INFINITY,
      write: (text) => Effect.sync(() => void written.push(text)),
      quit: Effect.never,
      ...screen
    }).pipe(
      Effect.withConsole({ ...console, log: (...args) => Effect.sync(() => void printed.push(args.join(" "))) }),
      Effect.provide(Layer.succeed(ControlClient, {
        status: reports[0] === undefined ? Effect.fail(stopped) : Effect.succeed(reports[0]),
        statuses: Stream.concat(Stream.fromIterable(reports), Stream.fail(stopped))
      })),
      Effect.match({ onFailure: ({ _tag }) => _tag as string, onSuccess: () => "done" })
    )
    return { ended, printed, written }
  })

describe("status", () => {
  it.effect("prints lines, or one JSON object of the documented shape", () =>
    Effect.gen(function*() {
      const lines = yield* show({ json: false, watch: false }, [report()])
      assert.deepStrictEqual(lines, { ended: "done", printed: [screenText], written: [] })
      const json = yield* show({ json: true, watch: false }, [report()], { hasColours: true })
      assert.lengthOf(json.printed, 1)
      assert.deepEqual(Schema.decodeUnknownSync(Schema.parseJson(StatusReport))(json.printed[0]), report())
    }))
  it.effect("fails after printing when the client is not signed in", () =>
    Effect.gen(function*() {
      const { ended, printed } = yield* show({ json: true, watch: false }, [
        report({ portal: { state: "connecting" } })
      ])
      assert.strictEqual(ended, "NotSignedIn")
      assert.lengthOf(printed, 1)
    }))
  it.effect("watches: one after the other where there is no terminal", () =>
    Effect.gen(function*() {
      const { ended, printed, written } = yield* show({ json: true, watch: true }, [report(), report()])
      assert.strictEqual(ended, "ClientStopped")
      assert.lengthOf(printed, 2)
      assert.lengthOf(written, 0)
    }))
  it.effect("watches: one over the other on a terminal, which is then as it was", () =>
    Effect.gen(function*() {
      const { ended, printed, written } = yield* show({ json: false, watch: true }, [report(), report()], {
        isTerminal: true,
        rows: () => 8
      })
      assert.strictEqual(ended, "ClientStopped")
      assert.deepStrictEqual(printed, [screenText], "the last one, where it stays")
      const [first, second, last] = written
      assert.lengthOf(written, 3)
      assert.strictEqual(first, `\x1b[?1049h\x1b[?25l\x1b[?7l\x1b[2J${second}`)
      assert.isTrue(second?.startsWith("\x1b[H  Client"))
      assert.lengthOf(second?.split("\n") ?? [], 8)
      assert.include(second, "more lines")
      assert.strictEqual(last, "\x1b[?7h\x1b[?25h\x1b[?1049l")
    }))
  it.effect("watches until a key is pressed", () =>
    Effect.gen(function*() {
      const written: Array<string> = []
      yield* status({ json: false, watch: true }, {
        isTerminal: true,
        hasColours: false,
        rows: () => 60,
        columns: () => Number.POSITIVE_INFINITY,
        write: (text) => Effect.sync(() => void written.push(text)),
        quit: Effect.promise(() => Effect.runPromise(waitFor("a screen", () => written.length > 0)))
      }).pipe(
        Effect.provide(
          Layer.mock(ControlClient, { statuses: Stream.concat(Stream.succeed(report()), Stream.never) })
        )
      )
      assert.strictEqual(written.at(-1), "\x1b[?7h\x1b[?25h\x1b[?1049l")
    }))
  it.effect("leaves the terminal alone when there is nothing to show", () =>
    Effect.gen(function*() {
      const { ended, written } = yield* show({ json: false, watch: true }, [], { isTerminal: true })
      assert.deepStrictEqual({ ended, written }, { ended: "ClientStopped", written: [] })
    }))
})
