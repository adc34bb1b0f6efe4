/** The BLAKE2s constructions of WireGuard's key schedule (connectivity spec 11.2). */
import { blake2s } from "@noble/hashes/blake2.js"
import { hmac as hmacOf } from "@noble/hashes/hmac.js"

export const HASH_LENGTH = 32
export const KEY_LENGTH = 32
export const MAC_LENGTH = 16
export const NO_BYTES = new Uint8Array(0)

/** BLAKE2s-256 of the concatenation. */
export const hash = (...parts: ReadonlyArray<Uint8Array>): Uint8Array => {
  const state = blake2s.create({ dkLen: HASH_LENGTH })
  for (const part of parts) state.update(part)
  return state.digest()
}

/** Keyed BLAKE2s with 16 bytes of output. */
export const mac = (key: Uint8Array, ...parts: ReadonlyArray<Uint8Array>): Uint8Array => {
  const state = blake2s.create({ key, dkLen: MAC_LENGTH })
  for (const part of parts) state.update(part)
  return state.digest()
}

const hmac = (key: Uint8Array, ...parts: ReadonlyArray<Uint8Array>): Uint8Array => {
  const state = hmacOf.create(blake2s, key)
  for (const part of parts) state.update(part)
  return state.digest()
}

/** The first `count` outputs of HKDF (RFC 5869) with `chainKey` as salt. */
const derive = (count: number, chainKey: Uint8Array, input: Uint8Array): Array<Uint8Array> => {
  const secret = hmac(chainKey, input)
  const outputs: Array<Uint8Array> = []
  let last: Uint8Array = NO_BYTES
  for (let i = 1; i <= count; i++) {
    last = hmac(secret, last, Uint8Array.of(i))
    outputs.push(last)
  }
  return outputs
}

export const kdf1 = (chainKey: Uint8Array, input: Uint8Array): Uint8Array => derive(1, chainKey, input)[0] as Uint8Array

export const kdf2 = (chainKey: Uint8Array, input: Uint8Array): [Uint8Array, Uint8Array] =>
  derive(2, chainKey, input) as [Uint8Array, Uint8Array]

export const kdf3 = (chainKey: Uint8Array, input: Uint8Array): [Uint8Array, Uint8Array, Uint8Array] =>
  derive(3, chainKey, input) as [Uint8Array, Uint8Array, Uint8Array]

/** Compares in a time that depends on the lengths only. */
export const equalBytes = (left: Uint8Array, right: Uint8Array): boolean => {
  if (left.length !== right.length) return false
  let difference = 0
  for (let i = 0; i < left.length; i++) difference |= (left[i] as number) ^ (right[i] as number)
  return difference === 0
}

export const ascii = (text: string): Uint8Array => Uint8Array.from(text, (character) => character.charCodeAt(0))
