/** rtnetlink messages from bytes. Total: any bytes give messages or `undefined`, never an exception. */
import {
  ADDRESS_HEADER,
  AF_INET,
  AF_INET6,
  FRA,
  IFA,
  IFLA,
  IFLA_INFO_KIND,
  LINK_HEADER,
  NLM_F,
  NLMSG_HEADER,
  ROUTE_HEADER,
  RTA,
  RULE_HEADER
} from "./rtnetlinkLayout.ts"

/** One message; `body` is a view of the receive buffer, so copy what outlives the next receive. */
export interface Envelope {
  readonly type: number
  readonly flags: number
  readonly sequence: number
  readonly body: Uint8Array
}

/** Attribute values by type, the nested and byte-order bits removed; of repeated ones the last. Views, not copies. */
export type Attributes = ReadonlyMap<number, Uint8Array>

const u16 = (bytes: Uint8Array, offset: number): number => (bytes[offset] ?? 0) | (bytes[offset + 1] ?? 0) << 8
const u32 = (bytes: Uint8Array, offset: number): number => (u16(bytes, offset) | u16(bytes, offset + 2) << 16) >>> 0

/** The whole messages in `bytes[0, length)`; stops at the first one that claims more than is there. */
export const readMessages = (bytes: Uint8Array, length: number): ReadonlyArray<Envelope> => {
  const messages: Array<Envelope> = []
  const end = Math.min(length, bytes.length)
  for (let offset = 0; offset + NLMSG_HEADER <= end;) {
    const size = u32(bytes, offset)
    if (size < NLMSG_HEADER || offset + size > end) break
    messages.push({
      type: u16(bytes, offset + 4),
      flags: u16(bytes, offset + 6),
      sequence: u32(bytes, offset + 8),
      body: bytes.subarray(offset + NLMSG_HEADER, offset + size)
    })
    offset += (size + 3) & ~3
  }
  return messages
}

/** The attributes of `body` from `start`; stops at the first one that claims more than is there. */
export const readAttributes = (body: Uint8Array, start: number): Attributes => {
  const attributes = new Map<number, Uint8Array>()
  for (let offset = start; offset + 4 <= body.length;) {
    const size = u16(body, offset)
    if (size < 4 || offset + size > body.length) break
    attributes.set(u16(body, offset + 2) & 0x3fff, body.subarray(offset + 4, offset + size))
    offset += (size + 3) & ~3
  }
  return attributes
}

const numberOf = (value: Uint8Array | undefined): number | undefined =>
  value === undefined || value.length < 4 ? undefined : u32(value, 0)
const byteOf = (value: Uint8Array | undefined): number | undefined => value?.[0]
const copyIfLong = (value: Uint8Array | undefined, length: number): Uint8Array | undefined =>
  value?.length === length ? value.slice() : undefined
const addressLength = (family: number): number => family === AF_INET ? 4 : family === AF_INET6 ? 16 : -1

const text = new TextDecoder()
const textOf = (value: Uint8Array | undefined): string | undefined => {
  if (value === undefined) return undefined
  const nul = value.indexOf(0)
  return text.decode(nul < 0 ? value : value.subarray(0, nul))
}

/** The errno of an error message, 0 for an ack, with the kernel's own words if it gave some. */
export const decodeError = (envelope: Envelope): { readonly code: number; readonly words?: string | undefined } => {
  const code = -(u32(envelope.body, 0) | 0)
  if ((envelope.flags & NLM_F.ACK_TLVS) === 0) return { code }
  const payload = (envelope.flags & NLM_F.CAPPED) !== 0 ? 0 : Math.max(0, u32(envelope.body, 4) - NLMSG_HEADER)
  const start = 4 + NLMSG_HEADER + ((payload + 3) & ~3)
  return { code, words: textOf(readAttributes(envelope.body, start).get(1 /* NLMSGERR_ATTR_MSG */)) }
}

export interface LinkMessage {
  readonly family: number
  readonly index: number
  readonly flags: number
  readonly name?: string | undefined
  readonly mtu?: number | undefined
  readonly operState?: number | undefined
  readonly txQueueLength?: number | undefined
  /** The driver's name for itself, such as `wireguard`. */
  readonly kind?: string | undefined
}

export const decodeLink = (body: Uint8Array): LinkMessage | undefined => {
  if (body.length < LINK_HEADER) return undefined
  const attributes = readAttributes(body, LINK_HEADER)
  const info = attributes.get(IFLA.LINKINFO)
  return {
    family: body[0] as number,
    index: u32(body, 4),
    flags: u32(body, 8),
    name: textOf(attributes.get(IFLA.IFNAME)),
    mtu: numberOf(attributes.get(IFLA.MTU)),
    operState: byteOf(attributes.get(IFLA.OPERSTATE)),
    txQueueLength: numberOf(attributes.get(IFLA.TXQLEN)),
    kind: info === undefined ? undefined : textOf(readAttributes(info, 0).get(IFLA_INFO_KIND))
  }
}

export interface AddressMessage {
  readonly family: number
  readonly prefixLength: number
  readonly flags: number
  readonly scope: number
  readonly index: number
  /** Ours: on a point-to-point link the local end. 4 or 16 bytes. */
  readonly address: Uint8Array
}

export const decodeAddress = (body: Uint8Array): AddressMessage | undefined => {
  if (body.length < ADDRESS_HEADER) return undefined
  const attributes = readAttributes(body, ADDRESS_HEADER)
  const family = body[0] as number
  const length = addressLength(family)
  const address = copyIfLong(attributes.get(IFA.LOCAL), length) ?? copyIfLong(attributes.get(IFA.ADDRESS), length)
  if (address === undefined) return undefined
  return {
    family,
    prefixLength: body[1] as number,
    flags: numberOf(attributes.get(IFA.FLAGS)) ?? body[2] as number,
    scope: body[3] as number,
    index: u32(body, 4),
    address
  }
}

export interface RouteMessage {
  readonly family: number
  readonly prefixLength: number
  readonly tos: number
  readonly table: number
  readonly protocol: number
  readonly scope: number
  readonly type: number
  readonly flags: number
  /** Absent for a default route. 4 or 16 bytes, as are the other addresses. */
  readonly destination?: Uint8Array | undefined
  readonly outputInterface?: number | undefined
  /** Of `RTA_GATEWAY` or `RTA_VIA`: an IPv4 route may have an IPv6 gateway. Absent if on-link. */
  readonly gateway?: Uint8Array | undefined
  readonly priority?: number | undefined
  readonly preferredSource?: Uint8Array | undefined
}

export const decodeRoute = (body: Uint8Array): RouteMessage | undefined => {
  if (body.length < ROUTE_HEADER) return undefined
  const attributes = readAttributes(body, ROUTE_HEADER)
  const family = body[0] as number
  const length = addressLength(family)
  const via = attributes.get(RTA.VIA)
  return {
    family,
    prefixLength: body[1] as number,
    tos: body[3] as number,
    table: numberOf(attributes.get(RTA.TABLE)) ?? body[4] as number,
    protocol: body[5] as number,
    scope: body[6] as number,
    type: body[7] as number,
    flags: u32(body, 8),
    destination: copyIfLong(attributes.get(RTA.DST), length),
    outputInterface: numberOf(attributes.get(RTA.OIF)),
    gateway: copyIfLong(attributes.get(RTA.GATEWAY), length)
      ?? (via === undefined ? undefined : copyIfLong(via.subarray(2), addressLength(u16(via, 0)))),
    priority: numberOf(attributes.get(RTA.PRIORITY)),
    preferredSource: copyIfLong(attributes.get(RTA.PREFSRC), length)
  }
}

export interface RuleMessage {
  readonly family: number
  readonly table: number
  readonly action: number
  readonly flags: number
  readonly priority: number
  readonly mark?: number | undefined
  readonly protocol?: number | undefined
}

export const decodeRule = (body: Uint8Array): RuleMessage | undefined => {
  if (body.length < RULE_HEADER) return undefined
  const attributes = readAttributes(body, RULE_HEADER)
  return {
    family: body[0] as number,
    table: numberOf(attributes.get(FRA.TABLE)) ?? body[4] as number,
    action: body[7] as number,
    flags: u32(body, 8),
    priority: numberOf(attributes.get(FRA.PRIORITY)) ?? 0,
    mark: numberOf(attributes.get(FRA.FWMARK)),
    protocol: byteOf(attributes.get(FRA.PROTOCOL))
  }
}
