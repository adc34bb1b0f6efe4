import type { Crypto } from "../crypto.ts"
import type { CandidateKind } from "../ice/candidate.ts"
import { looksLikeStun } from "../ice/checkMessage.ts"
import type { AllocationEvent, FreeReason, GatheredCandidate } from "../turn/types.ts"
import type { Family, IpAddress, SocketAddress } from "../wire/address.ts"
import { readChannel } from "../wire/channelData.ts"
import { pickRelay } from "./relaySelection.ts"
import type { Relay, RelayId, RelayStatus, Transmit } from "./types.ts"

/** Addresses of relays that are gone are remembered: what they still send is no peer's. */
const MAX_FORMER = 64

/** The client's side of one relay, as the node uses it (connectivity spec section 6). */
export interface AllocationApi {
  /** Smoothed round trip, milliseconds; `undefined` before the first answer. */
  readonly rtt: number | undefined
  /** Whether another relay is to be preferred until this one has answered. */
  readonly isDoubtful: boolean
  /** Why the relay is of no use any more (spec 6.9), once it is. */
  readonly freed: FreeReason | undefined
  /** Why nothing can be had from the relay now, if that is so; for a person. */
  readonly unusable: string | undefined
  /** Host, server-reflexive and relayed ones that are valid now. */
  readonly candidates: ReadonlyArray<GatheredCandidate>
  /** The address of the relay in use. */
  readonly server: SocketAddress | undefined
  /** The address that the relay holds for us. */
  relayed(family: Family): SocketAddress | undefined
  /** A STUN message from one of the relay's addresses; returns whether it was an answer that we waited for. */
  handleStun(local: SocketAddress, from: SocketAddress, message: Uint8Array, now: number): boolean
  /** Who sent what came over `channel`; `undefined` if it is not bound. Counts as use of the channel. */
  receivedOn(channel: number, now: number): SocketAddress | undefined
  /** The channel to `peer`, which is about to be used; 0 if there is none, in which case one is requested. */
  channelTo(peer: SocketAddress, now: number): number
  bindChannel(peer: SocketAddress, now: number): void
  /** Verifies that the relay still knows us, with one request. */
  refresh(now: number): void
  /** Asks now whether it is still there. */
  probe(now: number): void
  restart(now: number): void
  handleTimeout(now: number): void
  pollTransmit(): Transmit | undefined
  pollEvent(): AllocationEvent | undefined
  pollTimeout(): number | undefined
}

export type MakeAllocation = (relay: Relay, now: number) => AllocationApi

export type RelayEvent =
  | (AllocationEvent & { readonly relay: RelayId })
  /** Removed, replaced or given up. */
  | { readonly _tag: "Gone"; readonly relay: RelayId; readonly reason: string }
  /** The last one was given up. */
  | { readonly _tag: "NoneLeft" }

/** What a datagram from a relay's port was. */
export const RelayInput = {
  /** Not a relay's. */
  Foreign: 0,
  Handled: 1,
  Dropped: 2,
  /** A peer's, unwrapped to `Relays.unwrapped`. */
  Unwrapped: 3
} as const
export type RelayInput = (typeof RelayInput)[keyof typeof RelayInput]

/**
 * The portal may name a relay again that refuses us at once. The pause doubles up to what a silent relay takes to be given
 * up, so that who is told need not be careful; after a minute it is as in the beginning.
 */
const FIRST_PAUSE = 1000
const LONGEST_PAUSE = 8000
const PAUSE_FORGOTTEN = 60_000

interface Entry {
  readonly relay: Relay
  readonly allocation: AllocationApi
}

/** The relays that the portal gave us (connectivity spec 6.10, 6.11) and the first step of the demultiplexer (section 4). */
export class Relays {
  /** The outcome of the latest `handleInput` that returned `Unwrapped`; without a peer there is none. */
  readonly unwrapped: { local: SocketAddress | undefined; from: SocketAddress | undefined } = {
    local: undefined,
    from: undefined
  }
  readonly #crypto: Pick<Crypto, "randomBytes">
  readonly #make: MakeAllocation
  readonly #entries = new Map<RelayId, Entry>()
  readonly #byAddress = new Map<string, AllocationApi>()
  /** In order of their leaving. */
  readonly #former = new Set<IpAddress>()
  /** Why relays were given up since the portal named some, or one was of use; how many for each reason. */
  readonly #givenUp = new Map<string, number>()
  readonly #events: Array<RelayEvent> = []
  /** When it is to be told that none is left, when that was told last, and how long it is not told again after that. */
  #tellAt = Number.POSITIVE_INFINITY
  #toldAt = Number.NEGATIVE_INFINITY
  #pause = FIRST_PAUSE

  constructor(crypto: Pick<Crypto, "randomBytes">, make: MakeAllocation) {
    this.#crypto = crypto
    this.#make = make
  }

  get(id: RelayId): AllocationApi | undefined {
    return this.#entries.get(id)?.allocation
  }

  /** The relay that holds `address` for us. */
  holding(address: SocketAddress): AllocationApi | undefined {
    for (const { allocation } of this.#entries.values()) {
      if (allocation.relayed(address.family)?.text === address.text) return allocation
    }
    return undefined
  }

  /** Lets peers in; a host's own address is reached without a relay, if at all. */
  bindChannels(
    relay: RelayId | undefined,
    peers: ReadonlyArray<{ readonly kind: CandidateKind; readonly address: SocketAddress }>,
    now: number
  ): void {
    const allocation = relay === undefined ? undefined : this.get(relay)
    for (const { address, kind } of peers) if (kind !== "host") allocation?.bindChannel(address, now)
  }

  /** One of the measured relays that are good enough; a doubtful one only if there is no other. */
  pick(): RelayId | undefined {
    const measured = Array.from(this.#entries, ([id, { allocation }]) => ({
      id,
      rtt: allocation.rtt,
      isDoubtful: allocation.isDoubtful
    }))
    const reliable = measured.filter(({ isDoubtful }) => !isDoubtful)
    return (pickRelay(reliable, this.#crypto) ?? pickRelay(measured, this.#crypto))?.id
  }

  /** There are some, and none is measured. */
  get isStarting(): boolean {
    for (const { allocation } of this.#entries.values()) if (allocation.rtt !== undefined) return false
    return this.#entries.size > 0
  }

  /** A relay holds an address for us. */
  get isUsable(): boolean {
    for (const { allocation } of this.#entries.values()) {
      if (allocation.relayed(4) !== undefined || allocation.relayed(6) !== undefined) return true
    }
    return false
  }

  /** How many relays are of no use for which reason, if none is and none may become so; not of those withdrawn. */
  get unusable(): ReadonlyMap<string, number> | undefined {
    const reasons = new Map(this.#givenUp)
    for (const { allocation } of this.#entries.values()) {
      if (allocation.unusable === undefined) return undefined
      count(reasons, allocation.unusable)
    }
    return reasons.size === 0 ? undefined : reasons
  }

  status(): ReadonlyArray<RelayStatus> {
    return Array.from(this.#entries, ([id, { allocation, relay }]) => ({
      id,
      addresses: addressesOf(relay),
      rttMillis: allocation.rtt,
      unusable: allocation.unusable
    }))
  }

  /** What a connection that uses `relay` offers: relayed candidates of that one, the other kinds of all. */
  candidates(relay: RelayId): ReadonlyArray<GatheredCandidate> {
    const candidates: Array<GatheredCandidate> = []
    for (const [id, { allocation }] of this.#entries) {
      for (const candidate of allocation.candidates) {
        if (candidate.kind !== "relay" || id === relay) candidates.push(candidate)
      }
    }
    return candidates
  }

  /** Spec 6.11: removes, then adds or replaces, then verifies the others. */
  update(remove: ReadonlyArray<RelayId>, add: ReadonlyArray<Relay>, now: number): void {
    for (const id of remove) this.#drop(id, "the portal withdrew it")
    if (add.length > 0) this.#givenUp.clear()
    const listed = new Set(add.map(({ id }) => id))
    for (const relay of add) {
      const existing = this.#entries.get(relay.id)
      if (existing !== undefined) {
        if (isSame(existing.relay, relay)) continue
        this.#drop(relay.id, "the portal replaced it")
      }
      const allocation = this.#make(relay, now)
      this.#entries.set(relay.id, { relay, allocation })
      for (const address of addressesOf(relay)) this.#byAddress.set(address.text, allocation)
    }
    for (const [id, { allocation }] of this.#entries) if (!listed.has(id)) allocation.refresh(now)
  }

  /** The network has changed: every relay is asked anew, with the credentials that it has. */
  restart(now: number): void {
    this.#events.length = 0
    for (const { allocation } of this.#entries.values()) {
      allocation.restart(now)
      while (allocation.pollEvent() !== undefined);
    }
  }

  /** A datagram from UDP port 3478. */
  handleInput(
    local: SocketAddress,
    from: SocketAddress,
    input: Uint8Array,
    offset: number,
    length: number,
    now: number
  ): RelayInput {
    const channel = readChannel(input, offset, length)
    if (channel === 0 && !looksLikeStun(input, offset, length)) return RelayInput.Foreign
    const allocation = this.#byAddress.get(from.text)
    // A peer's NAT may use this port, too; but what a former relay still sends is no peer's.
    if (allocation === undefined) return this.#former.has(from.address) ? RelayInput.Dropped : RelayInput.Foreign
    if (channel === 0) {
      const isOurs = allocation.handleStun(local, from, input.slice(offset, offset + length), now)
      return isOurs ? RelayInput.Handled : RelayInput.Dropped
    }
    const peer = allocation.receivedOn(channel, now)
    if (peer === undefined) return RelayInput.Dropped
    const { unwrapped } = this
    unwrapped.from = peer
    unwrapped.local = allocation.relayed(peer.family)
    return unwrapped.local === undefined ? RelayInput.Dropped : RelayInput.Unwrapped
  }

  handleTimeout(now: number): void {
    for (const { allocation } of this.#entries.values()) allocation.handleTimeout(now)
    for (const [id, { allocation }] of this.#entries) {
      if (allocation.freed === undefined) continue
      if (this.isUsable) this.#givenUp.clear()
      count(this.#givenUp, allocation.freed)
      this.#drop(id, allocation.freed)
      if (this.#entries.size === 0) this.#tellAt = Math.max(now, this.#toldAt + this.#pause)
    }
    if (now < this.#tellAt) return
    this.#tellAt = Number.POSITIVE_INFINITY
    if (this.#entries.size > 0) return
    this.#pause = now - this.#toldAt > PAUSE_FORGOTTEN ? FIRST_PAUSE : Math.min(this.#pause * 2, LONGEST_PAUSE)
    this.#toldAt = now
    this.#events.push({ _tag: "NoneLeft" })
  }

  pollTransmit(): Transmit | undefined {
    for (const { allocation } of this.#entries.values()) {
      const transmit = allocation.pollTransmit()
      if (transmit !== undefined) return transmit
    }
    return undefined
  }

  pollEvent(): RelayEvent | undefined {
    for (const [relay, { allocation }] of this.#entries) {
      for (let event = allocation.pollEvent(); event !== undefined; event = allocation.pollEvent()) {
        this.#events.push({ ...event, relay })
      }
    }
    return this.#events.shift()
  }

  pollTimeout(): number | undefined {
    let next = this.#tellAt === Number.POSITIVE_INFINITY ? undefined : this.#tellAt
    for (const { allocation } of this.#entries.values()) {
      const at = allocation.freed === undefined ? allocation.pollTimeout() : 0
      if (at !== undefined && (next === undefined || at < next)) next = at
    }
    return next
  }

  /** Its relayed candidates are worth nothing any more; host and server-reflexive ones are, as the other relays know. */
  #drop(id: RelayId, reason: string): void {
    const entry = this.#entries.get(id)
    if (entry === undefined) return
    this.#entries.delete(id)
    for (const candidate of entry.allocation.candidates) {
      if (candidate.kind === "relay") this.#events.push({ _tag: "InvalidatedCandidate", relay: id, candidate })
    }
    for (let event = entry.allocation.pollEvent(); event !== undefined; event = entry.allocation.pollEvent()) {
      if (event._tag === "InvalidatedCandidate") this.#events.push({ ...event, relay: id })
    }
    this.#events.push({ _tag: "Gone", relay: id, reason })
    for (const address of addressesOf(entry.relay)) {
      if (this.#byAddress.get(address.text) === entry.allocation) this.#byAddress.delete(address.text)
      this.#former.delete(address.address)
      this.#former.add(address.address)
      if (this.#former.size <= MAX_FORMER) continue
      for (const oldest of this.#former) {
        this.#former.delete(oldest)
        break
      }
    }
  }
}

const addressesOf = ({ v4, v6 }: Relay): ReadonlyArray<SocketAddress> =>
  [v4, v6].filter((address) => address !== undefined)

const isSame = (left: Relay, right: Relay): boolean =>
  left.username === right.username && left.password === right.password
  && left.v4?.text === right.v4?.text && left.v6?.text === right.v6?.text

const count = (reasons: Map<string, number>, reason: string): void => {
  reasons.set(reason, (reasons.get(reason) ?? 0) + 1)
}
