import * as Data from "effect/Data"
import { createHash, createHmac, randomBytes } from "node:crypto"
import { bindChaCha20Poly1305 } from "../../ffi/openssl/chacha20poly1305.ts"
import { bindEvp } from "../../ffi/openssl/evp.ts"
import type { Crypto, DataCipher } from "../../protocol/crypto.ts"
import { makeEvpDataCiphers } from "./EvpDataCipher.ts"
import { findWrongAnswer } from "./knownAnswers.ts"
import { NodeDataCipher, nonceOf, open, seal } from "./nodeAead.ts"
import { makeRawDataCiphers } from "./RawDataCipher.ts"
import { x25519, x25519PublicKey } from "./x25519.ts"

/** Where packets are sealed: OpenSSL's raw routines, its EVP interface, or `node:crypto`; fastest first. */
export const AEADS = ["raw", "evp", "node"] as const
export type Aead = (typeof AEADS)[number]

export class AeadUnavailable extends Data.TaggedError("AeadUnavailable")<{
  readonly aead: Aead
  readonly reason: string
}> {
  override get message(): string {
    return `ChaCha20-Poly1305 by "${this.aead}" does not work in this node executable: ${this.reason}`
  }
}

export interface CryptoChoice {
  readonly crypto: Crypto
  readonly aead: Aead
  /** The faster ones that were passed over, and why: worth a line in the log. */
  readonly rejected: ReadonlyArray<AeadUnavailable>
}

// Releases whose internal signatures were read and whose answers were checked. A patch release does not change them.
const KNOWN_OPENSSL = /^3\.[05]\.\d+(\+quic)?$/

interface Build {
  readonly openssl: string
  readonly arch: string
  readonly sharedOpenssl: boolean
}

const thisBuild = (): Build => ({
  openssl: process.versions.openssl ?? "unknown",
  arch: process.arch,
  sharedOpenssl: `${(process.config.variables as { readonly node_shared_openssl?: unknown }).node_shared_openssl}`
    !== "false"
})

/** Why the raw routines must not be called in such a build, or `undefined`: known answers come too late for a crash. */
export const refuseRaw = (build: Build): string | undefined => {
  if (build.sharedOpenssl) return "node is built with a shared OpenSSL"
  if (build.arch !== "x64" && build.arch !== "arm64") return `not tried on ${build.arch}`
  if (!KNOWN_OPENSSL.test(build.openssl)) return `not tried with OpenSSL ${build.openssl}`
  return undefined
}

type MakeDataCipher = (key: Uint8Array) => DataCipher

const bindings: { readonly [A in Aead]: () => MakeDataCipher | string } = {
  raw: () => {
    const routines = bindChaCha20Poly1305()
    return typeof routines === "string" ? routines : makeRawDataCiphers(routines)
  },
  evp: () => {
    const routines = bindEvp()
    return typeof routines === "string" ? routines : makeEvpDataCiphers(routines)
  },
  node: () => (key) => new NodeDataCipher(key)
}

const bind = (aead: Aead): MakeDataCipher | AeadUnavailable => {
  try {
    const make = bindings[aead]()
    if (typeof make === "string") return new AeadUnavailable({ aead, reason: make })
    const wrong = findWrongAnswer(make)
    return wrong === undefined ? make : new AeadUnavailable({ aead, reason: wrong })
  } catch (error) {
    return new AeadUnavailable({ aead, reason: error instanceof Error ? error.message : String(error) })
  }
}

/**
 * The cryptography of this process, its data cipher chosen by known-answer tests: call it once, at start. `aead` forces
 * one for diagnosis, even in a build that was never tried; throws `AeadUnavailable` if it fails the tests.
 */
export const makeCrypto = (options: { readonly aead?: Aead | undefined } = {}): CryptoChoice => {
  const rejected: Array<AeadUnavailable> = []
  for (const aead of options.aead === undefined ? AEADS : [options.aead]) {
    const refusal = aead === "raw" && options.aead === undefined ? refuseRaw(thisBuild()) : undefined
    const dataCipher = refusal === undefined ? bind(aead) : new AeadUnavailable({ aead, reason: refusal })
    if (!(dataCipher instanceof AeadUnavailable)) return { crypto: cryptoWith(dataCipher), aead, rejected }
    rejected.push(dataCipher)
  }
  throw rejected[rejected.length - 1]
}

const cryptoWith = (dataCipher: MakeDataCipher): Crypto => ({
  randomBytes: (length) => Uint8Array.from(randomBytes(length)),
  x25519PublicKey,
  x25519,
  aeadSeal: (key, counter, plaintext, aad) => seal(key, nonceOf(counter), plaintext, aad),
  aeadOpen: (key, counter, ciphertext, aad) => open(key, nonceOf(counter), ciphertext, aad),
  dataCipher,
  hmacSha1: (key, ...parts) => {
    const hmac = createHmac("sha1", key)
    for (const part of parts) hmac.update(part)
    return Uint8Array.from(hmac.digest())
  },
  md5: (bytes) => Uint8Array.from(createHash("md5").update(bytes).digest())
})
