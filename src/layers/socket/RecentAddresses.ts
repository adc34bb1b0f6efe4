import { memoryAddress } from "../../ffi/linux/libc.ts"

const KEPT = 8

/**
 * The memory addresses of the arrays asked about lately: datagrams live in few arrays, and asking costs as much as an
 * FFI call. It keeps those arrays alive, so that the addresses stay right.
 */
export class RecentAddresses {
  readonly #arrays: Array<Uint8Array> = Array.from({ length: KEPT }, () => new Uint8Array(0))
  readonly #addresses = new Float64Array(KEPT)
  #latest = 0
  #oldest = 0

  of(array: Uint8Array): number {
    if (this.#arrays[this.#latest] === array) return this.#addresses[this.#latest] as number
    for (let i = 0; i < KEPT; i++) {
      if (this.#arrays[i] !== array) continue
      this.#latest = i
      return this.#addresses[i] as number
    }
    const slot = this.#oldest
    this.#oldest = (slot + 1) % KEPT
    this.#latest = slot
    this.#arrays[slot] = array
    return this.#addresses[slot] = memoryAddress(array)
  }
}
