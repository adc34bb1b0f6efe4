/**
 * An organisation with two clients, and sites with gateways, and the portal that knows what it has (portal spec 5, 6 and
 * 10). What the portal says goes to the cores and, at the same moment, to the models: that is all that they share.
 */
import type {
  ClientPush,
  ClientRequest,
  GatewayPush,
  GatewayRequest,
  InterfaceConfig
} from "../../../src/protocol/portal/types.ts"
import { ClientTunnel } from "../../../src/protocol/tunnel/ClientTunnel.ts"
import { GatewayTunnel } from "../../../src/protocol/tunnel/GatewayTunnel.ts"
import type { ResourceView, TunConfig } from "../../../src/protocol/tunnel/types.ts"
import { ip } from "../../../src/protocol/wire/address.ts"
import { uuid } from "../../protocol/tunnel/fixtures.ts"
import { Lan } from "../Lan.ts"
import { type Core, Machine } from "../Machine.ts"
import { cryptoFrom } from "../random.ts"
import { World } from "../World.ts"
import { ClientModel, type Device, type Surroundings } from "./ClientModel.ts"
import { GatewayModel } from "./GatewayModel.ts"
import type { DnsSettings } from "./NamesModel.ts"
import { credentialsOf, filterOf, forClient, forGateway } from "./portalWords.ts"
import { type Filters, matches, type Resource, type Upstream } from "./rules.ts"

/** Milliseconds. */
const RECONNECT_DELAY = 200
/** Between two requests for the same (tunnel spec 8.3). */
const COOL_DOWN = 2000

export const SITES = [uuid(0xa1), uuid(0xa2)] as const
/** Two of the first site, one of the second. */
const SITE_OF_GATEWAY = [0, 0, 1] as const

const keyOf = (machine: Machine<Core>): string => Buffer.from(machine.node.publicKey).toString("base64")
const bytesOf = (key: string): Uint8Array => Uint8Array.from(Buffer.from(key, "base64"))

interface Member<C extends Core> extends Device {
  readonly machine: Machine<C>
  /** What was meant for an earlier one is lost. */
  session: number
  isOnline: boolean
  /** Stays away until told otherwise. */
  isAway: boolean
  key: string
}
export interface Client extends Member<ClientTunnel> {
  model: ClientModel
  readonly configs: Array<TunConfig>
  list: ReadonlyArray<ResourceView>
  /** What the system's settings say. */
  system: ReadonlyArray<string>
  /** By target, when the portal was last asked for it without having answered. */
  readonly askedAt: Map<string, number>
}
export interface Gateway extends Member<GatewayTunnel> {
  readonly model: GatewayModel
  readonly site: string
}

interface Grant {
  readonly client: Client
  readonly gateway: Gateway
  readonly resource: string
  /** Of the world's time. */
  readonly expiresAt: number
}

export interface OrganisationOptions {
  readonly seed: number
  readonly iceless: boolean
  /** For how long the portal lets anybody in; without end if 0. */
  readonly grantSeconds?: number
}

export interface OrganisationHooks {
  readonly onClientPacket: (client: Client, packet: Uint8Array) => void
  readonly onGatewayPacket: (gateway: Gateway, packet: Uint8Array) => void
  /** A query for a resolver outside of the tunnel; returns what that says. */
  readonly onQuery: (client: Client, upstream: Upstream, message: Uint8Array) => Uint8Array
  /** The portal is asked for the device of a pool's name. */
  readonly onDeviceQuery: (client: Client, pool: string, name: string) => void
  readonly onViolation: (what: string) => void
}

export class Organisation {
  readonly world: World
  readonly clients: ReadonlyArray<Client>
  readonly gateways: ReadonlyArray<Gateway>
  readonly resources = new Map<string, Resource>()
  readonly forbidden = new Set<string>()
  /** What the resolvers of both sites say. */
  readonly records = new Map<string, ReadonlyArray<string>>()
  settings: DnsSettings = { do53: [], doh: [], searchDomain: undefined }
  /** `CLIENT PEER` whose connection is over, though the client cannot know yet. */
  readonly stale = new Set<string>()
  readonly iceless: boolean
  readonly #grantSeconds: number
  readonly #hooks: OrganisationHooks
  readonly #relay: string
  readonly #lans: ReadonlyArray<Lan>
  readonly #pending = new Map<string, { readonly client: Client; readonly session: number; readonly run: () => void }>()
  #grants: ReadonlyArray<Grant> = []
  #deviceGrants: ReadonlyArray<{ readonly from: Client; readonly to: Client; readonly pool: string }> = []
  #refs = 0

  constructor({ grantSeconds = 0, iceless, seed }: OrganisationOptions, hooks: OrganisationHooks) {
    const world = this.world = new World(seed)
    this.iceless = iceless
    this.#grantSeconds = grantSeconds
    this.#hooks = hooks
    this.#relay = world.relay()
    this.#lans = [1, 2].map((number) => new Lan(world, number, { nat: "none", ipv6: false }))
    this.clients = [1, 2].map((number) => this.#makeClient(number))
    this.gateways = SITE_OF_GATEWAY.map((site, index) => this.#makeGateway(index + 1, SITES[site]))
    for (const device of [...this.gateways, ...this.clients]) this.signIn(device)
  }

  get around(): Surroundings {
    const find = <A extends { readonly id: string }>(list: ReadonlyArray<A>, id: string): A => {
      const found = list.find((each) => each.id === id)
      if (found === undefined) throw new Error(`nobody is ${id}`)
      return found
    }
    return {
      gateway: (id) => find(this.gateways, id).model,
      client: (id) => find(this.clients, id).model,
      device: (id) => find(this.clients, id),
      hosts: (_, name) => this.records.get(name.toLowerCase()) ?? []
    }
  }

  // ---- what an administrator does

  put(resource: Resource): void {
    const before = this.resources.get(resource.id)
    this.resources.set(resource.id, resource)
    for (const client of this.clients) this.#pushResource(client, resource)
    const isSame = (a: Resource, b: Resource): boolean =>
      JSON.stringify({ ...a, name: "", filters: [] }) === JSON.stringify({ ...b, name: "", filters: [] })
    if (before === undefined) return
    if (before.type === "static_device_pool" && resource.type === "static_device_pool") {
      for (const { pool, to } of this.#deviceGrants) {
        if (pool === resource.id) this.#pushFilters(to, resource.id, resource.filters)
      }
      return this.#endDeviceGrants((pool, to) => pool === resource.id && !resource.members.includes(to.id), true)
    }
    if (!isSame(before, resource)) {
      this.#revoke((_, id) => id === resource.id)
      return this.#endDeviceGrants((pool) => pool === resource.id, true)
    }
    for (const gateway of new Set(this.#grants.filter((each) => each.resource === resource.id).map((g) => g.gateway))) {
      this.#toGateway(
        gateway,
        { _tag: "ResourceUpdated", resource: forGateway(resource) },
        () => gateway.model.setFilters(resource)
      )
    }
  }

  remove(id: string): void {
    if (!this.resources.delete(id)) return
    for (const client of this.clients) {
      this.#toClient(client, { _tag: "ResourceDeleted", id }, (model) => {
        model.remove(id)
        client.askedAt.delete(id)
      })
    }
    this.#revoke((_, resource) => resource === id)
    this.#endDeviceGrants((pool) => pool === id, true)
  }

  /** Ends what has been granted; nobody is kept from asking again. */
  deauthorise(client: Client, id: string): void {
    this.#revoke((other, resource) => other === client && resource === id)
    this.#endDeviceGrants((pool, _, from) => pool === id && from === client, false)
  }

  /** When the next grant ends by itself. */
  get nextExpiry(): number {
    return Math.min(...this.#grants.map(({ expiresAt }) => expiresAt))
  }

  setDns(settings: DnsSettings): void {
    this.settings = settings
    for (const client of this.clients) {
      this.#toClient(
        client,
        { _tag: "ConfigChanged", interface: this.#interfaceOf(client) },
        (model) => model.settings(settings)
      )
    }
  }

  // ---- what happens to devices

  signIn(device: Client | Gateway): void {
    device.session += 1
    device.isOnline = false
    for (const [ref, { client }] of this.#pending) if (client === device) this.#pending.delete(ref)
    device.machine.core.portalDisconnected(this.world.now)
    device.machine.drain()
    const { session } = device
    const attempt = (): void => {
      if (device.session !== session || device.isAway) return
      device.isOnline = true
      device.key = keyOf(device.machine as Machine<Core>)
      device.machine.core.portalConnected(this.world.now)
      if (isClient(device)) this.#initialiseClient(device)
      else this.#initialiseGateway(device)
    }
    this.world.later(RECONNECT_DELAY, attempt)
  }

  setAway(device: Client | Gateway, isAway: boolean): void {
    device.isAway = isAway
    this.signIn(device)
  }

  roam(client: Client): void {
    const { machine, model } = client
    const peers = [...model.gateways, ...model.peers.keys()]
    machine.move(this.#lans[machine.lan === this.#lans[0] ? 1 : 0] as Lan)
    machine.core.reset(this.world.now)
    // 16.1: with path mode everywhere connections live on.
    if (!this.iceless) { for (const peer of peers) this.#lose(client, peer) }
    this.signIn(client)
  }

  restartClient(client: Client): void {
    const { machine, model } = client
    for (const peer of [...model.gateways, ...model.peers.keys()]) this.#lose(client, peer)
    client.list = []
    client.configs.length = 0
    client.askedAt.clear()
    machine.restart()
    client.model = new ClientModel(client, this.around, model.names.names)
    this.setSystemResolvers(client, client.system)
    this.signIn(client)
  }

  /** Everything that it knew is gone; without a goodbye the clients have to find out. */
  restartGateway(gateway: Gateway, saysGoodbye: boolean): void {
    if (saysGoodbye) {
      gateway.machine.core.close(this.world.now)
      gateway.machine.drain()
    }
    for (const { id, model } of this.clients) if (model.gateways.has(gateway.id)) this.stale.add(`${id} ${gateway.id}`)
    gateway.model.restart()
    gateway.machine.restart()
    this.signIn(gateway)
  }

  setSystemResolvers(client: Client, system: ReadonlyArray<string>): void {
    client.system = system
    client.machine.core.setSystemResolvers(system.map(ip))
    client.model.systemResolvers(system)
    client.machine.drain()
  }

  setInternet(client: Client, isOn: boolean): void {
    client.machine.core.setInternetResourceState(isOn, this.world.now)
    client.model.internet(isOn)
    client.machine.drain()
  }

  /** The client has forgotten a peer by itself, which does not know that. */
  #lose(client: Client, peer: string): void {
    client.model.lost(peer)
    this.stale.delete(`${client.id} ${peer}`)
    const other = this.clients.find(({ id }) => id === peer)
    if (other?.model.peers.has(client.id) === true) this.stale.add(`${peer} ${client.id}`)
  }

  // ---- devices

  #makeClient(number: number): Client {
    const { unixEpochMillis } = this.world
    const id = uuid(0xc00 + number)
    const device = { id, ipv4: `100.64.0.${number}`, ipv6: `fd00:2021:1111::${number}` }
    const model = new ClientModel(device, this.around)
    let before: ClientTunnel | undefined
    const machine = new Machine<ClientTunnel>(this.world, {
      id,
      lan: this.#lans[0] as Lan,
      make: (node) => {
        const savedNames = before?.savedNames()
        return before = new ClientTunnel({ node, crypto: cryptoFrom(this.world.random), unixEpochMillis, savedNames })
      },
      onPacket: (packet) => this.#hooks.onClientPacket(client, packet),
      onEvents: ({ core }) => this.#drainClient(client, core)
    })
    const client: Client = {
      ...device,
      machine,
      model,
      session: 0,
      isOnline: false,
      isAway: false,
      key: "",
      configs: [],
      list: [],
      system: [],
      askedAt: new Map()
    }
    return client
  }

  #makeGateway(number: number, site: string): Gateway {
    const id = uuid(0x900 + number)
    const device = { id, ipv4: `100.64.1.${number}`, ipv6: `fd00:2021:1111::1:${number}` }
    const machine = new Machine<GatewayTunnel>(this.world, {
      id,
      lan: this.#lans[1] as Lan,
      make: (node) => new GatewayTunnel({ node, unixEpochMillis: this.world.unixEpochMillis }),
      onPacket: (packet) => this.#hooks.onGatewayPacket(gateway, packet),
      onEvents: ({ core }) => this.#drainGateway(gateway, core)
    })
    const model = new GatewayModel(id, site, [device.ipv4, device.ipv6])
    const gateway: Gateway = { ...device, machine, model, site, session: 0, isOnline: false, isAway: false, key: "" }
    return gateway
  }

  #drainClient(client: Client, core: ClientTunnel): void {
    for (let event = core.pollEvent(); event !== undefined; event = core.pollEvent()) {
      switch (event._tag) {
        case "Request":
          this.#fromClient(client, event.request)
          break
        case "TunConfigUpdated":
          client.configs.push(event.config)
          break
        case "ResourcesUpdated":
          client.list = event.resources
          break
        case "PeerConnected":
          client.model.connected(event.peer, this.world.now)
          break
        case "PeerLost":
          this.#peerLost(client, event.peer, event.reason)
          break
        default:
      }
    }
    for (let query = core.pollDnsQuery(); query !== undefined; query = core.pollDnsQuery()) {
      const { id, message, upstream } = query
      const answer = this.#hooks.onQuery(client, upstream._tag === "Do53" ? upstream.address : upstream.url, message)
      this.world.later(20, () => {
        if (client.machine.core !== core) return
        core.dnsResponse(id, answer, this.world.now)
        client.machine.drain()
      })
    }
  }

  /** A connection may be over only when the model says so, or when the other side is not what it was. */
  #peerLost(client: Client, peer: string, reason: string): void {
    const { model } = client
    const isKnown = model.gateways.has(peer) || model.peers.has(peer)
    if (isKnown && !this.stale.delete(`${client.id} ${peer}`)) {
      this.#hooks.onViolation(`${client.id} lost ${peer} for no reason: ${reason}`)
    }
    if (isKnown) this.#lose(client, peer)
  }

  #drainGateway(gateway: Gateway, core: GatewayTunnel): void {
    for (let event = core.pollEvent(); event !== undefined; event = core.pollEvent()) {
      if (event._tag === "Request") this.#fromGateway(gateway, event.request)
      if (event._tag !== "ResolveDomain") continue
      const { domain } = event
      this.world.later(5, () => {
        core.domainResolved(domain, (this.records.get(domain.toLowerCase()) ?? []).map(ip), this.world.now)
        gateway.machine.drain()
      })
    }
  }

  // ---- what the portal says

  #interfaceOf({ ipv4, ipv6 }: Client): InterfaceConfig {
    const { do53, doh, searchDomain } = this.settings
    return { ipv4: ip(ipv4), ipv6: ip(ipv6), upstreamDo53: do53.map(ip), upstreamDoh: doh, searchDomain }
  }

  #initialiseClient(client: Client): void {
    const { settings } = this
    const resources = [...this.resources.values()]
    const inbound = this.#deviceGrants.filter(({ to }) => to === client)
    const init = {
      interface: this.#interfaceOf(client),
      resources: resources.map((each) => forClient(each, this.clients)),
      relays: [this.world.describeRelay(this.#relay, client.key)],
      authorizations: inbound.map(({ from, pool }) => ({
        clientId: from.id,
        resourceId: pool,
        expiresAt: 4_000_000_000
      }))
    }
    this.#toClient(client, { _tag: "Init", init }, (model) => {
      model.settings(settings)
      model.list(resources)
      model.inboundRetained((from, pool) => inbound.some((each) => each.from.id === from && each.pool === pool))
      client.askedAt.clear()
    })
  }

  #initialiseGateway(gateway: Gateway): void {
    const { key, model } = gateway
    const granted = this.#grants.filter((each) => each.gateway === gateway)
    this.#toGateway(
      gateway,
      {
        _tag: "GatewayInit",
        ipv4: ip(gateway.ipv4),
        ipv6: ip(gateway.ipv6),
        relays: [this.world.describeRelay(this.#relay, key)],
        authorizations: granted.map(({ client, expiresAt, resource }) => ({
          clientId: client.id,
          resourceId: resource,
          expiresAt: expiresAt === Infinity ? 4_000_000_000 : this.#unixSeconds(expiresAt)
        }))
      },
      () => {
        for (const client of this.clients) {
          const isListed = (id: string): boolean =>
            granted.some((each) => each.client === client && each.resource === id)
          if (model.knows(client.id) && model.revoke(client.id, (id) => !isListed(id))) this.#dismissed(client, gateway)
        }
      }
    )
  }

  #pushResource(client: Client, resource: Resource): void {
    this.#toClient(
      client,
      { _tag: "ResourceCreatedOrUpdated", resource: forClient(resource, this.clients) },
      (model) => {
        model.upsert(resource)
        for (const target of [...client.askedAt.keys()]) {
          if (!model.isWaitingFor(target)) client.askedAt.delete(target)
        }
      }
    )
  }

  #pushFilters(client: Client, pool: string, filters: Filters): void {
    this.#toClient(
      client,
      { _tag: "ResourceFiltersUpdated", id: pool, filters: filters.map(filterOf) },
      (model) => model.inboundFilters(pool, filters)
    )
  }

  #revoke(isMeant: (client: Client, resource: string) => boolean): void {
    for (const { client, gateway, resource } of this.#grants) {
      if (!isMeant(client, resource)) continue
      this.#toGateway(gateway, { _tag: "RejectAccess", clientId: client.id, resourceId: resource }, () => {
        const { model } = gateway
        if (model.knows(client.id) && model.revoke(client.id, (id) => id === resource)) this.#dismissed(client, gateway)
      })
    }
    this.#grants = this.#grants.filter(({ client, resource }) => !isMeant(client, resource))
  }

  /** The portal speaks of whole seconds. */
  #makeExpiry(): number {
    const { now, unixEpochMillis } = this.world
    if (this.#grantSeconds === 0) return Infinity
    return (Math.ceil((unixEpochMillis + now) / 1000) + this.#grantSeconds) * 1000 - unixEpochMillis
  }

  #unixSeconds(time: number): number {
    return (this.world.unixEpochMillis + time) / 1000
  }

  /** The gateway ends it by itself, unless it was ended or renewed before. */
  #expire(grant: Grant): void {
    if (!this.#grants.includes(grant)) return
    this.#grants = this.#grants.filter((each) => each !== grant)
    const { client, gateway, resource } = grant
    const { model } = gateway
    if (model.knows(client.id) && model.revoke(client.id, (id) => id === resource)) this.#dismissed(client, gateway)
  }

  /** The gateway has said goodbye, for the client has nothing left there. */
  #dismissed(client: Client, gateway: Gateway): void {
    if (client.model.gateways.has(gateway.id)) this.stale.add(`${client.id} ${gateway.id}`)
  }

  #endDeviceGrants(isMeant: (pool: string, to: Client, from: Client) => boolean, isRemoval: boolean): void {
    const over = this.#deviceGrants.filter(({ from, pool, to }) => isMeant(pool, to, from))
    this.#deviceGrants = this.#deviceGrants.filter((each) => !over.includes(each))
    for (const { from, pool, to } of over) {
      this.#toClient(
        to,
        { _tag: "RejectAccess", clientId: from.id, resourceId: pool },
        (model) => model.inboundRejected(from.id, pool)
      )
      const isListed = [...this.resources.values()].some((each) =>
        each.type === "static_device_pool" && each.members.includes(to.id)
      )
      if (!isRemoval || isListed) continue
      this.#denyDevice(from, "forbidden", [to.ipv4, to.ipv6])
    }
  }

  #denyDevice(client: Client, reason: string, addresses: ReadonlyArray<string>): void {
    const [ipv4] = addresses.filter((address) => !address.includes(":"))
    const [ipv6] = addresses.filter((address) => address.includes(":"))
    this.#toClient(
      client,
      {
        _tag: "DeviceAccessDenied",
        reason,
        ...ipv4 !== undefined && { ipv4: ip(ipv4) },
        ...ipv6 !== undefined && { ipv6: ip(ipv6) }
      },
      (model) => {
        const before = [...model.peers.keys()]
        model.deviceDenied(addresses)
        for (const id of before) if (!model.peers.has(id)) this.stale.delete(`${client.id} ${id}`)
        for (const target of [...client.askedAt.keys()]) {
          if (addresses.includes(target.split(" ")[1] ?? "")) client.askedAt.delete(target)
        }
      }
    )
  }

  #toClient(client: Client, push: ClientPush, tell: (model: ClientModel) => void): void {
    const { session } = client
    this.world.signal(() => {
      if (client.session !== session) return
      tell(client.model)
      client.machine.core.handlePush(push, this.world.now)
      client.machine.drain()
    })
  }

  #toGateway(gateway: Gateway, push: GatewayPush, tell: () => void): void {
    const { session } = gateway
    this.world.signal(() => {
      if (gateway.session !== session) return
      tell()
      gateway.machine.core.handlePush(push, this.world.now)
      gateway.machine.drain()
    })
  }

  // ---- what devices ask

  #later(device: Client | Gateway, run: () => void): void {
    const { session } = device
    this.world.signal(() => {
      if (device.session === session && device.isOnline) run()
    })
  }

  #fromClient(client: Client, request: ClientRequest): void {
    switch (request._tag) {
      case "RequestAuthorization": {
        const { connectedGatewayIds, ipv4, ipv6, resourceId } = request
        const address = ipv4 ?? ipv6
        const target = address === undefined ? resourceId : `${resourceId} ${address}`
        this.#asked(client, resourceId, target)
        return this.#later(client, () =>
          address === undefined
            ? this.#authorise(client, resourceId, connectedGatewayIds)
            : this.#authoriseDevice(client, resourceId, address))
      }
      case "NewGatewayIceCandidates":
      case "InvalidateGatewayIceCandidates": {
        const _tag = request._tag === "NewGatewayIceCandidates"
          ? "GatewayIceCandidates"
          : "GatewayInvalidateIceCandidates"
        const { candidates, gatewayId } = request
        return this.#later(client, () => {
          const gateway = this.gateways.find(({ id }) => id === gatewayId)
          if (gateway !== undefined) {
            this.#toGateway(gateway, { _tag, clientId: client.id, candidates }, () => undefined)
          }
        })
      }
      case "NewClientIceCandidates":
      case "InvalidateClientIceCandidates": {
        const _tag = request._tag === "NewClientIceCandidates" ? "ClientIceCandidates" : "InvalidateClientIceCandidates"
        const { candidates, clientId } = request
        return this.#later(client, () => {
          const other = this.clients.find(({ id }) => id === clientId)
          if (other?.isOnline === true) {
            return this.#toClient(other, { _tag, clientId: client.id, candidates }, () => undefined)
          }
          this.#toClient(client, { _tag: "ClientIceCandidateError", clientId, reason: "offline" }, (model) => {
            model.deviceOffline(clientId)
            this.stale.delete(`${client.id} ${clientId}`)
          })
        })
      }
      case "NoRelays":
        return this.#later(client, () => this.#pushRelays(client))
      case "ResolveDevicePoolDomain": {
        const { domain, resourceId } = request
        this.#hooks.onDeviceQuery(client, resourceId, domain)
        return this.#later(client, () => this.#resolveDevice(client, resourceId, domain))
      }
      case "SetSnownetCapabilities":
        return
    }
  }

  #asked(client: Client, resourceId: string, target: string): void {
    const { now } = this.world
    const at = client.askedAt.get(target)
    if (!client.model.resources.has(resourceId)) this.#hooks.onViolation(`asked for ${target}, which is not there`)
    if (at !== undefined && now - at < COOL_DOWN) this.#hooks.onViolation(`asked for ${target} twice in ${now - at} ms`)
    client.askedAt.set(target, now)
    client.model.asked(target, now)
  }

  #fromGateway(gateway: Gateway, request: GatewayRequest): void {
    switch (request._tag) {
      case "AuthorizationConfirmed":
        return this.#later(gateway, () => {
          const pending = this.#pending.get(request.ref)
          this.#pending.delete(request.ref)
          if (pending !== undefined && pending.client.session === pending.session) pending.run()
        })
      case "BroadcastIceCandidates":
      case "BroadcastInvalidatedIceCandidates": {
        const _tag = request._tag === "BroadcastIceCandidates" ? "IceCandidates" : "InvalidateIceCandidates"
        const { candidates, clientIds } = request
        return this.#later(gateway, () => {
          for (const client of this.clients) {
            if (!clientIds.includes(client.id)) continue
            this.#toClient(client, { _tag, gatewayId: gateway.id, candidates }, () => undefined)
          }
        })
      }
      case "NoRelays":
        return this.#later(gateway, () => this.#pushRelays(gateway))
      case "SetSnownetCapabilities":
        return
    }
  }

  #pushRelays(device: Client | Gateway): void {
    const connected = [this.world.describeRelay(this.#relay, device.key)]
    const push = { _tag: "RelaysPresence", disconnectedIds: [], connected } as const
    if (isClient(device)) this.#toClient(device, push, () => undefined)
    else this.#toGateway(device, push, () => undefined)
  }

  /** Whether the portal would let the client in, were it there. */
  wouldGrant(client: Client, target: string): boolean {
    const [id = "", address] = target.split(" ")
    const resource = this.resources.get(id)
    if (!client.isOnline || resource === undefined || this.forbidden.has(id)) return false
    if (resource.type === "static_device_pool") {
      const other = this.clients.find(({ ipv4, ipv6 }) => ipv4 === address || ipv6 === address)
      return other !== undefined && other.isOnline && resource.members.includes(other.id)
    }
    return "site" in resource && this.gateways.some(({ isOnline, site }) => isOnline && site === resource.site)
  }

  #authorise(client: Client, id: string, connected: ReadonlyArray<string>): void {
    const resource = this.resources.get(id)
    const fail = (reason: string): void => {
      this.#toClient(
        client,
        { _tag: "AuthorizationCreationFailed", resourceId: id, reason, violatedProperties: [] },
        (model) => {
          const before = [...model.gateways]
          model.denied(id, reason, this.world.now)
          for (const peer of before) if (!model.gateways.has(peer)) this.stale.delete(`${client.id} ${peer}`)
          if (reason === "offline") client.askedAt.delete(id)
        }
      )
    }
    if (resource === undefined || !("site" in resource)) return fail("not_found")
    if (this.forbidden.has(id)) return fail("forbidden")
    const candidates = this.gateways.filter(({ isOnline, site }) => isOnline && site === resource.site)
    const gateway = candidates.find((each) => connected.includes(each.id)) ??
      candidates[Math.floor(this.world.random() * candidates.length)]
    if (gateway === undefined) return fail("offline")
    const ref = String(++this.#refs)
    const [shared, ...credentials] = credentialsOf(client.key, gateway.key)
    const [clientIceCredentials, gatewayIceCredentials] = credentials
    const { ipv4, ipv6 } = client
    const others = this.#grants.filter((each) =>
      each.client !== client || each.gateway !== gateway || each.resource !== id
    )
    const expiresAt = this.#makeExpiry()
    const grant = { client, gateway, resource: id, expiresAt }
    this.#grants = [...others, grant]
    if (expiresAt < Infinity) this.world.later(expiresAt - this.world.now, () => this.#expire(grant))
    this.#pending.set(ref, {
      client,
      session: client.session,
      run: () => {
        this.#toClient(
          client,
          {
            _tag: "AuthorizationCreated",
            authorization: {
              resourceId: id,
              gatewayId: gateway.id,
              gatewayPublicKey: bytesOf(gateway.key),
              gatewayIpv4: ip(gateway.ipv4),
              gatewayIpv6: ip(gateway.ipv6),
              siteId: gateway.site,
              presharedKey: shared,
              clientIceCredentials,
              gatewayIceCredentials,
              useIceless: this.iceless
            }
          },
          (model) => {
            model.granted(id, gateway.model, this.world.now)
            client.askedAt.delete(id)
            this.stale.delete(`${client.id} ${gateway.id}`)
          }
        )
      }
    })
    this.#toGateway(
      gateway,
      {
        _tag: "CreateAuthorization",
        authorization: {
          ref,
          resource: forGateway(resource),
          client: {
            id: client.id,
            publicKey: bytesOf(client.key),
            presharedKey: shared,
            ipv4: ip(ipv4),
            ipv6: ip(ipv6)
          },
          clientIceCredentials,
          gatewayIceCredentials,
          useIceless: this.iceless,
          ...expiresAt < Infinity && { expiresAt: this.#unixSeconds(expiresAt) }
        }
      },
      () => gateway.model.grant(client.id, [ipv4, ipv6], resource)
    )
  }

  #authoriseDevice(from: Client, id: string, address: string): void {
    const resource = this.resources.get(id)
    const to = this.clients.find(({ ipv4, ipv6 }) => ipv4 === address || ipv6 === address)
    const isMember = resource?.type === "static_device_pool" && to !== undefined && resource.members.includes(to.id)
    if (!isMember || this.forbidden.has(id)) return this.#denyDevice(from, "forbidden", [address])
    if (!to.isOnline) return this.#denyDevice(from, "offline", [address])
    const { filters } = resource
    const others = this.#deviceGrants.filter((each) => each.from !== from || each.to !== to || each.pool !== id)
    this.#deviceGrants = [...others, { from, to, pool: id }]
    // Either may have asked first, and it is the same connection for both.
    const [one, other] = from.id < to.id ? [from, to] : [to, from]
    const [presharedKey, ofOne, ofOther] = credentialsOf(one.key, other.key)
    const tell = (client: Client, peer: Client, inbound?: { readonly id: string; readonly filters: Filters }): void =>
      this.#toClient(
        client,
        {
          _tag: "DeviceAccessAuthorized",
          access: {
            clientId: peer.id,
            clientName: "device",
            clientPublicKey: bytesOf(peer.key),
            clientIpv4: ip(peer.ipv4),
            clientIpv6: ip(peer.ipv6),
            presharedKey,
            localIceCredentials: client === one ? ofOne : ofOther,
            remoteIceCredentials: client === one ? ofOther : ofOne,
            iceRole: inbound === undefined ? "controlling" : "controlled",
            useIceless: this.iceless,
            ...inbound !== undefined && { resource: { id: inbound.id, filters: inbound.filters.map(filterOf) } }
          }
        },
        (model) => {
          const isNew = this.stale.delete(`${client.id} ${peer.id}`)
          const released = model.deviceGranted(peer, inbound, isNew)
          this.world.later(0, () => model.release(released, peer.id, this.world.now))
          for (const target of [...client.askedAt.keys()]) {
            if (!model.isWaitingFor(target) && target.includes(" ")) client.askedAt.delete(target)
          }
        }
      )
    tell(to, from, { id, filters })
    tell(from, to)
  }

  #resolveDevice(client: Client, id: string, domain: string): void {
    const resource = this.resources.get(id)
    const device = resource?.type === "dynamic_device_pool" && matches(resource.pattern, domain)
      ? this.deviceNamed(domain)
      : undefined
    if (device === undefined) {
      const failed = { _tag: "DevicePoolDomainResolutionFailed", resourceId: id, domain, reason: "not_found" } as const
      return this.#toClient(client, failed, () => undefined)
    }
    const { ipv4, ipv6 } = device
    this.#toClient(
      client,
      { _tag: "DevicePoolDomainResolved", resourceId: id, domain, ipv4: ip(ipv4), ipv6: ip(ipv6) },
      (model) => model.resolved(id, domain, { ipv4, ipv6 })
    )
  }

  /** The devices of the dynamic pools are `one` and `two`. */
  deviceNamed(domain: string): Client | undefined {
    return this.clients[["one", "two"].indexOf(domain.toLowerCase().split(".")[0] ?? "")]
  }
}

const isClient = (device: Client | Gateway): device is Client => "configs" in device
