import type { Crypto } from "../crypto.ts"

const MASK = 0xff_ffff
const POLYNOMIAL = 0xd8_0000

/**
 * Unique 24-bit numbers in an order that looks random: the upper bits of every session index of a tunnel (connectivity
 * spec 11.3). A linear feedback shift register passes every value but zero once.
 */
export class IndexAllocator {
  readonly #first: number
  readonly #mask: number
  #state: number
  #exhausted = false

  constructor(crypto: Pick<Crypto, "randomBytes">) {
    const [a = 0, b = 0, c = 0, d = 0, e = 0, f = 0] = crypto.randomBytes(6)
    const seed = a << 16 | b << 8 | c
    this.#first = seed === 0 ? 1 : seed
    this.#state = this.#first
    this.#mask = d << 16 | e << 8 | f
  }

  /** The next number; `undefined` after 2^24 - 1 of them, when a node cannot make connections any more. */
  next(): number | undefined {
    if (this.#exhausted) return undefined
    const value = this.#state - 1
    this.#state = this.#state >> 1 ^ ((this.#state & 1) === 0 ? 0 : POLYNOMIAL)
    this.#exhausted = this.#state === this.#first
    return (value ^ this.#mask) & MASK
  }
}
