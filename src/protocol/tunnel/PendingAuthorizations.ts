import type { ResourceId } from "../portal/types.ts"
import type { IpPacket } from "../wire/ip.ts"
import { type BufferedPacket, UniquePacketBuffer } from "./UniquePacketBuffer.ts"

/** Between two intents for the same target, milliseconds. */
export const INTENT_COOL_DOWN = 2000
/** How long after an intent its target is still wanted without a word from traffic, milliseconds. */
const STILL_WANTED = 60_000
const PACKETS_PER_TARGET = 128
/** Over all targets: a scan of many resources must not fill the memory. */
const PACKETS = 4096

interface Pending {
  readonly packets: UniquePacketBuffer
  lastIntentAt: number
}

/**
 * Resources that traffic asked for and the portal has not yet granted, with that traffic (tunnel spec 8.3). While the
 * portal is there nothing retries by itself: each packet is a chance to ask again, at most every 2 s.
 */
export class PendingAuthorizations {
  readonly #byResource = new Map<ResourceId, Pending>()
  readonly #intents = new Set<ResourceId>()
  #packets = 0

  /** What is waited for. */
  get targets(): ReadonlyArray<ResourceId> {
    return [...this.#byResource.keys()]
  }

  get size(): number {
    return this.#byResource.size
  }

  has(resource: ResourceId): boolean {
    return this.#byResource.has(resource)
  }

  /** Keeps a packet, if there is one, and asks if it is time. Returns false if a packet was lost for want of room. */
  trigger(resource: ResourceId, packet: IpPacket | undefined, now: number): boolean {
    let pending = this.#byResource.get(resource)
    if (pending === undefined) {
      pending = { packets: new UniquePacketBuffer(PACKETS_PER_TARGET), lastIntentAt: Number.NEGATIVE_INFINITY }
      this.#byResource.set(resource, pending)
    }
    const isKept = packet === undefined || this.#keep(pending.packets, packet)
    if (now - pending.lastIntentAt >= INTENT_COOL_DOWN) {
      pending.lastIntentAt = now
      this.#intents.add(resource)
    }
    return isKept
  }

  /** Ends the wait. Returns what was kept, oldest first; `undefined` if nobody was waiting. */
  remove(resource: ResourceId): ReadonlyArray<BufferedPacket> | undefined {
    const pending = this.#byResource.get(resource)
    if (pending === undefined) return undefined
    this.#byResource.delete(resource)
    this.#intents.delete(resource)
    this.#packets -= pending.packets.size
    return pending.packets.take()
  }

  /** The portal is back, and may not have got or not have answered what it was asked for: asks it at once. */
  askAgain(now: number): void {
    this.#intents.clear()
    for (const [resource, pending] of this.#byResource) {
      if (now - pending.lastIntentAt > STILL_WANTED) continue
      pending.lastIntentAt = now
      this.#intents.add(resource)
    }
  }

  /** A resource to ask the portal for. */
  pollIntent(): ResourceId | undefined {
    for (const resource of this.#intents) {
      this.#intents.delete(resource)
      return resource
    }
    return undefined
  }

  #keep(packets: UniquePacketBuffer, packet: IpPacket): boolean {
    if (this.#packets >= PACKETS && packets.size === 0) return false
    const before = packets.size
    let isLost = packets.push(packet)
    if (this.#packets + packets.size - before > PACKETS) isLost = packets.dropOldest()
    this.#packets += packets.size - before
    return !isLost
  }
}
