/**
 * The addresses that stand for names (tunnel spec 12.6): four of each family for the name with number 0, the next four
 * for number 1, and so on. They follow from the number, so nothing has to be kept to find the name of an address.
 */
import { isProxyAddress, isSentinelAddress } from "../tunnel/ranges.ts"
import { type Family, type IpAddress, ipFromBytes } from "../wire/address.ts"
import type { IpWords } from "../wire/ipWords.ts"

/** Of each family, for one name. */
const ADDRESSES_PER_NAME = 4

/** 100.96.0.0 */
const IPV4_BASE = 0x64600000
/** Of the sentinels, which lie in the middle. */
const SENTINELS_AT = 0x4_6f00
const SENTINELS = 256
const IPV6_PREFIX = [0xfd002021, 0x11118000, 0] as const

/** Where IPv4 ends: 2^21 addresses without the first, the last and the sentinels. */
export const MAX_NAMES = Math.floor((2 ** 21 - 2 - SENTINELS) / ADDRESSES_PER_NAME)

/** The number of the name that an address stands for, or would stand for; -1 for every other address. */
export const nameNumberOf = (version: number, words: IpWords): number => {
  if (!isProxyAddress(version, words) || isSentinelAddress(version, words)) return -1
  if (version === 6) return (words[3] as number) >>> 2
  const offset = (words[0] as number) - IPV4_BASE
  return offset === 0 ? -1 : offset - 1 - (offset >= SENTINELS_AT ? SENTINELS : 0) >>> 2
}

/** The four addresses of a family, one behind the other. */
export const proxyAddressBytes = (number: number, family: Family): Uint8Array => {
  const size = family === 4 ? 4 : 16
  const bytes = new Uint8Array(ADDRESSES_PER_NAME * size)
  const view = new DataView(bytes.buffer)
  for (let i = 0; i < ADDRESSES_PER_NAME; i++) {
    const index = number * ADDRESSES_PER_NAME + i
    if (family === 4) {
      const offset = index + 1
      view.setUint32(i * size, IPV4_BASE + offset + (offset >= SENTINELS_AT ? SENTINELS : 0))
    } else {
      IPV6_PREFIX.forEach((word, at) => view.setUint32(i * size + at * 4, word))
      view.setUint32(i * size + 12, index)
    }
  }
  return bytes
}

export const proxyAddresses = (number: number, family: Family): ReadonlyArray<IpAddress> => {
  const bytes = proxyAddressBytes(number, family)
  return Array.from(
    { length: ADDRESSES_PER_NAME },
    (_, i) => ipFromBytes(bytes, i * bytes.length / ADDRESSES_PER_NAME, family)
  )
}
