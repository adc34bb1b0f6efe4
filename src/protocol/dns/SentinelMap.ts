import type { ClientRanges } from "../tunnel/clientRanges.ts"
import { isSentinelAddress } from "../tunnel/ranges.ts"
import { type IpAddress, ipFromBytes } from "../wire/address.ts"
import type { IpWords } from "../wire/ipWords.ts"
import { sentinelFamily, type Upstream, upstreamKey } from "./upstreams.ts"

/** The first and the last of an IPv4 network are no hosts. */
const NO_HOSTS = { 4: 1, 6: 0 } as const

export interface Sentinel {
  readonly address: IpAddress
  readonly family: 4 | 6
  readonly upstream: Upstream
}

/**
 * Our own DNS servers, one for each upstream (tunnel spec 12.2). A new list of upstreams gets addresses that the list
 * before did not use: systems keep answers by the address of the server that gave them.
 */
export class SentinelMap {
  #sentinels: ReadonlyArray<Sentinel> = []
  readonly #range: ClientRanges["sentinels"]
  /** By the last byte of the address. */
  readonly #byNumber = { 4: new Map<number, Sentinel>(), 6: new Map<number, Sentinel>() }

  constructor(range: ClientRanges["sentinels"]) {
    this.#range = range
  }

  /** In the order in which the system should ask. */
  get sentinels(): ReadonlyArray<Sentinel> {
    return this.#sentinels
  }

  /** Returns whether anything changed; order counts. Upstreams for which no address is left are left out. */
  update(upstreams: ReadonlyArray<Upstream>): boolean {
    const keys = upstreams.map(upstreamKey)
    if (keys.join(" ") === this.#sentinels.map(({ upstream }) => upstreamKey(upstream)).join(" ")) return false
    const next = { 4: new Map<number, Sentinel>(), 6: new Map<number, Sentinel>() }
    const sentinels: Array<Sentinel> = []
    for (const upstream of upstreams) {
      const family = sentinelFamily(upstream)
      const number = this.#freeNumber(family, next[family])
      if (number === undefined) continue
      const sentinel = { address: sentinelAddress(family, number), family, upstream }
      next[family].set(number, sentinel)
      sentinels.push(sentinel)
    }
    this.#byNumber[4] = next[4]
    this.#byNumber[6] = next[6]
    this.#sentinels = sentinels
    return true
  }

  /** The sentinel that a packet is for. Allocates nothing. */
  at(version: 4 | 6, words: IpWords): Sentinel | undefined {
    if (!isSentinelAddress(version, words)) return undefined
    return this.#byNumber[version].get((words[version === 4 ? 0 : 3] as number) & 0xff)
  }

  #freeNumber(family: 4 | 6, taken: ReadonlyMap<number, Sentinel>): number | undefined {
    const { first, last } = this.#range
    for (let number = first + NO_HOSTS[family]; number <= last - NO_HOSTS[family]; number++) {
      if (!taken.has(number) && !this.#byNumber[family].has(number)) return number
    }
    return undefined
  }
}

const sentinelAddress = (family: 4 | 6, number: number): IpAddress =>
  family === 4
    ? ipFromBytes(Uint8Array.of(100, 100, 111, number), 0, 4)
    : ipFromBytes(Uint8Array.of(0xfd, 0, 0x20, 0x21, 0x11, 0x11, 0x80, 0, 1, 0, 1, 0, 1, 0x11, 0, number), 0, 6)
