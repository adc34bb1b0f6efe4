import { type Family, ipFromBytes, SocketAddress } from "../../protocol/wire/address.ts"

const SLOT_BITS = 9
/** Objects remembered behind the table, so that the same address stays the same object; oldest out. */
const KNOWN = 4096
const KEY = 5 // four words of address, one of port

/**
 * Gives the one `SocketAddress` for an address and port as the kernel wrote them, without allocating for those seen
 * lately. For one family.
 */
export class AddressInterner {
  readonly #family: Family
  readonly #keys = new Int32Array(KEY << SLOT_BITS)
  readonly #values: Array<SocketAddress | undefined> = Array.from({ length: 1 << SLOT_BITS }, () => undefined)
  readonly #known = new Map<string, SocketAddress>()
  readonly #bytes = new Uint8Array(16)
  readonly #words = new Int32Array(this.#bytes.buffer)
  #last = 0

  constructor(family: Family) {
    this.#family = family
  }

  /** The address is `words[at]` and, for IPv6, the three words after it, as they lie in memory. */
  get(words: Int32Array, at: number, port: number): SocketAddress {
    const v6 = this.#family === 6
    const a = words[at] as number
    const b = v6 ? words[at + 1] as number : 0
    const c = v6 ? words[at + 2] as number : 0
    const d = v6 ? words[at + 3] as number : 0
    const last = this.#match(this.#last, a, b, c, d, port)
    if (last !== undefined) return last
    const hash = Math.imul(Math.imul(Math.imul(Math.imul(a, 31) + b, 31) + c, 31) + d, 31) + port
    const slot = Math.imul(hash ^ hash >>> 15, 0x9e3779b1) >>> 32 - SLOT_BITS
    this.#last = slot
    return this.#match(slot, a, b, c, d, port) ?? this.#learn(slot, a, b, c, d, port)
  }

  #match(slot: number, a: number, b: number, c: number, d: number, port: number): SocketAddress | undefined {
    const keys = this.#keys
    const key = slot * KEY
    return keys[key] === a && keys[key + 1] === b && keys[key + 2] === c && keys[key + 3] === d &&
        keys[key + 4] === port
      ? this.#values[slot]
      : undefined
  }

  #learn(slot: number, a: number, b: number, c: number, d: number, port: number): SocketAddress {
    this.#words[0] = a
    this.#words[1] = b
    this.#words[2] = c
    this.#words[3] = d
    const fresh = new SocketAddress(ipFromBytes(this.#bytes, 0, this.#family), port)
    const address = this.#known.get(fresh.text) ?? fresh
    if (address === fresh) {
      if (this.#known.size >= KNOWN) {
        for (const oldest of this.#known.keys()) {
          this.#known.delete(oldest)
          break
        }
      }
      this.#known.set(address.text, address)
    }
    this.#keys.set([a, b, c, d, port], slot * KEY)
    this.#values[slot] = address
    return address
  }
}
