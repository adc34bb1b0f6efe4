import type { PeerId } from "../node/types.ts"
import type { Filter, GatewayResource, ResourceId } from "../portal/types.ts"
import type { Family } from "../wire/address.ts"
import type { PacketKind } from "../wire/ip.ts"
import type { IpWords } from "../wire/ipWords.ts"
import { permitAll, PortFilter } from "./PortFilter.ts"
import { type PrefixEntry, PrefixTable } from "./PrefixTable.ts"
import { isMapped, isProxyAddress, isRefusedByInternet } from "./ranges.ts"
import type { TunAddresses } from "./TunAddresses.ts"

/** What a gateway does about a client's wish to reach an address. */
export const Access = {
  Allowed: 0,
  Prohibited: 1,
  /** The Internet resource does not lead there. */
  Unreachable: 2
} as const
export type Access = (typeof Access)[keyof typeof Access]

interface Grant extends PrefixEntry {
  readonly type: GatewayResource["type"]
  filter: PortFilter
  /** Monotonic milliseconds; infinite for a grant without end. */
  expiresAt: number
}

/** What a gateway knows of a client, and what the client may reach (tunnel spec 14.2 and 14.4). */
export class GrantedClient implements PrefixEntry {
  readonly id: PeerId
  /** For the table of clients by address, which has one entry for each address. */
  readonly filter = permitAll
  addresses: TunAddresses
  readonly #grants = new Map<ResourceId, Grant>()
  readonly #networks = new PrefixTable<Grant>()
  #hasInternet = false

  constructor(id: PeerId, addresses: TunAddresses) {
    this.id = id
    this.addresses = addresses
  }

  get resources(): ReadonlyArray<ResourceId> {
    return [...this.#grants.keys()]
  }

  get hasGrants(): boolean {
    return this.#grants.size > 0
  }

  /** When the next grant ends; infinite if none does. */
  get nextExpiry(): number {
    let next = Number.POSITIVE_INFINITY
    for (const { expiresAt } of this.#grants.values()) next = Math.min(next, expiresAt)
    return next
  }

  /** Of a resource that is granted already only filters and expiry change. */
  grant(resource: GatewayResource, expiresAt: number): void {
    const known = this.#grants.get(resource.id)
    if (known !== undefined) {
      known.expiresAt = expiresAt
      this.setFilters(resource)
      return
    }
    const grant: Grant = { id: resource.id, type: resource.type, filter: filterOf(resource), expiresAt }
    this.#grants.set(resource.id, grant)
    if (resource.type === "cidr") this.#networks.add(resource.address, grant)
    if (resource.type === "internet") this.#hasInternet = true
  }

  setFilters(resource: GatewayResource): void {
    const grant = this.#grants.get(resource.id)
    if (grant !== undefined && grant.type === resource.type) grant.filter = filterOf(resource)
  }

  setExpiry(resource: ResourceId, expiresAt: number): void {
    const grant = this.#grants.get(resource)
    if (grant !== undefined) grant.expiresAt = expiresAt
  }

  revoke(resource: ResourceId): void {
    this.#revokeWhere((grant) => grant.id === resource)
  }

  retain(isListed: (resource: ResourceId) => boolean): void {
    this.#revokeWhere((grant) => !isListed(grant.id))
  }

  expire(now: number): void {
    this.#revokeWhere((grant) => grant.expiresAt <= now)
  }

  /** Asked of the destination and its port on the way in, of the source and its port on the way back. */
  access(version: Family, words: IpWords, kind: PacketKind, port: number): Access {
    const isInternet = this.#hasInternet && !isProxyAddress(version, words)
    if (isInternet && !isRefusedByInternet(version, words) && !isMapped(version, words)) return Access.Allowed
    const grant = this.#networks.find(version, words, kind, port)
    if (grant === undefined) return isInternet ? Access.Unreachable : Access.Prohibited
    return grant.filter.permits(kind, port) ? Access.Allowed : Access.Prohibited
  }

  #revokeWhere(isOver: (grant: Grant) => boolean): void {
    let isChanged = false
    for (const [id, grant] of this.#grants) if (isOver(grant)) isChanged = this.#grants.delete(id) || isChanged
    if (!isChanged) return
    this.#networks.removeWhere((grant) => !this.#grants.has(grant.id))
    this.#hasInternet = [...this.#grants.values()].some(({ type }) => type === "internet")
  }
}

const filterOf = (resource: GatewayResource): PortFilter => new PortFilter(filters(resource))

const filters = (resource: GatewayResource): ReadonlyArray<Filter> =>
  resource.type === "internet" ? [] : resource.filters
