/** The executable as a user meets it: help, usage errors, bad settings, exit codes. */
import { spawn } from "node:child_process"
import * as fs from "node:fs"
import * as os from "node:os"
import * as path from "node:path"
import { afterAll, assert, describe, it } from "vitest"
import { executable, run } from "../support/executable.ts"
import { describeWith } from "../support/requires.ts"

const folder = fs.mkdtempSync(path.join(os.tmpdir(), "fz-cli-"))
afterAll(() => fs.rmSync(folder, { recursive: true }))
const base = {
  FIREZONE_TOKEN_PATH: path.join(folder, "token"),
  FIREZONE_STATE_DIR: path.join(folder, "state"),
  FIREZONE_DNS_CONTROL: "disabled"
}

describe("executable", () => {
  it("explains itself", async () => {
    for (const args of [["--help"], ["-h"], ["help"], ["standalone", "--help"]]) {
      const { code, stderr, stdout } = await run(args)
      assert.strictEqual(code, 0)
      assert.include(stdout, "FIREZONE_TOKEN")
      assert.strictEqual(stderr, "")
    }
    const version = await run(["--version"])
    assert.match(version.stdout, /^firezone-headless-client \d+\.\d+\.\d+\n$/)
    assert.strictEqual((await run(["-V"])).stdout, version.stdout)
    assert.include((await run(["lab"])).stdout, "lab COMMAND")
  }, 30_000)

  it("ends with 2 on wrong usage and says what is wrong (host 18.1)", async () => {
    const cases: ReadonlyArray<readonly [ReadonlyArray<string>, Record<string, string>, string]> = [
      [["--nope"], {}, "--nope"],
      [["--check", "--nope"], {}, "unknown option --nope"],
      [["--firezone-id", "--check"], {}, "--firezone-id needs a value"],
      [["--token", "x"], {}, "FIREZONE_TOKEN"],
      [["--api-url", "ftp://x"], {}, "ftp:"],
      [[], { FIREZONE_API_URL: "not a url" }, "not a URL"],
      [[], { MAX_PARTITION_TIME: "soon" }, "not a duration"],
      [[], { FIREZONE_NO_TELEMETRY: "maybe" }, "FIREZONE_NO_TELEMETRY"],
      [[], { FIREZONE_METRICS_ADDRESS: "0.0.0.0:9090" }, "--metrics-allow-remote"],
      [["route", "explain", "example.com"], {}, "not an IP address"],
      [["lab", "run", "nope"], {}, "no scenario"]
    ]
    for (const [args, env, text] of cases) {
      const { code, stderr, stdout } = await run(args, { ...base, ...env })
      assert.strictEqual(code, 2, `${args.join(" ")}: ${stdout}${stderr}`)
      assert.include(stderr, text)
      assert.notInclude(stderr, "    at ")
    }
  }, 30_000)

  it("tells the log files too why it ended", async () => {
    const logs = path.join(folder, "logs")
    const { stderr, stdout } = await run(["--check"], { ...base, LOG_DIR: logs })
    const [name = ""] = fs.readdirSync(logs).filter((name) => name.endsWith(".log"))
    const lines = fs.readFileSync(path.join(logs, name), "utf8").trim().split("\n")
    const { level, message } = JSON.parse(lines.at(-1) ?? "") as { readonly level: string; readonly message: string }
    assert.strictEqual(level, "ERROR")
    assert.include(stderr, message)
    assert.notInclude(stdout, message)
  }, 30_000)

  it("ends with 1 without a token and with a bad one, and never shows it (host 18.1)", async () => {
    const none = await run(["--check"], base)
    assert.strictEqual(none.code, 1)
    assert.include(none.stderr, base.FIREZONE_TOKEN_PATH)
    assert.include(none.stderr, "FIREZONE_TOKEN")
    fs.writeFileSync(base.FIREZONE_TOKEN_PATH, ".secret-token", { mode: 0o644 })
    const open = await run(["--check"], base)
    assert.strictEqual(open.code, 1)
    assert.include(open.stderr, base.FIREZONE_TOKEN_PATH)
    assert.notInclude(open.stdout + open.stderr, "secret-token")
    fs.rmSync(base.FIREZONE_TOKEN_PATH)
    const logs = await run(["--check"], { ...base, FIREZONE_TOKEN: "x", RUST_LOG: "tun=loud" })
    assert.strictEqual(logs.code, 1)
    assert.include(logs.stderr, "loud")
  }, 30_000)

  it("goes on when nobody takes its output", async () => {
    const env = { ...base, PATH: process.env["PATH"], FIREZONE_TOKEN: "x", FIREZONE_ID: "test" }
    const full = fs.openSync("/dev/full", "w") // every write fails with ENOSPC
    try {
      const child = spawn(process.execPath, [executable, "--check"], { env, stdio: ["ignore", full, "pipe"] })
      let stderr = ""
      child.stderr?.setEncoding("utf8").on("data", (text: string) => (stderr += text))
      const code = await new Promise<number | null>((resolve) => child.on("close", resolve))
      assert.deepStrictEqual({ code, stderr }, { code: 0, stderr: "" })
    } finally {
      fs.closeSync(full)
    }
  }, 30_000)

  it("checks a good configuration without connecting (host 18.1)", async () => {
    for (const args of [["--check"], ["--check", "standalone"]]) {
      const { code, stderr } = await run(args, { ...base, FIREZONE_TOKEN: ".secret-token", FIREZONE_ID: "test" })
      assert.strictEqual(code, 0, stderr)
    }
  }, 30_000)
})

describeWith({ root: true, programs: ["unshare", "mount"] }, "a token file", () => {
  const { FIREZONE_TOKEN_PATH: _, ...env } = base
  const put = (mode: number, owner: number): void => {
    fs.writeFileSync(base.FIREZONE_TOKEN_PATH, ".secret-token")
    fs.chmodSync(base.FIREZONE_TOKEN_PATH, mode)
    fs.chownSync(base.FIREZONE_TOKEN_PATH, owner, owner)
  }

  it("is taken if it is root's alone, and else named with the rule (host 18.1)", async () => {
    const check = (args: ReadonlyArray<string> = []) =>
      run(["--token-path", base.FIREZONE_TOKEN_PATH, ...args, "--check"], { ...env, FIREZONE_ID: "test" })
    put(0o600, 0)
    assert.strictEqual((await check()).code, 0)
    for (const [mode, owner, rule] of [[0o644, 0, "chmod 0600"], [0o600, 65_534, "chown"]] as const) {
      put(mode, owner)
      const { code, stderr } = await check()
      assert.strictEqual(code, 1)
      assert.include(stderr, base.FIREZONE_TOKEN_PATH)
      assert.include(stderr, rule)
      assert.notInclude(stderr, "secret-token")
    }
    fs.rmSync(base.FIREZONE_TOKEN_PATH)
  }, 30_000)

  it("is looked for at its usual place (host 18.1)", async () => {
    const script = `mount -t tmpfs none /etc && mkdir /etc/dev.firezone.client
      umask 077 && printf .secret-token > /etc/dev.firezone.client/token && exec "$@"`
    const argv = ["--mount", "sh", "-ec", script, "sh", process.execPath, executable, "--check"]
    const child = spawn("unshare", argv, { env: { ...env, PATH: process.env["PATH"], FIREZONE_ID: "test" } })
    let output = ""
    for (const stream of [child.stdout, child.stderr]) stream.setEncoding("utf8").on("data", (text) => (output += text))
    const code = await new Promise<number | null>((resolve) => child.on("close", resolve))
    assert.strictEqual(code, 0, output)
  }, 30_000)
})
