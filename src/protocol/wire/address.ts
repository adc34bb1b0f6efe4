import ipaddr from "ipaddr.js"

/**
 * An IP address in canonical text (RFC 5952 for IPv6, never IPv4-mapped), so that `===` compares addresses. Without a
 * zone, but for DNS servers of this system that are link-local, and our own address on the way to them: `fe80::1%eth0`.
 */
export type IpAddress = string & { readonly IpAddress: unique symbol }

export type Family = 4 | 6

/** Returns the canonical form, or `undefined` for anything but one IP address. IPv4-mapped IPv6 becomes IPv4. */
export const parseIp = (text: string): IpAddress | undefined => {
  if (text.includes("%")) return undefined
  if (ipaddr.IPv4.isValidFourPartDecimal(text)) return ipaddr.IPv4.parse(text).toString() as IpAddress
  if (!text.includes(":") || !ipaddr.IPv6.isValid(text)) return undefined
  const address = ipaddr.IPv6.parse(text)
  return (address.isIPv4MappedAddress()
    ? address.toIPv4Address().toString()
    : address.toRFC5952String()) as IpAddress
}

/** As `parseIp`, for addresses known to be valid: constants and tests. Throws a `RangeError` otherwise. */
export const ip = (text: string): IpAddress => {
  const address = parseIp(text)
  if (address === undefined) throw new RangeError(`not an IP address: ${text}`)
  return address
}

const ZONE = "%"
const LINK_LOCAL = /^fe[89ab][0-9a-f]:/

/** `address` on the link that `zone`, an interface's name or index, leads to: only there is it one if it is link-local. */
export const withZone = (address: IpAddress, zone: string): IpAddress =>
  LINK_LOCAL.test(address) && zone !== "" ? `${address}${ZONE}${zone}` as IpAddress : address

/** As `parseIp`, and keeps the zone of a link-local address (RFC 4007 section 11); of others it means nothing. */
export const parseScopedIp = (text: string): IpAddress | undefined => {
  const at = text.indexOf(ZONE)
  if (at < 0) return parseIp(text)
  const address = parseIp(text.slice(0, at))
  return address && withZone(address, text.slice(at + 1))
}

export const zoneOf = (address: IpAddress): string | undefined => {
  const at = address.indexOf(ZONE)
  return at < 0 ? undefined : address.slice(at + 1)
}

export const withoutZone = (address: IpAddress): IpAddress => {
  const at = address.indexOf(ZONE)
  return at < 0 ? address : address.slice(0, at) as IpAddress
}

export const familyOf = (address: IpAddress): Family => address.includes(":") ? 6 : 4

/** Network byte order, 4 or 16 bytes. */
export const ipToBytes = (address: IpAddress): Uint8Array =>
  Uint8Array.from((familyOf(address) === 4 ? ipaddr.IPv4 : ipaddr.IPv6).parse(withoutZone(address)).toByteArray())

/** Reads 4 or 16 bytes at `offset`. An IPv4-mapped IPv6 address stays IPv6 on the wire but reads as IPv4. */
export const ipFromBytes = (bytes: Uint8Array, offset: number, family: Family): IpAddress => {
  if (family === 4) {
    return `${bytes[offset]}.${bytes[offset + 1]}.${bytes[offset + 2]}.${bytes[offset + 3]}` as IpAddress
  }
  const address = new ipaddr.IPv6(Array.from(bytes.subarray(offset, offset + 16)))
  return (address.isIPv4MappedAddress()
    ? address.toIPv4Address().toString()
    : address.toRFC5952String()) as IpAddress
}

/** An IP address and a UDP or TCP port. Compare by `text`. Make them rarely: the packet path hands on interned ones. */
export class SocketAddress {
  readonly family: Family
  readonly address: IpAddress
  readonly port: number
  /** `203.0.113.9:3478` or `[2001:db8::9]:3478`. */
  readonly text: string
  constructor(address: IpAddress, port: number) {
    this.family = familyOf(address)
    this.address = address
    this.port = port
    this.text = this.family === 4 ? `${address}:${port}` : `[${address}]:${port}`
  }
  toString(): string {
    return this.text
  }
}

/** Parses `ip:port` and `[ip6]:port`; `undefined` for anything else, host names included. */
export const parseSocketAddress = (text: string): SocketAddress | undefined => {
  const match = /^(?:\[([0-9a-fA-F:.]+)\]|([0-9.]+)):(\d{1,5})$/.exec(text)
  if (match === null) return undefined
  const address = parseIp(match[1] ?? match[2] ?? "")
  const port = Number(match[3])
  if (address === undefined || port > 65535 || (match[1] === undefined) !== (familyOf(address) === 4)) return undefined
  return new SocketAddress(address, port)
}

/** An IP network: `bits` leading bits of `address` count, the rest are zero. */
export interface IpNetwork {
  readonly address: IpAddress
  readonly bits: number
}

/** Parses `10.0.0.0/8`. The slash is mandatory and host bits must be zero (portal spec section 5). */
export const parseNetwork = (text: string): IpNetwork | undefined => {
  const slash = text.indexOf("/")
  const address = slash < 0 ? undefined : parseIp(text.slice(0, slash))
  if (address === undefined || !/^\d{1,3}$/.test(text.slice(slash + 1))) return undefined
  const bits = Number(text.slice(slash + 1))
  const bytes = ipToBytes(address)
  if (bits > bytes.length * 8) return undefined
  for (let bit = bits; bit < bytes.length * 8; bit++) {
    if (((bytes[bit >> 3] ?? 0) & (0x80 >> (bit & 7))) !== 0) return undefined
  }
  return { address, bits }
}

export const formatNetwork = (network: IpNetwork): string => `${network.address}/${network.bits}`

/** Whether `address` lies in `network`; families never match each other. */
export const networkContains = (network: IpNetwork, address: IpAddress): boolean => {
  if (familyOf(network.address) !== familyOf(address)) return false
  const left = ipToBytes(network.address)
  const right = ipToBytes(address)
  for (let i = 0, bits = network.bits; bits > 0; i++, bits -= 8) {
    const mask = bits >= 8 ? 0xff : 0xff << (8 - bits) & 0xff
    if ((((left[i] ?? 0) ^ (right[i] ?? 0)) & mask) !== 0) return false
  }
  return true
}
