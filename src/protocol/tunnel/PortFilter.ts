import type { Filter } from "../portal/types.ts"
import { PacketKind } from "../wire/ip.ts"

/** A resource's filters, made for asking once per packet (tunnel spec 6.1). */
export class PortFilter {
  readonly #permitsAll: boolean
  readonly #icmp: boolean
  /** Pairs of first and last port. */
  readonly #tcp: Uint16Array
  readonly #udp: Uint16Array
  constructor(filters: ReadonlyArray<Filter>) {
    this.#permitsAll = filters.length === 0
    this.#icmp = filters.some((filter) => filter.protocol === "icmp")
    this.#tcp = rangesOf(filters, "tcp")
    this.#udp = rangesOf(filters, "udp")
  }
  /** `port` is the destination port; on the way back the source port. */
  permits(kind: PacketKind, port: number): boolean {
    if (this.#permitsAll) return true
    switch (kind) {
      case PacketKind.Tcp:
        return contains(this.#tcp, port)
      case PacketKind.Udp:
        return contains(this.#udp, port)
      case PacketKind.Echo:
      case PacketKind.OtherIcmp:
        return this.#icmp
      case PacketKind.Other:
        return false
    }
  }
}

/** Whether two lists permit the same, apart from overlaps: order and repetition do not matter. */
export const sameFilters = (a: ReadonlyArray<Filter>, b: ReadonlyArray<Filter>): boolean => keyOf(a) === keyOf(b)

const keyOf = (filters: ReadonlyArray<Filter>): string => {
  const texts = filters.map((filter) =>
    filter.protocol === "icmp" ? "icmp" : `${filter.protocol} ${filter.portRangeStart}-${filter.portRangeEnd}`
  )
  return [...new Set(texts)].sort().join()
}

const rangesOf = (filters: ReadonlyArray<Filter>, protocol: "tcp" | "udp"): Uint16Array =>
  Uint16Array.from(
    filters.flatMap((filter) => filter.protocol === protocol ? [filter.portRangeStart, filter.portRangeEnd] : [])
  )

const contains = (ranges: Uint16Array, port: number): boolean => {
  for (let i = 0; i < ranges.length; i += 2) {
    if (port >= (ranges[i] as number) && port <= (ranges[i + 1] as number)) return true
  }
  return false
}

// At the end: the constructor uses what is above.
export const permitAll = new PortFilter([])
