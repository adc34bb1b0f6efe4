import type { PeerId } from "../node/types.ts"
import type { ResourceId } from "../portal/types.ts"
import type { IpAddress } from "../wire/address.ts"

const TIMEOUT = 10_000
const MAX_RESOLUTIONS = 1000

/** A client's wish that addresses stand for a name of a resource (tunnel spec 14.6). */
export interface DomainSetup {
  readonly client: PeerId
  readonly resource: ResourceId
  /** As the client wrote it. */
  readonly domain: string
  readonly proxyIps: ReadonlyArray<IpAddress>
}

interface Resolution {
  readonly deadline: number
  /** The latest of each client and resource. */
  readonly setups: Map<string, DomainSetup>
}

/** Set-ups that wait for the addresses of their names. A name is resolved once for all who want it meanwhile. */
export class DomainSetups {
  /** By name in lower case; oldest first, so that deadlines ascend. */
  readonly #resolutions = new Map<string, Resolution>()

  /** What is to be done about the name: begin to resolve it, nothing because that has begun, or nothing for want of room. */
  add(setup: DomainSetup, now: number): "Resolve" | "Waiting" | "Full" {
    const name = setup.domain.toLowerCase()
    const known = this.#resolutions.get(name)
    if (known === undefined && this.#resolutions.size >= MAX_RESOLUTIONS) return "Full"
    const resolution = known ?? { deadline: now + TIMEOUT, setups: new Map() }
    this.#resolutions.set(name, resolution)
    resolution.setups.set(`${setup.client} ${setup.resource}`, setup)
    return known === undefined ? "Resolve" : "Waiting"
  }

  /** Those that waited for the name. */
  take(domain: string): ReadonlyArray<DomainSetup> {
    const name = domain.toLowerCase()
    const resolution = this.#resolutions.get(name)
    this.#resolutions.delete(name)
    return [...resolution?.setups.values() ?? []]
  }

  /** Those that have waited for too long. */
  takeExpired(now: number): ReadonlyArray<DomainSetup> {
    const expired: Array<DomainSetup> = []
    for (const [name, { deadline }] of this.#resolutions) {
      if (deadline > now) break
      expired.push(...this.take(name))
    }
    return expired
  }

  get nextDeadline(): number {
    for (const { deadline } of this.#resolutions.values()) return deadline
    return Number.POSITIVE_INFINITY
  }
}
