/** Two tunnels of WireGuard with keys as in connectivity spec 16.4, and how to carry messages between them. */
import { makeCrypto } from "../../../src/layers/crypto/makeCrypto.ts"
import { CIPHER_HEADROOM, CIPHER_TAILROOM, type Crypto } from "../../../src/protocol/crypto.ts"
import { classify, MessageType } from "../../../src/protocol/wire/wireguard.ts"
import { type HandshakeOutcome, iceTimers, type WireguardOptions } from "../../../src/protocol/wireguard/types.ts"
import { WireguardTunnel } from "../../../src/protocol/wireguard/WireguardTunnel.ts"

export const { crypto } = makeCrypto()

export const fromHex = (hex: string): Uint8Array => Uint8Array.from(Buffer.from(hex.replaceAll(/\s/g, ""), "hex"))
export const toHex = (bytes: Uint8Array): string => Buffer.from(bytes).toString("hex")
export const bytes = (value: number, length = 32): Uint8Array => new Uint8Array(length).fill(value)

/** Hands out `values` first, then zeros: a jitter of zero, and ephemeral keys that a vector names. */
export const withRandomness = (...values: ReadonlyArray<Uint8Array>): Crypto => {
  const queue = [...values]
  return { ...crypto, randomBytes: (length) => queue.shift() ?? new Uint8Array(length) }
}

/** Real randomness, but the jitter is the largest one: 333 ms. */
export const withLargestJitter: Crypto = {
  ...crypto,
  randomBytes: (length) => length === 2 ? Uint8Array.of(333 >> 8, 333 & 0xff) : crypto.randomBytes(length)
}

/** Real randomness, but no jitter. */
export const withoutJitter: Crypto = {
  ...crypto,
  randomBytes: (length) => length === 2 ? new Uint8Array(2) : crypto.randomBytes(length)
}

export const initiatorPrivate = bytes(1)
export const responderPrivate = bytes(2)
export const initiatorPublic = crypto.x25519PublicKey(initiatorPrivate)
export const responderPublic = crypto.x25519PublicKey(responderPrivate)

const common = { crypto: withoutJitter, presharedKey: bytes(5), timers: iceTimers, unixEpochMillis: 1.7e12 }
export const initiatorOptions: WireguardOptions = {
  ...common,
  privateKey: initiatorPrivate,
  remoteKey: responderPublic,
  indexPrefix: 0x00abcd
}
export const responderOptions: WireguardOptions = {
  ...common,
  privateKey: responderPrivate,
  remoteKey: initiatorPublic,
  indexPrefix: 0x001234
}

export const initiator = (options: Partial<WireguardOptions> = {}, now = 0): WireguardTunnel =>
  new WireguardTunnel({ ...initiatorOptions, ...options }, now)
export const responder = (options: Partial<WireguardOptions> = {}, now = 0): WireguardTunnel =>
  new WireguardTunnel({ ...responderOptions, ...options }, now)

/** An IPv4 packet whose payload is `payload`; the checksum is left out. */
export const ipv4 = (payload: Uint8Array): Uint8Array => {
  const packet = new Uint8Array(20 + payload.length)
  packet[0] = 0x45
  packet[2] = packet.length >> 8
  packet[3] = packet.length
  packet.set(payload, 20)
  return packet
}
export const somePacket = ipv4(bytes(7, 100))

/** The data message with `packet`, or `undefined` if the tunnel cannot send. */
export const sealPacket = (tunnel: WireguardTunnel, packet: Uint8Array, now: number): Uint8Array | undefined => {
  const buffer = new Uint8Array(CIPHER_HEADROOM + packet.length + CIPHER_TAILROOM)
  buffer.set(packet, CIPHER_HEADROOM)
  return tunnel.seal(buffer, CIPHER_HEADROOM, packet.length, now)
    ? buffer.slice(CIPHER_HEADROOM - 16, CIPHER_HEADROOM + packet.length + 16)
    : undefined
}

/** The packet in a data message; `undefined` if it was refused. */
export const openMessage = (tunnel: WireguardTunnel, message: Uint8Array, now: number): Uint8Array | undefined => {
  const output = new Uint8Array(CIPHER_HEADROOM + message.length + CIPHER_TAILROOM)
  const length = tunnel.open(message, 0, message.length, output, CIPHER_HEADROOM, now)
  return length < 0 ? undefined : output.slice(CIPHER_HEADROOM, CIPHER_HEADROOM + length)
}

/** Hands any message to its handler; for data a packet, a keep-alive being empty. */
export const deliver = (
  tunnel: WireguardTunnel,
  message: Uint8Array,
  now: number
): HandshakeOutcome | Uint8Array | undefined => {
  switch (classify(message, 0, message.length)) {
    case MessageType.Initiation:
      return tunnel.handleInitiation(message, now)
    case MessageType.Response:
      return tunnel.handleResponse(message, now)
    case MessageType.CookieReply:
      return tunnel.handleCookieReply(message, now)
    case MessageType.Data:
      return openMessage(tunnel, message, now)
    default:
      throw new Error("not a WireGuard message")
  }
}

export const drain = (tunnel: WireguardTunnel): Array<Uint8Array> => {
  const messages: Array<Uint8Array> = []
  for (let next = tunnel.pollTransmit(); next !== undefined; next = tunnel.pollTransmit()) messages.push(next)
  return messages
}

export const take = (tunnel: WireguardTunnel, type: MessageType): Uint8Array => {
  const messages = drain(tunnel)
  const [message] = messages
  if (messages.length !== 1 || message === undefined || classify(message, 0, message.length) !== type) {
    throw new Error(`expected one message of type ${type}, got types ${messages.map((m) => m[0]).join(", ")}`)
  }
  return message
}

/** Carries everything both ways until both are silent. */
export const exchange = (left: WireguardTunnel, right: WireguardTunnel, now: number): void => {
  for (let quiet = false; !quiet;) {
    quiet = true
    for (const [from, to] of [[left, right], [right, left]] as const) {
      for (const message of drain(from)) {
        quiet = false
        deliver(to, message, now)
      }
    }
  }
}

/** Two tunnels with a session in use on both ends, `left` its initiator. */
export const connected = (
  options: Partial<WireguardOptions> = {},
  now = 0
): { readonly left: WireguardTunnel; readonly right: WireguardTunnel } => {
  const left = initiator(options, now)
  const right = responder(options, now)
  left.initiate(now)
  exchange(left, right, now)
  return { left, right }
}

/** Calls `handleTimeout` at every deadline up to and including `until`. */
export const runUntil = (tunnel: WireguardTunnel, until: number): Array<{ at: number; message: Uint8Array }> => {
  const sent: Array<{ at: number; message: Uint8Array }> = []
  for (let rounds = 0; rounds < 10_000; rounds++) {
    const at = tunnel.pollTimeout()
    if (at === undefined || at > until) return sent
    tunnel.handleTimeout(at)
    for (const message of drain(tunnel)) sent.push({ at, message })
  }
  throw new Error("the deadline does not move on")
}
