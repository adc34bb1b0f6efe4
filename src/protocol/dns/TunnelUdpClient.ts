import { familyOf, type IpAddress } from "../wire/address.ts"
import { decodeDns } from "../wire/dns.ts"
import { IcmpError, parseIcmpError } from "../wire/icmp.ts"
import { type IpPacket, PacketKind } from "../wire/ip.ts"
import { type IpWords, sameWords, wordsOf } from "../wire/ipWords.ts"
import { MAX_UDP_PAYLOAD, udpPacket } from "../wire/udp.ts"
import { type DnsQuery, isAnswerTo } from "./DnsQuery.ts"
import type { TunnelAnswer, TunnelDnsClient, TunnelServer } from "./TunnelDnsClient.ts"

const TIMEOUT = 10_000
/** Ports that wait for an answer, or whose answer may still come although nobody waits any more. */
const MAX_PORTS = 1024
const FIRST_PORT = 49_152
const UDP_HEADER = 8

interface Exchange<Asker> {
  readonly query: DnsQuery
  readonly asker: Asker
  readonly server: IpWords
  readonly serverVersion: 4 | 6
  readonly serverPort: number
  readonly deadline: number
}

/**
 * Queries to resolvers behind gateways over UDP (tunnel spec 12.11): each from a port of its own, sent once, from our
 * address in the tunnel. What the resolver sends to these ports is for nobody else, however late it comes; what others
 * send there is none of our business: an application may happen to use the same port.
 */
export class TunnelUdpClient<Asker> implements TunnelDnsClient<Asker> {
  readonly #randomBytes: (length: number) => Uint8Array
  /** Oldest first, so that deadlines ascend. */
  readonly #open = new Map<number, Exchange<Asker>>()
  /** Ports that are not waited for any more, and whose answers may still come; oldest first. */
  readonly #late = new Map<number, Exchange<Asker>>()
  readonly #packets: Array<Uint8Array> = []
  readonly #answers: Array<TunnelAnswer<Asker>> = []
  readonly #icmpError = new IcmpError()

  constructor(randomBytes: (length: number) => Uint8Array) {
    this.#randomBytes = randomBytes
  }

  send(query: DnsQuery, asker: Asker, source: IpAddress, server: TunnelServer, now: number): boolean {
    if (this.#open.size >= MAX_PORTS || query.bytes.length > MAX_UDP_PAYLOAD) return false
    if (this.#open.size + this.#late.size >= MAX_PORTS) this.#forgetOldest()
    const port = this.#freePort()
    this.#open.set(port, {
      query,
      asker,
      server: wordsOf(server.address),
      serverVersion: familyOf(server.address),
      serverPort: server.port,
      deadline: now + TIMEOUT
    })
    const ends = { source, sourcePort: port, destination: server.address, destinationPort: server.port }
    this.#packets.push(udpPacket(ends, query.bytes))
    return true
  }

  accept(packet: IpPacket): boolean {
    if (packet.kind === PacketKind.OtherIcmp) return this.#acceptError(packet)
    if (packet.kind !== PacketKind.Udp) return false
    const { destinationPort: port } = packet
    const exchange = this.#open.get(port)
    if (exchange === undefined) {
      const late = this.#late.get(port)
      return late !== undefined && isFrom(late, packet)
    }
    if (!isFrom(exchange, packet)) return false
    const { buffer, length, offset, transport } = packet
    const bytes = buffer.slice(transport + UDP_HEADER, offset + length)
    const message = decodeDns(bytes)
    if (message !== undefined && !isAnswerTo(message, exchange.query)) return true
    this.#finish(port, exchange, message === undefined ? undefined : { bytes, message })
    return true
  }

  refused(packet: IpPacket): boolean {
    if (packet.kind !== PacketKind.Udp) return false
    const exchange = this.#open.get(packet.sourcePort)
    if (exchange === undefined || !isTo(exchange, packet)) return false
    this.#finish(packet.sourcePort, exchange, undefined)
    return true
  }

  handleTimeout(now: number): void {
    for (const [port, exchange] of this.#open) {
      if (exchange.deadline > now) return
      this.#finish(port, exchange, undefined)
      this.#late.set(port, exchange)
    }
  }

  pollTimeout(): number | undefined {
    for (const { deadline } of this.#open.values()) return deadline
    return undefined
  }

  pollPacket(): Uint8Array | undefined {
    return this.#packets.shift()
  }

  pollAnswer(): TunnelAnswer<Asker> | undefined {
    return this.#answers.shift()
  }

  #acceptError(packet: IpPacket): boolean {
    const error = this.#icmpError
    if (!parseIcmpError(packet, error) || error.failed.kind !== PacketKind.Udp) return false
    const { sourcePort } = error.failed
    const exchange = this.#open.get(sourcePort)
    if (exchange === undefined || !isTo(exchange, error.failed)) return false
    this.#finish(sourcePort, exchange, undefined)
    return true
  }

  #finish(port: number, { asker, query }: Exchange<Asker>, answer: TunnelAnswer<Asker>["answer"]): void {
    this.#open.delete(port)
    this.#answers.push({ query, asker, answer })
  }

  #forgetOldest(): void {
    for (const port of this.#late.keys()) {
      this.#late.delete(port)
      return
    }
  }

  #freePort(): number {
    const [high = 0, low = 0] = this.#randomBytes(2)
    let port = FIRST_PORT | (high << 8 | low)
    while (this.#open.has(port) || this.#late.has(port)) port = FIRST_PORT | port + 1 & 0xffff
    return port
  }
}

const isFrom = (exchange: Exchange<unknown>, packet: IpPacket): boolean =>
  packet.version === exchange.serverVersion && packet.sourcePort === exchange.serverPort &&
  sameWords(packet.source, exchange.server)

const isTo = (exchange: Exchange<unknown>, packet: IpPacket): boolean =>
  packet.version === exchange.serverVersion && packet.destinationPort === exchange.serverPort &&
  sameWords(packet.destination, exchange.server)
