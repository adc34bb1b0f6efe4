import type { PeerId } from "../node/types.ts"
import type { Family, IpAddress } from "../wire/address.ts"
import { AddressMap } from "../wire/AddressMap.ts"
import { type IpWords, wordsOf } from "../wire/ipWords.ts"
import { GrantedClient } from "./GrantedClient.ts"
import { TunAddresses } from "./TunAddresses.ts"

/** The clients of a gateway that hold a grant, by id and by their addresses in the tunnel. */
export class GrantedClients {
  readonly #byId = new Map<PeerId, GrantedClient>()
  readonly #byAddress = new AddressMap<GrantedClient>()

  all(): IterableIterator<GrantedClient> {
    return this.#byId.values()
  }

  get(id: PeerId): GrantedClient | undefined {
    return this.#byId.get(id)
  }

  at(version: Family, words: IpWords): GrantedClient | undefined {
    return this.#byAddress.get(version, words)
  }

  /** The client, known or new, at these addresses from now on. */
  upsert(id: PeerId, ipv4: IpAddress, ipv6: IpAddress): GrantedClient {
    const known = this.#byId.get(id)
    if (known?.addresses.isSame(ipv4, ipv6) === true) return known
    if (known !== undefined) this.#removeAddresses(known)
    const addresses = new TunAddresses(ipv4, ipv6)
    const client = known ?? new GrantedClient(id, addresses)
    client.addresses = addresses
    this.#byId.set(id, client)
    this.#byAddress.set(4, wordsOf(ipv4), client)
    this.#byAddress.set(6, wordsOf(ipv6), client)
    return client
  }

  delete(client: GrantedClient): void {
    this.#byId.delete(client.id)
    this.#removeAddresses(client)
  }

  clear(): void {
    this.#byId.clear()
    this.#byAddress.clear()
  }

  /** When the next grant ends; infinite if none does. */
  get nextExpiry(): number {
    let next = Number.POSITIVE_INFINITY
    for (const client of this.all()) next = Math.min(next, client.nextExpiry)
    return next
  }

  /** Another client may have been given the address since. */
  #removeAddresses(client: GrantedClient): void {
    const { ipv4, ipv6 } = client.addresses
    for (const [version, words] of [[4, wordsOf(ipv4)], [6, wordsOf(ipv6)]] as const) {
      if (this.#byAddress.get(version, words) === client) this.#byAddress.delete(version, words)
    }
  }
}
