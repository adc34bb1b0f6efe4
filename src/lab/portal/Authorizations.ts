/** Requests that wait for a gateway's word, and the grants that came of them (portal spec section 10). */
import type { DeviceRecord } from "./Devices.ts"
import type { Session } from "./Session.ts"

const CONFIRMATION_TIMEOUT = 15_000
/** The oldest go first; a lab has a handful. */
const MAX_REFS = 4096
const MAX_GRANTS = 4096

export interface Attempt {
  readonly ref: string
  /** The channel that asked; nobody else hears the answer. */
  readonly client: Session
  readonly gateway: DeviceRecord
  readonly resourceId: string
  readonly deadline: number
  /** The payload for the client. */
  readonly answer: unknown
  /** The gateway has said yes. */
  confirmed: boolean
}

export interface Grant {
  readonly clientId: string
  readonly gatewayId: string
  readonly resourceId: string
  /** Unix seconds. */
  readonly expiresAt: number
}

export class Authorizations {
  readonly #byRef = new Map<string, Attempt>()
  /** By channel and resource: a newer request replaces an older one. */
  readonly #pending = new Map<string, Attempt>()
  readonly #grants = new Map<string, Grant>()
  /** Clients and gateways that were ever told of each other. */
  readonly #pairs = new Map<string, true>()

  get pending(): ReadonlyArray<Attempt> {
    return [...this.#pending.values()]
  }

  get grants(): ReadonlyArray<Grant> {
    return [...this.#grants.values()]
  }

  begin(attempt: Omit<Attempt, "confirmed" | "deadline">, expiresAt: number, now: number): void {
    const { client, gateway, ref, resourceId } = attempt
    const full: Attempt = { ...attempt, deadline: now + CONFIRMATION_TIMEOUT, confirmed: false }
    putWithin(this.#byRef, MAX_REFS, ref, full)
    this.#pending.set(`${client.id}/${resourceId}`, full)
    const clientId = client.device?.id ?? ""
    const grant: Grant = { clientId, gatewayId: gateway.id, resourceId, expiresAt }
    putWithin(this.#grants, MAX_GRANTS, `${gateway.id}/${clientId}/${resourceId}`, grant)
  }

  /** The attempt that a gateway means, which may be over; `undefined` for a ref that it was not given. */
  confirm(ref: string, gateway: DeviceRecord): Attempt | undefined {
    const attempt = this.#byRef.get(ref)
    if (attempt === undefined || attempt.gateway !== gateway) return undefined
    putWithin(this.#pairs, MAX_GRANTS, `${attempt.client.device?.id}/${gateway.id}`, true)
    return attempt
  }

  /** Whether a gateway ever confirmed this client; before that neither has candidates for the other. */
  haveMet(clientId: string, gatewayId: string): boolean {
    return this.#pairs.has(`${clientId}/${gatewayId}`)
  }

  isPending(attempt: Attempt): boolean {
    return this.#pending.get(`${attempt.client.id}/${attempt.resourceId}`) === attempt
  }

  settle(attempt: Attempt): void {
    if (this.isPending(attempt)) this.#pending.delete(`${attempt.client.id}/${attempt.resourceId}`)
  }

  takeTimedOut(now: number): ReadonlyArray<Attempt> {
    const over = this.pending.filter(({ deadline }) => now >= deadline)
    for (const attempt of over) this.settle(attempt)
    return over
  }

  forgetSession(session: Session): void {
    for (const attempt of this.pending) if (attempt.client === session) this.settle(attempt)
  }

  pollTimeout(): number | undefined {
    return this.pending.reduce<number | undefined>(
      (next, { deadline }) => Math.min(next ?? deadline, deadline),
      undefined
    )
  }

  /** Removes grants and returns them. */
  revoke(isMeant: (grant: Grant) => boolean): ReadonlyArray<Grant> {
    const revoked: Array<Grant> = []
    for (const [key, grant] of this.#grants) {
      if (!isMeant(grant)) continue
      this.#grants.delete(key)
      revoked.push(grant)
    }
    return revoked
  }
}

const putWithin = <A>(map: Map<string, A>, limit: number, key: string, value: A): void => {
  map.delete(key)
  map.set(key, value)
  if (map.size <= limit) return
  for (const oldest of map.keys()) {
    map.delete(oldest)
    return
  }
}
