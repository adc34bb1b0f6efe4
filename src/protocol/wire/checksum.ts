/**
 * The Internet checksum (RFC 1071) and its incremental update (RFC 1624). Sums are of big-endian 16-bit words, folded to
 * 16 bits and not complemented unless the name says "checksum". Nothing here allocates once a buffer is known.
 */

/** Adds the carries back in until 16 bits remain. `sum` is an integer of at most 2^48. */
export const fold = (sum: number): number => {
  let folded = sum > 0xffffffff ? (sum % 0x100000000) + Math.floor(sum / 0x100000000) : sum
  while (folded > 0xffff) folded = Math.floor(folded / 0x10000) + (folded % 0x10000)
  return folded
}

// The one's complement sum does not care for byte order until the end (RFC 1071 section 1.2 B), so long runs are added
// as host words. Views are kept for the few arenas that packets live in.
const littleEndian = new Uint8Array(Uint16Array.of(1).buffer)[0] === 1
const VIEWS = 4
const buffers: Array<ArrayBufferLike | undefined> = new Array<undefined>(VIEWS).fill(undefined)
const words: Array<Uint32Array> = Array.from({ length: VIEWS }, () => new Uint32Array(0))
let nextView = 0
/** Below this the set-up costs more than it saves, and a fresh small array must not push an arena out. */
const WIDE = 64

const wordsOf = (buffer: ArrayBufferLike): Uint32Array => {
  for (let i = 0; i < VIEWS; i++) if (buffers[i] === buffer) return words[i] as Uint32Array
  const view = new Uint32Array(buffer, 0, buffer.byteLength >>> 2)
  buffers[nextView] = buffer
  words[nextView] = view
  nextView = (nextView + 1) % VIEWS
  return view
}

/** The sum with one byte at a time; the reference for `sumBytes`. Any `offset`; an odd last byte is padded with zero. */
export const sumBytesPlain = (bytes: Uint8Array, offset: number, length: number, initial = 0): number => {
  let sum = initial
  const end = offset + (length & ~1)
  for (let i = offset; i < end; i += 2) sum += (bytes[i] as number) << 8 | (bytes[i + 1] as number)
  if ((length & 1) !== 0) sum += (bytes[end] as number) << 8
  return fold(sum)
}

/**
 * The folded sum of `bytes[offset, offset + length)` plus `initial` (an earlier sum). An odd `length` is padded with a
 * zero byte, so every part but the last must be even. `length` is at most 65,535.
 */
export const sumBytes = (bytes: Uint8Array, offset: number, length: number, initial = 0): number => {
  let at = bytes.byteOffset + offset
  if (length < WIDE || (at & 1) !== 0 || !littleEndian) return sumBytesPlain(bytes, offset, length, initial)
  let sum = initial
  let left = length
  if ((at & 2) !== 0) {
    sum += (bytes[offset] as number) << 8 | (bytes[offset + 1] as number)
    at += 2
    left -= 2
  }
  const view = wordsOf(bytes.buffer)
  let wide = 0
  let i = at >>> 2
  const end = i + (left >>> 2)
  for (const end4 = end - 3; i < end4; i += 4) {
    wide += (view[i] as number) + (view[i + 1] as number) + (view[i + 2] as number) + (view[i + 3] as number)
  }
  for (; i < end; i++) wide += view[i] as number
  const swapped = fold(wide)
  sum += (swapped & 0xff) << 8 | swapped >>> 8
  const rest = left & 3
  return rest === 0 ? fold(sum) : sumBytesPlain(bytes, offset + length - rest, rest, sum)
}

/** The checksum to write over a field that was zero: the complement of the sum. A result of 0 is UDP's 0xffff. */
export const checksum = (bytes: Uint8Array, offset: number, length: number, initial = 0): number =>
  ~sumBytes(bytes, offset, length, initial) & 0xffff

/** The sum of the pseudo-header of an IPv4 packet at `ip`: addresses, protocol, length (RFC 9293 section 3.1). */
export const pseudoHeaderSum4 = (bytes: Uint8Array, ip: number, protocol: number, length: number): number =>
  sumBytesPlain(bytes, ip + 12, 8, protocol + length)

/** The sum of the pseudo-header of an IPv6 packet at `ip` (RFC 8200 section 8.1). */
export const pseudoHeaderSum6 = (bytes: Uint8Array, ip: number, protocol: number, length: number): number =>
  sumBytesPlain(bytes, ip + 8, 32, protocol + length)

/** The checksum after one 16-bit word that it covers went from `before` to `after` (RFC 1624, equation 3). */
export const updateChecksum = (current: number, before: number, after: number): number =>
  ~fold((~current & 0xffff) + (~before & 0xffff) + after) & 0xffff

/** As `updateChecksum` for any sums: `before` and `after` are sums of the words that were replaced. */
export const updateChecksumSums = (current: number, before: number, after: number): number =>
  updateChecksum(current, fold(before), fold(after))
