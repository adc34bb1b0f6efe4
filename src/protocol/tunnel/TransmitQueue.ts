import type { Transmit } from "../node/types.ts"

/** The driver empties it after every call; one release of every buffer of a peer fits. */
const CAPACITY = 1024

/** Datagrams sealed outside the packet path, in buffers of their own, until the driver polls. */
export class TransmitQueue {
  #queue: Array<Transmit> = []

  /** Takes over what the node's `transmit` says now; the bytes must stay. Returns false if an older one was lost. */
  push(transmit: Transmit): boolean {
    const { buffer, destination, ecn, length, offset, source } = transmit
    this.#queue.push({ buffer, destination, ecn, length, offset, source })
    if (this.#queue.length <= CAPACITY) return true
    this.#queue.shift()
    return false
  }

  poll(): Transmit | undefined {
    return this.#queue.length === 0 ? undefined : this.#queue.shift()
  }

  clear(): void {
    this.#queue = []
  }
}
