/** Randomness that a seed repeats. */
import { makeCrypto } from "../../src/layers/crypto/makeCrypto.ts"
import type { Crypto } from "../../src/protocol/crypto.ts"

/** Uniform in [0, 1). */
export type Random = () => number

/** Mulberry32: 32 bits of state, good enough for loss and port numbers. */
export const seeded = (seed: number): Random => {
  let state = seed >>> 0
  return () => {
    state = state + 0x6d2b_79f5 >>> 0
    let mixed = Math.imul(state ^ state >>> 15, state | 1)
    mixed ^= mixed + Math.imul(mixed ^ mixed >>> 7, mixed | 61)
    return ((mixed ^ mixed >>> 14) >>> 0) / 0x1_0000_0000
  }
}

const { crypto } = makeCrypto()

/** The real cryptography with keys, transaction ids and jitter from `random`. */
export const cryptoFrom = (random: Random): Crypto => ({
  ...crypto,
  randomBytes: (length) => Uint8Array.from({ length }, () => Math.floor(random() * 256))
})
