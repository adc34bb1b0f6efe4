import type { Family } from "../wire/address.ts"
import { PacketKind } from "../wire/ip.ts"

const TCP_TTL = 7_440_000
const OTHER_TTL = 120_000
const SWEEP_INTERVAL = 1000
/** Of one peer, family and protocol. */
const MAX_FLOWS = 16_384

/** Who sent first. */
export const Opener = { Nobody: 0, We: 1, Peer: 2 } as const
export type Opener = (typeof Opener)[keyof typeof Opener]

interface Flow {
  opener: Opener
  lastSeen: number
}

/**
 * Flows between this client and one peer, and who opened each (tunnel spec 13.3). A flow is a family, a protocol and a
 * port on each side, or an echo identifier for both. Look-ups allocate nothing. When there is no room the flow that was
 * opened first is forgotten: whoever opened it opens it again with the next packet.
 */
export class FlowTable {
  readonly #tables: ReadonlyArray<Map<number, Flow>> = Array.from({ length: 6 }, () => new Map<number, Flow>())
  #nextSweep = Number.POSITIVE_INFINITY

  /** When to look for flows that are over; infinite as long as there are none. */
  get nextTimeout(): number {
    return this.#nextSweep
  }

  get size(): number {
    return this.#tables.reduce((sum, table) => sum + table.size, 0)
  }

  /** Whose flow it is; nobody's when it was idle for too long. */
  openerOf(version: Family, kind: PacketKind, localPort: number, peerPort: number, now: number): Opener {
    const flow = this.#table(version, kind)?.get(keyOf(localPort, peerPort))
    return flow === undefined || now - flow.lastSeen >= lifetimeOf(kind) ? Opener.Nobody : flow.opener
  }

  /** Begins a flow, or keeps it from ending. A packet without ports is part of none. */
  record(
    version: Family,
    kind: PacketKind,
    localPort: number,
    peerPort: number,
    opener: Opener,
    now: number
  ): void {
    const table = this.#table(version, kind)
    if (table === undefined) return
    const key = keyOf(localPort, peerPort)
    const known = table.get(key)
    if (known !== undefined) {
      known.opener = opener
      known.lastSeen = now
      return
    }
    if (table.size >= MAX_FLOWS) forgetFirst(table)
    table.set(key, { opener, lastSeen: now })
    this.#nextSweep = Math.min(this.#nextSweep, now + lifetimeOf(kind))
  }

  handleTimeout(now: number): void {
    if (now < this.#nextSweep) return
    let next = Number.POSITIVE_INFINITY
    for (const [index, table] of this.#tables.entries()) {
      const lifetime = lifetimeOf(index % 3 + 1 as PacketKind)
      for (const [key, { lastSeen }] of table) {
        if (now - lastSeen >= lifetime) table.delete(key)
        else next = Math.min(next, lastSeen + lifetime)
      }
    }
    // Flows that end one by one are not worth a look at all the others each time.
    this.#nextSweep = Math.max(next, now + SWEEP_INTERVAL)
  }

  clear(): void {
    for (const table of this.#tables) table.clear()
    this.#nextSweep = Number.POSITIVE_INFINITY
  }

  #table(version: Family, kind: PacketKind): Map<number, Flow> | undefined {
    return kind <= PacketKind.Echo ? this.#tables[(version === 4 ? -1 : 2) + kind] : undefined
  }
}

/** 32 bits with their sign, which V8 keeps unboxed. */
const keyOf = (localPort: number, peerPort: number): number => localPort << 16 | peerPort

const lifetimeOf = (kind: PacketKind): number => kind === PacketKind.Tcp ? TCP_TTL : OTHER_TTL

const forgetFirst = (table: Map<number, Flow>): void => {
  for (const key of table.keys()) {
    table.delete(key)
    return
  }
}
