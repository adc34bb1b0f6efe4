import type { GatewayId } from "../portal/types.ts"

/** A session sees few gateways; the portal must not make requests grow without end. */
const CAPACITY = 256

/** Which gateway the client would like best (tunnel spec 5.5): every one that it was ever granted in this session. */
export class GatewayPreferences {
  /** The one granted longest ago first. */
  readonly #known = new Set<GatewayId>()

  learn(gateway: GatewayId): void {
    this.#known.delete(gateway)
    this.#known.add(gateway)
    if (this.#known.size <= CAPACITY) return
    for (const oldest of this.#known) {
      this.#known.delete(oldest)
      return
    }
  }

  /** `favourite` first, then those that are peers now, then by id. */
  order(favourite: GatewayId | undefined, isPeer: (gateway: GatewayId) => boolean): ReadonlyArray<GatewayId> {
    const rank = (gateway: GatewayId): number => gateway === favourite ? 0 : isPeer(gateway) ? 1 : 2
    return [...this.#known].sort((a, b) => rank(a) - rank(b) || (a < b ? -1 : a > b ? 1 : 0))
  }
}
