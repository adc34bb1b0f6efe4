import { serverFailure, truncate } from "../dns/answer.ts"
import { DeviceResolver } from "../dns/DeviceResolver.ts"
import { DnsCache } from "../dns/DnsCache.ts"
import { type DnsQuery, isAnswerTo, parseDnsQuery } from "../dns/DnsQuery.ts"
import { ResourceResolver, type SavedName, supports } from "../dns/ResourceResolver.ts"
import { type Sentinel, SentinelMap } from "../dns/SentinelMap.ts"
import type { TunnelDnsClient } from "../dns/TunnelDnsClient.ts"
import { TunnelUdpClient } from "../dns/TunnelUdpClient.ts"
import { effectiveUpstreams, sanitizeResolvers, type Upstream } from "../dns/upstreams.ts"
import type { ClientPush, ClientRequest, InterfaceConfig, ResourceId } from "../portal/types.ts"
import { TcpDnsClient } from "../tcp/TcpDnsClient.ts"
import { TcpDnsServer } from "../tcp/TcpDnsServer.ts"
import type { TcpDnsConnection } from "../tcp/types.ts"
import { type IpAddress, ipFromBytes } from "../wire/address.ts"
import { decodeDns, type DnsMessage } from "../wire/dns.ts"
import { type IpPacket, PacketKind, sourceOffset } from "../wire/ip.ts"
import { wordsOf } from "../wire/ipWords.ts"
import { MAX_UDP_PAYLOAD, udpPacket } from "../wire/udp.ts"
import type { ClientRanges } from "./clientRanges.ts"
import type { ClientResource } from "./ClientResource.ts"
import { DnsCounts, type DnsCountsSnapshot } from "./DnsCounts.ts"
import { DnsResourceNat, type ResourceName } from "./DnsResourceNat.ts"
import type { DropReason } from "./DropCounts.ts"
import type { GatewayPeer } from "./GatewayPeer.ts"
import type { TunAddresses } from "./TunAddresses.ts"

const DNS_PORT = 53
/** Where gateways answer DNS. */
const GATEWAY_DNS_PORT = 53_535
const UDP_HEADER = 8
/** Queries that wait for one resource's grant; the oldest makes room. */
const QUERIES_PER_RESOURCE = 128
/** Queries under way outside the tunnel. */
const MAX_OUTSIDE = 1000

/** Who asked, and how the answer gets there. */
interface DnsAsker {
  readonly transport: "udp" | "tcp"
  readonly sentinel: Sentinel
  /** Called at most once. */
  readonly respond: (message: Uint8Array) => void
}

/** A query for the driver to ask outside the tunnel. */
export interface OutsideQuery {
  /** To be handed back with the answer. */
  readonly id: number
  readonly transport: "udp" | "tcp"
  readonly upstream: Upstream
  /** As it is to be sent. */
  readonly message: Uint8Array
}

interface Waiting {
  readonly query: DnsQuery
  readonly asker: DnsAsker
  /** Of the cache when the query came: what it is told later must not survive a change of resources or upstreams. */
  readonly generation: number
}

/** What the rest of the core does for DNS. */
export interface ClientDnsHost {
  readonly addresses: () => TunAddresses | undefined
  /** Sends a packet of ours through the tunnel, as if an application had. */
  readonly inject: (packet: Uint8Array, now: number) => void
  /** Gives a packet of ours to the applications. */
  readonly toTun: (packet: Uint8Array) => void
  readonly sendControl: (gateway: GatewayPeer, packet: Uint8Array, now: number) => void
  /** Asks for access to a resource. */
  readonly request: (resource: ClientResource, now: number) => void
  /** Whether a resource is the way to this server's port 53, over UDP and TCP. */
  readonly isCovered: (server: IpAddress) => boolean
  readonly askPortal: (request: ClientRequest) => void
  /** The pattern of the resource is none: no name is the resource's. */
  readonly unusablePattern: (resource: ResourceId) => void
  readonly drop: (reason: DropReason) => void
  readonly randomBytes: (length: number) => Uint8Array
}

/** DNS on the sentinels (tunnel spec 12), and the addresses that stand for names of resources (11). */
export class ClientDns {
  readonly resolver: ResourceResolver<ClientResource>
  readonly nat: DnsResourceNat
  readonly #host: ClientDnsHost
  readonly #sentinels: SentinelMap
  readonly #devices = new DeviceResolver<DnsAsker>()
  readonly #cache = new DnsCache()
  readonly #counts = new DnsCounts()
  readonly #udp: TunnelUdpClient<Waiting>
  readonly #tcp: TcpDnsClient<Waiting>
  readonly #server: TcpDnsServer
  readonly #outside = new Map<number, Waiting>()
  readonly #outsideQueries: Array<OutsideQuery> = []
  #nextOutsideId = 0
  /** Queries that only the sites of resources can answer, which the portal has not granted yet. */
  readonly #waitingForGrant = new Map<ResourceId, Array<Waiting>>()
  #systemResolvers: ReadonlyArray<IpAddress> = []
  #interface: InterfaceConfig | undefined
  #isCustom = false
  #isDraining = false

  constructor(host: ClientDnsHost, ranges: ClientRanges, saved: ReadonlyArray<SavedName>) {
    this.#host = host
    this.#sentinels = new SentinelMap(ranges.sentinels)
    this.resolver = new ResourceResolver(ranges.names, saved)
    this.nat = new DnsResourceNat(host.sendControl)
    this.#udp = new TunnelUdpClient(host.randomBytes)
    this.#tcp = new TcpDnsClient(host.randomBytes)
    this.#server = new TcpDnsServer(host.randomBytes)
  }

  get dnsBySentinel(): ReadonlyMap<IpAddress, Upstream> {
    return new Map(this.#sentinels.sentinels.map(({ address, upstream }) => [address, upstream]))
  }

  get counts(): DnsCountsSnapshot {
    return this.#counts.snapshot()
  }

  setInterface(config: InterfaceConfig): void {
    this.#interface = config
    this.#updateUpstreams()
  }

  /** Returns those that are used: without our own, without repetitions. */
  setSystemResolvers(resolvers: ReadonlyArray<IpAddress>): ReadonlyArray<IpAddress> {
    this.#systemResolvers = sanitizeResolvers(resolvers)
    this.#updateUpstreams()
    return this.#systemResolvers
  }

  resourceAdded(resource: ClientResource): void {
    this.#cache.clear()
    const added = resource.resource
    if (added.type !== "dns" && added.type !== "dynamic_device_pool") return
    const isUsable = added.type === "dns"
      ? this.resolver.add(added.id, added.address, added.ipStack, resource)
      : this.#devices.add(added.id, added.address)
    if (!isUsable) this.#host.unusablePattern(added.id)
  }

  resourceRemoved({ resource }: ClientResource, now: number): void {
    this.#cache.clear()
    if (resource.type === "dns") this.resolver.remove(resource.id)
    if (resource.type !== "dynamic_device_pool") return
    this.#devices.remove(resource.id)
    this.#drain(now)
  }

  /** A resource is granted, which queries may wait for. */
  granted(resource: ClientResource, now: number): void {
    if (resource.resource.type === "dns") this.nat.granted(this.resolver.recentNamesOf(resource.id), resource, now)
    const waiting = this.#waitingForGrant.get(resource.id) ?? []
    this.#waitingForGrant.delete(resource.id)
    for (const each of waiting) this.#askSite(resource, each, now)
    this.#drain(now)
  }

  /** Nobody waits for the grant any more. */
  abandoned(resource: ResourceId, now: number): void {
    const waiting = this.#waitingForGrant.get(resource) ?? []
    this.#waitingForGrant.delete(resource)
    for (const { asker, query } of waiting) asker.respond(serverFailure(query))
    this.#drain(now)
  }

  /** What is known of the devices of a dynamic pool. */
  devicesOf(pool: ResourceId): ReturnType<DeviceResolver<unknown>["known"]> {
    return this.#devices.known(pool)
  }

  handlePush(push: ClientPush, now: number): void {
    if (push._tag === "DevicePoolDomainResolved") this.#devices.resolved(push.resourceId, push.domain, push)
    if (push._tag === "DevicePoolDomainResolutionFailed") {
      this.#devices.failed(push.resourceId, push.domain, push.reason, now)
    }
    this.#drain(now)
  }

  /** Our addresses in the tunnel have changed: connections from the old ones lead nowhere. */
  addressesChanged(now: number): void {
    this.#tcp.reset()
    this.#drain(now)
  }

  /** Whether a packet from the TUN device was for a sentinel. */
  tunInput(packet: IpPacket, now: number): boolean {
    const sentinel = this.#sentinels.at(packet.version, packet.destination)
    if (sentinel === undefined) return false
    if (this.#server.handlePacket(packet, now)) {
      this.#drain(now)
      return true
    }
    const { buffer, length, offset, transport } = packet
    const query = packet.kind === PacketKind.Udp && packet.destinationPort === DNS_PORT
      ? parseDnsQuery(buffer.subarray(transport + UDP_HEADER, offset + length))
      : undefined
    if (query === undefined) {
      this.#host.drop("no-dns-query")
      return true
    }
    this.#handleQuery(query, this.#udpAsker(sentinel, query, packet), now)
    this.#drain(now)
    return true
  }

  /** The decisions of 12.4, in their order. */
  #handleQuery(query: DnsQuery, asker: DnsAsker, now: number): void {
    const cached = this.#cache.answer(query, now)
    if (cached !== undefined) {
      this.#counts.asked("cache")
      return asker.respond(cached)
    }
    if (this.#devices.resolve(query, asker, now)) return this.#counts.asked("device-pool")
    const resolution = this.resolver.resolve(query)
    if (resolution?._tag === "Answer") {
      this.#counts.asked("resource")
      asker.respond(resolution.message)
      if (resolution.record !== undefined) this.nat.queried(resolution.record, now)
      return
    }
    const waiting = { query, asker, generation: this.#cache.generation }
    if (resolution?._tag !== "AskSite") return this.#askUpstream(waiting, now)
    this.#counts.asked("site")
    this.#askSite(resolution.target, waiting, now)
  }

  /** Whether a packet that a gateway sent was an answer to a query of ours. */
  networkInput(packet: IpPacket, now: number): boolean {
    const isToUs = this.#host.addresses()?.includes(packet.version, packet.destination) === true
    if (!isToUs || !(this.#udp.accept(packet) || this.#tcp.accept(packet, now))) return false
    this.#drain(now)
    return true
  }

  /** Whether a packet that policy refused on its way out was a query of ours. */
  refused(packet: IpPacket, now: number): boolean {
    if (!this.#udp.refused(packet) && !this.#tcp.refused(packet)) return false
    this.#drain(now)
    return true
  }

  /** What became of a query outside the tunnel. Unknown ids are of queries that a reset abandoned. */
  outsideResponse(id: number, outcome: Uint8Array | "failed" | "timed-out", now: number): void {
    const waiting = this.#outside.get(id)
    if (waiting === undefined) return
    this.#outside.delete(id)
    this.#concludeOutside(waiting, outcome, now)
    this.#drain(now)
  }

  #concludeOutside(waiting: Waiting, outcome: Uint8Array | "failed" | "timed-out", now: number): void {
    const { asker, query } = waiting
    if (typeof outcome === "string") this.#counts.failed(outcome)
    // Whoever asks over UDP has given up by now, or will ask again.
    if (outcome === "timed-out" && asker.transport === "udp") return
    if (typeof outcome === "string") return asker.respond(serverFailure(query))
    const message = decodeDns(outcome)
    const asked = asker.sentinel.upstream._tag === "DoH" ? { ...query, id: 0 } : query
    if (message === undefined || !isAnswerTo(message, asked)) {
      this.#counts.failed("unusable-answer")
      return asker.respond(serverFailure(query))
    }
    this.#relay(waiting, outcome, message, now)
  }

  pollOutsideQuery(): OutsideQuery | undefined {
    return this.#outsideQueries.shift()
  }

  handleTimeout(now: number): void {
    this.#devices.handleTimeout(now)
    this.#udp.handleTimeout(now)
    this.#tcp.handleTimeout(now)
    this.#server.handleTimeout(now)
    this.#drain(now)
  }

  pollTimeout(): number {
    return Math.min(
      this.#devices.pollTimeout() ?? Number.POSITIVE_INFINITY,
      this.#udp.pollTimeout() ?? Number.POSITIVE_INFINITY,
      this.#tcp.pollTimeout() ?? Number.POSITIVE_INFINITY,
      this.#server.pollTimeout() ?? Number.POSITIVE_INFINITY
    )
  }

  /**
   * The network changed (16.1): what was asked outside is asked again from the new one, and what was asked over TCP
   * inside fails, because its connections may be over.
   */
  reset(now: number): void {
    const underWay = [...this.#outside.values()]
    this.#outside.clear()
    this.#outsideQueries.length = 0
    this.#tcp.reset()
    for (const waiting of underWay) {
      // Without a connection yet DNS over HTTPS would be an error at once; who hears nothing asks again.
      if (waiting.asker.sentinel.upstream._tag === "Do53") this.#askOutside(waiting)
    }
    this.#drain(now)
  }

  #updateUpstreams(): void {
    if (this.#interface === undefined) return
    const { isCustom, upstreams } = effectiveUpstreams(this.#interface, this.#systemResolvers)
    this.#isCustom = isCustom
    if (!this.#sentinels.update(upstreams)) return
    this.#cache.clear()
    this.#server.listen(this.#sentinels.sentinels.map(({ address }) => address))
  }

  #udpAsker(sentinel: Sentinel, query: DnsQuery, packet: IpPacket): DnsAsker {
    const ends = {
      source: sentinel.address,
      sourcePort: DNS_PORT,
      destination: ipFromBytes(packet.buffer, sourceOffset(packet), packet.version),
      destinationPort: packet.sourcePort
    }
    return {
      transport: "udp",
      sentinel,
      respond: (message) => this.#host.toTun(udpPacket(ends, truncate(query, message, MAX_UDP_PAYLOAD)))
    }
  }

  #tcpAsker(sentinel: Sentinel, connection: TcpDnsConnection): DnsAsker {
    return { transport: "tcp", sentinel, respond: (message) => this.#server.answer(connection, message) }
  }

  /** The gateway's resolver knows what the resource's site knows (12.6). */
  #askSite(resource: ClientResource, waiting: Waiting, now: number): void {
    const { gateway } = resource
    if (gateway === undefined) {
      this.#awaitGrant(resource.id, waiting)
      return this.#host.request(resource, now)
    }
    const { ipv4, ipv6 } = gateway.addresses
    this.#askThroughTunnel(waiting, waiting.asker.sentinel.family === 4 ? ipv4 : ipv6, GATEWAY_DNS_PORT, now)
  }

  #awaitGrant(resource: ResourceId, waiting: Waiting): void {
    const queries = this.#waitingForGrant.get(resource) ?? []
    if (queries.length === 0) this.#waitingForGrant.set(resource, queries)
    queries.push(waiting)
    if (queries.length <= QUERIES_PER_RESOURCE) return
    queries.shift()
    this.#host.drop("buffer-full")
  }

  #askUpstream(waiting: Waiting, now: number): void {
    const { upstream } = waiting.asker.sentinel
    if (this.#isCustom && upstream._tag === "Do53" && this.#host.isCovered(upstream.address)) {
      this.#counts.asked("upstream-in-tunnel")
      return this.#askThroughTunnel(waiting, upstream.address, DNS_PORT, now)
    }
    this.#counts.asked("upstream")
    if (this.#outside.size >= MAX_OUTSIDE) return this.#host.drop("dns-overload")
    this.#askOutside(waiting)
  }

  #askOutside(waiting: Waiting): void {
    const { asker: { sentinel: { upstream }, transport }, query } = waiting
    const id = this.#nextOutsideId++
    this.#outside.set(id, waiting)
    const message = upstream._tag === "DoH" ? withId(query.bytes, 0) : query.bytes
    this.#outsideQueries.push({ id, transport, upstream, message })
  }

  #askThroughTunnel(waiting: Waiting, address: IpAddress, port: number, now: number): void {
    const own = this.#host.addresses()
    const client: TunnelDnsClient<Waiting> = waiting.asker.transport === "udp" ? this.#udp : this.#tcp
    const isSent = own !== undefined && client.send(
      waiting.query,
      waiting,
      address.includes(":") ? own.ipv6 : own.ipv4,
      { address, port },
      now
    )
    if (!isSent) this.#unansweredInTunnel(waiting)
  }

  #unansweredInTunnel({ asker, query }: Waiting): void {
    this.#counts.failed("unanswered-in-tunnel")
    asker.respond(serverFailure(query))
  }

  #relay({ asker, generation, query }: Waiting, bytes: Uint8Array, message: DnsMessage, now: number): void {
    if (generation === this.#cache.generation) this.#cache.insert(query, message, now)
    asker.respond(withId(bytes, query.id))
  }

  /** Lets everything that one event has begun run until nothing moves any more (12.12). */
  #drain(now: number): void {
    // A packet of ours may be refused while it is sent: the loop that sent it goes on with that.
    if (this.#isDraining) return
    this.#isDraining = true
    do {
      this.#drainClient(this.#udp, now)
      this.#drainClient(this.#tcp, now)
      this.#drainDevices()
    } while (this.#drainServer(now))
    this.#isDraining = false
  }

  #drainClient(client: TunnelDnsClient<Waiting>, now: number): void {
    for (let packet = client.pollPacket(); packet !== undefined; packet = client.pollPacket()) {
      this.#host.inject(packet, now)
    }
    for (let result = client.pollAnswer(); result !== undefined; result = client.pollAnswer()) {
      const { answer, asker: waiting } = result
      if (answer === undefined) this.#unansweredInTunnel(waiting)
      else this.#relay(waiting, answer.bytes, answer.message, now)
    }
  }

  #drainDevices(): void {
    for (let event = this.#devices.pollEvent(); event !== undefined; event = this.#devices.pollEvent()) {
      if (event._tag === "Respond") event.asker.respond(event.message)
      else this.#host.askPortal({ _tag: "ResolveDevicePoolDomain", resourceId: event.resourceId, domain: event.domain })
    }
  }

  /** Returns whether there was a query. */
  #drainServer(now: number): boolean {
    let hasQueries = false
    for (let next = this.#server.pollQuery(now); next !== undefined; next = this.#server.pollQuery(now)) {
      hasQueries = true
      const { connection, message } = next
      const { address, family } = connection.local
      const sentinel = this.#sentinels.at(family, wordsOf(address))
      const query = parseDnsQuery(message)
      if (sentinel === undefined || query === undefined) this.#server.abort(connection)
      else this.#handleQuery(query, this.#tcpAsker(sentinel, connection), now)
    }
    for (let packet = this.#server.pollPacket(now); packet !== undefined; packet = this.#server.pollPacket(now)) {
      this.#host.toTun(packet)
    }
    return hasQueries
  }
}

/** The resource that a packet to a name is for, which need not permit it (6.2): of those that serve the family. */
export const resourceOf = (
  { assignments }: ResourceName,
  version: 4 | 6,
  kind: PacketKind,
  port: number
): ClientResource | undefined => {
  let best: ClientResource | undefined
  for (let i = 0; i < assignments.length; i++) {
    const { ipStack, target } = assignments[i] as ResourceName["assignments"][number]
    if (target === undefined || !supports(ipStack, version)) continue
    if (target.filter.permits(kind, port)) return target
    best ??= target
  }
  return best
}

const withId = (bytes: Uint8Array, id: number): Uint8Array => {
  const message = bytes.slice()
  message[0] = id >> 8
  message[1] = id & 0xff
  return message
}
