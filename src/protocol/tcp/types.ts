/**
 * DNS over TCP inside the tunnel (tunnel spec 12.11 and 12.12), without I/O. `now` is monotonic milliseconds, randomness
 * comes from a function that the constructors take. Packets that go in are looked at only during the call; those that
 * come out belong to the caller.
 *
 * `TcpDnsServer`, for applications that ask a sentinel:
 *
 *     new TcpDnsServer(randomBytes)
 *     listen(addresses)              replaces the addresses; all connections vanish without a word
 *     handlePacket(packet, now)      from the TUN device; whether it was TCP to port 53 of one of the addresses
 *     pollQuery(now)                 a `TcpDnsQuery` that came in whole; parsing it is the caller's business
 *     answer(connection, message)    in any order, at most once for a query; nothing happens if nobody listens any more
 *     abort(connection)              with a reset, when a message is no query
 *     pollPacket(now)                for the TUN device
 *     handleTimeout(now), pollTimeout()
 *
 * After any of these calls drain `pollQuery` and `pollPacket` until both have nothing: an answer makes room for further
 * queries.
 *
 * `TcpDnsClient<Asker>` is a `TunnelDnsClient<Asker>` with one call more: `reset()` fails all queries and forgets all
 * connections, whose packets `accept` swallows from then on.
 */
import type { SocketAddress } from "../wire/address.ts"

/** A connection of an application to a sentinel. */
export interface TcpDnsConnection {
  /** The sentinel. */
  readonly local: SocketAddress
  readonly remote: SocketAddress
}

/** A message as it stood behind its length; at least a header long. */
export interface TcpDnsQuery {
  readonly connection: TcpDnsConnection
  readonly message: Uint8Array
}
