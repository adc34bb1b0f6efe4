/** What the portal decides (portal spec sections 6 to 10): resources, relays, and who may reach what through which gateway. */
import * as Either from "effect/Either"
import { decodeClientRequest, decodeGatewayRequest } from "../../model/portalRequest.ts"
import { readResource } from "../../model/portalValues.ts"
import type { ClientRequest, GatewayRequest, Site } from "../../protocol/portal/types.ts"
import { type Agent, areCompatible, canReachInternet } from "./agent.ts"
import { type Attempt, Authorizations, type Grant } from "./Authorizations.ts"
import type { DnsConfig, Knobs, PortalConfig, ResourceConfig } from "./config.ts"
import { GATEWAY_RELAY_EXPIRY } from "./derivations.ts"
import { type DeviceRecord, Devices } from "./Devices.ts"
import { Pools } from "./Pools.ts"
import { RelayPool } from "./RelayPool.ts"
import { type Frame, printable, type Session } from "./Session.ts"
import * as views from "./views.ts"

/** Clients wait 2 s; a little less may arrive here. */
const REQUEST_INTERVAL = 1900
const MAX_RESOURCES = 4096

export interface AccountOptions {
  readonly randomBytes: (length: number) => Uint8Array
  readonly unixSeconds: (now: number) => number
  readonly knobs: Knobs
}

export class Account {
  readonly devices: Devices
  readonly relays: RelayPool
  readonly pools: Pools
  readonly authorizations = new Authorizations()
  readonly #options: AccountOptions
  readonly #iceless: boolean
  readonly #siteOf: (gateway: DeviceRecord) => string
  readonly #sites: ReadonlyMap<string, Site>
  readonly #resources = new Map<string, ResourceConfig>()
  #dns: DnsConfig

  /** Throws if the configuration contradicts itself. */
  constructor(config: PortalConfig, options: AccountOptions) {
    this.#options = options
    this.#iceless = config.iceless
    this.#sites = new Map(config.sites.map((site) => [site.id, site]))
    const { gatewaySite, gatewaySites = {} } = config
    this.#siteOf = ({ externalId }) => gatewaySites[externalId] ?? gatewaySite
    for (const site of [gatewaySite, ...Object.values(gatewaySites)]) {
      if (!this.#sites.has(site)) throw new Error("gatewaySite or one of gatewaySites is not one of the sites")
    }
    this.#dns = config.dns ?? {}
    this.devices = new Devices(options.randomBytes)
    this.relays = new RelayPool(options.randomBytes, config.relays)
    const { iceless, pools = [] } = config
    this.pools = new Pools(this.devices, pools, { iceless, unixSeconds: options.unixSeconds })
    for (const resource of config.resources) {
      this.#check(resource)
      this.#resources.set(resource.id, resource)
    }
  }

  get resources(): ReadonlyArray<ResourceConfig> {
    return [...this.#resources.values()]
  }

  /** What follows the answer to a join. */
  welcome(session: Session, now: number): void {
    if (session.login.role === "relay") return session.push("init", {})
    const { device } = session
    if (device === undefined) return
    device.session = session
    this.#pushInit(session, device, now)
    if (device.connects === 1) this.pools.addressed(device)
  }

  /** An event on a joined channel of a client or gateway. */
  handle(session: Session, device: DeviceRecord, frame: Frame, now: number): void {
    const { endpoint } = session.login
    const { event, payload } = frame
    const decoded: Either.Either<
      ReadonlyArray<ClientRequest | GatewayRequest>,
      { readonly _tag: string; why: string }
    > = device.role === "client"
      ? decodeClientRequest(event, payload, endpoint)
      : decodeGatewayRequest(event, payload, endpoint)
    if (Either.isLeft(decoded)) {
      session.violation(`${printable(event)}: ${decoded.left.why}`)
      return decoded.left._tag === "UnknownEvent" ? session.reply(frame, "unknown_message") : session.crash()
    }
    device.count(event)
    device.remember({ event, payload })
    for (const request of decoded.right) this.#handleRequest(session, device, request, frame, now)
  }

  gone(session: Session, now: number): void {
    this.authorizations.forgetSession(session)
    this.relays.removeSession(session, now)
    if (session.device?.session === session) session.device.session = undefined
  }

  pollTimeout(): number | undefined {
    const deadlines = [this.authorizations.pollTimeout(), this.relays.pollTimeout()].filter((at) => at !== undefined)
    return deadlines.length === 0 ? undefined : Math.min(...deadlines)
  }

  handleTimeout(now: number): void {
    for (const attempt of this.authorizations.takeTimedOut(now)) {
      this.#fail(attempt.client, attempt.resourceId, "offline")
    }
    const channels = this.devices.all.flatMap(({ session }) => session ?? [])
    for (const { disconnected, session } of this.relays.takeUpdates(channels, now)) {
      this.#pushRelays(session, disconnected)
    }
  }

  /** Tells clients of the confirmations that were held. */
  release(): void {
    for (const attempt of this.authorizations.pending) if (attempt.confirmed) this.#complete(attempt)
  }

  // ---- commands

  putResource(resource: ResourceConfig): void {
    this.#check(resource)
    const before = this.#resources.get(resource.id)
    if (before === undefined && this.#resources.size >= MAX_RESOURCES) throw new Error("too many resources")
    this.#resources.set(resource.id, resource)
    for (const session of this.#channels("client")) {
      session.askedAt.delete(resource.id)
      if (!isVisible(resource, session.login.agent)) continue
      session.push("resource_created_or_updated", views.clientResource(resource, this.#sites, session.login.agent))
    }
    if (before === undefined) return
    const isSame = (...members: ReadonlyArray<string>): boolean =>
      members.every((member) =>
        JSON.stringify(before[member as keyof ResourceConfig]) ===
          JSON.stringify(resource[member as keyof ResourceConfig])
      )
    if (!isSame("type", "address", "ip_stack", "sites")) {
      return this.#revoke((grant) => grant.resourceId === resource.id)
    }
    if (isSame("name", "filters")) return
    const gatewayIds = new Set(
      this.authorizations.grants.filter(({ resourceId }) => resourceId === resource.id).map(({ gatewayId }) =>
        gatewayId
      )
    )
    for (const id of gatewayIds) {
      this.devices.byId(id)?.session?.push("resource_updated", views.gatewayResource(resource))
    }
  }

  deleteResource(id: string): void {
    if (!this.#resources.delete(id)) throw new Error(`no such resource: ${id}`)
    for (const session of this.#channels("client")) {
      session.askedAt.delete(id)
      session.push("resource_deleted", id)
    }
    this.#revoke((grant) => grant.resourceId === id)
  }

  readdress(device: DeviceRecord, addresses: { readonly ipv4?: string; readonly ipv6?: string }, now: number): void {
    this.devices.readdress(device, addresses)
    if (device.session !== undefined) this.#pushInit(device.session, device, now)
    this.pools.addressed(device)
  }

  setDns(dns: DnsConfig): void {
    this.#dns = dns
    for (const session of this.#channels("client")) {
      if (session.device === undefined) continue
      session.push("config_changed", { interface: views.clientInterface(session.device, dns) })
    }
  }

  /** Ends every grant of a client. */
  revokeClient(clientId: string): void {
    this.#revoke((grant) => grant.clientId === clientId)
    this.pools.revokeClient(clientId)
  }

  // ---- requests

  #handleRequest(
    session: Session,
    device: DeviceRecord,
    request: ClientRequest | GatewayRequest,
    frame: Frame,
    now: number
  ): void {
    switch (request._tag) {
      case "SetSnownetCapabilities":
        session.iceless = request.iceless
        return
      case "NoRelays":
        return this.#pushRelays(session, [])
      case "RequestAuthorization":
        return this.pools.has(request.resourceId)
          ? this.pools.authorize(session, device, request, now)
          : this.#authorize(session, device, request, now)
      case "NewGatewayIceCandidates":
        return this.#toGateway(session, device, "ice_candidates", request)
      case "InvalidateGatewayIceCandidates":
        return this.#toGateway(session, device, "invalidate_ice_candidates", request)
      case "AuthorizationConfirmed":
        return this.#confirm(session, device, request.ref, frame)
      case "BroadcastIceCandidates":
        return this.#toClients(session, device, "ice_candidates", request)
      case "BroadcastInvalidatedIceCandidates":
        return this.#toClients(session, device, "invalidate_ice_candidates", request)
      case "NewClientIceCandidates":
      case "InvalidateClientIceCandidates":
        return this.pools.forward(session, device, request)
      case "ResolveDevicePoolDomain":
        return this.pools.resolve(session, request)
    }
  }

  #authorize(
    session: Session,
    client: DeviceRecord,
    request: ClientRequest & { readonly _tag: "RequestAuthorization" },
    now: number
  ): void {
    const { resourceId } = request
    const { agent } = session.login
    const { knobs, unixSeconds } = this.#options
    if (request.ipv4 !== undefined || request.ipv6 !== undefined) {
      session.violation("a request with a device's address for what is no device pool")
    }
    const resource = this.#resources.get(resourceId)
    if (resource === undefined || !isVisible(resource, agent)) return this.#fail(session, resourceId, "not_found")
    const askedAt = session.askedAt.get(resourceId)
    if (askedAt !== undefined && now - askedAt < REQUEST_INTERVAL) {
      session.violation(`a second request for one resource after ${Math.round(now - askedAt)} ms`)
    }
    session.askedAt.set(resourceId, now)
    if (knobs.failAuthorizations !== undefined) {
      const { reason, violatedProperties } = knobs.failAuthorizations
      return this.#fail(session, resourceId, reason, violatedProperties)
    }

    const gateway = this.#chooseGateway(resource, agent, request.connectedGatewayIds)
    if (typeof gateway === "string") return this.#fail(session, resourceId, gateway)
    const channel = gateway.session
    if (channel === undefined) return this.#fail(session, resourceId, "offline")

    const ref = Buffer.from(this.#options.randomBytes(24)).toString("base64url")
    const expiresAt = Math.min(session.expiresAt, unixSeconds(now) + (knobs.grantSeconds ?? Infinity))
    const { forClient, forGateway } = views.authorization({
      ref,
      resource,
      client,
      gateway,
      siteId: this.#siteOf(gateway),
      useIceless: this.#iceless && session.iceless && channel.iceless,
      authorizedAt: unixSeconds(now),
      expiresAt
    })
    channel.push(channel.login.endpoint === "v2" ? "create_authorization" : "authorize_flow", forGateway)
    this.authorizations.begin({ ref, client: session, gateway, resourceId, answer: forClient }, expiresAt, now)
  }

  /** One of those online, or why there is none. Nobody's location is known, so chance decides. */
  #chooseGateway(
    resource: ResourceConfig,
    agent: Agent,
    preferred: ReadonlyArray<string>
  ): DeviceRecord | "offline" | "version_mismatch" {
    const online = this.devices.all.filter((device) =>
      device.role === "gateway" && device.session !== undefined && resource.sites.includes(this.#siteOf(device))
    )
    if (online.length === 0) return "offline"
    const compatible = online.filter(({ login }) =>
      areCompatible(agent, login.agent) && isVisible(resource, login.agent)
    )
    const known = compatible.filter(({ id }) => preferred.includes(id))
    const choice = known.length > 0 ? known : compatible
    return choice[(this.#options.randomBytes(1)[0] ?? 0) % choice.length] ?? "version_mismatch"
  }

  #confirm(session: Session, gateway: DeviceRecord, ref: string, frame: Frame): void {
    const attempt = this.authorizations.confirm(ref, gateway)
    if (attempt === undefined) {
      session.violation("a confirmation of a ref that it was not given")
      return session.reply(frame, "invalid_ref")
    }
    session.reply(frame)
    if (attempt.confirmed) return session.violation("a second confirmation")
    attempt.confirmed = true
    // One that comes too late has no effect.
    if (!this.#options.knobs.holdConfirmations && this.authorizations.isPending(attempt)) this.#complete(attempt)
  }

  #complete(attempt: Attempt): void {
    const { answer, client, resourceId } = attempt
    this.authorizations.settle(attempt)
    client.askedAt.delete(resourceId)
    client.push(client.login.endpoint === "v2" ? "authorization_created" : "flow_created", answer)
  }

  #fail(session: Session, resourceId: string, reason: string, violated?: ReadonlyArray<string>): void {
    // Only this reason makes a client forget that it has asked.
    if (reason === "offline") session.askedAt.delete(resourceId)
    session.push(
      session.login.endpoint === "v2" ? "authorization_creation_failed" : "flow_creation_failed",
      { resource_id: resourceId, reason, ...(violated === undefined ? {} : { violated_properties: violated }) }
    )
  }

  // ---- candidates: to whoever is there, dropped otherwise

  #toGateway(
    session: Session,
    client: DeviceRecord,
    event: string,
    { candidates, gatewayId }: { readonly candidates: ReadonlyArray<string>; readonly gatewayId: string }
  ): void {
    if (!this.authorizations.haveMet(client.id, gatewayId)) {
      session.violation("candidates for a gateway that it was not given")
    }
    const gateway = this.devices.byId(gatewayId)
    if (gateway?.role === "gateway") gateway.session?.push(event, { client_id: client.id, candidates })
  }

  #toClients(
    session: Session,
    gateway: DeviceRecord,
    event: string,
    { candidates, clientIds }: { readonly candidates: ReadonlyArray<string>; readonly clientIds: ReadonlyArray<string> }
  ): void {
    for (const clientId of clientIds) {
      if (!this.authorizations.haveMet(clientId, gateway.id)) {
        session.violation("candidates for a client that it has not confirmed")
      }
      const client = this.devices.byId(clientId)
      if (client?.role === "client") client.session?.push(event, { gateway_id: gateway.id, candidates })
    }
  }

  // ---- pushes

  #pushInit(session: Session, device: DeviceRecord, now: number): void {
    const relays = this.#handOutRelays(session)
    if (device.role === "gateway") {
      const seconds = this.#options.unixSeconds(now)
      const grants = this.authorizations.grants.filter(({ expiresAt, gatewayId }) =>
        gatewayId === device.id && expiresAt > seconds
      )
      return session.push("init", views.gatewayInit(device, relays, grants))
    }
    const resources = this.resources
      .filter((resource) => isVisible(resource, session.login.agent))
      .map((resource) => views.clientResource(resource, this.#sites, session.login.agent))
    session.push(
      "init",
      views.clientInit(
        views.clientInterface(device, this.#dns),
        [...resources, ...this.pools.views()],
        relays,
        this.pools.inbound(device, now)
      )
    )
  }

  #pushRelays(session: Session, disconnected: ReadonlyArray<string>): void {
    session.push("relays_presence", { disconnected_ids: disconnected, connected: this.#handOutRelays(session) })
  }

  #handOutRelays(session: Session) {
    return views.relayEntries(this.relays.handOut(session), {
      deviceKey: session.login.publicKey,
      expiresAt: session.login.role === "gateway" ? GATEWAY_RELAY_EXPIRY : session.expiresAt
    })
  }

  #revoke(isMeant: (grant: Grant) => boolean): void {
    for (const { clientId, gatewayId, resourceId } of this.authorizations.revoke(isMeant)) {
      this.devices.byId(gatewayId)?.session?.push("reject_access", { client_id: clientId, resource_id: resourceId })
    }
  }

  #channels(role: "client" | "gateway"): ReadonlyArray<Session> {
    return this.devices.all.flatMap((device) => device.role === role ? device.session ?? [] : [])
  }

  /** A client must be able to read what it is told. */
  #check(resource: ResourceConfig): void {
    const view = views.clientResource(resource, this.#sites, { component: "headless-client", version: [1, 5, 12] })
    const read = readResource(view)
    if (Either.isLeft(read)) throw new Error(`resource ${resource.id}: ${read.left}`)
    if (read.right.type.endsWith("_device_pool")) throw new Error("device pools are handled apart")
  }
}

const isVisible = ({ type }: ResourceConfig, agent: Agent): boolean => type !== "internet" || canReachInternet(agent)
