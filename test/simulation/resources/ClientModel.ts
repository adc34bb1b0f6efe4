/** What a client does with its applications' packets and queries, and what changes that (tunnel spec 5, 6, 8, 11, 13). */
import {
  type Answer,
  dropped,
  type Fate,
  type Inquiry,
  type Journey,
  type Packet,
  prohibited,
  type Question
} from "./fate.ts"
import type { GatewayModel } from "./GatewayModel.ts"
import { type DnsSettings, type Named, NamesModel } from "./NamesModel.ts"
import {
  best,
  contains,
  type DnsResource,
  type Entry,
  familyOf,
  type Filters,
  isDoh,
  isMulticast,
  isSentinel,
  isTunnel,
  lengthOf,
  permits,
  type Protocol,
  proxiesOf,
  type Resource,
  STATIC_ROUTES,
  supports
} from "./rules.ts"

/** Milliseconds. */
const OFFLINE = 300_000
const COOL_DOWN = 2000
const FLOW = { tcp: 7_440_000, udp: 120_000, icmp: 120_000 } as const
const GATEWAY_DNS = 53_535

export interface Device {
  readonly id: string
  readonly ipv4: string
  readonly ipv6: string
}

/** What a client's model needs to know of everybody else. */
export interface Surroundings {
  readonly gateway: (id: string) => GatewayModel
  readonly client: (id: string) => ClientModel
  /** Every client's addresses, for pools. */
  readonly device: (id: string) => Device
  /** What a site's resolver says of a name. */
  readonly hosts: (site: string, name: string) => ReadonlyArray<string>
}

interface Flow {
  readonly opener: "us" | "peer"
  last: number
}

/** Another client that this one has a connection to. */
interface Peer {
  /** Through which pools it may reach us. */
  readonly inbound: Map<string, Filters>
  readonly flows: Map<string, Flow>
  /** The connection has come up; until then packets wait. */
  isUp: boolean
  readonly waiting: Array<Journey>
}

type Route =
  | { readonly _tag: "device"; readonly pool: string; readonly member: string; readonly filters: Filters }
  | { readonly _tag: "resource"; readonly resource: Resource; readonly filters: Filters; readonly named?: Named }

export class ClientModel implements Device {
  readonly id: string
  readonly ipv4: string
  readonly ipv6: string
  readonly resources = new Map<string, Resource>()
  readonly names: NamesModel
  hasInterface = false
  isInternetOn = false
  /** The gateways that resources are reached through. */
  readonly authorised = new Map<string, string>()
  readonly gateways = new Set<string>()
  readonly peers = new Map<string, Peer>()
  /** Resources that the portal has to be asked for again, because a gateway has refused a packet for them. */
  readonly owed = new Set<string>()
  readonly #askedAt = new Map<string, number>()
  /** `POOL CLIENT` for what the portal lets us reach. */
  readonly #reachable = new Set<string>()
  /** What waits for the grant of a resource, or `POOL ADDRESS`. */
  readonly #pending = new Map<string, { readonly journeys: Array<Journey>; readonly inquiries: Array<Inquiry> }>()
  /** `GATEWAY RESOURCE NAME` that a gateway was told of, and whether it took it. */
  readonly #setUps = new Map<string, boolean>()
  readonly #offlineUntil = new Map<string, number>()
  readonly #around: Surroundings

  constructor({ id, ipv4, ipv6 }: Device, around: Surroundings, savedNames: ReadonlyArray<Named> = []) {
    this.id = id
    this.ipv4 = ipv4
    this.ipv6 = ipv6
    this.#around = around
    this.names = new NamesModel(this.resources)
    this.names.names = savedNames
  }

  // ---- what the portal says

  settings(settings: DnsSettings): void {
    this.hasInterface = true
    this.names.settings = settings
    this.names.update()
  }

  systemResolvers(system: ReadonlyArray<string>): void {
    this.names.system = system
    if (this.hasInterface) this.names.update()
  }

  /** 5.2 */
  list(resources: ReadonlyArray<Resource>): void {
    for (const id of [...this.resources.keys()]) if (!resources.some((each) => each.id === id)) this.#remove(id)
    for (const resource of resources) this.#upsert(resource)
    this.#forgetSites()
  }

  upsert(resource: Resource): void {
    this.#upsert(resource)
    this.#forgetSites()
  }

  /** 20.3, L3. */
  #forgetSites(): void {
    const isUsed = (site: string): boolean =>
      [...this.resources.values()].some((each) => "site" in each && each.site === site)
    for (const site of [...this.#offlineUntil.keys()]) if (!isUsed(site)) this.#offlineUntil.delete(site)
  }

  /** 5.2 */
  #upsert(resource: Resource): void {
    const known = this.resources.get(resource.id)
    if (known?.type === "static_device_pool" && resource.type === "static_device_pool") {
      this.#upsertPool(known, resource)
    } else if (
      known !== undefined && JSON.stringify({ ...known, name: "" }) !== JSON.stringify({ ...resource, name: "" })
    ) {
      this.#remove(resource.id)
    }
    this.resources.set(resource.id, resource)
    this.names.resourceAdded(resource)
    this.names.flush()
  }

  #upsertPool(
    before: Resource & { type: "static_device_pool" },
    after: Resource & { type: "static_device_pool" }
  ): void {
    const isSame = JSON.stringify(before.filters) === JSON.stringify(after.filters)
    for (const member of before.members) {
      const stays = after.members.includes(member)
      if (!stays || !isSame) this.#abandonDevice(member, before.id)
      if (!stays) this.#reachable.delete(`${before.id} ${member}`)
    }
    if (!isSame) this.inboundFilters(after.id, after.filters)
  }

  remove(id: string): void {
    this.#remove(id)
    this.#forgetSites()
  }

  /** 5.3 */
  #remove(id: string): void {
    const resource = this.resources.get(id)
    if (resource === undefined) return
    if (resource.type === "internet") this.isInternetOn = false
    if (resource.type === "dynamic_device_pool") this.names.forgetPool(id)
    this.#abandon(id)
    for (const target of [...this.#pending.keys()]) if (target.startsWith(`${id} `)) this.#abandon(target)
    for (const key of [...this.#reachable]) if (key.startsWith(`${id} `)) this.#reachable.delete(key)
    this.#detach(id)
    this.resources.delete(id)
    this.names.flush()
  }

  /** 5.4 */
  internet(isOn: boolean): void {
    this.isInternetOn = isOn
    const resource = [...this.resources.values()].find(({ type }) => type === "internet")
    if (isOn || resource === undefined) return
    this.#abandon(resource.id)
    this.#detach(resource.id)
  }

  /** It was seen to ask the portal. */
  asked(target: string, now: number): void {
    this.#askedAt.set(target, now)
    this.owed.delete(target)
    this.#waitFor(target)
  }

  isWaitingFor(target: string): boolean {
    return this.#pending.has(target)
  }

  /** What is waited for, other than packets that nobody can help: each has to have been asked for. */
  get waiting(): ReadonlyArray<string> {
    return [...this.#pending.keys()]
  }

  /** 8.3 */
  granted(id: string, gateway: GatewayModel, now: number): void {
    if (!this.resources.has(id)) return
    const pending = this.#pending.get(id)
    if (pending === undefined) return
    this.#pending.delete(id)
    if (this.authorised.get(id) !== gateway.id) this.#detach(id)
    this.authorised.set(id, gateway.id)
    this.gateways.add(gateway.id)
    this.#offlineUntil.delete(gateway.site)
    // 11.2: the packets first, then every name that is the resource's as it is now.
    for (const journey of pending.journeys) this.#forward(journey, now)
    const resource = this.resources.get(id) as Resource
    for (const named of resource.type === "dns" ? this.names.names : []) {
      const isItsOwn = this.names.resourcesOf(named).some((each) => each.id === id)
      if (isItsOwn && resource.type === "dns") this.#isSetUp(gateway, resource, named)
    }
    for (const inquiry of pending.inquiries) this.#askSite(resource as DnsResource, inquiry, now)
  }

  /** 8.3, 5.6 */
  denied(id: string, reason: string, now: number): void {
    const resource = this.resources.get(id)
    if (reason !== "offline" || resource === undefined || !("site" in resource)) return
    this.#abandon(id)
    const gateway = this.authorised.get(id)
    if (gateway !== undefined) this.#close(gateway)
    this.#offlineUntil.set(resource.site, now + OFFLINE)
  }

  /** 13.2. Returns what can go now: `release` it when whatever the portal says at the same moment has been said. */
  deviceGranted(
    peer: Device,
    inbound: { readonly id: string; readonly filters: Filters } | undefined,
    isNew: boolean
  ): ReadonlyArray<Journey> {
    const known = this.peers.get(peer.id) ?? { inbound: new Map(), flows: new Map(), isUp: false, waiting: [] }
    if (isNew) known.isUp = false
    this.peers.set(peer.id, known)
    if (inbound !== undefined) known.inbound.set(inbound.id, inbound.filters)
    const released: Array<Journey> = []
    for (const [target, { journeys }] of [...this.#pending]) {
      const [pool = "", address] = target.split(" ")
      if (address !== peer.ipv4 && address !== peer.ipv6) continue
      this.#pending.delete(target)
      const resource = this.resources.get(pool)
      if (resource?.type === "static_device_pool" && resource.members.includes(peer.id)) {
        this.#reachable.add(`${pool} ${peer.id}`)
      }
      released.push(...journeys)
    }
    return released
  }

  release(journeys: ReadonlyArray<Journey>, peer: string, now: number): void {
    for (const journey of journeys) {
      // The portal may have taken back what it had just said.
      if (this.peers.has(peer)) this.#forward(journey, now)
      else journey.fate = dropped
    }
  }

  /** 8.4 */
  connected(id: string, now: number): void {
    const peer = this.peers.get(id)
    if (peer === undefined) return
    peer.isUp = true
    for (const journey of peer.waiting.splice(0)) this.#forward(journey, now)
  }

  /** 13.4 */
  deviceDenied(addresses: ReadonlyArray<string>): void {
    for (const address of addresses) {
      for (const target of [...this.#pending.keys()]) if (target.split(" ")[1] === address) this.#abandon(target)
      for (const id of [...this.peers.keys()]) {
        const { ipv4, ipv6 } = this.#around.device(id)
        if ((ipv4 === address || ipv6 === address) && this.#isListed(id)) this.#closePeer(id)
      }
    }
  }

  /** 13.4: `client_ice_candidate_error` with reason `offline`. */
  deviceOffline(id: string): void {
    for (const pool of this.#pools()) this.#abandonDevice(id, pool.id)
    if (this.peers.has(id)) this.#closePeer(id)
  }

  inboundFilters(pool: string, filters: Filters): void {
    for (const { inbound } of this.peers.values()) if (inbound.has(pool)) inbound.set(pool, filters)
  }

  inboundRejected(client: string, pool: string): void {
    this.peers.get(client)?.inbound.delete(pool)
  }

  inboundRetained(isListed: (client: string, pool: string) => boolean): void {
    for (const [client, { inbound }] of this.peers) {
      for (const pool of [...inbound.keys()]) if (!isListed(client, pool)) inbound.delete(pool)
    }
  }

  resolved(pool: string, name: string, device: { readonly ipv4: string; readonly ipv6: string }): void {
    this.names.resolved(pool, name, device)
  }

  // ---- what becomes of connections

  /** 15.2 */
  lost(peer: string): void {
    if (this.gateways.delete(peer)) this.#offlineUntil.delete(this.#around.gateway(peer).site)
    for (const [id, gateway] of [...this.authorised]) {
      if (gateway !== peer) continue
      this.authorised.delete(id)
      this.owed.delete(id)
    }
    for (const key of [...this.#setUps.keys()]) if (key.startsWith(`${peer} `)) this.#setUps.delete(key)
    for (const journey of this.peers.get(peer)?.waiting ?? []) journey.fate = dropped
    this.peers.delete(peer)
    for (const key of [...this.#reachable]) if (key.endsWith(` ${peer}`)) this.#reachable.delete(key)
  }

  /** Of a site, by 5.6. */
  statesOf(site: string, now: number): ReadonlyArray<"Online" | "Unknown" | "Offline"> {
    if ((this.#offlineUntil.get(site) ?? 0) > now) return ["Offline"]
    const online = [...this.gateways].filter((id) => this.#around.gateway(id).site === site)
    // With two gateways the end of one connection is told of the whole site.
    return online.length > 0 ? ["Online", "Unknown"] : ["Unknown"]
  }

  /** 4 */
  get routes(): ReadonlyArray<string> {
    const networks = [...this.resources.values()].flatMap((each) => each.type === "cidr" ? [each.network] : [])
    const defaults = this.hasInternet ? ["0.0.0.0/0", "::/0"] : []
    return [...new Set([...STATIC_ROUTES, ...networks, ...defaults])].toSorted()
  }

  get hasInternet(): boolean {
    return this.isInternetOn && [...this.resources.values()].some(({ type }) => type === "internet")
  }

  // ---- packets

  send(packet: Packet, now: number): Journey {
    const journey: Journey = { packet, client: this.id, fate: dropped }
    this.#forward(journey, now)
    return journey
  }

  /** 8.1 */
  #forward(journey: Journey, now: number): void {
    journey.fate = this.#fateOf(journey, now)
  }

  #fateOf(journey: Journey, now: number): Fate {
    const { packet } = journey
    const { from, id, port, protocol, to } = packet
    const own = [this.ipv4, this.ipv6]
    if (isMulticast(to) || !this.hasInterface || !own.includes(from) || own.includes(to)) return dropped
    if (isSentinel(to) || protocol === "other") return dropped
    const gateway = [...this.gateways].map(this.#around.gateway).find(({ addresses }) => addresses.includes(to))
    if (gateway !== undefined) return gateway.receive(this.id, packet, now)
    const neighbour = [...this.peers.keys()].map(this.#around.client).find((each) =>
      each.ipv4 === to || each.ipv6 === to
    )
    if (neighbour !== undefined && this.#openerOf(neighbour.id, protocol, id, port, familyOf(to), now) === "peer") {
      return neighbour.receive(this.id, packet, now)
    }
    const route = this.#route(to, protocol, port)
    if (route === undefined) return dropped
    if (!permits(route.filters, protocol, port)) return prohibited
    if (route._tag === "device") {
      const { member, pool } = route
      if (!this.#reachable.has(`${pool} ${member}`)) return this.#await(`${pool} ${to}`, journey)
      this.#record(member, protocol, id, port, familyOf(to), "us", now)
      const peer = this.peers.get(member)
      if (peer === undefined) return dropped
      if (peer.isUp) return this.#around.client(member).receive(this.id, packet, now)
      peer.waiting.push(journey)
      return { _tag: "waiting", for: `${pool} ${to}` }
    }
    const { named, resource } = route
    const through = this.authorised.get(resource.id)
    if (through === undefined) return this.#await(resource.id, journey)
    const next = this.#around.gateway(through)
    if (named !== undefined && !this.#isSetUp(next, resource as DnsResource, named)) return dropped
    const fate = next.receive(this.id, packet, now)
    // 8.3, 22.2: what the gateway does not honour any more is to be asked for again.
    const isOver = now - (this.#askedAt.get(resource.id) ?? Number.NEGATIVE_INFINITY) >= COOL_DOWN
    if (fate._tag === "refused" && fate.kind === "prohibited" && isOver) this.owed.add(resource.id)
    return fate
  }

  /** What becomes of a packet that nothing has to be asked for or told first, and through which peer it goes. */
  foresee(packet: Packet, now: number): { readonly fate: Fate; readonly through: string | undefined } | undefined {
    const { port, protocol, to } = packet
    const peers = [...this.gateways, ...this.peers.keys()]
    const addressed = peers.find((id) => this.#addressesOf(id).includes(to))
    const route = protocol === "other" ? undefined : this.#route(to, protocol, port)
    const isRouted = route !== undefined && protocol !== "other" && permits(route.filters, protocol, port)
    let through = addressed
    if (isRouted && route._tag === "device") {
      if (!this.#reachable.has(`${route.pool} ${route.member}`) || this.peers.get(route.member)?.isUp !== true) return
      through = route.member
    } else if (isRouted && route._tag === "resource") {
      const { named, resource } = route
      through = this.authorised.get(resource.id)
      if (through === undefined) return
      if (named !== undefined && !this.#setUps.has(`${through} ${resource.id} ${named.name}`)) return
    }
    const owed = new Set(this.owed)
    const fate = this.#fateOf({ packet, client: this.id, fate: dropped }, now)
    // Whether it is refused by a gateway, and when, is not certain.
    for (const id of this.owed) if (!owed.has(id)) this.owed.delete(id)
    return { fate, through: fate._tag === "dropped" || !isRouted && addressed === undefined ? undefined : through }
  }

  #addressesOf(peer: string): ReadonlyArray<string> {
    if (this.gateways.has(peer)) return this.#around.gateway(peer).addresses
    const { ipv4, ipv6 } = this.#around.device(peer)
    return [ipv4, ipv6]
  }

  /** Straight into the tunnel to a peer, past all rules of our own (R3, R8). */
  sendPast(packet: Packet, peer: string, now: number): Journey {
    const fate = this.gateways.has(peer)
      ? this.#around.gateway(peer).receive(this.id, packet, now)
      : this.#around.client(peer).receive(this.id, packet, now)
    return { packet, client: this.id, fate }
  }

  /** 13.3: a packet of another client. */
  receive(from: string, packet: Packet, now: number): Fate {
    const peer = this.peers.get(from)
    const { id, port, protocol, to } = packet
    const other = this.#around.device(from)
    if (peer === undefined || protocol === "other") return dropped
    if (![other.ipv4, other.ipv6].includes(packet.from) || ![this.ipv4, this.ipv6].includes(to)) return dropped
    const delivered: Fate = { _tag: "delivered", at: this.id, to: [to] }
    if (this.#openerOf(from, protocol, port, id, familyOf(to), now) === "us") return delivered
    if (![...peer.inbound.values()].some((filters) => permits(filters, protocol, port))) return prohibited
    this.#record(from, protocol, port, id, familyOf(to), "peer", now)
    return delivered
  }

  /** Whether a peer's ICMP error about a packet of ours is let through (R12). */
  admitsError(from: string, { id, port, protocol, to }: Packet, now: number): boolean {
    return protocol !== "other" && this.#openerOf(from, protocol, id, port, familyOf(to), now) !== undefined
  }

  /** 6.3 */
  #route(to: string, protocol: Protocol, port: number): Route | undefined {
    const family = familyOf(to)
    const resources = [...this.resources.values()]
    const devices = this.#pools().flatMap(({ filters, id, members }) =>
      members.map(this.#around.device).filter(({ ipv4, ipv6 }) => ipv4 === to || ipv6 === to)
        .map((member) => ({ id, filters, member: member.id }))
    )
    const device = best(devices, protocol, port)
    if (device !== undefined) {
      return { _tag: "device", pool: device.id, member: device.member, filters: device.filters }
    }
    const named = this.names.ownerOf(to)
    const byName = (named === undefined ? [] : this.names.resourcesOf(named))
      .filter(({ stack }) => supports(stack, family))
      .map((resource): Entry & { resource: Resource } => ({ ...resource, resource }))
    const name = best(byName, protocol, port)
    if (name !== undefined && named !== undefined) {
      return { _tag: "resource", resource: name.resource, filters: name.filters, named }
    }
    const networks = resources.flatMap((resource) =>
      resource.type === "cidr" && contains(resource.network, to)
        ? [{ ...resource, prefix: lengthOf(resource.network), resource }]
        : []
    )
    const network = best(networks, protocol, port)
    if (network !== undefined) return { _tag: "resource", resource: network.resource, filters: network.filters }
    if (isTunnel(to) || !this.isInternetOn) return undefined
    const internet = resources.find(({ type }) => type === "internet")
    return internet && { _tag: "resource", resource: internet, filters: [] }
  }

  #pools() {
    return [...this.resources.values()].flatMap((each) => each.type === "static_device_pool" ? [each] : [])
  }

  #isListed(client: string): boolean {
    return this.#pools().some(({ members }) => members.includes(client))
  }

  #await(target: string, journey: Journey): Fate {
    this.#waitFor(target).journeys.push(journey)
    return { _tag: "waiting", for: target }
  }

  #waitFor(target: string) {
    const known = this.#pending.get(target) ?? { journeys: [], inquiries: [] }
    this.#pending.set(target, known)
    return known
  }

  // ---- queries

  ask(question: Question, now: number): Inquiry {
    const inquiry: Inquiry = { question, client: this.id, answer: undefined, isGivenUp: false, asked: undefined }
    const upstream = this.names.upstreamAt(question.sentinel)
    if (upstream === undefined) return inquiry
    const { name, type } = question
    const verdict = this.names.ask(name, type, now)
    switch (verdict._tag) {
      case "answer":
        inquiry.answer = verdict.answer
        if (verdict.named !== undefined) this.#refresh(verdict.named)
        break
      case "pool":
        inquiry.asked = `portal ${verdict.pool}`
        break
      case "site":
        this.#askSite(verdict.resource, inquiry, now)
        break
      case "upstream":
        this.#askUpstream(upstream, inquiry, now)
    }
    return inquiry
  }

  /** 12.6: at the gateway, or once there is one. */
  #askSite(resource: DnsResource, inquiry: Inquiry, now: number): void {
    const gateway = this.authorised.get(resource.id)
    if (gateway === undefined) {
      this.#waitFor(resource.id).inquiries.push(inquiry)
      return
    }
    const [ipv4 = "", ipv6 = ""] = this.#around.gateway(gateway).addresses
    const server = familyOf(inquiry.question.sentinel) === 4 ? ipv4 : ipv6
    this.#askInside(server, GATEWAY_DNS, inquiry, now)
  }

  /** 12.9 and 12.11. */
  #askUpstream(upstream: string, inquiry: Inquiry, now: number): void {
    const isCovered = (["udp", "tcp"] as const).every((protocol) =>
      this.#route(upstream, protocol, 53)?._tag === "resource"
    )
    if (this.names.isCustom && !isDoh(upstream) && isCovered) return this.#askInside(upstream, 53, inquiry, now)
    inquiry.asked = `outside ${upstream}`
  }

  #askInside(server: string, port: number, inquiry: Inquiry, now: number): void {
    const { transport } = inquiry.question
    const from = familyOf(server) === 4 ? this.ipv4 : this.ipv6
    const packet: Packet = { id: 0, from, to: server, protocol: transport, port, ending: "reply" }
    const journey: Journey = {
      packet,
      client: this.id,
      get fate(): Fate {
        return fate
      },
      set fate(next: Fate) {
        fate = next
        if (next._tag === "delivered") inquiry.asked = `${next.at} ${server}`
        else if (next._tag !== "waiting") inquiry.answer = { code: "SERVFAIL", data: [] }
      }
    }
    let fate: Fate = dropped
    this.#forward(journey, now)
  }

  /** What came back of it. */
  heard({ question }: Inquiry, { code, data }: Answer, ttl: number, generation: number, now: number): void {
    if (code === "NOERROR") this.names.heard(question.name, question.type, data, ttl, generation, now)
  }

  // ---- names at gateways

  /** 11.1 */
  #refresh(named: Named): void {
    for (const resource of this.names.resourcesOf(named)) {
      const gateway = this.authorised.get(resource.id)
      if (gateway !== undefined) this.#tell(this.#around.gateway(gateway), resource, named)
    }
  }

  /** 11: whether a packet for the name goes to the gateway, which has been told of it by then. */
  #isSetUp(gateway: GatewayModel, resource: DnsResource, named: Named): boolean {
    if (this.#setUps.has(`${gateway.id} ${resource.id} ${named.name}`)) return true
    return this.#tell(gateway, resource, named)
  }

  #tell(gateway: GatewayModel, resource: DnsResource, named: Named): boolean {
    const { name, nth } = named
    const hosts = this.#around.hosts(gateway.site, name)
    const isTaken = gateway.setUp(this.id, resource, name, [...proxiesOf(nth, 4), ...proxiesOf(nth, 6)], hosts)
    this.#setUps.set(`${gateway.id} ${resource.id} ${name}`, isTaken)
    return isTaken
  }

  // ---- ends

  #abandon(target: string): void {
    const pending = this.#pending.get(target)
    this.#pending.delete(target)
    for (const journey of pending?.journeys ?? []) journey.fate = dropped
    for (const inquiry of pending?.inquiries ?? []) inquiry.isGivenUp = true
  }

  #abandonDevice(client: string, pool: string): void {
    const { ipv4, ipv6 } = this.#around.device(client)
    for (const address of [ipv4, ipv6]) this.#abandon(`${pool} ${address}`)
  }

  /** 5.3 steps 3 and 4. */
  #detach(id: string): void {
    const gateway = this.authorised.get(id)
    if (gateway === undefined) return
    this.authorised.delete(id)
    this.owed.delete(id)
    for (const key of [...this.#setUps.keys()]) if (key.startsWith(`${gateway} ${id} `)) this.#setUps.delete(key)
    if (![...this.authorised.values()].includes(gateway)) this.#close(gateway)
  }

  #close(gateway: string): void {
    this.lost(gateway)
    this.#around.gateway(gateway).forget(this.id)
  }

  #closePeer(id: string): void {
    this.lost(id)
    this.#around.client(id).lost(this.id)
  }

  // ---- flows with other clients

  #openerOf(
    peer: string,
    protocol: Protocol,
    local: number,
    remote: number,
    family: number,
    now: number
  ): Flow["opener"] | undefined {
    const flow = this.peers.get(peer)?.flows.get(flowKey(protocol, local, remote, family))
    return flow !== undefined && now - flow.last < FLOW[protocol] ? flow.opener : undefined
  }

  #record(
    peer: string,
    protocol: Protocol,
    local: number,
    remote: number,
    family: number,
    opener: Flow["opener"],
    now: number
  ): void {
    this.peers.get(peer)?.flows.set(flowKey(protocol, local, remote, family), { opener, last: now })
  }
}

/** An echo has one identifier for both sides, and its port is none. */
const flowKey = (protocol: Protocol, local: number, remote: number, family: number): string =>
  protocol === "icmp" ? `icmp ${family} ${Math.max(local, remote)}` : `${protocol} ${family} ${local} ${remote}`
