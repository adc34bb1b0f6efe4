/** What an operator types beside the client, as processes: on a terminal, in scripts, while a client runs. */
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { spawn } from "node:child_process"
import { once } from "node:events"
import * as fs from "node:fs"
import * as os from "node:os"
import * as path from "node:path"
import { afterAll, assert, beforeAll, describe, it } from "vitest"
import { StatusReport } from "../../src/model/status.ts"
import { executable, run, start } from "../support/executable.ts"
import { linkExists } from "../support/links.ts"
import { enterPrivateNetworkNamespace } from "../support/netns.ts"
import { describeWith } from "../support/requires.ts"
import { waitFor } from "../support/waitFor.ts"

const folder = fs.mkdtempSync(path.join(os.tmpdir(), "fz-operator-"))
afterAll(() => fs.rmSync(folder, { recursive: true }))
const TOKEN_PATH = path.join(folder, "made", "token")
const SECRET = ".secret-token"
const env = { FIREZONE_TOKEN_PATH: TOKEN_PATH, FIREZONE_STATE_DIR: path.join(folder, "state"), FIREZONE_ID: "test" }

describe("operator's commands", () => {
  it("explain themselves", async () => {
    for (const command of ["status", "sign-in", "sign-out"]) {
      for (const args of [[command, "--help"], ["help", command], ["--tun-name", "x", command, "-h"]]) {
        const { code, stdout } = await run(args)
        assert.strictEqual(code, 0)
        assert.match(stdout, new RegExp(`^Usage: .* ${command} .*\n`))
        assert.include(stdout, "Exit codes:")
      }
    }
  }, 30_000)

  it("end with 2 on wrong usage", async () => {
    const cases: ReadonlyArray<readonly [ReadonlyArray<string>, Record<string, string>, string]> = [
      [["status", "--nope"], {}, "--nope"],
      [["sign-in", "--auth-base-url", "ftp://x"], {}, "not a URL"],
      [["sign-in"], { FIREZONE_AUTH_BASE_URL: "x" }, "not a URL"],
      [["sign-in", "--account-slug", ""], {}, "must not be empty"]
    ]
    for (const [args, variables, text] of cases) {
      const { code, stderr, stdout } = await run(args, { ...env, ...variables })
      assert.strictEqual(code, 2, `${args.join(" ")}: ${stdout}${stderr}`)
      assert.include(stderr, text)
    }
  }, 30_000)

  it("say that there is no client, and where they looked", async () => {
    const socket = path.join(folder, "none.sock")
    for (const options of [[], ["--json"], ["--watch"]]) {
      const { code, stderr, stdout } = await run(["--control-socket", socket, "status", ...options], env)
      assert.deepStrictEqual({ code, stdout }, { code: 1, stdout: "" })
      assert.include(stderr, "no client is running")
      assert.include(stderr, socket)
    }
  }, 30_000)

  it("have nothing to sign out of (host 18.4)", async () => {
    const { code, stdout } = await run(["sign-out"], env)
    assert.strictEqual(code, 0)
    assert.include(stdout, TOKEN_PATH)
  })
})

describeWith({ root: true, programs: ["script", "stty"] }, "signing in and out", () => {
  /** Types `answer` once the program asks, on a terminal whose settings are printed afterwards. */
  const signIn = async (answer: string) => {
    const line = `'${process.execPath}' '${executable}' sign-in --account-slug my-team; echo "code=$?"; stty -a`
    const child = spawn("script", ["-qec", line, "/dev/null"], { env: { PATH: process.env["PATH"], ...env } })
    let output = ""
    child.stdout.setEncoding("utf8").on("data", (text: string) => {
      if (!output.includes("Token: ") && (output + text).includes("Token: ")) child.stdin.write(answer)
      output += text
    })
    await once(child, "close")
    assert.match(output, / icanon .* echo /s, "the terminal is as it was")
    return output
  }

  it("takes the token from the terminal, hidden, to a file that the client takes", async () => {
    const output = await signIn(`${SECRET}x\x7f\r`)
    assert.include(output, "https://app.firezone.dev/my-team?as=headless-client")
    assert.include(output, "code=0")
    assert.notInclude(output, "secret")
    const { mode, uid } = fs.statSync(TOKEN_PATH)
    assert.deepStrictEqual({ mode: mode & 0o777, uid }, { mode: 0o600, uid: 0 })
    assert.strictEqual(fs.readFileSync(TOKEN_PATH, "utf8"), SECRET)
    assert.deepStrictEqual(fs.readdirSync(path.dirname(TOKEN_PATH)), ["token"])
    const { code, stderr } = await run(["--dns-control", "disabled", "--check"], env)
    assert.strictEqual(code, 0, stderr)
  }, 30_000)

  it("changes nothing when the person gives up, or there is none", async () => {
    assert.include(await signIn("half\x03"), "code=0")
    const { code, stderr } = await start(["sign-in"], env, { detached: true }).result
    assert.strictEqual(code, 1)
    assert.include(stderr, "no terminal")
    assert.strictEqual(fs.readFileSync(TOKEN_PATH, "utf8"), SECRET)
  }, 30_000)

  it("removes the token when told so (host 18.4)", async () => {
    const asked = start(["sign-out"], env)
    asked.child.stdin.end("n\n")
    assert.include((await asked.result).stdout, "nothing was removed")
    assert.isTrue(fs.existsSync(TOKEN_PATH))
    assert.strictEqual((await run(["sign-out", "-f"], env)).code, 0)
    assert.isFalse(fs.existsSync(TOKEN_PATH))
  }, 30_000)
})

describeWith({ root: true, programs: ["ip"] }, "beside a client", () => {
  const TUN = "tun-operator"
  const socket = path.join(folder, "control.sock")
  const client = {
    ...env,
    FIREZONE_TOKEN: "x",
    FIREZONE_API_URL: "ws://127.0.0.1:9",
    FIREZONE_DNS_CONTROL: "disabled",
    FIREZONE_TUN_NAME: TUN,
    FIREZONE_CONTROL_SOCKET: socket
  }
  beforeAll(enterPrivateNetworkNamespace)

  it("status tells what hinders it, a second client is turned away, and both end with it", async () => {
    const first = start([], client)
    try {
      await Effect.runPromise(waitFor("the socket", () => fs.existsSync(socket)))
      await Effect.runPromise(waitFor("an attempt", () => first.output().includes("trying again")))
      const { code, stdout } = await run(["status", "--json"], client)
      assert.strictEqual(code, 5)
      const report = Schema.decodeUnknownSync(Schema.parseJson(StatusReport))(stdout)
      assert.isFalse(report.signedIn)
      assert.strictEqual(report.client.pid, first.child.pid)
      assert.include(report.portal.lastError, "ECONNREFUSED")

      const second = await run([], { ...client, FIREZONE_TUN_NAME: "tun-second" })
      assert.strictEqual(second.code, 1)
      assert.include(second.stderr, socket)
      assert.isFalse(linkExists("tun-second"))

      const watching = start(["status", "--watch", "--json"], client)
      await Effect.runPromise(waitFor("two statuses", () => watching.output().split("\n").length > 2))
      first.child.kill("SIGTERM")
      assert.strictEqual((await first.result).code, 0)
      const watched = await watching.result
      assert.strictEqual(watched.code, 1)
      assert.include(watched.stderr, "has stopped")
      assert.isFalse(fs.existsSync(socket))
    } finally {
      first.child.kill("SIGKILL")
    }
  }, 60_000)

  it("a client whose socket cannot be made runs without it, and says so", async () => {
    const { child, output, result } = start([], { ...client, FIREZONE_CONTROL_SOCKET: "/dev/null/control.sock" })
    try {
      await Effect.runPromise(waitFor("an attempt", () => output().includes("trying again")))
      assert.include(output(), "status will not work: control socket /dev/null/control.sock")
      assert.isTrue(linkExists(TUN))
      child.kill("SIGTERM")
      assert.strictEqual((await result).code, 0)
    } finally {
      child.kill("SIGKILL")
    }
  }, 30_000)
})
