/**
 * A portal in memory for many clients and gateways: it introduces them, carries their candidates, hands out relays and
 * takes back access (portal spec sections 5 to 7). Its messages arrive in order, or not at all while it is away.
 */
import { createHash } from "node:crypto"
import type { Relay } from "../../src/protocol/node/types.ts"
import type {
  ClientPush,
  ClientRequest,
  GatewayPush,
  GatewayRequest,
  InboundAuthorization
} from "../../src/protocol/portal/types.ts"
import { ClientTunnel } from "../../src/protocol/tunnel/ClientTunnel.ts"
import { GatewayTunnel } from "../../src/protocol/tunnel/GatewayTunnel.ts"
import { ip } from "../../src/protocol/wire/address.ts"
import { cidr, type Gateway, gateway as describeGateway, uuid } from "../protocol/tunnel/fixtures.ts"
import type { Lan } from "./Lan.ts"
import { type Core, Machine } from "./Machine.ts"
import { cryptoFrom } from "./random.ts"
import type { World } from "./World.ts"

/** Milliseconds. */
const RELAYS_DELAY = 1000
const RECONNECT_DELAY = 200
/** As many as the portal hands out (connectivity spec 2.1). */
const MAX_RELAYS = 2

const hash = (text: string): Uint8Array => Uint8Array.from(createHash("sha256").update(text).digest())
const keyOf = ({ machine }: Any): string => Buffer.from(machine.node.publicKey).toString("base64")

interface Device<C extends Core> {
  readonly machine: Machine<C>
  /** Counts the times it has signed in; what was meant for an earlier one is lost. */
  session: number
  isOnline: boolean
  /** The key that the portal knows. */
  key: string
  relays: ReadonlyArray<string>
}
export interface Client extends Device<ClientTunnel> {
  readonly ipv4: string
  readonly ipv6: string
}
export interface GatewayDevice extends Device<GatewayTunnel> {
  readonly description: Gateway
  readonly site: number
}
type Any = Client | GatewayDevice

interface Grant extends InboundAuthorization {
  readonly gateway: GatewayDevice
}

export interface AccountOptions {
  readonly relays: ReadonlyArray<string>
  readonly sites: number
  /** Whether connections are made in path mode. */
  readonly iceless: boolean
  readonly onClientPacket: (client: Client, packet: Uint8Array) => void
  readonly onGatewayPacket: (gateway: GatewayDevice, packet: Uint8Array) => void
}

export class Account {
  readonly clients: Array<Client> = []
  readonly gateways: Array<GatewayDevice> = []
  /** Relays of which the portal believes that they are there. */
  relays: ReadonlyArray<string>
  /** Seconds that a grant lasts; without end by default. */
  grantSeconds: number | undefined
  readonly #world: World
  readonly #options: AccountOptions
  readonly #pending = new Map<string, { readonly client: Client; readonly session: number; readonly grant: Grant }>()
  #grants: ReadonlyArray<Grant> = []
  #isAway = false
  #refs = 0

  constructor(world: World, options: AccountOptions) {
    this.#world = world
    this.#options = options
    this.relays = options.relays
  }

  addClient(lan: Lan): void {
    const number = this.clients.length + 1
    const machine = new Machine<ClientTunnel>(this.#world, {
      id: uuid(0xc00 + number),
      lan,
      make: (node) =>
        new ClientTunnel({
          node,
          crypto: cryptoFrom(this.#world.random),
          unixEpochMillis: this.#world.unixEpochMillis
        }),
      onPacket: (packet) => this.#options.onClientPacket(client, packet),
      onEvents: ({ core }) => {
        for (let event = core.pollEvent(); event !== undefined; event = core.pollEvent()) {
          if (event._tag === "Request") this.#fromClient(client, event.request)
        }
      }
    })
    const client: Client = {
      machine,
      session: 0,
      isOnline: false,
      key: "",
      relays: [],
      ipv4: `100.64.0.${number}`,
      ipv6: `fd00:2021:1111::${number}`
    }
    this.clients.push(client)
    this.signIn(client)
  }

  addGateway(lan: Lan, site: number): void {
    const description = describeGateway(this.gateways.length + 1, uuid(0xa00 + site))
    const { unixEpochMillis } = this.#world
    const machine = new Machine<GatewayTunnel>(this.#world, {
      id: description.id,
      lan,
      make: (node) => new GatewayTunnel({ node, unixEpochMillis }),
      onPacket: (packet) => this.#options.onGatewayPacket(gateway, packet),
      onEvents: ({ core }) => {
        for (let event = core.pollEvent(); event !== undefined; event = core.pollEvent()) {
          if (event._tag === "Request") this.#fromGateway(gateway, event.request)
        }
      }
    })
    const gateway: GatewayDevice = { machine, session: 0, isOnline: false, key: "", relays: [], description, site }
    this.gateways.push(gateway)
    this.signIn(gateway)
  }

  /** As a driver does with a new key, or when its connection is lost. */
  signIn(device: Any): void {
    device.session += 1
    device.isOnline = false
    this.#pending.forEach(({ client, grant }, ref) => {
      if (client === device || grant.gateway === device) this.#pending.delete(ref)
    })
    device.machine.core.portalDisconnected(this.#world.now)
    this.#drain(device)
    const { session } = device
    const attempt = (): void => {
      if (device.session !== session) return
      if (this.#isAway || device.machine.isAsleep) return this.#world.later(RECONNECT_DELAY, attempt)
      device.isOnline = true
      device.key = keyOf(device)
      device.machine.core.portalConnected(this.#world.now)
      this.#initialise(device)
    }
    this.#world.later(RECONNECT_DELAY, attempt)
  }

  /** The portal is away until told otherwise, and all that is under way is lost. */
  set isAway(isAway: boolean) {
    this.#isAway = isAway
    if (isAway) { for (const device of [...this.clients, ...this.gateways]) this.signIn(device) }
  }

  /** Tells everybody which relays have gone and which have come. */
  announceRelays(relays: ReadonlyArray<string>): void {
    this.relays = relays
    for (const device of [...this.clients, ...this.gateways]) {
      const disconnectedIds = device.relays.filter((id) => !relays.includes(id))
      device.relays = relays.slice(0, MAX_RELAYS)
      this.#push(device, { _tag: "RelaysPresence", disconnectedIds, connected: this.#relaysFor(device) })
    }
  }

  /** Takes back what the client may reach in a site. */
  revoke(client: Client, site: number): void {
    const resourceId = resourceOf(site).id
    const clientId = client.machine.id
    for (const { gateway, ...grant } of this.#grants) {
      if (grant.clientId !== clientId || grant.resourceId !== resourceId) continue
      this.#push(gateway, { _tag: "RejectAccess", clientId, resourceId })
    }
    this.#grants = this.#grants.filter((grant) => grant.clientId !== clientId || grant.resourceId !== resourceId)
  }

  /** The resource of a site goes, and comes back a while later. */
  replaceResource(site: number, pause: number): void {
    const resource = resourceOf(site)
    for (const client of this.clients) this.#push(client, { _tag: "ResourceDeleted", id: resource.id })
    this.#world.later(pause, () => {
      for (const client of this.clients) this.#push(client, { _tag: "ResourceCreatedOrUpdated", resource })
    })
  }

  #initialise(device: Any): void {
    const { now, unixEpochMillis } = this.#world
    device.relays = this.relays.slice(0, MAX_RELAYS)
    const relays = this.#relaysFor(device)
    if (isClient(device)) {
      const resources = Array.from({ length: this.#options.sites }, (_, site) => resourceOf(site))
      return this.#push(device, {
        _tag: "Init",
        init: {
          interface: { ipv4: ip(device.ipv4), ipv6: ip(device.ipv6), upstreamDo53: [], upstreamDoh: [] },
          resources,
          relays,
          authorizations: []
        }
      })
    }
    const unix = (unixEpochMillis + now) / 1000
    const authorizations = this.#grants.filter(({ expiresAt, gateway }) => gateway === device && expiresAt > unix)
    const { ipv4, ipv6 } = device.description
    this.#push(device, { _tag: "GatewayInit", ipv4: ip(ipv4), ipv6: ip(ipv6), relays, authorizations })
  }

  #relaysFor(device: Any): ReadonlyArray<Relay> {
    return device.relays.map((id) => this.#world.describeRelay(id, device.key))
  }

  #push(device: Any, push: ClientPush | GatewayPush): void {
    const { session } = device
    const arrive = (): void => {
      if (device.session !== session) return
      if (device.machine.isAsleep) return this.#world.later(RECONNECT_DELAY, arrive)
      if (isClient(device)) device.machine.core.handlePush(push as ClientPush, this.#world.now)
      else device.machine.core.handlePush(push as GatewayPush, this.#world.now)
      this.#drain(device)
    }
    this.#world.signal(arrive)
  }

  #drain(device: Any): void {
    device.machine.drain()
  }

  /** Runs what a device has asked for, once it has got here. */
  #later(device: Any, run: () => void): void {
    const { session } = device
    this.#world.signal(() => {
      if (device.session === session && device.isOnline) run()
    })
  }

  #fromClient(client: Client, request: ClientRequest): void {
    const clientId = client.machine.id
    switch (request._tag) {
      case "RequestAuthorization":
        return this.#later(client, () => this.#authorize(client, request.resourceId, request.connectedGatewayIds))
      case "NewGatewayIceCandidates":
      case "InvalidateGatewayIceCandidates": {
        const _tag = request._tag === "NewGatewayIceCandidates"
          ? "GatewayIceCandidates"
          : "GatewayInvalidateIceCandidates"
        const gateway = this.gateways.find(({ machine }) => machine.id === request.gatewayId)
        return this.#later(client, () => {
          if (gateway !== undefined) this.#push(gateway, { _tag, clientId, candidates: request.candidates })
        })
      }
      case "NoRelays":
        return this.#later(client, () => this.#replaceRelays(client))
      default:
        throw new Error(`${request._tag} is nothing that this portal knows`)
    }
  }

  #fromGateway(gateway: GatewayDevice, request: GatewayRequest): void {
    const gatewayId = gateway.machine.id
    switch (request._tag) {
      case "AuthorizationConfirmed":
        return this.#later(gateway, () => this.#confirm(request.ref))
      case "BroadcastIceCandidates":
      case "BroadcastInvalidatedIceCandidates": {
        const _tag = request._tag === "BroadcastIceCandidates" ? "IceCandidates" : "InvalidateIceCandidates"
        return this.#later(gateway, () => {
          for (const client of this.clients) {
            if (!request.clientIds.includes(client.machine.id)) continue
            this.#push(client, { _tag, gatewayId, candidates: request.candidates })
          }
        })
      }
      case "NoRelays":
        return this.#later(gateway, () => this.#replaceRelays(gateway))
      default:
        throw new Error(`${request._tag} is nothing that this portal knows`)
    }
  }

  #replaceRelays(device: Any): void {
    this.#world.later(RELAYS_DELAY, () => {
      device.relays = this.relays.slice(0, MAX_RELAYS)
      this.#push(device, { _tag: "RelaysPresence", disconnectedIds: [], connected: this.#relaysFor(device) })
    })
  }

  #authorize(client: Client, resourceId: string, connected: ReadonlyArray<string>): void {
    const site = siteOf(resourceId)
    const candidates = this.gateways.filter((gateway) => gateway.site === site && gateway.isOnline)
    const preferred = candidates.find(({ machine }) => connected.includes(machine.id))
    const gateway = preferred ?? candidates[Math.floor(this.#world.random() * candidates.length)]
    if (gateway === undefined) {
      return this.#push(client, {
        _tag: "AuthorizationCreationFailed",
        resourceId,
        reason: "offline",
        violatedProperties: []
      })
    }
    const { ipv4, ipv6, machine } = client
    const expiresAt = this.grantSeconds === undefined
      ? Number.POSITIVE_INFINITY
      : Math.floor((this.#world.unixEpochMillis + this.#world.now) / 1000) + this.grantSeconds
    const grant: Grant = { clientId: machine.id, resourceId, expiresAt, gateway }
    const ref = String(++this.#refs)
    this.#pending.set(ref, { client, session: client.session, grant })
    this.#push(gateway, {
      _tag: "CreateAuthorization",
      authorization: {
        ref,
        resource: resourceOf(site),
        client: {
          id: machine.id,
          publicKey: Uint8Array.from(Buffer.from(client.key, "base64")),
          presharedKey: this.#presharedKey(client, gateway),
          ipv4: ip(ipv4),
          ipv6: ip(ipv6)
        },
        expiresAt: Number.isFinite(expiresAt) ? expiresAt : undefined,
        useIceless: this.#options.iceless,
        ...this.#credentials(client, gateway)
      }
    })
  }

  #confirm(ref: string): void {
    const pending = this.#pending.get(ref)
    this.#pending.delete(ref)
    if (pending === undefined || pending.client.session !== pending.session) return
    const { client, grant } = pending
    const { gateway } = grant
    const { clientId, resourceId } = grant
    this.#grants = [
      ...this.#grants.filter((other) =>
        other.clientId !== clientId || other.resourceId !== resourceId || other.gateway !== gateway
      ),
      grant
    ]
    const { description } = gateway
    this.#push(client, {
      _tag: "AuthorizationCreated",
      authorization: {
        resourceId,
        gatewayId: description.id,
        gatewayPublicKey: Uint8Array.from(Buffer.from(gateway.key, "base64")),
        gatewayIpv4: ip(description.ipv4),
        gatewayIpv6: ip(description.ipv6),
        siteId: description.site,
        presharedKey: this.#presharedKey(client, gateway),
        useIceless: this.#options.iceless,
        ...this.#credentials(client, gateway)
      }
    })
  }

  /** Equal for equal keys, as all that two devices share. */
  #presharedKey(client: Client, gateway: GatewayDevice): Uint8Array {
    return hash(`psk ${client.key} ${gateway.key}`)
  }

  #credentials(client: Client, gateway: GatewayDevice) {
    const text = Buffer.from(hash(`ice ${client.key} ${gateway.key}`)).toString("hex")
    return {
      clientIceCredentials: { username: text.slice(0, 4), password: text.slice(4, 26) },
      gatewayIceCredentials: { username: text.slice(30, 34), password: text.slice(34, 56) }
    }
  }
}

const isClient = (device: Any): device is Client => "ipv4" in device

/** Every site has one network. */
export const resourceOf = (site: number) =>
  cidr(0xe00 + site, `10.200.${site}.0/24`, { sites: [{ id: uuid(0xa00 + site), name: `site ${site}` }] })

const siteOf = (resourceId: string): number => Number.parseInt(resourceId.slice(-3), 16) - 0xe00
