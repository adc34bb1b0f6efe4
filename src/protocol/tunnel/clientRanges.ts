import { ip, type IpNetwork } from "../wire/address.ts"
import { PROXY_RANGES, SENTINEL_RANGES, TUNNEL_RANGES } from "./ranges.ts"

/** Clients that can run side by side on one machine. */
export const MAX_INSTANCES = 4

/** What a client uses of the ranges of tunnel spec 1.1, which every client on the machine would use else. */
export interface ClientRanges {
  /** For the TUN device, next to those of resources. */
  readonly routes: ReadonlyArray<IpNetwork>
  /** The last bytes that addresses of our own DNS servers may have. */
  readonly sentinels: { readonly first: number; readonly last: number }
  /** The numbers of the names, from which their addresses follow. */
  readonly names: { readonly first: number; readonly count: number }
}

/** Of each /14 and /110 that a later client takes off the end of the proxy ranges: four addresses a name. */
const NAMES_PER_BLOCK = 2 ** 16
const BLOCKS = 8
/** IPv4 leaves out the network's address and the sentinels, so its blocks begin so many names late. */
const LATE = 65
const SENTINELS_PER_INSTANCE = 32

const first: ClientRanges = {
  routes: [...TUNNEL_RANGES, ...PROXY_RANGES, ...SENTINEL_RANGES],
  sentinels: { first: 0, last: 256 - (MAX_INSTANCES - 1) * SENTINELS_PER_INSTANCE - 1 },
  names: { first: 0, count: (BLOCKS - MAX_INSTANCES + 1) * NAMES_PER_BLOCK - LATE }
}

/**
 * The client that starts first, number 0, has the whole ranges routed to itself but uses only their beginnings. A later
 * one has parts of their ends routed to itself before (`model/policyRouting.ts`), and not the addresses of other clients,
 * which the first one keeps.
 */
export const clientRanges = (instance: number): ClientRanges => {
  if (instance === 0) return first
  const block = BLOCKS - instance
  const sentinel = 256 - instance * SENTINELS_PER_INSTANCE
  const hex = (word: number): string => word.toString(16)
  return {
    routes: [
      { address: ip(`100.${96 + block * 4}.0.0`), bits: 14 },
      { address: ip(`fd00:2021:1111:8000::${hex(block * 4)}:0`), bits: 110 },
      { address: ip(`100.100.111.${sentinel}`), bits: 27 },
      { address: ip(`fd00:2021:1111:8000:100:100:111:${hex(sentinel)}`), bits: 123 }
    ],
    sentinels: { first: sentinel, last: sentinel + SENTINELS_PER_INSTANCE - 1 },
    names: { first: block * NAMES_PER_BLOCK, count: NAMES_PER_BLOCK - LATE }
  }
}
