import type { Resource, ResourceId, SiteId } from "../portal/types.ts"
import { formatNetwork, type IpNetwork } from "../wire/address.ts"
import type { IpPacket, PacketKind } from "../wire/ip.ts"
import type { IpWords } from "../wire/ipWords.ts"
import { addressOf, ClientResource } from "./ClientResource.ts"
import { PrefixTable } from "./PrefixTable.ts"
import { DEFAULT_ROUTES, isTunnelAddress } from "./ranges.ts"
import type { SiteStates } from "./SiteStates.ts"
import type { ResourceView } from "./types.ts"

/** The resources that the portal lists, and which of them a packet is for (tunnel spec 5 and 6). */
export class ClientResources {
  readonly #byId = new Map<ResourceId, ClientResource>()
  readonly #cidr = new PrefixTable<ClientResource>()
  #internet: ClientResource | undefined
  /** The user's switch. */
  #internetSwitch = false

  /** Whether there is an Internet resource and the user wants it. */
  get isInternetActive(): boolean {
    return this.#internetSwitch && this.#internet !== undefined
  }

  get internet(): ClientResource | undefined {
    return this.#internet
  }

  setInternetSwitch(active: boolean): void {
    this.#internetSwitch = active
  }

  get(id: ResourceId): ClientResource | undefined {
    return this.#byId.get(id)
  }

  [Symbol.iterator](): IterableIterator<ClientResource> {
    return this.#byId.values()
  }

  /** Only for an id that is not there. */
  add(resource: Resource): ClientResource {
    const added = new ClientResource(resource)
    this.#byId.set(resource.id, added)
    if (resource.type === "cidr") this.#cidr.add(resource.address, added)
    if (resource.type === "internet") this.#chooseInternet()
    return added
  }

  /** Removing an Internet resource switches it off: it has to be wanted again (spec 5.3). */
  remove(removed: ClientResource): void {
    this.#byId.delete(removed.id)
    this.#cidr.removeWhere((entry) => entry === removed)
    if (removed.resource.type !== "internet") return
    this.#internetSwitch = false
    this.#chooseInternet()
  }

  /** The resource that a packet is for, which need not permit it (spec 6.3, steps 3 to 6). */
  route(packet: IpPacket): ClientResource | undefined {
    return this.find(packet.version, packet.destination, packet.kind, packet.destinationPort)
  }

  find(version: 4 | 6, words: IpWords, kind: PacketKind, port: number): ClientResource | undefined {
    const found = this.#cidr.find(version, words, kind, port)
    if (found !== undefined) return found
    return this.#internetSwitch && !isTunnelAddress(version, words) ? this.#internet : undefined
  }

  usesSite(site: SiteId): boolean {
    for (const { sites } of this.#byId.values()) if (sites.some(({ id }) => id === site)) return true
    return false
  }

  /** For the TUN device: `always` and the resources', each network once (spec 4). */
  routes(always: ReadonlyArray<IpNetwork>): ReadonlyArray<IpNetwork> {
    const distinct = new Map<string, IpNetwork>()
    const add = (network: IpNetwork): void => {
      distinct.set(formatNetwork(network), network)
    }
    for (const network of always) add(network)
    for (const { resource } of this.#byId.values()) if (resource.type === "cidr") add(resource.address)
    if (this.isInternetActive) { for (const network of DEFAULT_ROUTES) add(network) }
    return [...distinct.values()]
  }

  /** The Internet first, then by name and id. Device pools are no places to go to. */
  views(sites: SiteStates): ReadonlyArray<ResourceView> {
    const views: Array<ResourceView> = []
    for (const { resource } of this.#byId.values()) {
      if (resource.type === "static_device_pool" || resource.type === "dynamic_device_pool") continue
      views.push({
        id: resource.id,
        type: resource.type,
        name: resource.name,
        address: addressOf(resource),
        addressDescription: resource.type === "internet" ? undefined : resource.addressDescription,
        sites: resource.sites,
        status: sites.combined(resource.sites)
      })
    }
    return views.sort((a, b) => Number(b.type === "internet") - Number(a.type === "internet") || byNameAndId(a, b))
  }

  /** The portal lists one; should there be more, the largest id wins as elsewhere. */
  #chooseInternet(): void {
    this.#internet = undefined
    for (const each of this.#byId.values()) {
      if (each.resource.type === "internet" && (this.#internet === undefined || each.id > this.#internet.id)) {
        this.#internet = each
      }
    }
  }
}

/** The networks whose addresses a resource speaks for. */
export const networksOf = (resource: Resource): ReadonlyArray<IpNetwork> =>
  resource.type === "cidr" ? [resource.address] : resource.type === "internet" ? DEFAULT_ROUTES : []

interface Named {
  readonly id: string
  readonly name: string
}

export const byNameAndId = (a: Named, b: Named): number => byCodePoint(a.name, b.name) || byCodePoint(a.id, b.id)

// `<` compares UTF-16 units, which puts characters beyond the first plane before some inside it.
export const byCodePoint = (a: string, b: string): number => {
  for (let i = 0; i < a.length && i < b.length; i++) {
    const difference = (a.codePointAt(i) as number) - (b.codePointAt(i) as number)
    if (difference !== 0) return difference
  }
  return a.length - b.length
}
