/** The full tunnel: everything but private networks goes through a gateway, and the client itself stays outside. */
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import * as dnsmasq from "../dnsmasq.ts"
import type { LabError } from "../LabError.ts"
import type { ResourceConfig } from "../portal/config.ts"
import type { Daemon } from "../processes.ts"
import { eventually, type Recorder, type Scenario } from "../scenario.ts"
import { ids, type Lab } from "../services.ts"
import { addresses, type Topology } from "../topology.ts"
import * as traffic from "../traffic.ts"
import { bringUp, download, fetchPage, noViolations, ping, statusOf, TUN, tunPackets, visitor } from "./checks.ts"
import { asking, is } from "./dns.ts"

const FILE_BYTES = 10_000_000
/** What headers and acknowledgements may add; what goes round in a loop is there twice and more often. */
const OVERHEAD = 1.3
/** Of the client's home network: what is linked needs no tunnel. */
const LINKED = ["192.168.20.1", "2001:db8:20::1"]
const QUICK_MILLIS = 2000

const internetResource: ResourceConfig = {
  type: "internet",
  id: "55555555-5555-4555-8555-555555555555",
  sites: [ids.site]
}

const siteNetwork: ResourceConfig = {
  type: "cidr",
  id: ids.cidr6,
  name: "Lab network (IPv6)",
  address: addresses.resourceNetwork6,
  sites: [ids.site],
  filters: []
}

/** Tells what leaves the client's host for the Internet apart, on its router. */
const uplinkRules = `table inet uplink {
  counter portal { }
  counter peers { }
  counter others { }
  chain leaving { type filter hook forward priority filter; policy accept;
    iifname lan0 ip daddr ${addresses.portal} tcp dport ${addresses.portalPort} counter name portal accept
    iifname lan0 ip daddr { ${addresses.relay4}, ${addresses.gatewayRouter4}, ${addresses.gateway4} } meta l4proto udp counter name peers accept
    iifname lan0 ip6 daddr { ${addresses.relay6}, ${addresses.gateway6} } meta l4proto udp counter name peers accept
    iifname lan0 counter name others
  }
}
`

const leaving = (topology: Topology) =>
  Effect.map(topology.must("natl", ["nft", "-j", "list", "counters", "table", "inet", "uplink"]), ({ stdout }) => {
    const { nftables } = JSON.parse(stdout) as {
      nftables: ReadonlyArray<{ counter?: { name: string; packets: number } }>
    }
    const packets = (name: string): number =>
      nftables.find(({ counter }) => counter?.name === name)?.counter?.packets ?? 0
    return { portal: packets("portal"), peers: packets("peers"), others: packets("others") }
  })

const comesFrom = (lab: Lab, recorder: Recorder, name: string, address: string, expected: string) =>
  Effect.gen(function*() {
    const seen = yield* visitor(lab, address)
    yield* recorder.check(name, seen === expected, `the web server at ${address} was visited by ${seen}`)
  })

/** The account's server is on the Internet: queries go the way of everything else (tunnel spec 12.11). */
const isAskedBy = (lab: Lab, recorder: Recorder, server: Daemon, name: string, expected: string) =>
  Effect.gen(function*() {
    yield* asking(lab, recorder)(`A of ${name}`, [name, "A"], is("NOERROR", "203.0.113.2"))
    const from = server.log().split(`query[A] ${name} from `)[1]?.split("\n")[0]
    yield* recorder.check("asked by", from === expected, `the server on the Internet was asked for ${name} by ${from}`)
  })

const goesThrough = (lab: Lab, recorder: Recorder) =>
  Effect.gen(function*() {
    const { topology } = lab
    yield* comesFrom(lab, recorder, "through the gateway", addresses.dns4, addresses.gatewayRouter4)
    yield* comesFrom(lab, recorder, "through the gateway, IPv6", addresses.dns6, addresses.gateway6)
    // The portal's host is no exception for anybody but the client.
    yield* comesFrom(lab, recorder, "so does the portal's web server", addresses.portal, addresses.gatewayRouter4)
    const [{ detail, right }, { direct, relays }] = yield* traffic.during(
      topology,
      download(lab, addresses.dns4, FILE_BYTES)
    )
    yield* recorder.check(`${FILE_BYTES / 1e6} MB from ${addresses.dns4}`, right, detail)
    // The first of it may go over a relay, while the direct path is looked for.
    const relayed = relays[0].bytes + relays[1].bytes
    const total = direct.bytes + relayed
    yield* recorder.check(
      "once",
      total >= FILE_BYTES && total <= FILE_BYTES * OVERHEAD,
      `${direct.bytes} bytes of data between client and gateway, ${relayed} to relays`
    )
    yield* fetchPage(lab, recorder, addresses.resource6)
  })

/** The client's connection to the portal is cut: it has to come back without the tunnel, which would carry it too. */
const staysOutside = (lab: Lab, recorder: Recorder) =>
  Effect.gen(function*() {
    yield* lab.portal.command("/drop", { how: "abrupt", target: "client" })
    const back = yield* eventually(
      Effect.map(lab.portal.state, ({ clients: [client] }) =>
        client?.connected === true && client.connects > 1 && client.remoteAddress),
      10_000
    )
    yield* recorder.check(
      "the client's own connection stays outside",
      back?.endsWith(addresses.clientRouter4) === true,
      back === undefined ? "no new one within 10 s" : `the new one comes from ${back}`
    )
    const { others, peers, portal } = yield* leaving(lab.topology)
    yield* recorder.check(
      "nothing else on the uplink",
      others === 0 && peers > 0 && portal > 0,
      `${portal} packets to the portal, ${peers} to relay and gateway, ${others} to anybody else`
    )
  })

const privateNetworks = (lab: Lab, recorder: Recorder) =>
  Effect.gen(function*() {
    for (
      const [address, words] of [
        [addresses.resource4, /Destination Net Unreachable/],
        ["fd20:1::2", /Destination unreachable: Address unreachable/]
      ] as const
    ) {
      const began = Date.now()
      const { code, stdout } = yield* lab.topology.run("client", ["ping", "-n", "-c", "1", "-W", "10", address])
      yield* recorder.check(
        `${address} is private`,
        code !== 0 && words.test(stdout) && Date.now() - began < QUICK_MILLIS,
        stdout.split("\n")[1] || "no word of it"
      )
    }
    const before = yield* tunPackets(lab)
    for (const address of LINKED) {
      const times = yield* ping(lab, address, 2)
      yield* recorder.check(`local network, ${address}`, times.length === 2, `${times.length} of 2 answers`)
    }
    const entered = (yield* tunPackets(lab)).tx - before.tx
    yield* recorder.check("is not tunnelled", entered === 0, `${entered} packets entered the tunnel device`)
  })

const run = (lab: Lab, recorder: Recorder): Effect.Effect<void, LabError, Scope.Scope> =>
  Effect.gen(function*() {
    const { topology } = lab
    yield* traffic.observe(topology)
    const server = yield* dnsmasq.start(topology, "inet", ["host-record=one.example,two.example,203.0.113.2"])
    yield* comesFrom(lab, recorder, "without the client", addresses.dns4, addresses.clientRouter4)
    yield* topology.must("natl", ["nft", "-f", "-"], { input: uplinkRules })
    yield* bringUp(lab, recorder, { args: ["--activate-internet-resource"] })
    yield* goesThrough(lab, recorder)
    yield* isAskedBy(lab, recorder, server, "one.example", addresses.gatewayRouter4)
    yield* staysOutside(lab, recorder)
    yield* privateNetworks(lab, recorder)

    yield* lab.portal.command("/resources/delete", { id: internetResource.id })
    // A connection that was begun a moment too early would keep its source address, and fail.
    const hasLeft = Effect.map(
      topology.must("client", ["ip", "route", "get", addresses.dns4]),
      ({ stdout }) => !stdout.includes(TUN)
    )
    yield* recorder.check("deleted", (yield* eventually(hasLeft, 2000)) === true, "the tunnel has no default route")
    yield* comesFrom(lab, recorder, "its own way again", addresses.dns4, addresses.clientRouter4)
    yield* comesFrom(lab, recorder, "its own way again, IPv6", addresses.dns6, addresses.client6)
    yield* isAskedBy(lab, recorder, server, "two.example", addresses.clientRouter4)
    yield* lab.portal.command("/resources/put", internetResource)
    const offered = yield* eventually(
      Effect.map(statusOf(lab), (status) => status.resources.some(({ type }) => type === "internet") && status),
      2000
    )
    // As long as nobody switches it on again (tunnel spec 5.3).
    yield* recorder.check("created again", offered?.internetResourceActive === false, "it is there, and not active")
    yield* comesFrom(lab, recorder, "still its own way", addresses.dns4, addresses.clientRouter4)
    yield* fetchPage(lab, recorder, addresses.resource6)
    yield* noViolations(lab, recorder)
  })

export const internet: Scenario = {
  name: "internet",
  about: "everything goes through the gateway, but private networks, the local one, and what the client itself sends",
  equipment: {
    publicWeb: true,
    resources: [siteNetwork, internetResource],
    dns: { upstreamDo53: [addresses.dns4] }
  },
  run
}
