/** Address translators between a host and the Internet (RFC 4787 section 4 and 5). IPv4 only: IPv6 has none. */
import { type IpAddress, SocketAddress } from "../../src/protocol/wire/address.ts"

/**
 * `none`: a public address. `home`: one port for all destinations, open to those that were sent to. `symmetric`: another
 * port for every destination. `relay-only`: as `home`, but nothing passes save to and from port 3478.
 */
export const NAT_KINDS = ["none", "home", "symmetric", "relay-only"] as const
export type NatKind = (typeof NAT_KINDS)[number]

const RELAY_PORT = 3478

interface Mapping {
  readonly inside: SocketAddress
  readonly outside: SocketAddress
  readonly allowed: Set<string>
}

export class Nat {
  readonly kind: NatKind
  readonly address: IpAddress
  readonly #mappings = new Map<string, Mapping>()
  #nextPort: number

  constructor(kind: NatKind, address: IpAddress, firstPort: number) {
    this.kind = kind
    this.address = address
    this.#nextPort = firstPort
  }

  /** What the source becomes on the way out; `undefined` if the datagram does not pass. */
  out(source: SocketAddress, destination: SocketAddress): SocketAddress | undefined {
    if (this.kind === "none") return source
    if (this.kind === "relay-only" && destination.port !== RELAY_PORT) return undefined
    const key = this.kind === "symmetric" ? `${source.text} ${destination.text}` : source.text
    let mapping = this.#mappings.get(key)
    if (mapping === undefined) {
      mapping = { inside: source, outside: new SocketAddress(this.address, this.#nextPort++), allowed: new Set() }
      this.#mappings.set(key, mapping)
    }
    mapping.allowed.add(destination.text)
    return mapping.outside
  }

  /** Whom a datagram from outside is for; `undefined` if it does not pass. */
  in(source: SocketAddress, destination: SocketAddress): SocketAddress | undefined {
    if (this.kind === "none") return destination
    for (const { allowed, inside, outside } of this.#mappings.values()) {
      if (outside.text === destination.text) return allowed.has(source.text) ? inside : undefined
    }
    return undefined
  }
}
