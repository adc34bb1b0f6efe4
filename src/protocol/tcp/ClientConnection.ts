import type { TunnelServer } from "../dns/TunnelDnsClient.ts"
import { type Family, familyOf, type IpAddress, ipToBytes } from "../wire/address.ts"
import type { IpPacket } from "../wire/ip.ts"
import { type IpWords, sameWords, wordsOf } from "../wire/ipWords.ts"
import { writeMessage } from "./framing.ts"
import { TcpConnection } from "./TcpConnection.ts"

/** Bytes of queries that wait for the server. */
const MAX_BACKLOG = 128 * 1024
/** Ids that no query may use: nobody waits for their answers any more, but they may come. */
const MAX_LATE = 256
/** Without a query (RFC 7766 section 6.2.3). */
const IDLE_TIMEOUT = 10_000

/** The ends of a connection of ours, to know its packets by. */
export class ClientEnds {
  readonly version: Family
  readonly port: number
  readonly #serverPort: number
  readonly #source: IpWords
  readonly #server: IpWords

  constructor(source: IpAddress, port: number, server: TunnelServer) {
    this.version = familyOf(server.address)
    this.port = port
    this.#serverPort = server.port
    this.#source = wordsOf(source)
    this.#server = wordsOf(server.address)
  }

  isTo({ destination, destinationPort, source, sourcePort, version }: IpPacket): boolean {
    return version === this.version && sourcePort === this.port && destinationPort === this.#serverPort &&
      sameWords(destination, this.#server) && sameWords(source, this.#source)
  }

  isFrom({ destination, destinationPort, source, sourcePort, version }: IpPacket): boolean {
    return version === this.version && destinationPort === this.port && sourcePort === this.#serverPort &&
      sameWords(source, this.#server) && sameWords(destination, this.#source)
  }
}

/** A connection to a resolver, and the queries that it carries by the ids that they have there. */
export class ClientConnection<Query> {
  readonly tcp: TcpConnection
  readonly ends: ClientEnds
  /** The queries that share it: for one server, from one address. */
  readonly key: string
  readonly #pending = new Map<number, Query>()
  readonly #late = new Set<number>()
  #hasAnswered = false
  /** When something last came in, or a query went out. */
  #activeAt: number
  #heardAt = Number.NEGATIVE_INFINITY

  constructor(key: string, source: IpAddress, port: number, server: TunnelServer, initial: number, now: number) {
    this.key = key
    this.ends = new ClientEnds(source, port, server)
    this.tcp = TcpConnection.connect({
      source: ipToBytes(source),
      sourcePort: port,
      destination: ipToBytes(server.address),
      destinationPort: server.port
    }, initial)
    this.#activeAt = now
  }

  get activeAt(): number {
    return this.#activeAt
  }

  /** When the server last said something in its messages. */
  get heardAt(): number {
    return this.#heardAt
  }

  get isBusy(): boolean {
    return this.#pending.size > 0
  }

  /** Whether the server has answered anything, and so may be asked again when it ends the connection. */
  get hasAnswered(): boolean {
    return this.#hasAnswered
  }

  /** Whether it takes a query of so many bytes. */
  hasRoom(length: number): boolean {
    return this.tcp.unacknowledged + length <= MAX_BACKLOG
  }

  /** So many answers never came that another connection should take over. */
  get isWornOut(): boolean {
    return this.#late.size >= MAX_LATE
  }

  isTaken(id: number): boolean {
    return this.#pending.has(id) || this.#late.has(id)
  }

  /** Sends `message`, which belongs to the connection, under an id that is not taken. */
  ask(query: Query, id: number, message: Uint8Array, now: number): void {
    this.#pending.set(id, query)
    this.#activeAt = now
    message[0] = id >> 8
    message[1] = id & 0xff
    writeMessage(this.tcp, message)
  }

  /** The query that has an answer with this id; "late" if nobody waits for it any more, `undefined` for one never asked. */
  answered(id: number, now: number): Query | "late" | undefined {
    this.#activeAt = now
    this.#heardAt = now
    const query = this.#pending.get(id)
    if (query === undefined) return this.#late.delete(id) ? "late" : undefined
    this.#pending.delete(id)
    this.#hasAnswered = true
    return query
  }

  /** Nobody waits for this answer any more. */
  expire(id: number): void {
    this.#pending.delete(id)
    this.#late.add(id)
  }

  /** All queries without an answer, which it forgets. */
  takePending(): ReadonlyArray<Query> {
    const pending = [...this.#pending.values()]
    this.#pending.clear()
    return pending
  }

  handleTimeout(now: number): void {
    this.tcp.handleTimeout(now)
    if (this.#isIdle && now >= this.#activeAt + IDLE_TIMEOUT) this.tcp.close()
  }

  pollTimeout(): number {
    const tcp = this.tcp.pollTimeout() ?? Number.POSITIVE_INFINITY
    return this.#isIdle ? Math.min(tcp, this.#activeAt + IDLE_TIMEOUT) : tcp
  }

  get #isIdle(): boolean {
    return !this.isBusy && (this.tcp.state === "established" || this.tcp.isOpening)
  }
}
