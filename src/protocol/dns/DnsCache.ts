import { type DnsMessage, encodeRecord, ResponseCode } from "../wire/dns.ts"
import { answer } from "./answer.ts"
import type { DnsQuery } from "./DnsQuery.ts"

/** Answers that live shorter are not worth keeping, seconds. */
const SMALLEST_TTL = 5
/** More means none (RFC 2181 section 8). */
const MAX_TTL = 0x7fffffff
const CAPACITY = 4096
const MAX_BYTES = 4 << 20

interface Entry {
  readonly count: number
  /** Whole records, names not compressed. */
  readonly records: Uint8Array
  /** Where in `records` each record's time to live is. */
  readonly ttlAt: ReadonlyArray<number>
  readonly storedAt: number
  readonly expiresAt: number
}

/** Answers of upstreams and sites (tunnel spec 12.8): positive ones, the least recently used out. */
export class DnsCache {
  readonly #entries = new Map<string, Entry>()
  #bytes = 0
  #generation = 0

  /** How often everything was forgotten. */
  get generation(): number {
    return this.#generation
  }

  get size(): number {
    return this.#entries.size
  }

  /** The answer to the query, lifetimes reduced by its age; `undefined` if there is none. */
  answer(query: DnsQuery, now: number): Uint8Array | undefined {
    if (!isCacheable(query)) return undefined
    const key = keyOf(query)
    const entry = this.#entries.get(key)
    if (entry === undefined) return undefined
    this.#remove(key, entry)
    if (entry.expiresAt <= now) return undefined
    this.#add(key, entry)
    const message = answer(query, ResponseCode.NoError, entry.count, entry.records)
    const view = new DataView(message.buffer)
    const age = Math.floor((now - entry.storedAt) / 1000)
    for (const at of entry.ttlAt) view.setUint32(query.end + at, Math.max(0, view.getUint32(query.end + at) - age))
    return message
  }

  /** Keeps the upstream's answer if it may be kept. */
  insert(query: DnsQuery, { answers, responseCode, truncated }: DnsMessage, now: number): void {
    if (!isCacheable(query) || responseCode !== ResponseCode.NoError || truncated) return
    const ttls = answers.filter(({ type }) => type === query.type).map(({ ttl }) => ttl > MAX_TTL ? 0 : ttl)
    const lifetime = Math.min(...ttls)
    if (ttls.length === 0 || lifetime < SMALLEST_TTL) return
    const ttlAt: Array<number> = []
    const parts: Array<Uint8Array> = []
    let length = 0
    for (const record of answers) {
      const bytes = encodeRecord(record)
      if (bytes === undefined) return
      ttlAt.push(length + ttlOffset(bytes))
      parts.push(bytes)
      length += bytes.length
    }
    const records = new Uint8Array(length)
    let at = 0
    for (const part of parts) {
      records.set(part, at)
      at += part.length
    }
    const key = keyOf(query)
    const known = this.#entries.get(key)
    if (known !== undefined) this.#remove(key, known)
    this.#add(key, { count: answers.length, records, ttlAt, storedAt: now, expiresAt: now + lifetime * 1000 })
    this.#makeRoom()
  }

  clear(): void {
    this.#entries.clear()
    this.#bytes = 0
    this.#generation += 1
  }

  #add(key: string, entry: Entry): void {
    this.#entries.set(key, entry)
    this.#bytes += entry.records.length
  }

  #remove(key: string, entry: Entry): void {
    this.#entries.delete(key)
    this.#bytes -= entry.records.length
  }

  #makeRoom(): void {
    for (const [key, entry] of this.#entries) {
      if (this.#entries.size <= CAPACITY && this.#bytes <= MAX_BYTES) return
      this.#remove(key, entry)
    }
  }
}

const isCacheable = ({ isDnssec, isOrdinary }: DnsQuery): boolean => isOrdinary && !isDnssec

const keyOf = ({ name, type }: DnsQuery): string => `${type} ${name.toLowerCase()}`

/** Behind name, type and class. */
const ttlOffset = (record: Uint8Array): number => {
  let at = 0
  while (record[at] !== 0) at += (record[at] as number) + 1
  return at + 5
}
