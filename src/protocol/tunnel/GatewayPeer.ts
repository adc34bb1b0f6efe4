import type { GatewayId, ResourceId, SiteId } from "../portal/types.ts"
import type { Family, IpNetwork } from "../wire/address.ts"
import type { IpWords } from "../wire/ipWords.ts"
import type { WaitingPeer } from "./PeerSender.ts"
import { permitAll } from "./PortFilter.ts"
import { type PrefixEntry, PrefixTable } from "./PrefixTable.ts"
import type { TunAddresses } from "./TunAddresses.ts"
import type { UniquePacketBuffer } from "./UniquePacketBuffer.ts"

/** What the client knows of a gateway that it has been granted (tunnel spec 8.3 and 9). */
export class GatewayPeer implements WaitingPeer {
  readonly id: GatewayId
  readonly site: SiteId
  readonly addresses: TunAddresses
  waiting: UniquePacketBuffer | undefined
  waitingControl: Array<Uint8Array> | undefined
  /** The resources that are reached through it. */
  readonly #granted = new Set<ResourceId>()
  /** Addresses that packets may come from, each with the resources that justify it. */
  readonly #allowed = new PrefixTable<PrefixEntry>()

  constructor(id: GatewayId, site: SiteId, addresses: TunAddresses) {
    this.id = id
    this.site = site
    this.addresses = addresses
  }

  isAllowedSource(version: Family, words: IpWords): boolean {
    return this.addresses.includes(version, words) || this.#allowed.covers(version, words)
  }

  allow(resource: ResourceId, networks: ReadonlyArray<IpNetwork>): void {
    this.disallow(resource)
    this.#granted.add(resource)
    const entry = { id: resource, filter: permitAll }
    for (const network of networks) this.#allowed.add(network, entry)
  }

  disallow(resource: ResourceId): void {
    this.#granted.delete(resource)
    this.#allowed.removeWhere((entry) => entry.id === resource)
  }

  /** Whether no resource justifies a connection any more. */
  get isUnused(): boolean {
    return this.#granted.size === 0
  }
}
