import { createCipheriv, createDecipheriv, createSecretKey, type KeyObject } from "node:crypto"
import type { DataCipher } from "../../protocol/crypto.ts"
import { checkOpen, checkSeal, TAG_LENGTH, writeNonceWords } from "./bounds.ts"

const ALGORITHM = "chacha20-poly1305"
const OPTIONS = { authTagLength: TAG_LENGTH }
const NO_BYTES = new Uint8Array(0)

/** The 12-byte nonce of `counter`. */
export const nonceOf = (counter: number): Uint8Array => {
  const words = new Uint32Array(3)
  writeNonceWords(words, 0, counter)
  return new Uint8Array(words.buffer)
}

/** ChaCha20-Poly1305, RFC 8439 section 2.8: ciphertext and tag. */
export const seal = (
  key: Uint8Array | KeyObject,
  nonce: Uint8Array,
  plaintext: Uint8Array,
  aad: Uint8Array
): Uint8Array => {
  const cipher = createCipheriv(ALGORITHM, key, nonce, OPTIONS)
  cipher.setAAD(aad, { plaintextLength: plaintext.length })
  const sealed = new Uint8Array(plaintext.length + TAG_LENGTH)
  sealed.set(cipher.update(plaintext))
  cipher.final()
  sealed.set(cipher.getAuthTag(), plaintext.length)
  return sealed
}

/** The plaintext, or `undefined` if the tag is wrong. */
export const open = (
  key: Uint8Array | KeyObject,
  nonce: Uint8Array,
  sealed: Uint8Array,
  aad: Uint8Array
): Uint8Array | undefined => {
  const length = sealed.length - TAG_LENGTH
  if (length < 0) return undefined
  const decipher = createDecipheriv(ALGORITHM, key, nonce, OPTIONS)
  decipher.setAAD(aad, { plaintextLength: length })
  decipher.setAuthTag(sealed.subarray(length))
  const plaintext = Uint8Array.from(decipher.update(sealed.subarray(0, length)))
  try {
    decipher.final()
    return plaintext
  } catch {
    return undefined // how node:crypto reports a wrong tag
  }
}

/** The slow `DataCipher` that works everywhere, and the reference for the others. */
export class NodeDataCipher implements DataCipher {
  readonly #key: KeyObject

  constructor(key: Uint8Array) {
    this.#key = createSecretKey(key)
  }

  seal(counter: number, buffer: Uint8Array, offset: number, length: number): void {
    checkSeal(counter, buffer, offset, length)
    buffer.set(seal(this.#key, nonceOf(counter), buffer.subarray(offset, offset + length), NO_BYTES), offset)
  }

  open(
    counter: number,
    input: Uint8Array,
    offset: number,
    length: number,
    output: Uint8Array,
    outputOffset: number
  ): boolean {
    checkOpen(counter, input, offset, length, output, outputOffset)
    const plaintext = open(this.#key, nonceOf(counter), input.subarray(offset, offset + length), NO_BYTES)
    if (plaintext === undefined) return false
    output.set(plaintext, outputOffset)
    return true
  }
}
