import type { Crypto } from "../../protocol/crypto.ts"

const USES = 10_000
/** Clients whose nonces are remembered; beyond that the oldest has to ask for another one. */
const MAX_CLIENTS = 10_000
const UUID = /^[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}$/i

export const isUuid = (text: string): boolean => UUID.test(text)

const makeUuid = (crypto: Pick<Crypto, "randomBytes">): string => {
  const bytes = crypto.randomBytes(16)
  bytes[6] = (bytes[6] as number) & 0x0f | 0x40
  bytes[8] = (bytes[8] as number) & 0x3f | 0x80
  const hex = Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("")
  return `${hex.slice(0, 8)}-${hex.slice(8, 12)}-${hex.slice(12, 16)}-${hex.slice(16, 20)}-${hex.slice(20)}`
}

/** One nonce per client `ip:port`, good for 10 000 requests, handed out again as long as it is good. */
export class Nonces {
  readonly #crypto: Pick<Crypto, "randomBytes">
  readonly #byClient = new Map<string, { readonly nonce: string; left: number }>()

  constructor(crypto: Pick<Crypto, "randomBytes">) {
    this.#crypto = crypto
  }

  issue(client: string): string {
    const known = this.#byClient.get(client)
    if (known !== undefined && known.left > 0) return known.nonce
    const nonce = makeUuid(this.#crypto)
    this.#byClient.delete(client)
    this.#byClient.set(client, { nonce, left: USES })
    if (this.#byClient.size > MAX_CLIENTS) {
      for (const oldest of this.#byClient.keys()) {
        this.#byClient.delete(oldest)
        break
      }
    }
    return nonce
  }

  /** Whether the nonce is this client's and has uses left, of which this is one. */
  use(client: string, nonce: string): boolean {
    const known = this.#byClient.get(client)
    if (known === undefined || known.nonce !== nonce || known.left === 0) return false
    known.left -= 1
    return true
  }

  clear(): void {
    this.#byClient.clear()
  }
}
