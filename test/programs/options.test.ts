import * as CliConfig from "@effect/cli/CliConfig"
import * as HelpDoc from "@effect/cli/HelpDoc"
import * as Options from "@effect/cli/Options"
import * as NodeContext from "@effect/platform-node/NodeContext"
import { assert, describe, it } from "@effect/vitest"
import * as ConfigProvider from "effect/ConfigProvider"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Either from "effect/Either"
import { commandWords, complaint, knownFlags, switches } from "../../src/programs/cli.ts"
import { helpFor, rootHelp } from "../../src/programs/help.ts"
import { clientOptions, parseApiUrl, parseDuration } from "../../src/programs/options.ts"

const parse = (args: ReadonlyArray<string>, env: Record<string, string> = {}) =>
  Options.processCommandLine(clientOptions, args, CliConfig.make({ isCaseSensitive: true })).pipe(
    Effect.map(([, , settings]) => settings),
    Effect.withConfigProvider(ConfigProvider.fromMap(new Map(Object.entries(env)))),
    Effect.provide(NodeContext.layer)
  )
const failure = (args: ReadonlyArray<string>, env?: Record<string, string>) =>
  Effect.map(Effect.flip(parse(args, env)), (error) => HelpDoc.toAnsiText(error.error))

describe("options", () => {
  it.effect("have the documented defaults", () =>
    Effect.gen(function*() {
      const settings = yield* parse([])
      assert.strictEqual(settings.apiUrl.href, "wss://api.firezone.dev/")
      assert.strictEqual(settings.tokenPath, "/etc/dev.firezone.client/token")
      assert.strictEqual(settings.tunName, "tun-firezone")
      assert.strictEqual(settings.dnsControl, "auto")
      assert.isUndefined(settings.maxPartitionTime)
      assert.isFalse(settings.activateInternetResource)
      assert.isTrue(settings.offloads)
    }))
  it.effect("beat their variables, which beat the defaults", () =>
    Effect.gen(function*() {
      const env = { FIREZONE_ID: "env", FIREZONE_NAME: "name", MAX_PARTITION_TIME: "1h 30m", LOG_DIR: "logs" }
      const settings = yield* parse(["-i", "flag"], env)
      assert.strictEqual(settings.id, "flag")
      assert.strictEqual(settings.name, "name")
      assert.deepStrictEqual(settings.maxPartitionTime, Duration.minutes(90))
      assert.strictEqual(settings.logDir, `${process.cwd()}/logs`)
    }))
  it.effect("take 1, 0, true and false for switches and nothing else", () =>
    Effect.gen(function*() {
      for (const [value, expected] of [["1", true], ["true", true], ["0", false], ["false", false]] as const) {
        const settings = yield* parse([], { FIREZONE_ACTIVATE_INTERNET_RESOURCE: value })
        assert.strictEqual(settings.activateInternetResource, expected)
      }
      for (const value of ["", "yes", "TRUE"]) {
        assert.include(yield* failure([], { FIREZONE_NO_TELEMETRY: value }), "FIREZONE_NO_TELEMETRY")
      }
    }))
  it.effect("take sizes of socket buffers in bytes", () =>
    Effect.gen(function*() {
      const settings = yield* parse([], { FIREZONE_UDP_SEND_BUFFER_SIZE: "4194304" })
      assert.strictEqual(settings.udpSendBuffer, 4_194_304)
      assert.isUndefined(settings.udpReceiveBuffer)
    }))
  it.effect("explain a bad value, from either source", () =>
    Effect.gen(function*() {
      for (const size of ["0", "-1", "4k", "4294967296", ""]) {
        assert.include(yield* failure([], { FIREZONE_UDP_RECV_BUFFER_SIZE: size }), "bytes")
      }
      assert.include(yield* failure(["--api-url", "ftp://x"]), "ftp:")
      assert.include(yield* failure([], { FIREZONE_API_URL: "::" }), "not a URL")
      assert.include(yield* failure([], { MAX_PARTITION_TIME: "soon" }), "not a duration")
      assert.include(yield* failure(["--dns-control", "magic"]), "systemd-resolved")
      for (const name of ["much-too-long-a-name", "fünfzehn-längst", "a b", "tun%d", ".."]) {
        assert.include(yield* failure(["--tun-name", name]), "interface name")
      }
      assert.strictEqual((yield* failure([], { LOG_DIR: "" })).trim(), "LOG_DIR: must not be empty")
      assert.strictEqual((yield* failure(["--log-dir", ""])).trim(), "--log-dir: must not be empty")
      assert.strictEqual(
        (yield* failure([], { FIREZONE_INC_BUF: "maybe" })).trim(),
        "FIREZONE_INC_BUF: \"maybe\" is not true, false, 1 or 0"
      )
    }))
  it.effect("show metrics to this machine only, unless that is asked for", () =>
    Effect.gen(function*() {
      const address = (args: ReadonlyArray<string>, env?: Record<string, string>) =>
        Effect.map(parse(args, env), ({ metricsAddress }) => metricsAddress)
      assert.isUndefined(yield* address([]))
      for (
        const [text, host] of [["127.0.0.1:9090", "127.0.0.1"], ["127.1.2.3:9090", "127.1.2.3"], [
          "[::1]:9090",
          "::1"
        ]] as const
      ) {
        assert.deepStrictEqual(yield* address(["--metrics-address", text]), { _tag: "Tcp", host, port: 9090 })
      }
      assert.deepStrictEqual(yield* address([], { FIREZONE_METRICS_ADDRESS: "unix:/run/x.sock" }), {
        _tag: "Unix",
        path: "/run/x.sock"
      })
      for (const text of ["0.0.0.0:9090", "[::]:9090", "192.0.2.1:9090"]) {
        assert.include(yield* failure(["--metrics-address", text]), "could be read from other machines")
        const allowed = yield* address(["--metrics-allow-remote"], { FIREZONE_METRICS_ADDRESS: text })
        assert.strictEqual(allowed?._tag, "Tcp")
      }
      for (
        const text of [
          "",
          ":9090",
          "127.0.0.1",
          "127.0.0.1:0",
          "127.0.0.1:65536",
          "localhost:9090",
          "::1:9090",
          "unix:x"
        ]
      ) {
        assert.include(yield* failure(["--metrics-address", text]), "--metrics-address:", text)
      }
    }))
  it.effect("name the receiver of OTLP as OpenTelemetry does", () =>
    Effect.gen(function*() {
      const endpoint = (text: string) =>
        Effect.map(parse([], { OTEL_EXPORTER_OTLP_ENDPOINT: text }), ({ otlpEndpoint }) => otlpEndpoint?.href)
      assert.strictEqual(yield* endpoint("http://127.0.0.1:4318"), "http://127.0.0.1:4318/v1/metrics")
      assert.strictEqual(yield* endpoint("https://h.test/otlp/"), "https://h.test/otlp/v1/metrics")
      assert.strictEqual(yield* endpoint("http://[::1]:4318/v1/metrics"), "http://[::1]:4318/v1/metrics")
      for (
        const text of ["127.0.0.1:4317", "grpc://h.test", "https://user:secret@h.test", "https://h.test/?key=secret"]
      ) {
        const said = yield* failure(["--otlp-endpoint", text])
        assert.include(said, "--otlp-endpoint:")
        assert.notInclude(said, "secret")
      }
    }))
  it.effect("say what they ask for in vain", () =>
    Effect.gen(function*() {
      const warnings = (args: ReadonlyArray<string>) => Effect.map(parse(args), ({ warnings }) => warnings.join("\n"))
      assert.strictEqual(yield* warnings(["--metrics", "sentry", "--no-telemetry"]), "")
      assert.match(yield* warnings(["--metrics", "stdout"]), /--metrics stdout has no effect: .*--metrics-address/)
      assert.match(yield* warnings(["--otlp-grpc-endpoint", "h:4317"]), /over HTTP: .*--otlp-endpoint/)
    }))
  it("are all known to the complaint about unknown ones, and the visible ones are in the help", () => {
    const help = rootHelp("1", "auto")
    const names = HelpDoc.toAnsiText(Options.getHelp(clientOptions)).match(/--[a-z-]+/g) ?? []
    assert.isAbove(names.length, 15)
    const hidden = new Set([
      "--api-url",
      "--check",
      "--exit",
      "--metrics",
      "--otlp-grpc-endpoint",
      "--inc-buf",
      "--aead",
      "--udp-send-buffer-size",
      "--udp-recv-buffer-size"
    ])
    for (const name of names) {
      assert.isTrue(knownFlags.has(name), name)
      assert.strictEqual(new RegExp(`${name}(?![a-z-])`).test(help), !hidden.has(name), name)
    }
  })
  it("are not taken for the command, nor are their values", () => {
    const words = (...args: ReadonlyArray<string>) => commandWords(args).join(" ")
    assert.strictEqual(words("--log-dir", "status", "--help"), "")
    assert.strictEqual(words("--log-dir", "status", "doctor", "--help"), "doctor --help")
    assert.strictEqual(words("--log-dir=x", "--check", "-i", "ping", "route", "explain", "-h"), "route explain -h")
    assert.strictEqual(words("-h", "status"), "status")
    assert.strictEqual(words("--log-dir"), "")
    assert.strictEqual(helpFor(commandWords(["-l", "status", "-h"]), "1"), rootHelp("1", "auto"))
    assert.include(helpFor(["help", "dns-cleanup"], "1"), "dns-cleanup")
    for (const command of ["", "status", "doctor", "ping", "route", "debug", "sign-in", "dns-cleanup", "completions"]) {
      for (const line of helpFor([command], "1").split("\n")) assert.isAtMost(line.length, 80, line)
    }
  })
  it("complain about unknown options and a token on the command line", () => {
    assert.include(complaint(["--nope"]) ?? "", "--nope")
    assert.include(complaint(["--check", "--token", "x"]) ?? "", "FIREZONE_TOKEN")
    assert.include(complaint(["--token=x"]) ?? "", "FIREZONE_TOKEN")
    assert.isUndefined(complaint(["-u", "ws://x", "standalone"]))
    assert.include(complaint(["--check", "-i", "x", "--nope", "standalone"]) ?? "", "--nope")
    assert.isUndefined(complaint(["--check", "standalone", "--nope"]), "the parser explains those")
  })
  it.effect("complain about an option without its value, and never take an option for one", () =>
    Effect.gen(function*() {
      for (const name of knownFlags) {
        // What the parser does not take is left over.
        const left = yield* Effect.merge(
          Effect.map(Options.processCommandLine(clientOptions, [name], CliConfig.defaultConfig), ([, left]) => left)
        ).pipe(Effect.provide(NodeContext.layer))
        assert.strictEqual(Array.isArray(left) && left.length === 0, switches.has(name), name)
        if (switches.has(name)) {
          assert.isUndefined(complaint([name, "--check"]), name)
        } else {
          assert.include(complaint(["--check", name]) ?? "", `${name} needs a value`)
          assert.include(complaint([name, "--check"]) ?? "", `${name} needs a value`)
          assert.isUndefined(complaint([name, "-value", "--check"]), name)
          assert.isUndefined(complaint([`${name}=value`, "--check"]), name)
        }
      }
    }))
})

describe("parsers", () => {
  it("turn http into ws", () => {
    assert.strictEqual(Either.getOrThrow(parseApiUrl("https://h/x")).href, "wss://h/x")
    assert.strictEqual(Either.getOrThrow(parseApiUrl("http://[::1]:8081")).href, "ws://[::1]:8081/")
    for (const bad of ["", "h", "file:///x", "wss://user:pass@h/", "ws://"]) {
      assert.isTrue(Either.isLeft(parseApiUrl(bad)), bad)
    }
  })
  it("read durations", () => {
    assert.deepStrictEqual(Either.getOrThrow(parseDuration("30d")), Duration.days(30))
    assert.deepStrictEqual(Either.getOrThrow(parseDuration("1h 30m")), Duration.minutes(90))
    for (const bad of ["", "5", "m", "5 parsecs", "-5m", "99999999999999999w"]) {
      assert.isTrue(Either.isLeft(parseDuration(bad)), bad)
    }
  })
})
