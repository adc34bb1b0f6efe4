import type { PeerId } from "../node/types.ts"
import type { ClientPush, Resource } from "../portal/types.ts"
import type { IpPacket } from "../wire/ip.ts"

/**
 * Where device pools (tunnel spec 13) join the client core. Without an extension they route no packet, and their pushes
 * are counted as `unserved-push`; names of dynamic pools are resolved by the core. Calls are made at the step of the spec
 * that each names.
 */
export interface ClientExtension {
  /** A device pool is in the list (5.2); one that changed is removed before. */
  resourceAdded(resource: Resource, now: number): void
  /** Step 1 of 5.3. */
  resourceRemoved(resource: Resource, now: number): void
  /**
   * A packet from the TUN device that is for no sentinel (8.1 step 6): client peers (9, 11), and the table that comes
   * before all others (6.3 step 1). Returns whether it took the packet; it may be gone when the call returns.
   */
  tunInput(packet: IpPacket, now: number): boolean
  /** A decrypted packet before any check (9 steps 2 and 3). Returns whether it took the packet. */
  networkInput(peer: PeerId, packet: IpPacket, now: number): boolean
  /** A push about devices (13.2, 13.4). */
  handlePush(push: ClientPush, now: number): void
  /** A peer is gone, with all that hung on it (15.2). */
  peerLost(peer: PeerId, now: number): void
  handleTimeout(now: number): void
  pollTimeout(): number | undefined
}
