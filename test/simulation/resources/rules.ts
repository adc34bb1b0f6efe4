/**
 * The rules of the tunnel spec that need no memory, written down plainly and without a glance at the implementation:
 * addresses are strings of binary digits, tables are lists that are searched from end to end.
 */

export type Family = 4 | 6
export type Protocol = "tcp" | "udp" | "icmp"

export type Filter =
  | { readonly protocol: "tcp" | "udp"; readonly from: number; readonly to: number }
  | { readonly protocol: "icmp" }
export type Filters = ReadonlyArray<Filter>

/** 5.1 */
export type Stack = "dual" | "ipv4_only" | "ipv6_only"
export type Resource =
  | CidrResource
  | DnsResource
  | { readonly type: "internet"; readonly id: string; readonly name: string; readonly site: string }
  | StaticPool
  | { readonly type: "dynamic_device_pool"; readonly id: string; readonly name: string; readonly pattern: string }
export interface CidrResource {
  readonly type: "cidr"
  readonly id: string
  readonly name: string
  readonly network: string
  readonly site: string
  readonly filters: Filters
}
export interface DnsResource {
  readonly type: "dns"
  readonly id: string
  readonly name: string
  readonly pattern: string
  readonly site: string
  readonly stack: Stack
  readonly filters: Filters
}
export interface StaticPool {
  readonly type: "static_device_pool"
  readonly id: string
  readonly name: string
  readonly members: ReadonlyArray<string>
  readonly filters: Filters
}

export const familyOf = (address: string): Family => address.includes(":") ? 6 : 4

/** An address as 32 or 128 binary digits. */
export const bitsOf = (address: string): string => {
  if (familyOf(address) === 4) {
    return address.split(".").map((part) => Number(part).toString(2).padStart(8, "0")).join("")
  }
  const [head = "", tail] = address.split("::")
  const groups = (text: string): Array<string> => text === "" ? [] : text.split(":")
  const front = groups(head)
  const back = tail === undefined ? [] : groups(tail)
  const zeros = Array.from({ length: 8 - front.length - back.length }, () => "0")
  return [...front, ...zeros, ...back].map((group) => Number.parseInt(group, 16).toString(2).padStart(16, "0")).join("")
}

export const lengthOf = (network: string): number => Number(network.split("/")[1])

export const contains = (network: string, address: string): boolean => {
  const [base = ""] = network.split("/")
  return familyOf(base) === familyOf(address) && bitsOf(address).startsWith(bitsOf(base).slice(0, lengthOf(network)))
}

const isIn = (...networks: ReadonlyArray<string>) => (address: string): boolean =>
  networks.some((network) => contains(network, address))

/** 1.1 */
export const isTunnel = isIn("100.64.0.0/11", "fd00:2021:1111::/107")
export const isProxy = isIn("100.96.0.0/11", "fd00:2021:1111:8000::/107")
export const isSentinel = isIn("100.100.111.0/24", "fd00:2021:1111:8000:100:100:111:0/120")
export const isMulticast = isIn("224.0.0.0/4", "ff00::/8")
/** 14.4 */
export const isRefusedByInternet = isIn(
  ...["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "127.0.0.0/8", "169.254.0.0/16", "100.64.0.0/10"],
  ...["224.0.0.0/4", "240.0.0.0/4", "::1/128", "fc00::/7", "fe80::/10", "ff00::/8"]
)

/** 4 */
export const STATIC_ROUTES = [
  ...["100.64.0.0/11", "fd00:2021:1111::/107", "100.96.0.0/11", "fd00:2021:1111:8000::/107", "100.100.111.0/24"],
  "fd00:2021:1111:8000:100:100:111:0/120"
]

/** 6.1 */
export const permits = (filters: Filters, protocol: Protocol, port: number): boolean =>
  filters.length === 0 || filters.some((filter) =>
    filter.protocol === "icmp"
      ? protocol === "icmp"
      : filter.protocol === protocol && filter.from <= port && port <= filter.to
  )

const isLabelOf = (pattern: string, label: string): boolean =>
  new RegExp(`^${pattern.replaceAll(/[^*?\w-]/g, "").replaceAll("?", ".").replaceAll("*", ".*")}$`).test(label)

/** 12.5: labels beside labels, `**` in place of any number of them, at the end of one or more. */
const areLabelsOf = (pattern: ReadonlyArray<string>, labels: ReadonlyArray<string>): boolean => {
  const [first, ...rest] = pattern
  if (first === undefined) return labels.length === 0
  if (first === "**" && rest.length === 0) return labels.length > 0
  if (first === "**") return labels.some((_, skipped) => areLabelsOf(rest, labels.slice(skipped)))
  const [label, ...others] = labels
  return label !== undefined && isLabelOf(first, label) && areLabelsOf(rest, others)
}

export const matches = (pattern: string, name: string): boolean => {
  const labels = name.toLowerCase().split(".")
  const [first, ...rest] = pattern.split(".")
  return areLabelsOf(pattern.split("."), labels) || (first === "*" && areLabelsOf(rest, labels))
}

/** 12.5: negative if `a` is the more specific pattern. */
export const compareSpecificity = (a: string, b: string): number => {
  const [left, right] = [[...a].reverse(), [...b].reverse()]
  const at = Array.from({ length: Math.max(a.length, b.length) }, (_, i) => i).find((i) => left[i] !== right[i])
  if (at === undefined) return 0
  const rank = (character: string | undefined): number => character === "*" ? 2 : character === "?" ? 1 : 0
  const [x, y] = [left[at], right[at]]
  if (rank(x) !== rank(y)) return rank(x) - rank(y)
  if (x === undefined) return -1
  if (y === undefined) return 1
  return x > y ? -1 : 1
}

/** 6.2: the best of the entries of one table for a packet; `prefix` and `pattern` where the table has them. */
export interface Entry {
  readonly id: string
  readonly filters: Filters
  readonly prefix?: number
  readonly pattern?: string
}
export const best = <E extends Entry>(entries: ReadonlyArray<E>, protocol: Protocol, port: number): E | undefined =>
  entries.toSorted((a, b) =>
    Number(permits(b.filters, protocol, port)) - Number(permits(a.filters, protocol, port)) ||
    compareSpecificity(a.pattern ?? "", b.pattern ?? "") ||
    (b.prefix ?? 0) - (a.prefix ?? 0) ||
    (a.id < b.id ? 1 : -1)
  )[0]

export const supports = (stack: Stack, family: Family): boolean =>
  stack === "dual" || stack === (family === 4 ? "ipv4_only" : "ipv6_only")

/** 12.6: what the `nth` name of a session is given, the first being the zeroth. */
export const proxiesOf = (nth: number, family: Family): ReadonlyArray<string> =>
  [0, 1, 2, 3].map((i) => {
    const number = 4 * nth + i
    if (family === 4) return `100.96.0.${number + 1}`
    return number === 0 ? "fd00:2021:1111:8000::" : `fd00:2021:1111:8000::${number.toString(16)}`
  })

/** 12.6: the name that asks for the owner of an address. */
export const reverseNameOf = (address: string): string => {
  if (familyOf(address) === 4) return `${address.split(".").reverse().join(".")}.in-addr.arpa`
  const nibbles = bitsOf(address).match(/.{4}/g) ?? []
  return `${nibbles.map((bits) => Number.parseInt(bits, 2).toString(16)).reverse().join(".")}.ip6.arpa`
}

/** 12.1, 12.2: an address, or the URL of a DoH server. */
export type Upstream = string
export const isDoh = (upstream: Upstream): boolean => upstream.startsWith("https:")

/** 12.2: the lowest free address of the family that the mapping before did not use. */
export const sentinelsFor = (
  upstreams: ReadonlyArray<Upstream>,
  before: ReadonlyArray<string>
): ReadonlyArray<string> => {
  const taken = new Set(before)
  return upstreams.map((upstream) => {
    const isFour = isDoh(upstream) || familyOf(upstream) === 4
    for (let n = isFour ? 1 : 0;; n++) {
      const tail = n === 0 ? "0" : n.toString(16)
      const address = isFour ? `100.100.111.${n}` : `fd00:2021:1111:8000:100:100:111:${tail}`
      if (taken.has(address)) continue
      taken.add(address)
      return address
    }
  })
}

/** 14.6: real addresses of a family in numerical order. */
export const sorted = (addresses: ReadonlyArray<string>, family: Family): ReadonlyArray<string> =>
  addresses.filter((address) => familyOf(address) === family).toSorted((a, b) => bitsOf(a) < bitsOf(b) ? -1 : 1)
