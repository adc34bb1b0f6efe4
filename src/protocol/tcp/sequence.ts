/**
 * Sequence numbers are 32 bits and wrap (RFC 9293 section 3.4). Here they are signed integers, so that the difference of
 * two that are less than 2^31 apart has the right sign.
 */

/** How far `a` is ahead of `b`; negative if it is behind. */
export const distance = (a: number, b: number): number => (a - b) | 0

export const advance = (sequence: number, count: number): number => (sequence + count) | 0
