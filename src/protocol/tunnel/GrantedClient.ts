import { type DomainPattern, parseDomainPattern } from "../dns/DomainPattern.ts"
import type { PeerId } from "../node/types.ts"
import type { Filter, GatewayResource, ResourceId } from "../portal/types.ts"
import { type Family, familyOf, type IpAddress, type IpNetwork } from "../wire/address.ts"
import type { PacketKind } from "../wire/ip.ts"
import type { IpWords } from "../wire/ipWords.ts"
import type { DomainSetup } from "./DomainSetups.ts"
import { NatTable } from "./NatTable.ts"
import { PortFilter } from "./PortFilter.ts"
import { type PrefixEntry, PrefixTable } from "./PrefixTable.ts"
import { ProxyTable } from "./ProxyTable.ts"
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
  /** Of a DNS resource whose address is a pattern. */
  readonly pattern: DomainPattern | undefined
  filter: PortFilter
  /** Monotonic milliseconds; infinite for a grant without end. */
  expiresAt: number
}

/** What a gateway knows of a client, and what the client may reach (tunnel spec 14.2 and 14.4). */
export class GrantedClient {
  readonly id: PeerId
  addresses: TunAddresses
  readonly nat = new NatTable()
  readonly #proxies = new ProxyTable()
  readonly #grants = new Map<ResourceId, Grant>()
  /** Networks of CIDR resources, and the proxy addresses of each DNS resource. */
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
    const grant: Grant = {
      id: resource.id,
      type: resource.type,
      pattern: resource.type === "dns" ? parseDomainPattern(resource.address) : undefined,
      filter: filterOf(resource),
      expiresAt
    }
    this.#grants.set(resource.id, grant)
    if (resource.type === "cidr") this.#networks.add(resource.address, grant)
    if (resource.type === "internet") this.#hasInternet = true
    // Those of an earlier grant: the client need not tell us again.
    for (const { address, domain } of this.#proxies.of(resource.id)) {
      if (grant.pattern?.matches(domain) === true) this.#networks.add(networkOf(address), grant)
    }
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

  /** Whether the name is one of a DNS resource that the client may reach. */
  serves(resource: ResourceId, domain: string): boolean {
    return this.#grants.get(resource)?.pattern?.matches(domain) === true
  }

  /**
   * Lets the client's addresses stand for a name that is at `hosts` (14.6), if the name is served and there is room. If
   * one of them stands for another name, the client has begun anew, and all that it said before is forgotten.
   */
  setUp({ domain, proxyIps, resource }: DomainSetup, hosts: ReadonlyArray<IpAddress>): boolean {
    const grant = this.#grants.get(resource)
    if (grant?.pattern?.matches(domain) !== true) return false
    if (this.#proxies.contradicts(domain, proxyIps)) {
      this.#proxies.clear()
      this.nat.clear()
      this.#networks.removeWhere(({ type }) => type === "dns")
    }
    if (!this.#proxies.assign(resource, domain, proxyIps, hosts)) return false
    for (const address of proxyIps) this.#networks.add(networkOf(address), grant)
    return true
  }

  /** The host that a proxy address leads to, in network byte order; `undefined` if there is none of its family. */
  hostOf(version: Family, words: IpWords): Uint8Array | undefined {
    return this.#proxies.find(version, words)?.real
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

const networkOf = (address: IpAddress): IpNetwork => ({ address, bits: familyOf(address) === 4 ? 32 : 128 })

const filterOf = (resource: GatewayResource): PortFilter => new PortFilter(filters(resource))

const filters = (resource: GatewayResource): ReadonlyArray<Filter> =>
  resource.type === "internet" ? [] : resource.filters
