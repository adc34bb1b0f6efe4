import type { IpAddress } from "../wire/address.ts"
import type { DnsMessage } from "../wire/dns.ts"
import type { IpPacket } from "../wire/ip.ts"
import type { DnsQuery } from "./DnsQuery.ts"

/** A resolver that is reached through the tunnel. */
export interface TunnelServer {
  readonly address: IpAddress
  readonly port: number
}

export interface TunnelAnswer<Asker> {
  readonly query: DnsQuery
  readonly asker: Asker
  /** `undefined` if there was none: time ran out, or the network said that there will be none. */
  readonly answer: { readonly bytes: Uint8Array; readonly message: DnsMessage } | undefined
}

/**
 * Asks resolvers behind gateways, over one transport (tunnel spec 12.11). After every call drain `pollPacket` and
 * `pollAnswer`, then wait for `pollTimeout`. Every query that `send` took is answered once, after 10 s at the latest.
 */
export interface TunnelDnsClient<Asker> {
  /** From our address of the server's family. Returns false if it cannot be sent: too many are under way, or too long. */
  send(query: DnsQuery, asker: Asker, source: IpAddress, server: TunnelServer, now: number): boolean
  /** Whether a packet that a gateway sent to our address was for this client: then nobody else may have it. */
  accept(packet: IpPacket, now: number): boolean
  /** Whether a packet that policy refused on its way out was of this client, which then knows at once. */
  refused(packet: IpPacket): boolean
  /** A packet for the way through the tunnel, as if an application had sent it. */
  pollPacket(): Uint8Array | undefined
  pollAnswer(): TunnelAnswer<Asker> | undefined
  handleTimeout(now: number): void
  pollTimeout(): number | undefined
}
