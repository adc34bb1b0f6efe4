import * as Context from "effect/Context"
import * as Data from "effect/Data"
import type * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import type { TunnelSession } from "./Tunnel.ts"

/** Where metrics are shown: an address of this machine, or a Unix socket. */
export type MetricsAddress =
  | { readonly _tag: "Tcp"; readonly host: string; readonly port: number }
  | { readonly _tag: "Unix"; readonly path: string }

/** `127.0.0.1:9090`, `[::1]:9090` or `unix:/path`. */
export const metricsAddressText = (address: MetricsAddress): string =>
  address._tag === "Unix"
    ? `unix:${address.path}`
    : `${address.host.includes(":") ? `[${address.host}]` : address.host}:${address.port}`

/** The tunnel does not need them: it is told in the log, and tried again. */
export class MetricsUnavailable extends Data.TaggedError("MetricsUnavailable")<{
  readonly address: string
  readonly why: string
}> {
  override get message(): string {
    return `cannot show metrics on ${this.address}: ${this.why}; the tunnel works without, and it is tried again`
  }
}

/**
 * Shows the figures of a session to whoever watches over this machine: as Prometheus text where the settings say, and sent by
 * OTLP if they name a receiver. However many ask, and however badly, the tunnel goes on.
 */
export class MetricsExport extends Context.Tag("firezone-headless-client/services/MetricsExport")<MetricsExport, {
  /** Returns at once; the scope ends it. Without an address and a receiver it does nothing. */
  readonly run: (session: Pick<TunnelSession, "status">) => Effect.Effect<void, never, Scope.Scope>
}>() {}
