import type { ResourceId } from "../portal/types.ts"
import { type Family, familyOf, type IpAddress, ipToBytes } from "../wire/address.ts"
import { AddressMap } from "../wire/AddressMap.ts"
import { type IpWords, wordsOf } from "../wire/ipWords.ts"

/** Of one client: 16,384 names with addresses of both families. */
const MAX_PROXIES = 131_072

/** An address that a client lets stand for a name. */
export interface Proxy {
  readonly address: IpAddress
  /** In lower case. */
  readonly domain: string
  /** The host's address in network byte order; `undefined` as long as the name has none of this family. */
  readonly real: Uint8Array | undefined
  /** The DNS resources for which the client has said so, granted or not. */
  readonly resources: ReadonlySet<ResourceId>
}

/**
 * What one client's proxy addresses stand for (tunnel spec 14.6). They outlive grants: a client that is let in again does
 * not say again what it said before.
 */
export class ProxyTable {
  readonly #proxies = new AddressMap<Proxy>()

  find(version: Family, words: IpWords): Proxy | undefined {
    return this.#proxies.get(version, words)
  }

  /** Whether one of the addresses stands for another name already: the client has begun anew, and nothing holds any more. */
  contradicts(domain: string, addresses: ReadonlyArray<IpAddress>): boolean {
    const name = domain.toLowerCase()
    return addresses.some((address) => (this.#get(address)?.domain ?? name) !== name)
  }

  /**
   * Lets `addresses` stand for `domain`: of each family the first for the first of `hosts`, and so on around. False, and
   * nothing is changed, if there is no room.
   */
  assign(
    resource: ResourceId,
    domain: string,
    addresses: ReadonlyArray<IpAddress>,
    hosts: ReadonlyArray<IpAddress>
  ): boolean {
    const added = addresses.filter((address) => this.#get(address) === undefined).length
    if (this.#proxies.size + added > MAX_PROXIES) return false
    for (const family of [4, 6] as const) {
      const real = sorted(hosts, family).map(ipToBytes)
      for (const [index, address] of sorted(addresses, family).entries()) {
        this.#proxies.set(family, wordsOf(address), {
          address,
          domain: domain.toLowerCase(),
          real: real[index % real.length],
          resources: new Set([...this.#get(address)?.resources ?? [], resource])
        })
      }
    }
    return true
  }

  /** Those that the client has for a resource. */
  of(resource: ResourceId): ReadonlyArray<Proxy> {
    return [...this.#proxies.values()].filter(({ resources }) => resources.has(resource))
  }

  clear(): void {
    this.#proxies.clear()
  }

  #get(address: IpAddress): Proxy | undefined {
    return this.#proxies.get(familyOf(address), wordsOf(address))
  }
}

/** Those of one family, by value, each once. */
const sorted = (addresses: ReadonlyArray<IpAddress>, family: Family): ReadonlyArray<IpAddress> =>
  [...new Set(addresses)].filter((address) => familyOf(address) === family).sort((a, b) => {
    const left = wordsOf(a)
    const right = wordsOf(b)
    const at = left.findIndex((word, index) => word !== right[index])
    return at < 0 ? 0 : ((left[at] as number) >>> 0) - ((right[at] as number) >>> 0)
  })
