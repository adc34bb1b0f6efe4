/**
 * The lab's scenarios about connectivity, with the built executable: each in a lab of its own, several at a time, because
 * most of their time is waiting for the timers that they are about.
 */
import { assert, beforeAll, it } from "vitest"
import { type Result, run } from "../support/executable.ts"
import { describeWith } from "../support/requires.ts"

/** Of the lists below, every scenario waits for the one that is as many before it. */
const LABS_AT_ONCE = 4
const programs = ["ip", "nft", "conntrack", "nsenter", "unshare", "mount", "ping", "curl"]

/** Runs the scenarios; each test waits for its own and judges it. */
const judge = (names: ReadonlyArray<string>): void => {
  const results = new Map<string, Promise<Result>>()
  beforeAll(() => {
    names.forEach((name, index) => {
      const lane = results.get(names[index - LABS_AT_ONCE] ?? "") ?? Promise.resolve()
      results.set(name, lane.then(() => run(["lab", "run", name, "--json"])))
    })
  })
  it.each(names)("%s", async (name) => {
    const { code, stderr, stdout } = await (results.get(name) as Promise<Result>)
    assert.strictEqual(code, 0, `${stderr}\n${stdout}`)
    const { checks, ok, scenario } = JSON.parse(stdout) as {
      scenario: string
      ok: boolean
      checks: ReadonlyArray<{ name: string; ok: boolean }>
    }
    assert.strictEqual(scenario, name)
    assert.isTrue(ok)
    assert.isTrue(checks.every((check) => check.ok))
    assert.isAtLeast(checks.length, 5)
  }, 240_000)
}

describeWith({ root: true, programs }, "scenarios", () => {
  // Those below each other run one after the other.
  judge([
    ...["fallback", "gateway-restart", "relay-silent", "gateway-loss"],
    ...["nat", "relay-loss", "upgrade", "loss"],
    ...["ipv4-only", "symmetric", "relay-only", "ipv6-only"],
    ...["mixed", "mixed-reverse"]
  ])
})

describeWith({ root: true, programs: [...programs, "ss", "turnserver", "turnadmin"] }, "scenarios with coturn", () => {
  judge(["symmetric-coturn", "relay-only-coturn"])
})

describeWith({ root: true, programs: [...programs, "tcpdump"] }, "scenarios on the move", () => {
  judge(["roam", "portal-restart", "roam-sighup"])
})

describeWith({ root: true, programs: [...programs, "dnsmasq", "dig"] }, "scenarios with names", () => {
  judge(["dns", "dns-in-tunnel"])
})
