import type { Crypto } from "../crypto.ts"

/** A median deviation below this is noise (milliseconds). */
const MIN_DEVIATION = 2
const DEVIATIONS = 3
const FEW = 2
const FEW_FACTOR = 1.5

const median = (sorted: ReadonlyArray<number>): number => {
  const middle = sorted.length >> 1
  const upper = sorted[middle] ?? 0
  return sorted.length % 2 === 1 ? upper : ((sorted[middle - 1] ?? 0) + upper) / 2
}

/**
 * The round trip up to which a relay is as good as the best ones (connectivity spec 6.10): 1.5 times the smallest of one
 * or two; the median plus three median absolute deviations of more. `rtts` is not empty.
 */
export const rttThreshold = (rtts: ReadonlyArray<number>): number => {
  const sorted = rtts.toSorted((left, right) => left - right)
  if (sorted.length <= FEW) return FEW_FACTOR * (sorted[0] ?? 0)
  const middle = median(sorted)
  const deviations = sorted.map((rtt) => Math.abs(rtt - middle)).toSorted((left, right) => left - right)
  return middle + DEVIATIONS * Math.max(median(deviations), MIN_DEVIATION)
}

/** One of the relays that are good enough, each as likely as the other; `undefined` if none was measured. */
export const pickRelay = <R extends { readonly rtt: number | undefined }>(
  relays: Iterable<R>,
  crypto: Pick<Crypto, "randomBytes">
): R | undefined => {
  const measured: Array<R & { readonly rtt: number }> = []
  for (const relay of relays) if (relay.rtt !== undefined) measured.push(relay as R & { readonly rtt: number })
  if (measured.length === 0) return undefined
  const threshold = rttThreshold(measured.map(({ rtt }) => rtt))
  const good = measured.filter(({ rtt }) => rtt <= threshold)
  return good[new DataView(crypto.randomBytes(4).buffer).getUint32(0) % good.length]
}
