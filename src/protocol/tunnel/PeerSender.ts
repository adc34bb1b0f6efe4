import { CIPHER_HEADROOM } from "../crypto.ts"
import { Encapsulated, type NodeApi, type PeerId, type Transmit } from "../node/types.ts"
import type { IpPacket } from "../wire/ip.ts"
import type { DropCounts, DropReason } from "./DropCounts.ts"
import { TransmitQueue } from "./TransmitQueue.ts"
import { bufferedPacket, UniquePacketBuffer } from "./UniquePacketBuffer.ts"

/** Packets that wait for the connection to one peer, and as many control packets. */
const PACKETS_PER_PEER = 128

/** A peer, and what waits for the connection to it. */
export interface WaitingPeer {
  readonly id: PeerId
  /** Packets; routed again when the connection is up. */
  waiting: UniquePacketBuffer | undefined
  /** Packets of our own making; they go out as they are. */
  waitingControl: Array<Uint8Array> | undefined
}

/** Seals packets for peers, and keeps those whose connection is still coming up (tunnel spec 8.4). */
export class PeerSender {
  readonly #node: NodeApi
  readonly #drops: DropCounts
  readonly #transmits = new TransmitQueue()

  constructor(node: NodeApi, drops: DropCounts) {
    this.#node = node
    this.#drops = drops
  }

  /** Whether the packet, sealed in place, is to be sent now: as the node's `transmit` says. */
  send(peer: WaitingPeer, packet: IpPacket, now: number): boolean {
    if (peer.waiting === undefined) {
      const outcome = this.#node.encapsulate(peer.id, packet.buffer, packet.offset, packet.length, now)
      if (outcome === Encapsulated.Sent) return true
      if (outcome !== Encapsulated.StillConnecting) return this.#drop(reasonOf(outcome))
      peer.waiting = new UniquePacketBuffer(PACKETS_PER_PEER)
    }
    if (peer.waiting.push(packet)) this.#drops.add("buffer-full")
    return false
  }

  /** A control packet goes out by itself, now or when the connection is up. */
  sendControl(peer: WaitingPeer, packet: Uint8Array, now: number): void {
    if (peer.waitingControl === undefined) {
      const { bytes, length } = bufferedPacket(packet, 0, packet.length)
      const outcome = this.#node.encapsulate(peer.id, bytes, CIPHER_HEADROOM, length, now)
      if (outcome === Encapsulated.Sent) return this.queue()
      if (outcome !== Encapsulated.StillConnecting) return this.#drops.add(reasonOf(outcome))
      peer.waitingControl = []
    }
    if (peer.waitingControl.includes(packet)) return
    peer.waitingControl.push(packet)
    if (peer.waitingControl.length <= PACKETS_PER_PEER) return
    peer.waitingControl.shift()
    this.#drops.add("buffer-full")
  }

  /** The connection is up. Packets that wait are routed again by the caller. */
  releaseControl(peer: WaitingPeer, now: number): void {
    const waiting = peer.waitingControl ?? []
    peer.waitingControl = undefined
    for (const packet of waiting) this.sendControl(peer, packet, now)
  }

  /** Queues what the node's `transmit` says now; its bytes must be nobody else's. */
  queue(): void {
    if (!this.#transmits.push(this.#node.transmit)) this.#drops.add("transmit-queue-full")
  }

  pollTransmit(): Transmit | undefined {
    return this.#transmits.poll()
  }

  clear(): void {
    this.#transmits.clear()
  }

  #drop(reason: DropReason): false {
    this.#drops.add(reason)
    return false
  }
}

const reasonOf = (outcome: Encapsulated): DropReason =>
  outcome === Encapsulated.Dropped
    ? "no-path"
    : outcome === Encapsulated.UnknownConnection
    ? "not-connected"
    : "no-session"
