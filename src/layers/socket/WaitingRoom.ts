import { encodeSockaddr } from "../../ffi/linux/socket.ts"
import { type IpAddress, ipToBytes, type SocketAddress } from "../../protocol/wire/address.ts"
import type { RouteCache } from "../../services/RouteCache.ts"
import type { PeerCounters } from "./PeerCounters.ts"

/** Datagrams that wait for a route: for one destination, and in all. */
const WAITING_PER_DESTINATION = 32
const WAITING_IN_ALL = 256
/** The network may change while a route is looked up; then it is asked for again, but not for ever. */
const ATTEMPTS = 3

interface Waiting {
  readonly ecn: number
  readonly bytes: Uint8Array
  /** It was sent once and failed, because its source was gone. */
  readonly retried: boolean
}

/** What is kept for a destination: its `sockaddr`, and the datagrams that wait until its route is known. */
export class Destination {
  readonly address: SocketAddress
  readonly sockaddr: Uint8Array
  /** For the route cache: one function for the life of the destination, so that asking allocates nothing. */
  readonly onRoute: () => void
  readonly waiting: Array<Waiting> = []
  attempts = 0

  constructor(address: SocketAddress, onRoute: (destination: Destination) => void) {
    this.address = address
    this.sockaddr = encodeSockaddr(ipToBytes(address.address), address.port)
    this.onRoute = () => onRoute(this)
  }
}

/** Takes a datagram whose source the route cache has named; the bytes stay as they are. */
export type Depart = (
  source: IpAddress,
  destination: Destination,
  ecn: number,
  bytes: Uint8Array,
  retried: boolean
) => void

/**
 * Names the source of datagrams whose sender did not, from the route cache, and keeps copies of those whose route is not
 * known yet (bounded; they leave when it is, or are dropped).
 */
export class WaitingRoom {
  readonly #routes: RouteCache["Type"]
  readonly #counters: PeerCounters
  readonly #depart: Depart
  readonly #flush: () => void
  readonly #destinations = new WeakMap<SocketAddress, Destination>()
  #latest: Destination | undefined
  #waiting = 0
  #closed = false

  /** `flush` is called after datagrams have departed on their own, outside any call of the sender's. */
  constructor(routes: RouteCache["Type"], counters: PeerCounters, depart: Depart, flush: () => void) {
    this.#routes = routes
    this.#counters = counters
    this.#depart = depart
    this.#flush = flush
  }

  /** The destination of this address; always the same one for the same object. */
  destination(address: SocketAddress): Destination {
    const latest = this.#latest
    if (latest !== undefined && latest.address === address) return latest
    let destination = this.#destinations.get(address)
    if (destination === undefined) {
      destination = new Destination(address, this.#onRoute)
      this.#destinations.set(address, destination)
    }
    this.#latest = destination
    return destination
  }

  /** The source to send from now. `undefined`: let the datagram `wait`. */
  source(destination: Destination): IpAddress | undefined {
    const route = this.#routes.peek(destination.address.address, destination.onRoute)
    if (route === undefined) return undefined
    if (destination.waiting.length > 0) this.#release(destination, route.source) // they came first
    return route.source
  }

  /** A datagram could not be sent because its source is gone: the cached route is no good either. */
  evict(destination: Destination): void {
    this.#routes.evict(destination.address.address, "send-failed")
  }

  /** Evicts, then names the source to try next. `undefined`: let the datagram `wait`. */
  sourceAgain(destination: Destination): IpAddress | undefined {
    this.evict(destination)
    return this.#routes.peek(destination.address.address, destination.onRoute)?.source
  }

  /** Keeps `bytes`, which now belong to this room. */
  wait(destination: Destination, ecn: number, bytes: Uint8Array, retried: boolean): void {
    if (destination.waiting.length >= WAITING_PER_DESTINATION || this.#waiting >= WAITING_IN_ALL) {
      return this.#counters.drop("queue-full")
    }
    this.#waiting += 1
    destination.waiting.push({ ecn, bytes, retried })
  }

  close(): void {
    this.#closed = true
  }

  readonly #onRoute = (destination: Destination): void => {
    if (this.#closed || destination.waiting.length === 0) return
    destination.attempts += 1
    const again = destination.attempts < ATTEMPTS ? destination.onRoute : undefined
    const route = this.#routes.peek(destination.address.address, again)
    if (route !== undefined) {
      this.#release(destination, route.source)
      this.#flush()
    } else if (again === undefined) {
      this.#counters.drop("no-route", this.#empty(destination).length)
    }
  }

  #release(destination: Destination, source: IpAddress): void {
    for (const { bytes, ecn, retried } of this.#empty(destination)) {
      this.#depart(source, destination, ecn, bytes, retried)
    }
  }

  #empty(destination: Destination): ReadonlyArray<Waiting> {
    this.#waiting -= destination.waiting.length
    destination.attempts = 0
    return destination.waiting.splice(0)
  }
}
