/**
 * What the connectivity layer (connectivity spec) promises to the tunnel core and to its driver. `Node` implements it;
 * tests of the tunnel core may use a double. `now` is monotonic milliseconds throughout.
 */
import type { SocketAddress } from "../wire/address.ts"

/** A gateway's or client's id (UUID text). */
export type PeerId = string
/** A relay's id (UUID text). */
export type RelayId = string

export interface IceCredentials {
  readonly username: string
  readonly password: string
}

/** By its source port a datagram is told to be a relay's (connectivity spec section 4). */
export const RELAY_PORT = 3478

/** One TURN server; at least one address. Realm is always `firezone`, port always 3478 (spec section 2.1). */
export interface Relay {
  readonly id: RelayId
  readonly v4?: SocketAddress | undefined
  readonly v6?: SocketAddress | undefined
  readonly username: string
  readonly password: string
}

/** A relay that the portal named, as it stands. */
export interface RelayStatus {
  readonly id: RelayId
  /** One for each family that it has. */
  readonly addresses: ReadonlyArray<SocketAddress>
  /** Smoothed, once it has answered. */
  readonly rttMillis?: number | undefined
  /** Why nothing can be had from it now, if that is so; for a person. */
  readonly unusable?: string | undefined
}

export interface ConnectionRequest {
  readonly peer: PeerId
  readonly remoteKey: Uint8Array
  readonly presharedKey: Uint8Array
  readonly localCredentials: IceCredentials
  readonly remoteCredentials: IceCredentials
  readonly role: "controlling" | "controlled"
  /** Which check schedules apply (spec table 2.2): a client to a gateway, a gateway, a client to a client. */
  readonly profile: "client" | "server" | "device"
  readonly iceless: boolean
}

export type NodeEvent =
  | { readonly _tag: "NewIceCandidate"; readonly peer: PeerId; readonly candidate: string }
  | { readonly _tag: "InvalidateIceCandidate"; readonly peer: PeerId; readonly candidate: string }
  /** Once, and in path mode again after every `reset` that the connection survives: what waits can be sent. */
  | { readonly _tag: "ConnectionEstablished"; readonly peer: PeerId }
  | { readonly _tag: "ConnectionFailed"; readonly peer: PeerId; readonly reason: string }
  | { readonly _tag: "ConnectionClosed"; readonly peer: PeerId }
  | { readonly _tag: "NoRelays" }
  /** Once, until a relay was of use again. How many are of no use for which reason. */
  | { readonly _tag: "RelaysUnusable"; readonly reasons: ReadonlyMap<string, number> }

/** One datagram to send: `buffer[offset, offset + length)`, valid until the next call into the node. */
export interface Transmit {
  /** The local address to send from; without one the route cache chooses (datagrams to relays). */
  source: SocketAddress | undefined
  destination: SocketAddress
  /** Two ECN bits for the outer header. */
  ecn: number
  buffer: Uint8Array
  offset: number
  length: number
}

/** What became of an outbound packet. `Sent` leaves one datagram in `node.transmit`. */
export const Encapsulated = {
  Sent: 0,
  /** Nothing can be sent right now, such as while a relay channel is being bound: the packet is lost. */
  Dropped: 1,
  /** The connection is still coming up; the caller buffers. */
  StillConnecting: 2,
  UnknownConnection: 3,
  /** There is a path but no usable WireGuard session. */
  NoSession: 4
} as const
export type Encapsulated = (typeof Encapsulated)[keyof typeof Encapsulated]

/** What an inbound datagram was. `Packet` leaves one inner IP packet in `node.packet`. */
export const Decapsulated = {
  Packet: 0,
  /** Relay, ICE or WireGuard control traffic: poll for transmits, events and the timeout. */
  Handled: 1,
  /** Not ours, not authentic, malformed or replayed: nothing changed. */
  Dropped: 2
} as const
export type Decapsulated = (typeof Decapsulated)[keyof typeof Decapsulated]

/** A decrypted inner packet, cut to the length in its IP header, ECN merged: `buffer[offset, offset + length)`. */
export interface InnerPacket {
  peer: PeerId
  buffer: Uint8Array
  offset: number
  length: number
}

export type PathKind = "direct" | "relayed-by-us" | "relayed-by-peer" | "relayed-both"

export interface PeerStatus {
  readonly peer: PeerId
  readonly state: "connecting" | "connected" | "idle"
  readonly path?: {
    readonly kind: PathKind
    readonly local: SocketAddress
    readonly remote: SocketAddress
    /** The relay in use if `kind` is `relayed-by-us` or `relayed-both`. */
    readonly relay?: RelayId | undefined
  } | undefined
  /** Smoothed, milliseconds. */
  readonly rttMillis?: number | undefined
  /** Milliseconds since the latest completed handshake. */
  readonly handshakeAgeMillis?: number | undefined
  readonly bytesSent: number
  readonly bytesReceived: number
}

/** The sans-IO node as its users see it. After any call drain `pollTransmit`, `pollEvent`, then wait for `pollTimeout`. */
export interface NodeApi {
  /** X25519 public key to register with the portal; changes only in a hard `reset`. */
  readonly publicKey: Uint8Array
  /** The outcome of the latest `encapsulate` that returned `Sent`. */
  readonly transmit: Transmit
  /** The outcome of the latest `decapsulate` that returned `Packet`. */
  readonly packet: InnerPacket
  /** Creates or re-uses (spec 12.2). Fails with `NoRelays` if no relay has answered yet. */
  upsertConnection(request: ConnectionRequest, now: number): "Created" | "Reused" | "NoRelays"
  addRemoteCandidate(peer: PeerId, candidate: string, now: number): void
  removeRemoteCandidate(peer: PeerId, candidate: string, now: number): void
  /** Spec 6.11: removes, then adds or replaces, then verifies the rest. */
  updateRelays(remove: ReadonlyArray<RelayId>, add: ReadonlyArray<Relay>, now: number): void
  hasConnection(peer: PeerId): boolean
  isEstablished(peer: PeerId): boolean
  /** Relays were named, and none has answered or been given up yet: soon, but not now, connections can be created. */
  readonly awaitsRelays: boolean
  /**
   * Seals the IP packet in place (headroom and tailroom of `crypto.ts` are overwritten).
   */
  encapsulate(peer: PeerId, buffer: Uint8Array, offset: number, length: number, now: number): Encapsulated
  /**
   * `output` at `outputOffset` receives the inner packet, needs headroom, tailroom and 1280 bytes there, and is
   * overwritten in any case.
   */
  decapsulate(
    local: SocketAddress,
    from: SocketAddress,
    ecn: number,
    input: Uint8Array,
    offset: number,
    length: number,
    output: Uint8Array,
    outputOffset: number,
    now: number
  ): Decapsulated
  /** Established: sends the goodbye and emits `ConnectionClosed`. Connecting: forgets silently, no event (spec 12.8). */
  closeConnection(peer: PeerId, now: number): void
  /** Forgets without sending or emitting anything. */
  removeConnection(peer: PeerId): void
  /** Goodbye to everybody. */
  closeAll(now: number): void
  /**
   * Roaming (spec 12.7). Connections in path mode are kept, and come up again, if there are no others; else, or if a peer
   * was not heard for so long that it must have forgotten us, they are closed.
   */
  reset(now: number): void
  handleTimeout(now: number): void
  pollTransmit(): Transmit | undefined
  pollEvent(): NodeEvent | undefined
  pollTimeout(): number | undefined
  status(now: number): ReadonlyArray<PeerStatus>
  relayStatus(): ReadonlyArray<RelayStatus>
}
