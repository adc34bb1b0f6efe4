import type { IpStack } from "../portal/types.ts"
import type { ClientRanges } from "../tunnel/clientRanges.ts"
import { type DomainName, RecordType, ResponseCode } from "../wire/dns.ts"
import { type IpWords, wordsOf } from "../wire/ipWords.ts"
import { addressAnswer, answer, pointerAnswer, serverFailure } from "./answer.ts"
import type { DnsQuery } from "./DnsQuery.ts"
import { type DomainPattern, parseDomainPattern } from "./DomainPattern.ts"
import { compareEntries, PatternIndex } from "./PatternIndex.ts"
import { nameNumberOf, proxyAddressBytes } from "./proxyAddresses.ts"
import { addressOfReverseName } from "./reverseName.ts"

/** A pattern of a resource. Names stay assigned to it while the resource is away. */
export interface Assignment<Target> {
  readonly id: string
  readonly pattern: DomainPattern
  ipStack: IpStack
  /** The resource; `undefined` while there is none. */
  target: Target | undefined
  /** Names keep it. */
  isUsed: boolean
  /** Its names that were asked for last, the latest at the end. */
  readonly recent: Set<NameRecord<Target>>
}

/** A name of a DNS resource, and all that was ever said to be behind it. */
export class NameRecord<Target> {
  /** In the case of the first query: gateways are told so. */
  readonly name: DomainName
  readonly number: number
  /** The most specific first. */
  assignments: ReadonlyArray<Assignment<Target>> = []

  constructor(name: DomainName, number: number) {
    this.name = name
    this.number = number
  }
}

/** One name of a session, for the next one in the same process. */
export interface SavedName {
  readonly name: DomainName
  readonly assignments: ReadonlyArray<{ readonly id: string; readonly pattern: string; readonly ipStack: IpStack }>
}

export type Resolution<Target> =
  | { readonly _tag: "Answer"; readonly message: Uint8Array; readonly record?: NameRecord<Target> | undefined }
  /** Only the resource's site knows. */
  | { readonly _tag: "AskSite"; readonly target: Target }

/** What a gateway is told at once is limited; the others of its names it is told when they are used. */
const RECENT_NAMES = 64

/** Asked by browsers before they take name resolution into their own hands, past us. */
const CANARY = "use-application-dns.net"

/**
 * Answers for the names of DNS resources with addresses of our own making (tunnel spec 12.6), and knows which name and
 * which resource such an address stands for. Addresses are never given to another name.
 */
export class ResourceResolver<Target> {
  readonly #active = new PatternIndex<Assignment<Target>>()
  /** Those that a resource is behind or that names are assigned to, by id. A resource has one pattern at a time. */
  readonly #assignments = new Map<string, Assignment<Target>>()
  readonly #numbers: ClientRanges["names"]
  /** The first has the first number. */
  readonly #records: Array<NameRecord<Target>> = []
  readonly #byName = new Map<string, NameRecord<Target>>()

  /** `saved` are the names of the session before: their addresses may still be in use. */
  constructor(numbers: ClientRanges["names"], saved: ReadonlyArray<SavedName> = []) {
    this.#numbers = numbers
    for (const { assignments, name } of saved) {
      const record = this.#allocate(name)
      if (record === undefined) return
      record.assignments = assignments.flatMap(({ id, ipStack, pattern }) => {
        const parsed = parseDomainPattern(pattern)
        return parsed === undefined ? [] : [this.#assignmentOf(id, parsed, ipStack)]
      })
      for (const assignment of record.assignments) assignment.isUsed = true
      remember(record)
    }
  }

  /** Returns false, and changes nothing, if the pattern is none. */
  add(id: string, pattern: string, ipStack: IpStack, target: Target): boolean {
    const parsed = parseDomainPattern(pattern)
    if (parsed === undefined) return false
    this.remove(id)
    const assignment = this.#assignmentOf(id, parsed, ipStack)
    assignment.ipStack = ipStack
    assignment.target = target
    this.#active.add(assignment)
    return true
  }

  /** Names keep their addresses, and are the resource's again should it come back with the same pattern. */
  remove(id: string): void {
    const assignment = this.#assignments.get(id)
    if (assignment?.target === undefined) return
    assignment.target = undefined
    this.#active.remove(assignment)
    if (!assignment.isUsed) this.#assignments.delete(id)
  }

  /** What the query gets from here; `undefined` if the upstream is to be asked. */
  resolve(query: DnsQuery): Resolution<Target> | undefined {
    if (!query.isOrdinary) return undefined
    if (query.name.toLowerCase() === CANARY) return local(answer(query, ResponseCode.NameError))
    switch (query.type) {
      case RecordType.A:
      case RecordType.AAAA:
        return this.#resolveAddress(query)
      case RecordType.HTTPS:
        return this.#active.match(query.name).length === 0
          ? undefined
          : local(answer(query, ResponseCode.NoError), this.#asked(query.name))
      case RecordType.SRV:
      case RecordType.TXT: {
        const target = this.#active.match(query.name)[0]?.target
        return target === undefined ? undefined : { _tag: "AskSite", target }
      }
      case RecordType.PTR: {
        const address = addressOfReverseName(query.name)
        const record = address === undefined
          ? undefined
          : this.recordAt(address.includes(":") ? 6 : 4, wordsOf(address))
        return record === undefined ? undefined : local(pointerAnswer(query, record.name))
      }
      default:
        return undefined
    }
  }

  /** Whose address it is. Allocates nothing. */
  recordAt(version: number, words: IpWords): NameRecord<Target> | undefined {
    const number = nameNumberOf(version, words)
    return number < 0 ? undefined : this.#records[number - this.#numbers.first]
  }

  recordOf(name: DomainName): NameRecord<Target> | undefined {
    return this.#byName.get(name.toLowerCase())
  }

  /** The names of a resource that were asked for last, the oldest first: no more than a gateway can be told at once. */
  recentNamesOf(id: string): Iterable<NameRecord<Target>> {
    return this.#assignments.get(id)?.recent ?? []
  }

  get size(): number {
    return this.#records.length
  }

  save(): ReadonlyArray<SavedName> {
    return this.#records.map(({ assignments, name }) => ({
      name,
      assignments: assignments.filter((assignment) => this.#isCurrent(assignment)).map(({ id, ipStack, pattern }) => ({
        id,
        pattern: pattern.text,
        ipStack
      }))
    }))
  }

  #resolveAddress(query: DnsQuery): Resolution<Target> | undefined {
    const matching = this.#active.match(query.name)
    if (matching.length === 0) return undefined
    const record = this.recordOf(query.name) ?? this.#allocate(query.name)
    // Hundreds of thousands of names: whoever asks for more gets an error that can be seen, not an answer without addresses.
    if (record === undefined) return local(serverFailure(query))
    this.#assign(record, matching)
    remember(record)
    const family = query.type === RecordType.A ? 4 : 6
    const isServed = matching.some((assignment) => supports(assignment.ipStack, family))
    const addresses = isServed ? proxyAddressBytes(record.number, family) : noAddresses
    return local(addressAnswer(query, addresses), record)
  }

  #asked(name: DomainName): NameRecord<Target> | undefined {
    const record = this.recordOf(name)
    if (record !== undefined) remember(record)
    return record
  }

  #allocate(name: DomainName): NameRecord<Target> | undefined {
    const { count, first } = this.#numbers
    if (this.#records.length >= count) return undefined
    const record = new NameRecord<Target>(name, first + this.#records.length)
    this.#records.push(record)
    this.#byName.set(name.toLowerCase(), record)
    return record
  }

  #assign(record: NameRecord<Target>, matching: ReadonlyArray<Assignment<Target>>): void {
    const { assignments } = record
    if (matching.every((assignment) => assignments.includes(assignment))) return
    record.assignments = [
      ...matching,
      ...assignments.filter((assignment) => !matching.includes(assignment) && this.#isCurrent(assignment))
    ].sort(compareEntries)
    for (const assignment of matching) assignment.isUsed = true
  }

  #assignmentOf(id: string, pattern: DomainPattern, ipStack: IpStack): Assignment<Target> {
    const known = this.#assignments.get(id)
    if (known !== undefined && known.pattern.text === pattern.text) return known
    // The old pattern's names are not the resource's any more, unless it matches them again.
    const assignment = { id, pattern, ipStack, target: undefined, isUsed: false, recent: new Set<NameRecord<Target>>() }
    this.#assignments.set(id, assignment)
    return assignment
  }

  #isCurrent(assignment: Assignment<Target>): boolean {
    return this.#assignments.get(assignment.id) === assignment
  }
}

const remember = <Target>(record: NameRecord<Target>): void => {
  for (const { recent } of record.assignments) {
    recent.delete(record)
    recent.add(record)
    if (recent.size <= RECENT_NAMES) continue
    for (const oldest of recent) {
      recent.delete(oldest)
      break
    }
  }
}

export const supports = (ipStack: IpStack, family: number): boolean =>
  ipStack === "dual" || ipStack === (family === 4 ? "ipv4_only" : "ipv6_only")

const noAddresses = new Uint8Array(0)

const local = <Target>(message: Uint8Array, record?: NameRecord<Target>): Resolution<Target> => ({
  _tag: "Answer",
  message,
  record
})
