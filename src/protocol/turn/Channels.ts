/** The channels of one allocation (connectivity spec 6.7): peers behind 16-bit numbers. */
import type { SocketAddress } from "../wire/address.ts"

const FIRST_CHANNEL = 0x4000
const LAST_CHANNEL = 0x4fff
const LIFETIME = 10 * 60_000
const REUSE_AFTER = 15 * 60_000
const REFRESH_AFTER = 5 * 60_000
/** How long a table without a free number is not searched again. */
const EXHAUSTED_FOR = 1000

export interface Channel {
  readonly number: number
  readonly peer: SocketAddress
  /** Confirmed at least once; only then may data come in on it. */
  isBound: boolean
  /** A bind or refresh waits for its answer. */
  isBinding: boolean
  /** When it was last confirmed, or asked for if it never was. */
  boundAt: number
  /** The latest data since `boundAt`. */
  receivedAt: number | undefined
}

export class Channels {
  readonly #byPeer = new Map<string, Channel>()
  readonly #byNumber = new Map<number, Channel>()
  #next = FIRST_CHANNEL
  #exhaustedUntil = Number.NEGATIVE_INFINITY
  /** No channel needs a refresh earlier. */
  #refreshAt = Number.POSITIVE_INFINITY

  clear(): void {
    this.#byPeer.clear()
    this.#byNumber.clear()
    this.#next = FIRST_CHANNEL
    this.#exhaustedUntil = Number.NEGATIVE_INFINITY
    this.#refreshAt = Number.POSITIVE_INFINITY
  }

  /** The channel to send to `peer` on, which may be one whose bind is still under way; 0 if there is none. */
  numberFor(peer: SocketAddress, now: number): number {
    const channel = this.#byPeer.get(peer.text)
    return channel !== undefined && (channel.isBinding || isAlive(channel, now)) ? channel.number : 0
  }

  /** Whose data came in under this number, and notes that some did; `undefined` if it is not bound. */
  receive(number: number, now: number): SocketAddress | undefined {
    const channel = this.#byNumber.get(number)
    if (channel === undefined || !isAlive(channel, now)) return undefined
    if (channel.receivedAt === undefined) this.#refreshAt = Math.min(this.#refreshAt, channel.boundAt + REFRESH_AFTER)
    channel.receivedAt = now
    return channel.peer
  }

  /**
   * The channel to bind for `peer`: its own again up to 15 minutes after it was bound, else one with a free number.
   * `undefined` if there is nothing to bind, or every number is taken.
   */
  toBind(peer: SocketAddress, now: number): Channel | undefined {
    const known = this.#byPeer.get(peer.text)
    if (known !== undefined) {
      if (known.isBinding || isAlive(known, now)) return undefined
      if (now - known.boundAt < REUSE_AFTER) {
        known.isBinding = true
        return known
      }
      this.remove(known.number)
    }
    const number = this.#freeNumber(now)
    if (number === undefined) return undefined
    const channel: Channel = { number, peer, isBound: false, isBinding: true, boundAt: now, receivedAt: undefined }
    this.#byPeer.set(peer.text, channel)
    this.#byNumber.set(number, channel)
    return channel
  }

  #freeNumber(now: number): number | undefined {
    if (now < this.#exhaustedUntil) return undefined
    for (let tried = FIRST_CHANNEL; tried <= LAST_CHANNEL; tried++) {
      const number = this.#next
      this.#next = number === LAST_CHANNEL ? FIRST_CHANNEL : number + 1
      const holder = this.#byNumber.get(number)
      if (holder === undefined) return number
      if (!holder.isBinding && now - (holder.receivedAt ?? holder.boundAt) >= REUSE_AFTER) {
        this.remove(number)
        return number
      }
    }
    this.#exhaustedUntil = now + EXHAUSTED_FOR
    return undefined
  }

  /** The relay has bound or refreshed it. */
  confirm(number: number, now: number): void {
    const channel = this.#byNumber.get(number)
    if (channel === undefined) return
    channel.isBound = true
    channel.isBinding = false
    channel.boundAt = now
    channel.receivedAt = undefined
  }

  remove(number: number): void {
    const channel = this.#byNumber.get(number)
    if (channel === undefined) return
    this.#byNumber.delete(number)
    this.#byPeer.delete(channel.peer.text)
    this.#exhaustedUntil = Number.NEGATIVE_INFINITY
  }

  /** A channel to refresh, marked as being bound: five minutes old, and used by its peer since. */
  nextRefresh(now: number): Channel | undefined {
    if (now < this.#refreshAt) return undefined
    this.#refreshAt = Number.POSITIVE_INFINITY
    for (const channel of this.#byNumber.values()) {
      if (channel.isBinding || channel.receivedAt === undefined || !isAlive(channel, now)) continue
      const at = channel.boundAt + REFRESH_AFTER
      if (now >= at) {
        channel.isBinding = true
        this.#refreshAt = now // there may be more
        return channel
      }
      this.#refreshAt = Math.min(this.#refreshAt, at)
    }
    return undefined
  }

  nextTimeout(): number {
    return this.#refreshAt
  }
}

const isAlive = (channel: Channel, now: number): boolean => channel.isBound && now - channel.boundAt < LIFETIME
