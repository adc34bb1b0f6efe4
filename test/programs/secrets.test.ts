/** What other processes of the machine can learn of one that knows a token. */
import * as Effect from "effect/Effect"
import { spawn, spawnSync } from "node:child_process"
import { once } from "node:events"
import * as fs from "node:fs"
import * as os from "node:os"
import * as path from "node:path"
import { afterAll, assert, beforeAll, it, onTestFinished } from "vitest"
import { executable, start } from "../support/executable.ts"
import { enterPrivateNetworkNamespace } from "../support/netns.ts"
import { describeWith } from "../support/requires.ts"
import { waitFor } from "../support/waitFor.ts"

const TOKEN = ".distinctive-token-of-the-process"
const env = {
  FIREZONE_TOKEN: TOKEN,
  FIREZONE_ID: "test",
  FIREZONE_API_URL: "ws://127.0.0.1:9",
  FIREZONE_TUN_NAME: "tun-secrets",
  FIREZONE_DNS_CONTROL: "disabled"
}
const folder = fs.mkdtempSync(path.join(os.tmpdir(), "fz-secrets-"))
afterAll(() => fs.rmSync(folder, { recursive: true }))

/** What the units leave of root's rights: no looking into processes that have more, or that refuse. */
const LIKE_THE_UNIT = ["setpriv", "--bounding-set=-all,+net_admin"]

/** A client that looks for its portal, and its pid. */
const startClient = async (prefix: ReadonlyArray<string> = []) => {
  const [command = "", ...args] = [...prefix, process.execPath, executable]
  const child = spawn(command, args, { cwd: folder, env: { PATH: process.env["PATH"], ...env } })
  let said = ""
  for (const stream of [child.stdout, child.stderr]) {
    stream.setEncoding("utf8").on("data", (text: string) => (said += text))
  }
  onTestFinished(() => void child.kill("SIGKILL"))
  await Effect.runPromise(waitFor("an attempt", () => said.includes("trying again")))
  return { child, pid: child.pid as number, said: () => said }
}

/** Whether a process with the rights of the unit reads a file. */
const canRead = (file: string): boolean => {
  const [command = "", ...args] = [...LIKE_THE_UNIT, "head", "-c1", file]
  return spawnSync(command, args).status === 0
}

describeWith({ root: true, programs: ["ip", "setpriv"] }, "a process that knows a token", () => {
  beforeAll(enterPrivateNetworkNamespace)

  it("has it no longer in its environment, nor in that of a report of Node's", async () => {
    const { child: first, pid } = await startClient()
    const environment = fs.readFileSync(`/proc/${pid}/environ`, "utf8").split("\0")
    assert.include(environment, "FIREZONE_TOKEN=")
    assert.include(environment, "FIREZONE_ID=test")
    assert.notInclude(environment.join("\n"), TOKEN)
    first.kill("SIGTERM")
    await once(first, "exit")

    const report = path.join(folder, "report.json")
    const options = `--report-on-signal --report-signal=SIGUSR2 --report-filename=${report}`
    const { child, output, result } = start([], { ...env, NODE_OPTIONS: options })
    onTestFinished(() => void child.kill("SIGKILL"))
    await Effect.runPromise(waitFor("an attempt", () => output().includes("trying again")))
    child.kill("SIGUSR2")
    await Effect.runPromise(waitFor("the report", () => output().includes("Node.js report completed")))
    const text = fs.readFileSync(report, "utf8")
    assert.include(text, "\"FIREZONE_ID\": \"test\"")
    assert.notInclude(text, TOKEN)
    child.kill("SIGTERM")
    assert.strictEqual((await result).code, 0)
    assert.notInclude(output(), TOKEN)
  }, 20_000)

  it("cannot be looked into by a process with the same rights, and leaves no core", async () => {
    const { child, pid, said } = await startClient(LIKE_THE_UNIT)
    const other = spawn("setpriv", [...LIKE_THE_UNIT.slice(1), "sleep", "60"])
    onTestFinished(() => void other.kill("SIGKILL"))
    const secrets = ["environ", "mem", "auxv", "maps"]
    await Effect.runPromise(waitFor("a process that can be", () => canRead(`/proc/${other.pid}/environ`)))
    for (const name of secrets) assert.isFalse(canRead(`/proc/${pid}/${name}`), name)
    for (const name of ["auxv", "maps"]) assert.isTrue(canRead(`/proc/${other.pid}/${name}`), name)
    // The kernel writes none of a process that cannot be looked into, whatever the limit; where it would put it is the
    // machine's affair, and not changed here.
    spawnSync("prlimit", [`--pid=${pid}`, "--core=unlimited"])
    child.kill("SIGABRT")
    await once(child, "exit")
    assert.strictEqual(child.signalCode, "SIGABRT")
    assert.deepStrictEqual(fs.readdirSync(folder).filter((name) => name.startsWith("core")), [])
    assert.notInclude(said(), TOKEN)
  }, 20_000)

  it("opens no debugger on SIGUSR1, which every user could use", async () => {
    const { child, said } = await startClient()
    child.kill("SIGUSR1")
    child.kill("SIGHUP")
    await Effect.runPromise(waitFor("it to go on", () => said().includes("starting over")))
    const listening = fs.readFileSync("/proc/thread-self/net/tcp", "utf8").split("\n").filter((line) =>
      / 0A /.test(line)
    )
    assert.deepStrictEqual(listening, [])
    assert.notInclude(said(), "Debugger")
    child.kill("SIGTERM")
    await once(child, "exit")
    assert.strictEqual(child.exitCode, 0)
  }, 20_000)
})
