/** Address translators between hosts and the Internet (RFC 4787 sections 4 to 6). IPv4 only: IPv6 has none. */
import { type IpAddress, SocketAddress } from "../../src/protocol/wire/address.ts"

/**
 * `none`: a public address. All others but `symmetric` have one port for all destinations, open to everybody
 * (`full-cone`), to the addresses (`address-dependent`) or the ports (`home`) that were sent to. `symmetric`: another port
 * for every destination. `relay-only`: as `home`, but nothing passes save to and from port 3478.
 */
export const NAT_KINDS = ["none", "full-cone", "address-dependent", "home", "symmetric", "relay-only"] as const
export type NatKind = (typeof NAT_KINDS)[number]

const RELAY_PORT = 3478

/** Whether datagrams get through without a relay between hosts behind two such translators. */
export const isDirect = (one: NatKind, other: NatKind): boolean => {
  const kinds = [one, other]
  if (kinds.includes("relay-only")) return false
  if (kinds.includes("none") || kinds.includes("full-cone")) return true
  return !kinds.includes("symmetric") || kinds.includes("address-dependent")
}

interface Mapping {
  readonly inside: SocketAddress
  readonly outside: SocketAddress
  readonly allowed: Set<string>
  usedAt: number
}

export interface NatOptions {
  /** Whether those inside reach each other by their outside addresses. */
  readonly hairpins?: boolean
  /** How long a mapping lasts without a datagram from inside, milliseconds. */
  readonly timeout?: number
}

export class Nat {
  readonly kind: NatKind
  readonly address: IpAddress
  readonly hairpins: boolean
  readonly #timeout: number
  readonly #byInside = new Map<string, Mapping>()
  readonly #byOutside = new Map<string, Mapping>()
  #nextPort: number

  constructor(kind: NatKind, address: IpAddress, firstPort: number, options: NatOptions = {}) {
    this.kind = kind
    this.address = address
    this.hairpins = options.hairpins ?? false
    this.#timeout = options.timeout ?? Number.POSITIVE_INFINITY
    this.#nextPort = firstPort
  }

  /** Forgets every mapping, as when it is restarted; ports are not used again. */
  clear(): void {
    this.#byInside.clear()
    this.#byOutside.clear()
  }

  /** What the source becomes on the way out; `undefined` if the datagram does not pass. */
  out(source: SocketAddress, destination: SocketAddress, now: number): SocketAddress | undefined {
    if (this.kind === "none") return source
    if (this.kind === "relay-only" && destination.port !== RELAY_PORT) return undefined
    const key = this.kind === "symmetric" ? `${source.text} ${destination.text}` : source.text
    let mapping = this.#byInside.get(key)
    if (mapping === undefined || this.#isOver(mapping, now)) {
      const outside = new SocketAddress(this.address, this.#nextPort++)
      mapping = { inside: source, outside, allowed: new Set(), usedAt: now }
      this.#byInside.set(key, mapping)
      this.#byOutside.set(outside.text, mapping)
    }
    mapping.usedAt = now
    mapping.allowed.add(this.kind === "address-dependent" ? destination.address : destination.text)
    return mapping.outside
  }

  /** Whom a datagram from outside is for; `undefined` if it does not pass. */
  in(source: SocketAddress, destination: SocketAddress, now: number): SocketAddress | undefined {
    if (this.kind === "none") return destination
    const mapping = this.#byOutside.get(destination.text)
    if (mapping === undefined || this.#isOver(mapping, now)) return undefined
    const { allowed, inside } = mapping
    return this.kind === "full-cone" || allowed.has(source.text) || allowed.has(source.address) ? inside : undefined
  }

  #isOver({ usedAt }: Mapping, now: number): boolean {
    return now - usedAt >= this.#timeout
  }
}
