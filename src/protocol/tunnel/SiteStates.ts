import type { Site, SiteId } from "../portal/types.ts"
import type { SiteState } from "./types.ts"

/** How long "offline" is believed, milliseconds. */
const OFFLINE_LIFETIME = 300_000

/** What is known of the sites (tunnel spec 5.6). Unknown sites take no room. */
export class SiteStates {
  readonly #online = new Set<SiteId>()
  /** Until when. */
  readonly #offline = new Map<SiteId, number>()

  set(site: SiteId, state: SiteState, now: number): void {
    this.#online.delete(site)
    this.#offline.delete(site)
    if (state === "Online") this.#online.add(site)
    if (state === "Offline") this.#offline.set(site, now + OFFLINE_LIFETIME)
  }

  get(site: SiteId): SiteState {
    return this.#online.has(site) ? "Online" : this.#offline.has(site) ? "Offline" : "Unknown"
  }

  /** The state of a resource in these sites. */
  combined(sites: ReadonlyArray<Site>): SiteState {
    const states = sites.map(({ id }) => this.get(id))
    if (states.includes("Online")) return "Online"
    return states.length > 0 && states.every((state) => state === "Offline") ? "Offline" : "Unknown"
  }

  /** Forgets all but the sites that `isUsed` knows. */
  retain(isUsed: (site: SiteId) => boolean): void {
    for (const site of this.#online) if (!isUsed(site)) this.#online.delete(site)
    for (const site of this.#offline.keys()) if (!isUsed(site)) this.#offline.delete(site)
  }

  /** Returns whether a site became unknown. */
  handleTimeout(now: number): boolean {
    let changed = false
    for (const [site, until] of this.#offline) {
      if (until <= now) changed = this.#offline.delete(site) || changed
    }
    return changed
  }

  pollTimeout(): number | undefined {
    let next: number | undefined
    for (const until of this.#offline.values()) next = next === undefined || until < next ? until : next
    return next
  }
}
