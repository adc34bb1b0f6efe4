/** The end-to-end test: the lab's first scenario with the built executable. */
import { spawnSync } from "node:child_process"
import * as fs from "node:fs"
import * as os from "node:os"
import { assert, it } from "vitest"
import { run, start } from "../support/executable.ts"
import { describeWith } from "../support/requires.ts"

const traces = (): ReadonlyArray<string> => [
  ...(spawnSync("ip", ["netns", "list"], { encoding: "utf8" }).stdout.match(/fzlab\S+/g) ?? []),
  ...fs.readdirSync(os.tmpdir()).filter((name) => name.endsWith(".lab"))
]

describeWith({ root: true, programs: ["ip", "nft", "curl", "ping", "conntrack", "nsenter"] }, "lab", () => {
  it("runs the scenario direct and leaves nothing behind", async () => {
    const before = traces()
    const { code, stderr, stdout } = await run(["lab", "run", "direct", "--json"])
    assert.strictEqual(code, 0, `${stdout}\n${stderr}`)
    const result = JSON.parse(stdout) as {
      scenario: string
      ok: boolean
      durationMs: number
      checks: ReadonlyArray<{ name: string; ok: boolean; detail: string }>
    }
    assert.strictEqual(result.scenario, "direct")
    assert.isTrue(result.ok)
    assert.isAbove(result.checks.length, 10)
    assert.deepStrictEqual(traces(), before)
  }, 180_000)

  it("cleans up after Ctrl+C, and after kill -9 with the next run", async () => {
    const before = traces()
    const untilUp = async (lab: ReturnType<typeof start>): Promise<void> => {
      while (!lab.output().includes("is up after")) {
        if (lab.child.exitCode !== null) throw new Error(lab.output())
        await new Promise((resolve) => setTimeout(resolve, 20))
      }
    }
    const interrupted = start(["lab", "run", "direct"])
    await untilUp(interrupted)
    interrupted.child.kill("SIGINT")
    assert.strictEqual((await interrupted.result).code, 130)
    assert.deepStrictEqual(traces(), before)

    const killed = start(["lab", "run", "direct"])
    await untilUp(killed)
    killed.child.kill("SIGKILL")
    await killed.result
    assert.isAbove(traces().length, before.length)
    assert.strictEqual((await run(["lab", "down"])).code, 0)
    assert.deepStrictEqual(traces(), before)
  }, 60_000)
})
