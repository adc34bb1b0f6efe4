/** Why a packet or datagram went no further (tunnel spec 8.2 and more): the names that metrics use. */
export const dropReasons = [
  "malformed-packet",
  "unexpected-control-packet",
  "malformed-control-packet",
  "multicast",
  "no-interface",
  "not-tunnel-source",
  "packet-to-self",
  "sentinel-without-dns",
  "no-dns-query",
  "dns-overload",
  "unsupported-protocol",
  "outbound-icmp-error",
  "unknown-resource",
  "prohibited",
  "unreachable-net",
  "expired-translation",
  "translations-exhausted",
  "not-authorized",
  "buffer-full",
  "not-connected",
  "no-session",
  "no-path",
  "no-peer-state",
  "not-allowed",
  "not-a-peer",
  "unreadable-datagram",
  "transmit-queue-full",
  "tun-queue-full",
  "grant-of-unknown-resource",
  "grant-without-request",
  "no-relays",
  "closed"
] as const
export type DropReason = (typeof dropReasons)[number]

export class DropCounts {
  readonly #counts = Object.fromEntries(dropReasons.map((reason) => [reason, 0])) as Record<DropReason, number>
  add(reason: DropReason): void {
    this.#counts[reason] += 1
  }
  /** Those that happened at all. */
  snapshot(): { readonly [reason: string]: number } {
    return Object.fromEntries(Object.entries(this.#counts).filter(([, count]) => count > 0))
  }
}
