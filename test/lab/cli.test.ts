/** The command line of the lab: wrong usage, and a lab that stays up. */
import * as fs from "node:fs"
import { afterAll, assert, beforeAll, describe, it } from "vitest"
import { exists, PERSISTENT } from "../../src/lab/labs.ts"
import { executable, run, start } from "../support/executable.ts"
import { describeWith } from "../support/requires.ts"

describe("usage of lab", () => {
  it.each([
    [["frobnicate"], "unknown command \"frobnicate\""],
    [["run"], "which scenario?"],
    [["run", "nothing"], "no scenario \"nothing\""],
    [["run", "direct", "--frob"], "unknown option --frob"],
    [["list", "--frob"], "unknown option --frob"],
    [["list", "direct"], "takes no names"],
    [["up", "--without"], "--without client|gateway|relay"],
    [["up", "--without", "portal"], "--without client|gateway|relay"],
    [["up", "client"], "--without client|gateway|relay"],
    [["exec"], "HOST is one of client, "],
    [["exec", "nowhere", "--", "true"], "HOST is one of client, "],
    [["exec", "client", "--"], "no command"],
    [["down", "direct"], "takes no arguments"]
  ])("refuses %j with exit code 2", async (args, message) => {
    const { code, stderr, stdout } = await run(["lab", ...args])
    assert.strictEqual(code, 2)
    assert.include(stderr, message)
    assert.strictEqual(stdout, "")
  })

  it("shows help and scenarios on stdout", async () => {
    for (const args of [[], ["--help"], ["run", "--help"], ["up", "-h"]]) {
      const { code, stderr, stdout } = await run(["lab", ...args])
      assert.strictEqual(code, 0)
      assert.include(stdout, "Usage: firezone-headless-client lab COMMAND")
      assert.strictEqual(stderr, "")
    }
    const scenarios = JSON.parse((await run(["lab", "list", "--json"])).stdout) as ReadonlyArray<{ name: string }>
    assert.includeMembers(scenarios.map(({ name }) => name), ["direct", "direct-ipv6"])
  })

  it("says which emulators there are not", async () => {
    const { code, stderr, stdout } = await run(["lab", "serve", "nothing"])
    assert.strictEqual(code, 1)
    assert.strictEqual(stdout, "")
    assert.include(stderr, "lab serve nothing: is no emulator")
  })
})

const programs = ["ip", "nft", "conntrack", "nsenter", "unshare", "mount", "curl"]

describeWith({ root: true, programs }, "lab up, exec and down", () => {
  const exec = (host: string, ...command: ReadonlyArray<string>) => run(["lab", "exec", host, "--", ...command])
  const listeners = async (host: string): Promise<string> => (await exec(host, "ss", "-Hlnu")).stdout

  beforeAll(() => {
    if (exists(PERSISTENT)) throw new Error("a lab is up on this machine, and this test needs the place: lab down")
  })
  afterAll(async () => {
    await run(["lab", "down"])
  })

  it("names the programs that it misses, in JSON too", async () => {
    const { code, stdout, stderr } = await run(["lab", "run", "direct", "--json"], { PATH: "/nonexistent" })
    assert.strictEqual(code, 1)
    const { checks, ok } = JSON.parse(stdout) as {
      ok: boolean
      checks: ReadonlyArray<{ name: string; detail: string }>
    }
    assert.isFalse(ok)
    assert.strictEqual(checks[0]?.name, "the lab itself")
    assert.match(checks[0]?.detail ?? "", /needs .*nsenter.*apt-get install .*util-linux/)
    assert.include(stderr, "FAILED direct: 0 of 1 checks")
  })

  it("builds a lab that stays, runs commands in it and removes it", async () => {
    const none = await exec("client", "true")
    assert.strictEqual(none.code, 1)
    assert.include(none.stderr, "lab up")

    const up = await run(["lab", "up"])
    assert.strictEqual(up.code, 0, up.stderr)
    const again = await run(["lab", "up"])
    assert.strictEqual(again.code, 1)
    assert.include(again.stderr, "lab down")

    const page = await exec("client", "curl", "-sS", "-m", "10", "http://172.20.0.10/")
    assert.include(page.stdout, "This page exists only behind the gateway.", page.stderr)
    assert.strictEqual((await exec("client", "sh", "-c", "exit 7")).code, 7)
    assert.strictEqual((await exec("client", "sh", "-c", "kill -9 $$")).code, 137)
    assert.strictEqual((await exec("client", "cat", "/proc/sys/kernel/hostname")).stdout, "client\n")

    const waiting = start(["lab", "exec", "gw", "--", "sh", "-c", "echo ready; exec sleep 60"])
    while (!waiting.output().includes("ready")) await new Promise((resolve) => setTimeout(resolve, 10))
    waiting.child.kill("SIGTERM")
    assert.strictEqual((await waiting.result).code, 143)

    const folder = /Logs are in (\S+)\./.exec(up.stdout)?.[1] ?? ""
    assert.include(fs.readFileSync(`${folder}/client.log`, "utf8"), "signed in")
    const down = await run(["lab", "down"])
    assert.strictEqual(down.code, 0, down.stderr)
    assert.isFalse(exists(PERSISTENT))
    assert.isFalse(fs.existsSync(folder))
    assert.include((await run(["lab", "down"])).stdout, "no lab is up")
  }, 60_000)

  it("leaves hosts empty for programs of one's own, and says what they need", async () => {
    const up = await run(["lab", "up", "--without", "client", "--without=gateway", "--without", "relay"])
    assert.strictEqual(up.code, 0, up.stderr)
    for (
      const variable of [
        "FIREZONE_API_URL=ws://203.0.113.2:8081/",
        "FIREZONE_TOKEN=.lab-client-token",
        "FIREZONE_TOKEN=.lab-gateway-token",
        "FIREZONE_TOKEN=.lab-relay-token",
        "PUBLIC_IP4_ADDR=203.0.113.3"
      ]
    ) {
      assert.include(up.stdout, variable)
    }
    assert.strictEqual((await exec("client", "ip", "link", "show", "tun-firezone")).code, 1)
    assert.strictEqual((await exec("gw", "ip", "link", "show", "tun-firezone")).code, 1)
    assert.strictEqual((await exec("gw", "nft", "list", "ruleset")).stdout, "")
    assert.strictEqual(await listeners("inet"), "")
    // What it prints is right: the rule is taken, and a gateway with those variables signs in.
    const rule = /lab exec gw -- nft '(.*)'/.exec(up.stdout)?.[1] ?? ""
    const added = await exec("gw", "nft", rule)
    assert.strictEqual(added.code, 0, added.stderr)
    assert.include((await exec("gw", "nft", "list", "ruleset")).stdout, "masquerade")
    const [, variables = ""] = up.stdout.split("Your own gateway:")
    const environment = [...variables.split("Your own")[0]?.matchAll(/ (FIREZONE_\w+=\S+)/g) ?? []].map(([, each]) =>
      each ?? ""
    )
    const folder = /Logs are in (\S+)\./.exec(up.stdout)?.[1] ?? ""
    const config = JSON.stringify({ uplink: "eth0", inside: "res0", control: `${folder}/own.sock` })
    const own = ["env", ...environment, process.execPath, executable, "lab", "serve", "gateway", config]
    const gateway = start(["lab", "exec", "gw", "--", ...own])
    while (!gateway.output().includes("signed in")) {
      if (gateway.child.exitCode !== null) throw new Error(gateway.output())
      await new Promise((resolve) => setTimeout(resolve, 20))
    }
    gateway.child.kill("SIGTERM")
    assert.strictEqual((await gateway.result).code, 130)
    assert.strictEqual((await exec("gw", "nft", "list", "ruleset")).stdout, "")
    assert.strictEqual((await run(["lab", "down"])).code, 0)
  }, 60_000)
})
