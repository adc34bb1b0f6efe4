import { type DnsQuery, isAnswerTo } from "../dns/DnsQuery.ts"
import type { TunnelAnswer, TunnelDnsClient, TunnelServer } from "../dns/TunnelDnsClient.ts"
import type { IpAddress } from "../wire/address.ts"
import { decodeDns } from "../wire/dns.ts"
import { IcmpError, parseIcmpError } from "../wire/icmp.ts"
import { type IpPacket, PacketKind } from "../wire/ip.ts"
import { TcpSegment } from "../wire/tcp.ts"
import { ClientConnection, type ClientEnds } from "./ClientConnection.ts"
import { MAX_MESSAGE, takeMessage } from "./framing.ts"

const TIMEOUT = 10_000
/** A server that has said nothing for so long, although it was asked, is gone, or our connection is for it. */
const SILENCE = 5000
/** Under way at a time. */
const MAX_QUERIES = 1024
const MAX_CONNECTIONS = 64
/** Connections that are gone and whose packets may still come. */
const MAX_FORGOTTEN = 64
const FIRST_PORT = 49_152
/** Zone transfers, whose answers are many messages (RFC 5936, RFC 1995). */
const IXFR = 251
const AXFR = 252

interface Exchange<Asker> {
  readonly query: DnsQuery
  readonly asker: Asker
  readonly source: IpAddress
  readonly server: TunnelServer
  readonly deadline: number
  connection: ClientConnection<Exchange<Asker>> | undefined
  id: number
  sentAt: number
  /** A connection ended under it before it had answered anything: the next one is the last. */
  isRetried: boolean
}

/**
 * Queries to resolvers behind gateways over TCP (tunnel spec 12.11, RFC 7766): one connection for a server, many queries
 * on it at once under ids of its own, answers in any order. A server may end a connection whenever it likes: what it has
 * not answered is asked again on a new one, once more if it never answered on the old.
 */
export class TcpDnsClient<Asker> implements TunnelDnsClient<Asker> {
  readonly #randomBytes: (length: number) => Uint8Array
  /** Oldest first, so that deadlines ascend. */
  readonly #exchanges = new Set<Exchange<Asker>>()
  /** Those that take queries. */
  readonly #byKey = new Map<string, ClientConnection<Exchange<Asker>>>()
  /** All, by our port. */
  readonly #byPort = new Map<number, ClientConnection<Exchange<Asker>>>()
  readonly #forgotten = new Map<number, ClientEnds>()
  readonly #sendable = new Set<ClientConnection<Exchange<Asker>>>()
  readonly #answers: Array<TunnelAnswer<Asker>> = []
  readonly #segment = new TcpSegment()
  readonly #icmpError = new IcmpError()
  #now = 0
  /** Not later than the earliest deadline of a connection. */
  #timeout = Number.POSITIVE_INFINITY

  constructor(randomBytes: (length: number) => Uint8Array) {
    this.#randomBytes = randomBytes
  }

  send(query: DnsQuery, asker: Asker, source: IpAddress, server: TunnelServer, now: number): boolean {
    this.#now = now
    if (this.#exchanges.size >= MAX_QUERIES || query.bytes.length > MAX_MESSAGE) return false
    if (query.type === AXFR || query.type === IXFR) return false
    const exchange: Exchange<Asker> = {
      query,
      asker,
      source,
      server,
      deadline: now + TIMEOUT,
      connection: undefined,
      id: 0,
      sentAt: now,
      isRetried: false
    }
    if (!this.#ask(exchange, now)) return false
    this.#exchanges.add(exchange)
    return true
  }

  accept(packet: IpPacket, now: number): boolean {
    this.#now = now
    if (packet.kind === PacketKind.OtherIcmp) return this.#acceptError(packet)
    if (packet.kind !== PacketKind.Tcp) return false
    const { destinationPort } = packet
    const connection = this.#byPort.get(destinationPort)
    if (connection === undefined) return this.#forgotten.get(destinationPort)?.isFrom(packet) === true
    if (!connection.ends.isFrom(packet)) return false
    if (this.#segment.parse(packet)) this.#handleSegment(connection, now)
    return true
  }

  refused(packet: IpPacket): boolean {
    return packet.kind === PacketKind.Tcp && this.#failPath(packet)
  }

  handleTimeout(now: number): void {
    this.#now = now
    this.#expire(now)
    if (now < this.#timeout) return
    this.#timeout = Number.POSITIVE_INFINITY
    for (const connection of this.#byPort.values()) {
      connection.handleTimeout(now)
      if (connection.tcp.state !== "established" && !connection.tcp.isOpening) this.#ended(connection, now)
      this.#sendable.add(connection)
    }
  }

  /** May be early: then `handleTimeout` does nothing. */
  pollTimeout(): number | undefined {
    let earliest = this.#timeout
    for (const { deadline } of this.#exchanges) {
      earliest = Math.min(earliest, deadline)
      break
    }
    return earliest === Number.POSITIVE_INFINITY ? undefined : earliest
  }

  pollPacket(): Uint8Array | undefined {
    for (const connection of this.#sendable) {
      const packet = connection.tcp.pollPacket(this.#now)
      if (packet !== undefined) return packet
      this.#sendable.delete(connection)
      if (connection.tcp.state === "closed") this.#forget(connection)
      else this.#timeout = Math.min(this.#timeout, connection.pollTimeout())
    }
    return undefined
  }

  pollAnswer(): TunnelAnswer<Asker> | undefined {
    return this.#answers.shift()
  }

  /** Fails all queries, and forgets all connections without a word to the servers (16.1). */
  reset(): void {
    for (const connection of this.#byPort.values()) this.#forget(connection)
    this.#timeout = Number.POSITIVE_INFINITY
    for (const exchange of this.#exchanges) this.#finish(exchange, undefined)
  }

  /** Returns false if there is no room for it. */
  #ask(exchange: Exchange<Asker>, now: number): boolean {
    const { query: { bytes }, server, source } = exchange
    const key = `${source} ${server.address} ${server.port}`
    const current = this.#byKey.get(key)
    const connection = current?.isWornOut === false ? current : this.#connect(key, exchange, now)
    if (connection?.hasRoom(bytes.length) !== true) return false
    let id = this.#randomUint16()
    while (connection.isTaken(id)) id = id + 1 & 0xffff
    exchange.connection = connection
    exchange.id = id
    exchange.sentAt = now
    connection.ask(exchange, id, bytes.slice(), now)
    this.#sendable.add(connection)
    return true
  }

  #connect(
    key: string,
    { server, source }: Exchange<Asker>,
    now: number
  ): ClientConnection<Exchange<Asker>> | undefined {
    if (this.#byPort.size >= MAX_CONNECTIONS && !this.#evict()) return undefined
    let port = FIRST_PORT | this.#randomUint16()
    while (this.#byPort.has(port) || this.#forgotten.has(port)) port = FIRST_PORT | port + 1 & 0xffff
    const initial = this.#randomUint16() << 16 | this.#randomUint16()
    const connection = new ClientConnection<Exchange<Asker>>(key, source, port, server, initial, now)
    this.#byKey.set(key, connection)
    this.#byPort.set(port, connection)
    return connection
  }

  /** Gives up the connection without queries that has been idle for longest. Returns false if all have queries. */
  #evict(): boolean {
    let idlest: ClientConnection<Exchange<Asker>> | undefined
    for (const connection of this.#byPort.values()) {
      if (connection.isBusy) continue
      if (idlest === undefined || connection.activeAt < idlest.activeAt) idlest = connection
    }
    if (idlest !== undefined) this.#forget(idlest)
    return idlest !== undefined
  }

  #handleSegment(connection: ClientConnection<Exchange<Asker>>, now: number): void {
    const { tcp } = connection
    const { isOpening } = tcp
    tcp.handleSegment(this.#segment, now)
    this.#sendable.add(connection)
    for (let bytes = takeMessage(tcp); bytes !== undefined; bytes = takeMessage(tcp)) {
      if (!this.#answered(connection, bytes, now)) return this.#abort(connection)
    }
    if (tcp.state === "established" || tcp.isOpening) return
    // Nobody listens there: the next attempt would end the same way.
    if (isOpening && tcp.state === "closed") this.#fail(connection)
    else this.#ended(connection, now)
  }

  /** Returns false if it is no answer to any query of this connection. */
  #answered(connection: ClientConnection<Exchange<Asker>>, bytes: Uint8Array, now: number): boolean {
    const exchange = connection.answered((bytes[0] ?? 0) << 8 | (bytes[1] ?? 0), now)
    if (exchange === "late") return true
    if (exchange === undefined) return false
    const { id } = exchange.query
    bytes[0] = id >> 8
    bytes[1] = id & 0xff
    const message = decodeDns(bytes)
    const isAnswer = message !== undefined && isAnswerTo(message, exchange.query)
    this.#finish(exchange, isAnswer ? { bytes, message } : undefined)
    return isAnswer
  }

  #expire(now: number): void {
    const silent = new Set<ClientConnection<Exchange<Asker>>>()
    for (const exchange of this.#exchanges) {
      if (now < exchange.deadline) break
      const { connection, id, sentAt } = exchange
      this.#finish(exchange, undefined)
      connection?.expire(id)
      if (connection !== undefined && connection.heardAt <= sentAt && now >= sentAt + SILENCE) silent.add(connection)
    }
    // What else waits there gets another try.
    for (const connection of silent) {
      connection.tcp.abort()
      this.#ended(connection, now)
    }
  }

  /** It takes no more queries. What it has not answered is asked again on another, if that makes sense. */
  #ended(connection: ClientConnection<Exchange<Asker>>, now: number): void {
    this.#retire(connection)
    connection.tcp.close()
    for (const exchange of connection.takePending()) {
      const isHopeless = exchange.isRetried && !connection.hasAnswered
      exchange.isRetried = !connection.hasAnswered
      if (isHopeless || !this.#ask(exchange, now)) this.#finish(exchange, undefined)
    }
  }

  #abort(connection: ClientConnection<Exchange<Asker>>): void {
    connection.tcp.abort()
    this.#fail(connection)
  }

  #fail(connection: ClientConnection<Exchange<Asker>>): void {
    this.#retire(connection)
    for (const exchange of connection.takePending()) this.#finish(exchange, undefined)
  }

  #retire(connection: ClientConnection<Exchange<Asker>>): void {
    if (this.#byKey.get(connection.key) === connection) this.#byKey.delete(connection.key)
    this.#sendable.add(connection)
  }

  #acceptError(packet: IpPacket): boolean {
    const error = this.#icmpError
    return parseIcmpError(packet, error) && error.failed.kind === PacketKind.Tcp && this.#failPath(error.failed)
  }

  /** `packet` did not arrive. Returns whether it was one of ours. */
  #failPath(packet: IpPacket): boolean {
    const connection = this.#byPort.get(packet.sourcePort)
    if (connection === undefined) return this.#forgotten.get(packet.sourcePort)?.isTo(packet) === true
    if (!connection.ends.isTo(packet)) return false
    this.#fail(connection)
    this.#forget(connection)
    return true
  }

  /** Without a word to the server; what it still sends is for nobody. */
  #forget(connection: ClientConnection<Exchange<Asker>>): void {
    const { ends } = connection
    if (this.#byKey.get(connection.key) === connection) this.#byKey.delete(connection.key)
    this.#byPort.delete(ends.port)
    this.#sendable.delete(connection)
    this.#forgotten.set(ends.port, ends)
    if (this.#forgotten.size <= MAX_FORGOTTEN) return
    for (const oldest of this.#forgotten.keys()) {
      this.#forgotten.delete(oldest)
      return
    }
  }

  #finish(exchange: Exchange<Asker>, answer: TunnelAnswer<Asker>["answer"]): void {
    if (!this.#exchanges.delete(exchange)) return
    this.#answers.push({ query: exchange.query, asker: exchange.asker, answer })
  }

  #randomUint16(): number {
    const [high = 0, low = 0] = this.#randomBytes(2)
    return high << 8 | low
  }
}
