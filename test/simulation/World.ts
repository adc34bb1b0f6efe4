/**
 * A small Internet in virtual time: hosts behind address translators, relays, links with delay, loss, duplication and
 * reordering, all from one seed. Nothing here waits; `run` jumps from event to event.
 */
import { relayCredentials } from "../../src/lab/relay/credentials.ts"
import { RelayServer } from "../../src/lab/relay/RelayServer.ts"
import type { Relay } from "../../src/protocol/node/types.ts"
import { ip, type IpAddress, SocketAddress } from "../../src/protocol/wire/address.ts"
import { Host, type HostOptions } from "./Host.ts"
import { cryptoFrom, type Random, seeded } from "./random.ts"
import { Schedule } from "./Schedule.ts"

const UNIX_EPOCH_MILLIS = 1.7e12
const RELAY_PORT = 3478
const STAMP_SECRET = "ab".repeat(32)
/** One way, milliseconds. */
const LINK_DELAY = 10
const SIGNALLING_DELAY = 50
/** Ticks without time passing: more means that a machine asks for the same deadline for ever. */
const MAX_STANDSTILL = 2000

export interface Weather {
  /** Probabilities. */
  readonly loss: number
  readonly duplication: number
  /** Milliseconds added at random, which reorders. */
  readonly jitter: number
}
export const FAIR: Weather = { loss: 0, duplication: 0, jitter: 0 }

export interface Datagram {
  readonly source: SocketAddress
  readonly destination: SocketAddress
  readonly ecn: number
  readonly bytes: Uint8Array
}

/** Whoever has addresses on the Internet. */
export interface Station {
  owns(address: IpAddress): boolean
  receive(datagram: Datagram): void
}

/** Whoever has something to do at times. */
export interface Timed {
  /** Infinite if there is nothing to do. */
  nextTick(): number
  /** Called often; to do nothing before its time. */
  tick(): void
}

interface RelaySite {
  readonly server: RelayServer
  readonly id: string
  readonly ipv4: IpAddress
  readonly ipv6: IpAddress
  isDown: boolean
}

export class World {
  now = 0
  weather: Weather = FAIR
  /** Datagrams that anybody has sent. */
  emitted = 0
  readonly random: Random
  readonly unixEpochMillis = UNIX_EPOCH_MILLIS
  readonly hosts: Array<Host> = []
  /** Whether nothing gets from one address to the other at present. */
  isCut: (source: IpAddress, destination: IpAddress) => boolean = () => false
  /** Sees every datagram that anybody sends. */
  onDatagram: (datagram: Datagram) => void = () => undefined
  readonly #stations: Array<Station> = []
  readonly #timed: Array<Timed> = []
  readonly #relays: Array<RelaySite> = []
  readonly #tasks = new Schedule()

  constructor(seed = 1) {
    this.random = seeded(seed)
  }

  host(options: HostOptions): Host {
    const host = new Host(this, this.hosts.length + 1, options)
    this.hosts.push(host)
    this.attach(host)
    this.drive(host)
    return host
  }

  attach(station: Station): void {
    this.#stations.push(station)
  }

  drive(timed: Timed): void {
    this.#timed.push(timed)
  }

  /** Puts up a relay, with an address of each family; returns its id. */
  relay(): string {
    const n = this.#relays.length + 1
    const [ipv4, ipv6] = [ip(`203.0.113.${n}`), ip(`2001:db8:aaaa::${n}`)]
    const server = new RelayServer({
      crypto: cryptoFrom(this.random),
      stampSecret: STAMP_SECRET,
      ipv4,
      ipv6,
      unixEpochMillis: UNIX_EPOCH_MILLIS
    })
    const id = `relay-${n}`
    this.#relays.push({ server, id, ipv4, ipv6, isDown: false })
    return id
  }

  /** As the portal describes it to the owner of `deviceKey`. */
  describeRelay(id: string, deviceKey: string): Relay {
    const { ipv4, ipv6 } = this.#site(id)
    return {
      id,
      v4: new SocketAddress(ipv4, RELAY_PORT),
      v6: new SocketAddress(ipv6, RELAY_PORT),
      ...relayCredentials({ expiresAt: 4_000_000_000, stampSecret: STAMP_SECRET, deviceKey })
    }
  }

  relayedPackets(id: string): number {
    return this.#site(id).server.counters.relayedPackets
  }

  /** From now on it neither hears nor says anything. */
  kill(id: string): void {
    this.#site(id).isDown = true
  }

  isDown(id: string): boolean {
    return this.#site(id).isDown
  }

  /** It is there again, and has forgotten everything. */
  revive(id: string): void {
    const site = this.#site(id)
    site.isDown = false
    site.server.restart(STAMP_SECRET)
    this.#drain(site)
  }

  #site(id: string): RelaySite {
    const site = this.#relays.find((relay) => relay.id === id)
    if (site === undefined) throw new Error(`no relay ${id}`)
    return site
  }

  later(delay: number, run: () => void): void {
    this.#tasks.add(this.now + delay, run)
  }

  /** What the portal carries; not subject to the weather. */
  signal(run: () => void): void {
    this.later(SIGNALLING_DELAY, run)
  }

  /** A datagram with addresses as they are on the Internet. */
  send(datagram: Datagram): void {
    this.emitted += 1
    this.onDatagram(datagram)
    const { duplication, jitter, loss } = this.weather
    if (this.isCut(datagram.source.address, datagram.destination.address)) return
    const copies = this.random() < duplication ? 2 : 1
    for (let copy = 0; copy < copies; copy++) {
      if (this.random() < loss) continue
      this.later(LINK_DELAY + this.random() * jitter, () => this.#deliver(datagram))
    }
  }

  #deliver(datagram: Datagram): void {
    const { bytes, destination, source } = datagram
    const { address, port } = destination
    const relay = this.#relays.find(({ ipv4, ipv6 }) => ipv4 === address || ipv6 === address)
    if (relay === undefined) {
      this.#stations.find((station) => station.owns(address))?.receive(datagram)
    } else if (!relay.isDown) {
      if (port === RELAY_PORT) relay.server.handleClient(source, bytes, this.now)
      else relay.server.handlePeer(port, source, bytes, this.now)
      this.#drain(relay)
    }
  }

  #drain({ ipv4, ipv6, server }: RelaySite): void {
    for (let output = server.pollOutput(); output !== undefined; output = server.pollOutput()) {
      if (output._tag !== "ToClient" && output._tag !== "ToPeer") continue
      const [destination, port] = output._tag === "ToClient" ? [output.client, RELAY_PORT] : [output.peer, output.port]
      const source = new SocketAddress(destination.family === 4 ? ipv4 : ipv6, port)
      this.send({ source, destination, ecn: 0, bytes: output.bytes })
    }
  }

  /** Lets `millis` pass. */
  run(millis: number): void {
    this.runUntil(() => false, millis)
  }

  /** Lets time pass until `isReached` says so, `limit` milliseconds at most. Returns whether it was. */
  runUntil(isReached: () => boolean, limit: number): boolean {
    const end = this.now + limit
    let standstill = 0
    while (!isReached()) {
      const next = this.#next()
      if (next > end) {
        this.now = end
        return isReached()
      }
      standstill = next > this.now ? 0 : standstill + 1
      if (standstill > MAX_STANDSTILL) throw new Error(`time stands still at ${this.now}`)
      this.now = Math.max(this.now, next)
      for (let run = this.#tasks.take(this.now); run !== undefined; run = this.#tasks.take(this.now)) run()
      for (const timed of this.#timed) timed.tick()
      for (const relay of this.#relays) {
        if ((relay.server.pollTimeout() ?? Number.POSITIVE_INFINITY) <= this.now) relay.server.handleTimeout(this.now)
        this.#drain(relay)
      }
    }
    return true
  }

  #next(): number {
    let next = this.#tasks.next
    for (const timed of this.#timed) next = Math.min(next, timed.nextTick())
    for (const { server } of this.#relays) next = Math.min(next, server.pollTimeout() ?? Number.POSITIVE_INFINITY)
    return next
  }
}
