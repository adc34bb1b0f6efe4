import type { Family } from "../wire/address.ts"
import { AddressMap } from "../wire/AddressMap.ts"
import { IcmpError, isIcmpError, parseIcmpError } from "../wire/icmp.ts"
import { destinationOffset, type IpPacket, PacketKind } from "../wire/ip.ts"
import {
  setDestination,
  setDestinationPort,
  setHopLimit,
  setQuotedDestination,
  setQuotedSourcePort,
  setSource,
  setSourcePort
} from "../wire/ipEdit.ts"
import { type IpWords, makeWords, readWords } from "../wire/ipWords.ts"

const TCP_TTL = 7_440_000
const OTHER_TTL = 120_000
const UNCONFIRMED_TTL = 60_000
const FINISHED_TTL = 5000
/** Of one client. */
const MAX_SESSIONS = 65_536
/** Sessions of one client that have ended, and whose late packets are still known as such. */
const MAX_EXPIRED = 65_536
const LAST_VALUE = 0xffff
const ICMP_ERROR_HOP_LIMIT = 20

const FLAGS_OFFSET = 13
const FIN = 0x01
const SYN = 0x02
const RST = 0x04
const ACK = 0x10

/** What became of a packet from behind the gateway. */
export const Inward = {
  /** It belongs to a session, and is from the proxy address now. */
  Translated: 0,
  /** It belongs to no session, so that it has nothing to do with names. */
  Foreign: 1,
  /** It belongs to a session that has ended. */
  Expired: 2
} as const
export type Inward = (typeof Inward)[keyof typeof Inward]

interface Session {
  readonly version: Family
  /** Protocol and source port (or echo identifier) that the client uses, as one number. */
  readonly inside: number
  /** Those that the host behind the gateway sees. */
  readonly outside: number
  readonly proxy: NatAddress
  readonly real: NatAddress
  lastPacket: number
  lastOutgoing: number
  /** Whether the host has ever answered. */
  isConfirmed: boolean
  isFinishedOut: boolean
  isFinishedIn: boolean
  isReset: boolean
  isExpired: boolean
}

interface NatAddress {
  /** Network byte order. */
  readonly bytes: Uint8Array
  readonly words: IpWords
}

/**
 * Translates one client's packets to and from the hosts behind proxy addresses (tunnel spec 14.5). Inside is what the
 * client sees, outside what the host sees. A session is a protocol, a source port (or echo identifier) and an address on
 * each side; the destination port is no part of it. It stays with its host, whatever its proxy address comes to stand
 * for. Packets are changed in place.
 */
export class NatTable {
  /** By proxy address, then by `inside`. */
  readonly #inside = new AddressMap<Map<number, Session>>()
  /** By the host's address, then by `outside`. Holds sessions that have expired, too, until others need their place. */
  readonly #outside = new AddressMap<Map<number, Session>>()
  /** Oldest first. */
  readonly #expired = new Set<Session>()
  readonly #error = new IcmpError()
  #size = 0

  /** How many sessions there are that have not expired. */
  get size(): number {
    return this.#size
  }

  /**
   * Sends a client's packet from a proxy address on to its session's host, or begins a session with `real`, of 4 or 16
   * bytes, which are kept. False, and nothing is changed, if there is no port left or the packet has none.
   */
  translateOut(packet: IpPacket, real: Uint8Array, now: number): boolean {
    const { destination, kind, sourcePort, version } = packet
    if (!hasPort(kind)) return false
    const known = this.#inside.get(version, destination)?.get(keyOf(kind, sourcePort))
    if (known !== undefined && isOver(known) && isOpening(packet)) this.#expire(known)
    const session = known === undefined || known.isExpired ? this.#begin(packet, real) : known
    if (session === undefined) return false
    session.lastPacket = now
    session.lastOutgoing = now
    if (kind === PacketKind.Tcp) {
      const flags = flagsOf(packet)
      if ((flags & FIN) !== 0) session.isFinishedOut = true
      if ((flags & RST) !== 0) session.isReset = true
    }
    setDestination(packet, session.real.bytes)
    setSourcePort(packet, session.outside & LAST_VALUE)
    return true
  }

  /** Makes what a host sends, or an ICMP error about what was sent to it, what the client expects. */
  translateIn(packet: IpPacket, now: number): Inward {
    if (isIcmpError(packet)) return this.#translateError(packet)
    const { destinationPort, kind, source, version } = packet
    if (!hasPort(kind)) return Inward.Foreign
    const session = this.#outside.get(version, source)?.get(keyOf(kind, destinationPort))
    if (session === undefined) return Inward.Foreign
    if (session.isExpired) return Inward.Expired
    session.lastPacket = now
    session.isConfirmed = true
    if (kind === PacketKind.Tcp) {
      const flags = flagsOf(packet)
      if ((flags & FIN) !== 0) session.isFinishedIn = true
      if ((flags & RST) !== 0) session.isReset = true
    }
    setSource(packet, session.proxy.bytes)
    setDestinationPort(packet, session.inside & LAST_VALUE)
    return Inward.Translated
  }

  /** Ends the sessions whose time has come; to be called every second while there are any. */
  handleTimeout(now: number): void {
    for (const sessions of this.#inside.values()) {
      for (const session of sessions.values()) if (endOf(session) <= now) this.#expire(session)
    }
  }

  /** Forgets everything, those that have expired too. */
  clear(): void {
    this.#inside.clear()
    this.#outside.clear()
    this.#expired.clear()
    this.#size = 0
  }

  /** The error neither confirms the session nor keeps it: who sent it need not be the host. */
  #translateError(packet: IpPacket): Inward {
    const error = this.#error
    if (!parseIcmpError(packet, error)) return Inward.Foreign
    const { failed } = error
    const session = this.#outside.get(failed.version, failed.destination)?.get(keyOf(failed.kind, failed.sourcePort))
    if (session === undefined) return Inward.Foreign
    if (session.isExpired) return Inward.Expired
    setQuotedDestination(packet, failed, session.proxy.bytes)
    setQuotedSourcePort(packet, failed, session.inside & LAST_VALUE)
    setSource(packet, session.proxy.bytes)
    setHopLimit(packet, ICMP_ERROR_HOP_LIMIT)
    return Inward.Translated
  }

  #begin(packet: IpPacket, realBytes: Uint8Array): Session | undefined {
    const { destination, kind, sourcePort, version } = packet
    if (this.#size >= MAX_SESSIONS) return undefined
    const real = natAddress(realBytes, version)
    const ofHost = this.#outside.get(version, real.words) ?? new Map<number, Session>()
    const outside = freeKey(ofHost, kind, sourcePort)
    if (outside === undefined) return undefined
    const at = destinationOffset(packet)
    const session: Session = {
      version,
      inside: keyOf(kind, sourcePort),
      outside,
      proxy: natAddress(packet.buffer.slice(at, at + realBytes.length), version),
      real,
      lastPacket: 0,
      lastOutgoing: 0,
      isConfirmed: false,
      isFinishedOut: false,
      isFinishedIn: false,
      isReset: false,
      isExpired: false
    }
    const predecessor = ofHost.get(outside)
    if (predecessor !== undefined) this.#expired.delete(predecessor)
    const ofProxy = this.#inside.get(version, destination) ?? new Map<number, Session>()
    this.#outside.set(version, real.words, ofHost.set(outside, session))
    this.#inside.set(version, destination, ofProxy.set(session.inside, session))
    this.#size += 1
    return session
  }

  #expire(session: Session): void {
    session.isExpired = true
    removeFrom(this.#inside, session.version, session.proxy.words, session.inside)
    this.#size -= 1
    this.#expired.add(session)
    if (this.#expired.size <= MAX_EXPIRED) return
    for (const oldest of this.#expired) {
      this.#expired.delete(oldest)
      removeFrom(this.#outside, oldest.version, oldest.real.words, oldest.outside)
      return
    }
  }
}

const natAddress = (bytes: Uint8Array, version: Family): NatAddress => {
  const words = makeWords()
  readWords(words, bytes, 0, version)
  return { bytes, words }
}

const hasPort = (kind: PacketKind): boolean =>
  kind === PacketKind.Tcp || kind === PacketKind.Udp || kind === PacketKind.Echo

const keyOf = (kind: PacketKind, value: number): number => kind << 16 | value

/** The value that the client uses if it can be had, else the next one, from 1 again after the last. */
const freeKey = (ofHost: ReadonlyMap<number, Session>, kind: PacketKind, wanted: number): number | undefined => {
  for (let i = 0; i <= LAST_VALUE; i++) {
    const value = wanted + i <= LAST_VALUE ? wanted + i : wanted + i - LAST_VALUE
    const taken = ofHost.get(keyOf(kind, value))
    if (taken === undefined || taken.isExpired) return keyOf(kind, value)
  }
  return undefined
}

const removeFrom = (table: AddressMap<Map<number, Session>>, version: Family, words: IpWords, key: number): void => {
  const sessions = table.get(version, words)
  sessions?.delete(key)
  if (sessions?.size === 0) table.delete(version, words)
}

const flagsOf = (packet: IpPacket): number => packet.buffer[packet.transport + FLAGS_OFFSET] as number

const isOpening = (packet: IpPacket): boolean =>
  packet.kind === PacketKind.Tcp && (flagsOf(packet) & (SYN | ACK)) === SYN

/** Whether a new connection from the same port is not this one any more. */
const isOver = (session: Session): boolean => session.isReset || (session.isFinishedIn && session.isFinishedOut)

const endOf = (session: Session): number => {
  const { isConfirmed, inside, lastOutgoing, lastPacket } = session
  if (session.isReset) return lastPacket
  const isTcp = inside >>> 16 === PacketKind.Tcp
  const idle = lastPacket + (isOver(session) ? FINISHED_TTL : isTcp ? TCP_TTL : OTHER_TTL)
  return isConfirmed ? idle : Math.min(idle, lastOutgoing + UNCONFIRMED_TTL)
}
