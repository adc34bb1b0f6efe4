import type { SocketAddress } from "../wire/address.ts"
import { CHANNEL_HEADER_LENGTH, writeChannelHeader } from "../wire/channelData.ts"
import type { AllocationApi, Relays } from "./Relays.ts"
import type { Transmit } from "./types.ts"

/** The driver drains after each call; one that does not loses the oldest. */
const MAX_QUEUED = 1024

/** Datagrams of the node's own making: checks, handshakes and goodbyes, sent directly or through a relay. */
export class Outbox {
  readonly #relays: Relays
  readonly #queue: Array<Transmit> = []

  constructor(relays: Relays) {
    this.#relays = relays
  }

  clear(): void {
    this.#queue.length = 0
  }

  /** Requests to relays go first: a channel is bound before it is used. */
  poll(): Transmit | undefined {
    return this.#relays.pollTransmit() ?? this.#queue.shift()
  }

  add(transmit: Transmit): void {
    if (this.#queue.length >= MAX_QUEUED) this.#queue.shift()
    this.#queue.push(transmit)
  }

  /** From a socket's address of ours, or through the relay that holds `source`. Returns whether it leaves. */
  send(
    source: SocketAddress,
    relayed: boolean,
    destination: SocketAddress,
    message: Uint8Array,
    now: number
  ): boolean {
    if (relayed) return this.sendRelayed(this.#relays.holding(source), destination, message, now)
    this.add({ source, destination, ecn: 0, buffer: message, offset: 0, length: message.length })
    return true
  }

  /** Returns whether it leaves: not if the relay is gone, or the channel is only being asked for. */
  sendRelayed(allocation: AllocationApi | undefined, peer: SocketAddress, message: Uint8Array, now: number): boolean {
    const channel = allocation?.channelTo(peer, now) ?? 0
    const server = allocation?.server
    if (server === undefined || channel === 0) return false
    const buffer = new Uint8Array(CHANNEL_HEADER_LENGTH + message.length)
    writeChannelHeader(buffer, 0, channel, message.length)
    buffer.set(message, CHANNEL_HEADER_LENGTH)
    this.add({ source: undefined, destination: server, ecn: 0, buffer, offset: 0, length: buffer.length })
    return true
  }
}
