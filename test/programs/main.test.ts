/** The process around the client, in a network namespace of this file's own. */
import * as Effect from "effect/Effect"
import * as fs from "node:fs"
import * as os from "node:os"
import * as path from "node:path"
import { assert, beforeAll, it, onTestFinished } from "vitest"
import { start } from "../support/executable.ts"
import { linkExists } from "../support/links.ts"
import { enterPrivateNetworkNamespace } from "../support/netns.ts"
import { describeWith } from "../support/requires.ts"
import { waitFor } from "../support/waitFor.ts"

const TUN = "tun-main"
const env = { FIREZONE_TOKEN: "x", FIREZONE_ID: "test", FIREZONE_API_URL: "ws://127.0.0.1:9", FIREZONE_TUN_NAME: TUN }

describeWith({ root: true, programs: ["ip"] }, "the client's process", () => {
  beforeAll(enterPrivateNetworkNamespace)

  it("is not ended by SIGHUP while it starts or stops", async () => {
    const { child, output, result } = start([], env)
    // From the first line on. A client that runs starts over each time, so there is a pause in between.
    let quiet = false
    const hangup = setInterval(() => !quiet && output() !== "" && child.kill("SIGHUP"), 1)
    try {
      await Effect.runPromise(waitFor("the device", () => linkExists(TUN)))
      quiet = true
      await Effect.runPromise(waitFor("an attempt", () => output().includes("trying again")))
      child.kill("SIGTERM")
      quiet = false
      const { code, signal } = await result
      assert.deepStrictEqual({ code, signal }, { code: 0, signal: null })
      assert.isFalse(linkExists(TUN))
    } finally {
      clearInterval(hangup)
      child.kill("SIGKILL")
    }
  }, 30_000)

  it("writes another log file when somebody deletes the one that it writes (host 18.7)", async () => {
    const folder = fs.mkdtempSync(path.join(os.tmpdir(), "fz-main-"))
    onTestFinished(() => fs.rmSync(folder, { recursive: true }))
    const latest = path.join(folder, "firezone-headless-client.latest")
    const text = () => fs.existsSync(latest) ? fs.readFileSync(latest, "utf8") : ""
    const { child, result } = start([], { ...env, FIREZONE_LOG: "debug", LOG_DIR: folder })
    try {
      await Effect.runPromise(waitFor("the file", () => text().includes("trying again")))
      const file = fs.readlinkSync(latest)
      fs.rmSync(file)
      child.kill("SIGHUP")
      await Effect.runPromise(waitFor("another file", () => text().includes("starting over")))
      assert.strictEqual(fs.statSync(latest).mode & 0o777, 0o640)
      for (const line of text().trimEnd().split("\n")) assert.isObject(JSON.parse(line))
      child.kill("SIGTERM")
      assert.strictEqual((await result).code, 0)
    } finally {
      child.kill("SIGKILL")
    }
  }, 30_000)

  it("ends within 20 s where there is no network, says so, and leaves nothing (host 18.40)", async () => {
    const began = Date.now()
    const { child, result } = start([], { ...env, FIREZONE_API_URL: "wss://portal.example/" })
    try {
      const { code, stderr } = await result
      assert.strictEqual(code, 5)
      assert.match(
        stderr,
        /no connection to the portal at portal\.example after retrying for 15 s: .*check the network/
      )
      assert.isBelow(Date.now() - began, 20_000)
      assert.isFalse(linkExists(TUN))
    } finally {
      child.kill("SIGKILL")
    }
  }, 30_000)

  it("cleans up after a bug in a callback, says what it was, and ends with 1", async () => {
    const bug = "process.on('SIGUSR2', () => setImmediate(() => { throw new Error('a bug') }))"
    const folder = fs.mkdtempSync(path.join(os.tmpdir(), "fz-main-"))
    onTestFinished(() => fs.rmSync(folder, { recursive: true }))
    const { child, output, result } = start([], {
      ...env,
      LOG_DIR: folder,
      NODE_OPTIONS: `--import=data:text/javascript,${encodeURI(bug)}`
    })
    await Effect.runPromise(waitFor("the device", () => linkExists(TUN) && output().includes("trying again")))
    child.kill("SIGUSR2")
    const { code, stderr, stdout } = await result
    assert.strictEqual(code, 1)
    assert.match(stderr, /internal error: Error: a bug\n/)
    assert.include(stdout, "stopping")
    assert.isFalse(linkExists(TUN))
    const lines = fs.readFileSync(path.join(folder, "firezone-headless-client.latest"), "utf8").trimEnd().split("\n")
    const records = lines.map((line) => JSON.parse(line) as { readonly message: string; readonly cause?: string })
    assert.include(records.find(({ message }) => message === "internal error")?.cause, "Error: a bug\n")
    assert.strictEqual(records.at(-1)?.message, "stopping")
  }, 30_000)
})
