/** Tells flows apart well enough to queue them separately. */

const TCP = 6
const UDP = 17

export const FLOW_BUCKETS = 256

/**
 * A number below `FLOW_BUCKETS` for the packet `bytes[at, at + length)`: the same for all packets of one flow in one
 * direction (addresses, protocol, and ports where TCP or UDP follow the IP header at once). Other flows may share it. Any
 * bytes give one.
 */
export const flowBucket = (bytes: Uint8Array, at: number, length: number): number => {
  const isIpv4 = (bytes[at] as number) >>> 4 === 4
  const headers = isIpv4 ? ((bytes[at] as number) & 0x0f) << 2 : 40
  if (length < headers || headers < 20) return 0
  const protocol = bytes[at + (isIpv4 ? 9 : 6)] as number
  let hash = protocol
  const addresses = at + (isIpv4 ? 12 : 8)
  const addressesEnd = addresses + (isIpv4 ? 8 : 32)
  for (let i = addresses; i < addressesEnd; i += 2) hash = mix(hash, bytes, i)
  if ((protocol === TCP || protocol === UDP) && length >= headers + 4) {
    hash = mix(mix(hash, bytes, at + headers), bytes, at + headers + 2)
  }
  return hash >>> 24
}

/** Multiplicative hashing: the upper bits depend on all that went in. */
const mix = (hash: number, bytes: Uint8Array, at: number): number =>
  Math.imul(hash ^ ((bytes[at] as number) << 8 | (bytes[at + 1] as number)), 0x9e3779b1)
