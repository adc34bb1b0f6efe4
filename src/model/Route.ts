import type { IpAddress, IpNetwork, SocketAddress } from "../protocol/wire/address.ts"

export type { IpAddress, IpNetwork, SocketAddress }

/** How a datagram to `destination` leaves this machine outside the tunnel (host spec section 11.1). */
export interface Route {
  readonly destination: IpAddress
  /** The local address to send from. */
  readonly source: IpAddress
  readonly interfaceIndex: number
  readonly interfaceName: string
  /** Absent if the destination is on-link or local. */
  readonly nextHop?: IpAddress | undefined
  /** Length of the matching prefix; 32 or 128 for a local address. */
  readonly prefixLength: number
  /** Route metric, plus the interface metric on Windows. */
  readonly metric: number
  /** Routing table (Linux). */
  readonly table?: number | undefined
}

/** A route that was considered; `rejected` says why it lost, absent on the winner. */
export interface RouteCandidate {
  readonly interfaceName: string
  readonly interfaceIndex: number
  readonly source?: IpAddress | undefined
  readonly nextHop?: IpAddress | undefined
  readonly prefixLength?: number | undefined
  readonly metric?: number | undefined
  readonly table?: number | undefined
  readonly rejected?: string | undefined
}

export interface RouteExplanation {
  readonly destination: IpAddress
  readonly chosen: Route | undefined
  /** The system's own word for why nothing was chosen, such as `ENETUNREACH`. */
  readonly reason?: string | undefined
  readonly candidates: ReadonlyArray<RouteCandidate>
}
