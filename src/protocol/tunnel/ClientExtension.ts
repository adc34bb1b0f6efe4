import type { PeerId } from "../node/types.ts"
import type { ClientPush, Resource } from "../portal/types.ts"
import type { IpPacket } from "../wire/ip.ts"

/**
 * Where DNS resources (tunnel spec 11 and 12) and device pools (13) join the client core. Without an extension, resources
 * of those types are listed and nothing more: they route no packet, no sentinel answers, their pushes are counted as
 * `unserved-push`. Calls are made at the step of the spec that each names.
 */
export interface ClientExtension {
  /** A DNS resource or device pool is in the list (5.2); one that changed is removed before. */
  resourceAdded(resource: Resource, now: number): void
  /** Step 1 of 5.3. */
  resourceRemoved(resource: Resource, now: number): void
  /**
   * A packet from the TUN device, after step 5 of 8.1: sentinels (6, 7), client peers (9, 11), and the tables that come
   * before CIDR (6.3 steps 1 and 2). Returns whether it took the packet; it may be gone when the call returns.
   */
  tunInput(packet: IpPacket, now: number): boolean
  /** A decrypted packet before any check (9 steps 1 to 3). Returns whether it took the packet. */
  networkInput(peer: PeerId, packet: IpPacket, now: number): boolean
  /** A push about devices (13.2, 13.4, 12.7). */
  handlePush(push: ClientPush, now: number): void
  /** A peer is gone, with all that hung on it (15.2). */
  peerLost(peer: PeerId, now: number): void
  handleTimeout(now: number): void
  pollTimeout(): number | undefined
}
