/** The address ranges that mean something to tunnels (tunnel spec 1.1). */
import { ip, type IpNetwork } from "../wire/address.ts"
import { type IpWords, NetworkMatcher } from "../wire/ipWords.ts"

const network = (address: string, bits: number): IpNetwork => ({ address: ip(address), bits })

/** TUN addresses of clients and gateways. */
export const TUNNEL_RANGES = [network("100.64.0.0", 11), network("fd00:2021:1111::", 107)] as const
/** Addresses that stand for the names of DNS resources. */
export const PROXY_RANGES = [network("100.96.0.0", 11), network("fd00:2021:1111:8000::", 107)] as const
/** Addresses of the client's own DNS servers. The IPv4 range lies inside the proxy range. */
export const SENTINEL_RANGES = [
  network("100.100.111.0", 24),
  network("fd00:2021:1111:8000:100:100:111:0", 120)
] as const
export const DEFAULT_ROUTES = [network("0.0.0.0", 0), network("::", 0)] as const

const makePredicate = (networks: ReadonlyArray<IpNetwork>) => {
  const matchers = networks.map((each) => new NetworkMatcher(each))
  return (version: number, words: IpWords): boolean => {
    for (let i = 0; i < matchers.length; i++) {
      if ((matchers[i] as NetworkMatcher).contains(version, words)) return true
    }
    return false
  }
}

export const isTunnelAddress = makePredicate(TUNNEL_RANGES)
export const isProxyAddress = makePredicate(PROXY_RANGES)
export const isSentinelAddress = makePredicate(SENTINEL_RANGES)

/** What a gateway refuses to reach for the Internet resource (spec 14.4). */
export const isRefusedByInternet = makePredicate([
  network("10.0.0.0", 8),
  network("172.16.0.0", 12),
  network("192.168.0.0", 16),
  network("127.0.0.0", 8),
  network("169.254.0.0", 16),
  network("100.64.0.0", 10),
  network("224.0.0.0", 4),
  network("240.0.0.0", 4),
  network("::1", 128),
  network("fc00::", 7),
  network("fe80::", 10),
  network("ff00::", 8)
])

/** `::ffff:0:0/96`, which the text form of an address cannot name. */
export const isMapped = (version: number, words: IpWords): boolean =>
  version === 6 && words[0] === 0 && words[1] === 0 && words[2] === 0xffff
