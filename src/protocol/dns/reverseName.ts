import { type IpAddress, ipFromBytes, parseIp } from "../wire/address.ts"
import type { DomainName } from "../wire/dns.ts"

/** The address that a name of a PTR query stands for (RFC 1035 section 3.5, RFC 3596 section 2.5), if it is whole. */
export const addressOfReverseName = (name: DomainName): IpAddress | undefined => {
  const labels = name.toLowerCase().split(".")
  const arpa = labels.pop()
  const zone = labels.pop()
  if (arpa !== "arpa") return undefined
  labels.reverse()
  if (zone === "in-addr") return labels.length === 4 ? parseIp(labels.join(".")) : undefined
  if (zone !== "ip6" || labels.length !== 32 || labels.some((label) => !/^[0-9a-f]$/.test(label))) return undefined
  return ipFromBytes(
    Uint8Array.from({ length: 16 }, (_, i) => parseInt(`${labels[2 * i]}${labels[2 * i + 1]}`, 16)),
    0,
    6
  )
}
