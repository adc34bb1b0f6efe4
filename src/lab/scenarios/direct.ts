/** The first scenarios: sign in, connect, fetch what only exists behind the gateway, over every kind of path. */
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import type { LabError } from "../LabError.ts"
import { eventually, type Recorder, type Scenario } from "../scenario.ts"
import type { Lab } from "../services.ts"
import { addresses } from "../topology.ts"
import { bringUp, download, fetchPage, ping, TUN, tunPackets } from "./checks.ts"

/** How packets are to travel between client and gateway. */
type Way = "ipv4" | "ipv6" | "relayed"

const FILE_BYTES = 50_000_000

/** Sends numbered datagrams from the client's host and counts the echoes. */
const echoScript = (address: string, count: number, size: number): string => `
const dgram = require("node:dgram")
const socket = dgram.createSocket("${address.includes(":") ? "udp6" : "udp4"}")
const seen = new Set()
const done = () => { console.log(seen.size); process.exit(seen.size === ${count} ? 0 : 1) }
socket.on("message", (m) => { if (m.length === ${size}) seen.add(m.readUInt32BE(0)); if (seen.size === ${count}) done() })
let n = 0
const timer = setInterval(() => {
  if (n === ${count}) return clearInterval(timer)
  const m = Buffer.alloc(${size}, n); m.writeUInt32BE(n++, 0); socket.send(m, 7, "${address}")
}, 2)
setTimeout(done, 8000)`

export const udpEcho = (lab: Lab, recorder: Recorder, address: string) =>
  Effect.gen(function*() {
    const count = 100
    const { code, stdout } = yield* lab.topology.run("client", [
      process.execPath,
      "-e",
      echoScript(address, count, 1200)
    ])
    yield* recorder.check(
      `UDP echo from ${address}`,
      code === 0,
      `${stdout.trim()} of ${count} datagrams of 1200 bytes`
    )
  })

/** Ends the client with SIGTERM and looks for what it left behind. */
const stop = (
  lab: Lab,
  recorder: Recorder,
  client: {
    readonly signal: (name: NodeJS.Signals) => void
    readonly exit: Effect.Effect<number>
    readonly log: () => string
  }
) =>
  Effect.gen(function*() {
    const began = Date.now()
    client.signal("SIGTERM")
    const code = yield* Effect.timeoutTo(client.exit, {
      duration: "10 seconds",
      onSuccess: (code): number | undefined => code,
      onTimeout: () => undefined
    })
    const millis = Date.now() - began
    yield* recorder.check(
      "SIGTERM ends the client",
      code === 0 && millis <= 2000,
      code === undefined ? "still running after 10 s" : `exit code ${code} after ${millis} ms`
    )
    const goodbye = yield* eventually(
      Effect.map(lab.gateway.state, (state) => state.peers.length === 0),
      2000
    )
    yield* recorder.check(
      "goodbye reached the gateway",
      goodbye === true,
      goodbye === true ? "it forgot the client" : "it still knows the client"
    )
    const link = yield* lab.topology.run("client", ["ip", "link", "show", TUN])
    const rules = yield* lab.topology.must("client", ["sh", "-c", "ip rule; ip -6 rule"])
    const routes = yield* lab.topology.must("client", [
      "sh",
      "-c",
      "ip route show table all; ip -6 route show table all"
    ])
    const left = [
      ...(link.code === 0 ? [TUN] : []),
      ...rules.stdout.split("\n").filter((line) => /^(100|200|300):/.test(line)),
      ...routes.stdout.split("\n").filter((line) => /table 5390983(68|69|70)/.test(line))
    ]
    yield* recorder.check(
      "nothing left behind",
      left.length === 0,
      left.length === 0 ? "no device, rule or route" : left.join("; ")
    )
  })

/** Source and destination of the datagrams of a direct path, as the gateway's router knows them. */
const ends = {
  ipv4: [addresses.gateway4, addresses.clientRouter4],
  ipv6: [addresses.gateway6, addresses.client6]
} as const

/**
 * The path that the gateway uses, if it is of the kind that it should be. A direct one has to be known to the kernel of the
 * router that it passes through; what the relay carried says the rest.
 */
const expectedPath = (lab: Lab, way: Way): Effect.Effect<string | undefined, LabError> =>
  Effect.gen(function*() {
    const path = (yield* lab.gateway.state).peers[0]?.path
    if (path === undefined || (path.kind === "direct") !== (way !== "relayed")) return undefined
    const text = `${path.local} <-> ${path.remote}`
    if (way === "relayed") return text
    const [from, to] = ends[way]
    const { stdout } = yield* lab.topology.must("natg", ["conntrack", "-L", "-f", way, "-p", "udp"])
    return stdout.split("\n").some((flow) => flow.includes(`src=${from} dst=${to} `) && flow.includes("[ASSURED]"))
      ? `${text}, and the gateway's router has seen packets both ways`
      : undefined
  })

const run = (way: Way) => (lab: Lab, recorder: Recorder): Effect.Effect<void, LabError, Scope.Scope> =>
  Effect.gen(function*() {
    const { topology } = lab
    const before = yield* topology.run("client", ["ping", "-c", "1", "-W", "1", addresses.resource4])
    yield* recorder.check("without the client", before.code !== 0, "the resource is out of reach")
    const client = yield* bringUp(lab, recorder)

    const began = Date.now()
    const [first] = yield* ping(lab, addresses.resource4, 1)
    const connected = (yield* lab.gateway.state).peers.some((peer) => peer.state !== "connecting")
    yield* recorder.check(
      "gateway connected",
      first !== undefined && connected,
      first === undefined
        ? `no answer to the first ping\n${client.log().slice(-1500)}`
        : `the first ping, sent before there was a connection, came back after ${Date.now() - began} ms`
    )
    for (const address of [addresses.resource4, addresses.resource6]) {
      const times = yield* ping(lab, address, 5)
      const average = times.reduce((sum, time) => sum + time, 0) / times.length
      yield* recorder.check(
        `ping ${address}`,
        times.length === 5,
        times.length === 0 ? "no answer" : `${times.length} of 5, round trip ${average.toFixed(2)} ms`
      )
    }
    const path = yield* eventually(expectedPath(lab, way), 10_000)
    yield* recorder.check(
      way === "relayed" ? "relayed path" : "direct path",
      path !== undefined,
      path ?? "the gateway does not use one, or its router has not seen packets both ways"
    )
    yield* fetchPage(lab, recorder, addresses.resource4)
    yield* fetchPage(lab, recorder, addresses.resource6)
    for (const address of [addresses.resource4, addresses.resource6]) {
      const relayedBefore = (yield* lab.relay.state).relayedBytes
      const { right, detail } = yield* download(lab, address, FILE_BYTES)
      yield* recorder.check(`${FILE_BYTES / 1e6} MB from ${address}`, right, detail)
      const relayed = (yield* lab.relay.state).relayedBytes - relayedBefore
      yield* way === "relayed"
        ? recorder.check("through the relay", relayed >= FILE_BYTES, `it carried ${relayed} bytes`)
        : recorder.check("without the relay", relayed < FILE_BYTES / 1000, `it carried ${relayed} bytes of them`)
    }
    yield* udpEcho(lab, recorder, addresses.resource4)
    yield* udpEcho(lab, recorder, addresses.resource6)

    const packets = yield* tunPackets(lab)
    const [answer] = yield* ping(lab, addresses.dns4, 1)
    const entered = (yield* tunPackets(lab)).tx - packets.tx
    yield* recorder.check(
      "other traffic stays outside",
      answer !== undefined && entered === 0,
      answer === undefined
        ? "a host that is no resource does not answer any more"
        : `ping to ${addresses.dns4} answered, ${entered} packets of it entered the tunnel device`
    )
    yield* stop(lab, recorder, client)
  })

const what = "sign in, connect, ping, fetch, download and stop, for resources of IPv4 and IPv6"

export const direct: Scenario = {
  name: "direct",
  about: `both sides behind home NATs: ${what}`,
  // With IPv6 outside there would be no address translation on the way.
  prepare: (topology) => Effect.asVoid(topology.must("gw", ["ip", "-6", "route", "delete", "default"])),
  run: run("ipv4")
}

export const directIpv6: Scenario = {
  name: "direct-ipv6",
  about: `both sides have IPv6 behind firewalls: ${what}`,
  run: run("ipv6")
}

export const relayed: Scenario = {
  name: "relayed",
  about: `both sides behind firewalls that let UDP pass to relays only: ${what}`,
  prepare: (topology) =>
    Effect.forEach(["natw", "natl", "natg"] as const, (router) => topology.nat(router, "udp-relay-only"), {
      discard: true
    }),
  run: run("relayed")
}
