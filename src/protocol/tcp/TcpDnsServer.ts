import { type IpAddress, ipFromBytes, SocketAddress } from "../wire/address.ts"
import { destinationOffset, type IpPacket, isMulticast, PacketKind, sourceOffset } from "../wire/ip.ts"
import { type IpWords, sameWords, wordsOf } from "../wire/ipWords.ts"
import { type TcpEnds, TcpFlag, TcpSegment } from "../wire/tcp.ts"
import { ServerConnection } from "./ServerConnection.ts"
import { resetFor, TcpConnection } from "./TcpConnection.ts"
import type { TcpDnsConnection, TcpDnsQuery } from "./types.ts"

const DNS_PORT = 53
/** In all; the one that has been idle for longest makes room. */
const MAX_CONNECTIONS = 128
/** Handshakes under way; the oldest makes room, so that a flood of SYNs costs nothing but their answers. */
const MAX_OPENING = 64
/** Resets that wait to be sent. */
const MAX_RESETS = 64

interface Entry {
  readonly connection: ServerConnection
  readonly version: 4 | 6
  readonly local: IpWords
  readonly remote: IpWords
}

/**
 * Answers applications that ask a sentinel over TCP (tunnel spec 12.12, RFC 7766): many queries on a connection, answers
 * in any order. After any call drain `pollQuery` and `pollPacket` until both have nothing, then wait for `pollTimeout`.
 */
export class TcpDnsServer {
  readonly #randomBytes: (length: number) => Uint8Array
  #addresses: ReadonlyArray<{ readonly version: 4 | 6; readonly words: IpWords }> = []
  /** Oldest first. */
  readonly #entries = new Map<TcpDnsConnection, Entry>()
  /** By the port of the application, which is the same for hardly any two. */
  readonly #byPort = new Map<number, Array<Entry>>()
  #opening = 0
  /** Connections that may have queries, and those that may have packets. */
  readonly #readable = new Set<ServerConnection>()
  readonly #sendable = new Set<ServerConnection>()
  readonly #resets: Array<Uint8Array> = []
  readonly #segment = new TcpSegment()
  /** Not later than the earliest deadline. */
  #timeout = Number.POSITIVE_INFINITY

  constructor(randomBytes: (length: number) => Uint8Array) {
    this.#randomBytes = randomBytes
  }

  /** Replaces the addresses to listen at. All connections vanish without a word. */
  listen(addresses: ReadonlyArray<IpAddress>): void {
    this.#addresses = addresses.map((address) => ({
      version: address.includes(":") ? 6 : 4,
      words: wordsOf(address)
    }))
    this.#entries.clear()
    this.#byPort.clear()
    this.#opening = 0
    this.#readable.clear()
    this.#sendable.clear()
    this.#resets.length = 0
    this.#timeout = Number.POSITIVE_INFINITY
  }

  /** Takes a packet from the TUN device. Returns whether it was TCP to port 53 of one of the addresses. */
  handlePacket(packet: IpPacket, now: number): boolean {
    if (packet.kind !== PacketKind.Tcp || packet.destinationPort !== DNS_PORT) return false
    if (!this.#isListening(packet)) return false
    const segment = this.#segment
    if (!segment.parse(packet)) return true
    let entry = this.#find(packet)
    if (entry?.connection.tcp.isReplacedBy(segment) === true) {
      this.#remove(entry)
      entry = undefined
    }
    if (entry === undefined) this.#handleStranger(packet, segment, now)
    else this.#handleSegment(entry.connection, segment, now)
    return true
  }

  pollQuery(now: number): TcpDnsQuery | undefined {
    for (const connection of this.#readable) {
      const message = connection.takeQuery(now)
      // Reading opens the window; the end of the stream may have been reached.
      this.#sendable.add(connection)
      if (message !== undefined) return { connection, message }
      this.#readable.delete(connection)
    }
    return undefined
  }

  /** In any order, at most once for a query. Nothing happens if the connection is gone. */
  answer(connection: TcpDnsConnection, message: Uint8Array): void {
    const entry = this.#entries.get(connection)
    if (entry === undefined) return
    entry.connection.answer(message)
    this.#touch(entry.connection)
  }

  /** Ends a connection with a reset, such as one that sent what is no query. */
  abort(connection: TcpDnsConnection): void {
    const entry = this.#entries.get(connection)
    if (entry === undefined) return
    entry.connection.tcp.abort()
    this.#touch(entry.connection)
  }

  /** A packet for the TUN device. */
  pollPacket(now: number): Uint8Array | undefined {
    const reset = this.#resets.shift()
    if (reset !== undefined) return reset
    for (const connection of this.#sendable) {
      const packet = connection.tcp.pollPacket(now)
      if (packet !== undefined) return packet
      this.#sendable.delete(connection)
      if (connection.tcp.state === "closed") this.#removeConnection(connection)
      else this.#timeout = Math.min(this.#timeout, connection.pollTimeout())
    }
    return undefined
  }

  handleTimeout(now: number): void {
    if (now < this.#timeout) return
    this.#timeout = Number.POSITIVE_INFINITY
    for (const { connection } of this.#entries.values()) {
      const { isOpening } = connection.tcp
      connection.handleTimeout(now)
      if (isOpening && !connection.tcp.isOpening) this.#opening -= 1
      this.#touch(connection)
    }
  }

  /** May be early: then `handleTimeout` does nothing. */
  pollTimeout(): number | undefined {
    return this.#timeout === Number.POSITIVE_INFINITY ? undefined : this.#timeout
  }

  #isListening({ destination, version }: IpPacket): boolean {
    for (const address of this.#addresses) {
      if (address.version === version && sameWords(address.words, destination)) return true
    }
    return false
  }

  #find({ destination, source, sourcePort, version }: IpPacket): Entry | undefined {
    const entries = this.#byPort.get(sourcePort)
    if (entries === undefined) return undefined
    for (const entry of entries) {
      if (
        entry.version === version && sameWords(entry.remote, source) && sameWords(entry.local, destination)
      ) return entry
    }
    return undefined
  }

  /** A segment that belongs to no connection: only a SYN is welcome (RFC 9293 section 3.10.7.2). */
  #handleStranger(packet: IpPacket, segment: TcpSegment, now: number): void {
    const isForged = isMulticast(packet.version, packet.source) || sameWords(packet.source, packet.destination)
    if (isForged || segment.has(TcpFlag.Rst)) return
    if (segment.has(TcpFlag.Ack)) {
      if (this.#resets.length < MAX_RESETS) this.#resets.push(resetFor(endsOf(packet), segment))
      return
    }
    if (!segment.has(TcpFlag.Syn)) return
    if (this.#opening >= MAX_OPENING) this.#dropOldestOpening()
    const { buffer, destinationPort, sourcePort, version } = packet
    const connection = new ServerConnection(
      TcpConnection.accept(endsOf(packet), this.#initialSequence(), segment),
      new SocketAddress(ipFromBytes(buffer, destinationOffset(packet), version), destinationPort),
      new SocketAddress(ipFromBytes(buffer, sourceOffset(packet), version), sourcePort),
      now
    )
    const entry = { connection, version, local: packet.destination.slice(), remote: packet.source.slice() }
    this.#entries.set(connection, entry)
    const others = this.#byPort.get(sourcePort)
    if (others === undefined) this.#byPort.set(sourcePort, [entry])
    else others.push(entry)
    this.#opening += 1
    this.#touch(connection)
  }

  #handleSegment(connection: ServerConnection, segment: TcpSegment, now: number): void {
    const { isOpening } = connection.tcp
    connection.tcp.handleSegment(segment, now)
    this.#touch(connection)
    if (!isOpening || connection.tcp.isOpening) return
    this.#opening -= 1
    if (this.#entries.size - this.#opening > MAX_CONNECTIONS) this.#evict(connection)
  }

  /** What has ended goes before what waits for an application, and that before what an application waits for. */
  #evict(newcomer: ServerConnection): void {
    let worst: ServerConnection | undefined
    for (const { connection } of this.#entries.values()) {
      if (connection === newcomer || connection.tcp.isOpening) continue
      if (worst === undefined || isWorse(connection, worst)) worst = connection
    }
    if (worst === undefined) return
    worst.tcp.abort()
    this.#touch(worst)
  }

  /** Without a reset: whoever has not answered yet need not exist. */
  #dropOldestOpening(): void {
    for (const entry of this.#entries.values()) {
      if (entry.connection.tcp.isOpening) return this.#remove(entry)
    }
  }

  #touch(connection: ServerConnection): void {
    this.#readable.add(connection)
    this.#sendable.add(connection)
  }

  #removeConnection(connection: ServerConnection): void {
    const entry = this.#entries.get(connection)
    if (entry !== undefined) this.#remove(entry)
  }

  #remove(entry: Entry): void {
    const { connection } = entry
    const { port } = connection.remote
    if (connection.tcp.isOpening) this.#opening -= 1
    this.#entries.delete(connection)
    this.#readable.delete(connection)
    this.#sendable.delete(connection)
    const others = this.#byPort.get(port)?.filter((other) => other !== entry) ?? []
    if (others.length === 0) this.#byPort.delete(port)
    else this.#byPort.set(port, others)
  }

  #initialSequence(): number {
    const [a = 0, b = 0, c = 0, d = 0] = this.#randomBytes(4)
    return a << 24 | b << 16 | c << 8 | d
  }
}

/** Of two connections the one to be given up. */
const isWorse = (a: ServerConnection, b: ServerConnection): boolean => {
  const difference = rank(a) - rank(b)
  return difference === 0 ? a.activeAt < b.activeAt : difference < 0
}

const rank = ({ isBusy, tcp }: ServerConnection): number =>
  tcp.state === "established" ? isBusy ? 2 : 1 : isBusy ? 2 : 0

/** Of the packets that answer `packet`. */
const endsOf = (packet: IpPacket): TcpEnds => {
  const { buffer, destinationPort, sourcePort, version } = packet
  const length = version === 4 ? 4 : 16
  const source = destinationOffset(packet)
  const destination = sourceOffset(packet)
  return {
    source: buffer.slice(source, source + length),
    sourcePort: destinationPort,
    destination: buffer.slice(destination, destination + length),
    destinationPort: sourcePort
  }
}
