/** Who answers a query on a sentinel, by the decisions of tunnel spec 12.4: the names that metrics use. */
export const dnsAnswerers = ["cache", "device-pool", "resource", "site", "upstream-in-tunnel", "upstream"] as const
export type DnsAnswerer = (typeof dnsAnswerers)[number]

/** Why a query that was passed on got no answer. */
export const dnsFailures = ["timed-out", "failed", "unusable-answer", "unanswered-in-tunnel"] as const
export type DnsFailure = (typeof dnsFailures)[number]

/** Every name is there from the beginning. */
export interface DnsCountsSnapshot {
  /** Queries, by who was to answer. */
  readonly queries: { readonly [answerer in DnsAnswerer]: number }
  readonly failures: { readonly [reason in DnsFailure]: number }
}

/** Counts what became of queries. */
export class DnsCounts {
  readonly #queries: Record<DnsAnswerer, number> = {
    "cache": 0,
    "device-pool": 0,
    "resource": 0,
    "site": 0,
    "upstream-in-tunnel": 0,
    "upstream": 0
  }
  readonly #failures: Record<DnsFailure, number> = {
    "timed-out": 0,
    "failed": 0,
    "unusable-answer": 0,
    "unanswered-in-tunnel": 0
  }

  asked(answerer: DnsAnswerer): void {
    this.#queries[answerer] += 1
  }
  failed(reason: DnsFailure): void {
    this.#failures[reason] += 1
  }
  snapshot(): DnsCountsSnapshot {
    return { queries: { ...this.#queries }, failures: { ...this.#failures } }
  }
}
