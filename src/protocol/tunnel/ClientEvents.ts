import { upstreamKey } from "../dns/upstreams.ts"
import type { ClientRequest, ResourceId } from "../portal/types.ts"
import { formatNetwork } from "../wire/address.ts"
import { CandidateBatches } from "./CandidateBatches.ts"
import { Tracked } from "./Tracked.ts"
import type { ClientTunnelEvent, Reachable, TunConfig } from "./types.ts"

export interface ClientEventSources {
  /** `undefined` before the portal has named addresses. */
  readonly config: () => TunConfig | undefined
  readonly resources: () => Reachable
  /** The next resource or device to ask the portal for. */
  readonly authorization: () => ClientRequest | undefined
}

/** What the client's core has to tell its driver, in the order of tunnel spec 3.2. */
export class ClientEvents {
  readonly config: Tracked<TunConfig>
  readonly resources: Tracked<Reachable>
  /** For gateways. */
  readonly candidates = new CandidateBatches()
  /** For other clients. */
  readonly deviceCandidates = new CandidateBatches()
  readonly #authorization: () => ClientRequest | undefined
  readonly #queue: Array<ClientTunnelEvent> = []
  readonly #notified = { AllGatewaysOffline: new Set<ResourceId>(), GatewayVersionMismatch: new Set<ResourceId>() }

  constructor(sources: ClientEventSources) {
    this.config = new Tracked(sources.config, isSameConfig)
    this.resources = new Tracked(sources.resources, isSameReachable)
    this.#authorization = sources.authorization
  }

  push(event: ClientTunnelEvent): void {
    this.#queue.push(event)
  }

  request(request: ClientRequest): void {
    this.#queue.push({ _tag: "Request", request })
  }

  /** Says it once per resource. */
  notify(tag: "AllGatewaysOffline" | "GatewayVersionMismatch", resourceId: ResourceId): void {
    if (this.#notified[tag].has(resourceId)) return
    this.#notified[tag].add(resourceId)
    this.#queue.push({ _tag: tag, resourceId })
  }

  /** The resource is no more. */
  forget(resource: ResourceId): void {
    this.#notified.AllGatewaysOffline.delete(resource)
    this.#notified.GatewayVersionMismatch.delete(resource)
  }

  /** Candidates stay here while the portal is away. */
  holdCandidates(): void {
    this.candidates.hold()
    this.deviceCandidates.hold()
  }

  releaseCandidates(): void {
    this.candidates.release()
    this.deviceCandidates.release()
  }

  poll(): ClientTunnelEvent | undefined {
    const config = this.config.poll()
    if (config !== undefined) return { _tag: "TunConfigUpdated", config }
    const reachable = this.resources.poll()
    if (reachable !== undefined) return { _tag: "ResourcesUpdated", ...reachable }
    const request = this.#authorization()
    if (request !== undefined) return { _tag: "Request", request }
    // Only now, when the turn is over: all that it brought for a peer goes out as one message.
    this.#queueCandidates()
    return this.#queue.shift()
  }

  #queueCandidates(): void {
    for (const { candidates, kind, peer } of this.candidates.take()) {
      this.request(
        kind === "added"
          ? { _tag: "NewGatewayIceCandidates", gatewayId: peer, candidates }
          : { _tag: "InvalidateGatewayIceCandidates", gatewayId: peer, candidates }
      )
    }
    for (const { candidates, kind, peer } of this.deviceCandidates.take()) {
      this.request(
        kind === "added"
          ? { _tag: "NewClientIceCandidates", clientId: peer, candidates }
          : { _tag: "InvalidateClientIceCandidates", clientId: peer, candidates }
      )
    }
  }
}

const isSameConfig = (a: TunConfig, b: TunConfig): boolean =>
  a.ipv4 === b.ipv4 && a.ipv6 === b.ipv6 && a.searchDomain === b.searchDomain && routesKey(a) === routesKey(b) &&
  dnsKey(a) === dnsKey(b)

const routesKey = (config: TunConfig): string => config.routes.map(formatNetwork).sort().join()

const dnsKey = (config: TunConfig): string =>
  Array.from(config.dnsBySentinel, ([sentinel, upstream]) => `${sentinel} ${upstreamKey(upstream)}`).join()

const isSameReachable = (a: Reachable, b: Reachable): boolean => JSON.stringify(a) === JSON.stringify(b)
