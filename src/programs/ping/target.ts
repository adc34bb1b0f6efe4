/** Which resource an operator means, and what of it can be sent something. */
import type { StatusReport } from "../../model/status.ts"
import { compareSpecificity, parseDomainPattern } from "../../protocol/dns/DomainPattern.ts"
import { PROXY_RANGES } from "../../protocol/tunnel/ranges.ts"
import {
  type IpAddress,
  ipFromBytes,
  type IpNetwork,
  ipToBytes,
  networkContains,
  parseIp,
  parseNetwork
} from "../../protocol/wire/address.ts"
import { isDomainName } from "../../protocol/wire/dns.ts"

type Resource = StatusReport["resources"][number]

/** What is sent echo requests. */
export type Host =
  | { readonly _tag: "Address"; readonly address: IpAddress; readonly isGuess: boolean }
  | { readonly _tag: "Name"; readonly name: string }
  /** Nothing in particular; `why` says what to give. */
  | { readonly _tag: "None"; readonly why: string }

export type Target =
  | {
    readonly _tag: "Found"
    readonly resource: Resource
    readonly host: Host
    /** Others that hold the host: the client takes one whose policy lets the packet through, and nobody tells us policies. */
    readonly alternatives: ReadonlySet<string>
  }
  | { readonly _tag: "Unclear"; readonly resources: ReadonlyArray<Resource> }
  | { readonly _tag: "Unknown"; readonly why: string }

/** `10.0.0.0/8`, or an address alone. */
const networkOf = (text: string): IpNetwork | undefined => {
  const address = parseIp(text)
  return address === undefined ? parseNetwork(text) : { address, bits: ipToBytes(address).length * 8 }
}

/** The first address of a network that a host may have: a router has it often. */
const firstHost = ({ address, bits }: IpNetwork): { readonly address: IpAddress; readonly isGuess: boolean } => {
  const bytes = ipToBytes(address)
  const left = bytes.length * 8 - bits
  if (left <= 1) return { address, isGuess: left === 1 }
  bytes[bytes.length - 1] = (bytes[bytes.length - 1] as number) | 1
  return { address: ipFromBytes(bytes, 0, bytes.length === 4 ? 4 : 6), isGuess: true }
}

const isPattern = (text: string): boolean => /[*?]/.test(text)

/** Of a resource that was named as a whole. */
const hostOf = ({ address, type }: Resource): Host => {
  if (type === "internet") return { _tag: "None", why: "it is everything else: ping an address on the Internet" }
  if (type === "dns") {
    return isPattern(address)
      ? { _tag: "None", why: `${address} is a pattern: ping a name that it matches` }
      : isDomainName(address)
      ? { _tag: "Name", name: address }
      : { _tag: "None", why: `${address} is not a name that can be looked up` }
  }
  const network = networkOf(address)
  return network === undefined
    ? { _tag: "None", why: `${address} is not a network` }
    : { _tag: "Address", ...firstHost(network) }
}

const named = (resources: ReadonlyArray<Resource>, text: string): ReadonlyArray<Resource> => {
  const lower = text.toLowerCase()
  for (const key of ["id", "name", "address"] as const) {
    const found = resources.filter((resource) => resource[key] !== "" && resource[key].toLowerCase() === lower)
    if (found.length > 0) return found
  }
  return []
}

const found = (resource: Resource, host: Host, alternatives: ReadonlyArray<Resource> = []): Target => ({
  _tag: "Found",
  resource,
  host,
  alternatives: new Set(alternatives.map(({ id }) => id))
})

const holding = (resources: ReadonlyArray<Resource>, address: IpAddress) =>
  resources.flatMap((resource) => {
    const network = resource.type === "cidr" ? networkOf(resource.address) : undefined
    return network !== undefined && networkContains(network, address) ? [{ bits: network.bits, resource }] : []
  }).toSorted((a, b) => b.bits - a.bits).map(({ resource }) => resource)

const atAddress = ({ internetResourceActive, resources }: StatusReport, address: IpAddress): Target => {
  const host: Host = { _tag: "Address", address, isGuess: false }
  const [narrowest, ...wider] = holding(resources, address)
  if (narrowest !== undefined) return found(narrowest, host, wider)
  if (PROXY_RANGES.some((range) => networkContains(range, address))) {
    return { _tag: "Unknown", why: `${address} stands for a name on this machine alone: ping that name` }
  }
  const internet = internetResourceActive ? resources.find(({ type }) => type === "internet") : undefined
  return internet === undefined
    ? { _tag: "Unknown", why: `no resource of this account holds ${address}` }
    : found(internet, host)
}

const atName = ({ dns, resources }: StatusReport, text: string): Target => {
  const name = text.replace(/\.$/, "")
  // A resolver completes what has no dot.
  const isShort = !name.includes(".") && dns?.searchDomain !== undefined
  const names = [name, ...(isShort ? [`${name}.${dns.searchDomain}`] : [])]
  for (const candidate of names.filter((name) => isDomainName(name) && !/[^!-~]/.test(name))) {
    const matching = resources.filter(({ address, type }) =>
      type === "dns" && parseDomainPattern(address)?.matches(candidate) === true
    )
    const [best, ...others] = matching.toSorted((a, b) => compareSpecificity(a.address, b.address))
    if (best !== undefined) return found(best, { _tag: "Name", name: candidate }, others)
  }
  return { _tag: "Unknown", why: `no resource of this account is called ${text}, or holds a host of that name` }
}

/** By id, name or address of a resource, else by the address or name of a host inside one. */
export const findTarget = (report: StatusReport, text: string): Target => {
  const [first, ...others] = named(report.resources, text)
  const address = parseIp(text)
  if (first === undefined) return address === undefined ? atName(report, text) : atAddress(report, address)
  if (others.length > 0) return { _tag: "Unclear", resources: [first, ...others] }
  const host = hostOf(first)
  const alternatives = host._tag === "Address" ? holding(report.resources, host.address) : []
  return found(first, host, alternatives.filter(({ id }) => id !== first.id))
}
