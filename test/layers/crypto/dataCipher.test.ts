/** The three data ciphers behave alike, touch nothing that is not theirs, and refuse forgeries. */
import { chacha20poly1305 } from "@noble/ciphers/chacha.js"
import * as fc from "fast-check"
import * as v8 from "node:v8"
import * as vm from "node:vm"
import { describe, expect, it } from "vitest"
import { AEADS, makeCrypto } from "../../../src/layers/crypto/makeCrypto.ts"
import { CIPHER_HEADROOM, CIPHER_TAILROOM } from "../../../src/protocol/crypto.ts"

const TAG = 16
const GUARD = 32

const nonceOf = (counter: number): Uint8Array => {
  const nonce = new Uint8Array(12)
  new DataView(nonce.buffer).setBigUint64(4, BigInt(counter), true)
  return nonce
}

const cases = fc.record({
  key: fc.uint8Array({ minLength: 32, maxLength: 32 }),
  plaintext: fc.oneof(
    fc.uint8Array({ maxLength: 200 }),
    fc.integer({ min: 0, max: 4200 }).map((length) => Uint8Array.from({ length }, (_, i) => i * 13 + length))
  ),
  counter: fc.oneof(
    fc.integer({ min: 0, max: 1 << 20 }),
    fc.integer({ min: 0xffff_fff0, max: 0x1_0000_0010 }),
    fc.maxSafeNat()
  ),
  shift: fc.integer({ min: 0, max: 70 }),
  flip: fc.nat(),
  noise: fc.integer({ min: 0, max: 255 })
})

describe.each(AEADS)("%s", (aead) => {
  const { crypto, aead: chosen } = makeCrypto({ aead })
  it("is the one that was asked for", () => expect(chosen).toBe(aead))

  it("seals what an independent implementation seals, inside its bounds", () => {
    fc.assert(
      fc.property(cases, ({ counter, key, noise, plaintext, shift }) => {
        const length = plaintext.length
        const offset = GUARD + CIPHER_HEADROOM + shift
        const buffer = new Uint8Array(offset + length + CIPHER_TAILROOM + GUARD).fill(noise)
        buffer.set(plaintext, offset)
        crypto.dataCipher(key).seal(counter, buffer, offset, length)
        const expected = chacha20poly1305(key, nonceOf(counter)).encrypt(plaintext)
        expect(buffer.slice(offset, offset + length + TAG)).toEqual(expected)
        const outside = [
          ...buffer.slice(0, offset - CIPHER_HEADROOM),
          ...buffer.slice(offset + length + CIPHER_TAILROOM)
        ]
        expect(outside.every((byte) => byte === noise)).toBe(true)
      }),
      { numRuns: 150 }
    )
  })

  it("opens it, leaves the input alone, writes inside its bounds, and refuses any flipped bit", () => {
    fc.assert(
      fc.property(cases, ({ counter, flip, key, noise, plaintext, shift }) => {
        const sealed = chacha20poly1305(key, nonceOf(counter)).encrypt(plaintext)
        const input = new Uint8Array(shift + sealed.length + (shift & 31)).fill(noise)
        input.set(sealed, shift)
        const before = input.slice()
        const offset = GUARD + CIPHER_HEADROOM + (shift & 7)
        const end = offset + plaintext.length + CIPHER_TAILROOM
        const output = new Uint8Array(end + GUARD).fill(noise)
        const cipher = crypto.dataCipher(key)
        expect(cipher.open(counter, input, shift, sealed.length, output, offset)).toBe(true)
        expect(output.slice(offset, offset + plaintext.length)).toEqual(plaintext)
        expect(input).toEqual(before)
        const untouched = (): boolean =>
          [...output.slice(0, offset - CIPHER_HEADROOM), ...output.slice(end)].every((byte) => byte === noise)
        expect(untouched()).toBe(true)

        const at = shift + flip % sealed.length
        input[at] = (input[at] as number) ^ (1 << (flip & 7))
        const forged = input.slice()
        expect(cipher.open(counter, input, shift, sealed.length, output, offset)).toBe(false)
        expect(input).toEqual(forged)
        expect(untouched()).toBe(true)
        expect(cipher.open(counter === 0 ? 1 : counter - 1, before, shift, sealed.length, output, offset)).toBe(false)
        expect(cipher.open(counter, before, shift, sealed.length, output, offset)).toBe(true)
      }),
      { numRuns: 150 }
    )
  })

  it("keeps keys apart when ciphers take turns", () => {
    const keys = [1, 2, 3].map((value) => new Uint8Array(32).fill(value))
    const ciphers = keys.map((key) => crypto.dataCipher(key))
    for (let counter = 0; counter < 30; counter++) {
      const index = counter * 7 % 3
      const key = keys[index] as Uint8Array
      const buffer = new Uint8Array(400).fill(counter)
      ciphers[index]?.seal(counter, buffer, 100, 200)
      expect(buffer.slice(100, 316)).toEqual(
        chacha20poly1305(key, nonceOf(counter)).encrypt(new Uint8Array(200).fill(counter))
      )
      const output = new Uint8Array(400)
      expect(ciphers[(index + 1) % 3]?.open(counter, buffer, 100, 216, output, 64)).toBe(false)
      expect(ciphers[index]?.open(counter, buffer, 100, 216, output, 64)).toBe(true)
    }
  })

  it("takes a copy of its key", () => {
    const key = new Uint8Array(32).fill(9)
    const cipher = crypto.dataCipher(key)
    key.fill(0)
    const buffer = new Uint8Array(200)
    cipher.seal(0, buffer, 64, 10)
    expect(buffer.slice(64, 90)).toEqual(
      chacha20poly1305(new Uint8Array(32).fill(9), nonceOf(0)).encrypt(new Uint8Array(10))
    )
  })

  it("works on part of an array buffer, and on small arrays that the collector could move", () => {
    v8.setFlagsFromString("--expose-gc")
    const collect = vm.runInNewContext("gc") as () => void
    const cipher = crypto.dataCipher(new Uint8Array(32))
    const sealed = chacha20poly1305(new Uint8Array(32), nonceOf(5)).encrypt(Uint8Array.of(1, 2, 3))
    const small = new Uint8Array(32)
    const backing = new ArrayBuffer(1000)
    const output = new Uint8Array(backing, 300, 200)
    for (let round = 0; round < 20; round++) {
      small.fill(round)
      small.set(sealed, round % 10)
      expect(cipher.open(5, small, round % 10, sealed.length, output, 70)).toBe(true)
      expect([...output.slice(70, 73)]).toEqual([1, 2, 3])
      const garbage = Array.from({ length: 1000 }, () => new Uint8Array(32))
      expect(garbage.length).toBe(1000)
      collect()
    }
    expect([...new Uint8Array(backing, 370, 3)]).toEqual([1, 2, 3])
    expect(new Uint8Array(backing, 0, 300).every((byte) => byte === 0)).toBe(true)
  })

  it("throws before native code sees a place outside the arrays", () => {
    const cipher = crypto.dataCipher(new Uint8Array(32))
    const buffer = new Uint8Array(300)
    for (
      const [counter, offset, length] of [
        [0, 63, 10],
        [0, 64, 205],
        [0, 64, -1],
        [0, 64.5, 10],
        [0, Number.NaN, 10],
        [0, 64, Number.NaN],
        [0, 64, 2 ** 32],
        [-1, 64, 10],
        [2 ** 53, 64, 10],
        [Number.NaN, 64, 10]
      ] as const
    ) {
      expect(() => cipher.seal(counter, buffer, offset, length)).toThrow(RangeError)
    }
    const output = new Uint8Array(300)
    for (
      const [offset, length, outputOffset] of [
        [0, 15, 64],
        [-1, 30, 64],
        [290, 16, 64],
        [0, 30, 63],
        [0, 30, 260],
        [0, 200, 100],
        [0.5, 30, 64],
        [0, Number.NaN, 64]
      ] as const
    ) {
      expect(() => cipher.open(0, buffer, offset, length, output, outputOffset)).toThrow(RangeError)
    }
    expect(() => cipher.open(0, buffer, 0, 184, output, 100)).not.toThrow()
  })
})
