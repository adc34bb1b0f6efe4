/**
 * `Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s` as WireGuard uses it (connectivity spec 11.2): messages in, keys out, no state
 * kept. The MAC fields of what is made here are zero until `cookie.ts` fills them.
 */
import type { Crypto } from "../crypto.ts"
import { INITIATION, MessageType, readSenderIndex, RESPONSE, TAG_LENGTH, writeUint32 } from "../wire/wireguard.ts"
import { ascii, hash, kdf1, kdf2, kdf3, KEY_LENGTH, NO_BYTES } from "./primitives.ts"

const INITIAL_CHAIN_KEY = hash(ascii("Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s"))
const INITIAL_HASH = hash(INITIAL_CHAIN_KEY, ascii("WireGuard v1 zx2c4 Jason@zx2c4.com"))

/** What does not change between the handshakes of two peers. */
export interface Identity {
  readonly crypto: Crypto
  readonly privateKey: Uint8Array
  readonly publicKey: Uint8Array
  readonly remoteKey: Uint8Array
  readonly presharedKey: Uint8Array
  /** X25519 of the two static keys. */
  readonly staticSecret: Uint8Array
}

/** `undefined` if `remoteKey` is one of the few keys that make every shared secret zero. */
export const makeIdentity = (
  crypto: Crypto,
  privateKey: Uint8Array,
  remoteKey: Uint8Array,
  presharedKey: Uint8Array
): Identity | undefined => {
  for (const [name, key] of Object.entries({ privateKey, remoteKey, presharedKey })) {
    if (key.length !== KEY_LENGTH) throw new RangeError(`${name} has ${key.length} bytes instead of ${KEY_LENGTH}`)
  }
  const own = Uint8Array.from(privateKey)
  const staticSecret = crypto.x25519(own, remoteKey)
  return staticSecret === undefined ? undefined : {
    crypto,
    privateKey: own,
    publicKey: crypto.x25519PublicKey(own),
    remoteKey: Uint8Array.from(remoteKey),
    presharedKey: Uint8Array.from(presharedKey),
    staticSecret
  }
}

/** What the initiator remembers until the response comes. */
export interface SentInitiation {
  readonly localIndex: number
  readonly ephemeralKey: Uint8Array
  readonly chainKey: Uint8Array
  readonly hash: Uint8Array
}

/** An authentic initiation: what the response is made of. */
export interface ReceivedInitiation {
  readonly remoteIndex: number
  readonly remoteKey: Uint8Array
  /** TAI64N, 12 bytes; compares like text. */
  readonly timestamp: Uint8Array
  readonly ephemeralKey: Uint8Array
  readonly chainKey: Uint8Array
  readonly hash: Uint8Array
}

export interface TransportKeys {
  readonly send: Uint8Array
  readonly receive: Uint8Array
}

/** `undefined` if the exchange gives zero, which `makeIdentity` has ruled out for honest implementations of X25519. */
export const createInitiation = (
  identity: Identity,
  localIndex: number,
  timestamp: Uint8Array
): { readonly message: Uint8Array; readonly sent: SentInitiation } | undefined => {
  const { crypto } = identity
  const ephemeralKey = crypto.randomBytes(KEY_LENGTH)
  const ephemeralPublic = crypto.x25519PublicKey(ephemeralKey)
  const secret = crypto.x25519(ephemeralKey, identity.remoteKey)
  if (secret === undefined) return undefined
  const message = new Uint8Array(INITIATION.length)
  writeUint32(message, 0, MessageType.Initiation)
  writeUint32(message, INITIATION.sender, localIndex)
  message.set(ephemeralPublic, INITIATION.ephemeral)

  let h = hash(hash(INITIAL_HASH, identity.remoteKey), ephemeralPublic)
  const [chainKey1, staticKeyKey] = kdf2(kdf1(INITIAL_CHAIN_KEY, ephemeralPublic), secret)
  const staticKey = crypto.aeadSeal(staticKeyKey, 0, identity.publicKey, h)
  message.set(staticKey, INITIATION.staticKey)
  h = hash(h, staticKey)
  const [chainKey, timestampKey] = kdf2(chainKey1, identity.staticSecret)
  const sealedTimestamp = crypto.aeadSeal(timestampKey, 0, timestamp, h)
  message.set(sealedTimestamp, INITIATION.timestamp)
  return { message, sent: { localIndex, ephemeralKey, chainKey, hash: hash(h, sealedTimestamp) } }
}

interface OpenedStaticKey {
  readonly remoteKey: Uint8Array
  readonly ephemeralKey: Uint8Array
  readonly chainKey: Uint8Array
  readonly hash: Uint8Array
}

const openStaticKey = (
  crypto: Crypto,
  privateKey: Uint8Array,
  publicKey: Uint8Array,
  message: Uint8Array
): OpenedStaticKey | undefined => {
  const ephemeralKey = message.slice(INITIATION.ephemeral, INITIATION.staticKey)
  const sealed = message.subarray(INITIATION.staticKey, INITIATION.timestamp)
  const secret = crypto.x25519(privateKey, ephemeralKey)
  if (secret === undefined) return undefined
  const h = hash(hash(INITIAL_HASH, publicKey), ephemeralKey)
  const [chainKey, key] = kdf2(kdf1(INITIAL_CHAIN_KEY, ephemeralKey), secret)
  const remoteKey = crypto.aeadOpen(key, 0, sealed, h)
  return remoteKey === undefined ? undefined : { remoteKey, ephemeralKey, chainKey, hash: hash(h, sealed) }
}

/**
 * The static public key of who made a type 1 message, to find the connection that it is for; `undefined` if it was not
 * made for our key. Costs an X25519: check MAC1 first (`RateLimiter`).
 */
export const decryptInitiatorKey = (
  crypto: Crypto,
  privateKey: Uint8Array,
  publicKey: Uint8Array,
  message: Uint8Array
): Uint8Array | undefined =>
  message.length === INITIATION.length ? openStaticKey(crypto, privateKey, publicKey, message)?.remoteKey : undefined

/** `undefined` if the message is not authentic. The caller compares `remoteKey` and the timestamp. */
export const consumeInitiation = (identity: Identity, message: Uint8Array): ReceivedInitiation | undefined => {
  const { crypto, privateKey, publicKey, staticSecret } = identity
  const opened = openStaticKey(crypto, privateKey, publicKey, message)
  if (opened === undefined) return undefined
  const sealed = message.subarray(INITIATION.timestamp, INITIATION.mac1)
  const [chainKey, key] = kdf2(opened.chainKey, staticSecret)
  const timestamp = crypto.aeadOpen(key, 0, sealed, opened.hash)
  if (timestamp === undefined) return undefined
  const remoteIndex = readSenderIndex(message, 0)
  return { ...opened, remoteIndex, timestamp, chainKey, hash: hash(opened.hash, sealed) }
}

/** `undefined` if the initiator's keys make a shared secret zero. */
export const createResponse = (
  identity: Identity,
  received: ReceivedInitiation,
  localIndex: number
): { readonly message: Uint8Array; readonly keys: TransportKeys } | undefined => {
  const { crypto } = identity
  const ephemeralKey = crypto.randomBytes(KEY_LENGTH)
  const ephemeralPublic = crypto.x25519PublicKey(ephemeralKey)
  const ephemeralSecret = crypto.x25519(ephemeralKey, received.ephemeralKey)
  const secret = crypto.x25519(ephemeralKey, identity.remoteKey)
  if (ephemeralSecret === undefined || secret === undefined) return undefined
  const message = new Uint8Array(RESPONSE.length)
  writeUint32(message, 0, MessageType.Response)
  writeUint32(message, RESPONSE.sender, localIndex)
  writeUint32(message, RESPONSE.receiver, received.remoteIndex)
  message.set(ephemeralPublic, RESPONSE.ephemeral)
  const mixed = mixResponse(identity, received, ephemeralPublic, ephemeralSecret, secret)
  message.set(crypto.aeadSeal(mixed.key, 0, NO_BYTES, mixed.hash), RESPONSE.empty)
  const [receive, send] = kdf2(mixed.chainKey, NO_BYTES)
  return { message, keys: { send, receive } }
}

/** The keys of the new session, or `undefined` if the response is not authentic. */
export const consumeResponse = (
  identity: Identity,
  sent: SentInitiation,
  message: Uint8Array
): TransportKeys | undefined => {
  const { crypto } = identity
  const ephemeralPublic = message.slice(RESPONSE.ephemeral, RESPONSE.empty)
  const ephemeralSecret = crypto.x25519(sent.ephemeralKey, ephemeralPublic)
  const secret = crypto.x25519(identity.privateKey, ephemeralPublic)
  if (ephemeralSecret === undefined || secret === undefined) return undefined
  const mixed = mixResponse(identity, sent, ephemeralPublic, ephemeralSecret, secret)
  const sealed = message.subarray(RESPONSE.empty, RESPONSE.empty + TAG_LENGTH)
  if (crypto.aeadOpen(mixed.key, 0, sealed, mixed.hash) === undefined) return undefined
  const [send, receive] = kdf2(mixed.chainKey, NO_BYTES)
  return { send, receive }
}

/** What both ends mix in for the response, in the order of the tokens `e, ee, se, psk`. */
const mixResponse = (
  identity: Identity,
  state: { readonly chainKey: Uint8Array; readonly hash: Uint8Array },
  ephemeralPublic: Uint8Array,
  ephemeralSecret: Uint8Array,
  secret: Uint8Array
): { readonly chainKey: Uint8Array; readonly hash: Uint8Array; readonly key: Uint8Array } => {
  const mixed = kdf1(kdf1(kdf1(state.chainKey, ephemeralPublic), ephemeralSecret), secret)
  const [chainKey, temporary, key] = kdf3(mixed, identity.presharedKey)
  return { chainKey, hash: hash(hash(state.hash, ephemeralPublic), temporary), key }
}
