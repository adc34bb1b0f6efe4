import type { Family, IpAddress } from "../wire/address.ts"
import { type IpWords, sameWords, wordsOf } from "../wire/ipWords.ts"

/** The two addresses of one TUN device, made for asking once per packet. */
export class TunAddresses {
  readonly ipv4: IpAddress
  readonly ipv6: IpAddress
  readonly #ipv4: IpWords
  readonly #ipv6: IpWords

  constructor(ipv4: IpAddress, ipv6: IpAddress) {
    this.ipv4 = ipv4
    this.ipv6 = ipv6
    this.#ipv4 = wordsOf(ipv4)
    this.#ipv6 = wordsOf(ipv6)
  }

  includes(version: Family, words: IpWords): boolean {
    return sameWords(words, version === 4 ? this.#ipv4 : this.#ipv6)
  }

  isSame(ipv4: IpAddress, ipv6: IpAddress): boolean {
    return this.ipv4 === ipv4 && this.ipv6 === ipv6
  }
}
