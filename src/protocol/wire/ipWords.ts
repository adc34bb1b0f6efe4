/**
 * IP addresses as four 32-bit words, to compare them where text would have to be made first: the packet path. IPv4 uses
 * word 0 and leaves the others 0, so words mean something only beside a version.
 */
import { type Family, familyOf, type IpAddress, type IpNetwork, ipToBytes } from "./address.ts"

/** Big-endian words as signed integers, which V8 keeps unboxed. */
export type IpWords = Int32Array

export const makeWords = (): IpWords => new Int32Array(4)

export const readWord = (bytes: Uint8Array, offset: number): number =>
  (bytes[offset] as number) << 24 | (bytes[offset + 1] as number) << 16 | (bytes[offset + 2] as number) << 8 |
  (bytes[offset + 3] as number)

/** Reads 4 or 16 bytes at `offset` into `words`. */
export const readWords = (words: IpWords, bytes: Uint8Array, offset: number, version: Family): void => {
  words[0] = readWord(bytes, offset)
  if (version === 4) {
    words[1] = 0
    words[2] = 0
    words[3] = 0
    return
  }
  words[1] = readWord(bytes, offset + 4)
  words[2] = readWord(bytes, offset + 8)
  words[3] = readWord(bytes, offset + 12)
}

export const wordsOf = (address: IpAddress): IpWords => {
  const words = makeWords()
  readWords(words, ipToBytes(address), 0, familyOf(address))
  return words
}

/** For two addresses of the same version. */
export const sameWords = (a: IpWords, b: IpWords): boolean =>
  a[0] === b[0] && a[1] === b[1] && a[2] === b[2] && a[3] === b[3]

/** The mask of word `index` for a prefix of `bits` bits. */
export const maskWord = (bits: number, index: number): number => {
  const left = bits - index * 32
  return left <= 0 ? 0 : left >= 32 ? -1 : -1 << (32 - left)
}

/** A network made for asking "is this address inside" once per packet. */
export class NetworkMatcher {
  readonly version: Family
  readonly #words: IpWords
  readonly #masks: IpWords
  constructor(network: IpNetwork) {
    this.version = familyOf(network.address)
    this.#masks = Int32Array.from([0, 1, 2, 3], (index) => maskWord(network.bits, index))
    this.#words = wordsOf(network.address).map((word, index) => word & (this.#masks[index] ?? 0))
  }
  contains(version: number, words: IpWords): boolean {
    const network = this.#words
    const masks = this.#masks
    return version === this.version &&
      ((words[0] as number) & (masks[0] as number)) === network[0] &&
      (version === 4 ||
        ((words[1] as number) & (masks[1] as number)) === network[1] &&
          ((words[2] as number) & (masks[2] as number)) === network[2] &&
          ((words[3] as number) & (masks[3] as number)) === network[3])
  }
}
