import type { ResourceId } from "../portal/types.ts"
import { type IpAddress, ipToBytes } from "../wire/address.ts"
import { type DomainName, RecordType, ResponseCode } from "../wire/dns.ts"
import { addressAnswer, answer, serverFailure } from "./answer.ts"
import type { DnsQuery } from "./DnsQuery.ts"
import { type DomainPattern, parseDomainPattern } from "./DomainPattern.ts"

/** How long the portal may take, milliseconds. */
const RESOLUTION_TIMEOUT = 5000
/** Names remembered over all pools, and queries waiting for the portal. */
const MAX_NAMES = 4096
const MAX_WAITING = 1000

/** The device behind a name: its addresses in the tunnel. */
export interface Device {
  readonly ipv4: IpAddress
  readonly ipv6: IpAddress
}

export interface DeviceFailure {
  readonly domain: DomainName
  readonly reason: string
  readonly at: number
}

interface Pool {
  readonly id: ResourceId
  readonly pattern: DomainPattern
  /** By lower-case name. */
  readonly devices: Map<string, Device>
  /** The latest name that the portal knew no device for, or gave none. */
  failure: DeviceFailure | undefined
}

interface Waiting<Asker> {
  readonly pool: ResourceId
  /** Lower case. */
  readonly name: string
  readonly query: DnsQuery
  readonly asker: Asker
  readonly deadline: number
  /** The portal was asked for this one; what became of that may be unknown, so a later one asks again. */
  readonly hasAsked: boolean
}

/** What the resolver wants done. */
export type DeviceResolverEvent<Asker> =
  | { readonly _tag: "AskPortal"; readonly resourceId: ResourceId; readonly domain: DomainName }
  | { readonly _tag: "Respond"; readonly asker: Asker; readonly message: Uint8Array }

/**
 * Answers for names of dynamic device pools with what the portal says of them (tunnel spec 12.7). Every asker gets an
 * answer, also when several ask for the same.
 */
export class DeviceResolver<Asker> {
  /** In the order of ids. */
  #pools: ReadonlyArray<Pool> = []
  /** Oldest first, so that deadlines ascend. */
  #waiting: Array<Waiting<Asker>> = []
  readonly #events: Array<DeviceResolverEvent<Asker>> = []
  #names = 0

  /** Names that the pool had under another pattern are forgotten. Returns false, and resolves nothing, if it is none. */
  add(id: ResourceId, pattern: string): boolean {
    const known = this.#pools.find((pool) => pool.id === id)
    if (known?.pattern.text === pattern) return true
    this.remove(id)
    const parsed = parseDomainPattern(pattern)
    if (parsed === undefined) return false
    this.#pools = [...this.#pools, { id, pattern: parsed, devices: new Map<string, Device>(), failure: undefined }]
      .sort((a, b) => a.id < b.id ? -1 : 1)
    return true
  }

  remove(id: ResourceId): void {
    const known = this.#pools.find((pool) => pool.id === id)
    if (known === undefined) return
    this.#names -= known.devices.size
    this.#pools = this.#pools.filter((pool) => pool !== known)
    this.#settle((waiting) => waiting.pool === id, serverFailure)
  }

  /** Returns whether the query was for a device: it is answered by an event, now or later. */
  resolve(query: DnsQuery, asker: Asker, now: number): boolean {
    if (!query.isOrdinary || this.#pools.length === 0 || query.name.includes("\\")) return false
    const name = query.name.toLowerCase()
    const pool = this.#pools.find(({ pattern }) => pattern.matches(name))
    if (pool === undefined) return false
    if (query.type !== RecordType.A && query.type !== RecordType.AAAA) {
      this.#events.push({ _tag: "Respond", asker, message: answer(query, ResponseCode.NoError) })
      return true
    }
    const device = pool.devices.get(name)
    if (device !== undefined) {
      this.#events.push({ _tag: "Respond", asker, message: answerWith(device, query) })
      return true
    }
    if (this.#waiting.length >= MAX_WAITING) {
      this.#events.push({ _tag: "Respond", asker, message: serverFailure(query) })
      return true
    }
    const hasAsked = !this.#waiting.some((waiting) => waiting.hasAsked && isFor(pool.id, name)(waiting))
    this.#waiting.push({ pool: pool.id, name, query, asker, deadline: now + RESOLUTION_TIMEOUT, hasAsked })
    if (hasAsked) this.#events.push({ _tag: "AskPortal", resourceId: pool.id, domain: query.name })
    return true
  }

  /** The portal knows the device. What nobody waits for is not remembered. */
  resolved(id: ResourceId, domain: DomainName, device: Device): void {
    const name = domain.toLowerCase()
    const pool = this.#pools.find((pool) => pool.id === id)
    if (pool === undefined || !this.#settle(isFor(id, name), (query) => answerWith(device, query))) return
    if (this.#names >= MAX_NAMES || pool.devices.has(name)) return
    pool.devices.set(name, device)
    this.#names += 1
    if (pool.failure?.domain.toLowerCase() === name) pool.failure = undefined
  }

  /** What is known of a pool: its names and their devices, and what it has failed at. */
  known(id: ResourceId): Pick<Pool, "devices" | "failure"> | undefined {
    return this.#pools.find((pool) => pool.id === id)
  }

  failed(id: ResourceId, domain: DomainName, reason: string, now: number): void {
    const pool = this.#pools.find((pool) => pool.id === id)
    const wasAsked = this.#settle(
      isFor(id, domain.toLowerCase()),
      (query) => reason === "not_found" ? answer(query, ResponseCode.NameError) : serverFailure(query)
    )
    if (pool !== undefined && wasAsked) pool.failure = { domain, reason, at: now }
  }

  handleTimeout(now: number): void {
    if ((this.#waiting[0]?.deadline ?? Number.POSITIVE_INFINITY) > now) return
    this.#settle(({ deadline }) => deadline <= now, serverFailure)
  }

  pollTimeout(): number | undefined {
    return this.#waiting[0]?.deadline
  }

  pollEvent(): DeviceResolverEvent<Asker> | undefined {
    return this.#events.shift()
  }

  /** Answers those that `isDone` accepts. Returns whether there was one. */
  #settle(isDone: (waiting: Waiting<Asker>) => boolean, message: (query: DnsQuery) => Uint8Array): boolean {
    const before = this.#waiting
    this.#waiting = before.filter((waiting) => !isDone(waiting))
    for (const waiting of before) {
      if (isDone(waiting)) {
        this.#events.push({ _tag: "Respond", asker: waiting.asker, message: message(waiting.query) })
      }
    }
    return this.#waiting.length < before.length
  }
}

const isFor = (pool: ResourceId, name: string) => (waiting: Waiting<unknown>): boolean =>
  waiting.pool === pool && waiting.name === name

const answerWith = (device: Device, query: DnsQuery): Uint8Array =>
  addressAnswer(query, ipToBytes(query.type === RecordType.A ? device.ipv4 : device.ipv6))
