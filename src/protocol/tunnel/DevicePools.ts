import type { ClientId, PoolDevice, ResourceId, StaticDevicePool } from "../portal/types.ts"
import { type Family, familyOf, type IpAddress, networkContains } from "../wire/address.ts"
import type { PacketKind } from "../wire/ip.ts"
import type { IpWords } from "../wire/ipWords.ts"
import { byCodePoint } from "./ClientResources.ts"
import type { DevicePeer } from "./DevicePeer.ts"
import { PortFilter, sameFilters } from "./PortFilter.ts"
import { type PrefixEntry, PrefixTable } from "./PrefixTable.ts"
import type { Refused } from "./Refused.ts"

/** A device as one pool lists it. */
export class PoolMember implements PrefixEntry {
  /** The pool's. */
  readonly id: ResourceId
  readonly device: PoolDevice
  readonly filter: PortFilter
  /** What its owner calls it, once the portal has said so. */
  name: string | undefined
  /** The portal's latest, until it grants. */
  refused: Refused | undefined
  /** Set while the portal lets us reach the device through this pool. */
  peer: DevicePeer | undefined
  /** When a packet was last sent to it for the pool's sake, and of which family. */
  usedAt = Number.NEGATIVE_INFINITY
  usedFamily: Family = 4

  constructor(id: ResourceId, device: PoolDevice, filter: PortFilter) {
    this.id = id
    this.device = device
    this.filter = filter
  }

  owns(address: IpAddress): boolean {
    const { ipv4, ipv6 } = this.device
    return networkContains(familyOf(address) === 4 ? ipv4 : ipv6, address)
  }
}

interface Pool {
  readonly resource: StaticDevicePool
  readonly members: ReadonlyMap<ClientId, PoolMember>
}

/** The static device pools: which devices there are to reach, and at which addresses (tunnel spec 13.1, 5.2, 6.2). */
export class DevicePools {
  readonly #pools = new Map<ResourceId, Pool>()
  readonly #table = new PrefixTable<PoolMember>()

  /** The member that a packet is for, which need not permit it. */
  find(version: Family, words: IpWords, kind: PacketKind, port: number): PoolMember | undefined {
    return this.#table.find(version, words, kind, port)
  }

  *members(): IterableIterator<PoolMember> {
    for (const { members } of this.#pools.values()) yield* members.values()
  }

  membersOf(pool: ResourceId): Iterable<PoolMember> {
    return this.#pools.get(pool)?.members.values() ?? []
  }

  member(pool: ResourceId, client: ClientId): PoolMember | undefined {
    return this.#pools.get(pool)?.members.get(client)
  }

  /** The names of the pools with the device, in their order. */
  namesOf(client: ClientId): ReadonlyArray<string> {
    const names: Array<string> = []
    for (const { members, resource } of this.#pools.values()) if (members.has(client)) names.push(resource.name)
    return names.sort(byCodePoint)
  }

  /** Whether there is a pool with the device. */
  lists(client: ClientId): boolean {
    for (const { members } of this.#pools.values()) if (members.has(client)) return true
    return false
  }

  /**
   * Adds the pool, or follows its changes member by member: who stays where it is can still be reached. Returns the
   * members that are as they were.
   */
  set(resource: StaticDevicePool): ReadonlyArray<PoolMember> {
    const before = this.#pools.get(resource.id)
    const hasSameFilters = before !== undefined && sameFilters(before.resource.filters, resource.filters)
    const filter = new PortFilter(resource.filters)
    const members = new Map<ClientId, PoolMember>()
    const unchanged: Array<PoolMember> = []
    for (const device of resource.devices) {
      const known = before?.members.get(device.clientId)
      const isInPlace = known !== undefined && isSamePlace(known.device, device)
      if (isInPlace && hasSameFilters) {
        members.set(device.clientId, known)
        unchanged.push(known)
        continue
      }
      const member = new PoolMember(resource.id, device, filter)
      // Of one that has moved the portal has to tell us the new addresses before they are believed.
      member.name = known?.name
      if (isInPlace) {
        member.peer = known.peer
        member.usedAt = known.usedAt
        member.usedFamily = known.usedFamily
      }
      members.set(device.clientId, member)
    }
    this.remove(resource.id)
    this.#pools.set(resource.id, { resource, members })
    for (const member of members.values()) {
      this.#table.add(member.device.ipv4, member)
      this.#table.add(member.device.ipv6, member)
    }
    return unchanged
  }

  remove(id: ResourceId): void {
    if (this.#pools.delete(id)) this.#table.removeWhere((member) => member.id === id)
  }
}

const isSamePlace = (a: PoolDevice, b: PoolDevice): boolean =>
  a.ipv4.address === b.ipv4.address && a.ipv4.bits === b.ipv4.bits && a.ipv6.address === b.ipv6.address &&
  a.ipv6.bits === b.ipv6.bits
