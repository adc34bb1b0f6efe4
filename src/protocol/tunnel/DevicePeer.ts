import type { ClientId, Filter, ResourceId } from "../portal/types.ts"
import type { PacketKind } from "../wire/ip.ts"
import { FlowTable } from "./FlowTable.ts"
import type { WaitingPeer } from "./PeerSender.ts"
import { PortFilter } from "./PortFilter.ts"
import type { TunAddresses } from "./TunAddresses.ts"
import type { UniquePacketBuffer } from "./UniquePacketBuffer.ts"

interface InboundGrant {
  readonly resource: ResourceId
  readonly filter: PortFilter
  /** Monotonic milliseconds; infinite for a grant without end. */
  readonly expiresAt: number
}

/** Another client: what it may reach here, and the flows between it and us (tunnel spec 13). */
export class DevicePeer implements WaitingPeer {
  readonly id: ClientId
  readonly addresses: TunAddresses
  /** What its owner calls it. */
  name = ""
  readonly flows = new FlowTable()
  waiting: UniquePacketBuffer | undefined
  waitingControl: Array<Uint8Array> | undefined
  #grants: ReadonlyArray<InboundGrant> = []

  constructor(id: ClientId, addresses: TunAddresses) {
    this.id = id
    this.addresses = addresses
  }

  /** When the next grant ends; infinite if none does. */
  get nextExpiry(): number {
    return this.#grants.reduce((next, { expiresAt }) => Math.min(next, expiresAt), Number.POSITIVE_INFINITY)
  }

  /** Whether the peer may open a flow to a port of ours: if any of its grants permits that. */
  permits(kind: PacketKind, port: number): boolean {
    const grants = this.#grants
    for (let i = 0; i < grants.length; i++) if ((grants[i] as InboundGrant).filter.permits(kind, port)) return true
    return false
  }

  /** In the place of an earlier grant of the same resource. */
  grant(resource: ResourceId, filters: ReadonlyArray<Filter>, expiresAt: number): void {
    this.revoke(resource)
    this.#grants = [...this.#grants, { resource, filter: new PortFilter(filters), expiresAt }]
  }

  setFilters(resource: ResourceId, filters: ReadonlyArray<Filter>): void {
    this.#grants = this.#grants.map((grant) =>
      grant.resource === resource ? { ...grant, filter: new PortFilter(filters) } : grant
    )
  }

  revoke(resource: ResourceId): void {
    this.#grants = this.#grants.filter((grant) => grant.resource !== resource)
  }

  /** Keeps only the grants for which there is an expiry, which is theirs from now on. */
  retain(expiryOf: (resource: ResourceId) => number | undefined): void {
    this.#grants = this.#grants.flatMap((grant) => {
      const expiresAt = expiryOf(grant.resource)
      return expiresAt === undefined ? [] : [{ ...grant, expiresAt }]
    })
  }

  handleTimeout(now: number): void {
    if (this.nextExpiry <= now) this.#grants = this.#grants.filter(({ expiresAt }) => expiresAt > now)
    this.flows.handleTimeout(now)
  }
}
