/** The tunnel service's executable, and a GUI that shares no code with it. It brings up no tunnel: the lab's scenarios do. */
import { assert, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import { spawn } from "node:child_process"
import { once } from "node:events"
import * as fs from "node:fs"
import * as os from "node:os"
import * as path from "node:path"
import { afterAll, describe } from "vitest"
import { executable as client } from "../support/executable.ts"
import { describeWith } from "../support/requires.ts"
import { waitFor } from "../support/waitFor.ts"

const executable = path.join(path.dirname(client), "firezone-client-tunnel.js")
const gui = path.join(import.meta.dirname, "../support/testGui.mjs")
const folder = fs.mkdtempSync(path.join(os.tmpdir(), "fz-tunnel-"))
afterAll(() => fs.rmSync(folder, { recursive: true }))

/** Ended, if it still runs, by the scope. */
const start = (file: string, args: ReadonlyArray<string>, env: Readonly<Record<string, string>> = {}) =>
  Effect.acquireRelease(
    Effect.sync(() => {
      if (!fs.existsSync(file)) throw new Error(`${file} is not built: npm run build`)
      const child = spawn(process.execPath, [file, ...args], { env: { PATH: process.env["PATH"], ...env } })
      let stdout = ""
      let stderr = ""
      child.stdout.setEncoding("utf8").on("data", (text: string) => (stdout += text))
      child.stderr.setEncoding("utf8").on("data", (text: string) => (stderr += text))
      const exit = once(child, "close").then(([code]) => code as number | null)
      return { child, exit, stdout: () => stdout, stderr: () => stderr }
    }),
    ({ child }) => Effect.sync(() => child.kill("SIGKILL"))
  )

const runToEnd = (args: ReadonlyArray<string>) =>
  Effect.gen(function*() {
    const { exit, stderr, stdout } = yield* start(executable, args)
    return { code: yield* Effect.promise(() => exit), stdout: stdout(), stderr: stderr() }
  })

describe("firezone-client-tunnel", () => {
  it.scopedLive("helps, and tells its version, with exit code 0 (decision 20)", () =>
    Effect.gen(function*() {
      for (const args of [["--help"], ["-h"], ["help"], ["run", "--help"]]) {
        const { code, stdout } = yield* runToEnd(args)
        assert.strictEqual(code, 0)
        for (
          const option of ["--dns-control", "--log-dir", "--max-partition-time", "--metrics-address", "--otlp-endpoint"]
        ) assert.include(stdout, option)
        assert.notInclude(stdout, "--gui-path")
        assert.isAtMost(Math.max(...stdout.split("\n").map((line) => line.length)), 80)
      }
      const { code, stdout } = yield* runToEnd(["--version"])
      assert.strictEqual(code, 0)
      assert.match(stdout, /^firezone-client-tunnel \d/)
    }))

  it.scopedLive("wants a command, and options that it knows, with exit code 2", () =>
    Effect.gen(function*() {
      for (
        const args of [
          [],
          ["install"],
          ["--token", "x", "run"],
          ["--check", "run"],
          ["--max-partition-time", "soon", "run"],
          ["--dns-control", "run"],
          ["--metrics-address", "192.0.2.1:9090", "run"],
          ["--metrics-address", "run"]
        ]
      ) {
        const { code, stderr } = yield* runToEnd(args)
        assert.strictEqual(code, 2, args.join(" "))
        assert.notStrictEqual(stderr, "")
      }
    }), 60_000)
})

describeWith({ root: true }, "firezone-client-tunnel", () => {
  it.scopedLive("serves a GUI, keeps its settings, and says goodbye", () =>
    Effect.gen(function*() {
      const socket = path.join(folder, "run", "tunnel.sock")
      const state = path.join(folder, "state")
      const args = [
        ...["--dns-control", "disabled", "--log-dir", path.join(folder, "logs"), "--state-dir", state],
        ...["--gui-socket", socket, "--gui-path", fs.realpathSync(process.execPath), "--firezone-id", "test-id", "run"]
      ]
      // A token of the environment is none of its business.
      const service = yield* start(executable, args, { FIREZONE_TOKEN: "precious" })
      yield* waitFor("the socket", () => fs.existsSync(socket) && (fs.statSync(socket).mode & 0o777) === 0o660)
      const one = yield* start(gui, [socket])
      const heard = () => one.stdout().split("\n").filter((line) => line !== "")
      const say = (line: string) => one.child.stdin.write(`${line}\n`)
      yield* waitFor("Hello", () => heard().length === 1)
      assert.strictEqual(JSON.parse(heard()[0] ?? "").Hello.firezone_id, "test-id")

      const settings = { auth_url: "https://a.test/", api_url: "wss://b.test/", log_filter: "debug" }
      say(JSON.stringify({ ApplyAdvancedSettings: settings }))
      say(`"Disconnect"`)
      yield* waitFor("both answers", () => heard().length === 3)
      assert.deepStrictEqual(heard().slice(1).map((line) => JSON.parse(line)), [
        { AdvancedSettingsApplied: { Ok: settings } },
        "DisconnectedGracefully"
      ])
      const file = path.join(state, "advanced_settings.json")
      assert.strictEqual(fs.statSync(file).mode & 0o777, 0o600)
      assert.strictEqual(fs.statSync(state).mode & 0o777, 0o750)

      service.child.kill("SIGTERM")
      assert.strictEqual(yield* Effect.promise(() => service.exit), 0)
      yield* waitFor("the goodbye", () => heard().at(-1) === `"TerminatingGracefully"`)
      assert.isFalse(fs.existsSync(socket))
      assert.notInclude(service.stdout() + service.stderr(), "precious")
    }))
})
