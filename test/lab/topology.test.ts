/** The small Internet itself: who reaches whom, what its routers do, and that nothing of it stays. */
import { afterAll, assert, beforeAll, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Scope from "effect/Scope"
import { execFileSync, spawn } from "node:child_process"
import { once } from "node:events"
import * as fs from "node:fs"
import type { LabError } from "../../src/lab/LabError.ts"
import { exists, nameFor, remove, removeLeftovers } from "../../src/lab/labs.ts"
import * as topology from "../../src/lab/topology.ts"
import { describeWith } from "../support/requires.ts"

const { addresses } = topology
const programs = ["ip", "nft", "conntrack", "nsenter", "unshare", "mount", "ping", "ps"]

describeWith({ root: true, programs }, "topology", () => {
  const scope = Effect.runSync(Scope.make())
  let network: topology.Topology
  beforeAll(async () => {
    network = await Effect.runPromise(Scope.extend(topology.scoped, scope))
  })
  afterAll(() => Effect.runPromise(Scope.close(scope, Exit.void)))

  const pings = (host: topology.HostName, ...args: ReadonlyArray<string>) =>
    Effect.map(network.run(host, ["ping", "-n", "-c", "1", "-W", "1", ...args]), ({ code }) => code === 0)
  const sourceTowards = (destination: string) =>
    Effect.map(
      network.must("client", ["ip", "-j", "route", "get", destination]),
      ({ stdout }) => (JSON.parse(stdout) as ReadonlyArray<{ prefsrc: string }>)[0]?.prefsrc
    )
  const node = (host: topology.HostName, script: string) => network.must(host, [process.execPath, "-e", script])

  it.live("lets hosts reach what they should, and nothing else", () =>
    Effect.gen(function*() {
      for (
        const [host, ...args] of [
          ["client", addresses.portal],
          ["client", "2001:db8::2"],
          ["client", addresses.relay4, "-I", "lan0"],
          ["client", addresses.relay4, "-I", "wifi0"],
          ["gw", addresses.portal],
          ["gw", addresses.relay6],
          ["gw", addresses.resource4],
          ["gw", addresses.resource6],
          ["gw2", addresses.portal],
          ["gw2", addresses.resource4],
          ["gw2", addresses.resource6]
        ] as const
      ) {
        assert.isTrue(yield* pings(host, ...args), `${host} reaches ${args.join(" ")}`)
      }
      for (
        const [host, address] of [
          ["client", addresses.resource4],
          ["client", addresses.resource6],
          ["client", addresses.gateway4],
          ["inet", "192.168.20.2"]
        ] as const
      ) {
        assert.isFalse(yield* pings(host, address), `${host} must not reach ${address}`)
      }
    }))

  it.live("roams, loses an uplink and gets it back", () =>
    Effect.gen(function*() {
      const lan = "192.168.20.2"
      const wifi = "192.168.10.2"
      assert.strictEqual(yield* sourceTowards(addresses.portal), lan)
      yield* network.roam("wifi")
      assert.strictEqual(yield* sourceTowards(addresses.portal), wifi)
      assert.isTrue(yield* pings("client", addresses.portal))
      yield* network.roam("none")
      assert.strictEqual(yield* sourceTowards(addresses.portal), lan)
      yield* network.unplug("lan")
      assert.strictEqual(yield* sourceTowards(addresses.portal), wifi)
      assert.isTrue(yield* pings("client", addresses.portal))
      yield* network.plug("lan")
      assert.strictEqual(yield* sourceTowards(addresses.portal), lan)
      assert.isTrue(yield* pings("client", "2001:db8::2"))
    }))

  /**
   * The ports that two addresses of the Internet see one socket of the client come from, and whether a datagram from an
   * address that it never sent to came through. That one is sent before the answers, on the same way.
   */
  const classify = Effect.scoped(Effect.gen(function*() {
    const server = yield* network.daemon("inet", "observer", [
      process.execPath,
      "-e",
      `const bind = (address, port) => { const s = require("node:dgram").createSocket("udp4"); s.bind(port, address); return s }
      const stranger = bind("${addresses.dns4}", 4001)
      for (const address of ["${addresses.relay4}", "${addresses.secondRelay4}"]) {
        const s = bind(address, 4000)
        s.on("message", (m, { address, port }) =>
          stranger.send("stranger", port, address, () => s.send(String(port), port, address)))
        s.on("listening", () => console.log("ready"))
      }`
    ])
    while (server.log().split("ready").length < 3) yield* Effect.sleep(10)
    const { stdout } = yield* node(
      "client",
      `const s = require("node:dgram").createSocket("udp4")
      const ports = []; let stranger = false
      s.on("message", (m) => {
        if (String(m) === "stranger") { stranger = true; return }
        ports.push(Number(m))
        if (ports.length === 1) return s.send("b", 4000, "${addresses.secondRelay4}")
        console.log(JSON.stringify({ ports, stranger })); process.exit()
      })
      s.send("a", 4000, "${addresses.relay4}")`
    )
    const { ports, stranger } = JSON.parse(stdout) as { ports: [number, number]; stranger: boolean }
    return {
      mapping: ports[0] === ports[1] ? "independent" : "dependent",
      filtering: stranger ? "independent" : "dependent"
    }
  }))

  it.live("has NATs of three kinds", () =>
    Effect.gen(function*() {
      assert.deepStrictEqual(yield* classify, { mapping: "independent", filtering: "dependent" })
      yield* network.nat("natl", "symmetric")
      assert.deepStrictEqual(yield* classify, { mapping: "dependent", filtering: "dependent" })
      yield* network.nat("natl", "fullcone")
      assert.deepStrictEqual(yield* classify, { mapping: "independent", filtering: "independent" })
      yield* network.nat("natl", "home")
      assert.deepStrictEqual(yield* classify, { mapping: "independent", filtering: "dependent" })
    }))

  it.live("lets hosts behind two home NATs reach each other, whoever begins", () =>
    Effect.scoped(Effect.gen(function*() {
      const port = 52625
      const script = (other: string) =>
        `const s = require("node:dgram").createSocket("udp4").bind(${port})
        s.on("message", (m, { address, port }) => console.log(address + ":" + port))
        s.on("listening", () => setInterval(() => s.send("x", ${port}, "${other}"), 20))`
      const begins = yield* network.daemon("client", "begins", [process.execPath, "-e", script("203.0.113.30")])
      // Its first datagrams are at the other router before that one's host has sent any.
      yield* Effect.sleep(100).pipe(
        Effect.zipRight(network.must("natl", ["conntrack", "-L", "-p", "udp", "--dport", String(port)])),
        Effect.repeat({ until: ({ stdout }) => stdout.includes("[UNREPLIED]") })
      )
      const follows = yield* network.daemon("gw", "follows", [process.execPath, "-e", script("203.0.113.20")])
      while (follows.log() === "" || begins.log() === "") yield* Effect.sleep(20)
      assert.match(begins.log(), /^203\.0\.113\.30:52625\n/)
      assert.match(follows.log(), /^203\.0\.113\.20:52625\n/)
    })))

  /** Sends `count` datagrams to a port where nobody listens; the kernel of the other side counts those that arrive. */
  const arrivals = (address: string, count: number, port = 4002) =>
    Effect.gen(function*() {
      const counter = Effect.map(network.must("inet", ["cat", "/proc/net/snmp"]), ({ stdout }) => {
        const [names = [], values = []] = stdout.split("\n").filter((line) => line.startsWith("Udp:"))
          .map((line) => line.split(" "))
        return Number(values[names.indexOf("NoPorts")])
      })
      const before = yield* counter
      yield* node(
        "client",
        `const s = require("node:dgram").createSocket("udp4"); let left = ${count}
        for (let i = 0; i < ${count}; i++) s.send("x", ${port}, "${address}", () => { if (--left === 0) process.exit() })`
      )
      // Behind them on the same way.
      assert.isTrue(yield* pings("client", address))
      return (yield* counter) - before
    })

  it.live("has firewalls that block UDP", () =>
    Effect.gen(function*() {
      assert.strictEqual(yield* arrivals(addresses.dns4, 1), 1)
      yield* network.nat("natl", "udp-relay-only")
      assert.strictEqual(yield* arrivals(addresses.dns4, 1), 0)
      assert.strictEqual(yield* arrivals(addresses.relay4, 1), 1)
      yield* network.nat("natl", "udp-3478-only")
      assert.strictEqual(yield* arrivals(addresses.relay4, 1), 0)
      assert.strictEqual(yield* arrivals(addresses.dns4, 1, 3478), 1)
      yield* network.nat("natl", "udp-blocked")
      assert.strictEqual(yield* arrivals(addresses.relay4, 1), 0)
      yield* network.nat("natl", "home")
    }))

  it.live("loses the share of UDP that it is told to", () =>
    Effect.gen(function*() {
      yield* network.loss("natl", 50)
      const arrived = yield* arrivals(addresses.dns4, 200)
      assert.isTrue(arrived > 50 && arrived < 150, `${arrived} of 200 arrived`)
      yield* network.loss("natl", 0)
      assert.strictEqual(yield* arrivals(addresses.dns4, 20), 20)
    }))

  it.live("gives every host a name, files and a resolver of its own", () =>
    Effect.gen(function*() {
      assert.strictEqual((yield* network.must("gw", ["cat", "/proc/sys/kernel/hostname"])).stdout.trim(), "gw")
      yield* network.must("gw", ["sh", "-c", "echo changed > /etc/lab-test; echo changed > /run/lab-test"])
      assert.isFalse(fs.existsSync("/etc/lab-test") || fs.existsSync("/run/lab-test"))
      assert.notStrictEqual((yield* network.run("client", ["cat", "/etc/lab-test"])).code, 0)
      const { stdout } = yield* network.must("client", ["cat", "/etc/resolv.conf"])
      assert.strictEqual(stdout, `nameserver ${addresses.dns4}\n`)
    }))

  it.live("ends a command that takes too long, with what it started", () =>
    Effect.gen(function*() {
      const { code } = yield* network.run("client", ["sh", "-c", "sleep 4711 | cat"], { timeoutMillis: 200 })
      assert.strictEqual(code, 124)
      while (execFileSync("ps", ["-eo", "args"], { encoding: "utf8" }).includes("sleep 4711")) yield* Effect.sleep(10)
    }))

  it.live("does not let a second lab of the same name destroy the first", () =>
    Effect.gen(function*() {
      const error: LabError = yield* Effect.flip(topology.create(network.name))
      assert.include(error.message, "EEXIST")
      assert.isTrue(yield* pings("client", addresses.portal))
    }))

  it.live("removes labs of the dead, and nothing else", () =>
    Effect.gen(function*() {
      const owner = spawn("sleep", ["60"])
      const dead = nameFor(owner.pid ?? 0)
      // Beyond the largest pid that Linux gives.
      const link = "/tmp/fzlab4194306t1.lab"
      const elsewhere = fs.mkdtempSync("/tmp/topology-test-")
      const stranger = `fzlabother-${process.pid}`
      execFileSync("ip", ["netns", "add", stranger])
      const ours = execFileSync("ip", ["netns", "exec", stranger, "sh", "-c", "sleep 60 >/dev/null 2>&1 & echo $!"], {
        encoding: "utf8"
      })
      try {
        fs.symlinkSync(elsewhere, link)
        yield* topology.create(dead)
        const corpse = topology.attach(dead)
        yield* corpse.must("client", ["sh", "-c", "trap '' TERM; sleep 4712 >/dev/null 2>&1 &"])
        yield* removeLeftovers
        assert.isTrue(exists(dead), "its owner is alive")
        owner.kill("SIGKILL")
        yield* Effect.promise(() => once(owner, "exit"))
        yield* removeLeftovers
        assert.isFalse(exists(dead))
        assert.notInclude(execFileSync("ps", ["-eo", "args"], { encoding: "utf8" }), "sleep 4712")
        assert.isTrue(fs.existsSync(elsewhere))
        assert.doesNotThrow(() => process.kill(Number(ours), 0))
        assert.isTrue(yield* pings("client", addresses.portal), "the lab of the living is still there")
        const error = yield* Effect.flip(corpse.run("client", ["true"]))
        assert.include(error.message, "lab down")
      } finally {
        process.kill(Number(ours), "SIGKILL")
        execFileSync("ip", ["netns", "del", stranger])
        fs.rmSync(link, { force: true })
        fs.rmSync(elsewhere, { recursive: true })
      }
    }))

  it.live("leaves nothing", () =>
    Effect.gen(function*() {
      const other = nameFor(process.ppid)
      const links = () => execFileSync("ip", ["-o", "link"], { encoding: "utf8" })
      const before = links()
      yield* topology.create(other)
      assert.isTrue(exists(other))
      assert.strictEqual(links(), before)
      yield* remove(other)
      assert.isFalse(exists(other))
      assert.isFalse(fs.existsSync(`/tmp/${other}.lab`))
      assert.strictEqual(links(), before)
      assert.notInclude(execFileSync("ps", ["-eo", "args"], { encoding: "utf8" }), other)
    }))
})
