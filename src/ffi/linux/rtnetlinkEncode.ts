/** rtnetlink requests to bytes; the socket fills in the sequence number. Vectors: host spec sections 8.6 and 11.5. */
import type { RouteMessage, RuleMessage } from "./rtnetlinkDecode.ts"
import { readAttributes } from "./rtnetlinkDecode.ts"
import {
  AF_INET,
  AF_INET6,
  AF_UNSPEC,
  FIB_RULE_INVERT,
  FR_ACT_TO_TBL,
  FRA,
  IFA,
  IFF,
  IFLA,
  IFLA_INET6_ADDR_GEN_MODE,
  IN6_ADDR_GEN_MODE_NONE,
  NLM_F,
  NLMSG_HEADER,
  ROUTE_HEADER,
  ROUTE_TYPE,
  RT_SCOPE,
  RT_TABLE,
  RTA,
  RTEXT_FILTER_SKIP_STATS,
  RTM,
  RTNH_F_ONLINK,
  RTPROT
} from "./rtnetlinkLayout.ts"
import type { AddressFamily } from "./rtnetlinkLayout.ts"

type Attribute = readonly [type: number, value: Uint8Array]

export const u32Bytes = (value: number): Uint8Array =>
  Uint8Array.of(value & 0xff, value >>> 8 & 0xff, value >>> 16 & 0xff, value >>> 24)

const encodeAttributes = (attributes: ReadonlyArray<Attribute>): Uint8Array => {
  let size = 0
  for (const [, value] of attributes) size += 4 + ((value.length + 3) & ~3)
  const bytes = new Uint8Array(size)
  let offset = 0
  for (const [type, value] of attributes) {
    const length = 4 + value.length
    bytes[offset] = length & 0xff
    bytes[offset + 1] = length >>> 8
    bytes[offset + 2] = type & 0xff
    bytes[offset + 3] = type >>> 8
    bytes.set(value, offset + 4)
    offset += (length + 3) & ~3
  }
  return bytes
}

const encode = (
  type: number,
  flags: number,
  fixed: ReadonlyArray<number>,
  attributes: ReadonlyArray<Attribute> = []
): Uint8Array => {
  const tail = encodeAttributes(attributes)
  const bytes = new Uint8Array(NLMSG_HEADER + fixed.length + tail.length)
  bytes.set(u32Bytes(bytes.length), 0)
  bytes[4] = type
  bytes[6] = flags & 0xff
  bytes[7] = flags >>> 8
  bytes.set(fixed, NLMSG_HEADER)
  bytes.set(tail, NLMSG_HEADER + fixed.length)
  return bytes
}

const linkHeader = (index: number, flags = 0, change = 0): ReadonlyArray<number> => [
  AF_UNSPEC,
  0,
  0,
  0,
  ...u32Bytes(index),
  ...u32Bytes(flags),
  ...u32Bytes(change)
]

const ascii = new TextEncoder()

export const getLinkByName = (name: string): Uint8Array =>
  encode(RTM.GETLINK, NLM_F.REQUEST, linkHeader(0), [[IFLA.IFNAME, ascii.encode(`${name}\0`)]])
export const getLinkByIndex = (index: number): Uint8Array =>
  encode(RTM.GETLINK, NLM_F.REQUEST, linkHeader(index), [[IFLA.EXT_MASK, u32Bytes(RTEXT_FILTER_SKIP_STATS)]])
export const dumpLinks = (): Uint8Array =>
  encode(RTM.GETLINK, NLM_F.DUMP, linkHeader(0), [[IFLA.EXT_MASK, u32Bytes(RTEXT_FILTER_SKIP_STATS)]])

/** No link-local address made by the kernel; fails on kernels before 4.5 (host spec section 8.3). */
export const setAddressGenerationNone = (index: number): Uint8Array =>
  encode(RTM.SETLINK, NLM_F.ADD, linkHeader(index), [[
    IFLA.AF_SPEC,
    encodeAttributes([[
      AF_INET6,
      encodeAttributes([[IFLA_INET6_ADDR_GEN_MODE, Uint8Array.of(IN6_ADDR_GEN_MODE_NONE)]])
    ]])
  ]])
export const setMtu = (index: number, mtu: number): Uint8Array =>
  encode(RTM.SETLINK, NLM_F.ADD, linkHeader(index), [[IFLA.MTU, u32Bytes(mtu)]])
export const setUp = (index: number): Uint8Array => encode(RTM.SETLINK, NLM_F.ADD, linkHeader(index, IFF.UP, IFF.UP))
export const setTxQueueLength = (index: number, packets: number): Uint8Array =>
  encode(RTM.SETLINK, NLM_F.ADD, linkHeader(index), [[IFLA.TXQLEN, u32Bytes(packets)]])

const familyOfBytes = (address: Uint8Array): AddressFamily => address.length === 4 ? AF_INET : AF_INET6

const addressMessage = (type: number, flags: number, index: number, address: Uint8Array, prefixLength: number) =>
  encode(type, flags, [familyOfBytes(address), prefixLength, 0, 0, ...u32Bytes(index)], [
    [IFA.ADDRESS, address],
    [IFA.LOCAL, address]
  ])
export const addAddress = (index: number, address: Uint8Array, prefixLength: number): Uint8Array =>
  addressMessage(RTM.NEWADDR, NLM_F.ADD, index, address, prefixLength)
export const deleteAddress = (index: number, address: Uint8Array, prefixLength: number): Uint8Array =>
  addressMessage(RTM.DELADDR, NLM_F.CHANGE, index, address, prefixLength)
/** Of one interface, where the kernel checks dumps strictly (4.20); of all before that. */
export const dumpAddresses = (family: number, index = 0): Uint8Array =>
  encode(RTM.GETADDR, NLM_F.DUMP, [family, 0, 0, 0, ...u32Bytes(index)])

const routeHeader = (
  family: number,
  prefixLength: number,
  rest: { tos?: number; table?: number; protocol?: number; scope?: number; type?: number; flags?: number } = {}
): ReadonlyArray<number> => [
  family,
  prefixLength,
  0,
  rest.tos ?? 0,
  rest.table ?? 0,
  rest.protocol ?? 0,
  rest.scope ?? 0,
  rest.type ?? 0,
  ...u32Bytes(rest.flags ?? 0)
]

/** The kernel's decision for one packet. `flags` are of `RTM_F`; `outputInterface` makes it consider that one only. */
export const getRoute = (
  destination: Uint8Array,
  options: { readonly mark: number; readonly flags?: number; readonly outputInterface?: number | undefined }
): Uint8Array =>
  encode(
    RTM.GETROUTE,
    NLM_F.REQUEST,
    routeHeader(familyOfBytes(destination), destination.length * 8, { flags: options.flags ?? 0 }),
    [
      [RTA.DST, destination],
      ...(options.outputInterface === undefined ? [] : [[RTA.OIF, u32Bytes(options.outputInterface)]] as const),
      [RTA.MARK, u32Bytes(options.mark)]
    ]
  )

/** All routes of one table, where the kernel checks dumps strictly (4.20); of every table before that. */
export const dumpRoutes = (family: AddressFamily, table: number): Uint8Array =>
  encode(RTM.GETROUTE, NLM_F.DUMP, routeHeader(family, 0), [[RTA.TABLE, u32Bytes(table)]])

/** Of every table. */
export const dumpAllRoutes = (family: AddressFamily): Uint8Array =>
  encode(RTM.GETROUTE, NLM_F.DUMP, routeHeader(family, 0), [])

export interface DeviceRoute {
  readonly destination: Uint8Array
  readonly prefixLength: number
  readonly table: number
  readonly index: number
}

/** A route into a device without a gateway (host spec section 8.4). */
export const addDeviceRoute = (route: DeviceRoute): Uint8Array =>
  encode(
    RTM.NEWROUTE,
    NLM_F.ADD,
    routeHeader(familyOfBytes(route.destination), route.prefixLength, {
      table: RT_TABLE.MAIN, // does not hold our numbers; the attribute wins
      protocol: RTPROT.STATIC,
      scope: RT_SCOPE.UNIVERSE,
      type: ROUTE_TYPE.UNICAST
    }),
    [
      [RTA.OIF, u32Bytes(route.index)],
      [RTA.TABLE, u32Bytes(route.table)],
      ...(route.prefixLength === 0 ? [] : [[RTA.DST, route.destination]] as const)
    ]
  )

/** Deletes exactly the route that a dump showed. */
export const deleteRoute = (route: RouteMessage): Uint8Array =>
  encode(
    RTM.DELROUTE,
    NLM_F.CHANGE,
    routeHeader(route.family, route.prefixLength, {
      tos: route.tos,
      table: route.table < 256 ? route.table : RT_TABLE.COMPAT,
      protocol: route.protocol,
      scope: route.scope,
      type: route.type
    }),
    [
      [RTA.TABLE, u32Bytes(route.table)],
      ...(route.destination === undefined ? [] : [[RTA.DST, route.destination]] as const),
      ...(route.outputInterface === undefined ? [] : [[RTA.OIF, u32Bytes(route.outputInterface)]] as const),
      ...(route.priority === undefined ? [] : [[RTA.PRIORITY, u32Bytes(route.priority)]] as const)
    ]
  )

// What a dump adds to a route that the kernel does not accept back.
const notAccepted: ReadonlySet<number> = new Set([RTA.CACHEINFO, RTA.TABLE, RTA.NH_ID])

/**
 * Adds the route of a dumped message's `body` to another table, else unchanged. Two interfaces in one network have a route
 * to it each, so it is appended.
 */
export const copyRoute = (body: Uint8Array, table: number): Uint8Array => {
  const fixed = Array.from(body.subarray(0, ROUTE_HEADER))
  fixed[4] = RT_TABLE.COMPAT
  fixed.splice(8, 4, ...u32Bytes((fixed[8] ?? 0) & RTNH_F_ONLINK))
  return encode(RTM.NEWROUTE, NLM_F.APPEND, fixed, [
    ...[...readAttributes(body, ROUTE_HEADER)].filter(([type]) => !notAccepted.has(type)),
    [RTA.TABLE, u32Bytes(table)]
  ])
}

export interface InvertedMarkRule {
  readonly family: AddressFamily
  readonly mark: number
  readonly table: number
  readonly priority: number
}

const ruleHeader = (family: number, table: number, action: number, flags: number): ReadonlyArray<number> => [
  family,
  0,
  0,
  0,
  table,
  0,
  0,
  action,
  ...u32Bytes(flags)
]
/** "Whatever does not carry the mark: ask this table" (host spec section 8.4). */
export const addInvertedMarkRule = (rule: InvertedMarkRule): Uint8Array =>
  encode(RTM.NEWRULE, NLM_F.ADD, ruleHeader(rule.family, RT_TABLE.MAIN, FR_ACT_TO_TBL, FIB_RULE_INVERT), [
    [FRA.FWMARK, u32Bytes(rule.mark)],
    [FRA.TABLE, u32Bytes(rule.table)],
    [FRA.PRIORITY, u32Bytes(rule.priority)],
    // Of the kernel: network daemons remove rules of other protocols that they do not know.
    [FRA.PROTOCOL, Uint8Array.of(RTPROT.KERNEL)]
  ])
/** Deletes exactly the rule that a dump showed, its protocol included. */
export const deleteRule = (rule: RuleMessage): Uint8Array =>
  encode(RTM.DELRULE, NLM_F.CHANGE, ruleHeader(rule.family, RT_TABLE.COMPAT, rule.action, rule.flags), [
    ...(rule.mark === undefined ? [] : [[FRA.FWMARK, u32Bytes(rule.mark)]] as const),
    [FRA.TABLE, u32Bytes(rule.table)],
    [FRA.PRIORITY, u32Bytes(rule.priority)],
    ...(rule.protocol === undefined ? [] : [[FRA.PROTOCOL, Uint8Array.of(rule.protocol)]] as const)
  ])
export const dumpRules = (family: AddressFamily): Uint8Array =>
  encode(RTM.GETRULE, NLM_F.DUMP, [family, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0])
