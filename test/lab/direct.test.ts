/** The end-to-end tests: the lab's first scenarios with the built executable, and what is left when one is cut short. */
import * as fs from "node:fs"
import { afterEach, assert, it } from "vitest"
import { nameFor } from "../../src/lab/labs.ts"
import { type Result, run, start } from "../support/executable.ts"
import { describeWith } from "../support/requires.ts"

const programs = ["ip", "nft", "conntrack", "nsenter", "unshare", "mount", "ping", "curl"]

/** What a lab has outside its own namespaces. */
const traces = (lab: string): ReadonlyArray<string> =>
  [
    ...(fs.existsSync("/run/netns") ? fs.readdirSync("/run/netns") : []),
    ...fs.readdirSync("/tmp")
  ].filter((name) => name.startsWith(lab))

const commandLines = (): string =>
  fs.readdirSync("/proc").filter((name) => /^[0-9]+$/.test(name)).map((pid) => {
    try {
      return fs.readFileSync(`/proc/${pid}/cmdline`, "utf8")
    } catch {
      return "" // It has ended.
    }
  }).join("\n")

describeWith({ root: true, programs }, "lab run", () => {
  const started: Array<ReturnType<typeof start>> = []
  afterEach(() => {
    for (const { child } of started.splice(0)) child.kill("SIGINT")
  })

  /** A lab that has been built and is at work. */
  const startLab = async () => {
    const lab = start(["lab", "run", "direct"])
    started.push(lab)
    while (!lab.output().includes("without the client")) {
      if (lab.child.exitCode !== null) throw new Error(lab.output())
      await new Promise((resolve) => setTimeout(resolve, 20))
    }
    return { ...lab, name: nameFor(lab.child.pid ?? 0) }
  }
  const assertNothingLeft = (lab: string): void => {
    assert.deepStrictEqual(traces(lab), [])
    assert.notInclude(commandLines(), lab)
  }

  it("runs the scenarios and leaves nothing behind", async () => {
    const { code, stderr, stdout } = await run(["lab", "run", "direct", "direct-ipv6", "relayed", "--json"], {
      // A caller's own settings are not the lab's.
      LOG_DIR: "/nonexistent/logs",
      FIREZONE_ID: "",
      FIREZONE_API_URL: "wss://nowhere.invalid"
    })
    assert.strictEqual(code, 0, `${stdout}\n${stderr}`)
    const results = JSON.parse(stdout) as ReadonlyArray<{
      scenario: string
      ok: boolean
      durationMs: number
      checks: ReadonlyArray<{ name: string; ok: boolean; detail: string }>
    }>
    assert.deepStrictEqual(results.map(({ scenario }) => scenario), ["direct", "direct-ipv6", "relayed"])
    for (const result of results) {
      assert.isTrue(result.ok)
      assert.isTrue(result.checks.every(({ ok }) => ok))
      assert.isAbove(result.checks.length, 15)
      assert.isAbove(result.durationMs, 0)
    }
    assert.isFalse(fs.existsSync("/nonexistent"))
  }, 180_000)

  it("cleans up after SIGINT, which npm sends twice, SIGTERM and SIGHUP", async () => {
    for (const signals of [["SIGINT", "SIGINT"], ["SIGTERM"], ["SIGHUP"]] as const) {
      const lab = await startLab()
      assert.isAbove(traces(lab.name).length, 7)
      for (const signal of signals) lab.child.kill(signal)
      assert.strictEqual((await lab.result).code, 130, lab.output())
      assertNothingLeft(lab.name)
    }
  }, 120_000)

  it("cleans up in the next run after kill -9, while a second lab goes on", async () => {
    const [killed, other] = await Promise.all([startLab(), startLab()])
    killed.child.kill("SIGKILL")
    await killed.result
    assert.isAbove(traces(killed.name).length, 7)
    const next = await startLab()
    assertNothingLeft(killed.name)
    assert.isAbove(traces(other.name).length, 7)
    next.child.kill("SIGINT")
    assert.strictEqual((await next.result).code, 130)
    const { code }: Result = await other.result
    assert.strictEqual(code, 0, other.output())
    assertNothingLeft(other.name)
  }, 120_000)
})
