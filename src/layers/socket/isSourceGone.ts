import { ERRNO } from "../../ffi/linux/libc.ts"

/**
 * Whether a call failed because the local address that was pinned does not exist any more, or there is no route from it
 * (design section 5): look up the route again and retry once.
 */
export const isSourceGone = (code: number): boolean =>
  code === ERRNO.EADDRNOTAVAIL || code === ERRNO.EINVAL || code === ERRNO.ENETUNREACH
