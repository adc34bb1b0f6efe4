/** The routines of the node executable against RFC 8439. */
import { describe, expect, it } from "vitest"
import { memoryAddress } from "../../../src/ffi/linux/libc.ts"
import { bindChaCha20Poly1305, type ChaCha20Poly1305Routines } from "../../../src/ffi/openssl/chacha20poly1305.ts"
import {
  bindEvp,
  EVP_CTRL_AEAD_GET_TAG,
  EVP_CTRL_AEAD_SET_TAG,
  type EvpRoutines
} from "../../../src/ffi/openssl/evp.ts"
import { bindFromExecutable } from "../../../src/ffi/openssl/executable.ts"

const fromHex = (hex: string): Uint8Array => Uint8Array.from(Buffer.from(hex.replaceAll(/\s/g, ""), "hex"))
const toHex = (bytes: Uint8Array): string => Buffer.from(bytes).toString("hex")
const ascending = (first: number, count: number): Uint8Array => Uint8Array.from({ length: count }, (_, i) => first + i)
const SUNSCREEN = Uint8Array.from(Buffer.from(
  "Ladies and Gentlemen of the class of '99: If I could offer you only one tip for the future, sunscreen would be it."
))

// Section 2.8.2.
const AEAD_KEY = ascending(0x80, 32)
const AEAD_NONCE = fromHex("070000004041424344454647")
const AEAD_AAD = fromHex("50515253c0c1c2c3c4c5c6c7")
const AEAD_CIPHERTEXT =
  `d31a8d34648e60db7b86afbc53ef7ec2a4aded51296e08fea9e2b5a736ee62d63dbea45e8ca9671282fafb69da92728b
  1a71de0a9e060b2905d6a5b67ecd3b3692ddbd7f2d778b8c9803aee328091b58fab324e4fad675945585808b4831d7bc
  3ff4def08e4b7a9de576d26586cec64b6116`.replaceAll(/\s/g, "")
const AEAD_TAG = "1ae10b594f09e26a7e902ecbd0600691"

describe("raw routines", () => {
  const routines = bindChaCha20Poly1305()
  if (typeof routines === "string") throw new Error(routines)
  const { chacha20, poly1305ContextSize, poly1305Final, poly1305Init, poly1305Update }: ChaCha20Poly1305Routines =
    routines
  const context = new Uint8Array(1024)
  const tag = new Uint8Array(128)

  const stream = (key: Uint8Array, block: number, nonce: Uint8Array, text: Uint8Array): Uint8Array => {
    const counter = Uint8Array.from([block, 0, 0, 0, ...nonce])
    const out = new Uint8Array(text.length)
    chacha20(memoryAddress(out), memoryAddress(text), text.length, memoryAddress(key), memoryAddress(counter))
    return out
  }
  const poly1305 = (key: Uint8Array, ...parts: ReadonlyArray<Uint8Array>): string => {
    poly1305Init(memoryAddress(context), memoryAddress(key))
    for (const part of parts) poly1305Update(memoryAddress(context), memoryAddress(part), part.length)
    poly1305Final(memoryAddress(context), memoryAddress(tag))
    return toHex(tag.subarray(0, 16))
  }

  it("encrypts as in section 2.4.2", () => {
    expect(toHex(stream(ascending(0, 32), 1, fromHex("000000000000004a00000000"), SUNSCREEN))).toBe(
      `6e2e359a2568f98041ba0728dd0d6981e97e7aec1d4360c20a27afccfd9fae0bf91b65c5524733ab8f593dabcd62b357
      1639d624e65152ab8f530c359f0861d807ca0dbf500d6a6156a38e088a22b65e52bc514d16ccf806818ce91ab7793736
      5af90bbf74a35be6b40b8eedf2785e42874d`.replaceAll(/\s/g, "")
    )
  })

  it("authenticates as in section 2.5.2, in one piece and in many", () => {
    const key = fromHex("85d6be7857556d337f4452fe42d506a80103808afb0db2fd4abff6af4149f51b")
    const text = Uint8Array.from(Buffer.from("Cryptographic Forum Research Group"))
    expect(poly1305(key, text)).toBe("a8061dc1305136c6c22b8baf0c0127a9")
    expect(poly1305(key, text.slice(0, 5), text.slice(5, 20), text.slice(20))).toBe("a8061dc1305136c6c22b8baf0c0127a9")
  })

  it("composes to the AEAD of section 2.8.2", () => {
    const key = stream(AEAD_KEY, 0, AEAD_NONCE, new Uint8Array(64)).slice(0, 32)
    const ciphertext = stream(AEAD_KEY, 1, AEAD_NONCE, SUNSCREEN)
    expect(toHex(ciphertext)).toBe(AEAD_CIPHERTEXT)
    const lengths = Uint8Array.from([AEAD_AAD.length, 0, 0, 0, 0, 0, 0, 0, ciphertext.length, 0, 0, 0, 0, 0, 0, 0])
    const padding = (length: number): Uint8Array => new Uint8Array(-length & 15)
    expect(poly1305(key, AEAD_AAD, padding(12), ciphertext, padding(ciphertext.length), lengths)).toBe(AEAD_TAG)
  })

  it("needs less room for its context than the data cipher gives", () => {
    expect(poly1305ContextSize()).toBeGreaterThan(64)
    expect(poly1305ContextSize()).toBeLessThanOrEqual(1024)
  })
})

describe("EVP", () => {
  const evp = bindEvp()
  if (typeof evp === "string") throw new Error(evp)
  const { chacha20Poly1305, control, final, init, newContext, update }: EvpRoutines = evp
  const length = new Uint8Array(128)

  const run = (encrypt: 0 | 1, text: Uint8Array, tag: Uint8Array): { out: Uint8Array; result: number } => {
    const context = Number(newContext())
    const out = new Uint8Array(text.length)
    const at = memoryAddress(length)
    expect(init(context, Number(chacha20Poly1305()), 0, memoryAddress(AEAD_KEY), memoryAddress(AEAD_NONCE), encrypt))
      .toBe(1)
    if (encrypt === 0) expect(control(context, EVP_CTRL_AEAD_SET_TAG, 16, memoryAddress(tag))).toBe(1)
    expect(update(context, 0, at, memoryAddress(AEAD_AAD), AEAD_AAD.length)).toBe(1)
    expect(update(context, memoryAddress(out), at, memoryAddress(text), text.length)).toBe(1)
    const result = final(context, memoryAddress(out) + text.length, at)
    if (encrypt === 1) expect(control(context, EVP_CTRL_AEAD_GET_TAG, 16, memoryAddress(tag))).toBe(1)
    return { out, result }
  }

  it("seals and opens as in section 2.8.2", () => {
    const tag = new Uint8Array(16)
    expect(toHex(run(1, SUNSCREEN, tag).out)).toBe(AEAD_CIPHERTEXT)
    expect(toHex(tag)).toBe(AEAD_TAG)
    const opened = run(0, fromHex(AEAD_CIPHERTEXT), tag)
    expect(opened).toEqual({ out: SUNSCREEN, result: 1 })
    expect(run(0, fromHex(AEAD_CIPHERTEXT), fromHex(`00${AEAD_TAG.slice(2)}`)).result).not.toBe(1)
  })
})

it("says which symbol is missing", () => {
  expect(bindFromExecutable<Record<string, unknown>>({ none: "int firezone_no_such_symbol()" })).toContain(
    "firezone_no_such_symbol"
  )
})
