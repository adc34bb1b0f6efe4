import { memoryAddress } from "../../ffi/linux/libc.ts"
import type { ChaCha20Poly1305Routines } from "../../ffi/openssl/chacha20poly1305.ts"
import { CIPHER_HEADROOM, type DataCipher } from "../../protocol/crypto.ts"
import { checkOpen, checkSeal, TAG_LENGTH, writeNonceWords } from "./bounds.ts"
import { LastArray } from "./LastArray.ts"

const BLOCK = 64
const CONTEXT_SIZE = 1024
// One scratch area for all ciphers, since calls are synchronous: a Poly1305 context, then these.
const COUNTER = CONTEXT_SIZE // block counter and nonce, 16 bytes
const TAG = COUNTER + 16
const PADDING = TAG + 16 // up to 15 zero bytes and the length block
const ZEROS = PADDING + 32
const KEY_STREAM = ZEROS + BLOCK
const SCRATCH_SIZE = KEY_STREAM + BLOCK

// Signatures differ between releases of OpenSSL in theory only, but the price of being wrong is a crash.
if (CIPHER_HEADROOM !== BLOCK) throw new Error("the headroom holds the first key stream block")

/**
 * Makes `DataCipher`s of the raw routines: RFC 8439 section 2.8 in four FFI calls. ChaCha20 runs once, from block 0, over
 * 64 zero bytes and the text: the first 32 bytes that come out are the Poly1305 key. The authenticated data (ciphertext,
 * zero padding, lengths) is laid out in place, so that one Poly1305 update takes it all.
 */
export const makeRawDataCiphers = (routines: ChaCha20Poly1305Routines): (key: Uint8Array) => DataCipher => {
  const { chacha20, poly1305Final, poly1305Init, poly1305Update } = routines
  if (routines.poly1305ContextSize() > CONTEXT_SIZE) throw new Error("the Poly1305 context is larger than expected")
  const scratch = new Uint8Array(SCRATCH_SIZE)
  const scratchView = new DataView(scratch.buffer)
  const counterWords = new Uint32Array(scratch.buffer, COUNTER, 4)
  const saved = new Int32Array(BLOCK / 4)
  const savedTag = new Int32Array(TAG_LENGTH / 4)
  const savedTail = new Uint8Array(16)
  const scratchAddress = memoryAddress(scratch)
  const counterAddress = scratchAddress + COUNTER
  const tagAddress = scratchAddress + TAG
  const sealed = new LastArray()
  const opened = new LastArray()
  const target = new LastArray()

  const setCounter = (block: number, counter: number): void => {
    counterWords[0] = block
    writeNonceWords(counterWords, 1, counter)
  }

  /** Zero padding to 16 bytes, then the lengths of AAD (none) and ciphertext; returns how many bytes that is. */
  const writePadding = (bytes: Uint8Array, view: DataView, at: number, length: number): number => {
    const padding = -length & 15
    for (let i = at; i < at + padding; i++) bytes[i] = 0
    view.setInt32(at + padding, 0, true)
    view.setInt32(at + padding + 4, 0, true)
    view.setInt32(at + padding + 8, length, true)
    view.setInt32(at + padding + 12, 0, true)
    return padding + 16
  }

  class RawDataCipher implements DataCipher {
    readonly #key: Uint8Array
    readonly #keyAddress: number

    constructor(key: Uint8Array) {
      this.#key = Uint8Array.from(key)
      this.#keyAddress = memoryAddress(this.#key)
    }

    seal(counter: number, buffer: Uint8Array, offset: number, length: number): void {
      checkSeal(counter, buffer, offset, length)
      const address = sealed.addressOf(buffer) + offset
      setCounter(0, counter)
      buffer.fill(0, offset - BLOCK, offset)
      chacha20(address - BLOCK, address - BLOCK, BLOCK + length, this.#keyAddress, counterAddress)
      const behind = writePadding(buffer, sealed.view, offset + length, length)
      poly1305Init(scratchAddress, address - BLOCK)
      poly1305Update(scratchAddress, address, length + behind)
      poly1305Final(scratchAddress, address + length)
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
      const address = opened.addressOf(input) + offset
      const outputAddress = target.addressOf(output) + outputOffset
      const textLength = length - TAG_LENGTH
      const end = offset + textLength
      const padding = -textLength & 15
      if (offset < BLOCK || end + padding + TAG_LENGTH > input.length) {
        return this.#openWithoutRoom(counter, end, address, textLength, outputAddress)
      }
      // The 64 bytes in front and the tag with up to 15 bytes behind it may belong to neighbours: borrowed, given back.
      const view = opened.view
      const head = offset - BLOCK
      for (let i = 0; i < BLOCK / 4; i++) {
        saved[i] = view.getInt32(head + 4 * i, true)
        view.setInt32(head + 4 * i, 0, true)
      }
      setCounter(0, counter)
      chacha20(outputAddress - BLOCK, address - BLOCK, BLOCK + textLength, this.#keyAddress, counterAddress)
      for (let i = 0; i < BLOCK / 4; i++) view.setInt32(head + 4 * i, saved[i] as number, true)
      for (let i = 0; i < TAG_LENGTH / 4; i++) savedTag[i] = view.getInt32(end + 4 * i, true)
      for (let i = 0; i < padding; i++) savedTail[i] = input[end + TAG_LENGTH + i] as number
      const behind = writePadding(input, view, end, textLength)
      poly1305Init(scratchAddress, outputAddress - BLOCK)
      poly1305Update(scratchAddress, address, textLength + behind)
      poly1305Final(scratchAddress, tagAddress)
      for (let i = 0; i < TAG_LENGTH / 4; i++) view.setInt32(end + 4 * i, savedTag[i] as number, true)
      for (let i = 0; i < padding; i++) input[end + TAG_LENGTH + i] = savedTail[i] as number
      return this.#isTag(view, end)
    }

    /** Two calls more, for a datagram at the very start or end of its array. */
    #openWithoutRoom(counter: number, end: number, address: number, textLength: number, output: number): boolean {
      setCounter(0, counter)
      chacha20(scratchAddress + KEY_STREAM, scratchAddress + ZEROS, BLOCK, this.#keyAddress, counterAddress)
      setCounter(1, counter)
      chacha20(output, address, textLength, this.#keyAddress, counterAddress)
      const behind = writePadding(scratch, scratchView, PADDING, textLength)
      poly1305Init(scratchAddress, scratchAddress + KEY_STREAM)
      poly1305Update(scratchAddress, address, textLength)
      poly1305Update(scratchAddress, scratchAddress + PADDING, behind)
      poly1305Final(scratchAddress, tagAddress)
      return this.#isTag(opened.view, end)
    }

    /** Compares in constant time. */
    #isTag(view: DataView, at: number): boolean {
      let difference = 0
      for (let i = 0; i < TAG_LENGTH; i += 4) {
        difference |= view.getInt32(at + i, true) ^ scratchView.getInt32(TAG + i, true)
      }
      return difference === 0
    }
  }
  return (key) => new RawDataCipher(key)
}
