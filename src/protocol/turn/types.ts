import type { SocketAddress } from "../wire/address.ts"

/** A candidate that an allocation found (connectivity spec 8.1). */
export interface GatheredCandidate {
  readonly kind: "host" | "srflx" | "relay"
  readonly address: SocketAddress
  /** The socket's address; for a relayed candidate the one that reaches the relay. */
  readonly local: SocketAddress
}

export type AllocationEvent =
  | { readonly _tag: "NewCandidate"; readonly candidate: GatheredCandidate }
  | { readonly _tag: "InvalidatedCandidate"; readonly candidate: GatheredCandidate }

/**
 * Why a relay is of no use any more (connectivity spec 6.9). `no-response`: it never answered or fell silent, or what it
 * says cannot be verified with our credentials. `bad-credentials`: it refused them. `protocol-failure`: it does not
 * understand us.
 */
export type FreeReason = "no-response" | "bad-credentials" | "protocol-failure"
