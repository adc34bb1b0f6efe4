/** Which resource an operator means, and what of it can be sent something. */
import type { Refusal, StatusReport } from "../../model/status.ts"
import { compareSpecificity, parseDomainPattern } from "../../protocol/dns/DomainPattern.ts"
import { PROXY_RANGES } from "../../protocol/tunnel/ranges.ts"
import {
  familyOf,
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
type Pool = NonNullable<StatusReport["devicePools"]>[number]

/** What access is granted to, through one peer: a resource, or a device of a pool. */
export interface Reachable {
  readonly id: string
  /** The resource that the portal knows: of a device its pool. */
  readonly resourceId: string
  readonly type: Resource["type"] | "device"
  readonly name: string
  /** A network, an address or a pattern of names; of a device both its addresses, if they are known. */
  readonly address: string
  readonly addresses: ReadonlyArray<IpAddress>
  /** Of a resource its sites, of a device its pool. */
  readonly places: ReadonlyArray<string>
  readonly status: Resource["status"]
  /** The peer through which it is reached, while access is granted. */
  readonly peer?: string | undefined
  readonly refusal?: Refusal | undefined
  /** No static pool lists the device: nothing but its name is known, and there is no way to it. */
  readonly isNameOnly: boolean
}

const reachable = (resource: Resource): Reachable => ({
  id: resource.id,
  resourceId: resource.id,
  type: resource.type,
  name: resource.name,
  address: resource.address,
  addresses: [],
  places: resource.sites.map(({ name }) => name),
  status: resource.status,
  peer: resource.gateway,
  refusal: resource.refusal,
  isNameOnly: false
})

const deviceId = (pool: Pool, device: string): string => `${pool.id} ${device.toLowerCase()}`

const devicesOf = (pool: Pool, pools: ReadonlyArray<Pool>): ReadonlyArray<Reachable> =>
  pool.devices.map(({ granted, id, ipv4, ipv6, name, peer, refusal }) => ({
    id: deviceId(pool, (pool.type === "static" ? id : name) ?? ipv4),
    resourceId: pool.id,
    type: "device",
    name: name || id || ipv4,
    address: `${ipv4.replace(/\/32$/, "")} and ${ipv6.replace(/\/128$/, "")}`,
    addresses: [ipv4, ipv6].flatMap((text) => networkOf(text)?.address ?? []),
    places: [pool.name],
    status: "Unknown",
    peer: granted ? peer : undefined,
    refusal,
    isNameOnly: pool.type === "dynamic" &&
      !pools.some(({ devices, type }) => type === "static" && devices.some((device) => device.ipv4 === ipv4))
  }))

const devices = ({ devicePools = [] }: StatusReport): ReadonlyArray<Reachable> =>
  devicePools.flatMap((pool) => devicesOf(pool, devicePools))

/** All of them, as they are now. */
export const reachables = (report: StatusReport): ReadonlyArray<Reachable> => [
  ...report.resources.map(reachable),
  ...devices(report)
]

/** What is sent echo requests. */
export type Host =
  | { readonly _tag: "Address"; readonly address: IpAddress; readonly isGuess: boolean }
  | { readonly _tag: "Name"; readonly name: string }
  /** Nothing in particular; `why` says what to give. */
  | { readonly _tag: "None"; readonly why: string }

export type Target =
  | {
    readonly _tag: "Found"
    readonly resource: Reachable
    readonly host: Host
    /** Others that hold the host: the client takes one whose policy lets the packet through, and nobody tells us policies. */
    readonly alternatives: ReadonlySet<string>
  }
  | { readonly _tag: "Unclear"; readonly resources: ReadonlyArray<Reachable> }
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
  resource: reachable(resource),
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

/** Of a device by id, name or address; of a pool that has one device alone, by the pool's id or name. */
const atDevice = (report: StatusReport, text: string, family: 4 | 6 | undefined): Target | undefined => {
  const lower = text.toLowerCase()
  const address = parseIp(text)
  const isCalled = (texts: ReadonlyArray<string | undefined>) => texts.some((each) => each?.toLowerCase() === lower)
  const all = devices(report)
  const called = all.filter(({ addresses, id, name }) =>
    isCalled([name, id.split(" ")[1]]) || address !== undefined && addresses.includes(address)
  )
  // What a static pool lists may be in others as well, and be known by a name of a dynamic one.
  const places = new Set(called.map(({ address }) => address))
  const pool = (report.devicePools ?? []).find(({ address, id, name }) => isCalled([id, name, address]))
  const inPool = pool === undefined ? [] : all.filter(({ resourceId }) => resourceId === pool.id)
  const [first, ...others] = called.length > 0
    ? called.toSorted((a, b) => Number(a.isNameOnly) - Number(b.isNameOnly))
    : inPool
  if (first === undefined) {
    return pool && {
      _tag: "Unknown",
      why: pool.address === undefined
        ? `the device pool ${pool.name} lists no devices`
        : `${pool.name} is a pool of the devices ${pool.address}: ping the name of one`
    }
  }
  if (others.length > 0 && (called.length === 0 || places.size > 1)) {
    return { _tag: "Unclear", resources: [first, ...others] }
  }
  const host = address ?? first.addresses.find((each) => familyOf(each) === (family ?? 4)) ?? first.addresses[0]
  return {
    _tag: "Found",
    resource: first,
    host: host === undefined
      ? { _tag: "None", why: "it has no address" }
      : { _tag: "Address", address: host, isGuess: false },
    alternatives: new Set(others.map(({ id }) => id))
  }
}

/** Of a device whose name was not looked up yet. */
const atDeviceName = ({ devicePools = [] }: StatusReport, text: string): Target | undefined => {
  const name = text.replace(/\.$/, "")
  const pool = isDomainName(name)
    ? devicePools.find(({ address }) => address !== undefined && parseDomainPattern(address)?.matches(name) === true)
    : undefined
  return pool && {
    _tag: "Found",
    resource: {
      id: deviceId(pool, name),
      resourceId: pool.id,
      type: "device",
      name,
      address: pool.address ?? "",
      addresses: [],
      places: [pool.name],
      status: "Unknown",
      isNameOnly: false
    },
    host: { _tag: "Name", name },
    alternatives: new Set()
  }
}

/** By id, name or address of a resource or device, else by the address or name of a host inside one. */
export const findTarget = (report: StatusReport, text: string, family?: 4 | 6): Target => {
  const [first, ...others] = named(report.resources, text)
  const address = parseIp(text)
  if (first === undefined) {
    const device = atDevice(report, text, family) ?? (address === undefined ? atDeviceName(report, text) : undefined)
    return device ?? (address === undefined ? atName(report, text) : atAddress(report, address))
  }
  if (others.length > 0) return { _tag: "Unclear", resources: [first, ...others].map(reachable) }
  const host = hostOf(first)
  const alternatives = host._tag === "Address" ? holding(report.resources, host.address) : []
  return found(first, host, alternatives.filter(({ id }) => id !== first.id))
}
