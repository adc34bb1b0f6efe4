/**
 * Applications of the clients, and hosts and resolvers behind the gateways: they send the packets and queries of a step,
 * answer what arrives, and note what was seen of each.
 */
import { CIPHER_HEADROOM, CIPHER_TAILROOM } from "../../../src/protocol/crypto.ts"
import { parseDnsQuery } from "../../../src/protocol/dns/DnsQuery.ts"
import { TcpDnsClient } from "../../../src/protocol/tcp/TcpDnsClient.ts"
import { TcpDnsServer } from "../../../src/protocol/tcp/TcpDnsServer.ts"
import { ip, ipFromBytes, ipToBytes } from "../../../src/protocol/wire/address.ts"
import { IcmpError, parseIcmpError } from "../../../src/protocol/wire/icmp.ts"
import { destinationOffset, type IpPacket, PacketKind, sourceOffset } from "../../../src/protocol/wire/ip.ts"
import { setDestination, setDestinationPort, setSourcePort } from "../../../src/protocol/wire/ipEdit.ts"
import { udpPacket } from "../../../src/protocol/wire/udp.ts"
import { icmp, icmpError, isIntact, other, parsed, summary, tcp, udp } from "../../protocol/tunnel/packets.ts"
import { cryptoFrom, type Random } from "../random.ts"
import type { World } from "../World.ts"
import type { Answer, Inquiry, Journey, Packet } from "./fate.ts"
import type { Client, Gateway } from "./Organisation.ts"
import { isSentinel } from "./rules.ts"
import { answerOf, decodeAnswer, decodeQuestion, encodeAnswer, encodeQuestion } from "./zones.ts"

/** A packet and what was seen of it. */
export interface Sighting {
  readonly journey: Journey
  readonly sent: Uint8Array
  readonly arrived: Array<{ readonly at: string; readonly bytes: Uint8Array }>
  readonly returned: Array<Uint8Array>
}

/** A query and what was seen of it. */
export interface Heard {
  readonly inquiry: Inquiry
  /** Of the message, and over UDP the application's port. */
  readonly id: number
  readonly generation: number
  readonly answers: Array<Answer>
  /** The application waits no longer; over TCP it has closed its connection. */
  isAbandoned: boolean
}

const SYN = 0x02
const SYN_ACK = 0x12
const FLAGS = { data: 0x18, end: 0x11 } as const

export const bytesOf = ({ from, id, port, protocol, segment, to }: Packet): Uint8Array => {
  const ends = { from, to }
  switch (protocol) {
    case "udp":
      return udp(ends, port, `probe ${id}`, id)
    case "tcp":
      return withSourcePort(
        segment === undefined ? tcp(ends, port, SYN, id) : tcp(ends, port, FLAGS[segment], id + 1, `probe ${id}`),
        id
      )
    case "icmp":
      return icmp(ends, from.includes(":") ? 128 : 8, id << 16 | 1)
    case "other":
      return other(ends, 47)
  }
}

/** What the host at `host` answers. */
export const replyTo = ({ from, id, port, protocol, segment }: Packet, host: string): Uint8Array => {
  const ends = { from: host, to: from }
  if (protocol === "udp") return udp(ends, id, `probe ${id}`, port)
  if (protocol === "icmp") return icmp(ends, from.includes(":") ? 129 : 0, id << 16 | 1)
  return withSourcePort(
    segment === undefined ? tcp(ends, id, SYN_ACK, 1) : tcp(ends, id, FLAGS[segment], 2, `probe ${id}`),
    port
  )
}

const withSourcePort = (bytes: Uint8Array, port: number): Uint8Array => {
  setSourcePort(parsed(bytes), port)
  return bytes
}

export const redirected = (bytes: Uint8Array, to: string): Uint8Array => {
  const copy = bytes.slice()
  setDestination(parsed(copy), ipToBytes(ip(to)))
  return copy
}

export class Traffic {
  /** Whatever nobody has an explanation for. */
  readonly violations: Array<string> = []
  /** Who was asked what, by whom: `CLIENT SERVER NAME TYPE`. */
  readonly asked: Array<string> = []
  readonly #world: World
  readonly #sightings = new Map<number, Sighting>()
  readonly #heard = new Set<Heard>()
  readonly #applications = new Map<Client, TcpDnsClient<Heard>>()
  readonly #resolvers = new Map<string, { readonly server: TcpDnsServer; readonly clients: Set<string> }>()
  readonly #random: Random
  #nextQuery = 1

  constructor(world: World, random: Random) {
    this.#world = world
    this.#random = random
  }

  violation(what: string): void {
    this.violations.push(what)
  }

  // ---- packets

  send(client: Client, journey: Journey): Sighting {
    const { packet } = journey
    const sighting: Sighting = { journey, sent: bytesOf(packet), arrived: [], returned: [] }
    this.#sightings.set(packet.id, sighting)
    if (packet.past === undefined) client.machine.send(sighting.sent)
    else this.sendPast(client, packet.past, sighting.sent)
    return sighting
  }

  /** Past the rules of the client, into the tunnel to the peer. */
  sendPast({ machine }: Client, peer: string, bytes: Uint8Array): void {
    const buffer = new Uint8Array(CIPHER_HEADROOM + bytes.length + CIPHER_TAILROOM)
    buffer.set(bytes, CIPHER_HEADROOM)
    machine.inject(peer, buffer, CIPHER_HEADROOM, bytes.length)
  }

  onGatewayPacket(gateway: Gateway, bytes: Uint8Array): void {
    const view = parsed(bytes)
    if (this.#isQuery(gateway, view, bytes)) return
    if (view.kind === PacketKind.OtherIcmp || view.kind === PacketKind.Other) {
      return this.violation(`${gateway.id} lets out ${summary(bytes)}`)
    }
    const sighting = this.#sightings.get(view.sourcePort)
    if (sighting === undefined) return this.violation(`${gateway.id} lets out ${summary(bytes)}`)
    sighting.arrived.push({ at: gateway.id, bytes })
    this.#answer(sighting, bytes, view, (packet) => gateway.machine.send(packet))
  }

  onClientPacket(client: Client, bytes: Uint8Array, around: ReadonlyArray<Client>): void {
    const view = parsed(bytes)
    const source = sourceOf(view)
    if (!isIntact(bytes)) return this.violation(`a checksum is wrong: ${summary(bytes)}`)
    if (isSentinel(source) && view.sourcePort === 53) return this.#hear(client, view, bytes)
    if (view.kind === PacketKind.OtherIcmp) {
      const error = new IcmpError()
      const sighting = parseIcmpError(view, error) ? this.#sightings.get(error.failed.sourcePort) : undefined
      if (sighting?.journey.client !== client.id) return this.violation(`${client.id} gets ${summary(bytes)}`)
      sighting.returned.push(bytes)
      return
    }
    const isEchoRequest = view.kind === PacketKind.Echo && [8, 128].includes(bytes[view.transport] ?? 0)
    const own = this.#sightings.get(view.destinationPort)
    if (own?.journey.client === client.id && !isEchoRequest) {
      own.returned.push(bytes)
      return
    }
    const others = this.#sightings.get(view.sourcePort)
    const from = around.find(({ id }) => id === others?.journey.client)
    if (others === undefined || from === undefined || from === client) {
      return this.violation(`${client.id} gets ${summary(bytes)}`)
    }
    others.arrived.push({ at: client.id, bytes })
    this.#answer(others, bytes, view, (packet) => client.machine.send(packet))
  }

  /** The answer is on its way when the machine is done with this packet. */
  #answer({ journey }: Sighting, bytes: Uint8Array, view: IpPacket, send: (packet: Uint8Array) => void): void {
    const { packet } = journey
    const host = destinationOf(view)
    if (packet.ending === "silence") return
    const answer = packet.ending === "reply" ? replyTo(packet, host) : icmpError(bytes, "unreachable-net")
    this.#world.later(0, () => send(answer))
  }

  // ---- queries

  /** `generation`: of the cache, before it was asked. */
  ask(client: Client, inquiry: Inquiry, generation: number): Heard {
    const id = this.#nextQuery++
    const { name, sentinel, transport, type } = inquiry.question
    const heard: Heard = { inquiry, id, generation, answers: [], isAbandoned: false }
    this.#heard.add(heard)
    const source = ip(sentinel.includes(":") ? client.ipv6 : client.ipv4)
    const message = encodeQuestion(id, name, type)
    if (transport === "udp") {
      const ends = { source, sourcePort: 20_000 + id, destination: ip(sentinel), destinationPort: 53 }
      client.machine.send(udpPacket(ends, message))
      return heard
    }
    const application = this.#applicationOf(client)
    const query = parseDnsQuery(message)
    const server = { address: ip(sentinel), port: 53 }
    if (query === undefined || !application.send(query, heard, source, server, this.#world.now)) {
      throw new Error("the application cannot ask")
    }
    this.#run(client, application)
    return heard
  }

  /** Applications do not wait for ever, and connections do not outlive the system's. */
  forget(client: Client): void {
    this.#applications.delete(client)
  }

  #applicationOf(client: Client): TcpDnsClient<Heard> {
    const known = this.#applications.get(client)
    if (known !== undefined) return known
    const application = new TcpDnsClient<Heard>(cryptoFrom(this.#random).randomBytes)
    this.#applications.set(client, application)
    this.#world.drive({
      nextTick: () => this.#applications.get(client) === application ? application.pollTimeout() ?? Infinity : Infinity,
      tick: () => {
        if ((application.pollTimeout() ?? Infinity) > this.#world.now) return
        application.handleTimeout(this.#world.now)
        this.#run(client, application)
      }
    })
    return application
  }

  #run(client: Client, application: TcpDnsClient<Heard>): void {
    for (let packet = application.pollPacket(); packet !== undefined; packet = application.pollPacket()) {
      client.machine.send(packet)
    }
    for (let result = application.pollAnswer(); result !== undefined; result = application.pollAnswer()) {
      if (result.answer === undefined) result.asker.isAbandoned = true
      else this.#take(client, result.asker, result.answer.bytes)
    }
  }

  #hear(client: Client, view: IpPacket, bytes: Uint8Array): void {
    if (view.kind === PacketKind.Tcp) {
      const application = this.#applications.get(client)
      // The one who asked is no more: so it is when a system starts anew.
      if (application === undefined || !application.accept(view, this.#world.now)) return
      // Not before the machine is done with this packet.
      return this.#world.later(0, () => this.#run(client, application))
    }
    const message = bytes.slice(view.transport + 8)
    const heard = [...this.#heard].find(({ id }) => 20_000 + id === view.destinationPort)
    if (heard === undefined || heard.inquiry.client !== client.id) {
      return this.violation(`${client.id} gets ${summary(bytes)}`)
    }
    // D1: from the server that was asked, to where it was asked from.
    if (sourceOf(view) !== heard.inquiry.question.sentinel) this.violation("an answer from another server")
    this.#take(client, heard, message)
  }

  #take(client: Client, heard: Heard, message: Uint8Array): void {
    const { code, data, id, name, type } = decodeAnswer(message)
    const { question } = heard.inquiry
    if (id !== heard.id || name !== question.name || type !== question.type) this.violation("another question's answer")
    heard.answers.push({ code, data })
    const isRelayed = heard.inquiry.asked !== undefined && !heard.inquiry.asked.startsWith("portal")
    if (!isRelayed || heard.answers.length > 1) return
    client.model.heard(heard.inquiry, { code, data }, 30, heard.generation, this.#world.now)
  }

  /** A resolver outside. */
  resolve(client: Client, server: string, message: Uint8Array): Uint8Array {
    const question = decodeQuestion(message)
    this.asked.push(`${client.id} outside ${server} ${question.name} ${question.type}`)
    return encodeAnswer(question, answerOf(`outside ${server}`, question.name, question.type))
  }

  /** Whether the packet is for a resolver behind the gateway, or for the gateway's own. */
  #isQuery(gateway: Gateway, view: IpPacket, bytes: Uint8Array): boolean {
    const { destinationPort, kind, sourcePort } = view
    if (destinationPort !== 53 && destinationPort !== 53_535) return false
    const [server, client] = [destinationOf(view), sourceOf(view)]
    if (kind === PacketKind.Tcp) {
      this.#serve(gateway, server, view)
      return true
    }
    if (kind !== PacketKind.Udp) return false
    const answer = this.#resolveInside(gateway, client, server, bytes.slice(view.transport + 8))
    const ends = {
      source: ip(server),
      sourcePort: destinationPort,
      destination: ip(client),
      destinationPort: sourcePort
    }
    this.#world.later(0, () => gateway.machine.send(udpPacket(ends, answer)))
    return true
  }

  #resolveInside(gateway: Gateway, client: string, server: string, message: Uint8Array): Uint8Array {
    const question = decodeQuestion(message)
    this.asked.push(`${client} ${gateway.id} ${server} ${question.name} ${question.type}`)
    return encodeAnswer(question, answerOf(`${gateway.id} ${server}`, question.name, question.type))
  }

  /** Over TCP: a stack for each gateway and server. */
  #serve(gateway: Gateway, server: string, view: IpPacket): void {
    const key = `${gateway.id} ${server}`
    const clients = this.#resolvers.get(key)?.clients ?? new Set<string>()
    const stack = this.#resolvers.get(key)?.server ?? new TcpDnsServer(cryptoFrom(this.#random).randomBytes)
    if (!this.#resolvers.has(key)) {
      stack.listen([ip(server)])
      this.#resolvers.set(key, { server: stack, clients })
    }
    const { now } = this.#world
    const { destinationPort } = view
    // The stack knows port 53 only.
    const segment = view.buffer.slice(view.offset, view.offset + view.length)
    setDestinationPort(parsed(segment), 53)
    stack.handlePacket(parsed(segment), now)
    for (let query = stack.pollQuery(now); query !== undefined; query = stack.pollQuery(now)) {
      const { connection, message } = query
      stack.answer(connection, this.#resolveInside(gateway, sourceOf(view), server, message))
    }
    for (let packet = stack.pollPacket(now); packet !== undefined; packet = stack.pollPacket(now)) {
      const answer = withSourcePort(packet.slice(), destinationPort)
      this.#world.later(0, () => gateway.machine.send(answer))
    }
  }
}

const sourceOf = (view: IpPacket): string => ipFromBytes(view.buffer, sourceOffset(view), view.version)
const destinationOf = (view: IpPacket): string => ipFromBytes(view.buffer, destinationOffset(view), view.version)
