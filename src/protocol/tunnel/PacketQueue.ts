/** The driver empties it after every batch; more refusals than this in one batch are a scan. */
const CAPACITY = 1024

/** Packets of our own making for the TUN device, until the driver polls. */
export class PacketQueue {
  readonly #packets: Array<Uint8Array> = []

  /** Takes over the bytes. Returns false, and keeps nothing, if there is no room. */
  push(packet: Uint8Array): boolean {
    if (this.#packets.length >= CAPACITY) return false
    this.#packets.push(packet)
    return true
  }

  poll(): Uint8Array | undefined {
    return this.#packets.shift()
  }
}
