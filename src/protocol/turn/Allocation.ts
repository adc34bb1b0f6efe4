/** A TURN client at one relay, sans-IO (connectivity spec section 6). */
import type { Crypto } from "../crypto.ts"
import { isUsableAddress } from "../ice/candidate.ts"
import type { Relay, Transmit } from "../node/types.ts"
import type { Family, SocketAddress } from "../wire/address.ts"
import {
  Attribute,
  Class,
  longTermKey,
  Method,
  parseStun,
  StunBuilder,
  type StunMessage,
  TRANSACTION_ID_LENGTH,
  transactionKey
} from "../wire/stun.ts"
import { type Channel, Channels } from "./Channels.ts"
import { type AuthenticatedKind, type Request, type RequestKind, type RequestOptions, Requests } from "./Requests.ts"
import { REPEAT_WINDOW, Settled } from "./Settled.ts"
import type { AllocationEvent, FreeReason, GatheredCandidate } from "./types.ts"

const REALM = "firezone"
const SOFTWARE = "snownet"
const UDP = 0x1100_0000
const IPV6 = 0x0200_0000
const KEEP_ALIVE = 25_000
const MAX_WAITING_PEERS = 100
const MAX_NONCE = 763
/** A relay that grants less would have us refresh without end; one that grants more is not believed. */
const MIN_LIFETIME = 10_000
const MAX_LIFETIME = 3_600_000
/** A refused refresh is tried again in half of the time that is left, but not at once. */
const MIN_REFRESH_DELAY = 10_000
/** Answers that call for another request at once, in bounds: a relay that gives no others is not to be hammered. */
const MAX_CHALLENGES = 3
const MAX_MISMATCHES = 5
const MISMATCH_WINDOW = 60_000

interface Credentials {
  readonly username: string
  readonly key: Uint8Array
  nonce: Uint8Array | undefined
}

interface Lifetime {
  readonly expiresAt: number
  refreshAt: number
}

/**
 * After each call drain `pollTransmit` and `pollEvent`, then wait until `pollTimeout`. Once `freed` is set the relay is of no
 * use any more; that is to be looked at on every tick. `now` is monotonic milliseconds.
 */
export class Allocation {
  readonly relay: Relay
  readonly #crypto: Crypto
  readonly #channels = new Channels()
  readonly #requests = new Requests()
  readonly #settled = new Settled()
  /** By kind and family: six at most. */
  readonly #candidates = new Map<string, GatheredCandidate>()
  readonly #transmits: Array<Transmit> = []
  readonly #events: Array<AllocationEvent> = []
  /** Peers whose channel waits for the allocation. */
  #waiting: Array<SocketAddress> = []
  #credentials: Credentials | undefined
  /**
   * The relay sticks to the RFCs, which have no signature without a nonce (RFC 8489 section 9.2.4) and nothing about the
   * transport in a Refresh (RFC 8656 section 7.1). Those of Firezone, and what we send them, are not so particular.
   */
  #isStrict = false
  /** The relay has signed something with them. */
  #isVerified = false
  /** The relay's address in use: the one that answered first. */
  #server: SocketAddress | undefined
  #local: SocketAddress | undefined
  #lifetime: Lifetime | undefined
  #keepAliveAt = Number.POSITIVE_INFINITY
  #mismatches = { since: Number.NEGATIVE_INFINITY, count: 0 }
  /** When to ask for an allocation again after too many mismatches. */
  #retryAt = Number.POSITIVE_INFINITY
  #hasProtocolFailure = false
  /** The code with which the latest request for an allocation was refused. */
  #refusal: number | undefined
  #rtt: number | undefined

  constructor(options: { readonly relay: Relay; readonly crypto: Crypto; readonly now: number }) {
    const { crypto, now, relay } = options
    this.relay = relay
    this.#crypto = crypto
    const { password, username } = relay
    this.#credentials = { username, key: longTermKey(username, REALM, password, crypto), nonce: undefined }
    this.#start(now)
  }

  /** Smoothed round trip in milliseconds; `undefined` before the first answer. */
  get rtt(): number | undefined {
    return this.#rtt
  }

  get freed(): FreeReason | undefined {
    if (this.#hasProtocolFailure) return "protocol-failure"
    if (this.#requests.size > 0) return undefined
    if (this.#credentials === undefined) return "bad-credentials"
    return this.#server === undefined ? "no-response" : undefined
  }

  /** Why the relay is of no use now, and will not be unless asked again: `freed`, or the code of its refusal. */
  get unusable(): string | undefined {
    return this.freed ?? (this.#isSuspended ? `refused (${this.#refusal ?? "no usable answer"})` : undefined)
  }

  /** There is reason to take another one: nothing is allocated or asked for, or what is allocated is being verified. */
  get isDoubtful(): boolean {
    const server = this.#server
    return this.#isSuspended ||
      this.#requests.has(({ destination, kind }) =>
        kind._tag === "Refresh" || (kind._tag === "Binding" && destination.text === server?.text)
      )
  }

  /** The address of the relay in use; channel data goes there. */
  get server(): SocketAddress | undefined {
    return this.#server
  }

  /** Host, server-reflexive and relayed ones that are valid now. */
  get candidates(): ReadonlyArray<GatheredCandidate> {
    return [...this.#candidates.values()]
  }

  /** The address that the relay holds for us. */
  relayed(family: Family): SocketAddress | undefined {
    return this.#candidates.get(family === 4 ? "relay4" : "relay6")?.address
  }

  /**
   * A datagram from one of the relay's addresses, which is kept while it is read; returns whether it was an answer that we
   * waited for.
   */
  handleStun(local: SocketAddress, from: SocketAddress, datagram: Uint8Array, now: number): boolean {
    const message = parseStun(datagram)
    if (message === undefined || message.hasWrongFingerprint) return false
    if (message.class !== Class.Success && message.class !== Class.Error) return false
    const transmission = this.#requests.find(message.key)
    if (transmission === undefined) return this.#handleRepeated(from, message, now)
    const { request, withNonce } = transmission
    if (request.destination.text !== from.text || methods[request.kind._tag] !== message.method) return false
    if (!this.#isAuthentic(request, withNonce, message)) return false
    this.#requests.remove(request)
    const sample = now - request.firstSentAt
    this.#rtt = this.#rtt === undefined ? sample : this.#rtt * 7 / 8 + sample / 8
    if (request.kind._tag === "Binding") {
      if (message.class === Class.Success) this.#handleBinding(local, from, message, now)
    } else if (message.class === Class.Error) {
      this.#handleError(request, request.kind, withNonce, message, now)
    } else {
      this.#handleSuccess(request, request.kind, message, now)
    }
    return true
  }

  /** Who sent what came over `channel`; `undefined` if it is not bound. Counts as use of the channel. */
  receivedOn(channel: number, now: number): SocketAddress | undefined {
    return this.#channels.receive(channel, now)
  }

  /**
   * The channel to `peer`, on which something is about to be sent to `server`; 0 if there is none. Then one is asked for,
   * and what should have been sent is lost (spec 6.7).
   */
  channelTo(peer: SocketAddress, now: number): number {
    const number = this.#server === undefined ? 0 : this.#channels.numberFor(peer, now)
    if (number === 0) this.bindChannel(peer, now)
    else if (this.#lifetime !== undefined) this.#keepAliveAt = now + KEEP_ALIVE
    return number
  }

  /** Binds a channel to `peer`, now or once there is an allocation; does nothing if it has one, or can get none. */
  bindChannel(peer: SocketAddress, now: number): void {
    if (this.#isSuspended) return
    if (this.#lifetime === undefined) return this.#awaitAllocation(peer)
    if (this.relayed(peer.family) === undefined) return
    const channel = this.#channels.toBind(peer, now)
    if (channel !== undefined) this.#requestChannel(channel, now)
  }

  /** Verifies, with one request, that a relay which the portal did not mention still knows us (spec 6.6). */
  refresh(now: number): void {
    if (this.#credentials === undefined || this.#hasProtocolFailure) return
    if (this.#isSuspended) {
      this.#server = undefined
      this.#start(now)
    } else if (!this.#requests.has(({ kind, once }) => kind._tag === "Allocate" || (kind._tag === "Refresh" && once))) {
      this.#request({ _tag: "Refresh", remove: false }, now, { once: true })
    }
  }

  /** Verifies, without haste, that the relay is still there and knows us: something makes the caller wonder. */
  probe(now: number): void {
    if (this.#lifetime === undefined || this.#requests.has(({ kind }) => kind._tag === "Refresh")) return
    this.#request({ _tag: "Refresh", remove: false }, now)
  }

  /** The network has changed: forgets everything but username and password, announcing nothing, and starts over. */
  restart(now: number): void {
    this.#requests.clear()
    this.#channels.clear()
    this.#candidates.clear()
    this.#transmits.length = 0
    this.#events.length = 0
    this.#waiting = []
    this.#server = undefined
    this.#local = undefined
    this.#lifetime = undefined
    this.#keepAliveAt = Number.POSITIVE_INFINITY
    this.#rtt = undefined
    this.#retryAt = Number.POSITIVE_INFINITY
    this.#settled.clear()
    this.#isVerified = false
    if (this.#credentials !== undefined) this.#credentials.nonce = undefined
    this.#start(now)
  }

  handleTimeout(now: number): void {
    for (let due = this.#requests.nextDue(now); due !== undefined; due = this.#requests.nextDue(now)) {
      if (due.isGivenUp) this.#giveUp(due.request)
      else this.#transmit(due.request)
    }
    if (now >= this.#retryAt) {
      this.#retryAt = Number.POSITIVE_INFINITY
      if (this.#isSuspended) this.#request({ _tag: "Allocate" }, now)
    }
    const lifetime = this.#lifetime
    if (lifetime === undefined) return
    if (now >= lifetime.expiresAt) {
      // The process has slept. The relay has forgotten us but may be there: nobody else would ask for a new allocation.
      this.#invalidate()
      return this.#request({ _tag: "Allocate" }, now)
    }
    if (now >= lifetime.refreshAt) {
      lifetime.refreshAt = Number.POSITIVE_INFINITY
      if (!this.#requests.has(({ kind }) => kind._tag === "Refresh")) {
        this.#request({ _tag: "Refresh", remove: false }, now)
      }
    }
    if (now >= this.#keepAliveAt && this.#server !== undefined) {
      this.#keepAliveAt = now + KEEP_ALIVE
      this.#requestBinding(this.#server, now)
    }
    for (let due = this.#channels.nextRefresh(now); due !== undefined; due = this.#channels.nextRefresh(now)) {
      this.#requestChannel(due, now)
    }
  }

  pollTransmit(): Transmit | undefined {
    return this.#transmits.shift()
  }

  pollEvent(): AllocationEvent | undefined {
    return this.#events.shift()
  }

  pollTimeout(): number | undefined {
    let next = Math.min(
      this.#requests.nextTimeout(),
      this.#keepAliveAt,
      this.#channels.nextTimeout(),
      this.#retryAt
    )
    if (this.#lifetime !== undefined) next = Math.min(next, this.#lifetime.expiresAt, this.#lifetime.refreshAt)
    return next === Number.POSITIVE_INFINITY ? undefined : next
  }

  /** There is no allocation, and nothing is under way that could lead to one. */
  get #isSuspended(): boolean {
    return this.#lifetime === undefined && this.#requests.size === 0
  }

  #awaitAllocation(peer: SocketAddress): void {
    if (this.#waiting.some(({ text }) => text === peer.text)) return
    if (this.#waiting.length >= MAX_WAITING_PEERS) this.#waiting.shift()
    this.#waiting.push(peer)
  }

  #start(now: number): void {
    for (const address of [this.relay.v4, this.relay.v6]) if (address !== undefined) this.#requestBinding(address, now)
  }

  #requestBinding(destination: SocketAddress, now: number): void {
    this.#transmit(this.#requests.start({ _tag: "Binding" }, destination, now, {}))
  }

  #requestChannel({ number, peer }: Channel, now: number): void {
    this.#request({ _tag: "ChannelBind", number, peer }, now)
  }

  #request(kind: AuthenticatedKind, now: number, options: RequestOptions = {}): void {
    if (this.#server === undefined || this.#credentials === undefined) return
    this.#transmit(this.#requests.start(kind, this.#server, now, options))
  }

  /** Sends a request, the first time or again. */
  #transmit(request: Request): void {
    const { destination, kind } = request
    const buffer = kind._tag === "Binding" ? request.bytes ?? this.#binding(request) : this.#signed(request, kind)
    this.#transmits.push({ source: undefined, destination, ecn: 0, buffer, offset: 0, length: buffer.length })
  }

  #binding(request: Request): Uint8Array {
    const id = this.#crypto.randomBytes(TRANSACTION_ID_LENGTH)
    this.#requests.register(request, transactionKey(id), false)
    return request.bytes = new StunBuilder(Method.Binding, Class.Request, id).text(Attribute.Software, SOFTWARE).build()
  }

  #signed(request: Request, kind: AuthenticatedKind): Uint8Array {
    const id = this.#crypto.randomBytes(TRANSACTION_ID_LENGTH)
    const { key, nonce, username } = this.#credentials as Credentials // gone only together with all requests
    const builder = new StunBuilder(methods[kind._tag], Class.Request, id)
    if (kind._tag === "ChannelBind") {
      builder.address(Attribute.XorPeerAddress, kind.peer).u32(Attribute.ChannelNumber, kind.number * 0x1_0000)
    } else if (kind._tag === "Allocate" || !this.#isStrict) {
      builder.u32(Attribute.RequestedTransport, UDP).u32(Attribute.AdditionalAddressFamily, IPV6)
    }
    builder.text(Attribute.Software, SOFTWARE)
    if (kind._tag === "Refresh" && kind.remove) builder.u32(Attribute.Lifetime, 0)
    if (nonce === undefined && this.#isStrict) {
      this.#requests.register(request, transactionKey(id), false)
      return builder.build()
    }
    builder.text(Attribute.Username, username).text(Attribute.Realm, REALM)
    if (nonce !== undefined) builder.add(Attribute.Nonce, nonce)
    this.#requests.register(request, transactionKey(id), nonce !== undefined)
    return builder.sign(key, this.#crypto).build()
  }

  /** The relay does not answer where it used to, or nowhere; the other family's silence is of no consequence. */
  #giveUp(request: Request): void {
    if (request.destination.family !== this.#server?.family) return
    this.#server = undefined
    this.#invalidate()
  }

  /**
   * Everything but Binding has to be signed. Challenges may come without a signature (RFC 8489 section 9.2.5), for they
   * only make us sign again; and so may the refusal of credentials that this relay has never accepted, and what some say
   * to a request without a nonce: that it lacks one, or that they hold an allocation.
   */
  #isAuthentic({ challenges, kind }: Request, withNonce: boolean, message: StunMessage): boolean {
    if (kind._tag === "Binding") return true
    const credentials = this.#credentials
    if (credentials === undefined) return false
    const code = message.class === Class.Error ? message.error?.code : undefined
    const isChallenge = code === 438 || (code === 401 && !withNonce)
    if (isChallenge && (readNonce(message) === undefined || challenges >= MAX_CHALLENGES)) return false
    if (!message.hasIntegrity) {
      if (!withNonce && (code === 437 || (code === 400 && !this.#isStrict))) return true
      return isChallenge || (code === 401 && !this.#isVerified)
    }
    const isGenuine = message.verify(credentials.key, this.#crypto)
    this.#isVerified ||= isGenuine
    return isGenuine
  }

  #handleError(
    request: Request,
    kind: AuthenticatedKind,
    withNonce: boolean,
    message: StunMessage,
    now: number
  ): void {
    const code = message.error?.code
    if (code === 438 || (code === 401 && !withNonce)) return this.#handleChallenge(request, kind, message, now)
    if ((code === 400 && !message.hasIntegrity) || (code === 420 && kind._tag === "Refresh" && !this.#isStrict)) {
      this.#isStrict = true
      return this.#request(kind, now, { once: request.once })
    }
    if (code === 401) {
      this.#credentials = undefined
      this.#waiting = []
      return this.#invalidate()
    }
    if (code === 420) {
      this.#hasProtocolFailure = true
      return this.#invalidate()
    }
    if (code === 437) return this.#handleMismatch(kind, now)
    switch (kind._tag) {
      case "Allocate":
        this.#refusal = code
        this.#waiting = []
        return
      case "ChannelBind":
        return this.#channels.remove(kind.number)
      case "Refresh":
        if (this.#lifetime !== undefined) {
          const left = this.#lifetime.expiresAt - now
          this.#lifetime.refreshAt = Math.min(this.#lifetime.refreshAt, now + Math.max(MIN_REFRESH_DELAY, left / 2))
        }
    }
  }

  #handleChallenge(request: Request, kind: AuthenticatedKind, message: StunMessage, now: number): void {
    if (this.#credentials === undefined) return
    const realm = message.text(Attribute.Realm)
    if (realm !== undefined && realm !== REALM) {
      if (kind._tag === "ChannelBind") this.#channels.remove(kind.number)
      return
    }
    this.#credentials.nonce = readNonce(message)
    this.#request(kind, now, { once: request.once, challenges: request.challenges + 1 })
  }

  /** 437: the relay's idea of our allocation differs from ours. */
  #handleMismatch(kind: AuthenticatedKind, now: number): void {
    this.#invalidate()
    if (now - this.#mismatches.since >= MISMATCH_WINDOW) this.#mismatches = { since: now, count: 0 }
    if (++this.#mismatches.count > MAX_MISMATCHES) {
      this.#refusal = 437
      this.#waiting = []
      this.#retryAt = this.#mismatches.since + MISMATCH_WINDOW
      return
    }
    if (kind._tag === "Allocate") return this.#request({ _tag: "Refresh", remove: true }, now)
    if (kind._tag === "ChannelBind") this.#awaitAllocation(kind.peer)
    this.#request({ _tag: "Allocate" }, now)
  }

  #handleBinding(local: SocketAddress, from: SocketAddress, message: StunMessage, now: number): void {
    const slot = `srflx${from.family}`
    const old = this.#candidates.get(slot)
    this.#gatherReflexive(local, message)
    if (this.#server !== undefined) {
      // To the relay we are now somebody else, who holds nothing.
      if (from.text === this.#server.text && old !== undefined && old !== this.#candidates.get(slot)) this.probe(now)
      return
    }
    this.#server = from
    this.#local = local
    this.#request(this.#lifetime === undefined ? { _tag: "Allocate" } : { _tag: "Refresh", remove: false }, now)
  }

  /** An answer to a request that is settled: a copy of one was executed, or a copy of an answer has come. */
  #handleRepeated(from: SocketAddress, message: StunMessage, now: number): boolean {
    const request = this.#settled.find(message.key, now)
    if (request === undefined || request.destination.text !== from.text) return false
    if (message.class !== Class.Success || methods[request.kind._tag] !== message.method) return false
    if (!this.#isAuthentic(request, true, message)) return false
    if (!this.#settled.wasRepeated(request, relayedAddresses(message))) return false
    // Of two allocations nobody knows which was the later one. What may have been deleted is asked for.
    if (request.kind._tag === "Allocate") this.#handleMismatch(request.kind, now)
    else if (this.#lifetime !== undefined) this.#lifetime.refreshAt = now
    return true
  }

  #handleSuccess(request: Request, kind: AuthenticatedKind, message: StunMessage, now: number): void {
    switch (kind._tag) {
      case "Allocate":
        this.#settled.created(request, relayedAddresses(message), now)
        return this.#handleAllocated(message, now)
      case "Refresh":
        if (kind.remove) this.#settled.deleted(request, now)
        return this.#handleRefreshed(message, now)
      case "ChannelBind":
        return this.#channels.confirm(kind.number, now)
    }
  }

  #handleAllocated(message: StunMessage, now: number): void {
    const seconds = message.u32(Attribute.Lifetime)
    const relayed = message.addresses(Attribute.XorRelayedAddress).filter(isUsable)
    const local = this.#local
    if (seconds === undefined || relayed.length === 0 || local === undefined) return
    const lifetime = this.#setLifetime(seconds, now)
    // A late copy of the deletion would not be noticed before the next request.
    if (this.#settled.mayBeDeletedAgain(now)) lifetime.refreshAt = Math.min(lifetime.refreshAt, now + REPEAT_WINDOW)
    this.#keepAliveAt = now + KEEP_ALIVE
    this.#gatherReflexive(local, message)
    for (const address of relayed) this.#gather({ kind: "relay", address, local })
    for (const peer of this.#waiting.splice(0)) this.bindChannel(peer, now)
  }

  #handleRefreshed(message: StunMessage, now: number): void {
    const seconds = message.u32(Attribute.Lifetime)
    if (seconds === 0) {
      this.#invalidate()
      this.#request({ _tag: "Allocate" }, now)
    } else if (seconds !== undefined && this.#lifetime !== undefined) {
      this.#setLifetime(seconds, now)
    }
  }

  #setLifetime(seconds: number, now: number): Lifetime {
    const lifetime = Math.min(MAX_LIFETIME, Math.max(MIN_LIFETIME, seconds * 1000))
    return this.#lifetime = { expiresAt: now + lifetime, refreshAt: now + lifetime / 2 }
  }

  #gatherReflexive(local: SocketAddress, message: StunMessage): void {
    if (isUsable(local)) this.#gather({ kind: "host", address: local, local })
    const mapped = message.address(Attribute.XorMappedAddress)
    if (mapped !== undefined && mapped.family === local.family && isUsable(mapped)) {
      this.#gather({ kind: "srflx", address: mapped, local })
    }
  }

  /** A changed address is one more candidate; the old one is not withdrawn (spec 6.4). */
  #gather(candidate: GatheredCandidate): void {
    const slot = candidate.kind + candidate.address.family
    const known = this.#candidates.get(slot)
    if (known?.address.text === candidate.address.text && known.local.text === candidate.local.text) return
    this.#candidates.set(slot, candidate)
    this.#events.push({ _tag: "NewCandidate", candidate })
  }

  /** The allocation is gone: its candidates, channels, and whatever was asked for. */
  #invalidate(): void {
    for (const slot of ["relay4", "relay6"]) {
      const candidate = this.#candidates.get(slot)
      if (candidate === undefined) continue
      this.#candidates.delete(slot)
      this.#events.push({ _tag: "InvalidatedCandidate", candidate })
    }
    this.#channels.clear()
    this.#requests.clear()
    this.#lifetime = undefined
    this.#keepAliveAt = Number.POSITIVE_INFINITY
  }
}

const isUsable = ({ address, port }: SocketAddress): boolean => port !== 0 && isUsableAddress(address)

const relayedAddresses = (message: StunMessage): string =>
  message.addresses(Attribute.XorRelayedAddress).map(({ text }) => text).join()

const readNonce = (message: StunMessage): Uint8Array | undefined => {
  const nonce = message.attribute(Attribute.Nonce)
  return nonce === undefined || nonce.length > MAX_NONCE ? undefined : nonce.slice()
}

const methods = {
  Binding: Method.Binding,
  Allocate: Method.Allocate,
  Refresh: Method.Refresh,
  ChannelBind: Method.ChannelBind
} as const satisfies { readonly [kind in RequestKind["_tag"]]: Method }
