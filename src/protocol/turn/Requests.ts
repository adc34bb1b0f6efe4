/** Requests in flight to one relay: transmissions at 0, 1, 2.5 and 4.75 s, given up at 8.125 s (connectivity spec 6.5). */
import type { SocketAddress } from "../wire/address.ts"

const FIRST_INTERVAL = 1000
const FACTOR = 1.5
const TRANSMISSIONS = 4

export type AuthenticatedKind =
  | { readonly _tag: "Allocate" }
  | { readonly _tag: "Refresh"; readonly remove: boolean }
  | { readonly _tag: "ChannelBind"; readonly number: number; readonly peer: SocketAddress }
export type RequestKind = { readonly _tag: "Binding" } | AuthenticatedKind

export interface RequestOptions {
  /** One shot: given up after a second. */
  readonly once?: boolean
  /** How often the relay has asked to sign this request anew. */
  readonly challenges?: number
}

export interface Request {
  readonly kind: RequestKind
  readonly destination: SocketAddress
  readonly once: boolean
  readonly challenges: number
  readonly firstSentAt: number
  /** The bytes of a Binding request, which are sent again as they are. */
  bytes: Uint8Array | undefined
  /** One per transmission of an authenticated request: each is signed under a new transaction id. */
  readonly keys: Array<string>
  transmissions: number
  interval: number
  dueAt: number
}

export interface Transmission {
  readonly request: Request
  readonly withNonce: boolean
}

export class Requests {
  readonly #byKey = new Map<string, Transmission>()
  readonly #requests = new Set<Request>()

  get size(): number {
    return this.#requests.size
  }

  has(test: (request: Request) => boolean): boolean {
    for (const request of this.#requests) if (test(request)) return true
    return false
  }

  /** Counts as transmitted for the first time. */
  start(kind: RequestKind, destination: SocketAddress, now: number, options: RequestOptions): Request {
    const request: Request = {
      kind,
      destination,
      once: options.once ?? false,
      challenges: options.challenges ?? 0,
      firstSentAt: now,
      bytes: undefined,
      keys: [],
      transmissions: 1,
      interval: FIRST_INTERVAL,
      dueAt: now + FIRST_INTERVAL
    }
    this.#requests.add(request)
    return request
  }

  /** Knows the request by one more transaction id; an answer to any of its transmissions will do. */
  register(request: Request, key: string, withNonce: boolean): void {
    request.keys.push(key)
    this.#byKey.set(key, { request, withNonce })
  }

  find(key: string): Transmission | undefined {
    return this.#byKey.get(key)
  }

  remove(request: Request): void {
    this.#requests.delete(request)
    for (const key of request.keys) this.#byKey.delete(key)
  }

  clear(): void {
    this.#requests.clear()
    this.#byKey.clear()
  }

  /** A request that is due, moved to its next step: to be sent again, or given up, which forgets it. */
  nextDue(now: number): { readonly request: Request; readonly isGivenUp: boolean } | undefined {
    for (const request of this.#requests) {
      if (request.dueAt > now) continue
      if (request.once || request.transmissions >= TRANSMISSIONS) {
        this.remove(request)
        return { request, isGivenUp: true }
      }
      request.transmissions += 1
      request.interval *= FACTOR
      request.dueAt = now + request.interval // of a tick that came late, too: an answer needs its time
      return { request, isGivenUp: false }
    }
    return undefined
  }

  nextTimeout(): number {
    let next = Number.POSITIVE_INFINITY
    for (const { dueAt } of this.#requests) next = Math.min(next, dueAt)
    return next
  }
}
