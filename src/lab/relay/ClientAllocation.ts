import type { Family, SocketAddress } from "../../protocol/wire/address.ts"

const CHANNEL_LIFETIME = 10 * 60_000
const COOL_DOWN = 5 * 60_000

export const FIRST_CHANNEL = 0x4000
export const LAST_CHANNEL = 0x4fff

interface Channel {
  readonly number: number
  readonly peer: SocketAddress
  boundAt: number
}

/** What a relay holds for one client: a port per family, and channels behind it (connectivity spec section 7). */
export class ClientAllocation {
  readonly client: SocketAddress
  readonly username: string
  readonly port: number
  readonly families: ReadonlyArray<Family>
  expiresAt: number
  readonly #byNumber = new Map<number, Channel>()
  readonly #byPeer = new Map<string, Channel>()

  constructor(fields: {
    readonly client: SocketAddress
    readonly username: string
    readonly port: number
    readonly families: ReadonlyArray<Family>
    readonly expiresAt: number
  }) {
    this.client = fields.client
    this.username = fields.username
    this.port = fields.port
    this.families = fields.families
    this.expiresAt = fields.expiresAt
  }

  get channels(): number {
    return this.#byNumber.size
  }

  /** Binds or refreshes; false if the number or the peer is taken, or was less than five minutes after its end. */
  bind(number: number, peer: SocketAddress, now: number): boolean {
    this.#forgetCooled(this.#byNumber.get(number), now)
    this.#forgetCooled(this.#byPeer.get(peer.text), now)
    const known = this.#byNumber.get(number)
    if (known !== this.#byPeer.get(peer.text)) return false
    if (known === undefined) {
      const channel: Channel = { number, peer, boundAt: now }
      this.#byNumber.set(number, channel)
      this.#byPeer.set(peer.text, channel)
    } else {
      known.boundAt = now
    }
    return true
  }

  #forgetCooled(channel: Channel | undefined, now: number): void {
    if (channel === undefined || now - channel.boundAt < CHANNEL_LIFETIME + COOL_DOWN) return
    this.#byNumber.delete(channel.number)
    this.#byPeer.delete(channel.peer.text)
  }

  /** The peer of a bound channel. */
  peerOf(number: number, now: number): SocketAddress | undefined {
    const channel = this.#byNumber.get(number)
    return channel !== undefined && now - channel.boundAt < CHANNEL_LIFETIME ? channel.peer : undefined
  }

  /** The bound channel of exactly this peer. */
  channelOf(peer: SocketAddress, now: number): number | undefined {
    const channel = this.#byPeer.get(peer.text)
    return channel !== undefined && now - channel.boundAt < CHANNEL_LIFETIME ? channel.number : undefined
  }
}
