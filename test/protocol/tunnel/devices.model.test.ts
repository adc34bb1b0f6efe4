/** One device and all that may happen with it, beside the rules of tunnel spec 13 written down one by one: the same fates. */
import * as fc from "fast-check"
import { expect, it } from "vitest"
import type { Filter } from "../../../src/protocol/portal/types.ts"
import { makeControlPacket } from "../../../src/protocol/tunnel/controlPacket.ts"
import { ip } from "../../../src/protocol/wire/address.ts"
import { setSourcePort } from "../../../src/protocol/wire/ipEdit.ts"
import { back, clientWith, UNIX_EPOCH_MILLIS, via } from "./client.ts"
import { access, device, establish, inboundAccess, poolOf } from "./devices.ts"
import { tcpPort, udpPort, uuid } from "./fixtures.ts"
import { icmpError, parsed, ping, tcp, udp } from "./packets.ts"

const peer = device(1)
const POOL = 1
const goodbye = makeControlPacket({ _tag: "Goodbye" })
const filterSets: ReadonlyArray<ReadonlyArray<Filter>> = [
  [],
  [{ protocol: "icmp" }],
  [tcpPort(53)],
  [udpPort(53, 1000), { protocol: "icmp" }]
]

interface Flow {
  readonly kind: "udp" | "tcp" | "ping"
  readonly isIpv6: boolean
  /** Both are the identifier of a ping. */
  readonly local: number
  readonly remote: number
}

type Step =
  | { readonly do: "send" | "receive" | "send error" | "receive error"; readonly flow: Flow }
  | { readonly do: "grant"; readonly resource: 0 | 1; readonly filters: number; readonly seconds: number }
  | { readonly do: "set filters"; readonly filters: number }
  | { readonly do: "put pool"; readonly filters: number }
  | { readonly do: "wait"; readonly millis: number }
  | { readonly do: "authorize" | "reject" | "delete pool" | "deny" | "goodbye" }

/** The pool's id and another, through which the peer may reach us. */
const inbound = [uuid(POOL), uuid(9)] as const

const packetOf = ({ isIpv6, kind, local, remote }: Flow, direction: "send" | "receive"): Uint8Array => {
  const address = isIpv6 ? peer.ipv6 : peer.ipv4
  const ends = direction === "send" ? via(address) : back(address)
  const [from, to] = direction === "send" ? [local, remote] : [remote, local]
  if (kind === "ping") return ping(ends, local)
  if (kind === "udp") return udp(ends, to, "x", from)
  const bytes = tcp(ends, to)
  setSourcePort(parsed(bytes), from)
  return bytes
}

const permits = (filters: ReadonlyArray<Filter>, kind: Flow["kind"], port: number): boolean =>
  filters.length === 0 || filters.some((filter) =>
    filter.protocol === "icmp"
      ? kind === "ping"
      : filter.protocol === kind && filter.portRangeStart <= port && port <= filter.portRangeEnd
  )

type Fate = "passes" | "refused" | "waits" | "dropped"

/** The rules. */
class Model {
  now = 0
  pool: ReadonlyArray<Filter> | undefined = filterSets[0]
  isAuthorized = false
  /** Targets that the portal is asked for, by family, and what waits for them. */
  pending = new Map<boolean, Array<Flow>>()
  /** Of the connection; `undefined` without one. */
  peer: {
    grants: Array<{ readonly resource: string; filters: ReadonlyArray<Filter>; readonly expiresAt: number }>
    flows: Map<string, { readonly flow: Flow; isOurs: boolean; last: number }>
  } | undefined

  owner(flow: Flow): "us" | "peer" | undefined {
    const found = this.peer?.flows.get(JSON.stringify(flow))
    const idle = flow.kind === "tcp" ? 7_440_000 : 120_000
    return found === undefined || this.now - found.last >= idle ? undefined : found.isOurs ? "us" : "peer"
  }

  record(flow: Flow, isOurs: boolean): void {
    this.peer?.flows.set(JSON.stringify(flow), { flow, isOurs, last: this.now })
  }

  send(flow: Flow): Fate {
    if (this.owner(flow) === "peer") return "passes"
    if (this.pool === undefined) return "dropped"
    if (!permits(this.pool, flow.kind, flow.remote)) return "refused"
    if (!this.isAuthorized) {
      this.pending.set(flow.isIpv6, [...(this.pending.get(flow.isIpv6) ?? []), flow])
      return "waits"
    }
    this.record(flow, true)
    return "passes"
  }

  receive(flow: Flow): Fate {
    if (this.peer === undefined) return "dropped"
    if (this.owner(flow) === "us") return "passes"
    if (!this.peer.grants.some(({ filters }) => permits(filters, flow.kind, flow.local))) return "refused"
    this.record(flow, false)
    return "passes"
  }

  receiveError(flow: Flow): Fate {
    if (this.owner(flow) === undefined) return "dropped"
    const isBelievedGranted = this.isAuthorized && this.pool !== undefined &&
      permits(this.pool, flow.kind, flow.remote)
    if (isBelievedGranted && !this.pending.has(flow.isIpv6)) this.pending.set(flow.isIpv6, [])
    return "passes"
  }

  connect(): NonNullable<Model["peer"]> {
    return this.peer ??= { grants: [], flows: new Map() }
  }

  authorize(): void {
    this.connect()
    const waiting = [...this.pending.values()].flat()
    if (this.pending.size > 0 && this.pool !== undefined) this.isAuthorized = true
    this.pending.clear()
    for (const flow of waiting) this.send(flow)
  }

  lose(): void {
    this.peer = undefined
    this.isAuthorized = false
  }

  setFilters(resource: string, filters: ReadonlyArray<Filter>): void {
    for (const grant of this.peer?.grants ?? []) if (grant.resource === resource) grant.filters = filters
  }

  wait(millis: number): void {
    this.now += millis
    if (this.peer !== undefined) this.peer.grants = this.peer.grants.filter(({ expiresAt }) => expiresAt > this.now)
  }
}

const flow: fc.Arbitrary<Flow> = fc.record({
  kind: fc.constantFrom("udp" as const, "tcp" as const, "ping" as const),
  isIpv6: fc.boolean(),
  local: fc.constantFrom(53, 1000),
  remote: fc.constantFrom(53, 2000)
}).map((flow) => flow.kind === "ping" ? { ...flow, remote: flow.local } : flow)

const filters = fc.nat(filterSets.length - 1)
const step: fc.Arbitrary<Step> = fc.oneof(
  {
    weight: 10,
    arbitrary: fc.record({ do: fc.constantFrom("send", "receive", "send error", "receive error"), flow })
  },
  { weight: 2, arbitrary: fc.constantFrom({ do: "authorize" }, { do: "reject" }) },
  { weight: 1, arbitrary: fc.constantFrom({ do: "delete pool" }, { do: "deny" }, { do: "goodbye" }) },
  {
    weight: 2,
    arbitrary: fc.record({
      do: fc.constant("grant"),
      resource: fc.constantFrom(0, 1),
      filters,
      seconds: fc.constantFrom(1, 100, 10_000)
    })
  },
  { weight: 1, arbitrary: fc.record({ do: fc.constantFrom("set filters", "put pool"), filters }) },
  {
    weight: 3,
    arbitrary: fc.record({
      do: fc.constant("wait"),
      millis: fc.constantFrom(1, 999, 60_000, 119_999, 120_000, 7_439_999)
    })
  }
) as fc.Arbitrary<Step>

const play = (steps: ReadonlyArray<Step>): void => {
  const client = clientWith(poolOf(POOL, [peer]))
  const model = new Model()
  model.now = client.now
  const seen: Array<Fate | undefined> = []
  const expected: Array<Fate | undefined> = []

  const send = (packet: Uint8Array): Fate => {
    if (client.fromTun(packet) !== undefined) return "passes"
    if (client.toTun().length > 0) return "refused"
    return Object.keys(client.dropped()).some((reason) => reason !== "buffer-full") ? "dropped" : "waits"
  }
  const receive = (packet: Uint8Array): Fate => {
    client.deliveries()
    if (client.fromPeer(peer.id, packet) !== undefined) return "passes"
    return client.deliveries().length > 0 ? "refused" : "dropped"
  }
  const settle = (): void => {
    if (client.node.hasConnection(peer.id) && !client.node.isEstablished(peer.id)) establish(client, peer)
    client.events()
    client.deliveries()
    client.toTun()
    client.dropped()
  }

  for (const step of steps) {
    switch (step.do) {
      case "send":
        seen.push(send(packetOf(step.flow, "send")))
        expected.push(model.send(step.flow))
        break
      case "receive":
        seen.push(receive(packetOf(step.flow, "receive")))
        expected.push(model.receive(step.flow))
        break
      case "send error":
        seen.push(send(icmpError(packetOf(step.flow, "receive"))))
        expected.push(model.owner(step.flow) === undefined ? "dropped" : "passes")
        break
      case "receive error":
        seen.push(receive(icmpError(packetOf(step.flow, "send"))))
        expected.push(model.receiveError(step.flow))
        break
      case "grant": {
        const resource = inbound[step.resource]
        const filters = filterSets[step.filters] ?? []
        const expiresAt = Math.floor((UNIX_EPOCH_MILLIS + client.now) / 1000) + step.seconds
        client.push(inboundAccess(peer, resource, filters, expiresAt))
        // What waits for the device goes now, whoever asked for the connection.
        const { grants } = model.connect()
        const others = grants.filter((grant) => grant.resource !== resource)
        model.connect().grants = [...others, { resource, filters, expiresAt: expiresAt * 1000 - UNIX_EPOCH_MILLIS }]
        model.authorize()
        break
      }
      case "authorize":
        client.push(access(peer))
        model.authorize()
        break
      case "reject":
        client.push({ _tag: "RejectAccess", clientId: peer.id, resourceId: inbound[1] })
        if (model.peer !== undefined) {
          model.peer.grants = model.peer.grants.filter(({ resource }) => resource !== inbound[1])
        }
        break
      case "set filters":
        client.push({ _tag: "ResourceFiltersUpdated", id: inbound[1], filters: filterSets[step.filters] ?? [] })
        model.setFilters(inbound[1], filterSets[step.filters] ?? [])
        break
      case "put pool": {
        const filters = filterSets[step.filters] ?? []
        client.push({ _tag: "ResourceCreatedOrUpdated", resource: poolOf(POOL, [peer], filters) })
        if (model.pool !== filters) model.pending.clear()
        model.pool = filters
        model.setFilters(inbound[0], filters)
        break
      }
      case "delete pool":
        client.push({ _tag: "ResourceDeleted", id: uuid(POOL) })
        model.pool = undefined
        model.isAuthorized = false
        model.pending.clear()
        break
      case "deny":
        client.push({ _tag: "DeviceAccessDenied", reason: "forbidden", ipv4: ip(peer.ipv4), ipv6: ip(peer.ipv6) })
        model.pending.clear()
        if (model.pool !== undefined) model.lose()
        break
      case "goodbye":
        client.fromPeer(peer.id, goodbye)
        model.lose()
        break
      case "wait":
        client.advance(step.millis)
        model.wait(step.millis)
    }
    settle()
  }
  expect(seen).toEqual(expected)
}

it("gives every packet the fate that the rules give it", () => {
  fc.assert(fc.property(fc.array(step, { maxLength: 60 }), play), { numRuns: 500 })
})
