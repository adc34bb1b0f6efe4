import { CIPHER_HEADROOM, CIPHER_TAILROOM } from "../../protocol/crypto.ts"

export const TAG_LENGTH = 16

// Native code trusts these numbers, so they are checked for every packet: about 2 ns.
const fits = (array: Uint8Array, offset: number, length: number): boolean =>
  (offset | 0) === offset && (length | 0) === length && offset >= 0 && length >= 0 && offset + length <= array.length

/** Throws a `RangeError` unless `DataCipher.seal` may write where it has to: a bug of the caller. */
export const checkSeal = (counter: number, buffer: Uint8Array, offset: number, length: number): void => {
  if (
    !(counter >= 0 && counter <= Number.MAX_SAFE_INTEGER) || offset < CIPHER_HEADROOM
    || !fits(buffer, offset, length + CIPHER_TAILROOM) || length < 0
  ) {
    throw new RangeError(`seal(${counter}, ${buffer.length} bytes, ${offset}, ${length})`)
  }
}

/** As `checkSeal`, for `DataCipher.open`. */
export const checkOpen = (
  counter: number,
  input: Uint8Array,
  offset: number,
  length: number,
  output: Uint8Array,
  outputOffset: number
): void => {
  if (
    !(counter >= 0 && counter <= Number.MAX_SAFE_INTEGER) || length < TAG_LENGTH || !fits(input, offset, length)
    || outputOffset < CIPHER_HEADROOM || !fits(output, outputOffset, length - TAG_LENGTH + CIPHER_TAILROOM)
  ) {
    throw new RangeError(
      `open(${counter}, ${input.length} bytes, ${offset}, ${length}, ${output.length} bytes, ${outputOffset})`
    )
  }
}

/** 96-bit nonce of WireGuard: 4 zero bytes and the counter, as three little-endian words from `index` on. */
export const writeNonceWords = (words: Uint32Array, index: number, counter: number): void => {
  words[index] = 0
  words[index + 1] = counter >>> 0
  words[index + 2] = counter / 0x1_0000_0000
}
