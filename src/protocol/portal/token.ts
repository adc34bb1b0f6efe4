/** Fits into an HTTP header as it is. */
const usable = /^[\x21-\x7e]+$/

/**
 * The token in a text that somebody pasted: without any whitespace, as the reference client sends it (portal spec section
 * 2.2). `undefined` if nothing is left, or anything that a header cannot hold.
 */
export const tokenIn = (text: string): string | undefined => {
  const token = text.replaceAll(/\s+/g, "")
  return usable.test(token) ? token : undefined
}
