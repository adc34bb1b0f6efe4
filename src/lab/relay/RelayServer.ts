/**
 * A TURN relay as clients meet it in the field (connectivity spec section 7), sans-IO: UDP only, data over channels only,
 * no permissions. It is as strict as the real one, and can be told to misbehave.
 */
import type { Crypto } from "../../protocol/crypto.ts"
import { type Family, type IpAddress, SocketAddress } from "../../protocol/wire/address.ts"
import {
  Attribute,
  Class,
  longTermKey,
  Method,
  parseStun,
  StunBuilder,
  type StunMessage
} from "../../protocol/wire/stun.ts"
import { isCanonical } from "./canonical.ts"
import { ClientAllocation, FIRST_CHANNEL, LAST_CHANNEL } from "./ClientAllocation.ts"
import { parseRelayUsername, relayPassword } from "./credentials.ts"
import { isUuid, Nonces } from "./Nonces.ts"

export const REALM = "firezone"
const HEADER_LENGTH = 4
const UDP = 17
const DEFAULT_LIFETIME = 600
const MAX_LIFETIME = 3600

export type MethodName = keyof typeof Method
const nameOf = (method: number): MethodName | undefined =>
  (Object.keys(Method) as Array<MethodName>).find((name) => Method[name] === method)

/** How the relay misbehaves; all of it off at first. */
export interface Knobs {
  /** Takes everything in and lets nothing out. */
  silent: boolean
  /** Answers requests that are otherwise in order with this error: all of them, or those of some methods. */
  refuse: { readonly code: number; readonly methods?: ReadonlyArray<MethodName> | undefined } | undefined
  /** Gives nobody an IPv6 address beside the IPv4 one, like servers that do not know ADDITIONAL-ADDRESS-FAMILY. */
  singleFamily: boolean
}

export type RelayOutput =
  /** From port 3478 of the client's family. */
  | { readonly _tag: "ToClient"; readonly client: SocketAddress; readonly bytes: Uint8Array }
  /** From the allocation's port, of the peer's family. */
  | { readonly _tag: "ToPeer"; readonly port: number; readonly peer: SocketAddress; readonly bytes: Uint8Array }
  | { readonly _tag: "Open"; readonly port: number; readonly families: ReadonlyArray<Family> }
  | { readonly _tag: "Close"; readonly port: number }

export interface RelayServerOptions {
  readonly crypto: Crypto
  readonly stampSecret: string
  /** The addresses that it hands out; at least one. */
  readonly ipv4?: IpAddress | undefined
  readonly ipv6?: IpAddress | undefined
  /** Inclusive. */
  readonly ports?: readonly [lowest: number, highest: number] | undefined
  readonly revision?: string | undefined
  /** Unix time in milliseconds when `now` is 0. */
  readonly unixEpochMillis: number
}

export interface RelayCounters {
  /** Payload of channels, both directions. */
  relayedBytes: number
  relayedPackets: number
  bytesToPeers: number
  bytesToClients: number
  /** Data without a bound channel. */
  unboundFromClients: number
  unboundFromPeers: number
  /** Datagrams that are neither STUN requests nor channel data. */
  garbage: number
  readonly requests: { [name in MethodName]: number }
  readonly errors: { [code: string]: number }
}

interface Caller {
  readonly client: SocketAddress
  readonly request: StunMessage
  /** Of the name it gave; what it may know is another matter. */
  readonly username: string | undefined
  readonly key: Uint8Array | undefined
}

export class RelayServer {
  readonly knobs: Knobs = { silent: false, refuse: undefined, singleFamily: false }
  readonly counters: RelayCounters = {
    relayedBytes: 0,
    relayedPackets: 0,
    bytesToPeers: 0,
    bytesToClients: 0,
    unboundFromClients: 0,
    unboundFromPeers: 0,
    garbage: 0,
    requests: { Binding: 0, Allocate: 0, Refresh: 0, CreatePermission: 0, ChannelBind: 0 },
    errors: {}
  }
  readonly #options: RelayServerOptions
  readonly #ports: readonly [number, number]
  readonly #nonces: Nonces
  readonly #byClient = new Map<string, ClientAllocation>()
  readonly #byPort = new Map<number, ClientAllocation>()
  readonly #outputs: Array<RelayOutput> = []
  #stampSecret: string

  constructor(options: RelayServerOptions) {
    this.#options = options
    this.#ports = options.ports ?? [49_152, 65_535]
    this.#nonces = new Nonces(options.crypto)
    this.#stampSecret = options.stampSecret
  }

  get allocations(): ReadonlyArray<ClientAllocation> {
    return [...this.#byClient.values()]
  }

  /** As if the process had been started anew with another secret: nobody's state or nonce survives. */
  restart(stampSecret: string): void {
    for (const allocation of this.allocations) this.#free(allocation)
    this.#nonces.clear()
    this.#stampSecret = stampSecret
  }

  /** A datagram on port 3478. */
  handleClient(client: SocketAddress, datagram: Uint8Array, now: number): void {
    if (client.port === 0) return
    const first = datagram[0] ?? 0xff
    if (first < 4) this.#handleStun(client, datagram, now)
    else if (first >= 0x40 && first <= 0x4f) this.#handleChannelData(client, datagram, now)
    else this.counters.garbage += 1
  }

  /** A datagram on the port of an allocation. */
  handlePeer(port: number, peer: SocketAddress, payload: Uint8Array, now: number): void {
    const allocation = this.#byPort.get(port)
    const number = allocation === undefined || now >= allocation.expiresAt ? undefined : allocation.channelOf(peer, now)
    if (allocation === undefined || number === undefined) {
      this.counters.unboundFromPeers += 1
      return
    }
    const bytes = new Uint8Array(HEADER_LENGTH + payload.length)
    bytes.set([number >> 8, number & 0xff, payload.length >> 8, payload.length & 0xff])
    bytes.set(payload, HEADER_LENGTH)
    this.counters.relayedPackets += 1
    this.counters.relayedBytes += payload.length
    this.counters.bytesToClients += payload.length
    this.#emit({ _tag: "ToClient", client: allocation.client, bytes })
  }

  handleTimeout(now: number): void {
    for (const allocation of this.allocations) if (now >= allocation.expiresAt) this.#free(allocation)
  }

  pollOutput(): RelayOutput | undefined {
    return this.#outputs.shift()
  }

  pollTimeout(): number | undefined {
    let next: number | undefined
    for (const { expiresAt } of this.#byClient.values()) next = Math.min(next ?? expiresAt, expiresAt)
    return next
  }

  #emit(output: RelayOutput): void {
    if (!this.knobs.silent || output._tag === "Open" || output._tag === "Close") this.#outputs.push(output)
  }

  #handleChannelData(client: SocketAddress, datagram: Uint8Array, now: number): void {
    if (datagram.length < HEADER_LENGTH) {
      this.counters.garbage += 1
      return
    }
    const [high = 0, low = 0, lengthHigh = 0, lengthLow = 0] = datagram
    const end = HEADER_LENGTH + (lengthHigh << 8 | lengthLow)
    const allocation = this.#allocationOf(client, now)
    const peer = end > datagram.length ? undefined : allocation?.peerOf(high << 8 | low, now)
    if (allocation === undefined || peer === undefined) {
      this.counters.unboundFromClients += 1
      return
    }
    const bytes = datagram.slice(HEADER_LENGTH, end) // what is behind the stated length is cut
    this.counters.relayedPackets += 1
    this.counters.relayedBytes += bytes.length
    this.counters.bytesToPeers += bytes.length
    this.#emit({ _tag: "ToPeer", port: allocation.port, peer, bytes })
  }

  #handleStun(client: SocketAddress, datagram: Uint8Array, now: number): void {
    const request = parseStun(datagram)
    if (request === undefined || request.class !== Class.Request || request.hasWrongFingerprint) {
      this.counters.garbage += 1
      return
    }
    const name = nameOf(request.method)
    const anonymous: Caller = { client, request, username: undefined, key: undefined }
    if (name === undefined || !isComplete(request)) return this.#refuse(anonymous, 400)
    this.counters.requests[name] += 1
    if (name === "Binding") {
      return this.#answer(anonymous, this.#success(request).address(Attribute.XorMappedAddress, client))
    }
    const username = request.text(Attribute.Username)
    const stamp = username === undefined ? undefined : parseRelayUsername(username)
    if (request.has(Attribute.Username) && stamp === undefined) return // nobody could verify an answer
    const caller: Caller = {
      client,
      request,
      username,
      key: stamp === undefined || username === undefined
        ? undefined
        : longTermKey(
          username,
          REALM,
          relayPassword(stamp.expiresAt, this.#stampSecret, stamp.salt),
          this.#options.crypto
        )
    }
    const refused = this.#authenticate(caller, stamp?.expiresAt, now)
    if (refused !== undefined) return this.#refuse(caller, refused)
    const { refuse } = this.knobs
    if (refuse !== undefined && refuse.methods?.includes(name) !== false) return this.#refuse(caller, refuse.code)
    switch (name) {
      case "Allocate":
        return this.#allocate(caller, now)
      case "Refresh":
        return this.#refresh(caller, now)
      case "ChannelBind":
        return this.#bindChannel(caller, now)
      case "CreatePermission":
        return this.#answer(caller, this.#success(request))
    }
  }

  /** The error to answer with, if any. */
  #authenticate({ client, key, request }: Caller, expiresAt: bigint | undefined, now: number): 401 | 438 | undefined {
    const nonce = request.text(Attribute.Nonce)
    if (!request.hasIntegrity || key === undefined || expiresAt === undefined) return 401
    if (nonce === undefined || !isUuid(nonce)) return 401
    if (!this.#nonces.use(client.text, nonce)) return 438
    if (expiresAt < BigInt(Math.floor((this.#options.unixEpochMillis + now) / 1000))) return 401
    return request.verify(key, this.#options.crypto) && isCanonical(request.bytes) ? undefined : 401
  }

  #allocate(caller: Caller, now: number): void {
    const { client, request, username = "" } = caller
    if (this.#allocationOf(client, now) !== undefined) return this.#refuse(caller, 437)
    const [lowest, highest] = this.#ports
    const size = highest - lowest + 1
    if (this.#byPort.size >= size) return this.#refuse(caller, 508)
    if (request.attribute(Attribute.RequestedTransport)?.[0] !== UDP) return this.#refuse(caller, 400)
    const families = this.#families(request)
    if (typeof families === "number") return this.#refuse(caller, families)
    // The same user from elsewhere has roamed.
    for (const other of this.allocations) if (other.username === username) this.#free(other)
    const [high = 0, low = 0] = this.#options.crypto.randomBytes(2)
    let port = lowest + (high << 8 | low) % size
    while (this.#byPort.has(port)) port = port === highest ? lowest : port + 1
    const lifetime = requestedLifetime(request)
    const allocation = new ClientAllocation({ client, username, port, families, expiresAt: now + lifetime * 1000 })
    this.#byClient.set(client.text, allocation)
    this.#byPort.set(port, allocation)
    this.#emit({ _tag: "Open", port, families })
    const response = this.#success(request)
    for (const family of families) {
      const address = family === 4 ? this.#options.ipv4 : this.#options.ipv6
      if (address !== undefined) response.address(Attribute.XorRelayedAddress, new SocketAddress(address, port))
    }
    this.#answer(caller, response.address(Attribute.XorMappedAddress, client).u32(Attribute.Lifetime, lifetime))
  }

  /** IPv4 first; an error code if the request cannot be met. */
  #families(request: StunMessage): ReadonlyArray<Family> | 400 | 440 {
    const requested = request.attribute(Attribute.RequestedAddressFamily)?.[0]
    const additional = request.attribute(Attribute.AdditionalAddressFamily)?.[0]
    const has4 = this.#options.ipv4 !== undefined
    const has6 = this.#options.ipv6 !== undefined
    if (additional !== undefined) {
      if (requested !== undefined || additional === 1) return 400
      if (has4 && has6) return this.knobs.singleFamily ? [4] : [4, 6]
      return has4 ? [4] : [6]
    }
    if (requested === 2) return has6 ? [6] : 440
    return has4 ? [4] : 440
  }

  #refresh(caller: Caller, now: number): void {
    const allocation = this.#allocationOf(caller.client, now)
    if (allocation === undefined) return this.#refuse(caller, 437)
    const lifetime = requestedLifetime(caller.request)
    if (lifetime === 0) this.#free(allocation)
    else allocation.expiresAt = now + lifetime * 1000
    this.#answer(caller, this.#success(caller.request).u32(Attribute.Lifetime, lifetime))
  }

  #bindChannel(caller: Caller, now: number): void {
    const allocation = this.#allocationOf(caller.client, now)
    if (allocation === undefined) return this.#refuse(caller, 437)
    const number = (caller.request.u32(Attribute.ChannelNumber) ?? 0) >>> 16
    const peer = caller.request.address(Attribute.XorPeerAddress)
    if (peer === undefined || !allocation.families.includes(peer.family)) return this.#refuse(caller, 443)
    if (number < FIRST_CHANNEL || number > LAST_CHANNEL) return this.#refuse(caller, 400)
    if (!allocation.bind(number, peer, now)) return this.#refuse(caller, 400)
    this.#answer(caller, this.#success(caller.request))
  }

  #allocationOf(client: SocketAddress, now: number): ClientAllocation | undefined {
    const allocation = this.#byClient.get(client.text)
    if (allocation !== undefined && now >= allocation.expiresAt) {
      this.#free(allocation)
      return undefined
    }
    return allocation
  }

  #free(allocation: ClientAllocation): void {
    this.#byClient.delete(allocation.client.text)
    this.#byPort.delete(allocation.port)
    this.#emit({ _tag: "Close", port: allocation.port })
  }

  #success(request: StunMessage): StunBuilder {
    return this.#response(request, Class.Success)
  }

  #response(request: StunMessage, kind: Class): StunBuilder {
    return new StunBuilder(request.method, kind, request.transactionId.slice())
      .text(Attribute.Software, `firezone-relay; rev=${this.#options.revision ?? "xxxx"}`)
  }

  #refuse(caller: Caller, code: number): void {
    this.counters.errors[code] = (this.counters.errors[code] ?? 0) + 1
    const response = this.#response(caller.request, Class.Error).error(code, reasons.get(code) ?? "")
    if (code === 401 || code === 438) {
      response.text(Attribute.Realm, REALM).text(Attribute.Nonce, this.#nonces.issue(caller.client.text))
    }
    this.#answer(caller, response)
  }

  #answer({ client, key }: Caller, response: StunBuilder): void {
    if (key !== undefined) response.sign(key, this.#options.crypto)
    this.#emit({ _tag: "ToClient", client, bytes: response.build() })
  }
}

const requestedLifetime = (request: StunMessage): number =>
  Math.min(MAX_LIFETIME, request.u32(Attribute.Lifetime) ?? DEFAULT_LIFETIME)

/** Whether the attributes that a method cannot do without are there, and all that are there have their size. */
const isComplete = (request: StunMessage): boolean => {
  const isFamily = (type: number): boolean => {
    const value = request.attribute(type)
    return value === undefined || (value.length === 4 && (value[0] === 1 || value[0] === 2))
  }
  if (!isFamily(Attribute.RequestedAddressFamily) || !isFamily(Attribute.AdditionalAddressFamily)) return false
  if (request.has(Attribute.Lifetime) && request.u32(Attribute.Lifetime) === undefined) return false
  switch (request.method) {
    case Method.Allocate:
      return request.u32(Attribute.RequestedTransport) !== undefined
    case Method.ChannelBind:
      return request.u32(Attribute.ChannelNumber) !== undefined
        && request.address(Attribute.XorPeerAddress) !== undefined
    default:
      return true
  }
}

const reasons: ReadonlyMap<number, string> = new Map([
  [400, "Bad Request"],
  [401, "Unauthorized"],
  [420, "Unknown Attribute"],
  [437, "Allocation Mismatch"],
  [438, "Stale Nonce"],
  [440, "Address Family not Supported"],
  [443, "Peer Address Family Mismatch"],
  [486, "Allocation Quota Reached"],
  [500, "Server Error"],
  [508, "Insufficient Capacity"]
])
