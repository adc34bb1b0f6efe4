/** A network behind one translator, with any number of machines. */
import { ip, type IpAddress, SocketAddress } from "../../src/protocol/wire/address.ts"
import { Nat, type NatKind, type NatOptions } from "./nat.ts"
import type { Datagram, Station, World } from "./World.ts"

const PORT = 52_625
/** Milliseconds. */
const LAN_DELAY = 1

export interface LanOptions extends NatOptions {
  readonly nat: NatKind
  /** Its machines also have addresses of the other family, which nothing translates. */
  readonly ipv6: boolean
}

/** What a network needs of a machine in it. */
export interface Member {
  receive(socket: SocketAddress, datagram: Datagram): void
}

export class Lan implements Station {
  readonly nat: Nat
  readonly #world: World
  readonly #number: number
  readonly #options: LanOptions
  readonly #members = new Map<IpAddress, { readonly member: Member; readonly socket: SocketAddress }>()
  #joined = 0

  constructor(world: World, number: number, options: LanOptions) {
    this.#world = world
    this.#number = number
    this.#options = options
    const firstPort = 20_000 + Math.floor(world.random() * 20_000)
    this.nat = new Nat(options.nat, ip(`198.51.100.${number}`), firstPort, options)
    world.attach(this)
  }

  /** Addresses for a machine that comes, which were nobody's before; IPv4 first. */
  join(member: Member): ReadonlyArray<SocketAddress> {
    const host = ++this.#joined
    const isPublic = this.nat.kind === "none"
    const addresses = [ip(isPublic ? `192.0.${this.#number}.${host}` : `10.${this.#number}.0.${host}`)]
    if (this.#options.ipv6) addresses.push(ip(`2001:db8:${this.#number.toString(16)}::${host.toString(16)}`))
    const sockets = addresses.map((address) => new SocketAddress(address, PORT))
    for (const socket of sockets) this.#members.set(socket.address, { member, socket })
    return sockets
  }

  leave(sockets: ReadonlyArray<SocketAddress>): void {
    for (const { address } of sockets) this.#members.delete(address)
  }

  /** A datagram of a member's. */
  send(datagram: Datagram): void {
    const { destination, source } = datagram
    const { now } = this.#world
    if (this.#members.has(destination.address)) {
      return this.#world.later(LAN_DELAY, () => this.#deliver(destination, datagram))
    }
    if (destination.address.startsWith("10.")) return // a private network, and not this one
    const outside = source.family === 6 ? source : this.nat.out(source, destination, now)
    if (outside === undefined) return
    const translated = { ...datagram, source: outside }
    if (destination.address !== this.nat.address) return this.#world.send(translated)
    if (this.nat.hairpins) this.#world.later(LAN_DELAY, () => this.receive(translated))
  }

  owns(address: IpAddress): boolean {
    return address === this.nat.address || (this.#members.has(address) && !address.startsWith("10."))
  }

  receive(datagram: Datagram): void {
    const { destination, source } = datagram
    const inside = destination.family === 6 ? destination : this.nat.in(source, destination, this.#world.now)
    if (inside !== undefined) this.#deliver(inside, datagram)
  }

  #deliver(to: SocketAddress, datagram: Datagram): void {
    const found = this.#members.get(to.address)
    if (found?.socket.text === to.text) found.member.receive(found.socket, datagram)
  }
}
