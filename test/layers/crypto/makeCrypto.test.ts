import { chacha20poly1305, xchacha20poly1305 } from "@noble/ciphers/chacha.js"
import * as fc from "fast-check"
import { describe, expect, it } from "vitest"
import { findWrongAnswer } from "../../../src/layers/crypto/knownAnswers.ts"
import { AeadUnavailable, makeCrypto, refuseRaw } from "../../../src/layers/crypto/makeCrypto.ts"
import type { DataCipher } from "../../../src/protocol/crypto.ts"

const fromHex = (hex: string): Uint8Array => Uint8Array.from(Buffer.from(hex, "hex"))
const toHex = (bytes: Uint8Array | undefined): string | undefined => bytes && Buffer.from(bytes).toString("hex")
const text = (value: string): Uint8Array => Uint8Array.from(Buffer.from(value))

const { crypto, aead, rejected } = makeCrypto()

describe("choice", () => {
  it("takes the fastest that answers right, and says why not another", () => {
    expect(["raw", "evp", "node"].indexOf(aead)).toBe(rejected.length)
    expect(rejected.every((reason) => reason.reason !== "")).toBe(true)
  })

  it("calls private routines only in builds where they were tried", () => {
    const good = { openssl: "3.0.19", arch: "x64", sharedOpenssl: false }
    expect(refuseRaw(good)).toBeUndefined()
    expect(refuseRaw({ ...good, openssl: "3.5.8", arch: "arm64" })).toBeUndefined()
    expect(refuseRaw({ ...good, openssl: "3.0.15+quic" })).toBeUndefined()
    expect(refuseRaw({ ...good, sharedOpenssl: true })).toContain("shared")
    expect(refuseRaw({ ...good, openssl: "1.1.1w+quic" })).toContain("1.1.1w")
    expect(refuseRaw({ ...good, openssl: "3.6.0" })).toContain("3.6.0")
    expect(refuseRaw({ ...good, openssl: "13.0.1" })).toContain("13.0.1")
    expect(refuseRaw({ ...good, arch: "s390x" })).toContain("s390x")
    expect(new AeadUnavailable({ aead: "raw", reason: "not tried" }).message).toContain("\"raw\"")
  })

  it("finds a cipher out that is wrong in any way", () => {
    const cipherWith = (change: (right: DataCipher) => Partial<DataCipher>) => (key: Uint8Array): DataCipher => {
      const right = crypto.dataCipher(key)
      return { seal: right.seal.bind(right), open: right.open.bind(right), ...change(right) }
    }
    expect(findWrongAnswer(cipherWith(() => ({})))).toBeUndefined()
    expect(findWrongAnswer(cipherWith(() => ({ seal: () => {} })))).toContain("another ciphertext")
    expect(findWrongAnswer(cipherWith(() => ({ open: () => true })))).toMatch(/took a forgery|another plaintext/)
    expect(findWrongAnswer(cipherWith(() => ({ open: () => false })))).toContain("refused")
    expect(findWrongAnswer(cipherWith((right) => ({
      open: (counter, input, offset, length, output, at) => {
        const ok = right.open(counter, input, offset, length, output, at)
        input[offset] = (input[offset] as number) ^ 4
        return ok
      }
    })))).toContain("changed its input")
    expect(findWrongAnswer(cipherWith((right) => ({
      seal: (counter, buffer, offset, length) => {
        right.seal(counter, buffer, offset, length)
        buffer[offset + length + 32] = 0
      }
    })))).toContain("wrote out of bounds")
  })
})

describe("X25519", () => {
  // RFC 7748 sections 5.2 and 6.1.
  it("gives the answers of the RFC", () => {
    expect(toHex(crypto.x25519(
      fromHex("a546e36bf0527c9d3b16154b82465edd62144c0ac1fc5a18506a2244ba449ac4"),
      fromHex("e6db6867583030db3594c1a424b15f7c726624ec26b3353b10a903a6d0ab1c4c")
    ))).toBe("c3da55379de9c6908e94ea4df28d084f32eccf03491c71f754b4075577a28552")
    const bob = fromHex("5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb")
    expect(toHex(crypto.x25519PublicKey(bob))).toBe(
      "de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f"
    )
    expect(toHex(crypto.x25519(bob, fromHex("8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a"))))
      .toBe("4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742")
  })

  it("iterates as in section 5.2", () => {
    let k: Uint8Array = Uint8Array.from({ length: 32 }, (_, i) => i === 0 ? 9 : 0)
    let u = k
    const iterate = (times: number): void => {
      for (let i = 0; i < times; i++) {
        const next = crypto.x25519(k, u)
        if (next === undefined) throw new Error("zero")
        u = k
        k = next
      }
    }
    iterate(1)
    expect(toHex(k)).toBe("422c8e7a6227d7bca1350b3e2bb7279f7897b87bb6854b783c60e80311ae3079")
    iterate(999)
    expect(toHex(k)).toBe("684cf59ba83309552800ef566f2f4d3c1c3887c49360e3875f2eb94d99532c51")
  })

  it("refuses points of small order", () => {
    const key = new Uint8Array(32).fill(7)
    for (
      const point of [
        "00".repeat(32),
        `01${"00".repeat(31)}`,
        "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
        "5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
        `ec${"ff".repeat(30)}7f`,
        `ed${"ff".repeat(30)}7f`
      ]
    ) {
      expect(crypto.x25519(key, fromHex(point))).toBeUndefined()
    }
  })

  it("does not remember a key that was changed in place", () => {
    const key = new Uint8Array(32).fill(1)
    const before = crypto.x25519PublicKey(key)
    key.fill(2)
    expect(crypto.x25519PublicKey(key)).not.toEqual(before)
    expect(() => crypto.x25519PublicKey(new Uint8Array(31))).toThrow(RangeError)
  })

  it("returns on any 32 bytes", () => {
    const any = fc.uint8Array({ minLength: 32, maxLength: 32 })
    fc.assert(
      fc.property(any, any, (privateKey, publicKey) => {
        const secret = crypto.x25519(privateKey, publicKey)
        expect(secret === undefined || secret.length === 32).toBe(true)
      }),
      { numRuns: 100 }
    )
  })
})

describe("AEAD for handshakes", () => {
  it("agrees with an independent implementation and refuses anything else", () => {
    fc.assert(
      fc.property(
        fc.uint8Array({ minLength: 32, maxLength: 32 }),
        fc.nat({ max: 255 }),
        fc.uint8Array({ maxLength: 100 }),
        fc.uint8Array({ maxLength: 100 }),
        fc.nat(),
        (key, counter, plaintext, aad, flip) => {
          const nonce = new Uint8Array(12)
          nonce[4] = counter
          const sealed = crypto.aeadSeal(key, counter, plaintext, aad)
          expect(sealed).toEqual(chacha20poly1305(key, nonce, aad).encrypt(plaintext))
          expect(crypto.aeadOpen(key, counter, sealed, aad)).toEqual(plaintext)
          expect(crypto.aeadOpen(key, counter + 1, sealed, aad)).toBeUndefined()
          expect(crypto.aeadOpen(key, counter, sealed, Uint8Array.from([...aad, 0]))).toBeUndefined()
          expect(crypto.aeadOpen(key, counter, sealed.subarray(0, flip % 16), aad)).toBeUndefined()
          sealed[flip % sealed.length] = (sealed[flip % sealed.length] as number) ^ 0x10
          expect(crypto.aeadOpen(key, counter, sealed, aad)).toBeUndefined()
        }
      ),
      { numRuns: 100 }
    )
  })

  // draft-irtf-cfrg-xchacha-03 appendix A.3.1, for the library that opens cookies.
  it("has XChaCha20-Poly1305 from the library", () => {
    const key = Uint8Array.from({ length: 32 }, (_, i) => 0x80 + i)
    const nonce = Uint8Array.from({ length: 24 }, (_, i) => 0x40 + i)
    const sealed = xchacha20poly1305(key, nonce, fromHex("50515253c0c1c2c3c4c5c6c7")).encrypt(text(
      "Ladies and Gentlemen of the class of '99: If I could offer you only one tip for the future, sunscreen would be it."
    ))
    expect(toHex(sealed.subarray(0, 16))).toBe("bd6d179d3e83d43b9576579493c0e939")
    expect(toHex(sealed.subarray(-16))).toBe("c0875924c1c7987947deafd8780acf49")
  })
})

it("has HMAC-SHA1 (RFC 2202), MD5 (RFC 1321) and random bytes", () => {
  const key = new Uint8Array(20).fill(0x0b)
  expect(toHex(crypto.hmacSha1(key, text("Hi There")))).toBe("b617318655057264e28bc0b6fb378c8ef146be00")
  expect(toHex(crypto.hmacSha1(key, text("Hi "), text("There")))).toBe("b617318655057264e28bc0b6fb378c8ef146be00")
  expect(toHex(crypto.md5(text("abc")))).toBe("900150983cd24fb0d6963f7d28e17f72")
  expect(crypto.randomBytes(32)).toHaveLength(32)
  expect(crypto.randomBytes(32)).not.toEqual(crypto.randomBytes(32))
})
