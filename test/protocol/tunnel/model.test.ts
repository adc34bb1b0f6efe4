/**
 * One client, three gateways in two sites and a portal, against a model of what has to become of each packet: the probes
 * and the routing model of tunnel spec 20.1 and 20.2, as far as CIDR and Internet resources go.
 */
import * as fc from "fast-check"
import { expect, it } from "vitest"
import type { CidrResource, GatewayResource, Resource } from "../../../src/protocol/portal/types.ts"
import { makeControlPacket } from "../../../src/protocol/tunnel/controlPacket.ts"
import { PortFilter } from "../../../src/protocol/tunnel/PortFilter.ts"
import { ip, networkContains } from "../../../src/protocol/wire/address.ts"
import { IcmpError, parseIcmpError } from "../../../src/protocol/wire/icmp.ts"
import { PacketKind, sourceOffset } from "../../../src/protocol/wire/ip.ts"
import { setDestination, setSource } from "../../../src/protocol/wire/ipEdit.ts"
import { ClientHarness, via } from "./client.ts"
import {
  cidr,
  CLIENT_4,
  CLIENT_6,
  gateway,
  grant,
  init,
  internet,
  site1,
  site2,
  tcpPort,
  udpPort,
  uuid
} from "./fixtures.ts"
import { type GatewayHarness, gatewayWith } from "./gateway.ts"
import { icmpError, parsed, ping, tcp, udp } from "./packets.ts"

const client = { id: uuid(0xc1), ipv4: CLIENT_4, ipv6: CLIENT_6 }
const gateways = [gateway(1, site1.id), gateway(2, site1.id), gateway(3, site2.id)] as const
const INTERNET = internet(9)

interface Host {
  readonly harness: GatewayHarness
  /** What came out of its TUN device. */
  readonly arrived: Array<Uint8Array>
}

/** The machines, and all that carries messages between them at once. */
class Network {
  readonly client = new ClientHarness()
  readonly hosts = new Map<string, Host>()
  /** What came out of the client's TUN device. */
  readonly received: Array<Uint8Array> = []
  readonly resources = new Map<string, Resource>()
  isInternetOn = false
  #goodbyes = 0
  #isPortalUp = true

  constructor(resources: ReadonlyArray<Resource>) {
    for (const each of resources) this.resources.set(each.id, each)
    for (const each of gateways) this.hosts.set(each.id, { harness: gatewayWith(each), arrived: [] })
    this.init()
  }

  init(): void {
    this.client.push(init([...this.resources.values()]))
    this.settle()
  }

  setPortal(isUp: boolean): void {
    this.#isPortalUp = isUp
    if (isUp) {
      this.client.core.portalConnected(this.client.now)
      this.init()
    } else this.client.core.portalDisconnected(this.client.now)
  }

  send(packet: Uint8Array): void {
    const sent = this.client.route(packet)
    if (sent !== undefined) this.#deliver(sent.peer, sent.bytes)
    this.settle()
  }

  /** What has become of the packet. */
  observe(): Observation {
    const arrived = [...this.hosts].flatMap(([id, host]) => host.arrived.splice(0).map((bytes) => ({ id, bytes })))
    const received = this.received.splice(0)
    const isError = received.some((bytes) => parseIcmpError(parsed(bytes), new IcmpError()))
    return {
      outcome: arrived.length > 0 ? "round trip" : isError ? "rejected" : "dropped",
      arrived: arrived.map(({ bytes }) => bytes),
      received,
      site: gateways.find(({ id }) => id === arrived[0]?.id)?.site
    }
  }

  /** What a portal does about gateways when a resource goes away or changes. */
  revoke(resourceId: string): void {
    for (const [id, { harness }] of this.hosts) {
      const before = harness.node.goodbyes.length
      harness.push({ _tag: "RejectAccess", clientId: client.id, resourceId })
      harness.events()
      if (harness.node.goodbyes.length === before) continue
      this.client.fromPeer(id, makeControlPacket({ _tag: "Goodbye" }))
      harness.sent()
    }
  }

  /** Lets requests, packets and goodbyes run until nothing moves. */
  settle(): void {
    for (let moves = 1; moves > 0;) {
      moves = 0
      for (const request of this.client.requests()) {
        if (request._tag !== "RequestAuthorization" || !this.#isPortalUp) continue
        this.#authorize(request.resourceId, request.connectedGatewayIds)
        moves += 1
      }
      for (const { bytes, peer } of this.client.deliveries()) {
        this.#deliver(peer, bytes)
        moves += 1
      }
      this.received.push(...this.client.toTun())
      for (const peer of this.client.node.goodbyes.slice(this.#goodbyes)) {
        this.hosts.get(peer)?.harness.fromPeer(client.id, makeControlPacket({ _tag: "Goodbye" }))
        this.#goodbyes += 1
        moves += 1
      }
    }
  }

  #authorize(id: string, preferred: ReadonlyArray<string>): void {
    const resource = this.resources.get(id)
    if (resource?.type !== "cidr" && resource?.type !== "internet") throw new Error(`asked for ${id}`)
    const inSite = gateways.filter(({ site }) => site === resource.sites[0]?.id)
    const chosen = inSite.find(({ id }) => preferred.includes(id)) ?? inSite[0]
    const host = chosen === undefined ? undefined : this.hosts.get(chosen.id)
    if (chosen === undefined || host === undefined) throw new Error(`no gateway for ${id}`)
    host.harness.grant(client, forGateway(resource))
    if (host.harness.requests()[0]?._tag !== "AuthorizationConfirmed") throw new Error("not confirmed")
    this.client.push(grant(id, chosen))
    for (const [{ node }, peer] of [[host.harness, client.id], [this.client, chosen.id]] as const) {
      if (!node.isEstablished(peer)) node.establish(peer)
    }
    host.harness.nudge()
    this.client.nudge()
  }

  /** A packet that the client sent; what answers comes back the same way. */
  #deliver(peer: string, bytes: Uint8Array): void {
    const host = this.hosts.get(peer)
    if (host === undefined) throw new Error(`sent to ${peer}`)
    const passed = host.harness.fromPeer(client.id, bytes)
    if (passed !== undefined) {
      host.arrived.push(passed)
      this.#toClient(peer, host.harness.fromTun(reply(passed)))
    }
    for (const answer of host.harness.sent()) this.#toClient(peer, answer)
  }

  #toClient(peer: string, bytes: Uint8Array | undefined): void {
    const packet = bytes === undefined ? undefined : this.client.fromPeer(peer, bytes)
    if (packet !== undefined) this.received.push(packet)
  }
}

const forGateway = (resource: Resource): GatewayResource => {
  if (resource.type === "internet") return { type: "internet", id: resource.id }
  if (resource.type !== "cidr") throw new Error("not for a gateway")
  const { address, filters, id, name } = resource
  return { type: "cidr", address, filters, id, name }
}

/** What the host at the destination answers: the same bytes the other way round. */
const reply = (packet: Uint8Array): Uint8Array => {
  const answer = packet.slice()
  const view = parsed(answer)
  const size = view.version === 4 ? 4 : 16
  const at = sourceOffset(view)
  setSource(view, packet.subarray(at + size, at + 2 * size))
  setDestination(view, packet.subarray(at, at + size))
  if (view.kind !== PacketKind.Echo) {
    answer.set(packet.subarray(view.transport + 2, view.transport + 4), view.transport)
    answer.set(packet.subarray(view.transport, view.transport + 2), view.transport + 2)
  } else answer[view.transport] = view.version === 4 ? 0 : 129
  return answer
}

/** What is seen of a packet after all. */
interface Observation {
  readonly outcome: "dropped" | "rejected" | "round trip"
  /** At TUN devices of gateways. */
  readonly arrived: ReadonlyArray<Uint8Array>
  /** At the client's. */
  readonly received: ReadonlyArray<Uint8Array>
  /** Of the gateway that it arrived at. */
  readonly site: string | undefined
}
const dropped: Observation = { outcome: "dropped", arrived: [], received: [], site: undefined }
const rejected = (error: Uint8Array): Observation => ({ ...dropped, outcome: "rejected", received: [error] })
const roundTrip = (packet: Uint8Array, site: string | undefined): Observation => ({
  outcome: "round trip",
  arrived: [packet],
  received: [reply(packet)],
  site
})

/** R1 to R9 for a packet of the client. */
const expected = (network: Network, to: string, packet: Uint8Array): Observation => {
  const { destinationPort, kind } = parsed(packet)
  const self = gateways.find(({ ipv4, ipv6 }) => ipv4 === to || ipv6 === to)
  if (to === "224.0.0.1") return dropped
  if (self !== undefined) {
    return network.client.node.isEstablished(self.id) ? roundTrip(packet, self.site) : dropped
  }
  const candidates = [...network.resources.values()].filter((each): each is CidrResource =>
    each.type === "cidr" && networkContains(each.address, ip(to))
  ).map((each) => ({ each, permits: new PortFilter(each.filters).permits(kind, destinationPort) }))
  candidates.sort((a, b) =>
    Number(b.permits) - Number(a.permits) || b.each.address.bits - a.each.address.bits ||
    (a.each.id < b.each.id ? 1 : -1)
  )
  const [best] = candidates
  if (best !== undefined) {
    return best.permits ? roundTrip(packet, best.each.sites[0]?.id) : rejected(icmpError(packet))
  }
  if (to.startsWith("100.64.") || !network.isInternetOn || !network.resources.has(INTERNET.id)) return dropped
  return to.startsWith("10.") || to.startsWith("fc00:")
    ? rejected(icmpError(packet, "unreachable-net"))
    : roundTrip(packet, site2.id)
}

const destinations = [
  "10.1.2.3",
  "10.1.9.9",
  "10.9.9.9",
  "192.0.2.1",
  "198.51.100.1",
  "2001:db8::1",
  "2001:db8:1::1",
  "fc00::1",
  "100.64.0.77",
  "224.0.0.1",
  gateways[0].ipv4,
  gateways[2].ipv6
]
const resource: fc.Arbitrary<Resource> = fc.oneof(
  {
    weight: 6,
    arbitrary: fc.tuple(
      fc.integer({ min: 1, max: 5 }),
      fc.constantFrom("10.0.0.0/8", "10.1.0.0/16", "10.1.2.0/24", "192.0.2.0/24", "2001:db8::/32", "2001:db8:1::/48"),
      fc.constantFrom(site1, site2),
      fc.constantFrom([], [tcpPort(443)], [udpPort(5000), tcpPort(80)], [{ protocol: "icmp" } as const]),
      fc.constantFrom("a", "b")
    ).map(([id, address, site, filters, name]) => cidr(id, address, { sites: [site], filters, name }))
  },
  { weight: 2, arbitrary: fc.constant(INTERNET) }
)
const step = fc.oneof(
  {
    weight: 5,
    arbitrary: fc.record({
      to: fc.constantFrom(...destinations),
      make: fc.constantFrom(udp, tcp, ping),
      port: fc.constantFrom(80, 443, 5000)
    })
  },
  { weight: 2, arbitrary: fc.record({ upsert: resource }) },
  { weight: 1, arbitrary: fc.record({ remove: fc.constantFrom(1, 2, 3, 4, 5, 9).map(uuid) }) },
  { weight: 1, arbitrary: fc.record({ internet: fc.boolean() }) },
  { weight: 1, arbitrary: fc.record({ wait: fc.constantFrom(1, 2000, 360_000) }) },
  { weight: 1, arbitrary: fc.constantFrom("roam" as const, "reconnect" as const, "fail" as const) }
)

type Step = typeof step extends fc.Arbitrary<infer Each> ? Each : never

/** Does what a step says, and returns what was foreseen and seen if it was a probe. */
const take = (network: Network, each: Step): readonly [Observation, Observation] | undefined => {
  const { client: tunnel } = network
  if (each === "roam") {
    tunnel.core.reset(tunnel.now)
    for (const { harness } of network.hosts.values()) harness.core.reset(harness.now)
    network.setPortal(true)
  } else if (each === "reconnect") {
    network.setPortal(false)
    network.setPortal(true)
  } else if (each === "fail") {
    for (const [id, { harness }] of network.hosts) {
      if (!tunnel.node.hasConnection(id)) continue
      tunnel.node.fail(id)
      harness.node.fail(client.id)
      harness.nudge()
    }
    tunnel.nudge()
  } else if ("wait" in each) {
    tunnel.advance(each.wait)
  } else if ("internet" in each) {
    network.isInternetOn = each.internet
    tunnel.core.setInternetResourceState(each.internet, tunnel.now)
  } else if ("remove" in each) {
    if (each.remove === INTERNET.id && network.resources.has(each.remove)) network.isInternetOn = false
    network.resources.delete(each.remove)
    network.revoke(each.remove)
    tunnel.push({ _tag: "ResourceDeleted", id: each.remove })
  } else if ("upsert" in each) {
    const before = network.resources.get(each.upsert.id)
    network.resources.set(each.upsert.id, each.upsert)
    // What no longer is as it was granted is granted anew.
    if (JSON.stringify({ ...before, name: "" }) !== JSON.stringify({ ...each.upsert, name: "" })) {
      network.revoke(each.upsert.id)
    }
    tunnel.push({ _tag: "ResourceCreatedOrUpdated", resource: each.upsert })
  } else {
    const packet = each.make(via(each.to), each.port)
    const foreseen = expected(network, each.to, packet)
    network.send(packet)
    return [foreseen, network.observe()]
  }
  network.settle()
  return undefined
}

const runs = fc.array(step, { size: "max", minLength: 5, maxLength: 40 })

it("every probe ends as the model says, exactly once, unchanged", () => {
  const seen = { dropped: 0, rejected: 0, "round trip": 0 }
  fc.assert(
    fc.property(fc.array(resource, { size: "max", maxLength: 6 }), runs, (resources, steps) => {
      const network = new Network(resources)
      const probes = steps.flatMap((each) => {
        const probe = take(network, each)
        return probe === undefined ? [] : [probe]
      })
      for (const [{ outcome }] of probes) seen[outcome] += 1
      expect(probes.map(([, observed]) => observed)).toEqual(probes.map(([foreseen]) => foreseen))
    }),
    { numRuns: 150 }
  )
  // The model has to be asked for all of it.
  expect(Math.min(...Object.values(seen))).toBeGreaterThan(100)
})
