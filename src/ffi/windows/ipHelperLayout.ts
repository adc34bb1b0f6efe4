/**
 * Structures of IP Helper on 64-bit Windows, little-endian (ws2ipdef.h, netioapi.h, iptypes.h; host spec section 11.3).
 * Pure functions on bytes, so every platform tests them.
 */

export const AF_UNSPEC = 0
export const AF_INET = 2
export const AF_INET6 = 23

export const SOCKADDR_INET = { size: 28, family: 0, address4: 4, address6: 8 } as const

export const MIB_IPFORWARD_ROW2 = {
  size: 104,
  interfaceIndex: 8,
  prefixLength: 40,
  nextHop: 44,
  metric: 84
} as const

export const IP_ADAPTER_ADDRESSES = {
  size: 448,
  ifIndex: 4,
  next: 8,
  friendlyName: 72,
  operStatus: 104,
  ipv6IfIndex: 108,
  ipv4Metric: 216,
  ipv6Metric: 220,
  luid: 224
} as const

const IF_OPER_STATUS_UP = 1

const viewOf = (bytes: Uint8Array): DataView => new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)

/** A `SOCKADDR_INET` of 4 or 16 bytes of address, with port and scope 0. */
export const encodeSockaddrInet = (address: Uint8Array): Uint8Array<ArrayBuffer> => {
  const bytes = new Uint8Array(SOCKADDR_INET.size)
  const v4 = address.length === 4
  viewOf(bytes).setUint16(SOCKADDR_INET.family, v4 ? AF_INET : AF_INET6, true)
  bytes.set(address, v4 ? SOCKADDR_INET.address4 : SOCKADDR_INET.address6)
  return bytes
}

/** The 4 or 16 bytes of address of the `SOCKADDR_INET` at `offset`; an unspecified family means `assumed`. */
export const decodeSockaddrInet = (
  bytes: Uint8Array,
  offset: number,
  assumed: typeof AF_INET | typeof AF_INET6
): Uint8Array | undefined => {
  const family = viewOf(bytes).getUint16(offset + SOCKADDR_INET.family, true)
  switch (family === AF_UNSPEC ? assumed : family) {
    case AF_INET:
      return bytes.slice(offset + SOCKADDR_INET.address4, offset + SOCKADDR_INET.address4 + 4)
    case AF_INET6:
      return bytes.slice(offset + SOCKADDR_INET.address6, offset + SOCKADDR_INET.address6 + 16)
    default:
      return undefined
  }
}

export interface ForwardRow {
  readonly interfaceIndex: number
  readonly prefixLength: number
  /** 4 or 16 bytes; absent if the destination is on the link. */
  readonly nextHop: Uint8Array | undefined
  /** An offset: the interface's metric is added to it for the real preference. */
  readonly metric: number
}

/** Reads a `MIB_IPFORWARD_ROW2`. */
export const decodeForwardRow = (row: Uint8Array, assumed: typeof AF_INET | typeof AF_INET6): ForwardRow => {
  const view = viewOf(row)
  const nextHop = decodeSockaddrInet(row, MIB_IPFORWARD_ROW2.nextHop, assumed)
  return {
    interfaceIndex: view.getUint32(MIB_IPFORWARD_ROW2.interfaceIndex, true),
    prefixLength: view.getUint8(MIB_IPFORWARD_ROW2.prefixLength),
    nextHop: nextHop?.some((byte) => byte !== 0) === true ? nextHop : undefined,
    metric: view.getUint32(MIB_IPFORWARD_ROW2.metric, true)
  }
}

export interface Adapter {
  readonly luid: bigint
  /** For IPv4; 0 if it has none. */
  readonly ifIndex: number
  /** For IPv6; 0 if it has none. */
  readonly ipv6IfIndex: number
  /** The name that people see and may change; absent if it is not valid UTF-16. */
  readonly friendlyName: string | undefined
  readonly isUp: boolean
  readonly ipv4Metric: number
  readonly ipv6Metric: number
}

/** Reads the list that `GetAdaptersAddresses` left in `bytes`, whose first byte was at the memory address `base`. */
export const decodeAdapters = (bytes: Uint8Array, base: number): ReadonlyArray<Adapter> => {
  const layout = IP_ADAPTER_ADDRESSES
  const view = viewOf(bytes)
  const offsetAt = (offset: number): number | undefined => {
    const pointer = Number(view.getBigUint64(offset, true))
    return pointer >= base && pointer < base + bytes.length ? pointer - base : undefined // null is never inside
  }
  const adapters: Array<Adapter> = []
  const most = Math.floor(bytes.length / layout.size) // so that a list that bites its tail ends
  for (
    let at: number | undefined = 0;
    at !== undefined && at + layout.size <= bytes.length && adapters.length < most;
    at = offsetAt(at + layout.next)
  ) {
    const name = offsetAt(at + layout.friendlyName)
    adapters.push({
      luid: view.getBigUint64(at + layout.luid, true),
      ifIndex: view.getUint32(at + layout.ifIndex, true),
      ipv6IfIndex: view.getUint32(at + layout.ipv6IfIndex, true),
      friendlyName: name === undefined ? undefined : decodeWideString(bytes, name),
      isUp: view.getUint32(at + layout.operStatus, true) === IF_OPER_STATUS_UP,
      ipv4Metric: view.getUint32(at + layout.ipv4Metric, true),
      ipv6Metric: view.getUint32(at + layout.ipv6Metric, true)
    })
  }
  return adapters
}

const utf16 = new TextDecoder("utf-16le", { fatal: true, ignoreBOM: true })

/** The UTF-16 text at `start` up to its zero; `undefined` if it is invalid or has no end. */
const decodeWideString = (bytes: Uint8Array, start: number): string | undefined => {
  let end = start
  while (end + 1 < bytes.length && (bytes[end] !== 0 || bytes[end + 1] !== 0)) end += 2
  if (end + 1 >= bytes.length) return undefined
  try {
    return utf16.decode(bytes.subarray(start, end))
  } catch {
    return undefined
  }
}
