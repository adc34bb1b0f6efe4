import { proxyAddresses } from "../dns/proxyAddresses.ts"
import { type NameRecord, supports } from "../dns/ResourceResolver.ts"
import type { DnsResource } from "../portal/types.ts"
import type { IpPacket } from "../wire/ip.ts"
import type { ClientResource } from "./ClientResource.ts"
import { makeControlPacket } from "./controlPacket.ts"
import type { GatewayPeer } from "./GatewayPeer.ts"
import { type BufferedPacket, UniquePacketBuffer } from "./UniquePacketBuffer.ts"

/** Between two packets that tell a gateway the same, milliseconds. */
const RESEND_AFTER = 2000
const PACKETS_PER_ENTRY = 32

export type ResourceName = NameRecord<ClientResource>

/** What one gateway knows of one name as part of one resource. */
interface Entry {
  readonly record: ResourceName
  readonly resource: ClientResource
  readonly gateway: GatewayPeer
  /** The control packet; the addresses of a name never change. */
  readonly assignedIps: Uint8Array
  /** `Failed`: the gateway said that it cannot. */
  state: "Pending" | "Confirmed" | "Failed"
  sentAt: number
  /** Packets wait only as long as the gateway never knew the name. */
  waiting: UniquePacketBuffer | undefined
}

/**
 * Tells gateways which addresses stand for which names, and holds packets back until they know (tunnel spec 11).
 * Applications ask again every second, because answers live no longer; each time the gateway is told again and looks
 * the name up again, while packets go on.
 */
export class DnsResourceNat {
  readonly #entries = new Map<ResourceName, ReadonlyArray<Entry>>()
  readonly #send: (gateway: GatewayPeer, packet: Uint8Array, now: number) => void

  /** `send` gets control packets, now or when the connection is up. */
  constructor(send: (gateway: GatewayPeer, packet: Uint8Array, now: number) => void) {
    this.#send = send
  }

  /** Somebody asked for the name: gateways that the name's resources are reached through look it up again. */
  queried(record: ResourceName, now: number): void {
    for (const { target } of record.assignments) {
      if (target?.gateway === undefined) continue
      const entry = this.#find(record, target, target.gateway)
      if (entry === undefined) this.#create(record, target, target.gateway, now)
      else if (entry.state === "Pending") this.#sendIfDue(entry, now)
      else {
        entry.waiting = entry.state === "Failed" ? new UniquePacketBuffer(PACKETS_PER_ENTRY) : undefined
        entry.state = "Pending"
        this.#tell(entry, now)
      }
    }
  }

  /** The resource is reached through its gateway now, which is told the names at once: who only receives sends nothing. */
  granted(names: Iterable<ResourceName>, resource: ClientResource, now: number): void {
    const { gateway } = resource
    if (gateway === undefined) return
    for (const record of names) {
      const entry = this.#find(record, resource, gateway)
      if (entry === undefined) this.#create(record, resource, gateway, now)
      else if (entry.state === "Pending") this.#sendIfDue(entry, now)
    }
  }

  /** Whether a packet for the name can be sent to the gateway now; else it is kept. */
  passes(record: ResourceName, resource: ClientResource, gateway: GatewayPeer, packet: IpPacket, now: number): boolean {
    const entry = this.#find(record, resource, gateway) ?? this.#create(record, resource, gateway, now)
    if (entry.state !== "Pending") return true
    this.#sendIfDue(entry, now)
    if (entry.waiting === undefined) return true
    entry.waiting.push(packet)
    return false
  }

  /** The gateway's word on a name. Returns the packets that can go now. */
  handleStatus(
    record: ResourceName,
    resource: ClientResource,
    gateway: GatewayPeer,
    isActive: boolean
  ): ReadonlyArray<BufferedPacket> {
    const entry = this.#find(record, resource, gateway)
    if (entry === undefined) return []
    entry.state = isActive ? "Confirmed" : "Failed"
    const { waiting } = entry
    entry.waiting = undefined
    return isActive ? waiting?.take() ?? [] : []
  }

  /** Whether the gateway may send from the name's addresses. */
  isAllowedSource(record: ResourceName, gateway: GatewayPeer): boolean {
    return this.#entries.get(record)?.some((entry) => entry.gateway === gateway) ?? false
  }

  forgetGateway(gateway: GatewayPeer): void {
    this.#removeWhere((entry) => entry.gateway === gateway)
  }

  forgetResource(resource: ClientResource): void {
    this.#removeWhere((entry) => entry.resource === resource)
  }

  #find(record: ResourceName, resource: ClientResource, gateway: GatewayPeer): Entry | undefined {
    const entries = this.#entries.get(record)
    if (entries === undefined) return undefined
    for (let i = 0; i < entries.length; i++) {
      const entry = entries[i] as Entry
      if (entry.resource === resource && entry.gateway === gateway) return entry
    }
    return undefined
  }

  #create(record: ResourceName, resource: ClientResource, gateway: GatewayPeer, now: number): Entry {
    const { ipStack } = resource.resource as DnsResource
    const assignedIps = makeControlPacket({
      _tag: "AssignedIps",
      resource: resource.id,
      domain: record.name,
      proxyIps: ([4, 6] as const).flatMap((family) =>
        supports(ipStack, family) ? proxyAddresses(record.number, family) : []
      )
    })
    const entry: Entry = {
      record,
      resource,
      gateway,
      assignedIps,
      state: "Pending",
      sentAt: now,
      waiting: new UniquePacketBuffer(PACKETS_PER_ENTRY)
    }
    this.#entries.set(record, [...this.#entries.get(record) ?? [], entry])
    this.#tell(entry, now)
    return entry
  }

  #sendIfDue(entry: Entry, now: number): void {
    if (now - entry.sentAt >= RESEND_AFTER) this.#tell(entry, now)
  }

  #tell(entry: Entry, now: number): void {
    entry.sentAt = now
    this.#send(entry.gateway, entry.assignedIps, now)
  }

  #removeWhere(predicate: (entry: Entry) => boolean): void {
    for (const [record, entries] of this.#entries) {
      const left = entries.filter((entry) => !predicate(entry))
      if (left.length === 0) this.#entries.delete(record)
      else if (left.length < entries.length) this.#entries.set(record, left)
    }
  }
}
