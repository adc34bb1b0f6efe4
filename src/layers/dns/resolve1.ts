/** systemd-resolved's interface on the bus (org.freedesktop.resolve1(5)): what is asked of it, and what its answers say. */
import * as Effect from "effect/Effect"
import * as Stream from "effect/Stream"
import { familyOf, type IpAddress, ipFromBytes, ipToBytes } from "../../protocol/wire/address.ts"
import { type BusRequest, type BusValue, parsePropertiesChanged } from "../../protocol/wire/dbus.ts"
import type { DnsTarget } from "../../services/DnsControl.ts"
import { type BusError, BusRefused, type BusSignal, type SystemBus } from "../../services/SystemBus.ts"

const NAME = "org.freedesktop.resolve1"
const PATH = "/org/freedesktop/resolve1"
const MANAGER = `${NAME}.Manager`
const PROPERTIES = "org.freedesktop.DBus.Properties"
const AF_INET = 2
const AF_INET6 = 10
const DNS_PORT = 53
/** A system that has more is ill; what comes after them is left out. */
const MOST_SERVERS = 64

type Bus = typeof SystemBus.Service

/** Like its command, this starts the daemon where the bus can. */
const manager = (member: string, signature?: string, body?: ReadonlyArray<BusValue>): BusRequest => ({
  destination: NAME,
  path: PATH,
  interface: MANAGER,
  member,
  mayStart: true,
  ...(signature === undefined || body === undefined ? {} : { signature, body })
})

/** What points an interface's DNS at the servers. */
export const pointing = (
  index: number,
  { searchDomain, servers }: Pick<DnsTarget, "searchDomain" | "servers">
): ReadonlyArray<{ readonly request: BusRequest; readonly isNeeded: boolean }> => [
  // `.` as a routing domain asks us for every name; beside it the search domain, so that other links are not asked again
  // (host spec section 17, quirk 16).
  {
    isNeeded: true,
    request: manager("SetLinkDomains", "ia(sb)", [
      index,
      [...(searchDomain === undefined ? [] : [[searchDomain, false]]), [".", true]]
    ])
  },
  { isNeeded: false, request: manager("SetLinkDefaultRoute", "ib", [index, true]) },
  { isNeeded: true, request: manager("SetLinkLLMNR", "is", [index, "yes"]) },
  // Our servers sign nothing and need no encryption: where the system's default is to demand it, they would not be asked.
  { isNeeded: false, request: manager("SetLinkDNSSEC", "is", [index, "no"]) },
  { isNeeded: false, request: manager("SetLinkDNSOverTLS", "is", [index, "no"]) },
  // Last: until it has servers the link counts for nothing, so that no name goes astray in between.
  {
    isNeeded: true,
    request: manager("SetLinkDNS", "ia(iay)", [
      index,
      servers.map((server) => [familyOf(server) === 4 ? AF_INET : AF_INET6, ipToBytes(server)])
    ])
  }
]

export const revertLink = (index: number): BusRequest => manager("RevertLink", "i", [index])
export const flushCaches: BusRequest = manager("FlushCaches")

/** A server that systemd-resolved asks. */
export interface ResolvedServer {
  /** 0 if it is of no link. */
  readonly interfaceIndex: number
  readonly address: IpAddress
  readonly port: number
}

/**
 * What the property `DNS`, `a(iiay)`, or `DNSEx`, `a(iiayqs)`, says; `undefined` if the reply is another one. Servers of a
 * family that we do not know are left out.
 */
export const parseServers = (values: ReadonlyArray<BusValue>): ReadonlyArray<ResolvedServer> | undefined => {
  const [variant] = values
  if (typeof variant !== "object" || !("signature" in variant)) return undefined
  if (variant.signature !== "a(iiay)" && variant.signature !== "a(iiayqs)") return undefined
  const entries = variant.value as ReadonlyArray<readonly [number, number, Uint8Array, number?, string?]>
  return entries.slice(0, MOST_SERVERS).flatMap(([interfaceIndex, family, bytes, port = 0]) => {
    const length = family === AF_INET ? 4 : family === AF_INET6 ? 16 : 0
    if (length === 0 || bytes.length !== length) return []
    // 0 stands for the usual one.
    return [{
      interfaceIndex,
      address: ipFromBytes(bytes, 0, length === 4 ? 4 : 6),
      port: port === 0 ? DNS_PORT : port
    }]
  })
}

/** Not to start a daemon that is not wanted: who only reads. */
const get = (bus: Bus, property: string): Effect.Effect<ReadonlyArray<ResolvedServer>, BusError> =>
  bus.call(
    { destination: NAME, path: PATH, interface: PROPERTIES, member: "Get", signature: "ss", body: [MANAGER, property] },
    { timeoutMillis: READ_MILLIS }
  ).pipe(
    Effect.flatMap((values) => {
      const found = parseServers(values)
      return found === undefined
        ? new BusRefused({ member: "Get", error: property, reason: "the reply holds no servers" })
        : Effect.succeed(found)
    })
  )
/** Whoever waits for it, waits to begin a session or to go on after a move. */
const READ_MILLIS = 1000

/** With their ports, where this version tells them (systemd 246). */
const servers = (bus: Bus, property: "DNS" | "FallbackDNS") =>
  Effect.catchTag(get(bus, `${property}Ex`), "BusRefused", () => get(bus, property))

/** The servers of all links and of none; without our own those that it falls back to, if there are no others. */
export const readServers = (
  bus: Bus,
  isOurs: (server: ResolvedServer) => boolean
): Effect.Effect<ReadonlyArray<ResolvedServer>, BusError> =>
  Effect.flatMap(servers(bus, "DNS"), (found) => {
    const others = found.filter((server) => !isOurs(server))
    // Where the property is not told, there are none to fall back to either.
    return others.length > 0 ? Effect.succeed(others) : Effect.orElseSucceed(servers(bus, "FallbackDNS"), () => [])
  })

/** The servers of one link. */
export const readLinkServers = (bus: Bus, index: number): Effect.Effect<ReadonlyArray<IpAddress>, BusError> =>
  Effect.map(
    get(bus, "DNS"),
    (found) => found.filter(({ interfaceIndex }) => interfaceIndex === index).map(({ address }) => address)
  )

const isOfServers = (signal: BusSignal): boolean => {
  if (signal._tag === "Listening") return true
  const properties = parsePropertiesChanged(signal.message)
  return properties !== undefined && [...properties.changed, ...properties.invalidated].some((it) => /DNS/.test(it))
}

/**
 * An element when the servers may be others: its own word, which comes of our own changes too, its end or start, and each
 * time that we begin to listen.
 */
export const serverChanges = (bus: Bus): Stream.Stream<void> => {
  const told = bus.signals({ sender: NAME, path: PATH, interface: PROPERTIES, member: "PropertiesChanged" })
  const owners = bus.signals({
    sender: "org.freedesktop.DBus",
    path: "/org/freedesktop/DBus",
    interface: "org.freedesktop.DBus",
    member: "NameOwnerChanged",
    firstValue: NAME
  })
  return Stream.merge(Stream.filter(told, isOfServers), owners).pipe(
    Stream.map(() => undefined),
    // One reason to look is as good as many.
    Stream.buffer({ capacity: 1, strategy: "sliding" })
  )
}
