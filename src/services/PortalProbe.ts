import * as Context from "effect/Context"
import type * as Effect from "effect/Effect"
import type { IpAddress, SocketAddress } from "../model/Route.ts"

export interface TlsFacts {
  /** Such as `TLSv1.3`. */
  readonly protocol: string
  /** Of the server's certificate; names for a person. */
  readonly subject: string
  readonly issuer: string
  /** Unix milliseconds. */
  readonly validFrom: number
  readonly validTo: number
  /** Why it is not to be trusted, in OpenSSL's word such as `CERT_HAS_EXPIRED`; absent if it is. */
  readonly refusal?: string | undefined
}

export interface HttpFacts {
  readonly status: number
  /** What the server takes the time for, Unix milliseconds, and what our clock said at that moment. */
  readonly clock?: { readonly theirs: number; readonly ours: number } | undefined
  /** The `code` of a problem document (RFC 9457). */
  readonly code?: string | undefined
  /** Where a redirect leads to. */
  readonly location?: string | undefined
}

/** How far it went; what was not reached is absent. `failure` says what ended it, for a person. */
export interface PortalAnswer {
  readonly remote: SocketAddress
  readonly failure?: string | undefined
  /** This machine has no way to that address at all, as to IPv6 where there is none. */
  readonly hasNoRoute?: boolean | undefined
  readonly tcp?: { readonly millis: number; readonly source: IpAddress } | undefined
  readonly tls?: TlsFacts | undefined
  readonly http?: HttpFacts | undefined
}

/**
 * Talks to the portal as the client does, outside the tunnel, without signing in: the upgrade request has no token, so
 * that nothing changes and nothing secret is sent even to somebody who only claims to be the portal.
 */
export class PortalProbe extends Context.Tag("firezone-headless-client/services/PortalProbe")<PortalProbe, {
  /** TCP within 5 s, then TLS and HTTP within 2.5 s. It goes on with a certificate that is not to be trusted: what follows may explain it. */
  readonly ask: (remote: SocketAddress, url: URL) => Effect.Effect<PortalAnswer>
}>() {}
