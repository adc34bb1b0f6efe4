/**
 * Odd packets and trains through the real client and gateway, both ways, between the kernels at both ends: what comes out
 * is compared byte by byte with what the kernel itself makes of the same packets, which no code of ours has seen.
 */
import { assert, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as fs from "node:fs"
import { namespaceFile } from "../../src/lab/labs.ts"
import { statusOf, TUN, tunAddresses } from "../../src/lab/scenarios/checks.ts"
import * as services from "../../src/lab/services.ts"
import * as topology from "../../src/lab/topology.ts"
import { ip, ipToBytes } from "../../src/protocol/wire/address.ts"
import { executable } from "../support/executable.ts"
import { describeWith } from "../support/requires.ts"
import { type Addresses, forwarded, marked, type OddPackets, oddPackets } from "./oddPackets.ts"
import { openInjector, openPlainTun, type PlainTun } from "./packetLinks.ts"

/** Networks behind the gateway where there is nobody: the gateway's host forwards to a device of this test's. */
const FAR = { 4: "10.55.0.0/16", 6: "fd55::/64" } as const
const SITE = services.ids.site

const resources = ([4, 6] as const).map((family) => ({
  type: "cidr" as const,
  id: family === 4 ? services.ids.cidr4 : services.ids.cidr6,
  name: `far ${family}`,
  address: FAR[family],
  address_description: null,
  sites: [SITE],
  filters: []
}))

const farAddress = (version: 4 | 6, number: number): Uint8Array =>
  ipToBytes(ip(version === 4 ? `10.55.${number >> 8}.${number & 255}` : `fd55::${number.toString(16)}`))

const hex = (bytes: Uint8Array): string => Buffer.from(bytes).toString("hex")

/** Which case a packet belongs to, by its address at the far end. */
const caseOf = (packet: Uint8Array, downwards: boolean): string => {
  const v6 = (packet[0] ?? 0) >> 4 === 6
  const at = v6 ? downwards ? 8 : 24 : downwards ? 12 : 16
  return hex(packet.subarray(at, at + (v6 ? 16 : 4)))
}

const group = (packets: ReadonlyArray<Uint8Array>, downwards: boolean): Map<string, ReadonlyArray<string>> => {
  const groups = new Map<string, ReadonlyArray<string>>()
  for (const packet of packets) {
    const key = caseOf(packet, downwards)
    groups.set(key, [...(groups.get(key) ?? []), hex(packet)])
  }
  return groups
}

/** Reads until the case `last` has come, which was sent last, and a moment more for what it may have overtaken. */
const collect = (device: PlainTun, last: string, downwards: boolean): Effect.Effect<ReadonlyArray<Uint8Array>> =>
  Effect.gen(function*() {
    const packets: Array<Uint8Array> = []
    for (const deadline = Date.now() + 20_000; Date.now() < deadline;) {
      packets.push(...device.received())
      if (packets.some((packet) => caseOf(packet, downwards) === last)) break
      yield* Effect.sleep(10)
    }
    yield* Effect.sleep(100)
    return [...packets, ...device.received()]
  })

/** Sets the client's host up so that what comes out of the tunnel for its own addresses is forwarded to `near`. */
const forwardOwn = (network: topology.Topology, near: PlainTun, own: ReadonlyArray<string>) =>
  network.must("client", [
    "sh",
    "-c",
    `set -e
echo 1 > /proc/sys/net/ipv4/ip_forward
echo 1 > /proc/sys/net/ipv6/conf/all/forwarding
for family in 4 6; do
  ip -$family rule add pref 2 lookup local
  ip -$family rule add pref 1 iif ${TUN} lookup 77
  ip -$family rule del pref 0
done
${own.map((address) => `ip route add ${address} dev ${near.name} table 77`).join("\n")}`
  ])

interface Setting {
  readonly args?: ReadonlyArray<string>
  readonly relayed?: boolean
}

const build = ({ args = [], relayed = false }: Setting) =>
  Effect.gen(function*() {
    if (!fs.existsSync(executable)) throw new Error(`${executable} is not built: npm run build`)
    const network = yield* topology.scoped
    if (relayed) { for (const router of ["natw", "natl"] as const) yield* network.nat(router, "udp-relay-only") }
    const lab = yield* services.start(network, { executable, resources })
    const client = yield* lab.startClient({ args })
    const own = yield* tunAddresses(lab)
    if (own === undefined) throw new Error(client.log())
    const hosts = {
      client: namespaceFile(network.name, "client"),
      gateway: namespaceFile(network.name, "gw")
    }
    const device = (namespace: string, name: string) =>
      Effect.acquireRelease(Effect.sync(() => openPlainTun(namespace, name)), (tun) => Effect.sync(tun.close))
    const injector = (namespace: string, name: string) =>
      Effect.acquireRelease(Effect.sync(() => openInjector(namespace, name)), (opened) => Effect.sync(opened.close))
    const far = yield* device(hosts.gateway, "far0")
    yield* network.must("gw", ["sh", "-c", `ip route add ${FAR[4]} dev far0; ip route add ${FAR[6]} dev far0`])
    // What remembers connections takes off the fragment headers of whole packets; here it has nothing to do.
    yield* network.must("gw", ["nft", "-f", "-"], {
      input: `table inet untracked {
  chain prerouting { type filter hook prerouting priority -450; iifname "${TUN}" notrack; }
}
`
    })
    const near = yield* device(hosts.client, "near0")
    yield* forwardOwn(network, near, own)
    const reference = yield* device(hosts.client, "ref0")
    const ends = {
      up: { in: yield* injector(hosts.client, TUN), out: far },
      down: { in: yield* injector(hosts.gateway, TUN), out: near }
    }
    const kernel = { in: yield* injector(hosts.client, "ref0"), out: reference }
    const bytesOf = (version: 4 | 6) =>
      ipToBytes(ip((own.find((text) => text.includes(":") === (version === 6)) ?? "").split("/")[0] ?? ""))
    let number = 0
    const addresses = (version: 4 | 6, downwards: boolean) => (): Addresses => {
      number += 1
      const [own, other] = [bytesOf(version), farAddress(version, number)]
      return downwards ? { source: other, destination: own } : { source: own, destination: other }
    }

    /** Sends the cases into the tunnel and to the kernel alone, and compares what comes out; `also` is on the way. */
    const compare = (direction: "up" | "down", also: (packet: Uint8Array) => Uint8Array = (packet) => packet) =>
      Effect.gen(function*() {
        const downwards = direction === "down"
        const { in: into, out } = ends[direction]
        const cases: ReadonlyArray<OddPackets> = ([4, 6] as const).flatMap((version) =>
          oddPackets(version, addresses(version, downwards), downwards)
        )
        const last = { ...oddPackets(4, addresses(4, downwards), downwards)[0] as OddPackets, name: "the last" }
        out.received()
        for (const { frames } of [...cases, last]) {
          for (const frame of frames) {
            kernel.in.send(frame)
            into.send(frame)
          }
        }
        const key = caseOf(last.frames[0]?.bytes ?? new Uint8Array(0), downwards)
        const arrived = group(yield* collect(out, key, downwards), downwards)
        const expected = yield* collect(kernel.out, key, downwards)
        const wanted = group(expected.map((packet) => also(forwarded(packet))), downwards)
        const differing = [...cases, last].flatMap(({ frames, name, passes }) => {
          const of = caseOf(frames[0]?.bytes ?? new Uint8Array(0), downwards)
          const [got, want] = [arrived.get(of) ?? [], passes ? wanted.get(of) ?? [] : []]
          if (passes) assert.isAtLeast(want.length, frames.length, name) // the kernel took it
          return JSON.stringify(got) === JSON.stringify(want) ? [] : [{ name, got, want }]
        })
        assert.deepStrictEqual(differing, [], direction)
        return cases.length
      })

    // The first packets make the connection, and wait for it.
    for (const version of [4, 6] as const) {
      const [first] = oddPackets(version, addresses(version, false), false)
      for (const frame of first?.frames ?? []) {
        ends.up.in.send(frame)
        yield* collect(far, caseOf(frame.bytes, false), false)
      }
    }
    return { lab, network, compare }
  })

const programs = ["ip", "nft", "conntrack", "nsenter", "unshare", "mount"]

describeWith({ root: true, programs }, "odd packets through the tunnel", () => {
  it.scopedLive.each([
    { name: "with offloads", offloads: "tso,uso,coalesce", kind: "direct" },
    { name: "without offloads", args: ["--no-offloads"], offloads: "none", kind: "direct" },
    { name: "through a relay", relayed: true, offloads: "tso,uso,coalesce", kind: "relayed" }
  ])(
    "come out as they went in, or not at all, both ways, $name",
    ({ kind, offloads, ...setting }) =>
      Effect.gen(function*() {
        const { compare, lab } = yield* build(setting)
        assert.isAbove(yield* compare("up"), 100)
        assert.isAbove(yield* compare("down"), 100)
        const { peers, tun } = yield* statusOf(lab)
        assert.strictEqual(tun.offloads, offloads)
        assert.match(peers[0]?.path?.kind ?? "", new RegExp(`^${kind}`))
      }),
    120_000
  )

  it.scopedLive("carry the mark of congestion that their datagrams got on the way", () =>
    Effect.gen(function*() {
      const { compare, network } = yield* build({})
      for (const router of ["natl", "natg"] as const) {
        yield* network.must(router, ["nft", "-f", "-"], {
          input: `table inet congested {
  chain forward { type filter hook forward priority mangle;
    meta l4proto udp ip ecn set ce
    meta l4proto udp ip6 ecn set ce
  }
}
`
        })
      }
      yield* compare("up", marked)
      yield* compare("down", marked)
    }), 120_000)
})
