import { createPrivateKey, createPublicKey, diffieHellman, type KeyObject } from "node:crypto"

// DER headers in front of the 32 bytes of an X25519 key, RFC 8410 sections 4 and 7.
const PKCS8_HEADER = Uint8Array.from([0x30, 46, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x6e, 4, 34, 4, 32])
const SPKI_HEADER = Uint8Array.from([0x30, 42, 0x30, 5, 6, 3, 0x2b, 0x65, 0x6e, 3, 33, 0])
const KEY_LENGTH = 32

const der = (header: Uint8Array, key: Uint8Array): Buffer => {
  if (key.length !== KEY_LENGTH) throw new RangeError(`an X25519 key has 32 bytes, not ${key.length}`)
  return Buffer.concat([header, key])
}

interface Imported {
  readonly bytes: Uint8Array
  readonly key: KeyObject
}
// Importing costs as much as the exchange, and the own key is used for every handshake.
const imported = new WeakMap<Uint8Array, Imported>()

const privateKeyObject = (privateKey: Uint8Array): KeyObject => {
  const known = imported.get(privateKey)
  if (known !== undefined && Buffer.compare(known.bytes, privateKey) === 0) return known.key
  const key = createPrivateKey({ key: der(PKCS8_HEADER, privateKey), format: "der", type: "pkcs8" })
  imported.set(privateKey, { bytes: Uint8Array.from(privateKey), key })
  return key
}

/** X25519 public key of a 32-byte private key (RFC 7748 section 6.1). */
export const x25519PublicKey = (privateKey: Uint8Array): Uint8Array => {
  const encoded = createPublicKey(privateKeyObject(privateKey)).export({ format: "der", type: "spki" })
  return Uint8Array.from(encoded.subarray(SPKI_HEADER.length))
}

/** X25519 shared secret; `undefined` if it is all zero, which OpenSSL refuses to derive. */
export const x25519 = (privateKey: Uint8Array, publicKey: Uint8Array): Uint8Array | undefined => {
  const own = privateKeyObject(privateKey)
  const peer = createPublicKey({ key: der(SPKI_HEADER, publicKey), format: "der", type: "spki" })
  try {
    return Uint8Array.from(diffieHellman({ privateKey: own, publicKey: peer }))
  } catch {
    return undefined
  }
}
