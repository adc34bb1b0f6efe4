/** MAC1, MAC2 and cookie replies (connectivity spec 11.2 and 11.5; WireGuard paper section 5.4.7). */
import { xchacha20poly1305 } from "@noble/ciphers/chacha.js"
import type { Crypto } from "../crypto.ts"
import {
  COOKIE_REPLY,
  INITIATION,
  MessageType,
  readSenderIndex,
  readUint32,
  RESPONSE,
  writeUint32
} from "../wire/wireguard.ts"
import { ascii, equalBytes, hash, mac, MAC_LENGTH } from "./primitives.ts"

/** A holder stops using a cookie at this age, milliseconds. */
export const COOKIE_LIFETIME = 120_000

const MAC1_LABEL = ascii("mac1----")
const COOKIE_LABEL = ascii("cookie--")
const NONCE_LENGTH = 24

/** Key of MAC1 in messages to the owner of `publicKey`. */
export const mac1Key = (publicKey: Uint8Array): Uint8Array => hash(MAC1_LABEL, publicKey)
/** Key of cookie replies from the owner of `publicKey`. */
export const cookieKey = (publicKey: Uint8Array): Uint8Array => hash(COOKIE_LABEL, publicKey)

/** Where MAC1 is in a message with that length, or `undefined` if it is no handshake message. */
const mac1Offset = (message: Uint8Array): number | undefined =>
  message.length === INITIATION.length && message[0] === MessageType.Initiation
    ? INITIATION.mac1
    : message.length === RESPONSE.length && message[0] === MessageType.Response
    ? RESPONSE.mac1
    : undefined

export const readMac1 = (message: Uint8Array): Uint8Array | undefined => {
  const at = mac1Offset(message)
  return at === undefined ? undefined : message.slice(at, at + MAC_LENGTH)
}

/** Fills both MACs of a handshake message; MAC2 stays zero without a cookie. */
export const writeMacs = (message: Uint8Array, key: Uint8Array, cookie: Uint8Array | undefined): void => {
  const at = mac1Offset(message)
  if (at === undefined) throw new RangeError("not a handshake message")
  message.set(mac(key, message.subarray(0, at)), at)
  if (cookie !== undefined) {
    message.set(mac(cookie, message.subarray(0, at + MAC_LENGTH)), at + MAC_LENGTH)
  }
}

export const hasValidMac1 = (message: Uint8Array, key: Uint8Array): boolean => {
  const at = mac1Offset(message)
  return at !== undefined
    && equalBytes(mac(key, message.subarray(0, at)), message.subarray(at, at + MAC_LENGTH))
}

export const hasValidMac2 = (message: Uint8Array, cookie: Uint8Array): boolean => {
  const at = mac1Offset(message)
  if (at === undefined) return false
  const mac2 = at + MAC_LENGTH
  return equalBytes(mac(cookie, message.subarray(0, mac2)), message.subarray(mac2, mac2 + MAC_LENGTH))
}

/** The answer to a handshake message that came without a valid MAC2; `key` is the `cookieKey` of our own public key. */
export const buildCookieReply = (
  crypto: Crypto,
  message: Uint8Array,
  key: Uint8Array,
  cookie: Uint8Array
): Uint8Array => {
  const mac1 = readMac1(message)
  if (mac1 === undefined) throw new RangeError("not a handshake message")
  const reply = new Uint8Array(COOKIE_REPLY.length)
  const nonce = crypto.randomBytes(NONCE_LENGTH)
  writeUint32(reply, 0, MessageType.CookieReply)
  writeUint32(reply, COOKIE_REPLY.receiver, readSenderIndex(message, 0))
  reply.set(nonce, COOKIE_REPLY.nonce)
  reply.set(xchacha20poly1305(key, nonce, mac1).encrypt(cookie), COOKIE_REPLY.cookie)
  return reply
}

/** The last handshake message that we sent: what a cookie reply must be about. */
export interface LastHandshakeMessage {
  readonly localIndex: number
  readonly mac1: Uint8Array
}

/** The cookie, or `undefined` if the reply is not authentic or about another message. */
export const openCookieReply = (
  reply: Uint8Array,
  key: Uint8Array,
  last: LastHandshakeMessage
): Uint8Array | undefined => {
  if (reply.length !== COOKIE_REPLY.length || readUint32(reply, COOKIE_REPLY.receiver) !== last.localIndex) {
    return undefined
  }
  const nonce = reply.subarray(COOKIE_REPLY.nonce, COOKIE_REPLY.cookie)
  try {
    return xchacha20poly1305(key, nonce, last.mac1).decrypt(reply.subarray(COOKIE_REPLY.cookie))
  } catch {
    return undefined // a wrong tag
  }
}
