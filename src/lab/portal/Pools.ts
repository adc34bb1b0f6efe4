/**
 * Device pools: which clients may reach which others, and what both sides are told (portal spec sections 6.2 and 10).
 * Every client sees every pool. A device is in a static pool from its first sign-in on, when it has got its addresses.
 */
import * as Either from "effect/Either"
import { readResource } from "../../model/portalValues.ts"
import { parseDomainPattern } from "../../protocol/dns/DomainPattern.ts"
import type { ClientRequest } from "../../protocol/portal/types.ts"
import type { PoolConfig } from "./config.ts"
import type { DeviceRecord, Devices } from "./Devices.ts"
import type { Session } from "./Session.ts"
import * as views from "./views.ts"

const MAX_POOLS = 256
const MAX_GRANTS = 4096

/** One client may reach another. */
export interface DeviceGrant {
  readonly initiatorId: string
  readonly targetId: string
  readonly resourceId: string
  /** Unix seconds. */
  readonly expiresAt: number
}

type AccessRequest = ClientRequest & { readonly _tag: "RequestAuthorization" }
type CandidateRequest = ClientRequest & {
  readonly _tag: "NewClientIceCandidates" | "InvalidateClientIceCandidates"
}
type DomainRequest = ClientRequest & { readonly _tag: "ResolveDevicePoolDomain" }

export interface PoolsOptions {
  readonly unixSeconds: (now: number) => number
  readonly iceless: boolean
}

export class Pools {
  readonly #devices: Devices
  readonly #options: PoolsOptions
  readonly #pools = new Map<string, PoolConfig>()
  readonly #grants = new Map<string, DeviceGrant>()
  /** Clients that were ever told of each other, both ways. */
  readonly #pairs = new Set<string>()

  /** Throws if a client could not read one of the pools. */
  constructor(devices: Devices, pools: ReadonlyArray<PoolConfig>, options: PoolsOptions) {
    this.#devices = devices
    this.#options = options
    for (const pool of pools) {
      check(pool)
      this.#pools.set(pool.id, pool)
    }
  }

  get all(): ReadonlyArray<PoolConfig> {
    return [...this.#pools.values()]
  }

  get grants(): ReadonlyArray<DeviceGrant> {
    return [...this.#grants.values()]
  }

  has(id: string): boolean {
    return this.#pools.has(id)
  }

  /** As clients see them. */
  views(): ReadonlyArray<views.Json> {
    return this.all.map((pool) => this.#view(pool))
  }

  /** What others may do here, for a client that comes back. */
  inbound(target: DeviceRecord, now: number): ReadonlyArray<DeviceGrant> {
    const seconds = this.#options.unixSeconds(now)
    return this.grants.filter(({ expiresAt, targetId }) => targetId === target.id && expiresAt > seconds)
  }

  /** A device has got other addresses, or its first. */
  addressed(device: DeviceRecord): void {
    for (const pool of this.#pools.values()) {
      if (!isListed(pool, device)) continue
      for (const other of this.#others(device)) other.push("resource_created_or_updated", this.#view(pool))
    }
  }

  put(pool: PoolConfig): void {
    check(pool)
    const before = this.#pools.get(pool.id)
    if (before === undefined && this.#pools.size >= MAX_POOLS) throw new Error("too many pools")
    this.#pools.set(pool.id, pool)
    for (const session of this.#others()) session.push("resource_created_or_updated", this.#view(pool))
    if (pool.type === "static_device_pool") this.#pushFilters(pool)
    this.#afterRemoval(pool.id)
  }

  delete(id: string): void {
    if (!this.#pools.delete(id)) throw new Error(`no such pool: ${id}`)
    for (const session of this.#others()) session.push("resource_deleted", id)
    this.#afterRemoval(id)
  }

  /** Ends what clients may do through a pool, without a word to them. */
  reject(id: string): void {
    this.#revoke(({ resourceId }) => resourceId === id)
  }

  /** Ends every grant that a client has. */
  revokeClient(clientId: string): void {
    this.#revoke(({ initiatorId }) => initiatorId === clientId)
  }

  authorize(session: Session, initiator: DeviceRecord, request: AccessRequest, now: number): void {
    const { ipv4, ipv6, resourceId } = request
    const deny = (reason: string): void =>
      session.push("client_device_access_denied", {
        reason,
        ...(ipv4 === undefined && ipv6 === undefined ? { resource_id: resourceId } : {}),
        ...(ipv4 === undefined ? {} : { ipv4 }),
        ...(ipv6 === undefined ? {} : { ipv6 })
      })
    const address = ipv4 ?? ipv6
    if (address === undefined) {
      session.violation("a request for a device pool without an address")
      return deny("missing_address")
    }
    if (ipv4 !== undefined && ipv6 !== undefined) {
      session.violation("a request for a device pool with two addresses")
      return deny("ambiguous_address")
    }
    if (request.connectedGatewayIds.length > 0) session.violation("a request for a device with gateways")
    const pool = this.#pools.get(resourceId)
    const target = this.#members(pool).find((device) => device.ipv4 === address || device.ipv6 === address)
    if (pool?.type !== "static_device_pool" || target === undefined || target === initiator) return deny("forbidden")
    const channel = target.session
    if (channel === undefined) return deny("offline")
    if (session.login.agent.version?.slice(0, 2).join() !== channel.login.agent.version?.slice(0, 2).join()) {
      return deny("version_mismatch")
    }

    const grant = { initiatorId: initiator.id, targetId: target.id, resourceId, expiresAt: session.expiresAt }
    const { forInitiator, forTarget } = views.deviceAccess({
      pool,
      initiator,
      target,
      useIceless: this.#options.iceless && session.iceless && channel.iceless,
      authorizedAt: this.#options.unixSeconds(now),
      expiresAt: grant.expiresAt
    })
    if (this.#grants.size >= MAX_GRANTS) return deny("forbidden")
    this.#grants.set(`${grant.initiatorId} ${grant.targetId} ${resourceId}`, grant)
    this.#pairs.add(`${initiator.id} ${target.id}`).add(`${target.id} ${initiator.id}`)
    // Who is to be reached has to know first.
    channel.push("client_device_access_authorized", forTarget)
    session.push("client_device_access_authorized", forInitiator)
  }

  /** Candidates go to whoever is there. */
  forward(session: Session, from: DeviceRecord, { _tag, candidates, clientId }: CandidateRequest): void {
    if (!this.#pairs.has(`${from.id} ${clientId}`)) {
      session.violation("candidates for a client that it was not given")
    }
    const to = this.#devices.byId(clientId)?.session
    if (to === undefined) return session.push("client_ice_candidate_error", { client_id: clientId, reason: "offline" })
    to.push(_tag === "NewClientIceCandidates" ? "client_ice_candidates" : "invalidate_client_ice_candidates", {
      client_id: from.id,
      candidates
    })
  }

  /** A device's name in a dynamic pool begins with its external id. */
  resolve(session: Session, { domain, resourceId }: DomainRequest): void {
    const pool = this.#pools.get(resourceId)
    const isInPool = pool?.type === "dynamic_device_pool" &&
      parseDomainPattern(pool.address)?.matches(domain.toLowerCase()) === true
    const device = isInPool
      ? this.#clients().find(({ externalId }) => externalId.toLowerCase() === domain.split(".")[0]?.toLowerCase())
      : undefined
    const question = { resource_id: resourceId, domain }
    if (device === undefined) {
      return session.push("device_pool_domain_resolution_failed", { ...question, reason: "not_found" })
    }
    // With prefix lengths, as the portal in the field.
    const { ipv4, ipv6 } = device
    session.push("device_pool_domain_resolved", { ...question, ipv4: `${ipv4}/32`, ipv6: `${ipv6}/128` })
  }

  #view(pool: PoolConfig): views.Json {
    return views.devicePool(pool, this.#members(pool))
  }

  #members(pool: PoolConfig | undefined): ReadonlyArray<DeviceRecord> {
    return pool === undefined ? [] : this.#clients().filter((device) => isListed(pool, device))
  }

  #clients(): ReadonlyArray<DeviceRecord> {
    return this.#devices.all.filter(({ role }) => role === "client")
  }

  #others(except?: DeviceRecord): ReadonlyArray<Session> {
    return this.#clients().flatMap((device) => device === except ? [] : device.session ?? [])
  }

  #pushFilters({ filters, id }: PoolConfig & { readonly type: "static_device_pool" }): void {
    const targets = new Set(this.grants.filter(({ resourceId }) => resourceId === id).map(({ targetId }) => targetId))
    for (const target of targets) this.#devices.byId(target)?.session?.push("resource_filters_updated", { id, filters })
  }

  /** Grants through a pool that does not list their target any more are over, and whoever had the last one is told. */
  #afterRemoval(id: string): void {
    const pool = this.#pools.get(id)
    const isOver = ({ resourceId, targetId }: DeviceGrant): boolean =>
      resourceId === id && !this.#members(pool).some((device) => device.id === targetId)
    for (const { initiatorId, targetId } of this.#revoke(isOver)) {
      const target = this.#devices.byId(targetId)
      if (target === undefined || this.all.some((other) => isListed(other, target))) continue
      const { ipv4, ipv6 } = target
      this.#devices.byId(initiatorId)?.session?.push("client_device_access_denied", { reason: "forbidden", ipv4, ipv6 })
    }
  }

  #revoke(isMeant: (grant: DeviceGrant) => boolean): ReadonlyArray<DeviceGrant> {
    const revoked = this.grants.filter(isMeant)
    for (const { initiatorId, resourceId, targetId } of revoked) {
      this.#grants.delete(`${initiatorId} ${targetId} ${resourceId}`)
      this.#devices.byId(targetId)?.session?.push("reject_access", { client_id: initiatorId, resource_id: resourceId })
    }
    return revoked
  }
}

const isListed = (pool: PoolConfig, device: DeviceRecord): boolean =>
  pool.type === "static_device_pool" && device.role === "client" && pool.devices.includes(device.externalId)

/** A client must be able to read what it is told. */
const check = (pool: PoolConfig): void => {
  const read = readResource(views.devicePool(pool, []))
  if (Either.isLeft(read)) throw new Error(`pool ${pool.id}: ${read.left}`)
  if (!read.right.type.endsWith("_device_pool")) throw new Error(`${pool.id} is no device pool`)
}
